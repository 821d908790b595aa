"""Success of robot policies in closed loop, all on the same initial states, clean and perturbed.

A score stands with its protocol: world and cameras, step limit and what it counts, and for every
policy its `exec_steps`, memory and how its checkpoint was chosen. Scores of different protocols are
not put side by side.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from maskworld.evaluation.episode_log import EpisodeLog, check_same, read_log
from maskworld.evaluation.episode_pool import EpisodeFailure, EpisodePool
from maskworld.evaluation.robot_episodes import (
    EpisodeKey,
    EpisodeResult,
    PolicyMaker,
    StepRule,
    WorldMaker,
)

CLEAN = ""
"""The perturbation that is none."""
COMPARED = ("exec_steps", "cameras", "frame_size", "checkpoint")
"""What of a policy's protocol must agree between runs that are joined."""


@dataclass(frozen=True)
class ManipulationConfig:
    """Which episodes, and when they end."""

    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    """Initial states of every task, none of them trained on."""
    rule: StepRule
    world: Mapping[str, Any] = field(default_factory=dict)
    """What the world is, for the protocol: name, version, cameras, frame size, split."""
    perturbations: tuple[str, ...] = (CLEAN,)
    """As the world's maker takes them."""
    checkpoints: Mapping[str, str] = field(default_factory=dict)
    """By policy, how its checkpoint was chosen: "last", "best of validation", ..."""

    def __post_init__(self) -> None:
        for name in ("tasks", "seeds", "perturbations"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"Expected {name}, each once, found {values}.")

    def keys(self, policies: Sequence[str]) -> list[EpisodeKey]:
        """Every episode, those of one policy, perturbation and task in a row."""
        return [
            EpisodeKey(policy, perturbation, task, seed)
            for perturbation in self.perturbations
            for task in self.tasks
            for policy in policies
            for seed in self.seeds
        ]


@dataclass(frozen=True)
class Evaluation:
    """What became of the episodes of several policies."""

    protocol: Mapping[str, Any]
    results: Mapping[EpisodeKey, EpisodeResult]
    failures: Sequence[EpisodeFailure] = ()
    """Episodes that crashed at every attempt. Their initial states are left out for all policies
    alike, and are tried again by the next run."""
    crashes: Mapping[str, int] = field(default_factory=dict)
    """Attempts that failed, by reason."""

    @property
    def policies(self) -> list[str]:
        return sorted({key.policy for key in self.results})

    @property
    def perturbations(self) -> list[str]:
        return sorted({key.perturbation for key in self.results})

    def tried(self, perturbation: str) -> list[str]:
        """Policies with episodes under a perturbation."""
        return sorted({key.policy for key in self.results if key.perturbation == perturbation})

    def states(
        self, policies: Sequence[str], perturbation: str = CLEAN, task: str | None = None
    ) -> list[tuple[str, int]]:
        """Task and seed of the initial states that all of these policies have tried.

        Raises:
            ValueError: none.
        """
        tried = [
            {
                (key.task, key.seed)
                for key in self.results
                if (key.policy, key.perturbation) == (policy, perturbation)
                and task in (None, key.task)
            }
            for policy in policies
        ]
        found = sorted(set.intersection(*tried))
        if not found:
            raise ValueError(
                f"Expected episodes of {list(policies)} from the same initial states"
                f"{f' of {task}' if task else ''} under {perturbation or 'no perturbation'!r}, "
                f"found {[len(each) for each in tried]} with none in common."
            )
        return found

    def successes(
        self, policy: str, states: Sequence[tuple[str, int]], perturbation: str = CLEAN
    ) -> Bool[np.ndarray, " n"]:
        """Of one policy from these initial states, in their order."""
        keys = [EpisodeKey(policy, perturbation, task, seed) for task, seed in states]
        return np.array([self.results[key].success for key in keys])

    def endings(self, policy: str) -> dict[str, int]:
        """How often an episode of a policy ended in each way."""
        found = Counter(r.ending for key, r in self.results.items() if key.policy == policy)
        return dict(sorted(found.items()))


