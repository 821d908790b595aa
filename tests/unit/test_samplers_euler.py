"""Claims about maskworld.samplers.euler."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from maskworld.flow import SigmaSchedule, linear_quadratic_sigmas, uniform_sigmas
from maskworld.samplers.euler import EulerStep, euler


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(seed: int = 0) -> Tensor:
    return torch.randn(2, 5, 3, generator=seeded(seed), dtype=torch.float64)


def toward(data: Tensor):  # type: ignore[no-untyped-def]
    """The exact velocity of a distribution that is one point."""

    def velocity(z: Tensor, t: Tensor) -> Tensor:
        return (z - data) / t[..., None].clamp(min=1e-12)

    return velocity


@pytest.mark.parametrize("num_steps", [1, 2, 7])
@pytest.mark.parametrize("kind", ["uniform", "linear_quadratic"])
def test_a_straight_field_is_followed_to_the_data_in_any_steps(num_steps: int, kind: str) -> None:
    data = noise(1)
    sigmas = SigmaSchedule(kind=kind, num_steps=num_steps).sigmas()  # type: ignore[arg-type]
    torch.testing.assert_close(euler(toward(data), noise(), sigmas), data)


def test_steps_equal_those_written_by_hand() -> None:
    def velocity(z: Tensor, t: Tensor) -> Tensor:
        return torch.sin(z) + t[..., None]

    z = noise()
    for now, after in ((1.0, 0.7), (0.7, 0.2), (0.2, 0.0)):
        z = z + (after - now) * (torch.sin(z) + now)
    torch.testing.assert_close(euler(velocity, noise(), (1.0, 0.7, 0.2, 0)), z)


def test_euler_converges_to_the_solution_of_a_known_flow() -> None:
    """dz/dt = z from t = 1 to 0 divides by e; the error falls with the number of steps."""
    errors = [
        float((euler(lambda z, t: z, noise(), uniform_sigmas(n)) - noise() / torch.e).abs().max())
        for n in (10, 20, 40)
    ]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.1)


def test_one_step_from_noise_gives_the_posterior_mean() -> None:
    """For data N(mu, s^2) the best velocity at t = 1 leads to mu whatever the noise."""
    mu, variance = 2.5, 0.36

    def best_velocity(z: Tensor, t: Tensor) -> Tensor:
        time = t[..., None]
        spread = (1 - time) ** 2 * variance + time**2
        clean = mu + (1 - time) * variance / spread * (z - (1 - time) * mu)
        return (z - clean) / time

    torch.testing.assert_close(
        euler(best_velocity, noise(), (1.0, 0.0)), torch.full_like(noise(), mu)
    )


def test_context_never_changes_and_is_always_at_time_zero() -> None:
    context = torch.tensor([[True, True, False, False, False], [True, False, False, True, False]])
    times: list[Tensor] = []

    def wild(z: Tensor, t: Tensor) -> Tensor:
        times.append(t)
        v = torch.randn(z.shape, generator=seeded(len(times)), dtype=z.dtype)
        return v.masked_fill(context[..., None], float("inf"))

    z1 = noise()
    z0 = euler(wild, z1, linear_quadratic_sigmas(6), context_mask=context)
    assert torch.equal(z0[context], z1[context])
    assert torch.isfinite(z0).all()
    assert (z0[~context] != z1[~context]).all()
    assert all((t[context] == 0).all() for t in times)
    assert [float(t[0, 4]) for t in times] == pytest.approx(linear_quadratic_sigmas(6)[:-1])


def test_tokens_that_start_late_wait_for_their_time() -> None:
    start = torch.tensor([[1.0, 0.6, 0.25, 0.0, 1.0]]).expand(2, 5)
    data, steps = noise(1), []
    z1 = data + start[..., None] * (noise() - data)
    z0 = euler(toward(data), z1, uniform_sigmas(4), start_times=start, callback=steps.append)
    torch.testing.assert_close(z0, data)
    assert [step.t[0, 1].item() for step in steps] == pytest.approx([0.6, 0.6, 0.5, 0.25])
    assert torch.equal(steps[1].z[:, 1], z1[:, 1])


def test_the_callback_sees_every_step_once_in_order_with_its_clean_estimate() -> None:
    data, steps = noise(1), list[EulerStep]()
    euler(toward(data), noise(), uniform_sigmas(3), callback=steps.append)
    assert [step.index for step in steps] == [0, 1, 2]
    assert torch.equal(steps[0].z, noise())
    for step in steps:
        torch.testing.assert_close(step.clean_estimate(), data)


def test_half_precision_latents_get_times_in_single_precision() -> None:
    seen: list[Tensor] = []

    def model(z: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return z

    z0 = euler(model, noise().bfloat16(), linear_quadratic_sigmas(30))
    assert z0.dtype == torch.bfloat16
    assert seen[1].dtype == torch.float32
    assert float(seen[1][0, 0]) == pytest.approx(linear_quadratic_sigmas(30)[1])


def test_a_list_that_does_not_end_at_data_is_refused() -> None:
    with pytest.raises(ValueError, match="0 as the last"):
        euler(toward(noise(1)), noise(), (1.0, 0.5))
