"""Parallel masked decoding: all hidden tokens in about ten steps.

Every step predicts all hidden tokens at once, keeps a scheduled number of them and leaves the rest
hidden. Tokens that were given, or kept in an earlier step, never change. The sampler knows nothing
about guidance or prompts: it gets one function from (tokens, hidden) to logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

Order = Literal["confidence", "random", "halton"]
Scope = Literal["tube", "frame", "clip"]

TokenModel = Callable[[Tensor, Tensor], Tensor]
"""(tokens `b t h w`, hidden `b t h w`) -> logits `m k` of the hidden positions, row-major."""


@dataclass(frozen=True)
class ParallelDecoding:
    """How hidden tokens are filled in."""

    num_steps: int = 10
    """Paper: about 10."""
    order: Order = "confidence"
    """Which tokens are kept first: the most confident (paper), random ones, or a fixed
    low-discrepancy order (Halton)."""
    scope: Scope = "tube"
    """What is kept together: one place in all frames (as the paper's tube masks train), so many
    tokens in each frame, or so many in the whole clip."""
    temperature: float = 1.0
    """Divides the logits before a token is drawn; 0 takes the most likely token."""
    choice_temperature: float = 4.5
    """Gumbel noise on the confidence, annealed linearly to 0 (MaskGIT: 4.5)."""
    guidance_scale: float = 1.0
    """1 = none; 1 + beta of Eq. 6. Read by the system, not by the sampler."""

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"Expected num_steps >= 1, found {self.num_steps}: use about 10.")
        if self.temperature < 0 or self.choice_temperature < 0:
            raise ValueError(
                f"Expected temperatures >= 0, found {self.temperature} and "
                f"{self.choice_temperature}: 0 means greedy."
            )
        for name, value, choices in (
            ("order", self.order, Order.__args__),  # type: ignore[attr-defined]
            ("scope", self.scope, Scope.__args__),  # type: ignore[attr-defined]
        ):
            if value not in choices:
                raise ValueError(f"Expected {name} in {choices}, found {value!r}.")


@dataclass(frozen=True)
class Decoded:
    """Filled tokens and, per token, the distribution it was drawn from."""

    tokens: Int[Tensor, "b t h w"]
    probabilities: Float[Tensor, "b t h w k"] | None
    """One-hot at given tokens; None unless asked for and something was hidden."""


def cosine_schedule(num_units: Int[Tensor, " g"], num_steps: int) -> Int[Tensor, "steps g"]:
    """How many of the `num_units` initially hidden units stay hidden after each step.

    floor(n cos(pi k / 2T)), at least one less than before, and 0 after the last step. For n = 240
    and T = 10: 237, 228, 213, 194, 169, 141, 108, 74, 37, 0.

    Reference: WorldDreamer, section 3.3; MaskGIT.
    """
    remaining = num_units
    rows = []
    for step in range(1, num_steps + 1):
        ratio = math.cos(0.5 * math.pi * step / num_steps)
        planned = (num_units * ratio + 1e-9).floor().long()
        if step == num_steps:
            planned = torch.zeros_like(num_units)
        remaining = torch.minimum(planned.clamp(min=1 if step < num_steps else 0), remaining - 1)
        remaining = remaining.clamp(min=0)
        rows.append(remaining)
    return torch.stack(rows)


@lru_cache(maxsize=32)
def halton_order(shape: tuple[int, ...]) -> Int[Tensor, " n"]:
    """Rank of every cell of a 1- to 3-D grid in a Halton walk (bases 2, 3, 5); any sides.

    Cached (0.4 s for 12 x 20 x 24): do not write into it.

    Reference: Besnier et al., Halton scheduler for masked generative image transformers, 2025.
    """
    total = math.prod(shape)
    ranks = torch.full((total,), -1, dtype=torch.long)
    found, index = 0, 1
    while found < total:
        cell = 0
        for side, base in zip(shape, (2, 3, 5), strict=False):
            cell = cell * side + min(int(_radical_inverse(index, base) * side), side - 1)
        if ranks[cell] < 0:
            ranks[cell] = found
            found += 1
        index += 1
        if index > 64 * total:  # the few cells that the walk is slow to reach, in grid order
            for cell in (ranks < 0).nonzero().flatten().tolist():
                ranks[cell] = found
                found += 1
    return ranks


def _radical_inverse(index: int, base: int) -> float:
    value, scale = 0.0, 1.0 / base
    while index:
        index, digit = divmod(index, base)
        value += digit * scale
        scale /= base
    return value


@torch.no_grad()
def decode_parallel(
    model: TokenModel,
    tokens: Int[Tensor, "b t h w"],
    hidden: Bool[Tensor, "b t h w"],
    decoding: ParallelDecoding,
    generator: torch.Generator,
    keep_probabilities: bool = False,
) -> Decoded:
    """Fills the hidden tokens of a clip; visible ones are returned unchanged.

    Each group of units (a clip's places, a frame's tokens, a clip's tokens) follows its own cosine
    schedule from the number of its hidden units.

    Reference: WorldDreamer, section 3.3.
    """
    groups = _grouping(decoding.scope)
    num_units = groups.units(hidden).any(dim=-1).sum(dim=-1)  # g
    schedule = cosine_schedule(num_units, decoding.num_steps)
    fixed = _fixed_scores(decoding, tokens.shape, generator).to(tokens.device)
    tokens = torch.where(hidden, 0, tokens.long())
    probabilities: Tensor | None = None
    for step in range(decoding.num_steps):
        if not hidden.any():
            break
        logits = model(tokens, hidden)
        drawn, log_p, p = draw_tokens(logits, decoding.temperature, generator)
        if keep_probabilities:
            probabilities = _record(probabilities, tokens, hidden, p)
        tokens = tokens.masked_scatter(hidden, drawn)
        score = fixed
        if decoding.order == "confidence":
            noise = decoding.choice_temperature * (1 - (step + 1) / decoding.num_steps)
            confidence = torch.zeros(tokens.shape, device=tokens.device)
            score = confidence.masked_scatter(hidden, log_p)
            score = groups.reduce(score, hidden)
            score = score + noise * _gumbel(score.shape, generator).to(score.device)
        hidden = hidden & groups.spread(
            _lowest(score, groups.units(hidden).any(dim=-1), schedule[step]), tokens.shape
        )
    return Decoded(tokens, probabilities)


def draw_tokens(
    logits: Float[Tensor, "m k"], temperature: float, generator: torch.Generator
) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"], Float[Tensor, "m k"]]:
    """Draws from softmax(logits / temperature).

    Returns the tokens, their log-probability at temperature 1, and the whole distribution at
    temperature 1. Temperature 0 takes the most likely token.
    """
    log_probabilities = logits.float().log_softmax(dim=-1)
    if temperature == 0:
        drawn = log_probabilities.argmax(dim=-1)
    else:
        scaled = (log_probabilities / temperature).softmax(dim=-1)
        if generator.device.type != scaled.device.type:
            scaled = scaled.to(generator.device)
        drawn = torch.multinomial(scaled, 1, generator=generator)[:, 0].to(logits.device)
    log_p = log_probabilities.gather(1, drawn[:, None])[:, 0]
    return drawn, log_p, log_probabilities.exp()


@dataclass(frozen=True)
class _Grouping:
    """How `b t h w` splits into groups with their own schedule, units, and tokens per unit."""

    pattern: str  # "b t h w -> groups units members"

    def units(self, x: Tensor) -> Tensor:
        return rearrange(x, self.pattern)

    def reduce(self, score: Tensor, hidden: Tensor) -> Tensor:
        """Mean over the hidden members of each unit."""
        members, weight = self.units(score), self.units(hidden).to(score.dtype)
        return (members * weight).sum(dim=-1) / weight.sum(dim=-1).clamp(min=1)

    def spread(self, units: Tensor, shape: torch.Size) -> Tensor:
        """A value per unit to a value per token."""
        left, right = self.pattern.split(" -> ")
        _, t, h, w = shape
        members = t if right.endswith("(h w) t") else 1
        expanded = units.unsqueeze(-1).expand(*units.shape, members)
        return rearrange(expanded, f"{right} -> {left}", t=t, h=h, w=w)


def _grouping(scope: Scope) -> _Grouping:
    return _Grouping(
        {
            "tube": "b t h w -> b (h w) t",
            "frame": "b t h w -> (b t) (h w) 1",
            "clip": "b t h w -> b (t h w) 1",
        }[scope]
    )


def _fixed_scores(
    decoding: ParallelDecoding, shape: torch.Size, generator: torch.Generator
) -> Tensor:
    """Scores that do not depend on the model: random and Halton orders; `groups units`."""
    b, t, h, w = shape
    groups, grid = {
        "tube": (b, (h, w)),
        "frame": (b * t, (h, w)),
        "clip": (b, (h, w, t)),
    }[decoding.scope]
    if decoding.order == "halton":
        ranks = halton_order(grid)
        if decoding.scope == "clip":
            ranks = rearrange(ranks, "(h w t) -> (t h w)", h=h, w=w)
        return -ranks.float().expand(groups, -1)
    return torch.rand(groups, math.prod(grid), generator=generator, device=generator.device)


def _gumbel(shape: torch.Size, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(shape, generator=generator, device=generator.device)
    return -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))


def _lowest(score: Tensor, candidates: Tensor, count: Tensor) -> Tensor:
    """The `count[g]` lowest-scored candidates of each group: those that stay hidden."""
    ranks = score.masked_fill(~candidates, torch.inf).argsort(dim=-1).argsort(dim=-1)
    return (ranks < count[:, None]) & candidates


def _record(probabilities: Tensor | None, tokens: Tensor, hidden: Tensor, p: Tensor) -> Tensor:
    if probabilities is None:
        probabilities = p.new_zeros(*tokens.shape, p.shape[-1])
        probabilities = probabilities.scatter(-1, tokens.unsqueeze(-1), 1.0)
    probabilities[hidden] = p
    return probabilities