def evaluate_manipulation(
    policies: Mapping[str, PolicyMaker],
    config: ManipulationConfig,
    open_world: WorldMaker,
    folder: Path | str,
    *,
    num_workers: int = 0,
    batch_size: int = 1,
    max_attempts: int = 2,
    on_result: Callable[[EpisodeResult, int, int], None] | None = None,
) -> Evaluation:
    """Runs every episode that `folder` does not hold yet; each is on the disk when it ends.

    Args:
        folder: may hold results of the same protocol, of other tasks, seeds and policies too; those
            are returned as well.
        num_workers: processes (see `EpisodePool`).
        batch_size: at most so many episodes in lock step within a process, and no more than the
            `max_batch` of `open_world`; saves time where the network is the dearer part.
        on_result: told every result, how many are done, and of how many.

    Raises:
        ValueError: the folder holds results of another protocol, or too many episodes crash.
    """
    wanted = config.keys(list(policies))
    failures: list[EpisodeFailure] = []
    pool = EpisodePool(policies, open_world, config.rule, num_workers, max_attempts)
    if batch_size < 1:
        raise ValueError(f"Expected a batch_size of at least 1, found {batch_size}.")
    side_by_side = min(batch_size, getattr(open_world, "max_batch", batch_size))
    with EpisodeLog(folder, protocol_of(policies, config)) as log:
        missing = [key for key in wanted if key not in log.results]
        done = len(wanted) - len(missing)
        for outcome in pool.run(_groups(missing, side_by_side)):
            if isinstance(outcome, EpisodeFailure):
                failures.append(outcome)
                continue
            log.add(outcome)
            done += 1
            if on_result is not None:
                on_result(outcome, done, len(wanted))
    if failures:
        warnings.warn(
            f"{len(failures)} of {len(wanted)} episodes crashed {max_attempts} times and are left "
            f"out for all policies, the first, {failures[0].key}: {failures[0].summary}",
            stacklevel=2,
        )
    return Evaluation(log.protocol, dict(log.results), failures, dict(pool.crashes))


def protocol_of(policies: Mapping[str, PolicyMaker], config: ManipulationConfig) -> dict[str, Any]:
    """What a score of these policies depends on, but for the episodes themselves."""
    described = {
        name: {
            **getattr(make(), "describe", dict)(),
            "checkpoint": config.checkpoints.get(name, "none"),
        }
        for name, make in policies.items()
    }
    return {"world": dict(config.world), "steps": asdict(config.rule), "policies": described}


def read_evaluation(folder: Path | str) -> Evaluation:
    """The results that `evaluate_manipulation` left in a folder.

    Raises:
        ValueError: none.
    """
    protocol, results = read_log(folder)
    return Evaluation(protocol, {result.key: result for result in results})


def join(
    evaluations: Mapping[str, Evaluation], policy: str = "model", *, but: Sequence[str] = ()
) -> Evaluation:
    """Puts one policy of each of several evaluations side by side, under the evaluation's name.

    Args:
        but: of `COMPARED`, what is meant to differ: `exec_steps` in a study of it.

    Raises:
        ValueError: they were made under different protocols; says what differs.
    """
    joined: dict[EpisodeKey, EpisodeResult] = {}
    first_name, first = next(iter(evaluations.items()))
    protocols: dict[str, Any] = {}
    for name, each in evaluations.items():
        if policy not in each.policies:
            raise ValueError(f"Expected a policy {policy!r} in {name}, found {each.policies}.")
        check_same(
            _comparable(first.protocol, policy, but),
            _comparable(each.protocol, policy, but),
            f"{first_name} and {name}",
        )
        protocols[name] = each.protocol["policies"][policy]
        for key, result in each.results.items():
            if key.policy == policy:
                renamed = replace(key, policy=name)
                joined[renamed] = replace(result, key=renamed)
    return Evaluation({**first.protocol, "policies": protocols}, joined)


def _comparable(protocol: Mapping[str, Any], policy: str, but: Sequence[str]) -> dict[str, Any]:
    """The part of a protocol that must agree."""
    of_policy = protocol["policies"][policy]
    kept = {key: of_policy.get(key) for key in COMPARED if key not in but}
    return {**{k: v for k, v in protocol.items() if k != "policies"}, "policy": kept}


def _groups(keys: Sequence[EpisodeKey], size: int) -> list[list[EpisodeKey]]:
    """Episodes that run in lock step: of one policy, perturbation and task."""
    found = []
    for _, each in groupby(keys, key=lambda key: (key.policy, key.perturbation, key.task)):
        row = list(each)
        found += [row[i : i + size] for i in range(0, len(row), size)]
    return found
