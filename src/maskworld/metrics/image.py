"""How close predicted frames are to real ones, frame by frame: PSNR and SSIM."""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from maskworld.metrics.scores import ClipScores, concatenate

PSNR_CAP = 60.0
"""dB given to identical frames (their PSNR is infinite). One grey level off in 5 % of the pixels
has 61 dB, so the cap only touches frames that are equal to the eye. Ours."""

WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03  # Wang et al. 2004, section III-C

FrameMeasure = Callable[[Tensor, Tensor], Tensor]


CLIPS_AT_ONCE = 4
"""Clips that `FrameMetric` measures at a time: float64 copies of more leave the cache."""


def check_pixels(*images: Tensor) -> None:
    """Raises ValueError unless all are uint8 of one shape: a wrong range gives plausible scores."""
    for image in images:
        if image.dtype != torch.uint8:
            raise ValueError(
                f"Expected uint8 pixels in 0..255, found {image.dtype}: convert model output "
                "with round(127.5 * (x + 1)) clamped to 0..255."
            )
    if len({tuple(image.shape) for image in images}) > 1:
        raise ValueError(
            f"Expected frames of one shape, found {[tuple(image.shape) for image in images]}."
        )


def psnr(
    prediction: Shaped[Tensor, "*b c h w"], target: Shaped[Tensor, "*b c h w"]
) -> Float[Tensor, "*b"]:
    """Peak signal-to-noise ratio of each frame, in dB: 10 log10(255^2 / MSE), at most `PSNR_CAP`.

    Average these values: the PSNR of an average MSE is another number (and a lower one).

    Raises:
        ValueError: pixels are not uint8, or shapes differ.
    """
    check_pixels(prediction, target)
    error = prediction.to(torch.float64) - target.to(torch.float64)
    mse = reduce(error.square(), "... c h w -> ...", "mean")
    return (10.0 * torch.log10(255.0**2 / mse)).clamp(max=PSNR_CAP)


def ssim(
    prediction: Shaped[Tensor, "*b c h w"], target: Shaped[Tensor, "*b c h w"]
) -> Float[Tensor, "*b"]:
    """Structural similarity of each frame: the mean over channels and valid window positions.

    Gaussian window 11x11 with sigma 1.5, K1 = 0.01, K2 = 0.03, range 255, no padding; values in
    [-1, 1], 1 for identical frames.

    Raises:
        ValueError: pixels are not uint8, shapes differ, or a side is shorter than the window.

    Reference: Wang et al., Image quality assessment (2004), Eq. 13.
    """
    check_pixels(prediction, target)
    if min(prediction.shape[-2:]) < WINDOW:
        raise ValueError(
            f"SSIM needs frames of at least {WINDOW}x{WINDOW} pixels, found "
            f"{tuple(prediction.shape[-2:])}."
        )
    x, y = (
        rearrange(image, "... c h w -> (...) c h w").to(torch.float64)
        for image in (prediction, target)
    )
    moments = torch.stack([x, y, x * x, y * y, x * y])  # m n c h w
    mean_x, mean_y, xx, yy, xy = _gaussian_window(moments)
    var_x, var_y, covariance = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    c1, c2 = (K1 * 255) ** 2, (K2 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return reduce(luminance * structure, "n c h w -> n", "mean").reshape(prediction.shape[:-3])


def _gaussian_window(images: Float[Tensor, "m n c h w"]) -> Float[Tensor, "m n c h2 w2"]:
    """Local means under the Gaussian window, valid positions only."""
    offsets = torch.arange(WINDOW, dtype=images.dtype, device=images.device) - WINDOW // 2
    kernel = torch.exp(-offsets.square() / (2 * SIGMA**2))
    kernel = kernel / kernel.sum()
    m, n, c = images.shape[:3]
    flat = rearrange(images, "m n c h w -> (m n c) 1 h w")
    flat = F.conv2d(F.conv2d(flat, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return rearrange(flat, "(m n c) 1 h w -> m n c h w", m=m, n=n, c=c)


class FrameMetric:
    """A per-frame measure (`psnr`, `ssim`) gathered over clips, per horizon step.

    Give it the predicted frames only: a context frame that was handed to the model is not a
    prediction. Views of one clip are averaged, so that the clip stays the unit of the intervals.
    """

    def __init__(self, measure: FrameMeasure) -> None:
        self.measure = measure
        self._parts: list[ClipScores] = []

    def update(
        self,
        prediction: Shaped[Tensor, "b v t c h w"],
        target: Shaped[Tensor, "b v t c h w"],
    ) -> None:
        """Scores a batch of uint8 clips.

        Raises:
            ValueError: pixels are not uint8, or shapes differ.
        """
        check_pixels(prediction, target)
        pairs = zip(prediction.split(CLIPS_AT_ONCE), target.split(CLIPS_AT_ONCE), strict=True)
        for part, real in pairs:
            values = reduce(self.measure(part, real), "b v t -> b t", "mean")
            scores = values.to(torch.float64).cpu().numpy()
            self._parts.append(ClipScores(scores, scores * 0 + 1))

    def merge(self, other: FrameMetric) -> None:
        """Adds the clips of another metric of the same measure."""
        if other.measure is not self.measure:
            raise ValueError("Expected two metrics of one measure: PSNR and SSIM do not add up.")
        self._parts.extend(other._parts)

    def compute(self) -> ClipScores:
        """All clips so far.

        Raises:
            ValueError: no clip was seen.
        """
        return concatenate(self._parts)
