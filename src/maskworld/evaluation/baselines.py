"""What a model has to beat: predictions that know nothing of the future, and say so.

Frames are uint8 `b v t c h w`, tokens integer `b v t gh gw`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from maskworld.metrics.codebook import check_tokens
from maskworld.metrics.image import psnr

BLUR_SIGMA = 1.0
"""Pixels. Copying is punished twice for each displaced edge; a blur of one pixel hedges."""
BLUR_SIGMAS = (0.5, 1.0, 2.0, 3.0, 5.0, 8.0)
"""Pixels; among these `TrivialFutures` chooses for each step."""


def copy_last(
    context: UInt8[Tensor, "b v t c h w"], num_frames: int
) -> UInt8[Tensor, "b v f c h w"]:
    """The last given frame again and again."""
    return repeat(context[:, :, -1], "b v c h w -> b v f c h w", f=num_frames)


def blurred_copy(
    context: UInt8[Tensor, "b v t c h w"], num_frames: int, sigma: float = BLUR_SIGMA
) -> UInt8[Tensor, "b v f c h w"]:
    """The last given frame under a Gaussian of `sigma` pixels (cut at 4 sigma, mirrored edges)."""
    last = context[:, :, -1]
    b, v, _, h, w = last.shape
    radius = min(math.ceil(4 * sigma), h - 1, w - 1)
    offsets = torch.arange(-radius, radius + 1, device=last.device, dtype=torch.float32)
    kernel = torch.exp(-offsets.square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    flat = rearrange(last.float(), "b v c h w -> (b v c) 1 h w")
    padded = F.pad(flat, (radius, radius, radius, radius), mode="reflect")
    blurred = F.conv2d(F.conv2d(padded, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    pixels = blurred.round().clamp(0, 255).to(torch.uint8)
    return repeat(pixels, "(b v c) 1 h w -> b v f c h w", b=b, v=v, f=num_frames)


class MeanImage:
    """The average of all training frames, pixel by pixel: the best constant in squared error."""

    def __init__(self, image: UInt8[Tensor, "v c h w"]) -> None:
        self.image = image

    @classmethod
    def fit(cls, training_frames: Iterable[UInt8[Tensor, "_ v _ c h w"]]) -> MeanImage:
        """Averages batches of *training* clips; held-out clips here would leak their answer.

        Raises:
            ValueError: no frame.
        """
        total: Tensor | float = 0.0
        count = 0
        for frames in training_frames:
            total = total + frames.to(torch.float64).sum((0, 2))
            count += frames.shape[0] * frames.shape[2]
        if not isinstance(total, Tensor) or count == 0:
            raise ValueError("Expected at least one training frame, found none.")
        return cls((total / count).round().to(torch.uint8))

    def predict(self, batch: int, num_frames: int) -> UInt8[Tensor, "b v f c h w"]:
        """The same image for every clip and step."""
        return repeat(self.image, "v c h w -> b v f c h w", b=batch, f=num_frames)


@dataclass(frozen=True)
class TrivialFutures:
    """Every prediction that needs no model, fitted on training clips so that each is at its best.

    A copy, a copy blurred at each step by the sigma that pays most there, the mean image, and the
    mean image of the clip's kind (its style) where kinds are told.
    """

    mean_image: MeanImage
    blur_sigmas: tuple[float, ...]
    """Per horizon step, pixels."""
    mean_images: Mapping[str, MeanImage]
    """Per kind; empty where there are none."""

    @classmethod
    def fit(
        cls,
        training_frames: UInt8[Tensor, "b v t c h w"],
        num_context: int,
        kinds: Sequence[str | None] = (),
        max_blurred: int = 64,
    ) -> TrivialFutures:
        """Fits on training clips; held-out clips here would leak their answer.

        Args:
            kinds: of each clip; empty = not told.
            max_blurred: clips, spread evenly, on which the blur is chosen.

        Raises:
            ValueError: no clip.
        """
        shown = training_frames[:: max(1, len(training_frames) // max_blurred)]
        given, future = shown[:, :, :num_context], shown[:, :, num_context:]
        scores = torch.stack(
            [
                psnr(blurred_copy(given, future.shape[2], sigma), future).mean((0, 1))
                for sigma in BLUR_SIGMAS
            ]
        )  # sigmas t
        sigmas = tuple(BLUR_SIGMAS[i] for i in scores.argmax(0).tolist())
        named = sorted({kind for kind in kinds if kind is not None})
        means = {
            name: MeanImage.fit(
                training_frames[i : i + 1] for i, kind in enumerate(kinds) if kind == name
            )
            for name in named
        }
        everything = MeanImage.fit(training_frames[i : i + 1] for i in range(len(training_frames)))
        return cls(everything, sigmas, means)

    def predict(
        self,
        context: UInt8[Tensor, "b v t c h w"],
        num_frames: int,
        kinds: Sequence[str | None] = (),
    ) -> dict[str, UInt8[Tensor, "b v f c h w"]]:
        """The futures by name, `num_frames` steps each."""
        sigmas = self.blur_sigmas[:num_frames]
        sigmas += (self.blur_sigmas[-1],) * (num_frames - len(sigmas))
        blurred = {sigma: blurred_copy(context, 1, sigma) for sigma in set(sigmas)}
        futures = {
            "copy_last": copy_last(context, num_frames),
            "blurred_copy": torch.cat([blurred[sigma] for sigma in sigmas], dim=2),
            "mean_image": self.mean_image.predict(len(context), num_frames),
        }
        if self.mean_images:
            means = [self.mean_images.get(kind or "", self.mean_image) for kind in kinds]
            futures["mean_image_of_style"] = torch.cat([m.predict(1, num_frames) for m in means])
        return futures


def best_trivial(
    per_horizon: Mapping[str, Sequence[float | None]], better: str
) -> list[float | None]:
    """At each step the best of several baselines, which is what a model has to beat there.

    Args:
        per_horizon: baseline name -> one value per step, None where undefined.
        better: "higher" or "lower".

    Raises:
        ValueError: no baseline, curves of unequal length, or another word for `better`.
    """
    if better not in ("higher", "lower"):
        raise ValueError(f'Expected better to be "higher" or "lower", found {better!r}.')
    lengths = {len(curve) for curve in per_horizon.values()}
    if len(lengths) != 1:
        raise ValueError(f"Expected baselines of one number of steps, found {sorted(lengths)}.")
    pick = max if better == "higher" else min
    best: list[float | None] = []
    for values in zip(*per_horizon.values()):
        defined = [value for value in values if value is not None]
        best.append(pick(defined) if defined else None)
    return best


class Unigram:
    """Token frequencies of the training part, with `smoothing` counts added to every code."""

    def __init__(self, probabilities: Float[Tensor, " k"]) -> None:
        self.probabilities = probabilities

    @classmethod
    def fit(
        cls, training_tokens: Int[Tensor, "*n"], vocab_size: int, smoothing: float = 1.0
    ) -> Unigram:
        """Counts the training tokens.

        Raises:
            ValueError: a token outside the vocabulary, or smoothing that leaves a code impossible.
        """
        check_tokens(training_tokens, vocab_size)
        flat = training_tokens.reshape(-1).long()
        if smoothing <= 0:
            raise ValueError(
                f"Expected smoothing above 0, found {smoothing}: an unseen code would cost "
                "infinitely many bits."
            )
        counts = torch.bincount(flat, minlength=vocab_size).to(torch.float64) + smoothing
        return cls(counts / counts.sum())

    def bits(self, tokens: Int[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Bits of each token."""
        return -self.probabilities[tokens.long()].log2()


