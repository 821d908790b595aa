"""How sure a Fréchet distance is: its standard error from one pass over the features.

To first order a clip x of set a moves the distance to set b by its influence over n_a,

    h(x) = 2 (x - m_a) . (m_a - m_b) + (x - m_a)^T (I - T) (x - m_a)  less its mean,

with T = S_a^(-1/2) (S_a^(1/2) S_b S_a^(1/2))^(1/2) S_a^(-1/2), the map that carries one Gaussian to
the other. The variance of the distance is that of the sums of h over independent units. A bootstrap
says the same after hundreds of eigendecompositions; at 2048 dimensions that is an hour.

Measured against 16 fresh draws of 400-dimensional Gaussians with a power-law spectrum: with 512 to
2048 clips a side 0.85 to 0.9 of the true error far from the floor or at few clips, up to 1.9 times
it where both sets come from one distribution: rather wide than narrow. The bias of few samples is
not in it: that is what `extrapolate` is for.

Reference: Efron 1982, chapter 6 (infinitesimal jackknife); Dowson and Landau 1982.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from maskworld.metrics.frechet import FrechetStatistics

ROWS_AT_ONCE = 4096
SMALLEST = 1e-10
"""Directions with less than this share of the largest variance carry no map. Ours."""


def influences(
    features: Float[Tensor, "n d"], own: FrechetStatistics, other: FrechetStatistics
) -> Float[np.ndarray, " n"]:
    """What each vector of a set does to the distance, times the size of the set; mean 0.

    Args:
        features: of the set whose statistics are `own`, or a part of it.
    """
    root, inverse = _roots(own.covariance)
    values, vectors = torch.linalg.eigh(root @ other.covariance @ root)
    middle = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    change = torch.eye(own.dim, dtype=torch.float64) - inverse @ middle @ inverse  # I - T
    gap = own.mean - other.mean
    mean = float((change * own.scatter).sum()) / own.num_samples
    parts = []
    for rows in features.split(ROWS_AT_ONCE):
        x = rows.to("cpu", torch.float64) - own.mean
        parts.append(2 * x @ gap + ((x @ change) * x).sum(dim=1) - mean)
    return torch.cat(parts).numpy()


def standard_error(
    sets: Sequence[tuple[Float[np.ndarray, " _"], Sequence[str]]],
) -> float:
    """The standard error of a distance from the influences of both sets.

    Args:
        sets: per set the influences and the unit of each vector: its clip, or its recording.
            Vectors of one unit, also in both sets (a dream and the clip that it continues), count
            together, since they are not independent.

    Raises:
        ValueError: fewer than two units.
    """
    totals: dict[str, float] = {}
    for values, units in sets:
        for value, unit in zip(values, units, strict=True):
            totals[unit] = totals.get(unit, 0.0) + float(value) / len(values)
    n = len(totals)
    if n < 2:
        raise ValueError(f"Expected at least 2 clips or recordings for an error, found {n}.")
    sums = np.array(list(totals.values()))
    return float(np.sqrt((sums @ sums) * n / (n - 1)))


def normal_interval(
    value: float, error: float, confidence: float = 0.95, lowest: float = 0.0
) -> tuple[float, float]:
    """`value` and the normal quantiles of its standard error, cut at `lowest`."""
    reach = NormalDist().inv_cdf(0.5 + confidence / 2) * error
    return max(value - reach, min(lowest, value)), value + reach


def _roots(covariance: Float[Tensor, "d d"]) -> tuple[Tensor, Tensor]:
    """S^(1/2) and its pseudo-inverse."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    kept = values > SMALLEST * values[-1].clamp(min=1e-300)
    values, vectors = values[kept], vectors[:, kept]
    return (vectors * values.sqrt()) @ vectors.T, (vectors * values.rsqrt()) @ vectors.T
