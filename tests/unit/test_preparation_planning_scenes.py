"""Claims about the moments on which planners are scored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from maskworld.metrics.pdms import reference_plan
from maskworld.preparation.collect import record_world
from maskworld.preparation.planning_clips import MomentPlan, expert_waypoints
from maskworld.preparation.planning_scenes import (
    PlanningScene,
    collect_planning_scenes,
    describe_scenes,
    manoeuvres_of,
)
from maskworld.worlds.drive import Scene

PLAN = MomentPlan(num_past=3, num_future=2, size=(16, 24), num_steps=75, styles=("summer",))


@pytest.fixture(scope="module")
def scenes() -> list[PlanningScene]:
    return collect_planning_scenes([2, 3], 5, PLAN, min_manoeuvres=0.0)


def driven(scene: Scene, speed: np.ndarray, turn: float, aside: float = 0.0) -> Scene:
    """The same world with another log: along x at `speed`, turning and shifting over 4 s."""
    share = np.clip(np.arange(len(speed)) / 40, 0, 1)
    x = np.cumsum(speed) / 10
    poses = np.stack([x, aside * share, turn * share], axis=1)
    return replace(scene, poses=poses, actions=np.stack([speed, 0 * speed], axis=1))


def test_manoeuvres_follow_their_thresholds() -> None:
    slow, fast = record_world(2, num_steps=50), record_world(0, num_steps=50)
    even = np.full(50, 10.0)
    assert manoeuvres_of(driven(slow, even, 0.34), 0) == ()
    assert manoeuvres_of(driven(slow, even, -0.36), 0) == ("turning",)
    assert manoeuvres_of(driven(slow, even - np.linspace(0, 2.4, 50), 0.0), 0) == ()
    assert manoeuvres_of(driven(slow, even - np.linspace(0, 2.6, 50), 0.0), 0) == ("braking",)
    assert manoeuvres_of(driven(slow, even, 0.0, aside=1.6), 0) == ()
    assert manoeuvres_of(driven(fast, even, 0.0, aside=1.4), 0) == ()
    assert manoeuvres_of(driven(fast, even, 0.0, aside=-1.6), 0) == ("merging",)


def test_scenes_are_spread_over_worlds_and_fixed_by_them(scenes: list[PlanningScene]) -> None:
    assert [scene.world for scene in scenes] == [2, 3, 2, 3, 2]
    again = collect_planning_scenes([2, 3], 5, PLAN, min_manoeuvres=0.0)
    assert [scene.token for scene in again] == [scene.token for scene in scenes]
    assert len({scene.token for scene in scenes}) == 5


def test_clip_score_and_expert_are_of_one_moment(scenes: list[PlanningScene]) -> None:
    for scene in scenes:
        log = record_world(scene.world, num_steps=75)
        step = int(scene.token.split("/")[-1])
        assert (scene.pdm.ego.x, scene.pdm.ego.y) == tuple(log.poses[step, :2])
        np.testing.assert_array_equal(scene.expert, expert_waypoints(log, step))
        np.testing.assert_allclose(scene.clip.plan.trajectory.numpy(), scene.expert, atol=1e-4)
        np.testing.assert_array_equal(scene.reference, reference_plan(scene.pdm).poses)


def test_an_observation_holds_nothing_of_the_future(scenes: list[PlanningScene]) -> None:
    seen = scenes[0].observation(3)
    assert seen.frames.shape[1] == len(seen.actions) == 3
    assert seen.plan.trajectory is None
    assert scenes[0].clip.frames.shape[1] == 5


def test_description_counts_worlds_and_manoeuvres(scenes: list[PlanningScene]) -> None:
    found = describe_scenes(
        [replace(scene, manoeuvres=("turning",) if i < 2 else ()) for i, scene in enumerate(scenes)]
    )
    assert (found["num_scenes"], found["num_worlds"]) == (5, 2)
    assert found["share_of_manoeuvres"] == 0.4
    assert found["shares"] == {"turning": 0.4, "merging": 0.0, "braking": 0.0}


def test_too_few_manoeuvres_and_too_short_logs_are_refused() -> None:
    with pytest.raises(ValueError, match="take other or more worlds"):
        collect_planning_scenes([0], 1, PLAN, min_manoeuvres=1.01)
    with pytest.raises(ValueError, match="at least 57 steps"):
        collect_planning_scenes([0], 1, replace(PLAN, num_steps=55))
