"""Meta-World's 50 tasks with cameras, label maps, instructions and seeded initial states."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import gymnasium
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8

from maskworld.types import Observation
from maskworld.worlds.metaworld.experts import ScriptedExpert
from maskworld.worlds.metaworld.look import Look
from maskworld.worlds.metaworld.observation import LazyObservation
from maskworld.worlds.metaworld.perturbations import Perturbation, apply_perturbations
from maskworld.worlds.metaworld.rendering import CAMERAS, RENDERERS
from maskworld.worlds.metaworld.tasks import TASKS, check_task

Split = Literal["train", "eval"]
ACTION_NAMES = ("x", "y", "z", "gripper")
STATE_NAMES = ("hand_x", "hand_y", "hand_z", "gripper_opening")
CONTROL_FPS = 80.0
"""Actions per second: 5 simulator steps of 2.5 ms each (Meta-World)."""
MAX_STEPS = 500
"""Meta-World's own step limit (`max_path_length`)."""
_OPTIONS = ("perturbations",)
# What Meta-World's resets write to the model; put back first, so that a state is its seed's alone.
_MOVED_BY_RESET = ("body_pos", "body_quat", "site_pos", "geom_pos", "geom_quat")


class SimulatorError(RuntimeError):
    """The simulation itself failed: unstable physics."""


class Views(NamedTuple):
    """What the cameras see at one moment."""

    frames: UInt8[np.ndarray, "v c h w"]
    labels: UInt8[np.ndarray, "v h w"] | None
    """Classes of `labels.CLASSES`; None where they were not asked for."""


