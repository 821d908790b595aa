"""What tells a living video from a frozen or a dissolved one: change, contrast, detail of frames.

Nothing here compares with the frames that really came: for that a long dream has gone too far.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float, Shaped
from torch import Tensor

from maskworld.metrics.image import check_pixels

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
FRAMES_AT_ONCE = 32


@dataclass(frozen=True)
class FrameStatistics:
    """Of every frame of a clip, means over its views; all in grey levels of 0..255."""

    change: Float[Tensor, " s"]
    """Mean absolute difference between each frame but the first and the one before it."""
    deviation: Float[Tensor, " t"]
    """Standard deviation of the luminance over the pixels: contrast. 0 for a grey frame."""
    sharpness: Float[Tensor, " t"]
    """Mean absolute difference between the luminance and its 3 x 3 mean."""


@torch.no_grad()
def frame_statistics(clip: Shaped[Tensor, "v t c h w"]) -> FrameStatistics:
    """Statistics of a uint8 RGB clip.

    Raises:
        ValueError: pixels are not uint8, not RGB, or fewer than 2 frames.
    """
    check_pixels(clip)
    if clip.ndim != 5 or clip.shape[2] != 3 or clip.shape[1] < 2:
        raise ValueError(
            f"Expected an RGB clip v t c h w of 2 frames or more, found {tuple(clip.shape)}."
        )
    weights = torch.tensor(LUMINANCE, device=clip.device)
    changes, deviations, details = [], [], []
    last: Tensor | None = None
    for part in clip.split(FRAMES_AT_ONCE, dim=1):
        frames = part.float()
        with_last = frames if last is None else torch.cat([last, frames], dim=1)
        moved = (with_last[:, 1:] - with_last[:, :-1]).abs()
        changes.append(reduce(moved, "v t c h w -> t", "mean"))
        last = frames[:, -1:]
        luminance = torch.einsum("vtchw,c->vthw", frames, weights)
        deviations.append(luminance.flatten(2).std(dim=2, correction=0).mean(0))
        flat = rearrange(luminance, "v t h w -> (v t) 1 h w")
        smooth = F.avg_pool2d(F.pad(flat, (1, 1, 1, 1), mode="replicate"), 3, 1)
        detail = (flat - smooth).abs()
        details.append(reduce(detail, "(v t) 1 h w -> t", "mean", v=len(clip)))
    return FrameStatistics(torch.cat(changes), torch.cat(deviations), torch.cat(details))
