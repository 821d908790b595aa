"""One episode of a Meta-World expert, filmed: what to record, and the recording."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from einops import rearrange
from jaxtyping import Float, UInt8

from maskworld.worlds.metaworld import (
    CAMERAS,
    MAX_STEPS,
    MetaWorld,
    check_task,
    parse_perturbations,
)

Job: TypeAlias = tuple[str, int]
"""A task and a seed."""
_NOISE_STREAM = 29


@dataclass(frozen=True)
class Recording:
    """One episode. Row t of `actions` is applied at frame t and leads to frame t + 1."""

    frames: UInt8[np.ndarray, "v t c h w"]
    labels: UInt8[np.ndarray, "v t h w"]
    states: Float[np.ndarray, "t s"]
    actions: Float[np.ndarray, "t a"]
    expert_actions: Float[np.ndarray, "t a"]
    """What the expert would have done; differs from `actions` by the noise."""
    success_step: int | None
    """Steps to the first success; None without."""


@dataclass(frozen=True)
class MetaWorldPlan:
    """What to record. All but the number of episodes decides what an episode looks like."""

    tasks: tuple[str, ...]
    episodes_per_task: int
    cameras: tuple[str, ...] = CAMERAS[:2]
    size: tuple[int, int] = (128, 128)
    seed: int = 0
    """The first seed of every task; the next ones follow."""
    keep_failures: bool = False
    action_noise: float = 0.0
    """Standard deviation of Gaussian noise on the expert's x, y, z, for recoveries."""
    steps_after_success: int = 5
    """Recorded past the first success, so that the last frames show it (ours)."""
    max_steps: int = MAX_STEPS
    perturbation: str = ""
    """How the look is changed, "light=0.5+distractors"; states, actions and labels of what moves
    stay those of the clean scene."""

    def __post_init__(self) -> None:
        parse_perturbations(self.perturbation)
        for task in self.tasks:
            check_task(task)
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"Expected different tasks, at least one, found {list(self.tasks)}.")
        if self.episodes_per_task < 1 or self.seed < 0:
            raise ValueError(
                "Expected at least one episode per task and a seed of at least 0, found "
                f"{self.episodes_per_task} and {self.seed}."
            )
        if not 0 <= self.action_noise <= 2 or self.steps_after_success < 0:
            raise ValueError(
                "Expected action_noise within 0 and 2 and steps_after_success of at least 0, found "
                f"{self.action_noise} and {self.steps_after_success}."
            )


def record_episode(world: MetaWorld, seed: int, plan: MetaWorldPlan) -> Recording:
    """Plays the expert from the initial state of a seed and films it.

    Raises:
        SimulatorError: the physics became unstable.
    """
    rng = np.random.default_rng([seed, _NOISE_STREAM])
    observation, _ = world.reset(seed=seed)
    rows: dict[str, list[Any]] = {"frames": [], "labels": [], "states": []}
    wanted: list[np.ndarray] = []
    applied: list[np.ndarray] = []
    success_step: int | None = None
    for step in range(plan.max_steps):
        if success_step is not None and step >= success_step + plan.steps_after_success:
            break
        views = world.render()
        rows["frames"].append(views.frames)
        rows["labels"].append(views.labels)
        rows["states"].append(observation.state.numpy())
        action = world.expert_action()
        noise = np.append(rng.normal(0.0, 1.0, 3), 0.0) * plan.action_noise
        wanted.append(action)
        applied.append(np.clip(action + noise, -1.0, 1.0).astype(np.float32))
        observation, _, _, _, info = world.step(applied[-1])
        if info["success"] and success_step is None:
            success_step = step + 1
    return Recording(
        frames=np.ascontiguousarray(rearrange(rows["frames"], "t v c h w -> v t c h w")),
        labels=np.ascontiguousarray(rearrange(rows["labels"], "t v h w -> v t h w")),
        states=np.stack(rows["states"]),
        actions=np.stack(applied),
        expert_actions=np.stack(wanted),
        success_step=success_step,
    )
