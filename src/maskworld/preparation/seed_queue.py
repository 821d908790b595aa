"""Which seeds of which tasks to record next."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from maskworld.preparation.metaworld_episodes import Job, MetaWorldPlan

MAX_CRASHES = 2
"""So often may one seed crash before it is given up (ours)."""


class SeedQueue:
    """Which seed of which task comes next, given what is known of all.

    Every task takes consecutive seeds until it has its episodes, so what is recorded depends on
    neither the order in which they finish nor on interruptions.
    """

    def __init__(self, plan: MetaWorldPlan, outcomes: dict[Job, dict[str, Any]]) -> None:
        self.plan, self.outcomes = plan, dict(outcomes)
        self._running: set[Job] = set()
        self._again: deque[Job] = deque()
        self._crashes: Counter[Job] = Counter()

    @property
    def num_done(self) -> int:
        """Episodes that will be in the dataset, of those recorded."""
        return sum(self._is_kept(outcome) for outcome in self.outcomes.values())

    def take(self) -> Job | None:
        """The next job; None when every task has enough done or under way.

        Raises:
            ValueError: too many attempts of a task gave nothing.
        """
        if self._again:
            job = self._again.popleft()
            self._running.add(job)
            return job
        for task in self.plan.tasks:
            mine = [outcome for job, outcome in self.outcomes.items() if job[0] == task]
            kept = sum(self._is_kept(outcome) for outcome in mine)
            crashes = [str(outcome["crash"]) for outcome in mine if "crash" in outcome]
            if len(mine) - kept > max(10, self.plan.episodes_per_task):
                last = f" The last crash: {crashes[-1]}." if crashes else ""
                raise ValueError(
                    f"{task}: {len(mine) - kept} of {len(mine)} attempts gave no episode (no "
                    f"success within {self.plan.max_steps} steps, or a crash): lower the action "
                    f"noise, raise the step limit, or keep failures.{last}"
                )
            under_way = sum(job[0] == task for job in self._running)
            if kept + under_way < self.plan.episodes_per_task:
                job = (task, self.plan.seed + len(mine) + under_way)
                self._running.add(job)
                return job
        return None

    def finish(self, job: Job, outcome: dict[str, Any]) -> None:
        """Notes what came of a job."""
        self._running.discard(job)
        self.outcomes[job] = outcome

    def crash(self, job: Job) -> bool:
        """Notes a crash; True = the job will be tried again."""
        self._crashes[job] += 1
        is_last = self._crashes[job] >= MAX_CRASHES
        if not is_last:  # still counted as under way, so that no other seed takes its place
            self._again.append(job)
        return not is_last

    def ready(self) -> list[Job]:
        """Episodes to keep, in the dataset's order, up to the first that is not decided yet."""
        found: list[Job] = []
        for task in self.plan.tasks:
            kept, seed = 0, self.plan.seed
            while kept < self.plan.episodes_per_task:
                if (task, seed) not in self.outcomes:
                    return found
                if self._is_kept(self.outcomes[task, seed]):
                    found.append((task, seed))
                    kept += 1
                seed += 1
        return found

    def _is_kept(self, outcome: dict[str, Any]) -> bool:
        if "crash" in outcome:
            return False
        return self.plan.keep_failures or outcome["success_step"] is not None
