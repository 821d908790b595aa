"""The decoder that `CausalPatchTokenizer` trains: a residual that removes block borders."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

RESIDUAL_SCALE = 0.1
"""About the size of what the linear frames lack. Ours; without it the first steps of Adam overshoot
so far from zero that the decoder died at a learning rate of 4e-3."""


def wear(
    latents: Float[Tensor, "n tl d gh gw"], noise: float | int, generator: torch.Generator
) -> Float[Tensor, "n tl d gh gw"]:
    """Latents as a model might sample them: on half of the clips, blurred a little and noisy.

    With a strength s ~ U(0, 1) per clip: a share s / 2 of the mean over 3 x 3 neighbours, and
    noise of standard deviation `noise` * s.
    """
    n, device = len(latents), generator.device
    draw = torch.rand(2, n, 1, 1, 1, 1, generator=generator, device=device).to(latents)
    strength = torch.where(draw[0] < 0.5, draw[1], 0.0)
    eps = torch.randn(latents.shape, generator=generator, device=device).to(latents)
    flat = latents.flatten(0, 1)
    blurred = F.avg_pool2d(flat, 3, 1, padding=1, count_include_pad=False).view_as(latents)
    return latents + 0.5 * strength * (blurred - latents) + noise * strength * eps


class ResidualDecoder(nn.Module):
    """Residual of the linear frames, from a group's latents, their neighbours and the group before.

    Latents give detail channels at half resolution for each frame; a small network per frame sees
    them beside the linear frame.
    """

    def __init__(
        self,
        channels: int,
        pixel_channels: int,
        patch_size: int,
        temporal_stride: int,
        dim: int,
        num_layers: int,
        detail: int,
    ) -> None:
        super().__init__()
        half = patch_size // 2
        self.temporal_stride = temporal_stride
        self.first_in = nn.Conv2d(channels, dim, 1)
        self.later_in = nn.Conv2d(2 * channels, dim, 1)
        self.context = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(1, dim),
                nn.Conv2d(dim, dim, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(dim, dim, 1),
            )
            for _ in range(num_layers)
        )
        self.first_out = nn.Conv2d(dim, detail * half**2, 1)
        self.later_out = nn.Conv2d(dim, temporal_stride * detail * half**2, 1)
        self.expand = nn.PixelShuffle(half)
        self.fold = nn.PixelUnshuffle(2)
        self.detail = nn.Sequential(
            nn.Conv2d(detail + 4 * pixel_channels, 2 * detail, 3, padding=1),
            nn.GroupNorm(1, 2 * detail),
            nn.SiLU(),
            nn.Conv2d(2 * detail, 2 * detail, 3, padding=1),
            nn.GroupNorm(1, 2 * detail),
            nn.SiLU(),
        )
        self.out = nn.Conv2d(2 * detail, 4 * pixel_channels, 3, padding=1, bias=False)
        nn.init.zeros_(self.out.weight)  # starts as the linear decoder
        self.unfold = nn.PixelShuffle(2)

    def forward(
        self,
        frames: Float[Tensor, "n t c h w"],
        latents: Float[Tensor, "n tl d gh gw"],
        chosen: list[int] | None = None,
    ) -> Float[Tensor, "n u c h w"]:
        """The residual of all frames, or of the frames at `chosen`."""
        n = len(latents)
        details = [self.first_out(self._mix(self.first_in(latents[:, 0])))[:, None]]
        if latents.shape[1] > 1:
            pairs = torch.cat([latents[:, 1:], latents[:, :-1]], dim=2).flatten(0, 1)
            later = self.later_out(self._mix(self.later_in(pairs)))
            details.append(
                rearrange(
                    later, "(n k) (s d) gh gw -> n (k s) d gh gw", n=n, s=self.temporal_stride
                )
            )
        detail = torch.cat(details, dim=1)
        if chosen is not None:
            detail, frames = detail[:, chosen], frames[:, chosen]
        x = torch.cat([self.expand(detail.flatten(0, 1)), self.fold(frames.flatten(0, 1))], dim=1)
        residual = RESIDUAL_SCALE * self.unfold(self.out(self.detail(x)))
        return residual.unflatten(0, (n, -1))

    def _mix(self, x: Tensor) -> Tensor:
        for layer in self.context:
            x = x + layer(x)
        return x
