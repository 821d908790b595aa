"""Episodes over several processes. A worker that crashes takes nothing with it: what it had under
way runs again, one episode at a time, in a fresh one."""

from __future__ import annotations

import multiprocessing
import traceback
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch

from maskworld.evaluation.robot_episodes import (
    EpisodeKey,
    EpisodeResult,
    EpisodeRunner,
    PolicyMaker,
    StepRule,
    WorldMaker,
)


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
            ValueError: policies or worlds that cannot be sent to workers; too many failures, with
                the reason of the last.
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
        runner = EpisodeRunner(self.policies, self.open_world, self.rule)
        try:
            while self._waiting:
                left = self._waiting.popleft()
                try:
                    for result in runner.run(left):
                        left = [key for key in left if key != result.key]
                        yield result
                except Exception:
                    yield from self._retry(left, traceback.format_exc(limit=-4))
        finally:
            runner.close()

    def _in_workers(self) -> Iterator[EpisodeResult | EpisodeFailure]:
        sent = (dict(self.policies), self.open_world, self.rule)
        try:
            ForkingPickler.dumps(sent)
        except Exception as error:
            raise ValueError(
                f"Expected policies and worlds that can be sent to workers, found {error}: use "
                "functions of a module, methods or functools.partial, no lambdas; or num_workers=0."
            ) from error
        workers = [_Worker(sent) for _ in range(min(self.num_workers, len(self._waiting)))]
        try:
            while self._waiting or any(worker.left for worker in workers):
                for worker in workers:
                    if not worker.left and self._waiting:
                        worker.give(self._waiting.popleft())
                busy = [worker for worker in workers if worker.left]
                ready = wait([worker.pipe for worker in busy])
                for worker in [each for each in busy if each.pipe in ready]:
                    yield from self._listen(worker)
        finally:
            for worker in workers:
                worker.stop()

    def _listen(self, worker: _Worker) -> Iterator[EpisodeResult | EpisodeFailure]:
        """Takes one message of a worker, or notices its death."""
        try:
            kind, content = worker.pipe.recv()
        except (EOFError, OSError):
            reason = worker.restart()
            yield from self._retry(worker.take(), reason)
            return
        if kind == "result":
            worker.left = [key for key in worker.left if key != content.key]
            yield content
        else:
            yield from self._retry(worker.take(), content)

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


class _Worker:
    """A process that runs groups of episodes, and its end of the pipe."""

    def __init__(self, sent: Any) -> None:
        self._sent = sent
        self.left: list[EpisodeKey] = []
        """Episodes that were given and have not ended."""
        self._start()

    def give(self, keys: list[EpisodeKey]) -> None:
        self.left = keys
        with suppress(OSError):  # it died before: recv will say so
            self.pipe.send(keys)

    def take(self) -> list[EpisodeKey]:
        """What is left, which it now no longer has."""
        keys, self.left = self.left, []
        return keys

    def restart(self) -> str:
        """Starts another process in place of a dead one; returns what happened to it."""
        self.process.join(timeout=10)
        code = self.process.exitcode
        self.pipe.close()
        self._start()
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return f"A worker died in the middle of an episode ({how}; 9 is often a lack of memory)."

    def stop(self) -> None:
        """Ends the process, at once if it is in the middle of something."""
        with suppress(OSError):
            self.pipe.send(None)
        if self.left:
            self.process.terminate()
        self.process.join(timeout=10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()

    def _start(self) -> None:
        # Not forked: neither GL contexts nor torch's threads survive that.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, self._sent), daemon=True)
        self.process.start()
        theirs.close()


def _work(pipe: Connection, sent: Any) -> None:
    """The life of a worker."""
    torch.set_num_threads(1)
    runner = EpisodeRunner(*sent)
    try:
        while (keys := pipe.recv()) is not None:
            try:
                for result in runner.run(keys):
                    pipe.send(("result", result))
            except Exception:
                pipe.send(("error", traceback.format_exc(limit=-4)))
    except EOFError:
        pass  # the parent is gone
    finally:
        runner.close()
