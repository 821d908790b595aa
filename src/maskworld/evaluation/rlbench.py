"""RLBench in closed loop, in the user's own installation of RLBench, PyRep and CoppeliaSim.

Mask World Model's paper tells six tasks, 20 randomised episodes each, a third-person and a wrist
camera, pose 7 + gripper 1 and a state of 7; not how actions are carried out, image sizes, or when
an episode is given up. Three ways to act are therefore offered:

- "pose": the gripper's absolute pose at the next step and whether it is open, as `RLBenchSource`
  imports demonstrations; carried out by inverse kinematics, densely. The limit of steps is ours.
- "keyframe": as the harness of LIFT3D, FiS-VLA and HybridVLA has it, from which the six tasks are:
  a displacement, absolute Euler angles and the gripper, carried out by the motion planner; at most
  ten actions.
- "joints": absolute joint angles and the gripper, one simulation step each.

Success is any reward above 0; an action that planner or kinematics refuse ends the episode.

We have tested this against a stand-in of RLBench's interface, not inside RLBench: CoppeliaSim comes
in no package index, under a licence of its own. What is missing is said by name.

Reference: James et al., RLBench (2020); Lou et al., Mask World Model (2026), RLBench table.
"""

from __future__ import annotations

import importlib
import os
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from maskworld.data.sources.rlbench import State
from maskworld.evaluation.robot_episodes import RobotWorld, StepRule
from maskworld.types import Observation

TASKS = (
    "sweep_to_dustpan",
    "phone_on_base",
    "take_umbrella_out_of_umbrella_stand",
    "take_frame_off_hanger",
    "place_wine_at_rack_location",
    "water_plants",
)
"""The six of Mask World Model's table. The wine task is of RLBench's forks for PerAct and LIFT3D;
upstream has `stack_wine`."""
NUM_EPISODES = 20
"""Of every task (paper)."""
CAMERAS = ("front", "wrist", "left_shoulder", "right_shoulder", "overhead")
Actions = Literal["pose", "keyframe", "joints"]
LIMITS = {"keyframe": 10, "pose": 400, "joints": 400}
"""Actions of an episode: 10 in the harness above; the others are ours, 20 seconds at 20 Hz."""
WIDTHS = {"keyframe": 7, "pose": 8, "joints": 8}
_ARM_MODES = {
    "keyframe": "EndEffectorPoseViaPlanning",
    "pose": "EndEffectorPoseViaIK",
    "joints": "JointPosition",
}
_INSTALL = (
    "install CoppeliaSim 4.1.0 (its licence is not free for every use), set COPPELIASIM_ROOT, "
    "LD_LIBRARY_PATH and QT_QPA_PLATFORM_PLUGIN_PATH as PyRep's page says, then PyRep and RLBench "
    "from their repositories; a display is needed, or Xvfb"
)


def rlbench_rule(actions: str = "pose") -> StepRule:
    """The step limit of a way to act.

    Raises:
        ValueError: an unknown one.
    """
    if actions not in LIMITS:
        raise ValueError(f"Expected actions of {sorted(LIMITS)}, found {actions!r}.")
    return StepRule(LIMITS[actions])


