"""Episodes over several processes. A worker that crashes takes nothing with it: what it had under
way runs again, one episode at a time, in a fresh one."""

from __future__ import annotations

import io
import traceback
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

from maskworld.evaluation.robot_episodes import (
    EpisodeKey,
    EpisodeResult,
    EpisodeRunner,
    PolicyMaker,
    StepRule,
    WorldMaker,
)
from maskworld.preparation.isolated_jobs import IsolatedWorkers

Group: TypeAlias = list[EpisodeKey]
"""Episodes that run in lock step."""
Attempt: TypeAlias = tuple[list[EpisodeResult], str]
"""Results of a group, and the error that ended it, or ""."""


@dataclass(frozen=True)
class EpisodeFailure:
    """An episode that raised or crashed at every attempt: it says nothing of the policy."""

    key: EpisodeKey
    reason: str
    """With a traceback where there is one."""

    @property
    def summary(self) -> str:
        """The last line of the reason."""
        return self.reason.strip().splitlines()[-1]


@dataclass
class EpisodePool:
    """Runs groups of episodes, in this process or in workers.

    Args:
        num_workers: processes, each with its own policies and worlds; 0 runs here, where a crash
            of the simulator ends everything.
        max_attempts: times that an episode is tried.
        max_failures: with more episodes than this failing for good, something is wrong with the
            policy or the machine, and the run stops.
    """

    policies: Mapping[str, PolicyMaker]
    open_world: WorldMaker
    rule: StepRule
    num_workers: int = 0
    max_attempts: int = 2
    max_failures: int = 5
    crashes: Counter[str] = field(default_factory=Counter)
    """How often an attempt failed, by reason."""

    def run(
        self, groups: Sequence[Sequence[EpisodeKey]]
    ) -> Iterator[EpisodeResult | EpisodeFailure]:
        """Results in the order in which episodes end.

        Raises:
            ValueError: policies or worlds that cannot be sent to workers or cannot be used (missing
                cameras, no OpenGL); too many failures, with the reason of the last.
        """
        self._waiting = deque([list(group) for group in groups])
        self._attempts: Counter[EpisodeKey] = Counter()
        failures = 0
        outcomes = self._in_workers() if self.num_workers else self._here()
        for outcome in outcomes:
            if isinstance(outcome, EpisodeFailure):
                failures += 1
                if failures > self.max_failures:
                    raise ValueError(
                        f"Expected at most {self.max_failures} episodes to fail for good, found "
                        f"{failures}, each tried {self.max_attempts} times. Results so far are "
                        f"kept. The last, {outcome.key}: {outcome.reason}"
                    )
            yield outcome

    def _here(self) -> Iterator[EpisodeResult | EpisodeFailure]:
        attempt = _start(self.policies, self.open_world, self.rule)
        while (keys := self._next()) is not None:
            yield from self._settle(keys, *attempt(keys))
        attempt.runner.close()

    def _in_workers(self) -> Iterator[EpisodeResult | EpisodeFailure]:
        try:
            sent = _packed((dict(self.policies), self.open_world, self.rule))
        except Exception as error:  # what cannot be sent may raise anything
            raise ValueError(
                f"Expected policies and worlds that can be sent to workers, found {error}: use "
                "functions of a module, methods or functools.partial, no lambdas; or num_workers=0."
            ) from error
        with IsolatedWorkers[Group, Attempt](_start_worker, (sent,), self.num_workers) as workers:
            for finished in workers.map(self._next):
                results, reason = finished.result or ([], finished.crash)
                yield from self._settle(finished.job, results, reason)

    def _next(self) -> Group | None:
        """The next group that waits."""
        return self._waiting.popleft() if self._waiting else None

    def _settle(
        self, keys: Group, results: Sequence[EpisodeResult], reason: str
    ) -> Iterator[EpisodeResult | EpisodeFailure]:
        """Passes on results, and puts back what is missing where something failed."""
        yield from results
        done = {result.key for result in results}
        if reason:
            yield from self._retry([key for key in keys if key not in done], reason)

    def _retry(self, keys: Sequence[EpisodeKey], reason: str) -> Iterator[EpisodeFailure]:
        """Puts failed episodes back, each alone, or gives them up."""
        self.crashes[reason.strip().splitlines()[-1]] += 1
        for key in keys:
            # In lock step one culprit takes the others with it: they are tried alone first.
            self._attempts[key] += 1 if len(keys) == 1 else 0
            if self._attempts[key] >= self.max_attempts:
                yield EpisodeFailure(key, reason)
            else:
                self._waiting.append([key])


class _Attempts:
    """Runs groups of episodes as far as they go."""

    def __init__(self, runner: EpisodeRunner) -> None:
        self.runner = runner

    def __call__(self, keys: Group) -> Attempt:
        """The results, and what went wrong after them, if anything.

        Raises:
            ValueError: of a policy or a world that cannot be used at all.
        """
        results = []
        try:
            for result in self.runner.run(keys):
                results.append(result)
        except ValueError:
            raise  # cameras, sizes, OpenGL: the next episode would fail alike; a user can mend it
        except Exception:  # simulators raise anything: counted, told, tried again, then left out
            return results, traceback.format_exc(limit=-4)
        return results, ""


def _start(
    policies: Mapping[str, PolicyMaker], open_world: WorldMaker, rule: StepRule
) -> _Attempts:
    return _Attempts(EpisodeRunner(policies, open_world, rule))


def _start_worker(sent: bytes) -> _Attempts:
    torch.set_num_threads(1)  # as many processes as there are cores
    # `sent` is what `_packed` made, in our parent: no file, nothing of a user's. Makers are code
    # and pass as pickles in any case, since processes are spawned.
    return _start(*torch.load(io.BytesIO(sent), weights_only=False))


def _packed(value: Any) -> bytes:
    """Anything with its tensors by value. Sent as they are, every tensor would be shared memory
    with a file descriptor of its own, and a process may have too few."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
