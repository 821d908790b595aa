"""Claims about planners that drive the stepping world."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from maskworld.evaluation.closed_loop import (
    ClosedLoopConfig,
    DriveRecord,
    add_closed_loop,
    drive,
    realised_scores,
)
from maskworld.evaluation.results import Results
from maskworld.policies import ConstantVelocity, StandStill
from maskworld.preparation.planning_clips import MomentPlan
from maskworld.types import Batch

CONFIG = ClosedLoopConfig(
    num_windows=1, seen=MomentPlan(num_past=2, num_future=0, size=(12, 18), styles=("summer",))
)
WORLDS = [0, 3]
"""A highway and a roundabout."""


@dataclass
class Straight:
    """Straight on at a speed of its own; keeps what it was shown."""

    speed: float
    seen: list[Batch] = field(default_factory=list)

    def plan(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        self.seen.append(batch)
        plan = torch.zeros(len(batch), 8, 3)
        plan[..., 0] = self.speed * 0.5 * torch.arange(1, 9)
        return plan


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def expert() -> list[DriveRecord]:
    return drive(None, WORLDS, CONFIG, generator())


def test_expert_arrives_unharmed_and_scores_well(expert: list[DriveRecord]) -> None:
    for record in expert:
        assert record.collision is None
        assert record.off_road is None
        assert record.progress > 10
        assert record.log.num_steps == record.start + CONFIG.num_steps + 1
        scores = realised_scores(record, CONFIG)
        assert scores["nc"] == scores["dac"] == 1
        assert scores["pdms"] > 0.75


def test_racing_across_a_junction_is_a_collision_at_fault_and_ends_the_motion() -> None:
    record = drive(Straight(38.0), [2], CONFIG, generator())[0]
    assert record.collision is not None
    assert realised_scores(record, CONFIG)["nc"] == 0
    assert not np.ptp(record.log.poses[record.collision :], axis=0).any()
    assert (record.log.agents[record.collision + 1] != record.log.agents[record.collision]).any()


def test_straight_through_a_roundabout_leaves_the_road() -> None:
    record = drive(ConstantVelocity(), [3], CONFIG, generator())[0]
    assert record.off_road is not None
    assert realised_scores(record, CONFIG)["dac"] == 0


def test_standing_still_makes_no_progress(expert: list[DriveRecord]) -> None:
    record = drive(StandStill(), [0], CONFIG, generator())[0]
    assert record.progress < 0.5 * expert[0].progress
    assert record.log.actions[-1, 0] < 0.5


def test_planners_see_the_past_of_their_own_drive_alone() -> None:
    planner = Straight(5.0)
    record = drive(planner, [0], CONFIG, generator())[0]
    assert len(planner.seen) == -(-CONFIG.num_steps // CONFIG.replan_every)
    for i, batch in enumerate(planner.seen):
        now = record.start + i * CONFIG.replan_every
        assert batch.frames.shape[2] == 2
        assert batch.plan.trajectory is None
        assert batch.plan.tokens == [f"drive/highway/0/{now}"]
        state = record.log.ego_state(now)
        np.testing.assert_allclose(batch.plan.ego[0, 0], state.speed, rtol=1e-5)
        rgb, _ = record.log.render(record.log.poses[now], now, style="summer", size=(12, 18))
        assert torch.equal(batch.frames[0, :, -1], torch.from_numpy(np.moveaxis(rgb, -1, 1)))


def test_the_car_follows_its_plan() -> None:
    """5 m/s asked for; the speed gets there and the way is straight."""
    record = drive(Straight(5.0), [0], CONFIG, generator())[0]
    np.testing.assert_allclose(record.log.actions[-10:, 0], 5.0, atol=0.3)
    assert np.abs(record.log.poses[record.start :, 2]).max() < 0.05


def test_traffic_reacts_to_the_car_that_is_driven() -> None:
    one, other = (drive(each, [12], CONFIG, generator())[0].log for each in (StandStill(), None))
    np.testing.assert_array_equal(one.agents[4], other.agents[4])
    assert np.abs(one.agents[-1] - other.agents[-1]).max() > 1.0


def test_plans_that_are_not_finite_are_counted_and_stop_the_car() -> None:
    record = drive(Straight(float("nan")), [0], CONFIG, generator())[0]
    assert record.num_bad_plans == 10
    still = drive(StandStill(), [0], CONFIG, generator())[0]
    np.testing.assert_array_equal(record.log.poses, still.log.poses)


def test_results_name_rates_and_scores_beside_the_expert(expert: list[DriveRecord]) -> None:
    straight = drive(ConstantVelocity(), WORLDS, CONFIG, generator())
    results = Results("test", {})
    add_closed_loop(results, {"model": straight, "expert": expert}, CONFIG)
    content = results.to_dict()
    metrics = content["metrics"]
    assert metrics["closed_loop/success"]["expert"] == 1
    assert metrics["closed_loop/off_road"]["model"] == 0.5
    assert metrics["closed_loop/pdms"]["expert"] > metrics["closed_loop/pdms"]["model"]
    assert content["protocol"]["closed_loop"]["bad_plans"] == {"model": 0, "expert": 0}
    with pytest.raises(ValueError, match="same worlds"):
        add_closed_loop(results, {"model": straight[:1], "expert": expert}, CONFIG)
    with pytest.raises(ValueError, match="'expert'"):
        add_closed_loop(results, {"model": straight}, CONFIG)
