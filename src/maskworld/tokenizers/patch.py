"""A tokenizer that fits in seconds: PCA of patches, k-means codes, an optional conv decoder.

Encoding is a projection and a nearest-code search, so it never changes after `fit`. The decoder is
either the mean patch of each code ("linear"), or a small convolutional network that sees the
neighbouring codes and adds a residual to those mean patches ("conv"), which removes most of the
block borders. Ours; no paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from maskworld.nn.pixels import to_unit
from maskworld.tokenizers.frames import PixelObjective, check_frames
from maskworld.tokenizers.kmeans import kmeans, nearest_codes
from maskworld.types import LossOutput


@dataclass(frozen=True)
class PatchTokenizerConfig:
    """All values are ours."""

    patch_size: int = 8
    """Pixels per side: the stride."""
    num_components: int = 12
    """PCA components in which codes are searched."""
    vocab_size: int = 512
    channels: int = 3
    decoder: Literal["linear", "conv"] = "linear"
    decoder_dim: int = 64
    num_decoder_layers: int = 3
    detail_dim: int = 16
    """Channels at half resolution, where the conv decoder smooths block borders."""


class PatchTokenizer(nn.Module):
    """Patch codes. Call `fit` first; with `decoder="conv"` then train on `reconstruction_loss`."""

    mean: Tensor
    basis: Tensor
    codebook: Tensor
    patches: Tensor
    is_fitted: Tensor

    def __init__(self, config: PatchTokenizerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PatchTokenizerConfig()
        self.vocab_size = config.vocab_size
        self.stride = config.patch_size
        pixels = config.channels * config.patch_size**2
        if config.num_components > pixels:
            raise ValueError(
                f"Expected num_components <= {pixels} (the pixels of a patch), found "
                f"{config.num_components}: lower num_components."
            )
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("basis", torch.zeros(pixels, config.num_components))
        self.register_buffer("codebook", torch.zeros(config.vocab_size, config.num_components))
        self.register_buffer("patches", torch.zeros(config.vocab_size, pixels))
        self.register_buffer("is_fitted", torch.zeros((), dtype=torch.bool))
        self.decoder = ContextDecoder(config) if config.decoder == "conv" else None

    @torch.no_grad()
    def fit(
        self,
        frames: UInt8[Tensor, "n c h w"] | Float[Tensor, "n c h w"],
        generator: torch.Generator,
        max_patches: int = 40_000,
        num_iterations: int = 20,
    ) -> None:
        """Fits PCA and codes on a random sample of the patches of `frames`.

        Args:
            frames: uint8 0..255 or float [-1, 1].
            max_patches: how many patches to use; 40,000 take about 3 CPU-seconds for 512 codes.

        Raises:
            ValueError: fewer patches than codes.
        """
        self._check_size(frames)
        grid = (frames.shape[-2] // self.stride) * (frames.shape[-1] // self.stride)
        total = frames.shape[0] * grid
        if min(total, max_patches) < self.vocab_size:
            raise ValueError(
                f"Expected at least {self.vocab_size} patches (one per code), found "
                f"{min(total, max_patches)}: give more frames or lower vocab_size."
            )
        order = torch.randperm(total, generator=generator, device=generator.device)
        chosen = order[:max_patches].sort().values.to(frames.device)
        samples = [  # frame by frame: never more than a few frames as float
            self._patchify(to_unit(chunk))[chosen[(chosen >= lo) & (chosen < hi)] - lo]
            for chunk, lo, hi in _chunks(frames, grid)
        ]
        patches = torch.cat(samples).to(self.mean.device)
        mean = patches.mean(0)
        centred = patches - mean
        covariance = (centred.T @ centred).double() / len(patches)
        _, vectors = torch.linalg.eigh(covariance)
        basis = vectors.flip(1)[:, : self.config.num_components].float()
        codebook, assignment = kmeans(
            centred @ basis, self.vocab_size, generator, num_iterations=num_iterations
        )
        counts = torch.bincount(assignment, minlength=self.vocab_size).clamp(min=1)[:, None]
        sums = torch.zeros_like(self.patches).index_add_(
            0, assignment, centred - centred @ basis @ basis.T
        )
        self.mean.copy_(mean)
        self.basis.copy_(basis)
        self.codebook.copy_(codebook)
        # The mean patch of a code: its PCA inverse plus the mean of what PCA dropped.
        self.patches.copy_(mean + codebook @ basis.T + sums / counts)
        self.is_fitted.fill_(True)
        if self.decoder is not None:
            self.decoder.start_from(codebook)

    @torch.no_grad()
    def encode(self, frames: Float[Tensor, "n c h w"]) -> Int[Tensor, "n gh gw"]:
        """Nearest code of every patch."""
        self._check_fitted()
        self._check_size(frames)
        codes = nearest_codes(self._latents(frames), self.codebook)
        return codes.view(frames.shape[0], *self._grid(frames))

    def decode(self, tokens: Int[Tensor, "n gh gw"]) -> Float[Tensor, "n c h w"]:
        self._check_fitted()
        embedding = None if self.decoder is None else self.decoder.embedding.weight[tokens]
        return self._render(self.patches[tokens], embedding)

    def decode_probabilities(
        self, probabilities: Float[Tensor, "n gh gw k"]
    ) -> Float[Tensor, "n c h w"]:
        """The frame of the expected mean patch and, for "conv", of the expected embedding."""
        self._check_fitted()
        weights = probabilities.to(self.patches.dtype)
        embedding = None if self.decoder is None else weights @ self.decoder.embedding.weight
        return self._render(weights @ self.patches, embedding)

    def reconstruction_loss(
        self,
        frames: Float[Tensor, "n c h w"],
        generator: torch.Generator,
        objective: PixelObjective | None = None,
    ) -> LossOutput:
        """Loss of the conv decoder; codes stay as they are.

        Half of the frames, drawn at random, are decoded from softened codes (an expectation over
        the 8 codes nearest to a displaced latent), so that the decoder knows blurred input too.

        Args:
            objective: weighted terms of (reconstruction, frames); None is the L1 distance.
        """
        if self.decoder is None:
            raise ValueError(
                'Expected decoder="conv" to train, found "linear", which has nothing to learn: '
                'build PatchTokenizerConfig(decoder="conv") or skip this stage.'
            )
        self._check_fitted()
        self._check_size(frames)
        with torch.no_grad():
            indices, weights = self._soften(frames, generator)
            patches = torch.einsum("npk,npkd->npd", weights, self.patches[indices])
        embedding = torch.einsum("npk,npkd->npd", weights, self.decoder.embedding.weight[indices])
        gh, gw = self._grid(frames)
        grid = {"gh": gh, "gw": gw}
        reconstruction = self._render(
            rearrange(patches, "n (gh gw) d -> n gh gw d", **grid),
            rearrange(embedding, "n (gh gw) d -> n gh gw d", **grid),
            clamp=False,
        )
        if objective is None:
            terms = {"l1": F.l1_loss(reconstruction, frames)}
        else:
            terms = objective(reconstruction, frames)
        total = torch.stack(list(terms.values())).sum()
        return LossOutput(total, {name: value.detach() for name, value in terms.items()})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups of the decoder (empty for "linear")."""
        parameters = list(self.parameters())
        return [{"params": parameters}] if parameters else []

    def _soften(
        self, frames: Tensor, generator: torch.Generator, num_nearest: int = 8
    ) -> tuple[Tensor, Tensor]:
        """(code indices, weights), each `n p k`: one-hot on half of the frames, soft elsewhere."""
        latents = rearrange(self._latents(frames), "(n p) d -> n p d", n=len(frames))
        num = min(num_nearest, self.vocab_size)
        device = generator.device
        is_soft = (torch.rand(len(frames), 1, 1, generator=generator, device=device) < 0.5).to(
            latents.device
        )
        noise = torch.randn(latents.shape, generator=generator, device=device).to(latents)
        softness = torch.rand(len(frames), 1, 1, generator=generator, device=device).to(latents)
        squared = torch.cdist(latents, self.codebook.expand(len(frames), -1, -1)).square_()
        # The unit of displacement and of temperature: the squared error of the nearest code.
        unit = squared.amin(-1, keepdim=True)
        displaced = latents + is_soft * softness * (unit / latents.shape[-1]).sqrt() * noise
        squared = torch.cdist(displaced, self.codebook.expand(len(frames), -1, -1)).square_()
        nearest, indices = squared.topk(num, largest=False)
        temperature = 2 * softness * unit + 1e-6
        soft = (-(nearest - nearest[..., :1]) / temperature).softmax(-1)
        hard = torch.zeros_like(soft)
        hard[..., 0] = 1
        return indices, torch.where(is_soft, soft, hard)

    def _render(self, patches: Tensor, embedding: Tensor | None, clamp: bool = True) -> Tensor:
        """Frames from mean patches `n gh gw d` and, for "conv", code embeddings."""
        p = self.stride
        frames = rearrange(patches, "n gh gw (c p q) -> n c (gh p) (gw q)", p=p, q=p)
        if self.decoder is not None and embedding is not None:
            frames = frames + self.decoder(frames, embedding)
        return frames.clamp(-1, 1) if clamp else frames

    def _latents(self, frames: Tensor) -> Tensor:
        with torch.autocast(frames.device.type, enabled=False):  # tokens stay the same under it
            return (self._patchify(frames.to(self.mean.dtype)) - self.mean) @ self.basis

    def _patchify(self, frames: Tensor) -> Tensor:
        p = self.stride
        return rearrange(frames, "n c (gh p) (gw q) -> (n gh gw) (c p q)", p=p, q=p)

    def _grid(self, frames: Tensor) -> tuple[int, int]:
        return frames.shape[-2] // self.stride, frames.shape[-1] // self.stride

    def _check_fitted(self) -> None:
        if not self.is_fitted:
            raise ValueError(
                "Expected a fitted tokenizer, found one without codes: "
                "call fit(frames, generator) or load its state."
            )

    def _check_size(self, frames: Tensor) -> None:
        check_frames(frames, self.config.channels, self.stride)


