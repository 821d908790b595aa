"""The published Stable Diffusion 3 VAE as a tokenizer of frames, through diffusers'
`AutoencoderKL`.

Reference: Esser et al. 2024 (SD3; 8 x 8, 16 channels); the VAE of MaskGWM, section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from maskworld.tokenizers.published_vae import PublishedVAE, VAEKind, load_vae, read_vae_config
from maskworld.tokenizers.video_frames import check_latents, check_video

KIND = VAEKind(
    "AutoencoderKL",
    "published image VAE",
    "download the vae folder of stabilityai/stable-diffusion-3-medium-diffusers",
)


@dataclass(frozen=True)
class PretrainedImageVAEConfig:
    """Where the VAE is. What it looks like is said in its own config.json."""

    path: str = ""
    """The VAE's folder, or the pipeline's folder around it (`vae/`). It is read on first use."""
    channels: int = 16
    """Of the latents; this and the stride are SD3's, and checked against the folder."""
    stride: int = 8
    one_by_one: bool = False
    """Frame by frame instead of in a batch; saves memory."""

    @property
    def temporal_stride(self) -> int:
        """Frames know nothing of each other."""
        return 1

    @classmethod
    def of(cls, path: str | Path, **settings: Any) -> PretrainedImageVAEConfig:
        """The config of the VAE in a folder, sizes read from its config.json.

        Raises:
            ValueError: no such folder, or no VAE in it.
        """
        values = read_vae_config(path, KIND)[1]
        channels, blocks = values["latent_channels"], values["block_out_channels"]
        return cls(str(path), int(channels), 2 ** (len(blocks) - 1), **settings)


class ImageVAE(PublishedVAE):
    """A frozen `AutoencoderKL`; latents are (z - shift) * scale, as SD3 takes them."""

    kind = KIND
    temporal_stride = 1

    def __init__(self, config: PretrainedImageVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.channels, self.stride = config.channels, config.stride

    @torch.no_grad()
    def encode(
        self, frames: Float[Tensor, "n t c h w"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "n t d gh gw"]:
        """float32 latents: the posterior's mode, or a sample of it if a generator is given."""
        check_video(frames, self.model.config.in_channels, self.stride, 1)
        x = rearrange(frames, "n t c h w -> (n t) c h w").to(self.model.dtype)
        parts = [self.model.encode(part).latent_dist for part in self._parts(x)]
        drawn = [p.mode() if generator is None else p.sample(generator) for p in parts]
        shift, scale = self._affine()
        latents = (torch.cat(drawn).float() - shift) * scale
        return rearrange(latents, "(n t) d gh gw -> n t d gh gw", n=len(frames))

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "n t d gh gw"]) -> Float[Tensor, "n t c h w"]:
        """float32 frames, clipped to [-1, 1]."""
        check_latents(latents, self.channels)
        shift, scale = self._affine()
        z = rearrange(latents.float() / scale + shift, "n t d gh gw -> (n t) d gh gw")
        parts = [self.model.decode(part).sample for part in self._parts(z.to(self.model.dtype))]
        frames = torch.cat(parts).float().clamp(-1, 1)
        return rearrange(frames, "(n t) c h w -> n t c h w", n=len(latents))

    def _affine(self) -> tuple[float, float]:
        return float(self.model.config.shift_factor or 0.0), float(self.model.config.scaling_factor)

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(1) if self.config.one_by_one else (x,)

    def _load(self) -> Any:
        config = self.config
        if not config.path:
            raise ValueError(
                "Expected the folder of the published image VAE, found none: pass --tokenizer "
                "with the vae folder of a Stable Diffusion 3 release."
            )
        model = load_vae(config.path, KIND)
        stride = 2 ** (len(model.config.block_out_channels) - 1)
        found, expected = (
            (int(model.config.latent_channels), stride),
            (config.channels, config.stride),
        )
        if found != expected:
            raise ValueError(
                f"Expected latents of (channels, stride) {expected}, found {found} in "
                f"{config.path}: say so in PretrainedImageVAEConfig."
            )
        return model
