"""Meta-World's scripted experts, which read object and goal positions: for demonstrations alone."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from jaxtyping import Float

from maskworld.worlds.metaworld.tasks import check_task


class ScriptedExpert:
    """The expert of one task. Privileged: it sees the simulator's full state vector."""

    def __init__(self, task: str) -> None:
        from metaworld.policies import ENV_POLICY_MAP

        kind: Any = ENV_POLICY_MAP[check_task(task)]
        self._policy = kind()

    def act(self, simulator_state: Float[np.ndarray, " n"]) -> Float[np.ndarray, " 4"]:
        """The expert's action, clipped to [-1, 1] as the simulator would."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that it exceeds [-1, 1]
            action = np.asarray(self._policy.get_action(simulator_state), np.float64)
        return np.clip(action, -1.0, 1.0).astype(np.float32)
