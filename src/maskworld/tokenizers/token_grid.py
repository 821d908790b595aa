"""Codes without pixels: datasets that ship tokens of somebody else's tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskworld.tokenizers.frames import PixelObjective
from maskworld.types import LossOutput


@dataclass(frozen=True)
class TokenGridConfig:
    """A grid of codes that we can predict but not draw, such as commaVQ's 8 x 16 of 1024."""

    vocab_size: int = 1024
    name: str = "tokens"


class TokenGrid(nn.Module):
    """Stands where a tokenizer would; it can only say that pixels are not to be had."""

    def __init__(self, config: TokenGridConfig) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = config.vocab_size
        self.stride = 1

    def encode(self, frames: Float[Tensor, "n c h w"]) -> Int[Tensor, "n gh gw"]:
        """Always raises ValueError."""
        raise ValueError(
            f"Expected tokens of {self.config.name!r}, found pixels: this model was trained on "
            "codes of a tokenizer that is not here; pass tokens."
        )

    def decode(self, tokens: Int[Tensor, "n gh gw"]) -> Float[Tensor, "n c h w"]:
        """Always raises ValueError."""
        raise ValueError(
            f"Expected a tokenizer that draws {self.config.name!r}, found none: decode the tokens "
            "with the decoder that belongs to the dataset."
        )

    def decode_probabilities(
        self, probabilities: Float[Tensor, "n gh gw k"]
    ) -> Float[Tensor, "n c h w"]:
        """Always raises ValueError."""
        return self.decode(probabilities.argmax(dim=-1))

    def reconstruction_loss(
        self,
        frames: Float[Tensor, "n c h w"],
        generator: torch.Generator,
        objective: PixelObjective | None = None,
    ) -> LossOutput:
        """Always raises ValueError."""
        raise ValueError(
            f"Expected a tokenizer to train, found the fixed codes {self.config.name!r}: leave the "
            "tokenizer stage out."
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Nothing to train."""
        return []
