"""A small video autoencoder that one can train: causal 3-D convolutions, a Gaussian bottleneck.

Time is padded on the left only, and norms look at one position, so no latent knows a later frame
and no frame a later latent: a prefix of either gives a prefix of the other. Frame 0 is a latent of
its own. Perceptual and adversarial terms come from outside, as an objective.

Reference: Kingma & Welling, arXiv 1312.6114 (the bottleneck); Yu et al., MAGVIT-v2, arXiv
2310.05737, section 3.2 (causal 3-D convolutions, the first frame on its own). Sizes are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from maskworld.nn.pixels import to_unit
from maskworld.tokenizers.frames import PixelObjective
from maskworld.tokenizers.video_frames import check_clip_shape, check_latents, check_video
from maskworld.types import LossOutput


@dataclass(frozen=True)
class CausalVAEConfig:
    """8 x 8 pixels x 8 frames in 16 channels, 9 million parameters. All values are ours."""

    channels: int = 16
    """Of the latents."""
    pixel_channels: int = 3
    patch_size: int = 2
    """Pixels per side folded into channels before the first convolution."""
    widths: tuple[int, ...] = (64, 96, 128, 128)
    """Channels per level."""
    halves_space: tuple[bool, ...] = (True, True, False)
    """Between one level and the next."""
    halves_time: tuple[bool, ...] = (True, True, True)
    num_res_blocks: int = 1
    kl_weight: float = 1e-4
    """Of the KL divergence in nats, mean over latent values."""

    def __post_init__(self) -> None:
        steps = len(self.widths) - 1
        if steps < 0 or {len(self.halves_space), len(self.halves_time)} != {steps}:
            raise ValueError(
                f"Expected halves_space and halves_time with one entry between two of the "
                f"{len(self.widths)} widths, found {len(self.halves_space)} and "
                f"{len(self.halves_time)}: give {max(steps, 0)} each."
            )

    @property
    def stride(self) -> int:
        return self.patch_size * 2 ** sum(self.halves_space)

    @property
    def temporal_stride(self) -> int:
        return 2 ** sum(self.halves_time)


class CausalVAE(nn.Module):
    """Train on `reconstruction_loss`, then call `fit_statistics`, which normalises the latents."""

    mean: Tensor
    std: Tensor
    is_measured: Tensor

    def __init__(self, config: CausalVAEConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CausalVAEConfig()
        self.channels = config.channels
        self.stride = config.stride
        self.temporal_stride = config.temporal_stride
        self.encoder = CausalEncoder(config)
        self.decoder = CausalDecoder(config)
        self.register_buffer("mean", torch.zeros(config.channels))
        self.register_buffer("std", torch.ones(config.channels))
        self.register_buffer("is_measured", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def fit_statistics(
        self,
        frames: UInt8[Tensor, "n t c h w"] | Float[Tensor, "n t c h w"],
        batch_size: int = 8,
    ) -> None:
        """Measures mean and deviation of every latent channel. Call it when training has ended.

        Raises:
            ValueError: wrong shapes; a channel that never changes.
        """
        config = self.config
        check_clip_shape(frames, config.pixel_channels, self.stride, self.temporal_stride)
        device = self.mean.device
        count, total = 0, torch.zeros(2, self.channels, dtype=torch.float64, device=device)
        for part in frames.split(batch_size):
            mean, _ = self._posterior(to_unit(part.to(device)))
            values = rearrange(mean, "n tl d gh gw -> d (n tl gh gw)").double()
            total += torch.stack([values.sum(1), values.square().sum(1)])
            count += values.shape[1]
        mean, square = total / count
        std = (square - mean.square()).clamp(min=0).sqrt()
        if not (std > 1e-6).all():
            raise ValueError(
                f"Expected every latent channel to vary, found {int((std <= 1e-6).sum())} of "
                f"{self.channels} constant over {count} positions: train first, give clips that "
                "differ, or lower kl_weight."
            )
        self.mean.copy_(mean)
        self.std.copy_(std)
        self.is_measured.fill_(True)

    @torch.no_grad()
    def encode(
        self, frames: Float[Tensor, "n t c h w"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "n tl d gh gw"]:
        """float32 latents: the posterior's mean, or a sample of it if a generator is given."""
        self._check_measured()
        mean, log_variance = self._posterior(frames)
        raw = mean if generator is None else _sample(mean, log_variance, generator)
        center, spread = self._statistics()
        return (raw.float() - center) / spread

    def decode(self, latents: Float[Tensor, "n tl d gh gw"]) -> Float[Tensor, "n t c h w"]:
        """float32 frames, clipped to [-1, 1]."""
        self._check_measured()
        check_latents(latents, self.channels)
        center, spread = self._statistics()
        return self._render(latents.float() * spread + center).float().clamp(-1, 1)

    def forward(
        self, frames: Float[Tensor, "n t c h w"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "n t c h w"], Float[Tensor, ""]]:
        """The unclipped reconstruction from a sample of the posterior, and the mean KL in nats."""
        mean, log_variance = self._posterior(frames)
        reconstruction = self._render(_sample(mean, log_variance, generator))
        return reconstruction, kl_divergence(mean, log_variance)

    def reconstruction_loss(
        self,
        frames: Float[Tensor, "n t c h w"],
        generator: torch.Generator,
        objective: PixelObjective | None = None,
    ) -> LossOutput:
        """Loss of one batch: the objective's terms and the weighted KL divergence.

        Args:
            objective: weighted terms of (reconstruction, frames), `n c h w` each; None is L1.
        """
        reconstruction, divergence = self(frames, generator)
        found, target = reconstruction.flatten(0, 1), frames.flatten(0, 1)
        if objective is None:
            terms = {"l1": F.l1_loss(found, target)}
        else:
            terms = dict(objective(found, target))
        terms["kl"] = self.config.kl_weight * divergence
        total = torch.stack([value.float() for value in terms.values()]).sum()
        return LossOutput(total, {name: value.detach() for name, value in terms.items()})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Everything; no weight decay on vectors."""
        plain = [p for p in self.parameters() if p.ndim < 2]
        decayed = [p for p in self.parameters() if p.ndim >= 2]
        return [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]

    def _posterior(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of raw latents, `n tl d gh gw`."""
        check_video(frames, self.config.pixel_channels, self.stride, self.temporal_stride)
        x = rearrange(frames, "n t c h w -> n c t h w")
        moments = self.encoder(x.to(self.encoder.conv_in.conv.weight.dtype))
        mean, log_variance = rearrange(moments, "n d tl gh gw -> n tl d gh gw").chunk(2, dim=2)
        return mean, log_variance.clamp(-20.0, 10.0)

    def _render(self, raw: Tensor) -> Tensor:
        z = rearrange(raw, "n tl d gh gw -> n d tl gh gw")
        frames = self.decoder(z.to(self.decoder.conv_in.conv.weight.dtype))
        return rearrange(frames, "n c t h w -> n t c h w")

    def _statistics(self) -> tuple[Tensor, Tensor]:
        return self.mean.float()[:, None, None], self.std.float()[:, None, None]

    def _check_measured(self) -> None:
        if not self.is_measured:
            raise ValueError(
                "Expected a trained tokenizer with latent statistics, found none: call "
                "fit_statistics(frames) after training, or load its state."
            )


