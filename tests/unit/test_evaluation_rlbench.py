"""RLBench's adapter against a stand-in of its interface: modules, classes and fields of version 1.2
by name, no simulator behind them."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from maskworld.evaluation.manipulation import ManipulationConfig, evaluate_manipulation
from maskworld.evaluation.rlbench import (
    LIMITS,
    NUM_EPISODES,
    TASKS,
    RLBenchMaker,
    quaternion_of,
    rlbench_rule,
)
from maskworld.evaluation.robot_episodes import RobotWorld, StepRule
from maskworld.types import Observation


class InvalidActionError(Exception):
    pass


class TaskEnvironment:
    """Succeeds with the third action; poses above 2 m cannot be reached."""

    def __init__(self) -> None:
        self.steps: list[np.ndarray] = []
        self.variation = -1

    def variation_count(self) -> int:
        return 3

    def set_variation(self, number: int) -> None:
        self.variation = number

    def reset(self) -> tuple[list[str], Any]:
        self.place = np.random.uniform(size=3)  # noqa: NPY002  as RLBench does
        self.steps = []
        return ["shut it", "close the lid of the laptop", "close the lid"], self.look()

    def step(self, action: np.ndarray) -> tuple[Any, float, bool]:
        if action[2] > 2:
            raise InvalidActionError("A path could not be found.")
        self.steps.append(action)
        done = len(self.steps) == 3
        return self.look(), float(done), done

    def look(self) -> Any:
        sign = -1.0 if len(self.steps) == 1 else 1.0
        picture = np.zeros((4, 6, 3), np.uint8)
        picture[0, 5] = (10, 20, 30)
        return SimpleNamespace(
            front_rgb=picture,
            wrist_rgb=picture + 1,
            overhead_rgb=None,
            joint_positions=np.arange(7) / 10,
            gripper_pose=np.array([0.1, 0.2, 0.3, *(sign * np.array([0.0, 0.0, 0.6, 0.8]))]),
            gripper_open=1.0,
        )


class Environment:
    launches = 0

    def __init__(self, action_mode: Any, *, obs_config: Any, headless: bool) -> None:
        self.action_mode, self.obs_config, self.headless = action_mode, obs_config, headless
        self.is_running = False

    def launch(self) -> None:
        type(self).launches += 1
        self.is_running = True

    def get_task(self, kind: Any) -> TaskEnvironment:
        assert self.is_running
        self.kind = kind
        return TaskEnvironment()

    def shutdown(self) -> None:
        self.is_running = False


class ObservationConfig:
    def __init__(self) -> None:
        for name in ("front", "wrist", "left_shoulder", "right_shoulder", "overhead"):
            camera = SimpleNamespace(rgb=True, image_size=(128, 128))
            setattr(self, f"{name}_camera", camera)

    def set_all_high_dim(self, value: bool) -> None:
        for camera in vars(self).values():
            camera.rgb = value

    def set_all_low_dim(self, value: bool) -> None:
        assert value


def arm_mode(name: str) -> Any:
    return lambda absolute_mode: SimpleNamespace(name=name, absolute=absolute_mode)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """RLBench and PyRep, as far as the adapter touches them."""
    errors = {name: type(name, (Exception,), {}) for name in ("IKError", "ConfigurationPathError")}
    arms = ("EndEffectorPoseViaPlanning", "EndEffectorPoseViaIK", "JointPosition")
    modules: dict[str, dict[str, Any]] = {
        "rlbench": {},
        "rlbench.environment": {"Environment": Environment},
        "rlbench.observation_config": {"ObservationConfig": ObservationConfig},
        "rlbench.action_modes": {},
        "rlbench.action_modes.action_mode": {"MoveArmThenGripper": SimpleNamespace},
        "rlbench.action_modes.arm_action_modes": {name: arm_mode(name) for name in arms},
        "rlbench.action_modes.gripper_action_modes": {"Discrete": lambda: "discrete"},
        "rlbench.backend": {},
        "rlbench.backend.exceptions": {"InvalidActionError": InvalidActionError},
        "rlbench.tasks": {},
        "rlbench.tasks.phone_on_base": {"PhoneOnBase": "the class"},
        "pyrep": {},
        "pyrep.errors": errors,
    }
    for name, content in modules.items():
        module = types.ModuleType(name)
        module.__path__ = []  # type: ignore[attr-defined]
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)


def test_an_episode_sees_the_cameras_and_the_state_as_the_data_was_imported(
    installed: None,
) -> None:
    maker = RLBenchMaker((4, 6), state="joints+pose")
    world: Any = maker("phone_on_base", "")
    assert isinstance(world, RobotWorld)
    environment = maker._launched[0]
    assert (environment.kind, environment.headless) == ("the class", True)
    assert environment.obs_config.front_camera.image_size == (6, 4)  # CoppeliaSim: width first
    assert environment.obs_config.wrist_camera.rgb
    assert not environment.obs_config.overhead_camera.rgb
    seen, _ = world.reset(seed=3)
    assert world._task.variation == 0
    assert seen.instruction == "close the lid of the laptop"
    assert seen.frames.shape == (2, 3, 4, 6)
    assert seen.frames[0, :, 0, 5].tolist() == [10, 20, 30]  # upright already
    pose = [0.1, 0.2, 0.3, 0, 0, 0.6, 0.8, 1]
    np.testing.assert_allclose(seen.state, [*(np.arange(7) / 10), *pose], rtol=1e-6)
    turned, *_ = world.step(np.zeros(8))
    assert torch.equal(turned.state, seen.state)  # the same rotation under the other sign
    world.close()
    maker("phone_on_base", "")
    assert len(maker._launched) == 1  # one CoppeliaSim a process
    maker.shutdown()
    assert not environment.is_running


def test_a_seed_fixes_where_things_lie_and_leaves_other_draws_alone(installed: None) -> None:
    world: Any = RLBenchMaker((4, 6), variation=None)("phone_on_base", "")
    places, variations = [], []
    np.random.seed(0)  # noqa: NPY002
    expected = np.random.uniform(size=3)  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    for seed in (*range(8), 0):
        world.reset(seed=seed)
        places.append(world._task.place.tolist())
        variations.append(world._task.variation)
    assert places[0] == places[-1] != places[1]
    assert set(variations) == {0, 1, 2}
    np.testing.assert_array_equal(np.random.uniform(size=3), expected)  # noqa: NPY002
    with pytest.raises(ValueError, match="a variation below 3"):
        RLBenchMaker((4, 6), variation=3)("phone_on_base", "").reset(seed=0)


def test_actions_become_what_rlbenchs_modes_take(installed: None) -> None:
    sent = {}
    given = {
        "pose": [1, 2, 1, 0, 0, 1.2, 1.6, 1.5],
        "joints": [*range(7), 0.2],
        "keyframe": [0.1, 0, -0.1, 0, 0, np.pi / 2, 0.0],
    }
    for actions, numbers in given.items():
        maker = RLBenchMaker((4, 6), actions=actions)
        world: Any = maker("phone_on_base", "")
        world.reset(seed=0)
        world.step(np.array(numbers, np.float32))
        sent[actions] = world._task.steps[0]
        mode = maker._launched[0].action_mode
        assert mode.arm_action_mode.name == maker.describe()["arm_mode"]
        assert mode.arm_action_mode.absolute
    np.testing.assert_allclose(sent["pose"], [1, 2, 1, 0, 0, 0.6, 0.8, 1], rtol=1e-6)
    np.testing.assert_allclose(sent["joints"], given["joints"], rtol=1e-6)
    half = np.sqrt(0.5)
    expected = [0.2, 0.2, 0.2, 0, 0, half, half, 0]
    np.testing.assert_allclose(sent["keyframe"], expected, atol=1e-6)
    with pytest.raises(ValueError, match="Expected 7 numbers for actions 'keyframe'"):
        world.step(np.zeros(8))


def test_angles_turn_about_fixed_axes_one_after_the_other() -> None:
    angles = np.array([0.3, -0.7, 1.9])
    x, y, z, w = quaternion_of(angles)
    found = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    turns = []
    for axis, angle in enumerate(angles):
        turn, (i, j) = np.eye(3), [k for k in range(3) if k != axis]
        sign = -1 if axis == 1 else 1
        turn[[i, i, j, j], [i, j, i, j]] = (
            np.cos(angle), -sign * np.sin(angle), sign * np.sin(angle), np.cos(angle)
        )  # fmt: skip
        turns.append(turn)
    np.testing.assert_allclose(found, turns[2] @ turns[1] @ turns[0], atol=1e-12)


class Reaching:
    """Goes somewhere; too high from odd seeds."""

    def reset(self, seed: int) -> None:
        self.height = 3.0 if seed % 2 else 1.0

    def act(self, observation: Observation) -> np.ndarray:
        return np.array([0, 0, self.height, 0, 0, 0, 1, 1], np.float32)


def test_reward_is_success_and_a_refused_pose_ends_the_episode(
    installed: None, tmp_path: Path
) -> None:
    maker = RLBenchMaker((4, 6))
    config = ManipulationConfig(
        ("phone_on_base",), (0, 1, 2), rlbench_rule("pose"), maker.describe()
    )
    found = evaluate_manipulation({"model": Reaching}, config, maker, tmp_path, batch_size=3)
    assert found.endings("model") == {"success": 2, "world_limit": 1}
    assert {r.steps for r in found.results.values()} == {1, 3}
    assert found.protocol["world"]["arm_mode"] == "EndEffectorPoseViaIK"


def test_the_protocol_is_six_tasks_of_twenty_episodes() -> None:
    assert (len(TASKS), NUM_EPISODES) == (6, 20)
    assert rlbench_rule("keyframe") == StepRule(10)
    assert set(LIMITS) == {"keyframe", "pose", "joints"}


def test_what_is_missing_is_said_by_name(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = RLBenchMaker((4, 6), ("front", "overhead"))
    with pytest.raises(ValueError, match="no perturbation"):
        maker("phone_on_base", "light")
    with pytest.raises(ValueError, match="Did you mean 'phone_on_base'"):
        maker("phone_in_base", "")
    with pytest.raises(ValueError, match="upstream has stack_wine"):
        maker("place_wine_at_rack_location", "")
    with pytest.raises(ValueError, match=r"found none of \['overhead'\]"):
        maker("phone_on_base", "").reset(seed=0)
    with pytest.raises(ValueError, match="Expected cameras of"):
        RLBenchMaker(cameras=("agentview",))
    with pytest.raises(ValueError, match="found 'delta'"):
        rlbench_rule("delta")
    monkeypatch.setitem(sys.modules, "rlbench.environment", None)
    monkeypatch.delenv("COPPELIASIM_ROOT", raising=False)
    with pytest.raises(ValueError, match=r"not set\): install CoppeliaSim 4.1.0"):
        RLBenchMaker()("phone_on_base", "")
