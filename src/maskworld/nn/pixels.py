"""The one place where pixels change between uint8 0..255 and float [-1, 1]."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def to_unit(frames: UInt8[Tensor, "*n"] | Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """uint8 0..255 to float [-1, 1]; float passes through."""
    return frames.float() / 127.5 - 1 if frames.dtype == torch.uint8 else frames.float()


def to_uint8(frames: Float[Tensor, "*n"]) -> UInt8[Tensor, "*n"]:
    """Float [-1, 1] to uint8 0..255, rounded; values outside are clipped."""
    return ((frames.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
