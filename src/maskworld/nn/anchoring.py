"""Holding the look of a picture over long rollouts."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def anchored(
    window: Float[Tensor, "b v t d gh gw"],
    num_given: int,
    anchor: Float[Tensor, "b v d gh gw"],
    num_channels: int,
) -> Float[Tensor, "b v t d gh gw"]:
    """A window of latents whose dreamt frames have, in each of the first channels, the mean and
    deviation over the picture that `anchor` has; 0 channels: the window as it is.

    The idea is that of adaptive instance normalisation (Huang and Belongie 2017).
    """
    if not num_channels:
        return window
    dreamt = window[:, :, num_given:, :num_channels]
    shown = anchor[:, :, None, :num_channels]
    mean, std = dreamt.mean((-2, -1), keepdim=True), dreamt.std((-2, -1), keepdim=True)
    plain = (dreamt - mean) / std.clamp(min=1e-3)
    window = window.clone()
    window[:, :, num_given:, :num_channels] = plain * shown.std(
        (-2, -1), keepdim=True
    ) + shown.mean((-2, -1), keepdim=True)
    return window
