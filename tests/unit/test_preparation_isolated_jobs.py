"""Claims about jobs in processes that may die."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from maskworld.preparation.isolated_jobs import Crash, Finished, IsolatedWorkers


def start(base: int) -> Callable[[int], int]:
    def work(job: int) -> int:
        if job == 2:
            os.kill(os.getpid(), signal.SIGSEGV)
        if job == 3:
            raise Crash("the simulator says no")
        if job == 9:
            raise ValueError("the user's fault")
        return base + job

    return work


def run(jobs: list[int], num_workers: int) -> dict[int, Finished[int, int]]:
    waiting = list(jobs)
    with IsolatedWorkers[int, int](start, (10,), num_workers) as pool:
        return {f.job: f for f in pool.map(lambda: waiting.pop(0) if waiting else None)}


def test_a_crash_costs_its_own_job_alone_and_says_how() -> None:
    found = run([0, 1, 2, 3, 4, 5], num_workers=2)
    assert {job: f.result for job, f in found.items() if not f.crash} == {
        0: 10,
        1: 11,
        4: 14,
        5: 15,
    }
    assert "SIGSEGV" in found[2].crash
    assert found[3].crash == "the simulator says no"


def test_an_error_that_is_no_crash_stops_everything() -> None:
    with pytest.raises(ValueError, match="the user's fault"):
        run([0, 9, 1], num_workers=1)
