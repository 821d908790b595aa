"""Claims about counterfactual pairs of the driving world."""

from __future__ import annotations

import torch

from maskworld.evaluation.stylization import style_of
from maskworld.metrics.motion import horizontal_shift
from maskworld.preparation.counterfactuals import collect_pairs, collect_restyled
from maskworld.worlds.drive import STYLES

PLAN = {"num_frames": 3, "size": (48, 80), "fps": 5.0}


def test_sides_of_a_pair_share_the_first_frame_and_turn_apart() -> None:
    left, right = collect_pairs([1, 2], 4, **PLAN)
    assert len(left) == len(right) == 4
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a.frames[:, 0], b.frames[:, 0])
        assert torch.equal(a.actions[:, 0], b.actions[:, 0])
        assert torch.equal(a.actions[1:, 1], -b.actions[1:, 1])
    first = torch.stack([clip.frames[0, 0] for clip in left])
    moved = [
        horizontal_shift(first, torch.stack([clip.frames[0, 2] for clip in side]))
        for side in (left, right)
    ]
    assert (moved[0] > moved[1]).all()


def test_restyled_drives_share_road_and_objects_but_not_style() -> None:
    first, second = collect_restyled([3], 3, **PLAN)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.actions, b.actions)
        assert not torch.equal(a.frames, b.frames)
        assert style_of(a.caption, STYLES) != style_of(b.caption, STYLES)


def test_pairs_depend_on_the_seeds_alone() -> None:
    one, _ = collect_pairs([1], 2, **PLAN, seed=5)
    two, _ = collect_pairs([1], 2, **PLAN, seed=5)
    other, _ = collect_pairs([1], 2, **PLAN, seed=6)
    assert all(torch.equal(a.frames, b.frames) for a, b in zip(one, two, strict=True))
    assert not all(torch.equal(a.frames, b.frames) for a, b in zip(one, other, strict=True))
