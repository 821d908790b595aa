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
from maskworld.tokenizers.image_vae import ImageVAE, PretrainedImageVAEConfig
from maskworld.tokenizers.video_vae import PretrainedVideoVAEConfig, VideoVAE
from maskworld.types import Batch

__all__ = [
    "CausalPatchConfig",
    "CausalPatchTokenizer",
    "CausalVAE",
    "CausalVAEConfig",
    "ImageVAE",
    "LatentConfig",
    "PretrainedImageVAEConfig",
    "PretrainedVideoVAEConfig",
    "VideoVAE",
    "build_latent_tokenizer",
    "decode_views",
    "encode_views",
    "latents_of",
]

LatentConfig = (
    CausalPatchConfig | CausalVAEConfig | PretrainedVideoVAEConfig | PretrainedImageVAEConfig
)
CLIPS_AT_ONCE = 16


def build_latent_tokenizer(
    config: LatentConfig,
) -> CausalPatchTokenizer | CausalVAE | VideoVAE | ImageVAE:
    """The tokenizer that a config describes."""
    if isinstance(config, PretrainedImageVAEConfig):
        return ImageVAE(config)
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


def latents_of(
    tokenizer: LatentTokenizer, batch: Batch, num_frames: int | None = None
) -> Float[Tensor, "b v tl d gh gw"]:
    """The batch's own latents, or those of its frames.

    Args:
        num_frames: only of the first frames, 8k + 1; None = of all.

    Raises:
        ValueError: neither latents nor frames.
    """
    if batch.latents is not None:
        stride = tokenizer.temporal_stride
        count = None if num_frames is None else (num_frames - 1) // stride + 1
        return batch.latents[:, :, :count]
    if batch.frames is None:
        raise ValueError("Expected frames or latents in the batch, found neither.")
    return encode_views(tokenizer, batch.frames[:, :, :num_frames])


@torch.no_grad()
def decode_views(
    tokenizer: LatentTokenizer, latents: Float[Tensor, "b v tl d gh gw"]
) -> UInt8[Tensor, "b v t c h w"]:
    """Pixels of latents."""
    flat = rearrange(latents, "b v t d h w -> (b v) t d h w")
    frames = [to_uint8(tokenizer.decode(part)) for part in flat.split(CLIPS_AT_ONCE)]
    return rearrange(torch.cat(frames), "(b v) t c h w -> b v t c h w", b=len(latents))
