"""Quantisers that learn with a network: vector quantisation, finite scalar quantisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskworld.tokenizers.kmeans import draw_by_weight, kmeans, nearest_codes


@dataclass(frozen=True)
class VectorQuantizerConfig:
    """Learned codes."""

    vocab_size: int = 8192
    """aMUSEd, WorldDreamer section 3.2."""
    dim: int = 64
    """Channels of the encoder's output. aMUSEd: 64."""
    code_dim: int | None = None
    """Channels in which codes are searched (ViT-VQGAN: 32); None is `dim`, without projections."""
    is_normalized: bool = False
    """Latents and codes on the unit sphere (ViT-VQGAN)."""
    update: Literal["ema", "gradient"] = "ema"
    decay: float = 0.99
    """Of the moving averages of "ema" and of the usage (van den Oord et al.: 0.99)."""
    commitment_weight: float = 0.25
    """beta of van den Oord et al."""
    codebook_weight: float = 1.0
    """Of the codebook term of "gradient"; "ema" has none."""
    revive_after: int = 100
    """Training steps without use until a code is dead. Ours."""


@dataclass(frozen=True)
class FSQConfig:
    """Finite scalar quantisation: a fixed grid, nothing to collapse.

    Reference: Mentzer et al., Finite Scalar Quantization, arXiv 2309.15505.
    """

    levels: tuple[int, ...] = (8, 5, 5, 5)
    """1,000 codes; the paper uses (8, 6, 5) for 240, (7, 5, 5, 5, 5) for 4,375."""
    dim: int = 64

    @property
    def vocab_size(self) -> int:
        return math.prod(self.levels)


class Quantized(NamedTuple):
    """`latents` carry the straight-through gradient; `terms` are weighted losses to add."""

    latents: Float[Tensor, "n gh gw d"]
    tokens: Int[Tensor, "n gh gw"]
    terms: dict[str, Float[Tensor, ""]]


