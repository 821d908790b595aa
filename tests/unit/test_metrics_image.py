import math

import pytest
import torch

from maskworld.metrics import PSNR_CAP, FrameMetric, psnr, ssim
from maskworld.metrics.image import check_pixels


def random_frames(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def smooth_pair() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.nn.functional.interpolate(random_frames(6, 3, 5, 8).float(), (40, 64), mode="bicubic")
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    clean = x.clamp(0, 255).to(torch.uint8)
    return clean, (x + 12 * noise).clamp(0, 255).to(torch.uint8)


def test_psnr_of_a_constant_error_has_its_closed_form():
    frames = torch.full((2, 3, 8, 8), 100, dtype=torch.uint8)
    torch.testing.assert_close(
        psnr(frames, frames + 5),
        torch.full((2,), 20 * math.log10(255 / 5), dtype=torch.float64),
    )


def test_psnr_of_identical_frames_is_the_cap():
    frames = random_frames(2, 3, 8, 8)
    assert psnr(frames, frames).tolist() == [PSNR_CAP] * 2


def test_psnr_is_the_mean_over_frames_not_of_the_pooled_error():
    target = torch.full((1, 1, 2, 3, 8, 8), 100, dtype=torch.uint8)
    prediction = target.clone()
    prediction[:, :, 0] += 1
    prediction[:, :, 1] += 50
    metric = FrameMetric(psnr)
    metric.update(prediction, target)
    pooled = 10 * math.log10(255**2 / ((1 + 2500) / 2))
    expected = (20 * math.log10(255) + 20 * math.log10(255 / 50)) / 2
    assert metric.compute().mean == pytest.approx(expected)
    assert metric.compute().mean > pooled + 10


def test_ssim_equals_the_public_reference():
    pytorch_msssim = pytest.importorskip("pytorch_msssim")
    for x, y in (smooth_pair(), (random_frames(3, 3, 32, 32), random_frames(3, 3, 32, 32, seed=1))):
        reference = pytorch_msssim.ssim(
            x.double(), y.double(), data_range=255, size_average=False, win_size=11, win_sigma=1.5
        )
        torch.testing.assert_close(ssim(x, y), reference, atol=1e-5, rtol=0)


def test_ssim_of_identical_frames_is_one_and_is_symmetric():
    x, y = smooth_pair()
    torch.testing.assert_close(ssim(x, x), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(ssim(x, y), ssim(y, x))
    assert (ssim(x, y) < 0.95).all()


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_pixels_that_are_not_uint8_are_refused(measure):
    frames = torch.rand(2, 3, 16, 16)
    with pytest.raises(ValueError, match="uint8"):
        measure(frames, frames)
    with pytest.raises(ValueError, match="uint8"):
        FrameMetric(measure).update(frames[None, None], frames[None, None])


def test_frames_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        check_pixels(random_frames(2, 3, 8, 8), random_frames(2, 3, 8, 9))


def test_ssim_names_the_smallest_frame_it_accepts():
    with pytest.raises(ValueError, match="11x11"):
        ssim(random_frames(1, 3, 10, 32), random_frames(1, 3, 10, 32))


def test_frame_metric_keeps_horizon_steps_apart_and_averages_views_within_a_clip():
    target = torch.full((1, 2, 3, 3, 8, 8), 100, dtype=torch.uint8)
    prediction = target.clone()
    for view in range(2):
        for t in range(3):
            prediction[:, view, t] += 1 + t + 10 * view
    metric = FrameMetric(psnr)
    metric.update(prediction, target)
    scores = metric.compute()
    assert len(scores) == 1
    expected = [20 * math.log10(255) - 10 * math.log10((1 + t) * (11 + t)) for t in range(3)]
    assert scores.per_horizon == pytest.approx(expected)


def test_merged_metrics_equal_one_that_saw_everything():
    x, y = random_frames(6, 1, 2, 3, 16, 16), random_frames(6, 1, 2, 3, 16, 16, seed=1)
    whole, first, second = FrameMetric(ssim), FrameMetric(ssim), FrameMetric(ssim)
    whole.update(x, y)
    first.update(x[:2], y[:2])
    second.update(x[2:], y[2:])
    first.merge(second)
    assert first.compute().per_horizon == pytest.approx(whole.compute().per_horizon, abs=1e-12)
    with pytest.raises(ValueError, match="one measure"):
        first.merge(FrameMetric(psnr))


def test_a_metric_that_saw_nothing_says_so():
    with pytest.raises(ValueError, match=r"update\(\)"):
        FrameMetric(psnr).compute()
