"""The latent tokenizers there are, and clips of several views through any of them."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from maskworld.interfaces import LatentTokenizer
from maskworld.nn.pixels import to_uint8, to_unit
from maskworld.tokenizers.causal_patch import CausalPatchConfig, CausalPatchTokenizer
from maskworld.tokenizers.causal_vae import CausalVAE, CausalVAEConfig
from maskworld.tokenizers.video_vae import PretrainedVideoVAEConfig, VideoVAE

__all__ = [
    "CausalPatchConfig",
    "CausalPatchTokenizer",
    "CausalVAE",
    "CausalVAEConfig",
    "LatentConfig",
    "PretrainedVideoVAEConfig",
    "VideoVAE",
    "build_latent_tokenizer",
    "decode_views",
    "encode_views",
]

LatentConfig = CausalPatchConfig | CausalVAEConfig | PretrainedVideoVAEConfig
CLIPS_AT_ONCE = 16


def build_latent_tokenizer(config: LatentConfig) -> CausalPatchTokenizer | CausalVAE | VideoVAE:
    """The tokenizer that a config describes."""
    if isinstance(config, CausalPatchConfig):
        return CausalPatchTokenizer(config)
    return CausalVAE(config) if isinstance(config, CausalVAEConfig) else VideoVAE(config)


@torch.no_grad()
def encode_views(
    tokenizer: LatentTokenizer, frames: UInt8[Tensor, "b v t c h w"] | Float[Tensor, "b v t c h w"]
) -> Float[Tensor, "b v tl d gh gw"]:
    """z_0 = E(x): normalised latents of 8k + 1 frames, every view on its own."""
    flat = rearrange(frames, "b v t c h w -> (b v) t c h w")
    latents = [tokenizer.encode(to_unit(part)) for part in flat.split(CLIPS_AT_ONCE)]
    return rearrange(torch.cat(latents), "(b v) t d h w -> b v t d h w", b=len(frames))


@torch.no_grad()
def decode_views(
    tokenizer: LatentTokenizer, latents: Float[Tensor, "b v tl d gh gw"]
) -> UInt8[Tensor, "b v t c h w"]:
    """Pixels of latents."""
    flat = rearrange(latents, "b v t d h w -> (b v) t d h w")
    frames = [to_uint8(tokenizer.decode(part)) for part in flat.split(CLIPS_AT_ONCE)]
    return rearrange(torch.cat(frames), "(b v) t c h w -> b v t c h w", b=len(latents))