class VectorQuantizer(nn.Module):
    """Nearest-code quantisation with a k-means start and revival of dead codes.

    Codes are started from the encoder's outputs in the first training batches: each batch gives at
    most a quarter as many codes as it has latents, until all are started. With torch.distributed,
    usage is summed over ranks and started or revived codes are those of rank 0.

    Reference: van den Oord et al., arXiv 1711.00937 (appendix A.1: moving averages); Yu et al.,
    ViT-VQGAN, arXiv 2110.04627 (factorised, normalised codes).
    """

    codes: Tensor
    num_started: Tensor
    counts: Tensor
    sums: Tensor
    steps_unused: Tensor
    steps_since_revival: Tensor

    def __init__(self, config: VectorQuantizerConfig) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = config.vocab_size
        width = config.code_dim or config.dim
        is_factorised = config.code_dim is not None
        self.project_in = nn.Linear(config.dim, width) if is_factorised else nn.Identity()
        self.project_out = nn.Linear(width, config.dim) if is_factorised else nn.Identity()
        codes = torch.zeros(config.vocab_size, width)
        if config.update == "gradient":
            self.codes = nn.Parameter(codes)
        else:
            self.register_buffer("codes", codes)
            self.register_buffer("sums", torch.zeros_like(codes))
        self.register_buffer("counts", torch.zeros(config.vocab_size))
        self.register_buffer("num_started", torch.zeros((), dtype=torch.long))
        for name in ("steps_unused", "steps_since_revival"):
            self.register_buffer(name, torch.zeros(config.vocab_size, dtype=torch.long))

    def forward(
        self, latents: Float[Tensor, "n gh gw d"], generator: torch.Generator | None = None
    ) -> Quantized:
        """Quantises; in training mode also starts, updates and revives codes.

        Args:
            generator: draws the codes that start or revive; required in training mode.
        """
        z = self._search_space(latents)
        flat = rearrange(z, "n gh gw d -> (n gh gw) d")
        if self.training:
            if generator is None:
                raise ValueError("Expected a generator in training mode, found None: pass one.")
            self._start(flat.detach(), generator)
        self._check_started()
        tokens = nearest_codes(flat.detach(), self._table()[: int(self.num_started)].detach())
        codes = F.embedding(tokens, self._table()).view_as(z)
        terms = {"commitment": self.config.commitment_weight * F.mse_loss(z, codes.detach())}
        if self.config.update == "gradient":
            terms["codebook"] = self.config.codebook_weight * F.mse_loss(codes, z.detach())
        if self.training:
            with torch.no_grad():
                self._track(flat.detach(), tokens, generator)
        straight_through = z + (codes - z).detach()
        return Quantized(
            self.project_out(straight_through.to(latents.dtype)),
            tokens.view(latents.shape[:-1]),
            terms,
        )

    @torch.no_grad()
    def encode(self, latents: Float[Tensor, "n gh gw d"]) -> Int[Tensor, "n gh gw"]:
        """Nearest started code of every latent, searched in float32."""
        self._check_started()
        flat = rearrange(self._search_space(latents), "n gh gw d -> (n gh gw) d")
        return nearest_codes(flat, self._table()[: int(self.num_started)]).view(latents.shape[:-1])

    def lookup(self, tokens: Int[Tensor, "n gh gw"]) -> Float[Tensor, "n gh gw d"]:
        """What the decoder receives for these codes."""
        self._check_started()
        return self.project_out(self._table()[tokens])

    def expectation(self, probabilities: Float[Tensor, "n gh gw k"]) -> Float[Tensor, "n gh gw d"]:
        """The probability-weighted mean of `lookup` over all codes."""
        self._check_started()
        table = self._table()
        return self.project_out(probabilities.to(table.dtype) @ table)

    @torch.no_grad()
    def usage(self) -> dict[str, Float[Tensor, ""]]:
        """`codebook_use`: share of codes used within `revive_after` steps; `perplexity` of their
        moving-average frequencies."""
        p = self.counts / self.counts.sum().clamp(min=1e-9)
        entropy = -(p * p.clamp(min=1e-12).log()).sum()
        is_used = (self.steps_unused < self.config.revive_after) & (self.counts > 0)
        return {"codebook_use": is_used.float().mean(), "perplexity": entropy.exp()}

    def _table(self) -> Tensor:
        if not self.config.is_normalized:
            return self.codes
        # a copy: reviving writes into the codes before the backward pass has read them
        return F.normalize(self.codes.clone(), dim=-1)

    def _search_space(self, latents: Tensor) -> Tensor:
        z = self.project_in(latents).float()
        return F.normalize(z, dim=-1) if self.config.is_normalized else z

    def _check_started(self) -> None:
        if self.num_started == 0:
            raise ValueError(
                "Expected a started codebook, found none: train at least one step or load a state."
            )

    @torch.no_grad()
    def _start(self, flat: Tensor, generator: torch.Generator) -> None:
        started = int(self.num_started)
        if started == self.vocab_size:
            return
        num = min(self.vocab_size - started, max(len(flat) // 4, 1))
        self.codes[started : started + num] = kmeans(flat, num, generator, num_iterations=10)[0]
        self.num_started += num
        if self.config.update == "ema":
            # one pseudo-count per code: the first batch already outweighs it
            self.sums[started : started + num] = self.codes[started : started + num]
        self.counts[started : started + num] = 1
        self._broadcast()

    def _track(self, flat: Tensor, tokens: Tensor, generator: torch.Generator | None) -> None:
        """Usage, moving averages, revival."""
        counts = torch.bincount(tokens, minlength=self.vocab_size).to(self.counts)
        sums = torch.zeros_like(self.codes).index_add_(0, tokens, flat)
        if _is_distributed():
            torch.distributed.all_reduce(counts)
            torch.distributed.all_reduce(sums)
        is_used = counts > 0
        self.counts.lerp_(counts, 1 - self.config.decay)
        self.steps_unused.add_(1).masked_fill_(is_used, 0)
        self.steps_since_revival.add_(1)
        if self.config.update == "ema":
            self.sums.lerp_(sums, 1 - self.config.decay)
            means = self.sums / self.counts.clamp(min=1e-12)[:, None]
            self.codes.copy_(torch.where(is_used[:, None], means, self.codes))
        waited = torch.minimum(self.steps_unused, self.steps_since_revival)
        is_dead = waited >= self.config.revive_after
        is_dead[int(self.num_started) :] = False
        dead = is_dead.nonzero().flatten()
        if len(dead) and generator is not None:
            self._revive(dead, flat, tokens, generator)

    def _revive(
        self, dead: Tensor, flat: Tensor, tokens: Tensor, generator: torch.Generator
    ) -> None:
        """Moves dead codes onto current latents, badly served ones more often."""
        errors = (flat - self._table()[tokens]).square().sum(1)
        weight = self.counts.mean().clamp(min=1e-3)  # as if of average use
        self.codes[dead] = flat[draw_by_weight(errors, len(dead), generator)].to(self.codes.dtype)
        self.counts[dead] = weight
        if self.config.update == "ema":
            self.sums[dead] = self.codes[dead] * weight
        self.steps_since_revival[dead] = 0
        self._broadcast()

    def _broadcast(self) -> None:
        if _is_distributed():
            for name in ("codes", "sums", "counts", "num_started"):
                if hasattr(self, name):
                    torch.distributed.broadcast(getattr(self, name).data, src=0)


class FiniteScalarQuantizer(nn.Module):
    """Rounds each of a few projected channels to one of its levels."""

    levels: Tensor
    basis: Tensor

    def __init__(self, config: FSQConfig) -> None:
        super().__init__()
        if min(config.levels) < 2:
            raise ValueError(
                f"Expected at least 2 levels per channel, found {config.levels}: "
                "raise the small ones."
            )
        self.config = config
        self.vocab_size = config.vocab_size
        levels = torch.tensor(config.levels)
        self.register_buffer("levels", levels, persistent=False)
        basis = torch.cat([torch.ones(1, dtype=torch.long), levels[:-1].cumprod(0)])
        self.register_buffer("basis", basis, persistent=False)
        self.register_buffer("counts", torch.zeros(self.vocab_size))
        self.counts: Tensor
        self.project_in = nn.Linear(config.dim, len(config.levels))
        self.project_out = nn.Linear(len(config.levels), config.dim)

    def forward(
        self, latents: Float[Tensor, "n gh gw d"], generator: torch.Generator | None = None
    ) -> Quantized:
        """Quantises with a straight-through gradient; nothing is random and no term is added."""
        bounded = self._bound(self.project_in(latents).float())
        rounded = bounded + (bounded.round() - bounded).detach()
        tokens = self._index(rounded.detach())
        if self.training:
            counts = torch.bincount(tokens.flatten(), minlength=self.vocab_size).to(self.counts)
            if _is_distributed():
                torch.distributed.all_reduce(counts)
            self.counts.lerp_(counts, 0.01)
        return Quantized(self.project_out(self._scale(rounded).to(latents.dtype)), tokens, {})

    @torch.no_grad()
    def encode(self, latents: Float[Tensor, "n gh gw d"]) -> Int[Tensor, "n gh gw"]:
        return self._index(self._bound(self.project_in(latents).float()).round())

    def lookup(self, tokens: Int[Tensor, "n gh gw"]) -> Float[Tensor, "n gh gw d"]:
        """What the decoder receives for these codes."""
        return self.project_out(self.codes(tokens).to(self.project_out.weight.dtype))

    def expectation(self, probabilities: Float[Tensor, "n gh gw k"]) -> Float[Tensor, "n gh gw d"]:
        """The probability-weighted mean of `lookup` over all codes."""
        table = self.codes(torch.arange(self.vocab_size, device=probabilities.device))
        mean = probabilities.to(table.dtype) @ table
        return self.project_out(mean.to(self.project_out.weight.dtype))

    def codes(self, tokens: Int[Tensor, "*n"]) -> Float[Tensor, "*n l"]:
        """Scaled grid coordinates in [-1, 1] of the codes."""
        digits = (tokens[..., None] // self.basis) % self.levels
        return self._scale(digits.float() - self.levels // 2)

    @torch.no_grad()
    def usage(self) -> dict[str, Float[Tensor, ""]]:
        """`codebook_use`: share of codes in the moving average of about 100 steps; `perplexity`."""
        p = self.counts / self.counts.sum().clamp(min=1e-9)
        entropy = -(p * p.clamp(min=1e-12).log()).sum()
        return {"codebook_use": (self.counts > 1e-3).float().mean(), "perplexity": entropy.exp()}

    def _bound(self, z: Tensor, margin: float = 1e-3) -> Tensor:
        """Into the range whose rounding gives exactly `levels` integers, 0 -> 0 (their Eq. 1)."""
        half = (self.levels - 1) * (1 + margin) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        return torch.tanh(z + torch.atanh(offset / half)) * half - offset

    def _scale(self, grid: Tensor) -> Tensor:
        return grid / (self.levels // 2)

    def _index(self, grid: Tensor) -> Tensor:
        return ((grid.round().long() + self.levels // 2) * self.basis).sum(-1)


def build_quantizer(
    config: VectorQuantizerConfig | FSQConfig,
) -> VectorQuantizer | FiniteScalarQuantizer:
    """The quantiser that a config describes."""
    if isinstance(config, FSQConfig):
        return FiniteScalarQuantizer(config)
    return VectorQuantizer(config)


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
