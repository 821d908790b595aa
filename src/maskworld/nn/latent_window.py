"""A window of latents as tokens: given ones first, then those to be predicted.

Latents are `b v k d gh gw` (views, latent frames, channels, rows, columns); a network sees every
view as a row of its batch, its tokens frame by frame and row by row.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from maskworld.types import FeatureBank


def to_tokens(latents: Float[Tensor, "b v k d gh gw"]) -> Float[Tensor, "bv n d"]:
    """Latents as tokens; the views of a clip are neighbours in the batch."""
    return rearrange(latents, "b v k d gh gw -> (b v) (k gh gw) d")


def to_latents(
    tokens: Float[Tensor, "bv n d"], grid: tuple[int, int, int], num_views: int
) -> Float[Tensor, "b v k d gh gw"]:
    """The inverse of `to_tokens`; `grid` counts latent frames, rows and columns."""
    _, gh, gw = grid
    return rearrange(
        tokens, "(b v) (k gh gw) d -> b v k d gh gw", v=num_views, gh=gh, gw=gw
    ).contiguous()


def context_mask(latents: Float[Tensor, "b v k d gh gw"], num_given: int) -> Bool[Tensor, "bv n"]:
    """True on the tokens of the first `num_given` latent frames."""
    b, v, k, _, gh, gw = latents.shape
    is_given = torch.arange(k, device=latents.device) < num_given
    return repeat(is_given, "k -> bv (k n)", bv=b * v, n=gh * gw)


def followed_by_noise(
    given: Float[Tensor, "b v g d gh gw"], num_latents: int, generator: torch.Generator
) -> Float[Tensor, "b v k d gh gw"]:
    """The given latents, then pure noise up to `num_latents`."""
    b, v, count, d, gh, gw = given.shape
    shape = (b, v, num_latents - count, d, gh, gw)
    noise = torch.randn(shape, generator=generator, device=generator.device)
    return torch.cat([given, noise.to(given)], dim=2)


def bank_of(
    blocks: dict[int, Float[Tensor, "bv n d"]], order: tuple[int, ...], num_views: int
) -> FeatureBank:
    """The states of some blocks of a video network, the views of a clip side by side."""
    return FeatureBank(
        tuple(rearrange(blocks[block], "(b v) n d -> b (v n) d", v=num_views) for block in order)
    )
