"""What the tokenizers of this package ask of frames, and of the loss that trains them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

PixelObjective = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""(reconstruction, frames) -> weighted terms to sum; `objectives.vq` has them."""


def check_frames(frames: Tensor, channels: int, stride: int) -> None:
    """Raises ValueError unless frames are `n c h w` with sides divisible by `stride`."""
    _, c, h, w = frames.shape
    if c != channels:
        raise ValueError(f"Expected frames with {channels} channels, found {c}: convert to RGB.")
    if h % stride or w % stride or not h or not w:
        fix_h, fix_w = max(h // stride, 1) * stride, max(w // stride, 1) * stride
        raise ValueError(
            f"Expected height and width divisible by the tokenizer's stride {stride}, found "
            f"{h}x{w}: resize or crop the frames to {fix_h}x{fix_w}."
        )
