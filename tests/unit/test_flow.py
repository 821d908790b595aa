"""Claims about maskworld.flow."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from maskworld.flow import (
    SigmaSchedule,
    TimeSampling,
    add_noise,
    check_sigmas,
    clean_estimate,
    interpolate,
    linear_quadratic_sigmas,
    logit_shift,
    sample_shifted_logit_normal,
    shifted_sigmas,
    uniform_sigmas,
    velocity_target,
)
from maskworld.objectives.flow_matching import flow_matching_loss


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair(shape: tuple[int, ...] = (3, 6, 4)) -> tuple[Tensor, Tensor]:
    z0, eps = torch.randn(2, *shape, generator=seeded(), dtype=torch.float64)
    return z0, eps


def test_time_zero_is_data_and_time_one_is_noise() -> None:
    z0, eps = pair()
    assert torch.equal(interpolate(z0, eps, torch.zeros(3)), z0)
    assert torch.equal(interpolate(z0, eps, torch.ones(3)), eps)


@pytest.mark.parametrize("lead", [(3,), (3, 6), (3, 1), (3, 6, 4)])
def test_the_velocity_leads_from_anywhere_on_the_line_to_the_data(lead: tuple[int, ...]) -> None:
    z0, eps = pair()
    t = torch.rand(lead, generator=seeded(1), dtype=torch.float64)
    z_t = interpolate(z0, eps, t)
    torch.testing.assert_close(clean_estimate(z_t, velocity_target(z0, eps), t), z0)


def test_the_velocity_is_the_derivative_in_time() -> None:
    z0, eps = pair()
    t = torch.full((3,), 0.4, dtype=torch.float64)
    slope = (interpolate(z0, eps, t + 1e-4) - interpolate(z0, eps, t)) / 1e-4
    torch.testing.assert_close(slope, velocity_target(z0, eps))


def test_each_token_mixes_at_its_own_time() -> None:
    z0, eps = pair()
    t = torch.rand(3, 6, generator=seeded(1), dtype=torch.float64)
    for b, n in ((0, 0), (2, 5)):
        expected = (1 - t[b, n]) * z0[b, n] + t[b, n] * eps[b, n]
        torch.testing.assert_close(interpolate(z0, eps, t)[b, n], expected)


def test_half_precision_data_stays_half_precision() -> None:
    z0, eps = (x.bfloat16() for x in pair())
    assert interpolate(z0, eps, torch.rand(3, 6)).dtype == torch.bfloat16


def test_times_that_are_not_over_leading_axes_are_refused() -> None:
    z0, eps = pair()
    with pytest.raises(ValueError, match=r"per sample \(b\) or one per token"):
        interpolate(z0, eps, torch.rand(6))


def test_context_is_clean_bit_for_bit_at_time_zero_and_out_of_the_loss() -> None:
    z0, eps = pair()
    context = torch.zeros(3, 6, dtype=torch.bool)
    context[:, :2] = True
    context[1, 4] = True
    eps[0, 0] = float("inf")  # 0 * inf would be NaN
    noisy = add_noise(z0, eps, torch.rand(3, generator=seeded(1)), context)
    assert torch.equal(noisy.z[context], z0[context])
    assert (noisy.t[context] == 0).all()
    assert (noisy.t[~context] > 0).all()
    v = noisy.target.clone()
    v[context] = 1e3
    assert flow_matching_loss(v, noisy.target, context) == 0


# --- times to train at


@pytest.mark.parametrize(("scope", "different"), [("sample", 1), ("frame", 5), ("token", 30)])
def test_a_scope_draws_one_time_for_each_of_its_parts(scope: str, different: int) -> None:
    times = TimeSampling(scope=scope).sample(4, 5, 6, seeded())  # type: ignore[arg-type]
    assert times.shape == (4, 30)
    assert all(row.unique().numel() == different for row in times)
    by_frame = times.unflatten(1, (5, 6))
    assert (scope == "token") != bool((by_frame == by_frame[..., :1]).all())
    assert torch.equal(times, TimeSampling(scope=scope).sample(4, 5, 6, seeded()))  # type: ignore[arg-type]


def test_uniform_times_are_uniform() -> None:
    times = TimeSampling(scope="token").sample(100, 10, 100, seeded()).double()
    assert float(times.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(times.var()) == pytest.approx(1 / 12, abs=0.002)


def test_the_logit_shift_is_a_line_through_the_published_anchors() -> None:
    assert logit_shift(1024) == pytest.approx(0.95)
    assert logit_shift(4096) == pytest.approx(2.05)
    assert logit_shift(2560) == pytest.approx(1.5)
    assert logit_shift(8) == pytest.approx(0.586, abs=5e-4)


@pytest.mark.parametrize("num_tokens", [8, 1024, 4096])
def test_logits_of_shifted_times_are_normal_around_the_shift(num_tokens: int) -> None:
    times = sample_shifted_logit_normal((50_000,), num_tokens, seeded(), std=0.5)
    logits = torch.logit(times.double())
    assert float(logits.mean()) == pytest.approx(logit_shift(num_tokens), abs=0.01)
    assert float(logits.std()) == pytest.approx(0.5, abs=0.01)


def test_logit_normal_times_have_the_configured_mean() -> None:
    sampling = TimeSampling(kind="logit_normal", scope="token", mean=0.8, std=0.8)
    logits = torch.logit(sampling.sample(100, 5, 100, seeded()).double())
    assert float(logits.mean()) == pytest.approx(0.8, abs=0.02)


def test_the_asked_share_of_samples_is_pure_noise_in_every_token() -> None:
    times = TimeSampling("uniform", "token", p_pure_noise=0.3).sample(4000, 2, 3, seeded())
    is_noise = (times == 1).all(dim=1)
    assert is_noise.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert not (times[~is_noise] == 1).any()
    with pytest.raises(ValueError, match="p_pure_noise"):
        TimeSampling(p_pure_noise=1.5)


def test_unknown_time_settings_are_refused() -> None:
    with pytest.raises((ValueError, TypeError), match="kind"):
        TimeSampling(kind="normal")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="std"):
        TimeSampling(std=0.0)


# --- times to sample at


@pytest.mark.parametrize("num_steps", [1, 2, 3, 5, 10, 30])
@pytest.mark.parametrize("kind", ["uniform", "shifted", "linear_quadratic"])
def test_lists_go_from_one_to_zero_in_the_asked_number_of_steps(kind: str, num_steps: int) -> None:
    sigmas = SigmaSchedule(kind=kind, num_steps=num_steps, shift=3.0).sigmas()  # type: ignore[arg-type]
    assert len(sigmas) == num_steps + 1
    assert sigmas[0] == 1.0
    assert check_sigmas(sigmas) == sigmas


def test_a_shift_of_one_is_uniform_and_a_larger_one_lingers_at_noise() -> None:
    assert shifted_sigmas(7, 1) == pytest.approx(uniform_sigmas(7))
    assert shifted_sigmas(4, 3.0)[2] == pytest.approx(3 * 0.5 / (1 + 2 * 0.5))


def test_linear_quadratic_is_a_line_then_a_parabola_of_the_same_slope() -> None:
    sigmas = torch.tensor(linear_quadratic_sigmas(10), dtype=torch.float64)
    torch.testing.assert_close(sigmas[:6], 1 - 0.005 * torch.arange(6, dtype=torch.float64))
    second = sigmas[5:].diff().diff()
    torch.testing.assert_close(second, second[:1].expand_as(second))
    # the parabola's tangent where it starts: first difference minus half a second difference
    assert float(sigmas[6] - sigmas[5] - second[0] / 2) == pytest.approx(-0.005)


@pytest.mark.parametrize("num_steps", [2, 5, 9, 30])
def test_linear_quadratic_equals_the_public_sampler(num_steps: int) -> None:
    public = pytest.importorskip("diffusers.pipelines.ltx.pipeline_ltx_condition")
    expected = public.linear_quadratic_schedule(num_steps).double().tolist()
    assert linear_quadratic_sigmas(num_steps)[:-1] == pytest.approx(expected, abs=1e-6)


def test_explicit_lists_are_taken_as_they_are_and_checked() -> None:
    assert SigmaSchedule(kind="explicit", values=(1.0, 0.9, 0.0)).sigmas() == (1.0, 0.9, 0.0)
    for values, complaint in (
        ((1.0, 0.5), "0 as the last"),
        ((1.5, 0.0), "at most 1"),
        ((0.0,), "at least two"),
        ((1.0, 0.5, 0.5, 0.0), "found 0.5 followed by 0.5 at step 1"),
        ((1.0, 0.2, 0.5, 0.0), "found 0.2 followed by 0.5 at step 1"),
        ((1.0, math.nan, 0.0), "found 1.0 followed by nan"),
    ):
        with pytest.raises(ValueError, match=complaint):
            SigmaSchedule(kind="explicit", values=values)


def test_settings_without_effect_or_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match="values only with kind explicit"):
        SigmaSchedule(values=(1.0, 0.0))
    with pytest.raises(ValueError, match="num_steps >= 1"):
        SigmaSchedule(num_steps=0)
    with pytest.raises(ValueError, match="shift > 0"):
        SigmaSchedule(kind="shifted", shift=0.0)
    with pytest.raises((ValueError, TypeError), match="kind"):
        SigmaSchedule(kind="cosine")  # type: ignore[arg-type]
