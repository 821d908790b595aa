"""Stable Diffusion 3's text: two CLIPs side by side, padded to the width of a T5, then the T5.

Of every prompt come 77 CLIP tokens (768 + 1280 numbers, the rest zeros) followed by 256 T5 tokens
of 4096, padding included and nothing masked, and the two CLIPs' pooled texts side by side (2048).
Computes what diffusers' `StableDiffusion3Pipeline.encode_prompt` computes
(`tests/unit/test_conditioning_sd3_text.py`).

Reference: Esser et al. 2024 (SD3), section 4 and appendix B.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

CLIPS = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
T5 = ("tokenizer_3", "text_encoder_3")


@dataclass(frozen=True)
class SD3TextConfig:
    """The frozen text encoders of an SD3 release, through transformers."""

    path: str = "stabilityai/stable-diffusion-3-medium-diffusers"
    """The pipeline's folder in diffusers' form, with tokenizer, tokenizer_2, tokenizer_3,
    text_encoder, text_encoder_2 and text_encoder_3; or its hub id."""
    dim: int = 4096
    """Width of the T5's states."""
    pooled_dim: int = 2048
    """768 of CLIP-L and 1280 of CLIP-G."""
    has_t5: bool = True
    """False: zeros instead of the T5's states, as SD3 runs without its largest part."""
    max_t5_tokens: int = 256


class SD3TextEncoder(nn.Module):
    """The frozen encoders, on the module's device. Their weights are loaded on first use and never
    saved with a model."""

    place: Tensor

    def __init__(self, config: SD3TextConfig) -> None:
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.register_buffer("place", torch.zeros(0), persistent=False)

    @torch.no_grad()
    def forward(self, texts: list[str]) -> tuple[Float[Tensor, "b m e"], Float[Tensor, "b p"]]:
        """States and pooled text.

        Raises:
            ValueError: the weights are not there, or their widths are not the config's.
        """
        config, device = self.config, str(self.place.device)
        read = [_read_clip(texts, *_load(config.path, *folders, device)) for folders in CLIPS]
        states = torch.cat([hidden for hidden, _ in read], dim=-1)
        pooled = torch.cat([whole for _, whole in read], dim=-1)
        if pooled.shape[-1] != config.pooled_dim or states.shape[-1] > config.dim:
            raise ValueError(
                f"Expected CLIPs of {config.pooled_dim} pooled numbers and at most {config.dim} "
                f"per token, found {pooled.shape[-1]} and {states.shape[-1]} in {config.path}: set "
                f"SD3TextConfig(pooled_dim={pooled.shape[-1]})."
            )
        states = F.pad(states, (0, config.dim - states.shape[-1]))
        if not config.has_t5:
            long = states.new_zeros(len(texts), config.max_t5_tokens, config.dim)
            return torch.cat([states, long], dim=1), pooled
        tokenizer, encoder = _load(config.path, *T5, device)
        if encoder.config.d_model != config.dim:
            raise ValueError(
                f"Expected a T5 of width {config.dim}, found {encoder.config.d_model} in "
                f"{config.path}: set SD3TextConfig(dim={encoder.config.d_model})."
            )
        ids = _ids(tokenizer, texts, config.max_t5_tokens).to(encoder.device)
        long = encoder(ids)[0]  # no attention mask: SD3 was trained on padding as it comes
        return torch.cat([states.to(long), long], dim=1), pooled


def _read_clip(texts: list[str], tokenizer: Any, encoder: Any) -> tuple[Tensor, Tensor]:
    """The states before the last layer, and the projected pooled text."""
    limit = encoder.config.max_position_embeddings
    out = encoder(_ids(tokenizer, texts, limit).to(encoder.device), output_hidden_states=True)
    return out.hidden_states[-2], out.text_embeds


def _ids(tokenizer: Any, texts: list[str], length: int) -> Tensor:
    options = {"padding": "max_length", "max_length": length, "truncation": True}
    return tokenizer(texts, return_tensors="pt", **options).input_ids


@lru_cache(maxsize=6)
def _load(path: str, tokenizer: str, encoder: str, device: str) -> tuple[Any, Any]:
    try:
        from transformers import AutoTokenizer, CLIPTextModelWithProjection, T5EncoderModel
    except ImportError as error:
        raise ValueError(
            "Expected transformers for SD3's text encoders: pip install 'maskworld[pretrained]', "
            "or use SmallTextConfig."
        ) from error
    kind = T5EncoderModel if encoder == T5[1] else CLIPTextModelWithProjection
    try:
        words = AutoTokenizer.from_pretrained(path, subfolder=tokenizer)
        model: Any = kind.from_pretrained(path, subfolder=encoder)
    except (OSError, ValueError) as error:
        where = Path(path) / encoder
        raise ValueError(
            f"Expected SD3's {tokenizer} and {encoder} in {str(path)!r}, found none that load "
            f"(missing or damaged: {where}): give the pipeline's folder or a hub id you can reach, "
            "set has_t5=False if only the T5 is missing, or use SmallTextConfig."
        ) from error
    return words, model.to(device).eval().requires_grad_(False)
