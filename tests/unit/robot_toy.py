"""A world of one axis and policies for it: what closed-loop evaluation is tested on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskworld.data.control import MemoryPick
from maskworld.policies.robot import ChunkPolicy, ControlSpec
from maskworld.policies.robot_baselines import RandomActions, WorldExpert
from maskworld.types import Batch, Observation

SPEC = ControlSpec(("front",), (4, 4), 1, (-1,), (1,), fps=10)


class LineWorld:
    """Push the hand from 0 to a goal that only the picture shows, 3 to 9 steps away.

    The perturbation "dark" dims the picture. The task "trap" kills its process once for every seed
    in 5 and above, the task "broken" raises always.
    """

    def __init__(self, task: str, perturbation: str, folder: str = "") -> None:
        self.task, self.is_dark, self.folder = task, perturbation == "dark", folder
        self.is_open = True

    def reset(self, *, seed: int) -> tuple[Observation, dict[str, Any]]:
        assert self.is_open
        draws = np.random.default_rng(seed)
        self.seed = seed
        self.goal = float(draws.integers(3, 10) * draws.choice([-1, 1]))
        self.place, self.steps = 0.0, 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self.place += float(action[0])
        self.steps += 1
        if self.task == "broken":
            raise RuntimeError("the simulator exploded")
        if self.task == "trap" and self.seed >= 5 and self.steps == 2:
            mark = Path(self.folder) / str(self.seed)
            if not mark.exists():
                mark.touch()
                os._exit(7)
        success = abs(self.place - self.goal) < 0.5
        return self._observe(), 0.0, success, self.steps >= 40, {"success": success}

    def expert_action(self) -> np.ndarray:
        return np.array([np.sign(self.goal - self.place)], np.float32)

    def close(self) -> None:
        self.is_open = False

    def _observe(self) -> Observation:
        light = 128 + 10 * self.goal
        frames = torch.full((1, 3, 4, 4), int(light * (0.5 if self.is_dark else 1)))
        return Observation(frames.to(torch.uint8), torch.tensor([self.place]), f"do {self.task}")


@dataclass(frozen=True)
class Reader:
    """Reads the goal off the picture and goes there; wrong where the light is wrong."""

    gain: float = 1.0
    noise: float = 0.0

    def act_chunk(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        assert batch.frames is not None
        assert batch.control is not None
        goal = (batch.frames[:, 0, -1, 0, 0, 0].float() - 128) / 10
        away = goal - batch.control.state[:, 0]
        steps = away[:, None].sign() * (away.abs()[:, None] > torch.arange(4)) * self.gain
        return (steps + self.noise * torch.randn(steps.shape, generator=generator))[..., None]

    def describe(self) -> dict[str, Any]:
        return {"gain": self.gain}


def reader(exec_steps: int = 2, **changes: float) -> ChunkPolicy:
    return ChunkPolicy(
        Reader(**changes), SPEC, memory=MemoryPick(1, "every"), exec_steps=exec_steps
    )


class Nan:
    """Breaks down at once."""

    def reset(self, seed: int) -> None:
        pass

    def act(self, observation: Observation) -> np.ndarray:
        return np.array([np.nan], np.float32)


EXPERT = WorldExpert
RANDOM = partial(RandomActions, (-1,), (1,))
