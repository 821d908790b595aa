"""How well class maps are predicted: intersection over union, and how near the outlines are.

Labels are integer maps `b v t h w`; 255 is no label and is counted nowhere.

An IoU is that of the whole data set: intersections and unions are summed over all frames before
they are divided. A class whose union is empty, since neither labels nor predictions hold it, has no
IoU: it is left out of the mean and named in `absent`, never counted as 0 or 1. A class that is
predicted where it never is counts as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from maskworld.metrics.intervals import Interval
from maskworld.metrics.scores import ClipScores, concatenate

IGNORED = 255
"""No label."""
MEAN = "mean"
"""What `MaskScores` calls the mean over classes."""


@dataclass(frozen=True)
class MaskScores:
    """Intersections and unions in pixels, one row per clip, not yet divided."""

    intersection: Float[np.ndarray, "n t k"]
    union: Float[np.ndarray, "n t k"]
    names: tuple[str, ...]

    def __len__(self) -> int:
        """The number of clips."""
        return self.intersection.shape[0]

    @property
    def iou(self) -> dict[str, float | None]:
        """Of every class over all clips and steps; None where it is absent."""
        return dict(zip(self.names, _ratios(*self._pooled())))

    @property
    def absent(self) -> list[str]:
        """Classes that neither labels nor predictions hold."""
        return [name for name, value in self.iou.items() if value is None]

    @property
    def mean(self) -> float:
        """mIoU: the mean over the classes that are there.

        Raises:
            ValueError: none is.
        """
        present = [value for value in self.iou.values() if value is not None]
        if not present:
            raise ValueError("Expected pixels of at least one class, found none: no mIoU exists.")
        return float(np.mean(present))

    @property
    def per_horizon(self) -> dict[str, list[float | None]]:
        """IoU of every class at each step, and their mean under "mean"."""
        steps = [
            _ratios(i, u) for i, u in zip(self.intersection.sum(axis=0), self.union.sum(axis=0))
        ]
        curves: dict[str, list[float | None]] = {
            name: [values[k] for values in steps] for k, name in enumerate(self.names)
        }
        means = [[value for value in values if value is not None] for values in steps]
        return {MEAN: [float(np.mean(each)) if each else None for each in means], **curves}

    def scores_of(self, name: str) -> ClipScores:
        """Intersections over unions of one class, for intervals and curves."""
        k = self.names.index(name)
        return ClipScores(self.intersection[..., k], self.union[..., k])

    def interval(
        self,
        generator: np.random.Generator,
        *,
        minus: MaskScores | None = None,
        groups: Int[np.ndarray, " n"] | None = None,
        confidence: float = 0.95,
        num_resamples: int = 2000,
    ) -> Interval:
        """Percentile bootstrap of the mIoU, resampling clips.

        Args:
            minus: other predictions of the same clips: the interval is that of the difference.
            groups: a label per clip (its episode): clips of one group are drawn together.

        Raises:
            ValueError: fewer than two clips or groups.
        """
        labels = np.arange(len(self)) if groups is None else groups
        names, inverse = np.unique(labels, return_inverse=True)
        size = len(names)
        if size < 2:
            raise ValueError(f"A bootstrap needs at least 2 clips or groups, found {size}.")
        counts = generator.multinomial(size, np.full(size, 1 / size), num_resamples)
        values = self._resampled(counts, inverse)
        if minus is not None:
            if minus.intersection.shape != self.intersection.shape:
                raise ValueError("Expected predictions of the same clips and steps for a pair.")
            values = values - minus._resampled(counts, inverse)
        tail = (1 - confidence) / 2
        low, high = np.nanquantile(values, [tail, 1 - tail])
        return float(low), float(high)

    def _pooled(self) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        return self.intersection.sum(axis=(0, 1)), self.union.sum(axis=(0, 1))

    def _resampled(self, counts: np.ndarray, inverse: np.ndarray) -> Float[np.ndarray, " r"]:
        """The mIoU of each draw of groups."""
        grouped = np.zeros((2, counts.shape[1], len(self.names)))
        np.add.at(grouped[0], inverse, self.intersection.sum(axis=1))
        np.add.at(grouped[1], inverse, self.union.sum(axis=1))
        inter, union = (counts @ part for part in grouped)
        with np.errstate(invalid="ignore"):
            return np.nanmean(np.where(union > 0, inter / union, np.nan), axis=1)


class MaskIoU:
    """Gathers intersections and unions over clips, per horizon step; views are pooled.

    Args:
        names: of the classes, in the order of their numbers.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []

    def update(
        self,
        prediction: Integer[Tensor, "b v t h w"],
        target: Integer[Tensor, "_ _ _ _ _"],
    ) -> None:
        """Adds a batch of clips.

        Raises:
            ValueError: shapes differ, or a class without a name.
        """
        count = len(self.names)
        check_labels(prediction, target, count)
        b, _, t = target.shape[:3]
        counted = target != IGNORED
        clip = torch.arange(b).view(b, 1, 1, 1, 1) * t + torch.arange(t).view(1, 1, t, 1, 1)
        place = (clip.to(target.device).expand_as(target) * count)[counted]
        real, guess = target[counted].long(), prediction[counted].long()

        def pixels(where: Tensor) -> np.ndarray:
            found = torch.bincount(where, minlength=b * t * count)
            return found.view(b, t, count).double().cpu().numpy()

        hit = pixels((place + real)[real == guess])
        union = pixels(place + real) + pixels(place + guess) - hit
        self._parts.append((hit, union))

    def merge(self, other: MaskIoU) -> None:
        """Adds the clips of another metric of the same classes."""
        if other.names != self.names:
            raise ValueError(f"Expected the classes {self.names}, found {other.names}.")
        self._parts.extend(other._parts)

    def compute(self) -> MaskScores:
        """All clips so far.

        Raises:
            ValueError: no clip was seen.
        """
        if not self._parts:
            raise ValueError("Expected at least one clip, found none: call update() first.")
        inter, union = (np.concatenate(each) for each in zip(*self._parts))
        return MaskScores(inter, union, self.names)


