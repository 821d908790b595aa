"""Clips through a video tokenizer frame by frame, as an image VAE would: no frame knows another."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from maskworld.interfaces import LatentTokenizer
from maskworld.tokenizers.latent import decode_views, encode_views


def encode_images(
    tokenizer: LatentTokenizer, frames: UInt8[Tensor, "b v t c h w"]
) -> Float[Tensor, "b v t d gh gw"]:
    """A latent of its own for every frame: each is encoded as a clip of one."""
    alone = rearrange(frames, "b v t c h w -> (b t) v 1 c h w")
    latents = encode_views(tokenizer, alone)
    return rearrange(latents, "(b t) v 1 d h w -> b v t d h w", b=len(frames))


def decode_images(
    tokenizer: LatentTokenizer, latents: Float[Tensor, "b v t d gh gw"]
) -> UInt8[Tensor, "b v t c h w"]:
    """Pixels of such latents."""
    with torch.no_grad():
        alone = rearrange(latents, "b v t d h w -> (b t) v 1 d h w").contiguous()
        frames = decode_views(tokenizer, alone)
        return rearrange(frames, "(b t) v 1 c h w -> b v t c h w", b=len(latents))