class ContextDecoder(nn.Module):
    """Residual of the mean patches from the embeddings of neighbouring codes."""

    def __init__(self, config: PatchTokenizerConfig) -> None:
        super().__init__()
        if config.patch_size % 2:
            raise ValueError(
                f'Expected an even patch_size with decoder="conv", found {config.patch_size}: '
                f"use {config.patch_size + 1}."
            )
        dim, detail, half = config.decoder_dim, config.detail_dim, config.patch_size // 2
        self.embedding = nn.Embedding(config.vocab_size, dim)
        self.context = nn.ModuleList(
            nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1), nn.SiLU(), nn.Conv2d(dim, dim, 1))
            for _ in range(config.num_decoder_layers)
        )
        self.expand = nn.Sequential(nn.Conv2d(dim, detail * half**2, 1), nn.PixelShuffle(half))
        self.fold = nn.PixelUnshuffle(2)
        self.detail = nn.Sequential(
            nn.Conv2d(detail + 4 * config.channels, 2 * detail, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * detail, 2 * detail, 3, padding=1),
            nn.SiLU(),
        )
        self.out = nn.Conv2d(2 * detail, 4 * config.channels, 3, padding=1, bias=False)
        nn.init.zeros_(self.out.weight)  # starts as the linear decoder
        self.unfold = nn.PixelShuffle(2)

    @torch.no_grad()
    def start_from(self, codebook: Float[Tensor, "k d"]) -> None:
        """Embeddings begin as the standardised codes, then what was drawn for the other axes."""
        num = min(codebook.shape[1], self.embedding.weight.shape[1])
        scaled = (codebook - codebook.mean(0)) / codebook.std(0).clamp(min=1e-6)
        self.embedding.weight.mul_(0.1)
        self.embedding.weight[:, :num] = scaled[:, :num]

    def forward(
        self, frames: Float[Tensor, "n c h w"], embedding: Float[Tensor, "n gh gw d"]
    ) -> Float[Tensor, "n c h w"]:
        x = rearrange(embedding, "n gh gw d -> n d gh gw")
        for layer in self.context:
            x = x + layer(x)
        x = torch.cat([self.expand(x), self.fold(frames)], dim=1)
        return self.unfold(self.out(self.detail(x)))


def _chunks(frames: Tensor, grid: int, size: int = 64) -> list[tuple[Tensor, int, int]]:
    """(frames, first patch, one past the last patch) of every run of `size` frames."""
    return [
        (frames[i : i + size], i * grid, min(i + size, len(frames)) * grid)
        for i in range(0, len(frames), size)
    ]
