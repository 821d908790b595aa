"""Position-wise feed-forward layers."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class FeedForward(nn.Module):
    """Two linear layers with GELU."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, hidden_dim)
        self.down = nn.Linear(hidden_dim, dim)

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        return self.down(F.gelu(self.up(x)))


class GatedFeedForward(nn.Module):
    """GEGLU: one half of the hidden layer gates the other.

    Reference: Shazeer 2020, as in aMUSEd (inner width 2816 at dim 1024).
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, 2 * hidden_dim, bias=False)
        self.down = nn.Linear(hidden_dim, dim, bias=False)

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        value, gate = self.up(x).chunk(2, dim=-1)
        return self.down(value * F.gelu(gate))


class MLP(nn.Module):
    """Two linear layers with the tanh form of GELU, as in LTX-Video and SD3."""

    def __init__(self, dim_in: int, hidden_dim: int, dim_out: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim_in, hidden_dim)
        self.down = nn.Linear(hidden_dim, dim_out)

    def forward(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        return self.down(F.gelu(self.up(x), approximate="tanh"))
