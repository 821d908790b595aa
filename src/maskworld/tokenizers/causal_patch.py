"""A video tokenizer that fits in seconds: PCA of space-time patches, an optional conv decoder.

Frame 0 is described by the PCA of its patches; every later group of `temporal_stride` frames by the
PCA of its space-time patches, with as many channels. Encoding is a projection and never changes
after `fit`; it is causal, since a group knows nothing of another. The decoder is the inverse
projection ("linear"), or adds a residual from neighbouring latents ("conv"), which removes most
block borders. Both decode a prefix of the latents to the same frames. Ours; no paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from maskworld.nn.pixels import to_unit
from maskworld.tokenizers.frames import PixelObjective
from maskworld.tokenizers.residual_decoder import ResidualDecoder, wear
from maskworld.tokenizers.scaled_pca import ScaledPCA
from maskworld.tokenizers.video_frames import check_clip_shape, check_latents, check_video
from maskworld.types import LossOutput


@dataclass(frozen=True)
class CausalPatchConfig:
    """All values are ours."""

    patch_size: int = 8
    """Pixels per side: the stride."""
    temporal_stride: int = 8
    """Frames per latent, after the first frame."""
    channels: int = 48
    """Of the latents: PCA components kept of a patch, and of a group of patches."""
    pixel_channels: int = 3
    variance_power: float = 0.5
    """Latents are divided by std ** variance_power per channel, then by one number for unit mean
    variance. 1: every channel has unit variance, and the last counts as much as the first in a
    squared error. 0: channels count as much as they do in pixels."""
    decoder: Literal["linear", "conv"] = "linear"
    decoder_dim: int = 64
    num_decoder_layers: int = 2
    detail_dim: int = 16
    """Channels at half resolution, where the conv decoder smooths block borders."""
    noise: float = 0.2
    """Largest standard deviation of the noise on latents while the conv decoder trains."""
    frames_per_group: int = 2
    """Frames of every group on which the conv decoder trains in one step; drawn at random."""

    def __post_init__(self) -> None:
        pixels = self.pixel_channels * self.patch_size**2
        if not 0 < self.channels <= pixels:
            raise ValueError(
                f"Expected 1 to {pixels} channels (the pixels of a patch), found {self.channels}: "
                "lower channels or raise patch_size."
            )
        if not 0 <= self.variance_power <= 1:
            raise ValueError(
                f"Expected variance_power from 0 to 1, found {self.variance_power}: 0.5 is usual."
            )
        if self.decoder == "conv" and self.patch_size % 2:
            raise ValueError(
                f'Expected an even patch_size with decoder="conv", found {self.patch_size}: '
                f"use {self.patch_size + 1}."
            )

    @property
    def stride(self) -> int:
        return self.patch_size


class CausalPatchTokenizer(nn.Module):
    """Patch latents. Call `fit`; with `decoder="conv"` then train on `reconstruction_loss`."""

    is_fitted: Tensor

    def __init__(self, config: CausalPatchConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CausalPatchConfig()
        self.channels = config.channels
        self.stride = config.patch_size
        self.temporal_stride = config.temporal_stride
        pixels = config.pixel_channels * config.patch_size**2
        self.first = ScaledPCA(pixels, config.channels)
        self.later = ScaledPCA(pixels * config.temporal_stride, config.channels)
        self.register_buffer("is_fitted", torch.zeros((), dtype=torch.bool))
        self.decoder: ResidualDecoder | None = None
        if config.decoder == "conv":
            self.decoder = ResidualDecoder(
                channels=config.channels,
                pixel_channels=config.pixel_channels,
                patch_size=config.patch_size,
                temporal_stride=config.temporal_stride,
                dim=config.decoder_dim,
                num_layers=config.num_decoder_layers,
                detail=config.detail_dim,
            )

    @torch.no_grad()
    def fit(
        self,
        frames: UInt8[Tensor, "n t c h w"] | Float[Tensor, "n t c h w"],
        generator: torch.Generator,
        max_patches: int = 12_000,
    ) -> None:
        """Fits both projections and their scales on a random sample of the patches of `frames`.

        Args:
            frames: uint8 0..255 or float [-1, 1]; at least `temporal_stride` + 1 frames.
            max_patches: at most this many patches for each of the two projections.

        Raises:
            ValueError: too few patches, clips of one frame, frames that are all the same.
        """
        config = self.config
        check = check_video if frames.is_floating_point() else check_clip_shape
        check(frames, config.pixel_channels, self.stride, self.temporal_stride)
        if frames.shape[1] == 1:
            raise ValueError(
                f"Expected clips of at least {self.temporal_stride + 1} frames to fit, found 1: "
                f"pass --num-frames {self.temporal_stride + 1}"
            )
        power = config.variance_power
        later = frames[:, 1:].unflatten(1, (-1, self.temporal_stride)).flatten(0, 1)
        self.first.fit(self._sample(frames[:, :1], generator, max_patches), generator, power)
        self.later.fit(self._sample(later, generator, max_patches), generator, power)
        self.is_fitted.fill_(True)

    @torch.no_grad()
    def encode(self, frames: Float[Tensor, "n t c h w"]) -> Float[Tensor, "n tl d gh gw"]:
        """Scaled PCA coefficients, float32 also under autocast."""
        self._check_fitted()
        config = self.config
        check_video(frames, config.pixel_channels, self.stride, self.temporal_stride)
        return self._project(frames)

    @torch.no_grad()
    def still(self, latents: Float[Tensor, "n tl d gh gw"]) -> Float[Tensor, "n d gh gw"]:
        """The latent that would follow if nothing moved: the last frame again and again."""
        self._check_fitted()
        last = rearrange(latents[:, -1], "n d gh gw -> n gh gw d")
        count = self.temporal_stride if latents.shape[1] > 1 else 1
        pixels = (self.later if latents.shape[1] > 1 else self.first).invert(last)
        frame = rearrange(pixels, "n gh gw (s q) -> n gh gw s q", s=count)[..., -1, :]
        group = repeat(frame, "n gh gw q -> n gh gw (s q)", s=self.temporal_stride)
        return rearrange(self.later.project(group), "n gh gw d -> n d gh gw")

    def decode(self, latents: Float[Tensor, "n tl d gh gw"]) -> Float[Tensor, "n t c h w"]:
        """Frames, clipped to [-1, 1]."""
        self._check_fitted()
        check_latents(latents, self.channels)
        frames = self._render(latents)
        if self.decoder is not None:
            frames = frames + self.decoder(frames, latents)
        return frames.clamp(-1, 1)

    def reconstruction_loss(
        self,
        frames: Float[Tensor, "n t c h w"],
        generator: torch.Generator,
        objective: PixelObjective | None = None,
    ) -> LossOutput:
        """Loss of the conv decoder; the projections stay as they are.

        Half of the clips, drawn at random, are decoded from worn latents (`wear`), so that the
        decoder copes with the samples of a model.

        Args:
            objective: weighted terms of (reconstruction, frames), `n c h w` each; None is L1.
        """
        if self.decoder is None:
            raise ValueError(
                'Expected decoder="conv" to train, found "linear", which has nothing to learn: '
                'build CausalPatchConfig(decoder="conv") or skip this stage.'
            )
        latents = wear(self.encode(frames), self.config.noise, generator)
        chosen = self._draw_frames(frames.shape[1], generator)
        rendered = self._render(latents)
        reconstruction = (rendered[:, chosen] + self.decoder(rendered, latents, chosen)).flatten(
            0, 1
        )
        target = frames[:, chosen].flatten(0, 1)
        if objective is None:
            terms = {"l1": F.l1_loss(reconstruction, target)}
        else:
            terms = objective(reconstruction, target)
        total = torch.stack(list(terms.values())).sum()
        return LossOutput(total, {name: value.detach() for name, value in terms.items()})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups of the decoder (empty for "linear")."""
        parameters = list(self.parameters())
        return [{"params": parameters}] if parameters else []

    def _draw_frames(self, num_frames: int, generator: torch.Generator) -> list[int]:
        """Frame 0 and `frames_per_group` frames of every later group."""
        s, num = self.temporal_stride, min(self.config.frames_per_group, self.temporal_stride)
        chosen = [0]
        for start in range(1, num_frames, s):
            order = torch.randperm(s, generator=generator, device=generator.device)[:num]
            chosen += sorted(start + i for i in order.tolist())
        return chosen

    def _sample(self, groups: Tensor, generator: torch.Generator, num: int) -> Tensor:
        """At most `num` flattened patches of `groups` ("n s c h w"), on the projections' device."""
        grid = (groups.shape[-2] // self.stride) * (groups.shape[-1] // self.stride)
        total = len(groups) * grid
        if min(total, num) < 2 * self.channels:
            raise ValueError(
                f"Expected at least {2 * self.channels} patches (two per channel), found "
                f"{min(total, num)}: give more clips or lower channels."
            )
        order = torch.randperm(total, generator=generator, device=generator.device)
        chosen = order[:num].sort().values.to(groups.device)
        size = 16  # groups at a time: never more than a few clips as float
        samples = []
        for start in range(0, len(groups), size):
            lo, hi = start * grid, min(start + size, len(groups)) * grid
            patches = self._patchify(to_unit(groups[start : start + size])).flatten(0, 2)
            samples.append(patches[chosen[(chosen >= lo) & (chosen < hi)] - lo])
        return torch.cat(samples).to(self.first.mean.device)

    def _patchify(self, groups: Tensor) -> Tensor:
        p = self.stride
        return rearrange(groups, "m s c (gh p) (gw q) -> m gh gw (s c p q)", p=p, q=p)

    def _unpatchify(self, patches: Tensor, num_frames: int) -> Tensor:
        p = self.stride
        return rearrange(
            patches, "m gh gw (s c p q) -> m s c (gh p) (gw q)", s=num_frames, p=p, q=p
        )

    def _project(self, frames: Tensor) -> Tensor:
        n, s = len(frames), self.temporal_stride
        first = self.first.project(self._patchify(frames[:, :1]))
        latents = [rearrange(first, "n gh gw d -> n 1 d gh gw")]
        if frames.shape[1] > 1:
            groups = rearrange(frames[:, 1:], "n (k s) c h w -> (n k) s c h w", s=s)
            later = self.later.project(self._patchify(groups))
            latents.append(rearrange(later, "(n k) gh gw d -> n k d gh gw", n=n))
        return torch.cat(latents, dim=1)

    def _render(self, latents: Tensor) -> Tensor:
        """The inverse projection, not clipped."""
        n = len(latents)
        first = self.first.invert(rearrange(latents[:, 0], "n d gh gw -> n gh gw d"))
        frames = [self._unpatchify(first, 1)]
        if latents.shape[1] > 1:
            later = self.later.invert(rearrange(latents[:, 1:], "n k d gh gw -> (n k) gh gw d"))
            groups = self._unpatchify(later, self.temporal_stride)
            frames.append(rearrange(groups, "(n k) s c h w -> n (k s) c h w", n=n))
        return torch.cat(frames, dim=1)

    def _check_fitted(self) -> None:
        if not self.is_fitted:
            raise ValueError(
                "Expected a fitted tokenizer, found one without projections: "
                "call fit(frames, generator) or load its state."
            )
