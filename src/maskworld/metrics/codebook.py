"""How much of a codebook is used."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


def check_tokens(tokens: Int[Tensor, "*n"], vocab_size: int) -> None:
    """Raises ValueError unless all tokens are codes, 0..vocab_size - 1."""
    if tokens.numel() == 0:
        return
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= vocab_size:
        raise ValueError(
            f"Expected tokens in 0..{vocab_size - 1}, found {low}..{high}: "
            "was a mask id left in, or is this another tokenizer's grid?"
        )


@dataclass(frozen=True)
class CodebookUsage:
    """`num_used` codes occurred of `vocab_size`; `entropy_bits` is that of their frequencies."""

    num_used: int
    vocab_size: int
    entropy_bits: float
    num_tokens: int

    @property
    def share(self) -> float:
        """Used codes over all codes, in [0, 1]. At most `num_tokens / vocab_size`."""
        return self.num_used / self.vocab_size

    @property
    def perplexity(self) -> float:
        """2^entropy: the number of equally frequent codes with the same entropy."""
        return float(2**self.entropy_bits)


class CodebookUse:
    """Counts codes over any number of frames."""

    def __init__(self, vocab_size: int) -> None:
        if vocab_size < 1:
            raise ValueError(f"Expected a vocabulary of at least 1 code, found {vocab_size}.")
        self.counts = torch.zeros(vocab_size, dtype=torch.int64)

    def update(self, tokens: Int[Tensor, "*n"]) -> None:
        """Counts a batch of tokens of any shape.

        Raises:
            ValueError: a token outside the vocabulary.
        """
        check_tokens(tokens, len(self.counts))
        flat = tokens.reshape(-1).cpu().long()
        self.counts += torch.bincount(flat, minlength=len(self.counts))

    def merge(self, other: CodebookUse) -> None:
        """Adds the counts of another metric of the same vocabulary."""
        if len(self.counts) != len(other.counts):
            raise ValueError(
                f"Expected one vocabulary, found {len(self.counts)} and {len(other.counts)} codes."
            )
        self.counts += other.counts

    def compute(self) -> CodebookUsage:
        """Use over everything seen.

        Raises:
            ValueError: no token was seen.
        """
        n = int(self.counts.sum())
        if n == 0:
            raise ValueError("Expected at least one token, found none: call update() first.")
        p = self.counts[self.counts > 0].to(torch.float64) / n
        entropy = float(-(p * p.log2()).sum())
        return CodebookUsage(
            num_used=len(p), vocab_size=len(self.counts), entropy_bits=entropy + 0.0, num_tokens=n
        )
