"""LIBERO by its standard protocol, in the user's own checkout.

Ten tasks of a suite (90 of `libero_90`), 50 fixed initial states each. The world is seeded with 0,
an initial state is set, ten steps of doing nothing let things settle, then the policy acts at 20
Hz until the task is done or the suite's limit is reached. Pictures of both cameras are turned by
180 degrees; an action is a step of position and axis-angle, then the gripper, -1 open and 1 closed.

We have tested this against stand-ins of LIBERO's interface, not inside a running LIBERO: its assets
do not come with any package. What is missing is said by name.

Reference: Liu et al., LIBERO (2023); step limits of OpenVLA's line of work.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from maskworld.data.pickle_records import read_records
from maskworld.evaluation.robot_episodes import RobotWorld, StepRule
from maskworld.types import Observation

LIMITS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
"""Steps of the world after the wait (OpenVLA, openvla-oft)."""
NUM_STATES = 50
"""Initial states of a task."""
WAIT_STEPS = 10
HORIZON = 1000 - WAIT_STEPS
"""Steps before the world itself stops."""
NOOP = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
CAMERAS = {"agentview": "agentview_image", "eye_in_hand": "robot0_eye_in_hand_image"}
"""The names in the data, and those of the pictures in LIBERO's observations."""
LOW, HIGH = (-1.0,) * 7, (1.0,) * 7
FPS = 20
Gripper = Literal["libero", "zero_closes"]


def libero_rule(suite: str, *, ge_compat: bool = False) -> StepRule:
    """The step limit of a suite: counted in steps of the world, or, `ge_compat`, in chunks as
    GE-ACT's script does, which gives a policy up to `exec_steps` times as long.

    Raises:
        ValueError: an unknown suite.
    """
    if suite not in LIMITS:
        raise ValueError(f"Expected a suite of {sorted(LIMITS)}, found {suite!r}.")
    if ge_compat:
        return StepRule(LIMITS[suite], "chunks", HORIZON)
    return StepRule(LIMITS[suite], horizon=HORIZON)


@dataclass(frozen=True)
class LiberoMaker:
    """Makes worlds of a suite's tasks (`robot_episodes.WorldMaker`)."""

    suite: str
    size: tuple[int, int] = (256, 256)
    """Height, width; 256 is usual for policies, LIBERO's own data has 128."""
    cameras: tuple[str, ...] = ("agentview", "eye_in_hand")
    gripper: Gripper = "libero"
    """"zero_closes": the policy was trained on data whose gripper is 1 open and 0 closed, as in
    OpenVLA's, so its numbers are turned into LIBERO's."""

    def __post_init__(self) -> None:
        libero_rule(self.suite)
        if unknown := sorted(set(self.cameras) - set(CAMERAS)):
            raise ValueError(f"Expected cameras of {list(CAMERAS)}, found {unknown}.")

    def tasks(self) -> list[str]:
        """Names of the suite's tasks, in LIBERO's order.

        Raises:
            ValueError: LIBERO, its configuration or its files are missing.
        """
        suite = _suite(self.suite)
        return [suite.get_task(i).name for i in range(suite.n_tasks)]

    def __call__(self, task: str, perturbation: str) -> RobotWorld:
        """Raises ValueError for an unknown task, any perturbation, or what is missing."""
        if perturbation:
            raise ValueError(f"LIBERO's worlds know no perturbation, found {perturbation!r}.")
        suite = _suite(self.suite)
        found = {t.name: t for t in map(suite.get_task, range(suite.n_tasks))}
        if task not in found:
            raise ValueError(f"Expected a task of {self.suite}, {sorted(found)}, found {task!r}.")
        chosen, folders = found[task], _folders()
        states = folders["init_states"] / chosen.problem_folder / chosen.init_states_file
        scene = folders["bddl_files"] / chosen.problem_folder / chosen.bddl_file
        if not scene.is_file():
            raise ValueError(
                f"Expected LIBERO's scene of {task} at {scene}: complete the checkout."
            )
        from libero.libero.envs import OffScreenRenderEnv

        env = OffScreenRenderEnv(
            bddl_file_name=str(scene), camera_heights=self.size[0], camera_widths=self.size[1]
        )
        return LiberoWorld(
            env, read_init_states(states), chosen.language, self.cameras, self.gripper
        )

    def describe(self) -> dict[str, Any]:
        """For the protocol."""
        return {
            "name": "libero",
            "suite": self.suite,
            "cameras": list(self.cameras),
            "size": list(self.size),
            "rotation_degrees": 180,
            "wait_steps": WAIT_STEPS,
            "env_seed": 0,
            "gripper": self.gripper,
        }


