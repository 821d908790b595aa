"""Norms that differ from torch's where precisions mix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned scale, in the dtype of its input.

    torch's own leaves its fused kernel, with a warning, when a bfloat16 input meets a float32
    scale, as it does under autocast.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


def plain_norm(x: Float[Tensor, "*n d"], eps: float = 1e-6) -> Float[Tensor, "*n d"]:
    """Layer norm without learned scale and shift; a modulation follows."""
    return F.layer_norm(x, x.shape[-1:], eps=eps)
