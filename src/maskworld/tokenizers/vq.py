"""A convolutional VQ autoencoder that one can train: VQGAN's generator with our quantisers.

Reference: Esser et al., Taming Transformers, arXiv 2012.09841; WorldDreamer section 3.2 (16x, 8192
codes, per frame). Perceptual and adversarial terms come from outside, as an objective.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskworld.tokenizers.codebook import (
    FSQConfig,
    Quantized,
    VectorQuantizerConfig,
    build_quantizer,
)
from maskworld.tokenizers.frames import PixelObjective, check_frames
from maskworld.types import LossOutput


@dataclass(frozen=True)
class VQTokenizerConfig:
    """The defaults are the full-size model: stride 16, 8192 codes, aMUSEd's widths."""

    channels: int = 3
    patch_size: int = 1
    """Pixels per side folded into channels before the first convolution; saves time when > 1."""
    widths: tuple[int, ...] = (128, 256, 256, 512, 768)
    """Channels per resolution; each step halves it. aMUSEd's values."""
    num_res_blocks: int = 2
    has_attention: bool = False
    """Self-attention at the lowest resolution. aMUSEd has none."""
    num_groups: int = 32
    quantizer: VectorQuantizerConfig | FSQConfig = field(default_factory=VectorQuantizerConfig)

    @property
    def vocab_size(self) -> int:
        return self.quantizer.vocab_size

    @property
    def stride(self) -> int:
        return self.patch_size * 2 ** (len(self.widths) - 1)


def small_vq_config(stride: int = 8, vocab_size: int = 512) -> VQTokenizerConfig:
    """About half a million parameters, for a CPU. Ours."""
    presets = {8: (4, (32, 64)), 16: (4, (32, 40, 56))}
    if stride not in presets:
        raise ValueError(f"Expected stride 8 or 16, found {stride}: build a VQTokenizerConfig.")
    patch_size, widths = presets[stride]
    quantizer = VectorQuantizerConfig(vocab_size=vocab_size, dim=32, code_dim=12, revive_after=50)
    return VQTokenizerConfig(
        patch_size=patch_size,
        widths=widths,
        num_res_blocks=1,
        num_groups=8,
        quantizer=quantizer,
    )


class VQTokenizer(nn.Module):
    """Frames to codes and back; trained through `reconstruction_loss`."""

    def __init__(self, config: VQTokenizerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or VQTokenizerConfig()
        self.vocab_size = config.vocab_size
        self.stride = config.stride
        self.encoder = Encoder(config)
        self.quantizer = build_quantizer(config.quantizer)
        self.decoder = Decoder(config)

    @torch.no_grad()
    def encode(self, frames: Float[Tensor, "n c h w"]) -> Int[Tensor, "n gh gw"]:
        return self.quantizer.encode(self._latents(frames))

    def decode(self, tokens: Int[Tensor, "n gh gw"]) -> Float[Tensor, "n c h w"]:
        """Frames in the dtype of the weights, clipped to [-1, 1]."""
        return self._render(self.quantizer.lookup(tokens)).clamp(-1, 1)

    def decode_probabilities(
        self, probabilities: Float[Tensor, "n gh gw k"]
    ) -> Float[Tensor, "n c h w"]:
        return self._render(self.quantizer.expectation(probabilities)).clamp(-1, 1)

    def forward(
        self, frames: Float[Tensor, "n c h w"], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "n c h w"], Quantized]:
        """The unclipped reconstruction, and the codes with the quantiser's own loss terms."""
        quantized = self.quantizer(self._latents(frames), generator)
        return self._render(quantized.latents), quantized

    def reconstruction_loss(
        self,
        frames: Float[Tensor, "n c h w"],
        generator: torch.Generator,
        objective: PixelObjective | None = None,
    ) -> LossOutput:
        """Loss of one batch; in training mode it also starts, updates and revives codes.

        The logged terms include `codebook_use` and `perplexity`, which are not part of the total.

        Args:
            objective: weighted terms of (reconstruction, frames); None is the L1 distance.
        """
        reconstruction, quantized = self(frames, generator)
        if objective is None:
            terms = {"l1": F.l1_loss(reconstruction, frames)}
        else:
            terms = dict(objective(reconstruction, frames))
        terms |= quantized.terms
        total = torch.stack([value.float() for value in terms.values()]).sum()
        logged = {name: value.detach() for name, value in terms.items()}
        return LossOutput(total, logged | self.quantizer.usage())

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Everything; no weight decay on vectors and on a codebook that learns by gradient."""
        plain: list[nn.Parameter] = []
        decayed: list[nn.Parameter] = []
        for name, parameter in self.named_parameters():
            is_plain = parameter.ndim < 2 or name == "quantizer.codes"
            (plain if is_plain else decayed).append(parameter)
        return [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]

    def _latents(self, frames: Tensor) -> Tensor:
        check_frames(frames, self.config.channels, self.stride)
        latents = self.encoder(frames.to(self.encoder.conv_in.weight.dtype))
        return rearrange(latents, "n d gh gw -> n gh gw d")

    def _render(self, latents: Tensor) -> Tensor:
        # moving-average codes stay float32 where the network is bfloat16
        latents = latents.to(self.decoder.conv_in.weight.dtype)
        return self.decoder(rearrange(latents, "n gh gw d -> n d gh gw"))


class ResBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice, plus the input."""

    def __init__(self, dim_in: int, dim_out: int, num_groups: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.GroupNorm(num_groups, dim_in),
            nn.SiLU(),
            nn.Conv2d(dim_in, dim_out, 3, padding=1),
            nn.GroupNorm(num_groups, dim_out),
            nn.SiLU(),
            nn.Conv2d(dim_out, dim_out, 3, padding=1),
        )
        self.skip = nn.Conv2d(dim_in, dim_out, 1) if dim_in != dim_out else nn.Identity()

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        return self.skip(x) + self.block(x)


