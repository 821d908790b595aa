"""Claims about maskworld.guidance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from maskworld.guidance import (
    ClassifierFree,
    Guidance,
    SelfGuided,
    drop_conditions,
    extrapolate,
)


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


# --- guided velocity models


class Network:
    """Two linear velocities; counts how often it is asked."""

    def __init__(self, seed: int) -> None:
        self.weights = torch.randn(2, 3, 3, generator=seeded(seed), dtype=torch.float64)
        self.num_calls = 0

    def __call__(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        self.num_calls += 1
        shared = z + t[..., None]
        return shared @ self.weights[0], shared @ self.weights[1]

    def final(self, z: Tensor, t: Tensor) -> Tensor:
        return self(z, t)[1]


def state(levels: tuple[float, ...] = (0.9, 0.3)) -> tuple[Tensor, Tensor]:
    """Latents and times, the first token of each sample context."""
    t = torch.tensor(levels, dtype=torch.float64)[:, None].repeat(1, 4)
    t[:, 0] = 0.0
    z = torch.randn(len(levels), 4, 3, generator=seeded(7), dtype=torch.float64)
    return z, t


def test_self_guidance_is_equation_9() -> None:
    network, (z, t) = Network(1), state()
    v_i, v_f = network(z, t)
    guided = SelfGuided(network, 1.4)(z, t)
    torch.testing.assert_close(guided, v_i + 1.4 * (v_f - v_i))
    assert network.num_calls == 2  # one pass gives both


def test_scales_of_one_are_the_plain_model_bit_for_bit() -> None:
    network, other, (z, t) = Network(1), Network(2), state()
    plain = network.final(z, t)
    assert torch.equal(SelfGuided(network, 1)(z, t), plain)
    assert torch.equal(ClassifierFree(network.final, other.final, 1.0)(z, t), plain)
    assert torch.equal(Guidance().bind(network)(z, t), plain)
    assert torch.equal(Guidance().bind(network, other)(z, t), plain)
    assert other.num_calls == 0


def test_classifier_free_guidance_extrapolates_from_the_model_without_prompt() -> None:
    c, u, (z, t) = Network(1), Network(2), state()
    guided = ClassifierFree(c.final, u.final, 3.5)(z, t)
    torch.testing.assert_close(guided, 3.5 * c.final(z, t) - 2.5 * u.final(z, t))


def test_each_half_is_self_guided_before_the_halves_are_extrapolated() -> None:
    c, u, (z, t) = Network(1), Network(2), state()
    (c_i, c_f), (u_i, u_f) = c(z, t), u(z, t)
    strong, weak = c_i + 1.4 * (c_f - c_i), u_i + 1.4 * (u_f - u_i)
    guided = Guidance(gamma=1.4, cfg_scale=3.0).bind(c, u)(z, t)
    torch.testing.assert_close(guided, weak + 3.0 * (strong - weak))


def test_guidance_acts_only_on_samples_within_its_interval() -> None:
    c, u, (z, t) = Network(1), Network(2), state((0.9, 0.3))
    plain, full = c.final(z, t), Guidance(gamma=1.4, cfg_scale=3.0).bind(c, u)(z, t)
    both = Guidance(gamma=1.4, gamma_interval=(0.5, 1.0), cfg_scale=3.0, cfg_interval=(0.5, 1.0))
    guided = both.bind(c, u)(z, t)
    assert torch.equal(guided[0], full[0])
    assert torch.equal(guided[1], plain[1])


def test_the_ends_of_an_interval_belong_to_it_and_context_does_not_decide() -> None:
    network = Network(1)
    z, t = state((0.7, 0.7000001))
    guided = SelfGuided(network, 1.4, (0.0, 0.7))(z, t)
    assert not torch.equal(guided[0], network.final(z, t)[0])
    assert torch.equal(guided[1], network.final(z, t)[1])


def test_the_model_without_prompt_is_not_asked_outside_the_interval() -> None:
    c, u, (z, t) = Network(1), Network(2), state((0.9, 0.8))
    guided = ClassifierFree(c.final, u.final, 3.0, (0.0, 0.7))(z, t)
    assert torch.equal(guided, c.final(z, t))
    assert u.num_calls == 0


def test_guidance_without_a_model_to_lead_away_from_is_refused() -> None:
    with pytest.raises(ValueError, match="dropped conditions"):
        Guidance(cfg_scale=3.0).bind(Network(1))
    with pytest.raises(ValueError, match="low <= high"):
        Guidance(gamma_interval=(0.7, 0.2))
    with pytest.raises(ValueError, match="cfg_interval"):
        Guidance(cfg_interval=(0.0, 700.0))
