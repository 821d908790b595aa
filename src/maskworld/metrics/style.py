"""Did a clip take the asked style (autumn, night, ...), and did it keep its layout?"""

from __future__ import annotations

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from maskworld.metrics.image import check_pixels

GRID = (4, 6)
"""Rows and columns of the mean-colour grid of a clip's features. Ours."""
CLIPS_AT_ONCE = 8
"""Clips whose features are computed at a time: float copies of a whole set need gigabytes."""
BINS = 8
"""Bins of each channel's histogram. Ours."""


def style_features(frames: Shaped[Tensor, "b v t c h w"]) -> Float[Tensor, "b d"]:
    """Colours of a clip and where they are: per-channel histograms and a coarse grid of mean
    colours and of their deviation, averaged over views and frames.

    Raises:
        ValueError: pixels are not uint8.
    """
    check_pixels(frames)
    return torch.cat([_clip_features(part) for part in frames.split(CLIPS_AT_ONCE)])


def _clip_features(frames: Shaped[Tensor, "b v t c h w"]) -> Float[Tensor, "b d"]:
    pixels = rearrange(frames, "b v t c h w -> (b v t) c h w").float() / 255
    mean = F.adaptive_avg_pool2d(pixels, GRID)
    deviation = (F.adaptive_avg_pool2d(pixels.square(), GRID) - mean.square()).clamp(min=0).sqrt()
    n, c, h, w = pixels.shape
    bins = rearrange(frames.long() * BINS // 256, "b v t c h w -> (b v t c) (h w)")
    bins = bins + BINS * torch.arange(n * c, device=frames.device)[:, None]
    counts = torch.bincount(bins.flatten(), minlength=n * c * BINS).float() / (h * w)
    histogram = counts.view(n, c, BINS)
    parts = [rearrange(part, "n ... -> n (...)") for part in (mean, deviation, histogram)]
    return reduce(torch.cat(parts, 1), "(b n) d -> b d", "mean", b=frames.shape[0])


class StyleClassifier:
    """Multinomial logistic regression on `style_features`, to be fitted on real clips only.

    The loss is convex and starts at zero weights, so the fit needs no seed and has one answer.
    """

    def __init__(
        self,
        styles: tuple[str, ...],
        weight: Float[Tensor, "d k"],
        bias: Float[Tensor, " k"],
        mean: Float[Tensor, " d"],
        scale: Float[Tensor, " d"],
    ) -> None:
        self.styles = styles
        self.weight, self.bias, self.mean, self.scale = weight, bias, mean, scale

    @classmethod
    def fit(
        cls,
        features: Float[Tensor, "n d"],
        styles: list[str],
        *,
        weight_decay: float = 1e-2,
        num_steps: int = 100,
    ) -> StyleClassifier:
        """Fits on the `style_features` of real clips and their true styles.

        Args:
            features: of n clips.
            styles: n names, at least two different ones.
            weight_decay: of the L2 penalty; ours.
            num_steps: L-BFGS iterations at most; ours.

        Raises:
            ValueError: as many styles as clips are needed, of at least two kinds.
        """
        names = tuple(sorted(set(styles)))
        if len(styles) != len(features) or len(names) < 2:
            raise ValueError(
                f"Expected one style per clip and at least 2 styles, found {len(features)} clips, "
                f"{len(styles)} styles, of {len(names)} kinds."
            )
        x = features.detach().double()
        mean, scale = x.mean(0), x.std(0).clamp(min=1e-3)
        x = (x - mean) / scale
        y = torch.tensor([names.index(style) for style in styles], device=x.device)
        weight = torch.zeros(x.shape[1], len(names), dtype=x.dtype, device=x.device)
        bias = torch.zeros(len(names), dtype=x.dtype, device=x.device)
        parameters = [weight.requires_grad_(), bias.requires_grad_()]
        optimizer = torch.optim.LBFGS(
            parameters,
            max_iter=num_steps,
            history_size=10,
            line_search_fn="strong_wolfe",
            tolerance_grad=1e-5,
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(x @ weight + bias, y) + weight_decay * weight.square().sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)
        return cls(names, weight.detach(), bias.detach(), mean, scale)

    def probabilities(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Of each style, in the order of `styles`."""
        x = (features.double() - self.mean) / self.scale
        return (x @ self.weight + self.bias).softmax(-1).float()

    def predict(self, features: Float[Tensor, "n d"]) -> list[str]:
        """The most probable style of each clip."""
        return [self.styles[i] for i in self.probabilities(features).argmax(-1).tolist()]


def structure_map(frames: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b h w"]:
    """Where the edges are, whatever their colour, sign and contrast: smoothed Sobel magnitude,
    compressed by a square root, with mean 0 and norm 1 in each frame (all 0 in a flat one).

    Raises:
        ValueError: pixels are not uint8.
    """
    check_pixels(frames)
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=frames.device)
    kernels = torch.stack([sobel, sobel.T])[:, None]  # 2 1 3 3
    c = frames.shape[1]
    padded = rearrange(
        F.pad(frames.float(), (1, 1, 1, 1), mode="replicate"), "b c h w -> (b c) 1 h w"
    )
    gradients = rearrange(F.conv2d(padded, kernels), "(b c) g h w -> b c g h w", c=c)
    magnitude = reduce(gradients.square(), "b c g h w -> b 1 h w", "sum").sqrt()
    smooth = F.avg_pool2d(magnitude, 3, 1, 1, count_include_pad=False).squeeze(1).sqrt()
    centred = smooth - reduce(smooth, "b h w -> b 1 1", "mean")
    norm = reduce(centred.square(), "b h w -> b 1 1", "sum").sqrt()
    return torch.where(norm > 1e-3, centred / norm.clamp(min=1e-3), torch.zeros_like(centred))


def layout_agreement(
    stylized: Shaped[Tensor, "a c h w"], sources: Shaped[Tensor, "b c h w"]
) -> Float[Tensor, "a b"]:
    """Correlation, in [-1, 1], between the edge maps of every stylized frame and every source."""
    return torch.einsum("a h w, b h w -> a b", structure_map(stylized), structure_map(sources))


def layout_rank(
    stylized: Shaped[Tensor, "b c h w"], sources: Shaped[Tensor, "b c h w"]
) -> Float[Tensor, " b"]:
    """Of the *other* clips' sources, the share that agrees less with a stylized frame than its own
    source does: 1 = its own layout is the nearest of all, 0.5 = unrelated.

    Raises:
        ValueError: fewer than two clips, or shapes differ.
    """
    check_pixels(stylized, sources)
    b = len(stylized)
    if b < 2:
        raise ValueError(f"Expected at least 2 clips to compare, found {b}.")
    agreement = layout_agreement(stylized, sources)
    own = agreement.diagonal()[:, None]
    return (agreement < own).float().sum(1) / (b - 1)
