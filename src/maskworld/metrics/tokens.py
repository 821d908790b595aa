"""How well tokens are predicted: bits per token, accuracy, and accuracy where something changed.

Token grids are `b v t gh gw`; their per-token scores keep that shape.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from maskworld.masking import num_hidden, random_positions
from maskworld.metrics.codebook import check_tokens
from maskworld.metrics.scores import ClipScores, concatenate

MASK_RATIOS = (0.5, 0.7, 0.9, 1.0)
"""The ratios at which masked cross-entropy is reported. Ours."""
NATS_PER_BIT = math.log(2)


def token_bits(logits: Float[Tensor, "*b k"], tokens: Int[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Bits that each token costs under softmax(logits): its cross-entropy over log 2.

    Raises:
        ValueError: a token outside 0..k-1.
    """
    k = logits.shape[-1]
    check_tokens(tokens, k)
    nats = F.cross_entropy(
        logits.reshape(-1, k).float(), tokens.reshape(-1).long(), reduction="none"
    )
    return nats.reshape(tokens.shape) / NATS_PER_BIT


def fixed_masks(
    num_clips: int,
    grid: tuple[int, int, int, int],
    mask_ratio: float,
    num_context: int,
    generator: torch.Generator,
) -> Bool[Tensor, "b v t gh gw"]:
    """Uniformly random masks, True = hidden: of each clip's future tokens the same number,
    `mask_ratio` of them, are hidden; of its first `num_context` frames none.

    A freshly seeded generator gives the same masks to every model that is compared.

    Args:
        num_clips: b.
        grid: (v, t, gh, gw) of one clip.
        mask_ratio: in (0, 1].
        num_context: frames that stay visible, at least 0.
        generator: the only source of randomness (on the CPU).

    Raises:
        ValueError: a ratio outside (0, 1], or no frame left to hide.
    """
    v, t, gh, gw = grid
    if not 0 < mask_ratio <= 1:
        raise ValueError(f"Expected a mask ratio in (0, 1], found {mask_ratio}.")
    if not 0 <= num_context < t:
        raise ValueError(f"Expected num_context in 0..{t - 1}, found {num_context}.")
    future = t - num_context
    count = v * future * gh * gw
    counts = num_hidden(torch.full((num_clips,), mask_ratio), count)
    hidden = random_positions(counts, count, generator)
    hidden = rearrange(hidden, "b (v t gh gw) -> b v t gh gw", v=v, t=future, gh=gh)
    return F.pad(hidden, (0, 0, 0, 0, num_context, 0), value=False)


def changed_tokens(
    tokens: Int[Tensor, "b v t gh gw"], last_given: Int[Tensor, "b v gh gw"]
) -> Bool[Tensor, "b v t gh gw"]:
    """Where the true future differs from the last given frame: copying that frame is always wrong
    there, so it scores exactly 0 in changed-token accuracy."""
    return tokens != repeat(last_given, "b v gh gw -> b v t gh gw", t=tokens.shape[2])


class TokenMetric:
    """Any per-token score (bits, right or wrong) gathered over clips, per horizon step.

    Accuracy, changed-token accuracy and bits per token are this one accumulator with
    different scores and counted tokens.
    """

    def __init__(self) -> None:
        self._parts: list[ClipScores] = []

    def update(
        self,
        scores: Float[Tensor, "b v t gh gw"] | Bool[Tensor, "b v t gh gw"],
        counted: Bool[Tensor, "b v t gh gw"] | None = None,
    ) -> None:
        """Adds a batch of clips.

        Args:
            scores: of each token, e.g. `token_bits(...)` or `prediction == tokens`.
            counted: the tokens that count, e.g. the hidden or the changed ones; None = all.

        Raises:
            ValueError: a counted score is not finite.
        """
        if counted is None:
            counted = torch.ones_like(scores, dtype=torch.bool)
        values = scores.to(torch.float64)
        total = torch.where(counted, values, torch.zeros_like(values)).sum((1, 3, 4))  # b t
        weight = counted.sum((1, 3, 4)).to(torch.float64)
        self._parts.append(ClipScores(total.cpu().numpy(), weight.cpu().numpy()))

    def merge(self, other: TokenMetric) -> None:
        """Adds the clips of another metric."""
        self._parts.extend(other._parts)

    def compute(self) -> ClipScores:
        """All clips so far.

        Raises:
            ValueError: no clip was seen.
        """
        return concatenate(self._parts)


class ChainRule:
    """Bits of whole clips by the chain rule: -log2 p(x) = -sum_i log2 p(x_i | tokens before i).

    Tokens are revealed in any fixed order, one or several at a time; each is recorded in the pass
    that predicts it, before it becomes visible. The sum is an exact code length only if each token
    is recorded once and no pass sees what it predicts: several tokens of one pass are coded as
    independent given what came before, which is an upper bound.
    """

    def __init__(self, tokens: Int[Tensor, "b v t gh gw"]) -> None:
        self.tokens = tokens
        self._bits = torch.zeros(tokens.shape, dtype=torch.float64)
        self._recorded = torch.zeros(tokens.shape, dtype=torch.bool)

    def record(
        self, logits: Float[Tensor, "b v t gh gw k"], revealed: Bool[Tensor, "b v t gh gw"]
    ) -> None:
        """Charges the tokens in `revealed` with their bits under `logits`.

        Raises:
            ValueError: one of them was recorded before.
        """
        bits = token_bits(logits[revealed], self.tokens[revealed])
        self.record_bits(bits, revealed)

    def record_bits(self, bits: Float[Tensor, " n"], revealed: Bool[Tensor, "b v t gh gw"]) -> None:
        """The same with the bits of the revealed tokens in row-major order already computed."""
        where = revealed.cpu()
        if bool((self._recorded & where).any()):
            twice = int((self._recorded & where).sum())
            raise ValueError(f"Expected each token recorded once, found {twice} recorded again.")
        self._bits[where] = bits.detach().cpu().to(torch.float64)
        self._recorded |= where

    def bits(
        self, counted: Bool[Tensor, "b v t gh gw"] | None = None
    ) -> Float[Tensor, "b v t gh gw"]:
        """Bits of each token, for `TokenMetric.update`.

        Raises:
            ValueError: a counted token (None = every one) has not been recorded.
        """
        missing = ~self._recorded if counted is None else counted.cpu() & ~self._recorded
        if bool(missing.any()):
            raise ValueError(
                f"Expected every counted token recorded, {int(missing.sum())} are missing: "
                "finish the decoding order first."
            )
        return self._bits