def kl_divergence(
    mean: Float[Tensor, "*n"], log_variance: Float[Tensor, "*n"]
) -> Float[Tensor, ""]:
    """KL of N(mean, variance) from N(0, 1) in nats, mean over values.

    Reference: Kingma & Welling, appendix B.
    """
    mean, log_variance = mean.float(), log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def _sample(mean: Tensor, log_variance: Tensor, generator: torch.Generator) -> Tensor:
    eps = torch.randn(mean.shape, generator=generator, device=generator.device).to(mean)
    return mean + (0.5 * log_variance).exp() * eps


class CausalConv3d(nn.Module):
    """A 3 x 3 x 3 convolution that sees this frame and the two before; frame 0 is repeated."""

    def __init__(self, dim_in: int, dim_out: int, stride: tuple[int, int, int] = (1, 1, 1)) -> None:
        super().__init__()
        self.conv = nn.Conv3d(dim_in, dim_out, 3, stride, padding=(0, 1, 1))

    def forward(self, x: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n d u p q"]:
        past = x[:, :, :1].expand(-1, -1, 2, -1, -1)
        return self.conv(torch.cat([past, x], dim=2))


class ChannelNorm(nn.Module):
    """RMS norm over the channels of each position: knows no other frame."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n c t h w"]:
        scale = torch.rsqrt(x.float().square().mean(1, keepdim=True) + 1e-6)
        return (x * scale.to(x)) * self.gain[:, None, None, None]


class CausalResBlock(nn.Module):
    """Norm, SiLU, convolution, twice, plus the input."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            ChannelNorm(dim_in),
            nn.SiLU(),
            CausalConv3d(dim_in, dim_out),
            ChannelNorm(dim_out),
            nn.SiLU(),
            CausalConv3d(dim_out, dim_out),
        )
        self.skip = nn.Conv3d(dim_in, dim_out, 1) if dim_in != dim_out else nn.Identity()

    def forward(self, x: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n d t h w"]:
        return self.skip(x) + self.block(x)


class Doubling(nn.Module):
    """Twice as many pixels per side, and 2k + 1 frames from k + 1, as channels unfolded."""

    def __init__(self, dim: int, space: bool, time: bool) -> None:
        super().__init__()
        self.space, self.time = (2 if space else 1), (2 if time else 1)
        self.spread = nn.Conv3d(dim, dim * self.space**2 * self.time, 1)
        self.smooth = CausalConv3d(dim, dim)

    def forward(self, x: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n c u p q"]:
        x = rearrange(
            self.spread(x),
            "n (c s p q) t h w -> n c (t s) (h p) (w q)",
            s=self.time,
            p=self.space,
            q=self.space,
        )
        return self.smooth(x[:, :, self.time - 1 :])  # frame 0 has no frame before it


class CausalEncoder(nn.Module):
    """Frames `n c t h w` to moments `n 2d tl gh gw`."""

    def __init__(self, config: CausalVAEConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        dim = config.widths[0]
        self.conv_in = CausalConv3d(config.pixel_channels * config.patch_size**2, dim)
        layers: list[nn.Module] = []
        for level, width in enumerate(config.widths):
            for _ in range(config.num_res_blocks):
                layers.append(CausalResBlock(dim, width))
                dim = width
            if level < len(config.widths) - 1:
                space, time = config.halves_space[level] + 1, config.halves_time[level] + 1
                layers.append(CausalConv3d(dim, dim, (time, space, space)))
        self.down = nn.Sequential(*layers, CausalResBlock(dim, dim), ChannelNorm(dim), nn.SiLU())
        self.conv_out = nn.Conv3d(dim, 2 * config.channels, 1)
        with torch.no_grad():  # little noise at first, or the decoder learns to ignore latents
            self.conv_out.bias[config.channels :] -= 6.0  # type: ignore[index]

    def forward(self, frames: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n d tl gh gw"]:
        p = self.patch_size
        x = rearrange(frames, "n c t (h p) (w q) -> n (c p q) t h w", p=p, q=p)
        return self.conv_out(self.down(self.conv_in(x)))


class CausalDecoder(nn.Module):
    """Raw latents `n d tl gh gw` to frames `n c t h w`, not clipped."""

    def __init__(self, config: CausalVAEConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        dim = config.widths[-1]
        self.conv_in = CausalConv3d(config.channels, dim)
        layers: list[nn.Module] = [CausalResBlock(dim, dim)]
        for level, width in reversed(list(enumerate(config.widths))):
            for _ in range(config.num_res_blocks):
                layers.append(CausalResBlock(dim, width))
                dim = width
            if level:
                halves = config.halves_space[level - 1], config.halves_time[level - 1]
                layers.append(Doubling(dim, *halves))
        self.up = nn.Sequential(*layers, ChannelNorm(dim), nn.SiLU())
        self.conv_out = CausalConv3d(dim, config.pixel_channels * config.patch_size**2)

    def forward(self, latents: Float[Tensor, "n d tl gh gw"]) -> Float[Tensor, "n c t h w"]:
        p = self.patch_size
        x = self.conv_out(self.up(self.conv_in(latents)))
        return rearrange(x, "n (c p q) t h w -> n c t (h p) (w q)", p=p, q=p)
