"""3-D convolutions over a channels-last token grid `b t h w d`, from dense to cheap."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

ConvKind = Literal["dense", "depthwise", "separable", "none"]


class GridConv3d(nn.Module):
    """A 3 x 3 x 3 convolution with zero padding, dense or one filter per channel."""

    def __init__(self, dim: int, depthwise: bool) -> None:
        super().__init__()
        self.conv = nn.Conv3d(dim, dim, 3, padding=1, groups=dim if depthwise else 1)

    def forward(self, x: Float[Tensor, "b t h w d"]) -> Float[Tensor, "b t h w d"]:
        return rearrange(
            self.conv(rearrange(x, "b t h w d -> b d t h w")), "b d t h w -> b t h w d"
        )


class SeparableGridConv(nn.Module):
    """Depthwise 3 x 3 in space, then depthwise 3 in time: the cheap choice on a CPU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.temporal = nn.Parameter(torch.zeros(3, dim))
        nn.init.normal_(self.temporal, std=3**-0.5)

    def forward(self, x: Float[Tensor, "b t h w d"]) -> Float[Tensor, "b t h w d"]:
        b = x.shape[0]
        x = self.spatial(rearrange(x, "b t h w d -> (b t) d h w"))
        x = rearrange(x, "(b t) d h w -> b t h w d", b=b)
        past, now, future = self.temporal
        padded = F.pad(x, (0, 0, 0, 0, 0, 0, 1, 1))
        return padded[:, :-2] * past + x * now + padded[:, 2:] * future


def grid_conv(kind: ConvKind, dim: int) -> nn.Module | None:
    """The convolution that a config names; None for "none"."""
    if kind == "none":
        return None
    if kind == "separable":
        return SeparableGridConv(dim)
    return GridConv3d(dim, depthwise=kind == "depthwise")
