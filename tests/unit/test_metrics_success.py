import math

import numpy as np
import pytest

from maskworld.metrics.intervals import wilson_interval
from maskworld.metrics.success import (
    PRUNING_RATIOS,
    compare_paired,
    mcnemar,
    npauc,
    npauc_interval,
)


def pairs(both: int, one: int, other: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Results of two policies with the given counts of states."""
    first = [True] * (both + one) + [False] * (other + neither)
    second = [True] * both + [False] * one + [True] * other + [False] * neither
    return np.array(first), np.array(second)


def test_mcnemar_is_the_two_sided_sign_test_of_the_pairs_that_differ() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(0, 5) == mcnemar(5, 0) == pytest.approx(2 / 32)
    by_hand = 2 * sum(math.comb(20, k) for k in range(6)) / 2**20
    assert mcnemar(5, 15) == pytest.approx(by_hand)


def test_the_interval_of_a_paired_difference_is_newcombes() -> None:
    # Newcombe 1998, method 10; the second case has phi > 0, drawn towards 0 by n / 2.
    found = compare_paired(*pairs(20, 12, 2, 16))
    np.testing.assert_allclose(found.interval, (0.0562, 0.3292), atol=5e-5)
    found = compare_paired(*pairs(36, 12, 2, 0))
    assert found.difference == pytest.approx(0.2)
    np.testing.assert_allclose(found.interval, (0.0569, 0.3404), atol=5e-5)
    assert (found.only_first, found.only_second) == (12, 2)


def test_pairs_that_agree_narrow_the_interval_and_swapping_policies_mirrors_it() -> None:
    def width(counts: tuple[int, int, int, int]) -> float:
        low, high = compare_paired(*pairs(*counts)).interval
        return high - low

    assert width((25, 5, 0, 20)) < width((15, 15, 10, 10))  # rates .6 and .5 both times
    first, second = pairs(25, 5, 1, 19)
    there, back = compare_paired(first, second), compare_paired(second, first)
    np.testing.assert_allclose(there.interval, [-x for x in reversed(back.interval)])
    assert there.p_value == back.p_value


def test_two_perfect_policies_are_not_known_to_be_equal() -> None:
    found = compare_paired(*pairs(30, 0, 0, 0))
    low, _ = wilson_interval(30, 30)
    assert found.interval == pytest.approx((low - 1, 1 - low))
    assert found.p_value == 1.0


def test_comparing_other_numbers_of_episodes_is_refused() -> None:
    with pytest.raises(ValueError, match="same initial states"):
        compare_paired(np.ones(3, bool), np.ones(4, bool))


def test_npauc_is_the_mean_share_of_success_that_is_left() -> None:
    clean = np.array([1.0, 0.5])
    assert npauc(np.repeat(clean[:, None], 9, axis=1), clean) == 1.0
    rates = np.array([[0.5, 0.25], [0.5, 0.0]])
    assert npauc(rates, clean) == pytest.approx((0.5 + 0.25 + 1.0 + 0.0) / 4)
    assert len(PRUNING_RATIOS) == 9
    with pytest.raises(ValueError, match=r"none in \['pick'\]"):
        npauc(rates, np.array([1.0, 0.0]), names=["push", "pick"])


def test_the_interval_of_npauc_holds_it_and_narrows_with_episodes() -> None:
    generator = np.random.default_rng(0)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        fall = np.array([0.9, 0.6, 0.2])
        return generator.random((2, 3, n)) < fall[:, None], generator.random((2, n)) < 0.9

    widths = []
    for n in (30, 480):
        successes, clean = draw(n)
        value = npauc(successes.mean(-1), clean.mean(-1))
        low, high = npauc_interval(successes, clean, generator)
        assert low < value < high
        widths.append(high - low)
    assert widths[1] < 0.4 * widths[0]
