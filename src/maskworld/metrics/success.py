"""Success counts: two policies on the same initial states, and rates as tokens are dropped.

Episodes of one initial state are paired: comparing pair by pair takes the difficulty of the state
out of the difference, so fewer episodes tell two policies apart. Rates of one policy are in
`metrics.intervals`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from maskworld.metrics.intervals import Interval, wilson_interval

PRUNING_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""R of the score of token pruning (Mask World Model, random token pruning)."""


@dataclass(frozen=True)
class PairedComparison:
    """Two policies over the same initial states, in the same order."""

    n: int
    rate: float
    other_rate: float
    interval: Interval
    """Of `rate - other_rate`."""
    only_first: int
    """States where the first succeeds and the second fails."""
    only_second: int
    p_value: float
    """Of no difference, two-sided and exact: small where the states that tell the two apart fall to
    one side."""

    @property
    def difference(self) -> float:
        """`rate - other_rate`."""
        return self.rate - self.other_rate


def compare_paired(
    first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " m"], confidence: float = 0.95
) -> PairedComparison:
    """Compares two policies pair by pair: the difference of their rates and McNemar's exact test.

    The interval of the difference is made of the two Wilson intervals and their correlation, so it
    does not shrink to nothing where both always succeed, as a bootstrap does.

    Raises:
        ValueError: no episodes, or another number for each.

    Reference: Newcombe, Improved confidence intervals for the difference between binomial
    proportions based on paired data (1998), method 10; McNemar (1947), in its exact form.
    """
    n = len(first)
    if n < 1 or len(second) != n:
        raise ValueError(
            f"Expected results of the same episodes, at least one, found {n} and {len(second)}: "
            "run both policies on the same initial states."
        )
    both = int((first & second).sum())
    one, other = int((first & ~second).sum()), int((~first & second).sum())
    neither = n - both - one - other
    p, q = (both + one) / n, (both + other) / n
    low_p, high_p = wilson_interval(both + one, n, confidence)
    low_q, high_q = wilson_interval(both + other, n, confidence)
    phi = _correlation(both, one, other, neither)
    down = _combine(p - low_p, high_q - q, phi)
    up = _combine(high_p - p, q - low_q, phi)
    return PairedComparison(
        n=n,
        rate=p,
        other_rate=q,
        interval=(p - q - down, p - q + up),
        only_first=one,
        only_second=other,
        p_value=mcnemar(one, other),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value: how odd a split of the pairs that differ is for a fair coin.

    Raises:
        ValueError: a negative count.
    """
    if min(only_first, only_second) < 0:
        raise ValueError(f"Expected counts of at least 0, found {only_first} and {only_second}.")
    total = only_first + only_second
    tail = sum(math.comb(total, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**total)


def npauc(
    rates: Float[np.ndarray, "s r"], clean: Float[np.ndarray, " s"], names: Sequence[str] = ()
) -> float:
    """Normalised area under the curve of success over the share of dropped tokens.

    The mean over suites (or tasks) s and ratios r of SR_s(r) / SR_s(0): 1 where dropping costs
    nothing, 0 where any dropping ends all success. It may exceed 1.

    Args:
        rates: success at each ratio of `PRUNING_RATIOS`, or of others that you state.
        clean: success without dropping.
        names: of the suites, for the message.

    Raises:
        ValueError: no suite or ratio, a rate outside [0, 1], or a suite that never succeeds without
            dropping, whose share is undefined.

    Reference: Mask World Model, random token pruning.
    """
    if rates.size == 0 or len(clean) != len(rates):
        raise ValueError(f"Expected rates of every suite, found {rates.shape} and {clean.shape}.")
    both = np.concatenate([rates, clean[:, None]], axis=1)
    if not ((both >= 0) & (both <= 1)).all():
        raise ValueError(f"Expected success rates in [0, 1], found {both.min()} to {both.max()}.")
    if (clean == 0).any():
        where = [names[i] if names else i for i in np.flatnonzero(clean == 0).tolist()]
        raise ValueError(
            f"Expected some success without dropping tokens, found none in {where}: leave out "
            "what the policy cannot do, and say so."
        )
    return float((rates / clean[:, None]).mean())


def npauc_interval(
    successes: Bool[np.ndarray, "s r n"],
    clean: Bool[np.ndarray, "s n"],
    generator: np.random.Generator,
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
) -> Interval:
    """Percentile bootstrap of `npauc`, resampling initial states within each suite.

    All ratios ran on the same states, so a state is drawn with all its results. Draws in which a
    suite has no success without dropping are left out: there the score is undefined.

    Raises:
        ValueError: no draw is left.
    """
    suites, _, n = successes.shape
    counts = generator.multinomial(n, np.full(n, 1 / n), (num_resamples, suites))  # k s n
    rates = np.einsum("ksn,srn->ksr", counts, successes) / n
    base = np.einsum("ksn,sn->ks", counts, clean) / n
    kept = (base > 0).all(axis=1)
    if not kept.any():
        raise ValueError("Expected some success without dropping tokens, found none to draw.")
    values = (rates[kept] / base[kept][..., None]).mean(axis=(1, 2))
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _correlation(both: int, one: int, other: int, neither: int) -> float:
    """Of the two policies' results; drawn towards 0 where few episodes support it."""
    product = (both + one) * (other + neither) * (both + other) * (one + neither)
    if product == 0:
        return 0.0
    excess = float(both * neither - one * other)
    if excess > 0:
        excess = max(excess - (both + one + other + neither) / 2, 0.0)
    return excess / math.sqrt(product)


def _combine(a: float, b: float, phi: float) -> float:
    return math.sqrt(max(a**2 - 2 * phi * a * b + b**2, 0.0))
