"""Which tokens are hidden: the cosine law, tube masks, and the patterns that the tasks need.

Masks are boolean `b t h w` with True = hidden. WorldDreamer's patterns draw their ratio from the
same law; MaskGWM drops a fixed share of the tokens out of its encoder (`drop_tokens`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Mask = Bool[Tensor, "b t h w"]


def cosine_mask_ratio(u: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Share of hidden tokens r = cos(pi u / 2) for u uniform on [0, 1].

    Its density is (2 / pi) (1 - r^2)^(-1/2): the paper prints this density times hw where it means
    a count (ADR 0004). Median 0.7071, mean 0.6366.

    Reference: WorldDreamer, section 3.3; MaskGIT's cosine schedule.
    """
    return torch.cos(0.5 * math.pi * u)


def num_hidden(ratio: Float[Tensor, "*n"], num_positions: int) -> Int[Tensor, "*n"]:
    """Hidden positions at a ratio: rounded, at least one, at most all."""
    return (ratio * num_positions).round().long().clamp(1, num_positions)


def random_positions(
    counts: Int[Tensor, " b"], num_positions: int, generator: torch.Generator
) -> Bool[Tensor, "b n"]:
    """Exactly `counts[i]` positions in row i, uniformly at random."""
    noise = torch.rand(len(counts), num_positions, generator=generator, device=generator.device)
    ranks = noise.argsort(dim=1).argsort(dim=1)
    return ranks < counts[:, None].to(ranks.device)


def sample_ratio(batch: int, generator: torch.Generator) -> Float[Tensor, " b"]:
    """One draw of the cosine law per sample."""
    return cosine_mask_ratio(torch.rand(batch, generator=generator, device=generator.device))


def tube_mask(shape: tuple[int, int, int, int], generator: torch.Generator) -> Mask:
    """The same random positions in every frame, as many as the cosine law says.

    Reference: WorldDreamer, section 3.3: different masks per frame would leak between neighbours.
    """
    b, t, h, w = shape
    spatial = random_positions(num_hidden(sample_ratio(b, generator), h * w), h * w, generator)
    return spatial.view(b, 1, h, w).expand(b, t, h, w).clone()


def full_mask(shape: tuple[int, int, int, int], generator: torch.Generator) -> Mask:
    """Everything hidden: text-to-video."""
    return torch.ones(shape, dtype=torch.bool, device=generator.device)


def first_frame_mask(shape: tuple[int, int, int, int], generator: torch.Generator) -> Mask:
    """Frame 0 visible, all else hidden: image-to-video and action-to-video."""
    hidden = full_mask(shape, generator)
    if shape[1] > 1:
        hidden[:, 0] = False
    return hidden


