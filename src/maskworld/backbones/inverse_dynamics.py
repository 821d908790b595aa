"""Which actions lead through given future frames: a small network over pictures and the state.

MWM-C1 and the paper's Cosmos + IDM decode a future first and read actions from it. Their networks
are not described; this one is ours: frames and views side by side as channels, three strided
convolutions, a place of attention per channel (spatial softmax), two layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class InverseDynamicsConfig:
    """All values are ours."""

    dim: int = 64
    """Channels of the last convolution."""
    hidden_dim: int = 256

    def __post_init__(self) -> None:
        if self.dim < 4 or self.dim % 4 or self.hidden_dim < 1:
            raise ValueError(
                f"Expected dim a multiple of 4 and hidden_dim >= 1, found {self.dim} and "
                f"{self.hidden_dim}."
            )


class InverseDynamics(nn.Module):
    """Future pictures and the state now to a chunk of actions and states, by regression.

    Args:
        in_channels: of all pictures of a sample together (views x frames x channels).
        num_tokens, out_dim: of the chunk.
    """

    def __init__(
        self,
        config: InverseDynamicsConfig,
        in_channels: int,
        state_dim: int,
        num_tokens: int,
        out_dim: int,
    ) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        widths = (in_channels, config.dim // 2, config.dim, config.dim)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 5, stride=2, padding=2) for a, b in pairwise(widths)
        )
        self.up = nn.Linear(3 * config.dim + state_dim, config.hidden_dim)
        self.mid = nn.Linear(config.hidden_dim, config.hidden_dim)
        self.down = nn.Linear(config.hidden_dim, num_tokens * out_dim)
        nn.init.zeros_(self.down.weight)

    def forward(
        self, pictures: Float[Tensor, "b v f c h w"], state: Float[Tensor, "b s"]
    ) -> Float[Tensor, "b l u"]:
        """The chunk, normalised as the state is."""
        x = rearrange(pictures, "b v f c h w -> b (v f c) h w")
        for convolution in self.convolutions:
            x = F.silu(convolution(x))
        x = torch.cat([_places(x), x.mean(dim=(2, 3)), state], dim=1)
        x = F.silu(self.mid(F.silu(self.up(x))))
        return self.down(x).unflatten(-1, (self.num_tokens, -1))


def _places(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b p"]:
    """Where each channel is strongest: the mean row and column under its softmax, in [-1, 1]."""
    height, width = x.shape[-2:]
    share = x.flatten(2).softmax(dim=-1).unflatten(-1, (height, width))
    rows = torch.linspace(-1, 1, height, device=x.device, dtype=x.dtype)
    columns = torch.linspace(-1, 1, width, device=x.device, dtype=x.dtype)
    at_rows = (share * repeat(rows, "h -> h w", w=width)).sum(dim=(2, 3))
    at_columns = (share * repeat(columns, "w -> h w", h=height)).sum(dim=(2, 3))
    return torch.cat([at_rows, at_columns], dim=1)
