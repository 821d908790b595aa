import numpy as np
import pytest
import torch

from maskworld.metrics.masks import IGNORED, BoundaryF, MaskIoU, boundary_f, outline

NAMES = ("background", "robot", "object")


def boxes(*corners: tuple[int, int, int, int, int], size: int = 16) -> torch.Tensor:
    """A map `1 1 1 h w` with a class in each box (class, top, left, bottom, right)."""
    labels = torch.zeros(size, size, dtype=torch.uint8)
    for k, top, left, bottom, right in corners:
        labels[top:bottom, left:right] = k
    return labels[None, None, None]


def drawn(seed: int, clips: int = 3, num_classes: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(num_classes, (clips, 2, 4, 8, 8), generator=generator).to(torch.uint8)


def test_iou_is_that_of_the_whole_data_set_and_not_a_mean_over_images() -> None:
    real, guess = drawn(0), drawn(1)
    metric = MaskIoU(NAMES)
    metric.update(guess[:1], real[:1])
    metric.update(guess[1:], real[1:])
    scores = metric.compute()
    for k, name in enumerate(NAMES):
        hit = ((real == k) & (guess == k)).sum().item()
        either = ((real == k) | (guess == k)).sum().item()
        assert scores.iou[name] == pytest.approx(hit / either)
        step = ((real == k) & (guess == k))[:, :, 2].sum() / (
            ((real == k) | (guess == k))[:, :, 2].sum()
        )
        assert scores.per_horizon[name][2] == pytest.approx(float(step))
    values = [value for value in scores.iou.values() if value is not None]
    assert scores.mean == pytest.approx(np.mean(values))


def test_an_absent_class_is_left_out_and_named_but_one_made_up_counts_as_zero() -> None:
    metric = MaskIoU(NAMES)
    real = boxes((1, 0, 0, 8, 8))
    metric.update(real, real)
    scores = metric.compute()
    assert scores.mean == 1.0
    assert scores.absent == ["object"]
    assert scores.per_horizon["object"] == [None]
    metric.update(boxes((1, 0, 0, 8, 8), (2, 10, 10, 11, 11)), real)
    assert metric.compute().iou["object"] == 0.0


def test_pixels_without_a_label_count_nowhere() -> None:
    real, guess = drawn(2), drawn(3)
    hidden = real.clone()
    hidden[..., :4] = IGNORED
    cut, ignored = MaskIoU(NAMES), MaskIoU(NAMES)
    cut.update(guess[..., 4:], real[..., 4:])
    ignored.update(guess, hidden)
    assert cut.compute().iou == ignored.compute().iou


def test_merged_parts_score_like_one_metric() -> None:
    real, guess = drawn(4), drawn(5)
    whole, left, right = MaskIoU(NAMES), MaskIoU(NAMES), MaskIoU(NAMES)
    whole.update(guess, real)
    left.update(guess[:1], real[:1])
    right.update(guess[1:], real[1:])
    left.merge(right)
    assert left.compute().iou == whole.compute().iou
    with pytest.raises(ValueError, match="classes"):
        left.merge(MaskIoU(("background", "robot", "thing")))


def test_a_paired_interval_sees_a_difference_that_two_intervals_hide() -> None:
    generator = np.random.default_rng(0)
    real = boxes((1, 0, 0, 12, 12))
    better, worse = MaskIoU(NAMES), MaskIoU(NAMES)
    for missing in range(12):
        better.update(boxes((1, 0, 0, 12, 12 - missing)), real)
        worse.update(boxes((1, 0, 0, 12, 12 - missing), (0, 0, 0, 3, 3)), real)
    first, second = better.compute(), worse.compute()
    low, high = first.interval(generator, minus=second)
    assert 0 < low < first.mean - second.mean < high
    assert first.interval(generator)[0] < second.interval(generator)[1]  # alone they overlap
    groups = np.zeros(12, dtype=int)
    with pytest.raises(ValueError, match="2 clips or groups"):
        first.interval(generator, groups=groups)


def test_an_outline_within_the_tolerance_is_met_and_beyond_it_is_not() -> None:
    real = boxes((1, 4, 4, 12, 12))[0, 0] == 1
    for shift, tolerance, expected in ((0, 0, 1.0), (1, 1, 1.0), (2, 2, 1.0)):
        moved = boxes((1, 4, 4 + shift, 12, 12 + shift))[0, 0] == 1
        assert float(boundary_f(moved, real, tolerance)) == pytest.approx(expected)
    moved = boxes((1, 4, 7, 12, 15))[0, 0] == 1
    assert float(boundary_f(moved, real, 1)) <= 0.5
    empty = torch.zeros_like(real)
    assert float(boundary_f(empty, real)) == 0.0
    assert float(boundary_f(empty, empty)) == 1.0


def test_boundary_f_equals_a_slow_version_with_distances() -> None:
    generator = torch.Generator().manual_seed(0)
    guess, real = (torch.rand(2, 3, 9, 9, generator=generator) < 0.6).unbind()
    for radius in (1, 2):
        for i in range(3):
            a, b = (outline(m[i : i + 1])[0].nonzero().double() for m in (guess, real))
            near = torch.cdist(a, b) <= radius + 1e-9
            p, r = near.any(1).double().mean(), near.any(0).double().mean()
            found = boundary_f(guess[i : i + 1], real[i : i + 1], radius)
            assert float(found) == pytest.approx(float(2 * p * r / (p + r)))


def test_the_edge_of_the_image_is_no_outline() -> None:
    mask = boxes((1, 0, 0, 16, 8))[0, 0] == 1
    assert outline(mask).sum() == 16  # the right side alone
    assert outline(torch.ones_like(mask)).sum() == 0


def test_boundary_metric_counts_only_classes_that_a_frame_holds() -> None:
    real = torch.cat([boxes((1, 4, 4, 12, 12)), boxes((2, 4, 4, 12, 12))], dim=2)
    metric = BoundaryF(NAMES, classes=("robot", "object"))
    metric.update(real, real)
    assert metric.compute().per_horizon == [1.0, 1.0]
    assert metric.compute().weight.tolist() == [[1.0, 1.0]]
    metric.update(torch.zeros_like(real), real)
    assert metric.compute().mean == 0.5


def test_unknown_classes_and_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="0 to 2"):
        MaskIoU(NAMES).update(drawn(0, num_classes=4), drawn(0))
    with pytest.raises(ValueError, match="one shape"):
        MaskIoU(NAMES).update(drawn(0)[..., :4], drawn(0))
    with pytest.raises(ValueError, match="hand"):
        BoundaryF(NAMES, classes=("hand",))