class GridAttention(nn.Module):
    """Single-head self-attention over all positions of one frame, plus the input."""

    def __init__(self, dim: int, num_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_groups, dim)
        self.qkv = nn.Conv2d(dim, 3 * dim, 1)
        self.out = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        q, k, v = rearrange(self.qkv(self.norm(x)), "n (s c) h w -> s n 1 (h w) c", s=3)
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(rearrange(attended, "n 1 (h w) c -> n c h w", h=x.shape[-2]))


def _middle(config: VQTokenizerConfig) -> nn.Sequential:
    dim, groups = config.widths[-1], config.num_groups
    layers: list[nn.Module] = [ResBlock(dim, dim, groups)]
    if config.has_attention:
        layers.append(GridAttention(dim, groups))
    return nn.Sequential(*layers, ResBlock(dim, dim, groups))


class Encoder(nn.Module):
    """Frames `n c h w` to latents `n d gh gw`."""

    def __init__(self, config: VQTokenizerConfig) -> None:
        super().__init__()
        widths, groups = config.widths, config.num_groups
        self.fold = nn.PixelUnshuffle(config.patch_size)
        self.conv_in = nn.Conv2d(config.channels * config.patch_size**2, widths[0], 3, padding=1)
        layers: list[nn.Module] = []
        dim = widths[0]
        for level, width in enumerate(widths):
            for _ in range(config.num_res_blocks):
                layers.append(ResBlock(dim, width, groups))
                dim = width
            if level < len(widths) - 1:
                layers.append(nn.Conv2d(dim, dim, 3, stride=2, padding=1))
        self.down = nn.Sequential(*layers)
        self.middle = _middle(config)
        self.norm_out = nn.GroupNorm(groups, dim)
        self.conv_out = nn.Conv2d(dim, config.quantizer.dim, 1)

    def forward(self, frames: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d gh gw"]:
        x = self.middle(self.down(self.conv_in(self.fold(frames))))
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """Latents `n d gh gw` to frames `n c h w`, not clipped."""

    def __init__(self, config: VQTokenizerConfig) -> None:
        super().__init__()
        widths, groups = config.widths, config.num_groups
        dim = widths[-1]
        self.conv_in = nn.Conv2d(config.quantizer.dim, dim, 3, padding=1)
        self.middle = _middle(config)
        layers: list[nn.Module] = []
        for level, width in enumerate(reversed(widths)):
            for _ in range(config.num_res_blocks):
                layers.append(ResBlock(dim, width, groups))
                dim = width
            if level < len(widths) - 1:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(dim, dim, 3, padding=1)]
        self.up = nn.Sequential(*layers)
        self.norm_out = nn.GroupNorm(groups, dim)
        self.conv_out = nn.Conv2d(dim, config.channels * config.patch_size**2, 3, padding=1)
        self.unfold = nn.PixelShuffle(config.patch_size)

    def forward(self, latents: Float[Tensor, "n d gh gw"]) -> Float[Tensor, "n c h w"]:
        x = self.up(self.middle(self.conv_in(latents)))
        return self.unfold(self.conv_out(F.silu(self.norm_out(x))))
