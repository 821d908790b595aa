"""A window of latents as tokens: given ones first, then those to be predicted.

Latents are `b v k d gh gw` (views, latent frames, channels, rows, columns); a network sees every
view as a row of its batch, its tokens frame by frame and row by row.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskworld.flow import interpolate
from maskworld.types import FeatureBank

NUM_PLACES = 6
"""Numbers that tell a place at one frequency."""


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


def slightly_noisy(
    given: Float[Tensor, "b v g d gh gw"], strength: float, generator: torch.Generator
) -> Float[Tensor, "b v g d gh gw"]:
    """Latents with up to a share `strength` of noise, one level per sample."""
    if not strength:
        return given
    level = torch.rand(len(given), generator=generator, device=generator.device) * strength
    eps = torch.randn(given.shape, generator=generator, device=generator.device)
    return interpolate(given, eps.to(given), level.to(given))


def draw_kept(
    batch_size: int, num_tokens: int, p_prune: float | int, generator: torch.Generator
) -> Int[Tensor, "b m"]:
    """Which tokens stay when `p_prune` of them are dropped, in order; drawn for every row."""
    if not 0 <= p_prune < 1:
        raise ValueError(f"Expected p_prune from 0 to below 1, found {p_prune}.")
    count = max(1, round((1 - p_prune) * num_tokens))
    draw = torch.rand(batch_size, num_tokens, generator=generator, device=generator.device)
    return draw.argsort(dim=1)[:, :count].sort(dim=1).values


def side_by_side(tokens: Float[Tensor, "bv n d"], num_views: int) -> Float[Tensor, "b vn d"]:
    """The tokens of all views of a clip in one row."""
    return rearrange(tokens, "(b v) n d -> b (v n) d", v=num_views)


def keep(
    kept: Int[Tensor, "b m"],
    z: Float[Tensor, "b n d"],
    t: Float[Tensor, "b n"],
    positions: Float[Tensor, "r a n"],
) -> tuple[Float[Tensor, "b m d"], Float[Tensor, "b m"], Float[Tensor, "b a m"]]:
    """The tokens that stay, with their times and positions."""
    rows = positions.expand(len(z), -1, -1)
    return (
        z.gather(1, kept[..., None].expand(-1, -1, z.shape[-1])),
        t.gather(1, kept),
        rows.gather(2, kept[:, None].expand(-1, rows.shape[1], -1)),
    )


def bank_of(
    blocks: dict[int, Float[Tensor, "bv m d"]],
    order: tuple[int, ...],
    num_views: int,
    places: Float[Tensor, "n p"] | None = None,
    kept: Int[Tensor, "bv m"] | None = None,
) -> FeatureBank:
    """The states of some blocks of a video network, the views of a clip side by side.

    Args:
        places: told to every state of a view (`grid_places`).
        kept: which tokens the states are of; None = all.
    """
    told = dict(blocks)
    if places is not None:
        for block, states in blocks.items():
            own = places.expand(len(states), -1, -1) if kept is None else places[kept]
            told[block] = torch.cat([states, own], dim=-1)
    return FeatureBank(tuple(side_by_side(told[block], num_views) for block in order))


def grid_places(grid: tuple[int, int, int], frequencies: int) -> Float[Tensor, "n p"]:
    """Sine and cosine of every cell's place in time, row and column: half a turn, a whole turn, two
    turns, ... from one end of an axis to the other."""
    axes = [(torch.arange(count) + 0.5) / count * math.pi for count in grid]
    cells = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)
    angles = (cells[..., None] * 2.0 ** torch.arange(frequencies)).flatten(1)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
