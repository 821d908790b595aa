"""How sure a number is: Wilson intervals of rates, bootstrap intervals of means over clips."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float, Int

from maskworld.metrics.scores import ClipScores

Interval = tuple[float, float]


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """The score interval of a rate `successes / n`; sensible also at 0 % and 100 %.

    Raises:
        ValueError: `n` below 1, or successes outside 0..n.

    Reference: Wilson, Probable inference (1927).
    """
    _check_confidence(confidence)
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"Expected 0 <= successes <= n with n >= 1, found {successes} of {n}.")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / n
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


def success_rate(
    successes: Bool[np.ndarray, " n"], confidence: float = 0.95
) -> tuple[float, Interval]:
    """The share of True and its Wilson interval."""
    return float(successes.mean()), wilson_interval(
        int(successes.sum()), len(successes), confidence
    )


def bootstrap_interval(
    scores: ClipScores,
    generator: np.random.Generator,
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    strata: Int[np.ndarray, " _"] | None = None,
    groups: Int[np.ndarray, " _"] | None = None,
) -> Interval:
    """Percentile bootstrap of `scores.mean`, resampling clips.

    For a paired difference between two systems, pass `a.minus(b)`.

    Args:
        scores: one row per clip.
        generator: the only source of randomness.
        confidence: of the interval, in (0, 1).
        num_resamples: at least 100.
        strata: a label per clip (e.g. its task): resampling keeps the size of every stratum.
        groups: a label per clip (e.g. its episode): clips of one group are drawn together, since
            windows of one recording are not independent.

    Raises:
        ValueError: fewer than two clips or groups to draw from, a group in two strata, or labels
            of another length.

    Reference: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    _check_confidence(confidence)
    if num_resamples < 100:
        raise ValueError(f"Expected at least 100 resamples, found {num_resamples}.")
    total, weight = scores.per_clip
    for name, labels in (("strata", strata), ("groups", groups)):
        if labels is not None and len(labels) != len(total):
            raise ValueError(
                f"Expected one of {name} per clip ({len(total)}), found {len(labels)}."
            )
    if groups is not None:
        total, weight, strata = _sum_by_group(total, weight, groups, strata)
    if len(total) < 2:
        raise ValueError(f"A bootstrap needs at least 2 clips or groups, found {len(total)}.")
    counts = _resample_counts(len(total), strata, num_resamples, generator)
    resampled_weight = counts @ weight
    means = (counts @ total)[resampled_weight > 0] / resampled_weight[resampled_weight > 0]
    if not len(means):
        raise ValueError("Expected at least one counted value, found none: no interval exists.")
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _resample_counts(
    n: int, strata: np.ndarray | None, num_resamples: int, generator: np.random.Generator
) -> Float[np.ndarray, "r n"]:
    """How often each of `n` units is drawn in each resample."""
    labels = np.zeros(n, dtype=np.int64) if strata is None else strata
    counts = np.zeros((num_resamples, n))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        size = len(members)
        counts[:, members] = generator.multinomial(size, np.full(size, 1 / size), num_resamples)
    return counts


def _sum_by_group(
    total: np.ndarray, weight: np.ndarray, groups: np.ndarray, strata: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Totals, weights and strata of whole groups."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    size = len(first)
    group_strata = None
    if strata is not None:
        group_strata = strata[first]
        if not np.array_equal(group_strata[inverse], strata):
            raise ValueError("Expected every group within one stratum, found one in two.")
    return (
        np.bincount(inverse, total, size),
        np.bincount(inverse, weight, size),
        group_strata,
    )


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"Expected a confidence between 0 and 1, found {confidence}.")
