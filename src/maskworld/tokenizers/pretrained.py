"""The published aMUSEd VQ-GAN as a tokenizer, through diffusers' `VQModel`.

Precision: float32 or bfloat16. In float16 the activations of this network overflow to NaN, which
decodes to black frames, so float16 is refused. Weights come from `weights.amused.load_amused_vq`.

Reference: Patil et al., aMUSEd, arXiv 2401.01808 (f16, 8192 codes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskworld.tokenizers.frames import PixelObjective, check_frames
from maskworld.tokenizers.kmeans import nearest_codes
from maskworld.types import LossOutput


@dataclass(frozen=True)
class PretrainedVQConfig:
    """The defaults are the published model's."""

    channels: int = 3
    widths: tuple[int, ...] = (128, 256, 256, 512, 768)
    num_res_blocks: int = 2
    latent_dim: int = 64
    vocab_size: int = 8192
    num_groups: int = 32
    has_attention: bool = False

    @property
    def stride(self) -> int:
        return 2 ** (len(self.widths) - 1)


class PretrainedVQ(nn.Module):
    """A frozen diffusers `VQModel`. Its pixels are [0, 1]; ours [-1, 1] are converted here."""

    def __init__(self, config: PretrainedVQConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PretrainedVQConfig()
        self.vocab_size = config.vocab_size
        self.stride = config.stride
        self.model = _build_model(config)
        self.requires_grad_(False)

    @torch.no_grad()
    def encode(self, frames: Float[Tensor, "n c h w"]) -> Int[Tensor, "n gh gw"]:
        """Nearest codes; the search itself runs in float32."""
        check_frames(frames, self.config.channels, self.stride)
        dtype = self._dtype()
        latents = self.model.encode(((frames + 1) / 2).to(dtype)).latents
        flat = rearrange(latents, "n d gh gw -> (n gh gw) d").float()
        codes = nearest_codes(flat, self.model.quantize.embedding.weight.float())
        return codes.view(len(frames), *latents.shape[-2:])

    def decode(self, tokens: Int[Tensor, "n gh gw"]) -> Float[Tensor, "n c h w"]:
        self._dtype()
        return self._render(self.model.quantize.embedding(tokens))

    def decode_probabilities(
        self, probabilities: Float[Tensor, "n gh gw k"]
    ) -> Float[Tensor, "n c h w"]:
        return self._render(probabilities.to(self._dtype()) @ self.model.quantize.embedding.weight)

    def reconstruction_loss(
        self,
        frames: Float[Tensor, "n c h w"],
        generator: torch.Generator,
        objective: PixelObjective | None = None,
    ) -> LossOutput:
        """Always raises ValueError: the published tokenizer is frozen."""
        raise ValueError(
            "Expected a tokenizer that trains, found the published VQ, which stays frozen: "
            "skip the tokenizer stage, or train a VQTokenizer."
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Empty: frozen."""
        return []

    def _render(self, latents: Tensor) -> Tensor:
        x = self.model.post_quant_conv(rearrange(latents, "n gh gw d -> n d gh gw"))
        return (self.model.decoder(x) * 2 - 1).clamp(-1, 1)

    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.quantize.embedding.weight.dtype
        if dtype == torch.float16:
            raise ValueError(
                "Expected float32 or bfloat16 weights, found float16, in which this network "
                "overflows to NaN: call .to(torch.bfloat16)."
            )
        return dtype


def _build_model(config: PretrainedVQConfig) -> Any:
    try:
        from diffusers import VQModel
    except ImportError as error:
        raise ValueError(
            "Expected diffusers for the published VQ, found none: "
            "pip install 'maskworld[pretrained]'."
        ) from error
    levels = len(config.widths)
    return VQModel(
        in_channels=config.channels,
        out_channels=config.channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.widths,
        layers_per_block=config.num_res_blocks,
        latent_channels=config.latent_dim,
        num_vq_embeddings=config.vocab_size,
        norm_num_groups=config.num_groups,
        mid_block_add_attention=config.has_attention,
        lookup_from_codebook=True,
    )
