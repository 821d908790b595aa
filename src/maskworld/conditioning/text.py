"""Prompts to text embeddings: a pretrained T5, or a small encoder trained from scratch."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskworld.nn.attention import SelfAttention
from maskworld.nn.feedforward import FeedForward


@dataclass(frozen=True)
class SmallTextConfig:
    """Words hashed into buckets, embedded, and one transformer layer; trained with the model."""

    num_buckets: int = 4096
    dim: int = 64
    max_words: int = 32
    num_heads: int = 4


@dataclass(frozen=True)
class T5TextConfig:
    """A frozen T5 encoder through transformers (WorldDreamer, section 3.2; its size unknown)."""

    path: str = "google/t5-v1_1-xl"
    """Local folder or hub id."""
    dim: int = 2048
    """Width of its embeddings."""
    max_tokens: int = 77


def word_buckets(text: str, num_buckets: int) -> list[int]:
    """Stable bucket of every word, 1..num_buckets - 1; 0 is padding."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return [1 + zlib.crc32(word.encode()) % (num_buckets - 1) for word in words]


class SmallTextEncoder(nn.Module):
    """The small encoder of `SmallTextConfig`."""

    def __init__(self, config: SmallTextConfig) -> None:
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.embedding = nn.Embedding(config.num_buckets, config.dim)
        self.position = nn.Embedding(config.max_words, config.dim)
        nn.init.normal_(self.embedding.weight, std=0.2)
        nn.init.normal_(self.position.weight, std=0.02)
        self.attention_norm = nn.LayerNorm(config.dim)
        self.attention = SelfAttention(config.dim, config.num_heads)
        self.ffn_norm = nn.LayerNorm(config.dim)
        self.ffn = FeedForward(config.dim, 2 * config.dim)

    def tokenize(self, texts: list[str]) -> Int[Tensor, "b k"]:
        """Buckets, padded with 0 to the longest text (at least one column)."""
        rows = [word_buckets(t, self.config.num_buckets)[: self.config.max_words] for t in texts]
        width = max(1, *(len(row) for row in rows)) if rows else 1
        return torch.tensor([row + [0] * (width - len(row)) for row in rows])

    def forward(self, texts: list[str]) -> tuple[Float[Tensor, "b k d"], Bool[Tensor, "b k"]]:
        """Embeddings and which of them are real words; an empty text has none."""
        device = self.embedding.weight.device
        ids = self.tokenize(texts).to(device)
        real = ids > 0
        x = self.embedding(ids) + self.position.weight[: ids.shape[1]]
        attn_mask = (real | ~real.any(dim=1, keepdim=True))[:, None, None, :]
        x = x + self.attention(self.attention_norm(x), attn_mask)
        x = x + self.ffn(self.ffn_norm(x))
        return x, real


class T5TextEncoder(nn.Module):
    """A frozen T5. Its weights are loaded on first use and never saved with the model."""

    def __init__(self, config: T5TextConfig) -> None:
        super().__init__()
        self.config = config
        self.dim = config.dim

    def forward(self, texts: list[str]) -> tuple[Float[Tensor, "b k d"], Bool[Tensor, "b k"]]:
        """Embeddings and which of them are real tokens; an empty text has none.

        Raises:
            ValueError: the weights are not there, or their width is not `config.dim`.
        """
        tokenizer, encoder = _load_t5(self.config.path)
        if encoder.config.d_model != self.config.dim:
            raise ValueError(
                f"Expected a T5 of width {self.config.dim}, found {encoder.config.d_model} in "
                f"{self.config.path}: set T5TextConfig(dim={encoder.config.d_model})."
            )
        batch = tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=self.config.max_tokens,
            return_tensors="pt",
        ).to(encoder.device)
        with torch.no_grad():
            x = encoder(**batch).last_hidden_state
        empty = torch.tensor([not text.strip() for text in texts], device=x.device)
        return x, batch["attention_mask"].bool() & ~empty[:, None]


@lru_cache(maxsize=2)
def _load_t5(path: str) -> tuple[Any, Any]:
    try:
        from transformers import AutoTokenizer, T5EncoderModel
    except ImportError as error:
        raise ValueError(
            "Expected transformers for the T5 text encoder: pip install 'maskworld[pretrained]', "
            "or use SmallTextConfig."
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        encoder = T5EncoderModel.from_pretrained(path).eval().requires_grad_(False)
    except OSError as error:
        raise ValueError(
            f"Expected T5 weights at {path!r}, found none that load: give a local folder or a hub "
            "id you can reach, or use SmallTextConfig."
        ) from error
    return tokenizer, encoder


def build_text_encoder(
    config: SmallTextConfig | T5TextConfig | None,
) -> SmallTextEncoder | T5TextEncoder | None:
    """The encoder that a config describes; None for a model without text."""
    if isinstance(config, SmallTextConfig):
        return SmallTextEncoder(config)
    return None if config is None else T5TextEncoder(config)