@dataclass(frozen=True)
class RLBenchMaker:
    """Makes worlds of RLBench's tasks (`robot_episodes.WorldMaker`), one at a time: a process holds
    one CoppeliaSim, which stays while tasks change."""

    size: tuple[int, int] = (128, 128)
    """Height, width: those of the training data (LIFT3D's harness: 224)."""
    cameras: tuple[str, ...] = ("front", "wrist")
    actions: Actions = "pose"
    state: State = "joints"
    """As the data was imported."""
    description: Literal["longest", "first"] = "longest"
    """Which of a variation's descriptions is the instruction."""
    variation: int | None = 0
    """Of the task; None = drawn from the episode's seed."""
    headless: bool = True
    _launched: list[Any] = field(default_factory=list, init=False, repr=False, compare=False)

    max_batch = 1

    def __post_init__(self) -> None:
        rlbench_rule(self.actions)
        if unknown := sorted(set(self.cameras) - set(CAMERAS)):
            raise ValueError(f"Expected cameras of {list(CAMERAS)}, found {unknown}.")

    def __call__(self, task: str, perturbation: str) -> RobotWorld:
        """Raises ValueError for an unknown task, any perturbation, or what is missing."""
        if perturbation:
            raise ValueError(f"RLBench's worlds know no perturbation, found {perturbation!r}.")
        kind = _task_class(task)
        if not self._launched:
            self._launched.append(self._launch())
        return RLBenchWorld(self._launched[0].get_task(kind), self)

    def shutdown(self) -> None:
        """Ends the simulator of this process."""
        while self._launched:
            self._launched.pop().shutdown()

    def describe(self) -> dict[str, Any]:
        """For the protocol."""
        return {
            "name": "rlbench",
            "versions": {name: _version(name) for name in ("rlbench", "pyrep")},
            "cameras": list(self.cameras),
            "size": list(self.size),
            "actions": self.actions,
            "arm_mode": _ARM_MODES[self.actions],
            "state": self.state,
            "description": self.description,
            "variation": self.variation,
        }

    def _launch(self) -> Any:
        environment, config = _part("environment"), _part("observation_config").ObservationConfig()
        arms, modes = _part("action_modes.arm_action_modes"), _part("action_modes.action_mode")
        config.set_all_high_dim(False)
        config.set_all_low_dim(True)
        for name in self.cameras:
            camera = getattr(config, f"{name}_camera")
            camera.rgb, camera.image_size = True, (self.size[1], self.size[0])
        mode = modes.MoveArmThenGripper(
            arm_action_mode=getattr(arms, _ARM_MODES[self.actions])(absolute_mode=True),
            gripper_action_mode=_part("action_modes.gripper_action_modes").Discrete(),
        )
        made = environment.Environment(mode, obs_config=config, headless=self.headless)
        made.launch()
        return made


