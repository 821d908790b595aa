"""`frechet_proxy`: a Fréchet distance of clips on fixed random features. It is not FVD.

FVD needs a network trained on videos, whose weights we may not have. This one needs nothing and
costs a millisecond per clip: three hand-made views of a clip, each through a fixed random layer.

    appearance  frames averaged to an 8 x 8 grid
    motion      differences of successive such frames
    sharpness   log of the mean detail in each cell of a 4 x 4 grid, at two scales, over all frames

Random features of appearance and motion alone see neither blur nor pixel noise; the third view is
there for these. Numbers of this proxy say something beside other numbers of this proxy on the same
protocol, beside its floor (real against real), and nothing beside any FVD. Ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from maskworld.metrics.frechet import FrechetStatistics
from maskworld.metrics.image import check_pixels

NAME = "frechet_proxy"
VERSION = 1
"""Part of the protocol: raise it with any change of the features."""
MIN_FRAMES, MIN_SIDE = 4, 16
GRID, DETAIL_GRID = 8, 4
HIDDEN_DIM = 512
DIM_PER_VIEW = 16
"""3 x 16 = 48 dimensions: so more than 48 clips a side are needed, as many as tiny runs have."""
SCALES = {"appearance": 1.0, "motion": 10.0, "sharpness": 2.0}
"""Chosen on 200 driving-world futures (8 frames of 64 x 96) so that standing still and a blur of
one pixel count alike: 2.8 and 2.5 times the floor; shuffled frames 1.9, noise of 3 % 2.4. Ours."""
DETAIL_OFFSET = 0.03
"""Detail below this share of the pixel range counts little: a flat sky has no sharpness."""
CLIPS_AT_ONCE = 32


class FrechetProxy:
    """Features of clips of one length and size, the same in every run.

    Args:
        num_frames: of a clip, at least 4.
        size: height and width, at least 16 each.
        seed: of the random layers; part of the protocol.

    Raises:
        ValueError: too few frames or pixels.
    """

    dim = 3 * DIM_PER_VIEW

    def __init__(self, num_frames: int, size: tuple[int, int], seed: int = 0) -> None:
        if num_frames < MIN_FRAMES:
            raise ValueError(
                f"Expected clips of at least {MIN_FRAMES} frames, found {num_frames}: fewer hardly "
                "tell motion from its absence. Dream longer clips."
            )
        if min(size) < MIN_SIDE:
            raise ValueError(f"Expected sides of at least {MIN_SIDE} pixels, found {size}.")
        self.num_frames, self.size, self.seed = num_frames, size, seed
        generator = torch.Generator().manual_seed(seed)
        pixels = 3 * GRID * GRID
        widths = {
            "appearance": num_frames * pixels,
            "motion": (num_frames - 1) * pixels,
            "sharpness": 2 * DETAIL_GRID * DETAIL_GRID,
        }
        self._layers = {
            name: tuple(
                torch.randn(rows, columns, generator=generator, dtype=torch.float64) * gain
                for rows, columns, gain in (
                    (width, HIDDEN_DIM, (2 / width) ** 0.5),
                    (HIDDEN_DIM, DIM_PER_VIEW, HIDDEN_DIM**-0.5),
                )
            )
            for name, width in widths.items()
        }

    @property
    def protocol(self) -> str:
        """What a feature is of; numbers of different protocols are not compared."""
        height, width = self.size
        return (
            f"{NAME} v{VERSION}, seed {self.seed}, {self.num_frames} frames of {height}x{width}, "
            "uint8 RGB"
        )

    @torch.no_grad()
    def features(self, clips: Shaped[Tensor, "b t c h w"]) -> Float[Tensor, "b d"]:
        """One feature vector per clip, float64.

        Raises:
            ValueError: another type, length or size, or pixels that were cast without scaling.
        """
        self._check(clips)
        parts = [self._features(part) for part in clips.cpu().split(CLIPS_AT_ONCE)]
        return torch.cat(parts) if parts else torch.zeros(0, self.dim, dtype=torch.float64)

    def statistics(self, clips: Shaped[Tensor, "b t c h w"]) -> FrechetStatistics:
        """Fréchet statistics of the clips; `merge` those of several processes."""
        statistics = FrechetStatistics(self.dim, self.protocol)
        statistics.update(self.features(clips))
        return statistics

    def _features(self, clips: UInt8[Tensor, "b t c h w"]) -> Float[Tensor, "b d"]:
        b = len(clips)
        frames = rearrange(clips.float() / 255, "b t c h w -> (b t) c h w")
        coarse = rearrange(F.adaptive_avg_pool2d(frames, GRID), "(b t) c h w -> b t (c h w)", b=b)
        views = {
            "appearance": coarse - 0.5,
            "motion": coarse[:, 1:] - coarse[:, :-1],
            "sharpness": rearrange(_detail(frames), "(b t) n -> b t n", b=b).mean(1, keepdim=True),
        }
        parts = []
        for name, view in views.items():
            first, second = self._layers[name]
            x = SCALES[name] * view.flatten(1).double()
            parts.append(torch.relu(x @ first) @ second)
        return torch.cat(parts, dim=1)

    def _check(self, clips: Tensor) -> None:
        check_pixels(clips)
        expected = (self.num_frames, 3, *self.size)
        if clips.ndim != 5 or tuple(clips.shape[1:]) != expected:
            raise ValueError(
                f"Expected clips b t c h w with (t, c, h, w) = {expected}, found shape "
                f"{tuple(clips.shape)}: cut and resize both sets alike, or make another proxy."
            )
        if len(clips) and int(clips.max()) <= 1:
            raise ValueError(
                "Expected pixels in 0..255, found none above 1: multiply by 255 and round before "
                "the cast to uint8."
            )


def _detail(frames: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
    """Log of the mean absolute difference between brightness and its 3 x 3 mean, per cell, at full
    and at half size."""
    image = frames.mean(dim=1, keepdim=True)
    levels = []
    for _ in range(2):
        smooth = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, 1)
        energy = F.adaptive_avg_pool2d((image - smooth).abs(), DETAIL_GRID)
        levels.append(torch.log(energy + DETAIL_OFFSET).flatten(1))
        image = F.avg_pool2d(smooth, 2)
    return torch.cat(levels, dim=1)
