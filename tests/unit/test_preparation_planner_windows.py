"""Windows of logs and of drives that stray, for planners."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from maskworld.metrics.pdms import reference_plan, score_plans
from maskworld.preparation.collect import record_world
from maskworld.preparation.planner_windows import (
    TrainingJob,
    recovery_windows,
    training_clips_of_world,
)
from maskworld.preparation.planning_clips import MomentPlan, planning_clips_of_world
from maskworld.types import Clip
from maskworld.worlds.drive import Scene
from maskworld.worlds.drive.pdm_scene import pdm_scene
from maskworld.worlds.drive.recovery import astray, is_safe, straying_drive, way_back

PLAN = MomentPlan(clips_per_world=2, num_past=3, num_future=2, size=(16, 24), num_steps=90)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return record_world(3, num_steps=90)  # a roundabout


@pytest.fixture(scope="module")
def windows(scene: Scene) -> list[Clip]:
    return recovery_windows(scene, PLAN, 12, np.random.default_rng(0))


def test_a_drive_strays_by_metres_and_the_way_back_ends_near_the_route(scene: Scene) -> None:
    drive = straying_drive(scene, np.random.default_rng(0))
    assert np.hypot(*(drive.poses - scene.poses)[:, :2].T).max() > 0.8

    def off(poses: np.ndarray) -> np.ndarray:
        line = drive.stage.route.points
        return np.hypot(*(poses[:, None, :2] - line).transpose(2, 0, 1)).min(axis=1)

    farthest = int(off(drive.poses[:49]).argmax())
    back = way_back(drive, farthest, 40)
    np.testing.assert_array_equal(back[0], drive.poses[farthest])
    assert off(back)[-1] < 0.5 * off(back)[0]


def test_a_route_strays_no_farther_than_it_may(scene: Scene) -> None:
    route = scene.stage.route
    moved = astray(route, np.random.default_rng(1))
    apart = np.hypot(*(moved.points - route.points).T)
    assert 0.5 < apart.max() <= 1.5


def test_recovery_windows_plan_from_where_the_drive_strayed(windows: list[Clip]) -> None:
    assert 3 <= len(windows) <= 12
    for clip in windows:
        assert clip.plan is not None
        assert clip.plan.trajectory is not None
        assert clip.plan.token.endswith("/recovery")
        assert clip.frames is not None
        assert clip.frames.shape[1] == PLAN.num_past
        # A way back begins where the ego is and as fast as it is.
        first = float(torch.linalg.vector_norm(clip.plan.trajectory[0, :2]))
        assert first == pytest.approx(0.5 * float(clip.plan.ego[0]), abs=0.8)


def test_ways_back_that_are_called_safe_score_well(scene: Scene) -> None:
    drive = straying_drive(scene, np.random.default_rng(0))
    steps = [step for step in range(0, 38, 4) if is_safe(drive, step, way_back(drive, step, 40))]
    assert steps
    scores = []
    for step in steps:
        moment = pdm_scene(drive, step)
        back = way_back(drive, step, 40)
        origin = back[0]
        c, s = np.cos(origin[2]), np.sin(origin[2])
        local = (back - origin)[5::5] @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        found = score_plans(moment, local[None], reference_plan(moment).poses)
        scores.append(float(found.nc[0] * found.dac[0]))
    assert np.mean(scores) > 0.9


def test_a_car_in_the_way_makes_a_way_back_unsafe(scene: Scene) -> None:
    poses = scene.poses[10:51]
    assert is_safe(scene, 10, poses)
    blocked = scene.agents.copy()
    blocked[30, 0, :3] = scene.poses[30]
    assert not is_safe(replace(scene, agents=blocked), 10, poses)
    assert not is_safe(scene, 10, poses + np.array([0.0, 60.0, 0.0]))


def test_clips_of_a_world_do_not_depend_on_the_windows_beside_them() -> None:
    alone = planning_clips_of_world((3, PLAN))
    found = training_clips_of_world(TrainingJob(3, PLAN, num_log=5, num_recovery=4))
    assert 7 < len(found) <= 11
    for mine, other in zip(found, alone):
        assert mine.frames is not None
        assert other.frames is not None
        torch.testing.assert_close(mine.frames, other.frames)
    tokens = [clip.plan.token for clip in found[2:] if clip.plan is not None]
    assert len(set(tokens)) == len(tokens)


def test_a_way_back_beyond_the_recording_is_refused(scene: Scene) -> None:
    with pytest.raises(ValueError, match="record more steps"):
        way_back(scene, 60, 40)
