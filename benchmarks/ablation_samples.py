"""Scores of an ablation's cells as arrays of seeds and scenes (or clips).

A mean is over both. Its 95 % interval is a bootstrap that draws seeds and worlds, each with
replacement and independently (with one seed: worlds alone); with three seeds the former is coarse,
and the whole rather wide. Differences are taken scene by scene within a seed, then treated alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from ablation_folder import is_done, read_cell

NUM_RESAMPLES = 4000


@dataclass(frozen=True)
class Samples:
    """Scores of one kind of cell."""

    values: np.ndarray
    """Seeds x scenes."""
    worlds: np.ndarray
    seeds: tuple[int, ...]

    def minus(self, other: Samples) -> Samples:
        """Scene by scene, for the seeds that both have."""
        seeds = tuple(seed for seed in self.seeds if seed in other.seeds)
        mine, theirs = (
            each.values[[each.seeds.index(seed) for seed in seeds]] for each in (self, other)
        )
        return Samples(mine - theirs, self.worlds, seeds)

    def interval(self) -> tuple[float, float]:
        """95 %, of the mean, drawing seeds and worlds."""
        rng = np.random.default_rng(0)
        names, member = np.unique(self.worlds, return_inverse=True)
        sums = np.stack([np.bincount(member, row, len(names)) for row in self.values])
        sizes = np.bincount(member, minlength=len(names))

        def draws(n: int) -> np.ndarray:
            return rng.multinomial(n, np.full(n, 1 / n), NUM_RESAMPLES)

        seeds, worlds = draws(len(sums)), draws(len(names))
        means = (seeds @ sums * worlds).sum(axis=1) / (len(sums) * (worlds @ sizes))
        low, high = np.quantile(means, [0.025, 0.975])
        return float(low), float(high)

    def told(self, digits: int = 3, sign: str = "") -> str:
        """Mean and interval."""
        low, high = self.interval()
        form = f"{sign}.{digits}f"
        return f"{self.values.mean():{form}} [{low:{form}}, {high:{form}}]"

    def by_seed(self, digits: int = 3, sign: str = "") -> str:
        """The mean of every seed."""
        return ", ".join(f"{value:{sign}.{digits}f}" for value in self.values.mean(axis=1))


@dataclass(frozen=True)
class Cells:
    """All finished cells of a folder: seed -> cell -> what it measured."""

    by_seed: Mapping[int, Mapping[str, Any]]

    @classmethod
    def read(cls, out: Path) -> Self:
        """Those of all seeds."""
        found: dict[int, dict[str, Any]] = {}
        for folder in sorted(out.glob("seed-*/*")):
            if is_done(folder):
                seed = int(folder.parent.name.removeprefix("seed-"))
                found.setdefault(seed, {})[folder.name] = read_cell(folder)
        return cls(dict(sorted(found.items())))

    def having(self, name: str) -> list[int]:
        """Seeds with this cell."""
        return [seed for seed, cells in self.by_seed.items() if name in cells]

    def samples(self, name: str, read: Callable[[Any], tuple[Any, Any]]) -> Samples:
        """An array from what every cell of a name measured.

        Args:
            read: from a cell to (scores, worlds).
        """
        seeds = self.having(name)
        rows = [read(self.by_seed[seed][name]) for seed in seeds]
        return Samples(np.array([row for row, _ in rows]), np.array(rows[0][1]), tuple(seeds))
