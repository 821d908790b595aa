"""Multi-head attention on scaled_dot_product_attention."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn


def attend(
    query: Float[Tensor, "b n d"],
    key: Float[Tensor, "b m d"],
    value: Float[Tensor, "b m d"],
    num_heads: int,
    attn_mask: Bool[Tensor, ...] | None = None,
) -> Float[Tensor, "b n d"]:
    """Scaled dot-product attention over `num_heads` heads; True in `attn_mask` = may attend."""
    q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=num_heads) for x in (query, key, value))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
    return rearrange(out, "b h n d -> b n (h d)")


class SelfAttention(nn.Module):
    """Standard self-attention, without bias as in aMUSEd."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(
        self, x: Float[Tensor, "b n d"], attn_mask: Bool[Tensor, ...] | None = None
    ) -> Float[Tensor, "b n d"]:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        return self.out(attend(query, key, value, self.num_heads, attn_mask))

    def value_only(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """What is left when the attention weights are the identity matrix."""
        return self.out(self.qkv(x).chunk(3, dim=-1)[2])