def prefix_mask(shape: tuple[int, int, int, int], generator: torch.Generator) -> Mask:
    """The first 1 to t/2 frames visible, a tube on the rest."""
    b, t, _, _ = shape
    hidden = tube_mask(shape, generator)
    if t > 1:
        length = torch.randint(
            1, max(2, t // 2 + 1), (b,), generator=generator, device=generator.device
        )
        visible = torch.arange(t, device=length.device)[None] < length[:, None]
        hidden &= ~visible[:, :, None, None]
    return hidden


def frame_by_frame_mask(shape: tuple[int, int, int, int], generator: torch.Generator) -> Mask:
    """Frames before a random one visible, that one hidden by the cosine law, later ones hidden."""
    b, t, _, _ = shape
    current = torch.randint(min(1, t - 1), t, (b,), generator=generator, device=generator.device)
    frame = torch.arange(t, device=current.device)[None]
    tube = tube_mask(shape, generator)
    later = (frame > current[:, None])[:, :, None, None]
    now = (frame == current[:, None])[:, :, None, None]
    return (tube & now) | later.expand(shape)


def last_frame_mask(shape: tuple[int, int, int, int], generator: torch.Generator) -> Mask:
    """All frames visible but the last, which is hidden by the cosine law: next-frame likelihood."""
    hidden = tube_mask(shape, generator)
    hidden[:, :-1] = False
    return hidden


def ends_mask(shape: tuple[int, int, int, int], generator: torch.Generator) -> Mask:
    """First and last frame visible: interpolation."""
    hidden = first_frame_mask(shape, generator)
    if shape[1] > 2:
        hidden[:, -1] = False
    return hidden


def box_mask(shape: tuple[int, int, int, int], generator: torch.Generator) -> Mask:
    """One box per sample through all frames, its area drawn from the cosine law: inpainting."""
    b, t, h, w = shape

    def uniform() -> Tensor:
        return torch.rand(b, generator=generator, device=generator.device)

    area = sample_ratio(b, generator)
    height = (h * area ** (0.25 + 0.5 * uniform())).round().clamp(1, h)
    width = (w * area * h / height).round().clamp(1, w)
    top = (uniform() * (h - height + 1)).floor()
    left = (uniform() * (w - width + 1)).floor()
    y = torch.arange(h, device=top.device)[None]
    x = torch.arange(w, device=top.device)[None]
    rows = (y >= top[:, None]) & (y < (top + height)[:, None])
    columns = (x >= left[:, None]) & (x < (left + width)[:, None])
    box = rows[:, :, None] & columns[:, None, :]
    return box[:, None].expand(b, t, h, w).clone()


@dataclass(frozen=True)
class MaskMixture:
    """Weights of the patterns; each sample of a batch draws its own. They need not sum to one.

    `MaskMixture()` is the paper's 100 % tube. The tasks of section 3.1 also need the other
    patterns, which tubes alone never show to the model (ADR 0005).
    """

    tube: float = 1.0
    first_frame: float = 0.0
    prefix: float = 0.0
    frame_by_frame: float = 0.0
    last_frame: float = 0.0
    ends: float = 0.0
    box: float = 0.0
    full: float = 0.0

    def __post_init__(self) -> None:
        weights = [getattr(self, f.name) for f in fields(self)]
        if min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(
                f"Expected mask weights >= 0 with a positive sum, found {weights}: "
                "give at least one pattern a positive weight."
            )

    def sample(
        self, shape: tuple[int, int, int, int], generator: torch.Generator
    ) -> Bool[Tensor, "b t h w"]:
        """A mask for tokens of `shape` (b, t, h, w), on the generator's device."""
        weights = torch.tensor([getattr(self, f.name) for f in fields(self)])
        choice = torch.multinomial(
            weights.to(generator.device), shape[0], replacement=True, generator=generator
        )
        hidden = torch.empty(shape, dtype=torch.bool, device=generator.device)
        for index, pattern in enumerate(fields(self)):
            rows = choice == index
            if rows.any():
                hidden[rows] = PATTERNS[pattern.name]((int(rows.sum()), *shape[1:]), generator)
        return hidden


PATTERNS: dict[str, Callable[[tuple[int, int, int, int], torch.Generator], Tensor]] = {
    "tube": tube_mask,
    "first_frame": first_frame_mask,
    "prefix": prefix_mask,
    "frame_by_frame": frame_by_frame_mask,
    "last_frame": last_frame_mask,
    "ends": ends_mask,
    "box": box_mask,
    "full": full_mask,
}


# --- tokens that an encoder never sees (MaskGWM)

DropKind = Literal["spatial", "spatial_rowwise", "time_rowwise", "time_random"]


@dataclass(frozen=True)
class DroppedTokens:
    """Which tokens of each frame are left, and which are gone; views share both."""

    kept: Int[Tensor, "b t k"]
    """Indices into the frame's tokens, in raster order: slot s of one frame lies near slot s of
    the next. The released code leaves them in the order of the draw, which tears slots apart."""
    dropped: Bool[Tensor, "b t n"]
    """True = gone."""

    @property
    def gone(self) -> Int[Tensor, "b t m"]:
        """Indices of the dropped tokens, in raster order; as many in every frame."""
        return _where(self.dropped)

    def gather(self, x: Float[Tensor, "b t v n d"]) -> Float[Tensor, "b t v k d"]:
        """The tokens that are left."""
        return gather_tokens(x, self.kept)

    def scatter(
        self, x: Float[Tensor, "b t v k d"], fill: Float[Tensor, "b t v n d"]
    ) -> Float[Tensor, "b t v n d"]:
        """The tokens that are left at their places, `fill` elsewhere."""
        return scatter_tokens(x, self.kept, fill)


def gather_tokens(
    x: Float[Tensor, "b t v n d"], index: Int[Tensor, "b t k"]
) -> Float[Tensor, "b t v k d"]:
    """The tokens at these places of every frame, in every view."""
    v, d = x.shape[2], x.shape[-1]
    return x.gather(3, index[:, :, None, :, None].expand(-1, -1, v, -1, d))


def scatter_tokens(
    x: Float[Tensor, "b t v k d"], index: Int[Tensor, "b t k"], fill: Float[Tensor, "b t v n d"]
) -> Float[Tensor, "b t v n d"]:
    """`x` at these places of every frame, in every view; `fill` elsewhere."""
    v, d = x.shape[2], x.shape[-1]
    return fill.scatter(3, index[:, :, None, :, None].expand(-1, -1, v, -1, d), x.to(fill.dtype))


def _where(mask: Bool[Tensor, "b t n"]) -> Int[Tensor, "b t k"]:
    places, (b, t, _) = mask.nonzero()[:, 2], mask.shape  # in raster order
    return places.view(b, t, len(places) // (b * t))


def drop_tokens(
    kind: DropKind, shape: tuple[int, int, int, int], ratio: float, generator: torch.Generator
) -> DroppedTokens:
    """Drops the share `ratio` of every frame's tokens.

    Args:
        kind: spatial: at random, the same in all frames; spatial_rowwise: the same in all frames,
            as many in every row; time_rowwise: anew per frame, as many in every row, so that the
            tokens that are left still form a grid (the "shifted" temporal attention); time_random:
            anew per frame, anywhere (the baseline with masked attention).
        shape: samples, frames, rows and columns of tokens.

    Raises:
        ValueError: a share that is no whole number of tokens per row.

    Reference: MaskGWM, section 3.3.
    """
    b, t, rows, columns = shape
    per_row = ratio * columns
    if not 0 <= ratio < 1 or abs(per_row - round(per_row)) > 1e-6:
        raise ValueError(
            f"Expected a ratio in [0, 1) that drops whole tokens of a row of {columns}, found "
            f"{ratio} ({per_row:g} tokens): use {max(0, round(per_row)) / columns:g}."
        )
    count = round(per_row)
    draws = b if kind.startswith("spatial") else b * t
    groups, size = (rows, columns) if kind.endswith("rowwise") else (1, rows * columns)
    number = count if kind.endswith("rowwise") else count * rows
    counts = torch.full((draws * groups,), number, device=generator.device)
    dropped = random_positions(counts, size, generator).view(draws, rows * columns)
    if draws == b:
        dropped = dropped[:, None].expand(b, t, -1)
    dropped = dropped.reshape(b, t, rows * columns)
    return DroppedTokens(_where(~dropped), dropped)


def drop_either(
    kinds: tuple[DropKind, DropKind],
    p_second: float | int,
    shape: tuple[int, int, int, int],
    ratio: float | int,
    generator: torch.Generator,
    device: torch.device | None = None,
) -> tuple[DroppedTokens, Bool[Tensor, " b"]]:
    """Each sample's tokens dropped by one of two kinds, never both, and which samples have the
    second.

    Reference: MaskGWM, Eq. 4.
    """
    draw = torch.rand(shape[0], generator=generator, device=generator.device)
    is_second = (draw < p_second).to(device)
    first, second = (drop_tokens(kind, shape, float(ratio), generator).dropped for kind in kinds)
    dropped = torch.where(is_second[:, None, None], second.to(device), first.to(device))
    return DroppedTokens(_where(~dropped), dropped), is_second