class CopyLastMixture:
    """With probability `copy` the token of the last frame at the same place, else a unigram draw.

    p(x) = copy [x = last] + (1 - copy) unigram(x), an exact code length for every token.
    """

    def __init__(self, unigram: Unigram, copy: float) -> None:
        self.unigram = unigram
        self.copy = copy

    @classmethod
    def fit(
        cls, unigram: Unigram, last: Int[Tensor, "*b"], tokens: Int[Tensor, "*b"]
    ) -> CopyLastMixture:
        """Fits `copy` by maximum likelihood on pairs of the training part.

        The likelihood is concave in `copy`; expectation maximisation climbs it to 1e-9.

        Args:
            unigram: fitted on the training part.
            last: for each token, the one at its place in the frame before (or the last given one).
            tokens: what came.

        Raises:
            ValueError: no pair.
        """
        if tokens.numel() == 0:
            raise ValueError("Expected at least one pair of tokens, found none.")
        same = (last == tokens).reshape(-1).to(torch.float64)
        drawn = unigram.probabilities[tokens.reshape(-1).long()]
        copy = 0.5
        for _ in range(10_000):
            responsibility = copy * same / (copy * same + (1 - copy) * drawn)
            updated = float(responsibility.mean())
            if abs(updated - copy) < 1e-9:
                break
            copy = updated
        # A copy that never failed in training may still fail later: keep the code length finite.
        return cls(unigram, min(copy, 1 - 1e-6))

    def bits(self, last: Int[Tensor, "*b"], tokens: Int[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Bits of each token given the one of the last frame at its place."""
        drawn = self.unigram.probabilities[tokens.long()]
        return -(self.copy * (last == tokens) + (1 - self.copy) * drawn).log2()
