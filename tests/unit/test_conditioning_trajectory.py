"""Claims about maskworld.conditioning.trajectory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from maskworld.conditioning.trajectory import (
    DeltaMap,
    TrajectoryNormaliser,
    resample_trajectory,
    unwrap_heading,
)


def trajectories(num: int = 6) -> torch.Tensor:
    """Smooth plans with different speeds and turns, 8 waypoints at 2 Hz."""
    time = torch.arange(1, 9, dtype=torch.double) * 0.5
    draw = torch.Generator().manual_seed(0)
    speed = 2 + 12 * torch.rand(num, 1, generator=draw, dtype=torch.double)
    turn = 0.6 * torch.rand(num, 1, generator=draw, dtype=torch.double) - 0.3
    heading = turn * time
    x, y = speed * heading.sin() / turn, speed * (1 - heading.cos()) / turn
    return torch.stack([x, y, heading], dim=-1)


def test_navsim_ranges_are_the_published_formulas() -> None:
    rows = trajectories().float()
    x, y, heading = rows.unbind(-1)
    expected = torch.stack(
        [
            2 * (x + 1.57) / 66.74 - 1,
            2 * (y + 19.68) / 42 - 1,
            2 * (heading + 1.67) / 3.53 - 1,
        ],
        dim=-1,
    )
    torch.testing.assert_close(TrajectoryNormaliser().normalise(rows), expected)


def test_denormalise_undoes_normalise() -> None:
    rows = trajectories()
    fitted = TrajectoryNormaliser("dataset")
    fitted.fit(rows)
    for normaliser in (TrajectoryNormaliser(), fitted):
        back = normaliser.denormalise(normaliser.normalise(rows), clamp=False)
        torch.testing.assert_close(back, rows, rtol=1e-5, atol=1e-5)


def test_a_fitted_range_maps_the_extremes_to_one() -> None:
    normaliser = TrajectoryNormaliser("dataset")
    normaliser.fit(trajectories())
    rows = normaliser.normalise(trajectories()).flatten(0, 1)
    torch.testing.assert_close(rows.amin(0), -torch.ones(3).double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rows.amax(0), torch.ones(3).double(), rtol=1e-5, atol=1e-5)


def test_quantiles_of_any_number_of_action_numbers() -> None:
    draw = torch.Generator().manual_seed(1)
    actions = torch.randn(40, 36, 15, generator=draw, dtype=torch.double) * torch.arange(1, 16)
    normaliser = TrajectoryNormaliser("dataset", dim=15, quantile=0.01)
    normaliser.fit(actions)
    low, high = np.quantile(actions.flatten(0, 1).numpy(), (0.01, 0.99), axis=0)
    expected = 2 * (actions.numpy() - low) / (high - low) - 1
    np.testing.assert_allclose(normaliser.normalise(actions).numpy(), expected, atol=1e-5)
    outside = (normaliser.normalise(actions).abs() > 1.0).double().mean()
    assert 0.015 < outside < 0.025


def test_predictions_beyond_the_range_are_clamped_unless_asked_not_to() -> None:
    normaliser = TrajectoryNormaliser()
    action = torch.tensor([[3.0, -2.0, 0.5]], requires_grad=True)
    clamped = normaliser.denormalise(action)
    torch.testing.assert_close(clamped[0, :2], torch.tensor([65.17, -19.68]))
    clamped.sum().backward()
    assert action.grad is not None
    assert (action.grad != 0).tolist() == [[False, False, True]]
    torch.testing.assert_close(
        normaliser.denormalise(action, clamp=False)[0, 0].detach(),
        torch.tensor(31.8 + 3 * 33.37),
    )


def test_statistics_travel_with_the_state_dict() -> None:
    normaliser, delta = TrajectoryNormaliser("dataset"), DeltaMap("dataset")
    normaliser.fit(trajectories())
    delta.fit(trajectories())
    for written, empty in (
        (normaliser, TrajectoryNormaliser("dataset")),
        (delta, DeltaMap("dataset")),
    ):
        empty.load_state_dict(written.state_dict())
        assert torch.equal(empty.statistics.offset, written.statistics.offset)
        assert bool(empty.statistics.is_fitted)
        empty.load_state_dict(written.state_dict())  # the same statistics again are fine


def test_statistics_of_other_data_are_refused() -> None:
    one, other = TrajectoryNormaliser("dataset"), TrajectoryNormaliser("dataset")
    one.fit(trajectories())
    other.fit(trajectories() * 2)
    for holder in (other, TrajectoryNormaliser()):
        with pytest.raises(ValueError, match="other data"):
            holder.load_state_dict(one.state_dict())
    with pytest.raises(ValueError, match="other data"):
        one.load_state_dict(TrajectoryNormaliser("dataset").state_dict())
    with pytest.raises(ValueError, match="fixed constants"):
        TrajectoryNormaliser().fit(trajectories())


def test_statistics_keep_their_precision_in_a_half_precision_model() -> None:
    model = torch.nn.ModuleList([TrajectoryNormaliser(), torch.nn.Linear(3, 3)]).bfloat16()
    normaliser = model[0]
    assert isinstance(normaliser, TrajectoryNormaliser)
    assert model[1].weight.dtype == torch.bfloat16
    edge = normaliser.denormalise(torch.ones(1, 3))
    torch.testing.assert_close(edge, torch.tensor([[65.17, 22.32, 1.86]]))


def test_what_cannot_be_normalised_is_refused() -> None:
    rows = trajectories()
    with pytest.raises(ValueError, match="call fit"):
        TrajectoryNormaliser("dataset").normalise(rows)
    with pytest.raises(ValueError, match="call fit"):
        DeltaMap("dataset")(rows)
    with pytest.raises(ValueError, match="found 2"):
        TrajectoryNormaliser().normalise(rows[..., :2])
    broken = rows.clone()
    broken[0, 0, 0] = math.nan
    for call in (
        TrajectoryNormaliser().normalise,
        TrajectoryNormaliser().denormalise,
        TrajectoryNormaliser("dataset").fit,
        DeltaMap("dataset").fit,
        DeltaMap(),
    ):
        with pytest.raises(ValueError, match="NaN"):
            call(broken)
    straight = rows.clone()
    straight[..., 1] = 0
    for refused in (TrajectoryNormaliser("dataset"), DeltaMap("dataset")):
        with pytest.raises(ValueError, match=r"number \[1\]"):
            refused.fit(straight)
        with pytest.raises(ValueError, match="found none"):
            refused.fit(rows[:0])
    with pytest.raises(ValueError, match="kind dataset"):
        TrajectoryNormaliser("navsim", dim=7)
    with pytest.raises(ValueError, match="quantile"):
        TrajectoryNormaliser("dataset", quantile=0.5)


def test_delta_map_is_equation_17_waypoint_by_waypoint() -> None:
    rows = trajectories(3)
    delta = DeltaMap()(rows)
    for b in range(3):
        before = (0.0, 0.0)
        for waypoint, found in zip(rows[b].tolist(), delta[b].tolist()):
            x, y, heading = waypoint
            expected = (
                (x - before[0] - 2.950226) / 4.525338,
                (y - before[1] - 0.060729) / 5.072810,
                math.sin(heading),
                math.cos(heading),
            )
            assert found == pytest.approx(expected, abs=1e-5)
            before = (x, y)


def test_delta_map_round_trip() -> None:
    fitted = DeltaMap("dataset")
    fitted.fit(trajectories())
    for delta_map in (DeltaMap(), fitted):
        rows = trajectories()
        torch.testing.assert_close(delta_map.inverse(delta_map(rows)), rows, rtol=1e-5, atol=1e-4)
    # A heading beyond pi comes back as the same direction.
    turned = trajectories()
    turned[..., 2] += 3 * math.pi
    back = DeltaMap().inverse(DeltaMap()(turned))[..., 2]
    torch.testing.assert_close(back.cos(), turned[..., 2].cos())
    assert (back.abs() <= math.pi).all()


def test_fitted_delta_statistics_are_mean_and_largest_distance() -> None:
    rows = trajectories()
    fitted = DeltaMap("dataset")
    fitted.fit(rows)
    steps = np.diff(rows[..., :2].numpy(), axis=1, prepend=0.0).reshape(-1, 2)
    mean = steps.mean(axis=0)
    np.testing.assert_allclose(fitted.statistics.offset.numpy(), mean, rtol=1e-5)
    largest = np.maximum(steps.max(axis=0) - mean, mean - steps.min(axis=0))
    np.testing.assert_allclose(fitted.statistics.scale.numpy(), largest, rtol=1e-5)
    delta = fitted(rows)[..., :2]
    assert float(delta.abs().max()) == pytest.approx(1.0, abs=1e-5)


def test_resampling_at_the_same_times_changes_nothing() -> None:
    times = torch.arange(1, 9, dtype=torch.double) * 0.5
    rows = trajectories()
    torch.testing.assert_close(resample_trajectory(times, rows, times), rows)
    torch.testing.assert_close(resample_trajectory(times, rows, times[1::2]), rows[:, 1::2])


@pytest.mark.parametrize("rate", [10, 12])
def test_eight_hertz_from_other_rates_goes_by_time_stamp(rate: int) -> None:
    """Constant motion has a closed form at every stamp; taking the nearest row would miss it."""
    times = torch.arange(4 * rate + 1, dtype=torch.double) / rate
    motion = torch.tensor([7.0, -0.5, 0.9], dtype=torch.double)
    new = torch.arange(33, dtype=torch.double) / 8
    found = resample_trajectory(times, times[:, None] * motion, new)
    torch.testing.assert_close(found, new[:, None] * motion)


def test_headings_are_interpolated_the_short_way_round() -> None:
    times = torch.tensor([0.0, 1.0])
    poses = torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, -3.0]])
    middle = resample_trajectory(times, poses, torch.tensor([0.5]))[0, 2]
    assert float(middle) == pytest.approx(math.pi)
    wrapped = torch.tensor([[3.0, -3.0, -2.0], [-3.0, 3.0, 2.9]])
    expected = np.unwrap(wrapped.numpy(), axis=-1)
    np.testing.assert_allclose(unwrap_heading(wrapped).numpy(), expected, atol=1e-5)


def test_trajectories_are_never_extended() -> None:
    times = torch.arange(1, 9, dtype=torch.double) * 0.5
    rows = trajectories()
    for outside in (0.25, 4.1):
        with pytest.raises(ValueError, match=r"within 0\.5 to 4 s"):
            resample_trajectory(times, rows, torch.tensor([outside], dtype=torch.double))
    with pytest.raises(ValueError, match="increasing"):
        resample_trajectory(times.flip(0), rows, times)
    with pytest.raises(ValueError, match="one time per pose"):
        resample_trajectory(times[:-1], rows, times)
    with pytest.raises(ValueError, match="NaN"):
        resample_trajectory(times, rows * math.nan, times)
