"""Episodes of robot policies in closed loop: one, or several in lock step.

In lock step every episode takes a step before any takes the next, so that policies around one
network ask it together. What an episode does is the same either way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from maskworld.interfaces import Policy
from maskworld.policies.robot import ChunkPolicy, act_together
from maskworld.types import Observation


@runtime_checkable
class RobotWorld(Protocol):
    """A task to act in, as of gymnasium; `worlds.metaworld` and LIBERO's adapter are such."""

    def reset(self, *, seed: int) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode; `seed` alone decides its initial state."""
        ...

    def step(
        self, action: Float[np.ndarray, " a"]
    ) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        """Observation, reward, whether it is over, whether the world's own limit is reached, and
        details with a "success"."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class BindsWorld(Protocol):
    """A policy that acts through the world's own expert."""

    def bind(self, world: Any) -> None: ...


PolicyMaker = Callable[[], Policy]
"""Called once for every episode that runs beside others; those of a network should share it, as
`ChunkPolicy.twin` does. Sent to workers, so no lambda."""
WorldMaker = Callable[[str, str], RobotWorld]
"""Task and perturbation ("" = none, "light=0.5") to a world. Sent to workers, so no lambda."""
Ending = Literal["success", "limit", "world_limit", "bad_action"]
"""`limit`: out of steps; `world_limit`: the world stopped before; `bad_action`: not finite."""


@dataclass(frozen=True, order=True)
class EpisodeKey:
    """Names an episode. Those with the same task and seed start alike."""

    policy: str
    perturbation: str
    task: str
    seed: int


@dataclass(frozen=True)
class EpisodeResult:
    """What became of an episode."""

    key: EpisodeKey
    ending: Ending
    steps: int
    """Of the world, until the first success or the end."""
    num_clipped: int = 0
    """Actions outside the world's range."""

    @property
    def success(self) -> bool:
        return self.ending == "success"


@dataclass(frozen=True)
class StepRule:
    """When an episode is given up.

    Benchmarks differ: OpenVLA's line of work counts steps of the world, GE-ACT's script for LIBERO
    (and very likely Mask World Model's, a fork of it) counts chunks, so that its limit is
    `exec_steps` times longer and only the world's horizon ends an episode. Scores under the two
    rules do not compare.

    Reference: AgibotTech/Genie-Envisioner, experiments/eval_libero.py.
    """

    limit: int
    counts: Literal["env_steps", "chunks"] = "env_steps"
    """"chunks" is `ge_compat`."""
    horizon: int | None = None
    """Steps after which the world stops by itself (LIBERO: 1000); needed for "chunks"."""

    def __post_init__(self) -> None:
        if self.counts not in ("env_steps", "chunks") or self.limit < 1:
            raise ValueError(f"Expected a limit of 1 or more in env_steps or chunks, found {self}.")
        if self.counts == "chunks" and self.horizon is None:
            raise ValueError(
                "Counting chunks, as GE-ACT does, makes episodes as long as the world allows: say "
                "how long with horizon (LIBERO: 1000)."
            )

    def max_steps(self, exec_steps: int) -> int:
        """Steps of the world before an episode is given up."""
        steps = self.limit * (exec_steps if self.counts == "chunks" else 1)
        return steps if self.horizon is None else min(steps, self.horizon)


def run_group(
    keys: Sequence[EpisodeKey],
    policies: Sequence[Policy],
    worlds: Sequence[RobotWorld],
    rule: StepRule,
) -> Iterator[EpisodeResult]:
    """Runs episodes in lock step, each with a policy and a world of its own; yields as they end."""
    running = [
        _Running(key, policy, world, rule)
        for key, policy, world in zip(keys, policies, worlds, strict=True)
    ]
    while running:
        for episode, action in zip(running, _actions(running), strict=True):
            episode.step(action)
        yield from (episode.result() for episode in running if episode.ending is not None)
        running = [episode for episode in running if episode.ending is None]


class EpisodeRunner:
    """Runs groups of episodes one after the other; keeps policies, and the worlds of one task."""

    def __init__(
        self, policies: Mapping[str, PolicyMaker], open_world: WorldMaker, rule: StepRule
    ) -> None:
        self._makers, self._open_world, self._rule = policies, open_world, rule
        self._policies: dict[str, list[Policy]] = {}
        self._worlds: list[RobotWorld] = []
        self._task = ("", "")

    def run(self, keys: Sequence[EpisodeKey]) -> Iterator[EpisodeResult]:
        """Runs episodes of one policy, task and perturbation in lock step.

        Raises:
            ValueError: keys of several.
        """
        kinds = {(key.policy, key.task, key.perturbation) for key in keys}
        if len(kinds) != 1:
            raise ValueError(f"Expected episodes of one policy and task, found {sorted(kinds)}.")
        name, *task = kinds.pop()
        if tuple(task) != self._task:
            self.close()
            self._task = (task[0], task[1])
        while len(self._worlds) < len(keys):
            self._worlds.append(self._open_world(*self._task))
        made = self._policies.setdefault(name, [])
        while len(made) < len(keys):
            made.append(self._makers[name]())
        try:
            yield from run_group(keys, made[: len(keys)], self._worlds[: len(keys)], self._rule)
        except Exception:
            self.close()  # nobody knows what state they are in
            raise

    def close(self) -> None:
        """Closes the worlds."""
        worlds, self._worlds = self._worlds, []
        for world in worlds:
            world.close()


class _Running:
    """An episode under way."""

    def __init__(self, key: EpisodeKey, policy: Policy, world: RobotWorld, rule: StepRule) -> None:
        self.key, self.policy, self.world = key, policy, world
        self.observation, _ = world.reset(seed=key.seed)
        if isinstance(policy, BindsWorld):
            policy.bind(world)
        policy.reset(key.seed)
        self.max_steps = rule.max_steps(int(getattr(policy, "exec_steps", 1)))
        self.steps = 0
        self.ending: Ending | None = None

    def step(self, action: Float[np.ndarray, " a"]) -> None:
        if not np.isfinite(action).all():
            self.ending = "bad_action"
            return
        self.observation, _, is_over, is_cut, details = self.world.step(action)
        self.steps += 1
        if details["success"]:
            self.ending = "success"
        elif self.steps >= self.max_steps:
            self.ending = "limit"
        elif is_over or is_cut:
            self.ending = "world_limit"

    def result(self) -> EpisodeResult:
        assert self.ending is not None
        clipped = int(getattr(self.policy, "num_clipped", 0))
        return EpisodeResult(self.key, self.ending, self.steps, clipped)


def _actions(running: Sequence[_Running]) -> list[Float[np.ndarray, " a"]]:
    """Every episode's next action; those around one network ask it together."""
    chunked = [(i, each.policy) for i, each in enumerate(running)]
    together = [(i, policy) for i, policy in chunked if isinstance(policy, ChunkPolicy)]
    seen = [running[i].observation for i, _ in together]
    found = dict(zip([i for i, _ in together], act_together([p for _, p in together], seen)))
    return [
        found[i] if i in found else each.policy.act(each.observation)
        for i, each in enumerate(running)
    ]