class BoundaryF:
    """Gathers the boundary F-measure of every class in every frame, per horizon step.

    Precision: the share of the predicted outline within `tolerance` pixels of a true one; recall:
    the other way round; F is their harmonic mean. A class that a frame holds in neither map is not
    counted there; one that it holds in only one of them counts as 0.

    Args:
        names: of the classes, in the order of their numbers.
        tolerance: pixels. DAVIS takes 0.008 of the image's diagonal, 1 at 64 x 64.
        classes: those that count, by name; all if None. Leave the background out: its outline is
            that of everything else.

    Reference: Perazzi et al., DAVIS (2016), contour accuracy F.
    """

    def __init__(
        self, names: Sequence[str], tolerance: int = 1, classes: Sequence[str] | None = None
    ) -> None:
        if tolerance < 0:
            raise ValueError(f"Expected a tolerance of at least 0 pixels, found {tolerance}.")
        self.names, self.tolerance = tuple(names), tolerance
        chosen = self.names if classes is None else tuple(classes)
        unknown = [name for name in chosen if name not in self.names]
        if unknown:
            raise ValueError(f"Expected classes among {list(self.names)}, found {unknown}.")
        self.classes = [self.names.index(name) for name in chosen]
        self._parts: list[ClipScores] = []

    def update(
        self,
        prediction: Integer[Tensor, "b v t h w"],
        target: Integer[Tensor, "_ _ _ _ _"],
    ) -> None:
        """Adds a batch of clips.

        Raises:
            ValueError: shapes differ, or a class without a name.
        """
        check_labels(prediction, target, len(self.names))
        counted = target != IGNORED
        total = torch.zeros(target.shape[0], target.shape[2], dtype=torch.float64)
        weight = torch.zeros_like(total)
        for k in self.classes:
            real = rearrange((target == k) & counted, "b v t h w -> (b v t) h w")
            guess = rearrange((prediction == k) & counted, "b v t h w -> (b v t) h w")
            f = boundary_f(guess, real, self.tolerance).cpu()
            f = rearrange(f, "(b v t) -> b v t", b=total.shape[0], t=total.shape[1])
            there = real.flatten(1).any(1) | guess.flatten(1).any(1)
            there = there.cpu().view(f.shape)
            total += torch.where(there, f, 0.0).sum(1)
            weight += there.sum(1)
        self._parts.append(ClipScores(total.numpy(), weight.numpy()))

    def merge(self, other: BoundaryF) -> None:
        """Adds the clips of another metric of the same classes and tolerance."""
        mine, theirs = ((m.names, m.classes, m.tolerance) for m in (self, other))
        if mine != theirs:
            raise ValueError(f"Expected the classes and tolerance {mine}, found {theirs}.")
        self._parts.extend(other._parts)

    def compute(self) -> ClipScores:
        """All clips so far; a frame weighs as many times as it has classes.

        Raises:
            ValueError: no clip was seen.
        """
        return concatenate(self._parts)


