"""Statistics of actions and other numbers, in one pass, in constant memory, and mergeable."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Num, Shaped

QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)
_MAX_BINS = 4096


class RunningStatistics:
    """Mean, std, min, max and quantiles of each of `dim` numbers.

    Moments are merged by Chan's formula. Quantiles come from histograms whose bin width is a power
    of two and doubles whenever a histogram holds more than 4096 bins, so that two histograms merge
    exactly and the order of updates does not matter; a quantile is off by at most one bin width.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.count = 0
        self._mean = np.zeros(dim)
        self._m2 = np.zeros(dim)
        self._min = np.full(dim, np.inf)
        self._max = np.full(dim, -np.inf)
        self._histograms = [_Histogram() for _ in range(dim)]

    def update(self, values: Num[np.ndarray, "n d"] | Shaped[np.ndarray, "n d"]) -> None:
        """Adds rows. Raises ValueError on NaN or infinity, or on another width."""
        if values.ndim != 2 or values.shape[1] != self.dim:
            raise ValueError(f"Expected rows of {self.dim} numbers, found shape {values.shape}.")
        if len(values) == 0:
            return
        values = values.astype(np.float64)
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
            raise ValueError(f"Expected finite numbers, found NaN or infinity in row {row}.")
        mean = values.mean(axis=0)
        m2 = ((values - mean) ** 2).sum(axis=0)
        self._add_moments(len(values), mean, m2, values.min(axis=0), values.max(axis=0))
        for histogram, column in zip(self._histograms, values.T):
            histogram.add(column)

    def merge(self, other: RunningStatistics) -> None:
        """Adds all that `other` has seen."""
        if other.dim != self.dim:
            raise ValueError(f"Expected statistics of {self.dim} numbers, found {other.dim}.")
        if other.count:
            self._add_moments(other.count, other._mean, other._m2, other._min, other._max)
            for mine, theirs in zip(self._histograms, other._histograms):
                mine.merge(theirs)

    def compute(self) -> dict[str, np.ndarray]:
        """`mean`, `std` (population), `min`, `max`, `count` and `q01` .. `q99`, one per number."""
        if self.count == 0:
            raise ValueError("No row was added: there are no statistics of nothing.")
        found: dict[str, Any] = {
            "min": self._min.copy(),
            "max": self._max.copy(),
            "mean": self._mean.copy(),
            "std": np.sqrt(self._m2 / self.count),
            "count": np.array([self.count]),
        }
        for q in QUANTILES:
            values = np.array([h.quantile(q) for h in self._histograms])
            found[f"q{round(100 * q):02d}"] = np.clip(values, self._min, self._max)
        return found

    def _add_moments(
        self, count: int, mean: np.ndarray, m2: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> None:
        total = self.count + count
        delta = mean - self._mean
        self._mean = self._mean + delta * (count / total)
        self._m2 = self._m2 + m2 + delta**2 * (self.count * count / total)
        self._min, self._max = np.minimum(self._min, low), np.maximum(self._max, high)
        self.count = total


class _Histogram:
    """Counts per bin [i w, (i + 1) w) with w = 2 ** exponent."""

    def __init__(self) -> None:
        self.exponent = -30
        self.bins = np.zeros(0, dtype=np.int64)
        self.counts = np.zeros(0, dtype=np.int64)

    def add(self, values: np.ndarray) -> None:
        # Bins are int64: start wide enough for the largest value.
        largest = float(np.abs(values).max())
        needed = int(np.ceil(np.log2(largest))) - 60 if largest > 0 else self.exponent
        self._coarsen_to(max(self.exponent, needed))
        bins = np.floor(np.ldexp(values, -self.exponent)).astype(np.int64)
        self._add_bins(bins, np.ones(len(bins), dtype=np.int64))

    def merge(self, other: _Histogram) -> None:
        exponent = max(self.exponent, other.exponent)
        self._coarsen_to(exponent)
        self._add_bins(other.bins >> (exponent - other.exponent), other.counts)

    def quantile(self, q: float) -> float:
        """Linear within the bin that holds the q-th part of the counts."""
        cumulative = np.cumsum(self.counts)
        target = q * cumulative[-1]
        i = min(int(np.searchsorted(cumulative, target)), len(self.bins) - 1)
        before = cumulative[i] - self.counts[i]
        inside = (target - before) / self.counts[i]
        return float(np.ldexp(self.bins[i] + inside, self.exponent))

    def _coarsen_to(self, exponent: int) -> None:
        shift = exponent - self.exponent
        if shift > 0:
            self.exponent = exponent
            bins, self.bins, counts = self.bins >> shift, self.bins[:0], self.counts
            self.counts = self.counts[:0]
            self._add_bins(bins, counts)

    def _add_bins(self, bins: np.ndarray, counts: np.ndarray) -> None:
        everything = np.concatenate([self.bins, bins])
        self.bins, inverse = np.unique(everything, return_inverse=True)
        weights = np.concatenate([self.counts, counts])
        self.counts = np.zeros(len(self.bins), dtype=np.int64)
        np.add.at(self.counts, inverse, weights)
        while len(self.bins) > _MAX_BINS:
            self._coarsen_to(self.exponent + 1)
