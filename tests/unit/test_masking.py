"""Claims about maskworld.masking."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from maskworld.masking import (
    PATTERNS,
    MaskMixture,
    box_mask,
    cosine_mask_ratio,
    ends_mask,
    first_frame_mask,
    frame_by_frame_mask,
    full_mask,
    last_frame_mask,
    num_hidden,
    prefix_mask,
    random_positions,
    sample_ratio,
    tube_mask,
)

NUM_DRAWS = 20_000
SHAPE = (64, 6, 5, 7)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cosine_cdf(r: Tensor) -> Tensor:
    return 2 / math.pi * torch.asin(r.double())


def ks_distance(draws: Tensor) -> float:
    """Kolmogorov-Smirnov distance between draws and the law F(r) = 2/pi asin(r)."""
    values = cosine_cdf(draws.sort().values.clamp(0, 1))
    n = len(values)
    steps = torch.arange(1, n + 1, dtype=torch.float64) / n
    return float(torch.maximum(steps - values, values - (steps - 1 / n)).max())


CRITICAL = 1.95 / math.sqrt(NUM_DRAWS)
"""KS distance exceeded once in a thousand samples."""


def test_mask_ratio_follows_the_law_in_every_quantile() -> None:
    ratio = sample_ratio(NUM_DRAWS, seeded())
    assert ks_distance(ratio) < CRITICAL
    assert float(ratio.median()) == pytest.approx(0.7071, abs=0.01)
    assert float(ratio.mean()) == pytest.approx(2 / math.pi, abs=0.01)
    assert float(ratio.square().mean()) == pytest.approx(0.5, abs=0.01)
    for r in (0.1, 0.3, 0.5, 0.7071, 0.9, 0.95, 0.99):
        share = float((ratio <= r).double().mean())
        assert share == pytest.approx(float(cosine_cdf(torch.tensor(r))), abs=0.013), r


def test_the_law_is_told_from_the_arccos_confusion_of_the_same_mean() -> None:
    u = torch.rand(NUM_DRAWS, generator=seeded())
    confused = 2 / math.pi * torch.arccos(u)
    assert float(confused.mean()) == pytest.approx(2 / math.pi, abs=0.01)
    assert ks_distance(confused) > 5 * CRITICAL
    assert ks_distance(u) > 5 * CRITICAL


def test_mask_ratio_at_known_points() -> None:
    ratio = cosine_mask_ratio(torch.tensor([0.0, 0.5, 2 / 3, 1.0], dtype=torch.float64))
    expected = torch.tensor([1.0, math.sqrt(0.5), 0.5, 0.0], dtype=torch.float64)
    torch.testing.assert_close(ratio, expected)


def test_num_hidden_rounds_and_hides_at_least_one_and_at_most_all() -> None:
    ratio = torch.tensor([0.0, 0.004, 0.5, 0.506, 0.999, 1.0])
    assert num_hidden(ratio, 100).tolist() == [1, 1, 50, 51, 100, 100]
    assert num_hidden(torch.tensor([0.0, 1.0]), 1).tolist() == [1, 1]


def test_random_positions_have_exact_counts_and_are_uniform() -> None:
    counts = torch.arange(1, 36).repeat(200)
    chosen = random_positions(counts, 35, seeded())
    assert torch.equal(chosen.sum(dim=1), counts)
    share = chosen.double().mean(dim=0)
    assert share.sub(18 / 35).abs().max() < 0.03


def test_tube_is_the_same_in_every_frame_with_the_counts_of_the_law() -> None:
    hidden = tube_mask((NUM_DRAWS // 4, 3, 6, 10), seeded(1))
    assert torch.equal(hidden, hidden[:, :1].expand_as(hidden))
    counts = hidden[:, 0].flatten(1).sum(dim=1)
    assert counts.min() >= 1
    assert counts.max() == 60
    # Rounding moves F by half a cell at most.
    for k in (6, 20, 42, 54, 58):
        expected = float(cosine_cdf(torch.tensor((k + 0.5) / 60)))
        assert float((counts <= k).double().mean()) == pytest.approx(expected, abs=0.03)
    assert len(torch.unique(hidden[:100, 0].flatten(1), dim=0)) > 90, "samples differ"


def test_full_hides_everything() -> None:
    assert full_mask(SHAPE, seeded()).all()


def test_first_frame_shows_frame_zero_only() -> None:
    hidden = first_frame_mask(SHAPE, seeded())
    assert not hidden[:, 0].any()
    assert hidden[:, 1:].all()


def test_prefix_shows_one_to_half_of_the_frames_and_a_tube_on_the_rest() -> None:
    hidden = prefix_mask((2000, 8, 4, 4), seeded())
    visible_frames = ~hidden.flatten(2).any(dim=2)
    length = visible_frames.long().sum(dim=1)
    assert torch.equal(visible_frames, torch.arange(8)[None] < length[:, None])
    assert sorted(length.unique().tolist()) == [1, 2, 3, 4]
    share = torch.bincount(length, minlength=5)[1:].double() / 2000
    assert share.sub(0.25).abs().max() < 0.05
    last = hidden[:, -1:]
    tube = torch.where(visible_frames[:, :, None, None], False, last.expand_as(hidden))
    assert torch.equal(hidden, tube)


def test_frame_by_frame_shows_the_past_and_hides_the_future() -> None:
    hidden = frame_by_frame_mask((2000, 5, 4, 4), seeded())
    share = hidden.flatten(2).double().mean(dim=2)
    currents = []
    for row in share:
        current = int((row > 0).nonzero()[0])
        # The current frame may itself be hidden completely; all later ones always are.
        assert (row[:current] == 0).all()
        assert (row[current + 1 :] == 1).all()
        currents.append(current)
    counts = torch.bincount(torch.tensor(currents), minlength=5).double() / 2000
    assert counts[0] == 0, "frame 0 is given whenever there is another frame"
    assert counts[1:].sub(0.25).abs().max() < 0.05
    partial = ((share > 0) & (share < 1)).any(dim=1).double().mean()
    assert partial > 0.7, "the current frame follows the cosine law"


def test_last_frame_hides_some_of_the_last_frame_only() -> None:
    hidden = last_frame_mask((2000, 4, 4, 4), seeded())
    assert not hidden[:, :-1].any()
    share = hidden[:, -1].flatten(1).double().mean(dim=1)
    assert share.min() > 0
    assert float(share.mean()) == pytest.approx(2 / math.pi, abs=0.03)


def test_ends_shows_first_and_last_frame() -> None:
    hidden = ends_mask(SHAPE, seeded())
    assert not hidden[:, [0, -1]].any()
    assert hidden[:, 1:-1].all()


def test_box_is_one_rectangle_through_all_frames() -> None:
    hidden = box_mask((2000, 3, 6, 10), seeded())
    assert torch.equal(hidden, hidden[:, :1].expand_as(hidden))
    rows, columns = hidden[:, 0].any(dim=2), hidden[:, 0].any(dim=1)
    assert torch.equal(hidden[:, 0], rows[:, :, None] & columns[:, None, :])
    for line in (rows, columns):  # contiguous: the flags change at most once up and once down
        changes = torch.nn.functional.pad(line.long(), (1, 1)).diff(dim=1).abs().sum(dim=1)
        assert (changes == 2).all()
    area = hidden[:, 0].flatten(1).double().mean(dim=1)
    assert float(area.mean()) == pytest.approx(2 / math.pi, abs=0.03)
    assert hidden[:, 0].double().mean(dim=0).min() > 0.3, "boxes reach every cell"


def test_box_area_is_the_drawn_ratio_whatever_its_aspect() -> None:
    hidden = box_mask((500, 1, 100, 160), seeded())
    area = hidden[:, 0].flatten(1).double().mean(dim=1)
    ratio = sample_ratio(500, seeded())  # the first thing that box_mask draws
    large = ratio > 0.1  # of smaller boxes the rounding shows
    assert (area - ratio).abs()[large].max() < 0.02
    aspect = hidden[:, 0].any(dim=2).sum(1) / hidden[:, 0].any(dim=1).sum(1)
    assert aspect.std() > 0.05


@pytest.mark.parametrize("name", sorted(PATTERNS))
@pytest.mark.parametrize("shape", [(40, 1, 3, 5), (40, 2, 3, 5), (40, 3, 1, 1), (1, 4, 2, 3)])
def test_every_pattern_hides_something_in_every_sample_of_any_shape(
    name: str, shape: tuple[int, int, int, int]
) -> None:
    hidden = PATTERNS[name](shape, seeded())
    assert hidden.shape == shape
    assert hidden.dtype == torch.bool
    assert hidden.flatten(1).any(dim=1).all()


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_every_pattern_is_seeded(name: str) -> None:
    one, two = (PATTERNS[name](SHAPE, seeded(3)) for _ in range(2))
    assert torch.equal(one, two)


def test_default_mixture_is_the_papers_tube_only() -> None:
    hidden = MaskMixture().sample(SHAPE, seeded())
    assert torch.equal(hidden, hidden[:, :1].expand_as(hidden))
    assert not hidden.all()


def test_mixture_draws_every_pattern_by_its_weight_for_each_sample() -> None:
    # Patterns that can be told apart exactly: everything, all but frame 0, all but both ends.
    mixture = MaskMixture(tube=0.0, full=1.0, first_frame=2.0, ends=5.0)
    hidden = mixture.sample((8000, 4, 2, 2), seeded())
    frames = hidden.flatten(2).all(dim=2).long()
    code = (frames * torch.tensor([8, 4, 2, 1])).sum(dim=1)
    assert float((code == 0b1111).double().mean()) == pytest.approx(1 / 8, abs=0.015)
    assert float((code == 0b0111).double().mean()) == pytest.approx(2 / 8, abs=0.02)
    assert float((code == 0b0110).double().mean()) == pytest.approx(5 / 8, abs=0.02)


def test_mixture_knows_every_pattern() -> None:
    for name in PATTERNS:
        weights = {other: float(other == name) for other in PATTERNS}
        hidden = MaskMixture(**weights).sample(SHAPE, seeded(5))
        if name in ("full", "first_frame", "ends"):
            assert torch.equal(hidden, PATTERNS[name](SHAPE, seeded(9)))
        else:
            assert not torch.equal(hidden, full_mask(SHAPE, seeded()))


@pytest.mark.parametrize("weights", [{"tube": -1.0, "box": 2.0}, {"tube": 0.0}])
def test_mixture_without_positive_weights_is_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        MaskMixture(**weights)