def boundary_f(
    prediction: Bool[Tensor, "n h w"], target: Bool[Tensor, "n h w"], tolerance: int = 1
) -> Float[Tensor, " n"]:
    """The boundary F-measure of binary masks; 1 where neither has an outline, 0 where one has."""
    guess, real = outline(prediction), outline(target)
    found = (guess & _dilated(real, tolerance)).flatten(1).sum(1).double()
    met = (real & _dilated(guess, tolerance)).flatten(1).sum(1).double()
    guesses, reals = guess.flatten(1).sum(1).double(), real.flatten(1).sum(1).double()
    precision, recall = found / guesses.clamp(min=1), met / reals.clamp(min=1)
    f = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    return torch.where((guesses == 0) & (reals == 0), torch.ones_like(f), f)


def outline(mask: Bool[Tensor, "n h w"]) -> Bool[Tensor, "n h w"]:
    """Pixels of a mask with one of their four neighbours outside it. The image's edge is no
    outline; a mask that fills the image has none."""
    padded = F.pad(mask[:, None].float(), (1, 1, 1, 1), mode="replicate")[:, 0].bool()
    inner = padded[:, :-2, 1:-1] & padded[:, 2:, 1:-1] & padded[:, 1:-1, :-2] & padded[:, 1:-1, 2:]
    return mask & ~inner


def check_labels(prediction: Tensor, target: Tensor, num_classes: int) -> None:
    """Raises ValueError for shapes that differ or classes beyond `num_classes`."""
    if prediction.shape != target.shape:
        raise ValueError(
            f"Expected predicted and true labels of one shape, found {tuple(prediction.shape)} and "
            f"{tuple(target.shape)}: resize neither with anything but nearest neighbour."
        )
    for name, labels, kept in (
        ("predicted", prediction, prediction[target != IGNORED]),
        ("true", target, target[target != IGNORED]),
    ):
        if kept.numel() and not 0 <= int(kept.min()) <= int(kept.max()) < num_classes:
            raise ValueError(
                f"Expected {name} classes from 0 to {num_classes - 1}, found "
                f"{int(labels.min())} to {int(labels.max())}: give names for all classes."
            )


def _dilated(mask: Bool[Tensor, "n h w"], radius: int) -> Bool[Tensor, "n h w"]:
    """Every pixel within `radius` of one of the mask's (a disk)."""
    if radius == 0:
        return mask
    steps = torch.arange(-radius, radius + 1, device=mask.device)
    disk = (steps[:, None] ** 2 + steps[None] ** 2 <= radius**2).float()
    return F.conv2d(mask[:, None].float(), disk[None, None], padding=radius)[:, 0] > 0.5


def _ratios(intersection: np.ndarray, union: np.ndarray) -> list[float | None]:
    return [float(i / u) if u > 0 else None for i, u in zip(intersection, union)]
