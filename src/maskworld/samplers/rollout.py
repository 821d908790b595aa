"""Prediction beyond one window: dream, keep the last frames as context, dream on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

DreamWindow = Callable[[Tensor, int], Tensor]
"""(context tokens `b c h w`, first frame index) -> window tokens `b n h w` that begin with the
context."""


def roll_out(
    dream: DreamWindow,
    context: Int[Tensor, "b c h w"],
    num_frames: int,
    window: int,
    overlap: int,
) -> Int[Tensor, "b t h w"]:
    """`num_frames` frames from windows of `window`, each given the last `overlap` frames.

    The context is returned unchanged at the start.

    Raises:
        ValueError: if the windows cannot advance.
    """
    if not 1 <= overlap < window:
        raise ValueError(
            f"Expected 1 <= overlap < window, found overlap {overlap} and window {window}: "
            f"pass an overlap of at most {window - 1}."
        )
    video = context
    given = context if context.shape[1] < window else context[:, -overlap:]
    while video.shape[1] < num_frames:
        start = video.shape[1] - given.shape[1]
        dreamt = dream(given, start)
        video = torch.cat([video, dreamt[:, given.shape[1] :]], dim=1)
        given = video[:, -overlap:]
    return video[:, :num_frames]
