"""The published LTX-Video VAE as a tokenizer, through diffusers' `AutoencoderKLLTXVideo`.

Its weights are the user's: they are read from a folder in diffusers' layout, stay there, and never
become part of a checkpoint or release of ours.

Reference: HaCohen et al., LTX-Video, arXiv 2501.00103 (32 x 32 x 8, 128 channels); the VAE of
ReWorld, section 3.
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
    "AutoencoderKLLTXVideo",
    "published video VAE",
    "download the vae folder of an LTX-Video release in diffusers' layout",
)
DEFAULTS: dict[str, Any] = {
    "latent_channels": 128,
    "patch_size": 4,
    "patch_size_t": 1,
    "spatio_temporal_scaling": (True, True, True, False),
}
"""What diffusers takes where a config.json is silent."""


@dataclass(frozen=True)
class PretrainedVideoVAEConfig:
    """Where the VAE is, and how it decodes. What it looks like is said in its own config.json."""

    path: str = ""
    """The VAE's folder, or the pipeline's folder around it (`vae/`). It is read on first use."""
    channels: int = 128
    """Of the latents; this and the strides are LTX-Video's, and checked against the folder."""
    stride: int = 32
    temporal_stride: int = 8
    decode_timestep: float = 0.05
    """Time given to a timestep-conditioned decoder (LTX: 0.05); others ignore it."""
    decode_noise: float = 0.025
    """Share of noise mixed into the latents of a timestep-conditioned decoder (LTX: 0.025)."""
    tile_size: int | None = None
    """Pixels per side above which frames are processed in tiles; saves memory, costs time."""
    tile_overlap: int = 64
    """Pixels by which neighbouring tiles overlap and are blended. diffusers: 64."""
    one_by_one: bool = False
    """Clip by clip instead of in a batch; saves memory."""

    @classmethod
    def of(cls, path: str | Path, **settings: Any) -> PretrainedVideoVAEConfig:
        """The config of the VAE in a folder, sizes read from its config.json.

        Raises:
            ValueError: no such folder, or no VAE in it.
        """
        values = DEFAULTS | read_vae_config(path, KIND)[1]
        return cls(
            path=str(path),
            channels=int(values["latent_channels"]),
            stride=_compression(values, "spatial_compression_ratio", "patch_size"),
            temporal_stride=_compression(values, "temporal_compression_ratio", "patch_size_t"),
            **settings,
        )


class VideoVAE(PublishedVAE):
    """A frozen `AutoencoderKLLTXVideo`, with latents of zero mean and unit variance per channel."""

    kind = KIND

    def __init__(self, config: PretrainedVideoVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.channels, self.stride = config.channels, config.stride
        self.temporal_stride = config.temporal_stride

    @torch.no_grad()
    def encode(
        self, frames: Float[Tensor, "n t c h w"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "n tl d gh gw"]:
        """float32 latents: the posterior's mode, or a sample of it if a generator is given."""
        check_video(frames, self.model.config.in_channels, self.stride, self.temporal_stride)
        x = rearrange(frames, "n t c h w -> n c t h w").to(self.model.dtype)
        parts = [self.model.encode(part).latent_dist for part in self._parts(x)]
        latents = torch.cat(
            [part.mode() if generator is None else part.sample(generator) for part in parts]
        ).float()
        mean, std = self._statistics()
        return rearrange((latents - mean) / std, "n d tl gh gw -> n tl d gh gw")

    def decode(
        self, latents: Float[Tensor, "n tl d gh gw"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "n t c h w"]:
        """float32 frames, clipped to [-1, 1].

        Args:
            generator: of the noise of decoders that want noise; None draws the same noise each
                time, so that equal latents give equal frames.
        """
        check_latents(latents, self.channels)
        mean, std = self._statistics()
        z = rearrange(latents.float(), "n tl d gh gw -> n d tl gh gw") * std + mean
        generator = generator or torch.Generator().manual_seed(0)
        time = None
        if self.model.config.timestep_conditioning:
            noise = torch.randn(z.shape, generator=generator, device=generator.device).to(z)
            z = (1 - self.config.decode_noise) * z + self.config.decode_noise * noise
            time = self.config.decode_timestep
        seed = int(
            torch.randint(2**62, (), generator=generator, device=generator.device)
        )  # of decoders that draw noise inside
        frames = [self._decode(part, time, seed) for part in self._parts(z.to(self.model.dtype))]
        decoded = torch.cat(frames).float().clamp(-1, 1)
        return rearrange(decoded, "n c t h w -> n t c h w")

    def _load(self) -> Any:
        config = self.config
        if not config.path:
            raise ValueError(
                "Expected the folder of the published video VAE, found none: pass --tokenizer "
                "with the vae folder of an LTX-Video release."
            )
        model = load_vae(config.path, KIND)
        found = (
            int(model.config.latent_channels),
            int(model.spatial_compression_ratio),
            int(model.temporal_compression_ratio),
        )
        expected = (config.channels, config.stride, config.temporal_stride)
        if found != expected:
            raise ValueError(
                f"Expected latents of (channels, stride, temporal stride) {expected}, found "
                f"{found} in {config.path}: say so in PretrainedVideoVAEConfig."
            )
        return model

    def _when_loaded(self) -> None:
        if self.config.tile_size is not None:
            self._enable_tiling(self.config.tile_size, self.config.tile_overlap)

    def _decode(self, z: Tensor, time: float | None, seed: int) -> Tensor:
        temb = None if time is None else z.new_full((len(z),), time)
        if not any(self.model.config.decoder_inject_noise):
            return self.model.decode(z, temb).sample
        # diffusers draws this noise from the global generator: give it one of ours for the while
        devices = [z.device] if z.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            return self.model.decode(z, temb).sample

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        # diffusers' own slicing pairs clips with the wrong times (0.42), so clips are split here
        return x.split(1) if self.config.one_by_one else (x,)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of raw latents, `d 1 1 1` in float32."""
        mean, std = (
            buffer.float()[:, None, None, None]
            for buffer in (self.model.latents_mean, self.model.latents_std)
        )
        return mean, std / self.model.config.scaling_factor

    def _enable_tiling(self, size: int, overlap: int) -> None:
        is_wrong = size % self.stride or overlap % self.stride or not 0 <= overlap < size
        if is_wrong:
            raise ValueError(
                f"Expected tile_size and a smaller tile_overlap, both multiples of the stride "
                f"{self.stride}, found {size} and {overlap}: use {8 * self.stride} and "
                f"{2 * self.stride}."
            )
        self.model.enable_tiling(
            tile_sample_min_height=size,
            tile_sample_min_width=size,
            tile_sample_stride_height=size - overlap,
            tile_sample_stride_width=size - overlap,
        )


def _compression(values: dict[str, Any], name: str, patch: str) -> int:
    """Pixels, or frames, per latent: said in the config, or a patch halved at every scaling."""
    if values.get(name) is not None:
        return int(values[name])
    return int(values[patch] * 2 ** sum(values["spatio_temporal_scaling"]))