class MetaWorld(gymnasium.Env[Observation, Float[np.ndarray, " 4"]]):
    """One task of Meta-World, seen by cameras.

    `reset` and `step` are gymnasium's. The observation is `maskworld.types.Observation`: images,
    the hand's x, y, z with the gripper's opening, and the instruction. Meta-World's own vector of
    39 numbers holds object and goal positions, so it stays inside; only the scripted expert reads
    it. Images are drawn when looked at, never otherwise, and only until the next step.

    An action is four floats in [-1, 1]: hand velocity along x, y, z (1 cm per step at 1) and the
    gripper (1 closes). `info` has `success` (now), `has_succeeded` (since the reset), `num_steps`.

    A seed fixes the initial state, whatever was played before. Training and evaluation never share
    one: seed s is simulator seed 2 s in the split "train", 2 s + 1 in "eval".

    Args:
        task: a name of `TASKS`, for instance "drawer-open-v3".
        cameras: names of `CAMERAS`, in the order of the frames.
        size: height and width of the frames.
        split: "eval" unless demonstrations are recorded.
        max_steps: after which an episode is truncated.
        ends_on_success: whether the first success terminates the episode.
        perturbations: changes of the look, drawn anew at every reset from its seed.

    Raises:
        ValueError: an unknown task, camera or split; Meta-World is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(
        self,
        task: str,
        *,
        cameras: Sequence[str] = CAMERAS[:2],
        size: tuple[int, int] = (128, 128),
        split: Split = "eval",
        max_steps: int = MAX_STEPS,
        ends_on_success: bool = True,
        perturbations: Sequence[Perturbation] = (),
    ) -> None:
        _check(task, cameras, size, split, max_steps)
        self.task, self.instruction = task, TASKS[task]
        self.cameras, self.size, self.split = tuple(cameras), size, split
        self.max_steps, self.ends_on_success = max_steps, ends_on_success
        self.perturbations = tuple(perturbations)
        self._simulator = _simulator(task)
        self._expert = ScriptedExpert(task)
        self._model, self._data = self._simulator.model, self._simulator.data
        self._look = Look(self._model, self._data)
        self._start = {name: getattr(self._model, name).copy() for name in _MOVED_BY_RESET}
        self._views: Views | None = None
        self._moment = -1  # counts resets and steps; an observation belongs to one of them
        space, unbounded = gymnasium.spaces, np.inf
        self.action_space = space.Box(-1.0, 1.0, (4,), np.float32)
        shape = (len(self.cameras), 3, *size)
        self.observation_space: Any = space.Dict(  # the attributes of the observation
            {
                "frames": space.Box(0, 255, shape, np.uint8),
                "state": space.Box(-unbounded, unbounded, (len(STATE_NAMES),), np.float32),
            }
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts the episode of a seed; without one it is drawn from the environment's own.

        The option "perturbations" replaces the world's own for this episode.

        Raises:
            ValueError: an unknown option, a negative seed.
        """
        import mujoco

        super().reset(seed=seed)
        options = options or {}
        if unknown := sorted(set(options) - set(_OPTIONS)):
            raise ValueError(f"Expected options of {_OPTIONS}, found {unknown}.")
        if seed is None:
            seed = int(self.np_random.integers(2**30))
        if seed < 0:
            raise ValueError(f"Expected a seed of at least 0, found {seed}.")
        self.seed = seed
        simulator_seed = 2 * seed + (self.split == "eval")
        textures = self._look.restore()
        for name, values in self._start.items():
            getattr(self._model, name)[:] = values
        self._simulator.seed(simulator_seed)
        self._full_state, _ = self._simulator.reset()
        chosen = options.get("perturbations", self.perturbations)
        apply_perturbations(self._look, chosen, (simulator_seed, 17))
        mujoco.mj_camlight(self._model, self._data)  # where cameras are now
        textures |= self._look.changed_textures
        RENDERERS.upload_textures(self._model, sorted(textures))
        self._num_steps, self._has_succeeded, self._is_over = 0, False, False
        return self._observe(), self._info(False)

    def step(
        self, action: Float[np.ndarray, " 4"]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Applies an action for 1/80 s; values beyond [-1, 1] are clipped. The reward is
        Meta-World's.

        Raises:
            ValueError: not four finite numbers, or the episode is over.
            SimulatorError: the physics became unstable.
        """
        action = np.asarray(action, np.float64)
        if action.shape != (4,) or not np.isfinite(action).all():
            raise ValueError(f"Expected four finite numbers {ACTION_NAMES}, found {action}.")
        if self._is_over:
            raise ValueError("This episode is over: call reset before the next step.")
        self._full_state, reward, _, _, details = self._simulator.step(np.clip(action, -1, 1))
        self._num_steps += 1
        warnings = [int(warning.number) for warning in self._data.warning]
        if any(warnings) or not np.isfinite(self._full_state).all():
            raise SimulatorError(
                f"{self.task}, seed {self.seed}: MuJoCo became unstable at step {self._num_steps}."
            )
        success = bool(details["success"])
        self._has_succeeded |= success
        terminated = success and self.ends_on_success
        truncated = not terminated and self._num_steps >= self.max_steps
        self._is_over = terminated or truncated
        return self._observe(), float(reward), terminated, truncated, self._info(success)

    def render(self, *, has_labels: bool = True) -> Views:  # type: ignore[override]
        """Frames and label maps of all cameras at this moment, perturbations included.

        Raises:
            MissingGL: this machine has no off-screen OpenGL.
        """
        if self._moment < 0:
            raise ValueError("Expected a reset before the first look.")
        if self._views is None or (has_labels and self._views.labels is None):
            self._views = self._draw(has_labels)
        return self._views if has_labels else Views(self._views.frames, None)

    def expert_action(self) -> Float[np.ndarray, " 4"]:
        """What Meta-World's scripted expert would do now; it sees object and goal positions."""
        return self._expert.act(self._full_state)

    def physics_state(self) -> Float[np.ndarray, " n"]:
        """Positions and velocities of all joints: to compare episodes, not for policies."""
        return np.concatenate([self._data.qpos, self._data.qvel])

    def close(self) -> None:
        """Frees what GL holds for this world."""
        RENDERERS.close(self._model)

    def _observe(self) -> Observation:
        self._views = None
        self._moment += 1
        moment = self._moment

        def draw() -> torch.Tensor:
            if moment != self._moment:
                raise ValueError(
                    "This observation's images were not looked at before the world moved on: "
                    "read `frames` before the next step or reset."
                )
            return torch.from_numpy(self.render(has_labels=False).frames.copy())

        state = torch.from_numpy(self._full_state[: len(STATE_NAMES)].astype(np.float32))
        return LazyObservation(draw, state, self.instruction)

    def _draw(self, has_labels: bool) -> Views:
        renderer = RENDERERS.get(self._model, self.size)
        for site, place in self._simulator._target_site_config:  # as Meta-World before it draws
            self._simulator._set_pos_site(site, place)
        frames, maps = [], []
        for number, camera in enumerate(self.cameras):
            rgb, labels = renderer.draw(
                self._data,
                camera,
                has_labels=has_labels or self._look.needs_labels,
                ornaments=self._look.ornaments,
            )
            for index, change in enumerate(self._look.filters):
                moment = (self.seed, self.split == "eval", self._num_steps, number, index)
                seen = labels if labels is not None else np.zeros(self.size, np.uint8)
                rgb = change(rgb, seen, number, np.random.default_rng(moment))
            frames.append(rearrange(rgb, "h w c -> c h w"))
            maps.append(labels)
        drawn = [labels for labels in maps if labels is not None]
        return Views(np.stack(frames), np.stack(drawn) if drawn else None)

    def _info(self, success: bool) -> dict[str, Any]:
        return {
            "success": success,
            "has_succeeded": self._has_succeeded,
            "num_steps": self._num_steps,
        }


def _simulator(task: str) -> Any:
    """Meta-World's environment of a task, drawing its initial states from its own seed."""
    try:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    except ModuleNotFoundError as error:
        raise ValueError(
            f"Meta-World is not installed ({error}): pip install 'maskworld[robot]', which brings "
            "metaworld, mujoco and packaging."
        ) from error
    import mujoco

    if mujoco.get_mju_user_warning() is None:  # else MuJoCo writes MUJOCO_LOG.TXT where it runs
        mujoco.set_mju_user_warning(logging.getLogger(__name__).warning)
    simulator: Any = ALL_V3_ENVIRONMENTS[task]()
    # What Meta-World's `set_task` does for its multi-task benchmarks, without the pickled task.
    simulator._partially_observable = False
    simulator.__dict__.pop("sawyer_observation_space", None)  # cached for the other setting
    simulator._freeze_rand_vec, simulator.seeded_rand_vec = False, True
    simulator._set_task_called = True
    simulator.max_path_length = np.inf  # this world counts its steps itself
    return simulator


def _check(
    task: str, cameras: Sequence[str], size: tuple[int, int], split: str, max_steps: int
) -> None:
    check_task(task)
    if not cameras or set(cameras) - set(CAMERAS):
        raise ValueError(f"Expected cameras of {CAMERAS}, found {tuple(cameras)}.")
    if split not in get_args(Split):
        raise ValueError(f"Expected split 'train' or 'eval', found {split!r}.")
    if min(size) < 8 or max_steps < 1:
        raise ValueError(
            f"Expected at least 8x8 pixels and one step, found size {size}, max_steps {max_steps}."
        )
