"""Adaptive layer norm from a time embedding that all blocks share (PixArt's adaLN-single).

Times and what follows from them come in groups `g`: 1 for a time per sample, the number of latent
frames, or one per token. Consecutive n / g tokens share a group, and the modulation is broadcast
within it instead of being computed and stored per token.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

TIME_SCALE = 1000.0
"""Published networks see t in 0..1000."""
_NUM_SINUSOIDS = 256
_MAX_PERIOD = 10000.0
"""PixArt-alpha: 256 channels, longest period 10000."""


def sinusoids(t: Float[Tensor, "*b"], dim: int = _NUM_SINUSOIDS) -> Float[Tensor, "*b dim"]:
    """Cosines, then sines, of `t` at dim / 2 frequencies from 1 down to about 1 / 10000."""
    t = t.to(torch.promote_types(t.dtype, torch.float32))
    steps = torch.arange(dim // 2, dtype=t.dtype, device=t.device)
    # in the order of the published code: in float32 another order moves angles by 1e-4
    angles = t[..., None] * torch.exp(-math.log(_MAX_PERIOD) * steps / (dim // 2))
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """t in [0, 1] to a vector: sinusoids, then two linear layers."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.up = nn.Linear(_NUM_SINUSOIDS, dim)
        self.down = nn.Linear(dim, dim)

    def forward(self, t: Float[Tensor, "b g"]) -> Float[Tensor, "b g d"]:
        waves = sinusoids(t * TIME_SCALE).to(self.up.weight.dtype)
        return self.down(F.silu(self.up(waves)))


class AdaLNSingle(nn.Module):
    """Time (and condition) to the modulation that every block adds its own table to."""

    def __init__(self, dim: int, num_parts: int = 6) -> None:
        super().__init__()
        self.num_parts = num_parts
        self.time = TimeEmbedding(dim)
        self.project = nn.Linear(dim, num_parts * dim)

    def forward(
        self, t: Float[Tensor, "b g"], condition: Float[Tensor, "b c d"] | None = None
    ) -> tuple[Float[Tensor, "b h parts d"], Float[Tensor, "b h d"]]:
        """The modulation, and the embedded time that output heads read.

        Args:
            condition: added to the embedded time. Where times and conditions come in groups of
                different size, both are repeated to the coarsest common ones, h = lcm(g, c).
        """
        embedded = self.time(t)
        if condition is not None:
            num_groups = math.lcm(embedded.shape[1], condition.shape[1])
            embedded = _repeated(embedded, num_groups) + _repeated(condition, num_groups)
        modulation = self.project(F.silu(embedded))
        return modulation.unflatten(-1, (self.num_parts, -1)), embedded


class VelocityHead(nn.Module):
    """Hidden states to a velocity: norm, modulation by table and embedded time, linear layer.

    LTX-Video's own output, and the shape of ReWorld's intermediate heads, whose form the paper
    leaves open.

    Args:
        is_zero_init: starts with velocity 0.

    Reference: ReWorld, Eq. 6.
    """

    def __init__(
        self, dim: int, out_channels: int, eps: float = 1e-6, is_zero_init: bool = True
    ) -> None:
        super().__init__()
        self.eps = eps
        self.table = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        self.project = nn.Linear(dim, out_channels)
        if is_zero_init:
            nn.init.zeros_(self.project.weight)
            nn.init.zeros_(self.project.bias)

    def forward(
        self, x: Float[Tensor, "b n d"], embedded_time: Float[Tensor, "b g d"]
    ) -> Float[Tensor, "b n c"]:
        shift, scale = (self.table + embedded_time.unsqueeze(2)).unbind(dim=2)
        x = F.layer_norm(x, x.shape[-1:], eps=self.eps)
        return self.project(modulate(x, shift, scale))


def merge_times(t: Float[Tensor, "b n"]) -> Float[Tensor, "b g"]:
    """The same times for the largest equal groups of consecutive tokens that share one.

    A context of whole frames before its future, the usual case, becomes a few groups; times drawn
    per token stay as they are.
    """
    changes = (t[:, 1:] != t[:, :-1]).any(dim=0).nonzero().flatten() + 1
    size = math.gcd(t.shape[1], *changes.tolist())
    return t[:, ::size]


def modulate(
    x: Float[Tensor, "b n d"], shift: Float[Tensor, "b g d"], scale: Float[Tensor, "b g d"]
) -> Float[Tensor, "b n d"]:
    """x (1 + scale) + shift within each group of consecutive tokens."""
    grouped = _grouped(x, scale.shape[1])
    return (grouped * (1 + scale.unsqueeze(2)) + shift.unsqueeze(2)).flatten(1, 2)


def add_gated(
    x: Float[Tensor, "b n d"], update: Float[Tensor, "b n d"], gate: Float[Tensor, "b g d"]
) -> Float[Tensor, "b n d"]:
    """x + gate * update within each group of consecutive tokens."""
    groups = gate.shape[1]
    grouped = torch.addcmul(_grouped(x, groups), _grouped(update, groups), gate.unsqueeze(2))
    return grouped.flatten(1, 2)


def _repeated(x: Float[Tensor, "b g d"], num_groups: int) -> Float[Tensor, "b h d"]:
    """The same values for `num_groups` finer groups, a multiple of g."""
    repeats = num_groups // x.shape[1]
    return x if repeats == 1 else x.repeat_interleave(repeats, dim=1)


def _grouped(x: Float[Tensor, "b n d"], num_groups: int) -> Float[Tensor, "b g m d"]:
    if x.shape[1] % num_groups:
        raise ValueError(
            f"Expected {x.shape[1]} tokens in equal groups, found {num_groups} times: give times "
            "and conditions per sample, per latent frame or per token."
        )
    return x.unflatten(1, (num_groups, -1))
