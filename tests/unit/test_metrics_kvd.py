"""Claims about maskworld.metrics.kvd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from maskworld.metrics import kvd
from maskworld.metrics.kvd import kernel_distance, kernel_distance_interval


def vectors(count: int, seed: int, dim: int = 5) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)).double()


def slow(x: Tensor, y: Tensor) -> float:
    """Pair by pair, as in the definition."""
    d = x.shape[1]

    def k(a: Tensor, b: Tensor) -> float:
        return float((a @ b / d + 1) ** 3)

    n, m = len(x), len(y)
    xx = [k(x[i], x[j]) for i in range(n) for j in range(n) if i != j]
    yy = [k(y[i], y[j]) for i in range(m) for j in range(m) if i != j]
    xy = [k(a, b) for a in x for b in y]
    return float(np.mean(xx) + np.mean(yy) - 2 * np.mean(xy))


def test_it_is_the_mean_over_pairs_of_different_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = vectors(13, 0), 1.2 * vectors(9, 1) + 0.3
    expected = slow(x, y)
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-12)
    assert kernel_distance(y, x) == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr(kvd, "ROWS_AT_ONCE", 4)  # blocks change nothing
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-12)


def test_sets_of_one_distribution_have_zero_on_average_however_few() -> None:
    values = np.array(
        [kernel_distance(vectors(8, 2 * s), vectors(8, 2 * s + 1)) for s in range(80)]
    )
    assert abs(values.mean()) < 3 * values.std(ddof=1) / len(values) ** 0.5
    assert (values < 0).any()
    assert kernel_distance(vectors(40, 0), vectors(40, 1) + 1) > 5 * values.std()


def test_the_interval_is_as_wide_as_fresh_draws_vary() -> None:
    fresh = [kernel_distance(vectors(60, 2 * s), vectors(60, 2 * s + 1) + 0.5) for s in range(40)]
    rng = np.random.default_rng(0)
    found = kernel_distance_interval(vectors(60, 0), vectors(60, 1) + 0.5, rng)
    low, high = found.interval
    exact = kernel_distance(vectors(60, 0), vectors(60, 1) + 0.5)
    assert found.value == pytest.approx(exact, rel=1e-12)
    assert low < found.value < high
    assert (high - low) / (2 * 1.96) == pytest.approx(np.std(fresh, ddof=1), rel=0.5)


def test_vectors_of_one_recording_are_drawn_together() -> None:
    """Ten copies of every vector say no more than the vectors: the interval must not shrink."""
    x, y = vectors(20, 0), vectors(20, 1) + 0.5
    copies = [z.repeat_interleave(10, 0) for z in (x, y)]
    names = [str(i) for i in range(20) for _ in range(10)]
    widths = []
    for units in (None, (names, [f"y{n}" for n in names])):
        rng = np.random.default_rng(0)
        low, high = kernel_distance_interval(copies[0], copies[1], rng, units).interval
        widths.append(high - low)
    assert widths[1] > 2 * widths[0]


def test_too_few_and_unlike_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 vectors"):
        kernel_distance(vectors(1, 0), vectors(5, 0))
    with pytest.raises(ValueError, match="NaN"):
        kernel_distance(vectors(5, 0) * float("nan"), vectors(5, 0))
