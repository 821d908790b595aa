"""Claims about collecting clips of the driving world."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maskworld.preparation.collect import collect_clips, record_world, sample_clip

SMALL = {"num_frames": 3, "size": (32, 48), "num_steps": 12}


def test_clips_do_not_depend_on_the_number_of_workers() -> None:
    one = collect_clips([0, 2], 2, **SMALL, num_workers=1)
    two = collect_clips([0, 2], 2, **SMALL, num_workers=2)
    assert [clip.caption for clip in one] == [clip.caption for clip in two]
    for a, b in zip(one, two):
        assert torch.equal(a.frames, b.frames)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.actions, b.actions)


def test_clips_carry_their_world_and_half_are_ghosts() -> None:
    clips = collect_clips([7], 4, **SMALL)
    assert {clip.episode for clip in clips} == {7}
    assert clips[0].frames.shape == (1, 3, 3, 32, 48)
    assert clips[0].labels.shape == (1, 3, 32, 48)
    assert clips[0].actions.shape == (3, 2)


def test_a_scene_too_short_for_the_clip_says_how_long_it_must_be() -> None:
    scene = record_world(0, num_steps=6)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="Expected at least 19 steps for 9 frames at 5 Hz"):
        sample_clip(scene, rng, num_frames=9, size=(32, 48), style="summer", kind="ghost")