class LiberoWorld:
    """A task of LIBERO as `robot_episodes.RobotWorld`; the seed is the number of the initial state.

    Args:
        env: LIBERO's `OffScreenRenderEnv`.
        states: the task's fixed initial states.
    """

    def __init__(
        self,
        env: Any,
        states: Float[np.ndarray, "n s"],
        instruction: str,
        cameras: Sequence[str] = tuple(CAMERAS),
        gripper: Gripper = "libero",
    ) -> None:
        self._env, self._states, self._instruction = env, states, instruction
        self._cameras, self._gripper = tuple(cameras), gripper

    def reset(self, *, seed: int) -> tuple[Observation, dict[str, Any]]:
        """Raises ValueError for a number beyond the initial states."""
        if not 0 <= seed < len(self._states):
            raise ValueError(
                f"Expected one of the {len(self._states)} fixed initial states as a seed, found "
                f"{seed}."
            )
        self._env.seed(0)
        self._env.reset()
        seen = self._env.set_init_state(self._states[seed])
        for _ in range(WAIT_STEPS):
            seen, *_ = self._env.step(list(NOOP))
        return self._observe(seen), {}

    def step(
        self, action: Float[np.ndarray, " 7"]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """LIBERO says "done" exactly where the task is."""
        given = np.asarray(action, np.float64).copy()
        if self._gripper == "zero_closes":
            given[-1] = 1.0 if given[-1] < 0.5 else -1.0
        seen, reward, done, _ = self._env.step(given.tolist())
        success = bool(done)
        return self._observe(seen), float(reward), success, False, {"success": success}

    def close(self) -> None:
        self._env.close()

    def _observe(self, seen: dict[str, Any]) -> Observation:
        missing = [CAMERAS[name] for name in self._cameras if CAMERAS[name] not in seen]
        if missing:
            raise ValueError(
                f"Expected pictures {missing} in LIBERO's observation, found "
                f"{sorted(key for key in seen if key.endswith('_image'))}: choose its cameras."
            )
        state = [seen["robot0_eef_pos"], axis_angle(seen["robot0_eef_quat"])]
        return Observation(
            frames=torch.stack([_upright(seen[CAMERAS[name]]) for name in self._cameras]),
            state=torch.from_numpy(
                np.concatenate([*state, seen["robot0_gripper_qpos"]]).astype(np.float32)
            ),
            instruction=self._instruction,
        )


def read_init_states(path: Path | str) -> Float[np.ndarray, "n s"]:
    """The initial states of a `.pruned_init` file: a zip of torch's with a pickled NumPy array,
    read as data without running the pickle.

    Raises:
        ValueError: missing, damaged, or anything but an array of numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"Expected LIBERO's initial states at {path}, found nothing: complete the checkout "
            "(libero/libero/init_files), or mend `init_states` in its config.yaml."
        )
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
            inner = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(inner) != 1:
                raise ValueError(f"one data.pkl, found {inner}")
            held = Path(folder) / "data.pkl"
            held.write_bytes(archive.read(inner[0]))
            states = read_records(held)
    except (zipfile.BadZipFile, ValueError) as error:
        raise ValueError(f"{path}: expected an array in a zip of torch's: {error}.") from error
    if not isinstance(states, np.ndarray) or states.ndim != 2 or states.dtype.kind != "f":
        raise ValueError(f"{path}: expected an array (states, numbers), found {states!r:.80}.")
    return states.astype(np.float64)


def axis_angle(quaternion: Float[np.ndarray, " 4"]) -> Float[np.ndarray, " 3"]:
    """The rotation vector, up to 2 pi long, of a unit quaternion x, y, z, w (robosuite's order)."""
    x = np.asarray(quaternion, np.float64)
    w = float(np.clip(x[3], -1.0, 1.0))
    sine = np.sqrt(1 - w * w)
    return np.zeros(3) if sine < 1e-9 else x[:3] * (2 * np.arccos(w) / sine)


def _upright(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[Tensor, "3 h w"]:
    """Turned by 180 degrees."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(image[::-1, ::-1], -1, 0)))


def _suite(name: str) -> Any:
    _folders()  # before the import, which waits for an answer without a configuration
    try:
        from libero.libero import benchmark
    except ImportError as error:
        raise ValueError(
            f"LIBERO is not installed ({error}): clone Lifelong-Robot-Learning/LIBERO, install it "
            "with `pip install --no-deps -e LIBERO`, and robosuite==1.4.0, bddl==1.0.1 and "
            "gym==0.25.2 with --no-deps."
        ) from error
    return benchmark.get_benchmark_dict()[name]()


def _folders() -> dict[str, Path]:
    """The folders of LIBERO's configuration, each checked."""
    home = Path(os.environ.get("LIBERO_CONFIG_PATH", Path.home() / ".libero"))
    path = home / "config.yaml"
    if not path.is_file():
        raise ValueError(
            f"Expected LIBERO's configuration at {path}, found none: write there, a line each, "
            "`bddl_files: CHECKOUT/libero/libero/bddl_files`, `init_states: .../init_files`, "
            "`assets: .../assets`, `datasets: ...` and `benchmark_root: CHECKOUT/libero/libero`; "
            "or name its folder in LIBERO_CONFIG_PATH."
        )
    lines = (line.split(":", 1) for line in path.read_text(encoding="utf-8").splitlines())
    found = {k.strip(): Path(v[0].strip().strip("'\"")) for k, *v in lines if v}
    for name in ("bddl_files", "init_states", "assets"):
        if name not in found or not found[name].is_dir():
            raise ValueError(
                f"{path}: expected the folder {name} of a LIBERO checkout, found "
                f"{found.get(name, 'no such line')}: mend the line, or complete the checkout."
            )
    return found
