"""Claims about maskworld.data.statistics."""

from __future__ import annotations

import numpy as np
import pytest

from maskworld.data.statistics import QUANTILES, RunningStatistics


def test_parts_merge_to_the_statistics_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5000, 3)) * [1.0, 100.0, 1e-3] + [0.0, 1e4, -5.0]
    whole, merged = RunningStatistics(3), RunningStatistics(3)
    whole.update(values)
    for part in np.array_split(values, 7)[::-1]:
        statistics = RunningStatistics(3)
        statistics.update(part)
        merged.merge(statistics)
    merged.merge(RunningStatistics(3))
    for found in (whole.compute(), merged.compute()):
        np.testing.assert_allclose(found["mean"], values.mean(axis=0), rtol=1e-10)
        np.testing.assert_allclose(found["std"], values.std(axis=0), rtol=1e-8)
        np.testing.assert_array_equal(found["min"], values.min(axis=0))
        np.testing.assert_array_equal(found["max"], values.max(axis=0))
        assert found["count"].tolist() == [5000]
    for key, value in whole.compute().items():
        np.testing.assert_allclose(merged.compute()[key], value, rtol=1e-8)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_quantiles_are_near_the_exact_ones(scale: float) -> None:
    values = np.random.default_rng(1).normal(size=(20000, 1)) * scale
    statistics = RunningStatistics(1)
    for part in np.array_split(values, 13):
        statistics.update(part)
    found = statistics.compute()
    for q in QUANTILES:
        exact = np.quantile(values, q)
        assert abs(found[f"q{round(100 * q):02d}"][0] - exact) < 0.01 * scale


def test_quantiles_merge_across_scales() -> None:
    rng = np.random.default_rng(2)
    parts = [rng.normal(size=(9000, 1)) * scale for scale in (1e-3, 10.0, 1.0)]
    merged = RunningStatistics(1)
    for part in parts:
        statistics = RunningStatistics(1)
        statistics.update(part)
        merged.merge(statistics)
    for q in QUANTILES:
        exact = np.quantile(np.concatenate(parts), q)
        assert abs(merged.compute()[f"q{round(100 * q):02d}"][0] - exact) < 0.05


def test_a_constant_has_no_spread() -> None:
    statistics = RunningStatistics(2)
    statistics.update(np.tile([[0.0, -7.25]], (50, 1)))
    found = statistics.compute()
    for key in ("mean", "min", "max", "q01", "q50", "q99"):
        np.testing.assert_array_equal(found[key], [0.0, -7.25])
    np.testing.assert_array_equal(found["std"], [0.0, 0.0])


def test_bad_rows_are_refused() -> None:
    statistics = RunningStatistics(2)
    with pytest.raises(ValueError, match="row 1"):
        statistics.update(np.array([[0.0, 1.0], [np.inf, 0.0]]))
    with pytest.raises(ValueError, match="rows of 2"):
        statistics.update(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="No row"):
        statistics.compute()
