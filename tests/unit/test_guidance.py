"""Claims about maskworld.guidance."""

from __future__ import annotations

import pytest
import torch

from maskworld.guidance import drop_conditions, extrapolate


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_scale_one_is_the_strong_prediction_and_scale_zero_the_weak_one() -> None:
    weak, strong = torch.randn(2, 5, 7, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(extrapolate(weak, strong, 1.0), strong)
    assert torch.equal(extrapolate(weak, strong, 0.0), weak)


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0, 9.0])
def test_scale_is_one_plus_beta(beta: float) -> None:
    u, c = torch.randn(2, 5, 7, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(extrapolate(u, c, 1 + beta), (1 + beta) * c - beta * u)


def test_equal_predictions_stay_at_any_scale() -> None:
    x = torch.randn(4, generator=seeded())
    torch.testing.assert_close(extrapolate(x, x, 7.5), x)


def test_conditions_are_dropped_at_the_asked_rate_and_seeded() -> None:
    dropped = drop_conditions(20_000, 0.1, seeded())
    assert float(dropped.double().mean()) == pytest.approx(0.1, abs=0.008)
    assert torch.equal(dropped, drop_conditions(20_000, 0.1, seeded()))
    assert not drop_conditions(1000, 0.0, seeded()).any()
    assert drop_conditions(1000, 1.0, seeded()).all()
