"""Jobs in processes of their own that may die: a crash costs one job, never the others."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context
from typing import Any, Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


class Crash(RuntimeError):
    """Raised by a job that failed through no fault of its caller; counted like a dead process."""


@dataclass(frozen=True)
class Finished(Generic[Job, Result]):
    """A job and what came of it."""

    job: Job
    result: Result | None
    crash: str = ""
    """How it crashed, in words; then there is no result."""


class IsolatedWorkers(Generic[Job, Result]):
    """Runs jobs in `num_workers` processes, one job at a time each.

    A process that dies, or raises `Crash`, fails its job alone and is replaced. Any other exception
    stops everything and is raised here. Workers ignore Ctrl-C: the parent decides.

    Args:
        start: called once in every process; returns the function that does a job. It, jobs and
            results are pickled.
        arguments: of `start`.
    """

    def __init__(
        self,
        start: Callable[..., Callable[[Job], Result]],
        arguments: tuple[Any, ...],
        num_workers: int,
    ) -> None:
        if num_workers < 1:
            raise ValueError(f"Expected at least one worker, found {num_workers}.")
        self._start, self._arguments = start, arguments
        # Spawned, not forked: neither torch's threads nor GL survive a fork.
        self._context = get_context("spawn")
        self._idle: list[tuple[Any, Any]] = []
        self._busy: dict[Any, tuple[Any, Job]] = {}
        self.num_workers = num_workers

    def __enter__(self) -> IsolatedWorkers[Job, Result]:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        workers = [*self._idle, *((pipe, process) for pipe, (process, _) in self._busy.items())]
        for pipe, process in workers:
            process.kill()
            process.join()
            pipe.close()
        self._idle, self._busy = [], {}

    def map(self, take_next: Callable[[], Job | None]) -> Iterator[Finished[Job, Result]]:
        """Results as they come. `take_next` is asked whenever a worker is free; None = nothing to
        do now, and once nothing runs either, the end."""
        while True:
            while len(self._busy) < self.num_workers:
                job = take_next()
                if job is None:
                    break
                self._send(job)
            if not self._busy:
                return
            for pipe in connection.wait(list(self._busy)):
                yield self._receive(pipe)

    def _send(self, job: Job) -> None:
        if not self._idle:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(
                target=_work, args=(theirs, self._start, self._arguments), daemon=True
            )
            process.start()
            theirs.close()  # so that a dead process reads as the end of its pipe
            self._idle.append((ours, process))
        pipe, process = self._idle.pop()
        self._busy[pipe] = (process, job)
        with suppress(BrokenPipeError, ConnectionResetError):  # it died: `_receive` will see
            pipe.send(job)

    def _receive(self, pipe: Any) -> Finished[Job, Result]:
        process, job = self._busy.pop(pipe)
        try:
            kind, value = pipe.recv()
        except (EOFError, ConnectionResetError):
            process.join()
            pipe.close()
            return Finished(job, None, f"the process died ({_exit_words(process.exitcode)})")
        if kind == "error":
            process.join()
            pipe.close()
            raise value
        if kind == "crash":  # its simulator may be broken for good
            process.join()
            pipe.close()
            return Finished(job, None, value)
        self._idle.append((pipe, process))
        return Finished(job, value)


def _work(
    pipe: Any, start: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        do_job = start(*arguments)
        while True:
            pipe.send(("done", do_job(pipe.recv())))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.exit(0)  # the parent is gone
    except Crash as error:
        pipe.send(("crash", str(error)))
    except Exception as error:  # raised again by the parent
        pipe.send(("error", error))


def _exit_words(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
