"""How frames come to the size of a network. The rule is part of the protocol: it moves the score.

bilinear            half-pixel centres, no antialiasing: aliases where a frame shrinks much
bilinear-crop       the same on the shorter side, then the centre square (aspect ratio kept)
bilinear-antialias  as Pillow does it, in float
bicubic-antialias   likewise; what clean-fid calls clean
tensorflow1         TensorFlow 1's bilinear: pixel i of the output is at i * old / new
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from maskworld.metrics.image import check_pixels


def _interpolate(mode: str, *, antialias: bool) -> Callable[[Tensor, tuple[int, int]], Tensor]:
    def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
        if x.shape[-2:] == size:
            return x
        return F.interpolate(x, size, mode=mode, align_corners=False, antialias=antialias)

    return resize


def _crop(x: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = int(x.shape[-2]), int(x.shape[-1])
    scale = max(size[0] / height, size[1] / width)
    wanted = (max(round(height * scale), size[0]), max(round(width * scale), size[1]))
    x = F.interpolate(x, wanted, mode="bilinear", align_corners=False)
    top, left = (wanted[0] - size[0]) // 2, (wanted[1] - size[1]) // 2
    return x[..., top : top + size[0], left : left + size[1]]


def _tensorflow1(x: Tensor, size: tuple[int, int]) -> Tensor:
    for axis, new in ((-1, size[1]), (-2, size[0])):
        old = int(x.shape[axis])
        place = torch.arange(new, dtype=torch.float32, device=x.device) * (old / new)
        low = place.long()
        high = (low + 1).clamp(max=old - 1)
        share = (place - low).to(x.dtype)
        share = share if axis == -1 else share[:, None]
        first, second = x.index_select(axis, low), x.index_select(axis, high)
        x = first + (second - first) * share
    return x


RULES: dict[str, Callable[[Tensor, tuple[int, int]], Tensor]] = {
    "bilinear": _interpolate("bilinear", antialias=False),
    "bilinear-crop": _crop,
    "bilinear-antialias": _interpolate("bilinear", antialias=True),
    "bicubic-antialias": _interpolate("bicubic", antialias=True),
    "tensorflow1": _tensorflow1,
}


def resize_frames(
    frames: UInt8[Tensor, "n 3 h w"], size: tuple[int, int], rule: str
) -> Float[Tensor, "n 3 h2 w2"]:
    """Frames in 0..255 as float32, at another size.

    Raises:
        ValueError: an unknown rule, or pixels that are not uint8.
    """
    check_pixels(frames)
    if rule not in RULES:
        raise ValueError(f"Expected a resize rule among {sorted(RULES)}, found {rule!r}.")
    return RULES[rule](frames.float(), size)
