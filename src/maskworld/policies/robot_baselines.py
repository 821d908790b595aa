"""Robot policies that know next to nothing, and one that is told: what a policy is compared with.

The others that belong beside it, blind and without a world model, are `robot_chunk_net.ChunkNet`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from maskworld.types import Observation


class RandomActions:
    """Uniform draws from the world's range."""

    reads_frames = False

    def __init__(self, low: Sequence[float | int], high: Sequence[float | int]) -> None:
        self.low, self.high = np.array(low, np.float32), np.array(high, np.float32)
        self.reset(0)

    def reset(self, seed: int) -> None:
        """`seed` decides all draws."""
        self._draws = np.random.default_rng([seed, 2])

    def act(self, observation: Observation) -> Float[np.ndarray, " a"]:
        """Reads nothing."""
        del observation
        return self._draws.uniform(self.low, self.high).astype(np.float32)


@runtime_checkable
class ScriptedWorld(Protocol):
    """A world with an expert of its own."""

    def expert_action(self) -> Float[np.ndarray, " a"]: ...


class WorldExpert:
    """The world's own scripted expert, who sees the state that is hidden from policies.

    `bind` it to the world of its episode before `reset`.
    """

    reads_frames = False

    def __init__(self) -> None:
        self._world: ScriptedWorld | None = None

    def bind(self, world: ScriptedWorld) -> None:
        """The world that it will act in."""
        self._world = world

    def reset(self, seed: int) -> None:
        """Nothing to forget or draw."""

    def act(self, observation: Observation) -> Float[np.ndarray, " a"]:
        """Raises ValueError before `bind`."""
        del observation
        if self._world is None:
            raise ValueError("The expert acts in a world: call bind(world) before the episode.")
        return np.asarray(self._world.expert_action(), np.float32)


class Replay:
    """Plays the actions of a recorded episode of the task, whatever it sees; after the last one it
    repeats that one.

    Args:
        recordings: actions of one successful episode by instruction, from another initial state
            than those it is tried on.
    """

    reads_frames = False

    def __init__(self, recordings: Mapping[str, Float[np.ndarray, "_ a"]]) -> None:
        self.recordings = dict(recordings)
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Starts over; nothing is drawn."""
        del seed
        self._step = 0

    def act(self, observation: Observation) -> Float[np.ndarray, " a"]:
        """Reads the instruction alone, which names the recording."""
        actions = self.recordings.get(observation.instruction)
        if actions is None:
            raise ValueError(
                f"Expected a recording for {observation.instruction!r}, found some for "
                f"{sorted(self.recordings)}: record the task."
            )
        action = actions[min(self._step, len(actions) - 1)]
        self._step += 1
        return np.asarray(action, np.float32)
