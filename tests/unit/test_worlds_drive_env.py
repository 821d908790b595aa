"""Claims about the driving world as a gymnasium environment."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from maskworld.worlds.drive import CLASSES, Command, DriveWorld, record_scene

SIZE = (24, 36)


def make(**changes: object) -> DriveWorld:
    return DriveWorld(**({"size": SIZE, "max_steps": 12, "has_plan": False} | changes))


def test_gymnasium_finds_no_fault() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Metres per second are wanted here, not numbers between -1 and 1.
        warnings.filterwarnings("ignore", message=".*symmetric and normalized.*")
        check_env(make(), skip_render_check=True)


def test_one_seed_fixes_every_bit() -> None:
    runs = []
    for _ in range(2):
        env = make(num_cameras=2)
        frames = [env.reset(seed=11)[0]["rgb"]]
        for _ in range(4):
            frames.append(env.step(np.array([6.0, 0.1]))[0]["rgb"])
        runs.append(np.stack(frames))
    assert np.array_equal(*runs)
    assert runs[0].shape == (5, 2, *SIZE, 3)


def test_the_expert_in_the_environment_drives_the_recorded_scene() -> None:
    env = make()
    env.reset(seed=0, options={"world": 5, "scenario": "intersection"})
    scene = record_scene("intersection", 5, num_steps=12)
    for step in range(1, 12):
        _, _, _, _, info = env.step(env.expert_action())
        np.testing.assert_allclose(env.pose, scene.poses[step], atol=1e-9)
        np.testing.assert_allclose(info["agents"], scene.agents[step], atol=1e-9)


def test_traffic_reacts_to_the_ego() -> None:
    ends = []
    for speed in (0.0, 9.0):
        env = make(max_steps=40)
        env.reset(seed=0, options={"world": 0, "scenario": "merge"})
        for _ in range(35):
            info = env.step(np.array([speed, 0.0]))[4]
        ends.append(info["agents"])
    assert np.abs(ends[0] - ends[1]).max() > 0.5


def test_info_is_exact_and_labels_know_the_classes() -> None:
    env = make(has_plan=True)
    observation, info = env.reset(seed=2)
    assert observation["labels"].max() < len(CLASSES)
    assert info["ego"].speed == pytest.approx(observation["ego"][3])
    assert info["expert_future"].shape == (8, 3)
    assert isinstance(info["command"], Command)
    assert info["is_on_road"]
    assert len(info["drivable"]) == len(info["lanes"])
    # The plan leads forward.
    ahead = info["expert_future"][-1, :2] - (info["ego"].x, info["ego"].y)
    heading = info["ego"].heading
    assert ahead @ (np.cos(heading), np.sin(heading)) > 0


def test_a_collision_ends_the_episode() -> None:
    env = make(max_steps=400)
    _, info = env.reset(seed=0, options={"world": 0, "scenario": "intersection"})
    # Straight towards the nearest vehicle.
    for _ in range(200):
        delta = info["agents"][:, :2] - (info["ego"].x, info["ego"].y)
        nearest = delta[np.argmin(np.hypot(*delta.T))]
        turn = np.arctan2(nearest[1], nearest[0]) - info["ego"].heading
        turn = (turn + np.pi) % (2 * np.pi) - np.pi
        _, _, terminated, _, info = env.step(np.array([8.0, np.clip(8 * turn, -1.5, 1.5)]))
        if terminated:
            break
    assert terminated
    assert info["has_collided"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scenario": "highwy"}, "Did you mean 'highway'"),
        ({"style": "autum"}, "Did you mean 'autumn'"),
        ({"style": "dusk night"}, "Expected one time"),
        ({"weather": "fog"}, "Expected options of"),
    ],
)
def test_unknown_options_are_named(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().reset(seed=0, options=options)


def test_actions_that_are_no_numbers_are_refused() -> None:
    env = make()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="Expected two finite numbers"):
        env.step(np.array([np.nan, 0.0]))


def test_a_rig_has_one_to_six_cameras() -> None:
    with pytest.raises(ValueError, match="Expected 1 to 6 cameras, found 7"):
        make(num_cameras=7)
