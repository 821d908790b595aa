"""Claims about the ego's motion, its frame, the route's command, ghosts and the expert."""

from __future__ import annotations

import numpy as np
import pytest

from maskworld.worlds.drive import (
    Command,
    Scene,
    actions_of,
    box_corners,
    caption,
    ego_box,
    ghost_actions,
    overlaps,
    record_scene,
    rollout_poses,
)
from maskworld.worlds.drive.captions import describe_motion
from maskworld.worlds.drive.ghosts import CLEARANCE, clearance
from maskworld.worlds.drive.route import Route


@pytest.fixture(scope="module")
def scene() -> Scene:
    return record_scene("roundabout", 5, num_steps=70)


def test_y_is_left_and_heading_counter_clockwise() -> None:
    # A quarter of a circle of radius 10 m to the left, in one second.
    quarter = np.array([[10 * np.pi / 2, np.pi / 2]])
    poses = rollout_poses(np.zeros(3), quarter, 1)
    np.testing.assert_allclose(poses[-1], (10.0, 10.0, np.pi / 2), atol=1e-9)


def test_many_small_steps_and_one_large_step_drive_the_same_arc() -> None:
    action = np.array([8.0, 0.5])
    coarse = rollout_poses(np.array([1.0, 2.0, 0.3]), action[None], 1)[-1]
    fine = rollout_poses(np.array([1.0, 2.0, 0.3]), np.tile(action, (50, 1)), 50)[-1]
    np.testing.assert_allclose(coarse, fine, atol=1e-9)


def test_actions_are_recovered_from_poses() -> None:
    rng = np.random.default_rng(0)
    actions = np.stack([rng.uniform(0, 20, 30), rng.uniform(-0.6, 0.6, 30)], axis=1)
    poses = rollout_poses(np.array([3.0, -4.0, 2.0]), actions, 5)
    np.testing.assert_allclose(actions_of(poses, 5), actions, atol=1e-9)


def test_the_expert_stays_on_the_road_and_touches_nobody(scene: Scene) -> None:
    raster = scene.stage.surroundings.raster
    for pose, agents in zip(scene.poses, scene.agents):
        assert raster.is_road(box_corners(ego_box(pose))[0]).all()
        assert not overlaps(ego_box(pose), agents).any()


def test_the_expert_is_comfortable(scene: Scene) -> None:
    speed, yaw_rate = scene.actions.T
    acceleration = np.diff(speed) * scene.fps
    jerk = np.diff(acceleration) * scene.fps
    # The longitudinal limits of the planning benchmark that the expert must pass.
    assert -4.05 < acceleration.min() <= acceleration.max() < 2.4
    assert np.abs(jerk).max() < 4.13
    assert np.abs(speed * yaw_rate).max() < 4.0
    assert np.linalg.norm(scene.poses[-1, :2] - scene.poses[0, :2]) > 10


def test_boxes_overlap_exactly_when_they_touch() -> None:
    box = np.array([[0.0, 0.0, 0.0, 4.0, 2.0]])
    # 3.9 m and 4.1 m ahead; a thin one across a corner, inside and outside the diagonal.
    others = np.array(
        [
            [3.9, 0.0, 0.0, 4.0, 2.0],
            [4.1, 0.0, 0.0, 4.0, 2.0],
            [2.0, 1.0, -np.pi / 4, 4.0, 0.2],
            [2.3, 1.3, -np.pi / 4, 4.0, 0.2],
        ]
    )
    assert overlaps(box, others).tolist() == [True, False, True, False]


def test_the_command_follows_the_route_and_not_the_drive() -> None:
    straight = np.stack([np.arange(0.0, 40.0, 0.5), np.zeros(80)], axis=1)
    turn = np.linspace(0, np.pi / 2, 32)
    arc = np.stack([39.5 + 10 * np.sin(turn), 10 * (1 - np.cos(turn))], axis=1)
    points = np.concatenate([straight, arc[1:]])
    heading = np.concatenate([np.zeros(80), turn[1:]])
    route = Route(points, heading, np.gradient(heading), 8.0, 0, True)
    assert route.command(2.0, 0.3) is Command.STRAIGHT
    assert route.command(30.0, -0.5) is Command.LEFT
    mirrored = Route(points * (1, -1), -heading, -route.curvature, 8.0, 0, True)
    assert mirrored.command(30.0, 0.5) is Command.RIGHT
    assert route.command(30.0, 30.0) is Command.UNKNOWN


def test_ghosts_start_like_the_expert_and_keep_clear(scene: Scene) -> None:
    rng = np.random.default_rng(4)
    gaps = []
    for start in range(4, 44, 4):
        actions = ghost_actions(rng, scene, 9, start_step=start, fps=5)
        assert np.array_equal(actions[0], scene.actions[start])
        assert np.abs(actions[1:, 1]).max() <= 0.6
        gaps.append(clearance(scene, start, actions[1:], 5))
    assert np.mean(np.array(gaps) > CLEARANCE) >= 0.8


def test_captions_say_weather_motion_place_and_traffic(scene: Scene) -> None:
    left = rollout_poses(scene.poses[10], np.tile((6.0, 0.4), (8, 1)), 5)
    text = caption(scene, left, 10, "dusk autumn", fps=5)
    assert text.startswith("autumn dusk, turning left at a roundabout, ")
    still = np.tile(scene.poses[10], (5, 1))
    assert describe_motion(still, 5) == "waiting"
    right = rollout_poses(scene.poses[10], np.tile((6.0, -0.4), (8, 1)), 5)
    assert describe_motion(right, 5) == "turning right"
