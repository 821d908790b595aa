"""Scores kept per clip and horizon step: means, curves and intervals come from one place.

Every metric class here has `update` (a batch), `merge` (what another process saw) and `compute`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class ClipScores:
    """A mean over clips and steps, not yet taken: `total / weight`, one row per clip.

    For a per-frame score such as PSNR the weight is 1; for an accuracy it is the number of tokens
    that count, which may be 0.
    """

    total: Float[np.ndarray, "n t"]
    weight: Float[np.ndarray, "n t"]

    def __post_init__(self) -> None:
        if self.total.shape != self.weight.shape or self.total.ndim != 2:
            raise ValueError(
                "Expected total and weight of one shape (clips, steps), found "
                f"{self.total.shape} and {self.weight.shape}."
            )
        if not (np.isfinite(self.total).all() and np.isfinite(self.weight).all()):
            raise ValueError("Expected finite scores, found NaN or infinity: check the inputs.")
        if (self.weight < 0).any():
            raise ValueError("Expected weights of at least 0, found a negative one.")

    def __len__(self) -> int:
        """The number of clips."""
        return self.total.shape[0]

    @property
    def mean(self) -> float:
        """The pooled mean over all clips and steps.

        Raises:
            ValueError: nothing counted.
        """
        weight = self.weight.sum()
        if weight == 0:
            raise ValueError("Expected at least one counted value, found none: no mean exists.")
        return float(self.total.sum() / weight)

    @property
    def per_horizon(self) -> list[float | None]:
        """The mean at each step; None where nothing counted."""
        total, weight = self.total.sum(0), self.weight.sum(0)
        return [float(x / w) if w > 0 else None for x, w in zip(total, weight)]

    @property
    def per_clip(self) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Totals and weights of each clip over its steps: what the bootstrap resamples."""
        return self.total.sum(1), self.weight.sum(1)

    def step(self, index: int) -> ClipScores:
        """The scores of one horizon step alone (0 = first predicted frame)."""
        return ClipScores(self.total[:, index, None], self.weight[:, index, None])

    def scaled(self, factor: float) -> ClipScores:
        """The same scores in another unit, e.g. bits times log(2) = nats."""
        return ClipScores(self.total * factor, self.weight)

    def minus(self, other: ClipScores) -> ClipScores:
        """Paired differences: both must count the same values of the same clips."""
        if self.weight.shape != other.weight.shape or not np.array_equal(self.weight, other.weight):
            raise ValueError(
                "Expected paired scores (same clips, steps and weights): score both "
                "conditions on the same clips with the same masks."
            )
        return ClipScores(self.total - other.total, self.weight)


def concatenate(parts: list[ClipScores]) -> ClipScores:
    """The scores of several groups of clips as one."""
    if not parts:
        raise ValueError("Expected scores of at least one clip, found none: call update() first.")
    steps = {part.total.shape[1] for part in parts}
    if len(steps) > 1:
        raise ValueError(f"Expected clips of one number of steps, found {sorted(steps)}.")
    return ClipScores(
        np.concatenate([part.total for part in parts]),
        np.concatenate([part.weight for part in parts]),
    )
