import io
import sys
import types
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from maskworld.evaluation.libero import (
    HORIZON,
    LIMITS,
    NOOP,
    LiberoMaker,
    LiberoWorld,
    axis_angle,
    libero_rule,
    read_init_states,
)
from maskworld.evaluation.robot_episodes import RobotWorld

STATES = np.random.default_rng(0).normal(size=(50, 7))


class StandIn:
    """LIBERO's OffScreenRenderEnv, as far as the protocol touches it; done after three steps."""

    def __init__(self, **settings: Any) -> None:
        self.settings, self.calls = settings, []

    def seed(self, seed: int) -> None:
        self.calls.append(("seed", seed))

    def reset(self) -> None:
        self.calls.append(("reset",))

    def set_init_state(self, state: np.ndarray) -> dict[str, Any]:
        self.calls.append(("state", state))
        return self.look()

    def step(self, action: list[float]) -> tuple[dict[str, Any], float, bool, dict[str, Any]]:
        self.calls.append(("step", action))
        done = sum(call[0] == "step" and call[1] != list(NOOP) for call in self.calls) == 3
        return self.look(), float(done), done, {}

    def look(self) -> dict[str, Any]:
        picture = np.zeros((8, 8, 3), np.uint8)
        picture[0, 1] = (10, 20, 30)
        return {
            "agentview_image": picture,
            "robot0_eye_in_hand_image": picture + 1,
            "robot0_eef_pos": np.array([0.1, 0.2, 0.3]),
            "robot0_eef_quat": np.array([0.0, 0.0, np.sin(0.25), np.cos(0.25)]),
            "robot0_gripper_qpos": np.array([0.04, -0.04]),
        }

    def close(self) -> None:
        self.calls.append(("close",))


def checkout(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A LIBERO of one task: folders, configuration and modules."""
    for name in ("bddl_files", "init_files", "assets"):
        (folder / name / "libero_goal").mkdir(parents=True)
    (folder / "bddl_files/libero_goal/open.bddl").write_text("(define)")
    torch.save(STATES, folder / "init_files/libero_goal/open.pruned_init")
    (folder / "config.yaml").write_text(
        f"bddl_files: {folder}/bddl_files\ninit_states: {folder}/init_files\n"
        f"assets: {folder}/assets\n"
    )
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(folder))
    task = SimpleNamespace(
        name="open_the_drawer",
        language="open the drawer",
        problem_folder="libero_goal",
        bddl_file="open.bddl",
        init_states_file="open.pruned_init",
    )
    suite = SimpleNamespace(n_tasks=1, get_task=lambda i: task)
    benchmark = SimpleNamespace(get_benchmark_dict=lambda: {"libero_goal": lambda: suite})
    modules = {
        "libero": types.ModuleType("libero"),
        "libero.libero": SimpleNamespace(benchmark=benchmark),
        "libero.libero.envs": SimpleNamespace(OffScreenRenderEnv=StandIn),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


def test_an_episode_starts_from_its_fixed_state_after_ten_steps_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout(tmp_path, monkeypatch)
    maker = LiberoMaker("libero_goal", size=(8, 8))
    assert maker.tasks() == ["open_the_drawer"]
    world = maker("open_the_drawer", "")
    assert isinstance(world, RobotWorld)
    observation, _ = world.reset(seed=7)
    env = world._env  # type: ignore[attr-defined]
    assert env.settings["camera_heights"] == 8
    assert [call[0] for call in env.calls] == ["seed", "reset", "state"] + ["step"] * 10
    np.testing.assert_array_equal(env.calls[2][1], STATES[7])
    assert all(call[1] == list(NOOP) for call in env.calls[3:])
    assert observation.instruction == "open the drawer"
    assert observation.frames.shape == (2, 3, 8, 8)
    assert observation.frames[0, :, 7, 6].tolist() == [10, 20, 30]  # turned by 180 degrees
    expected = [0.1, 0.2, 0.3, 0, 0, 0.5, 0.04, -0.04]
    np.testing.assert_allclose(observation.state, expected, atol=1e-6)
    steps = [world.step(np.full(7, 0.5))[2:] for _ in range(3)]
    assert [done for done, _, _ in steps] == [False, False, True]
    assert steps[2][2]["success"] is True
    with pytest.raises(ValueError, match="50 fixed initial states"):
        world.reset(seed=50)


def test_the_gripper_of_other_data_is_turned_into_liberos() -> None:
    env = StandIn()
    world = LiberoWorld(env, STATES, "open", gripper="zero_closes")
    for given, expected in ((1.0, -1.0), (0.0, 1.0), (0.9, -1.0)):
        world.step(np.array([0.5] * 6 + [given]))
        assert env.calls[-1][1][-1] == expected
    LiberoWorld(env, STATES, "open").step(np.array([0.5] * 6 + [0.3]))
    assert env.calls[-1][1][-1] == pytest.approx(0.3)


def test_limits_are_steps_of_the_world_and_longer_where_chunks_are_counted() -> None:
    assert [LIMITS[f"libero_{s}"] for s in ("spatial", "object", "goal", "10", "90")] == [
        *(220, 280, 300, 520, 400)
    ]
    assert libero_rule("libero_goal").max_steps(8) == 300
    assert libero_rule("libero_goal", ge_compat=True).max_steps(8) == HORIZON
    assert libero_rule("libero_goal", ge_compat=True).max_steps(1) == 300


def test_init_states_are_read_as_data_and_a_hostile_file_does_nothing(tmp_path: Path) -> None:
    path = tmp_path / "task.pruned_init"
    torch.save(STATES, path)
    np.testing.assert_array_equal(read_init_states(path), STATES)
    mark = tmp_path / "ran"
    call = f"cposix\nsystem\n(S'touch {mark}'\ntR.".encode()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", call)
    with pytest.raises(ValueError, match="expected an array"):
        read_init_states(path)
    assert not mark.exists()
    path.write_bytes(io.BytesIO(b"no zip").read())
    with pytest.raises(ValueError, match="zip of torch's"):
        read_init_states(path)
    with pytest.raises(ValueError, match="found nothing"):
        read_init_states(tmp_path / "other.pruned_init")


def test_axis_angle_is_the_rotation_vector() -> None:
    for vector in ([0.3, -0.2, 0.5], [0.0, 0.0, 3.0], [0.0, 0.0, 0.0]):
        angle = np.linalg.norm(vector)
        axis = np.array(vector) / max(angle, 1e-12)
        quaternion = np.array([*(np.sin(angle / 2) * axis), np.cos(angle / 2)])
        np.testing.assert_allclose(axis_angle(quaternion), vector, atol=1e-7)


def test_what_is_missing_is_said_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = LiberoMaker("libero_goal")
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"config\.yaml, found none"):
        maker.tasks()
    checkout(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="'close_the_drawer'"):
        maker("close_the_drawer", "")
    with pytest.raises(ValueError, match="no perturbation"):
        maker("open_the_drawer", "light")
    monkeypatch.setitem(sys.modules, "libero.libero", None)
    with pytest.raises(ValueError, match="pip install --no-deps -e LIBERO"):
        maker.tasks()
    (tmp_path / "assets/libero_goal").rmdir()
    (tmp_path / "assets").rmdir()
    with pytest.raises(ValueError, match="the folder assets"):
        maker.tasks()
    with pytest.raises(ValueError, match="'libero_all'"):
        LiberoMaker("libero_all")