class RLBenchWorld:
    """A task of RLBench as `robot_episodes.RobotWorld`.

    A seed fixes where things lie; the motion planner's own draws are not in our hands.

    Args:
        task: RLBench's `TaskEnvironment`.
    """

    def __init__(self, task: Any, settings: RLBenchMaker) -> None:
        self._task, self._settings = task, settings
        self._refusals = _refusals()
        self._seen: Any = None

    def reset(self, *, seed: int) -> tuple[Observation, dict[str, Any]]:
        """Raises ValueError for a variation that the task does not have."""
        before = np.random.get_state()  # noqa: NPY002  RLBench draws from NumPy's global generator
        try:
            np.random.seed(seed)  # noqa: NPY002
            self._task.set_variation(self._variation())
            texts, self._seen = self._task.reset()
        finally:
            np.random.set_state(before)  # noqa: NPY002
        longest = self._settings.description == "longest"
        self._instruction = max(texts, key=len) if longest else texts[0]
        self._last = np.array([0.0, 0.0, 0.0, 1.0])  # so that the first rotation has w >= 0
        return self._observe(), {}

    def step(
        self, action: Float[np.ndarray, " a"]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One of RLBench's own steps, which may take many of the simulator's.

        Raises:
            ValueError: an action of another width.
        """
        width = WIDTHS[self._settings.actions]
        if action.shape != (width,):
            raise ValueError(
                f"Expected {width} numbers for actions {self._settings.actions!r}, found "
                f"{action.shape}: choose the way to act that the policy was trained for."
            )
        try:
            self._seen, reward, is_over = self._task.step(self._command(action))
        except self._refusals as refusal:
            details = {"success": False, "refused": f"{type(refusal).__name__}: {refusal}"}
            return self._observe(), 0.0, True, False, details
        success = float(reward) > 0
        return self._observe(), float(reward), bool(is_over) or success, False, {"success": success}

    def close(self) -> None:
        """The simulator stays, for the next task of this process."""

    def _variation(self) -> int:
        count, chosen = int(self._task.variation_count()), self._settings.variation
        if chosen is None:
            return int(np.random.randint(count))  # noqa: NPY002
        if not 0 <= chosen < count:
            raise ValueError(f"Expected a variation below {count} of this task, found {chosen}.")
        return chosen

    def _command(self, action: Float[np.ndarray, " a"]) -> Float[np.ndarray, " 8"]:
        """What RLBench's action mode takes: seven numbers of the arm, and 1 for an open gripper."""
        given = np.asarray(action, np.float64)
        arm, opening = given[:-1], np.clip(given[-1:], 0.0, 1.0)
        if self._settings.actions == "keyframe":
            position = np.asarray(self._seen.gripper_pose[:3], np.float64) + arm[:3]
            arm = np.concatenate([position, quaternion_of(arm[3:])])
        elif self._settings.actions == "pose":  # a network's is no unit quaternion
            arm = np.concatenate([arm[:3], arm[3:] / max(float(np.linalg.norm(arm[3:])), 1e-9)])
        return np.concatenate([arm, opening])

    def _observe(self) -> Observation:
        seen, cameras = self._seen, self._settings.cameras
        pictures: dict[str, Any] = {c: getattr(seen, f"{c}_rgb", None) for c in cameras}
        if missing := [name for name, picture in pictures.items() if picture is None]:
            raise ValueError(
                f"Expected pictures of the cameras {list(cameras)} in RLBench's observation, found "
                f"none of {missing}: choose others."
            )
        pose = np.asarray(seen.gripper_pose, np.float64)
        turned = pose[3:] if pose[3:] @ self._last >= 0 else -pose[3:]
        self._last = turned
        joints = np.asarray(seen.joint_positions, np.float64)
        whole = np.concatenate([pose[:3], turned, [float(seen.gripper_open)]])
        chosen = {"joints": [joints], "pose": [whole], "joints+pose": [joints, whole]}
        state = np.concatenate(chosen[self._settings.state]).astype(np.float32)
        frames = torch.stack([_channels_first(pictures[name]) for name in cameras])
        return Observation(frames, torch.from_numpy(state), self._instruction)


def quaternion_of(angles: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " 4"]:
    """x, y, z, w of turns about the fixed axes x, then y, then z, in radians."""
    (sx, sy, sz), (cx, cy, cz) = np.sin(angles / 2), np.cos(angles / 2)
    return np.array(
        [
            sx * cy * cz - cx * sy * sz,
            cx * sy * cz + sx * cy * sz,
            cx * cy * sz - sx * sy * cz,
            cx * cy * cz + sx * sy * sz,
        ]
    )


def _channels_first(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[Tensor, "3 h w"]:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0)))


def _task_class(task: str) -> Any:
    """RLBench keeps the class PhoneOnBase in tasks/phone_on_base.py."""
    _part("environment")  # says what is missing before any task is
    try:
        module = importlib.import_module(f"rlbench.tasks.{task}")
    except ModuleNotFoundError as error:
        near = get_close_matches(task, TASKS, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near and near[0] != task else ""
        if task == "place_wine_at_rack_location":
            hint = " It is of the forks for PerAct and LIFT3D; upstream has stack_wine."
        raise ValueError(f"Expected a task of this RLBench, found {task!r}.{hint}") from error
    return getattr(module, "".join(word[:1].upper() + word[1:] for word in task.split("_")))


def _refusals() -> tuple[type[Exception], ...]:
    """What RLBench raises for poses that cannot be reached."""
    errors = importlib.import_module("pyrep.errors")
    invalid = _part("backend.exceptions").InvalidActionError
    return (invalid, errors.IKError, errors.ConfigurationPathError)


def _part(name: str) -> Any:
    """A module of RLBench.

    Raises:
        ValueError: RLBench, PyRep or CoppeliaSim is missing, or of another version.
    """
    try:
        return importlib.import_module(f"rlbench.{name}")
    except (ImportError, OSError) as error:
        root = os.environ.get("COPPELIASIM_ROOT")
        raise ValueError(
            f"Expected RLBench 1.2 with PyRep and CoppeliaSim, found none that can be used "
            f"({error}; COPPELIASIM_ROOT is {root or 'not set'}): {_INSTALL}."
        ) from error


def _version(name: str) -> str:
    with suppress(PackageNotFoundError):
        return version(name)
    return "unknown"
