import jaxtyping
import numpy as np
import pytest

from maskworld.metrics import ClipScores, bootstrap_interval, success_rate, wilson_interval


def scores(values, weight=None) -> ClipScores:
    total = np.asarray(values, dtype=float)[:, None]
    ones = np.ones_like(total) if weight is None else np.asarray(weight, dtype=float)[:, None]
    return ClipScores(total, ones)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (491, 500, 0.966, 0.991),
        (27, 40, 0.52, 0.80),
        (1966, 2000, 0.976, 0.988),
        (5, 10, 0.237, 0.763),
    ],
)
def test_wilson_interval_has_published_values(successes, n, low, high):
    interval = wilson_interval(successes, n)
    assert interval == pytest.approx((low, high), abs=0.006 if n < 100 else 6e-4)


def test_wilson_interval_solves_its_defining_equation():
    """Both ends p satisfy |rate - p| = z sqrt(p (1 - p) / n)."""
    for end in wilson_interval(7, 20):
        assert abs(7 / 20 - end) == pytest.approx(
            1.959964 * np.sqrt(end * (1 - end) / 20), rel=1e-5
        )


def test_wilson_interval_at_the_borders_and_mirrored():
    z2 = 1.959964**2
    assert wilson_interval(0, 10) == pytest.approx((0.0, z2 / (10 + z2)), abs=1e-6)
    assert wilson_interval(10, 10) == pytest.approx((10 / (10 + z2), 1.0), abs=1e-6)
    low, high = wilson_interval(3, 17)
    assert wilson_interval(14, 17) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_wilson_interval_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, n)


def test_success_rate_counts_true_values():
    rate, interval = success_rate(np.array([True, True, False, True]))
    assert rate == 0.75
    assert interval == wilson_interval(3, 4)


def test_bootstrap_of_constant_scores_has_no_width():
    assert bootstrap_interval(scores([2.5] * 9), np.random.default_rng(0)) == (2.5, 2.5)


def test_bootstrap_agrees_with_the_normal_interval_of_a_mean():
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    low, high = bootstrap_interval(scores(values), np.random.default_rng(0), num_resamples=5000)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_bootstrap_equals_a_slow_resampling_of_indices_in_distribution():
    rng = np.random.default_rng(2)
    values, weight = rng.normal(size=30), rng.integers(1, 5, 30).astype(float)
    slow = [
        values[i].sum() / weight[i].sum() for i in (rng.integers(0, 30, 30) for _ in range(4000))
    ]
    fast = bootstrap_interval(scores(values, weight), rng, num_resamples=4000)
    assert fast == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.02)


def test_bootstrap_is_seeded():
    values = scores(np.random.default_rng(0).normal(size=20))
    first, second = (bootstrap_interval(values, np.random.default_rng(7)) for _ in range(2))
    assert first == second
    assert first != bootstrap_interval(values, np.random.default_rng(8))


def test_paired_differences_are_surer_than_their_parts():
    rng = np.random.default_rng(0)
    hard = rng.normal(20, 5, 100)
    a, b = scores(hard + 0.5 + rng.normal(0, 0.1, 100)), scores(hard)
    low, high = bootstrap_interval(a.minus(b), np.random.default_rng(0))
    assert 0.45 < low < high < 0.55
    alone = bootstrap_interval(a, np.random.default_rng(0))
    assert alone[1] - alone[0] > 1


def test_strata_keep_their_sizes():
    """Between-task spread is no sampling error when every task keeps its share."""
    values, tasks = np.repeat([0.0, 1.0], 10), np.repeat([0, 1], 10)
    inside = bootstrap_interval(scores(values), np.random.default_rng(0), strata=tasks)
    assert inside == (0.5, 0.5)
    low, high = bootstrap_interval(scores(values), np.random.default_rng(0))
    assert high - low > 0.2


def test_windows_of_one_recording_are_drawn_together():
    """Ten copies of each clip are no new evidence: grouped, the interval stays as it was."""
    values = np.random.default_rng(0).normal(size=25)
    copies, groups = np.repeat(values, 10), np.repeat(np.arange(25), 10)
    grouped = bootstrap_interval(scores(copies), np.random.default_rng(3), groups=groups)
    original = bootstrap_interval(scores(values), np.random.default_rng(3))
    assert grouped == pytest.approx(original)
    naive = bootstrap_interval(scores(copies), np.random.default_rng(3))
    assert naive[1] - naive[0] < 0.5 * (grouped[1] - grouped[0])


def test_bootstrap_refuses_what_has_no_interval():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap_interval(scores([1.0]), rng)
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap_interval(scores([1.0, 2.0]), rng, groups=np.array([0, 0]))
    with pytest.raises(ValueError, match="one of strata per clip"):
        bootstrap_interval(scores([1.0, 2.0]), rng, strata=np.array([0]))
    with pytest.raises(ValueError, match="within one stratum"):
        bootstrap_interval(
            scores([1.0, 2.0, 3.0]), rng, strata=np.array([0, 1, 1]), groups=np.array([0, 0, 1])
        )
    with pytest.raises(ValueError, match="no interval"):
        bootstrap_interval(scores([0.0, 0.0], weight=[0.0, 0.0]), rng)
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval(scores([1.0, 2.0]), rng, confidence=95.0)


def test_scores_refuse_nan_and_unequal_shapes():
    with pytest.raises(ValueError, match="finite"):
        scores([1.0, float("nan")])
    with pytest.raises((ValueError, jaxtyping.TypeCheckError)):
        ClipScores(np.ones((2, 3)), np.ones((2, 2)))
    with pytest.raises(ValueError, match="no mean"):
        _ = scores([0.0], weight=[0.0]).mean
