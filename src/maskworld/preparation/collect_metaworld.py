"""Recording Meta-World's scripted experts as a LeRobot dataset: resumable, parallel, crash-proof.

An episode is a function of its task and seed. Finished ones are kept beside the dataset until all
are there, so nothing is recorded twice and nothing lost, whenever the process is stopped.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from maskworld.data.storage import atomic_path, remove, write_json
from maskworld.preparation.isolated_jobs import Crash, Finished, IsolatedWorkers
from maskworld.preparation.metaworld_episodes import Job, MetaWorldPlan, record_episode
from maskworld.preparation.metaworld_staging import Staging
from maskworld.preparation.seed_queue import SeedQueue
from maskworld.worlds.metaworld import MetaWorld, SimulatorError, find_backend, parse_perturbations

REPORT = "meta/collection.json"
EPISODES_PER_SAVE = 20
"""Episodes that move into the dataset at a time (ours)."""


@dataclass
class CollectionReport:
    """What a collection did, over all its runs."""

    out: Path
    num_episodes: int = 0
    num_frames: int = 0
    without_success: list[Job] = field(default_factory=list)
    """Seeds whose expert did not succeed."""
    crashed: list[tuple[str, int, str]] = field(default_factory=list)
    """Seeds that crashed the simulator every time, and how."""
    num_retried: int = 0
    """Crashes of this run after which the episode was recorded again."""
    kept_failures: bool = False

    def __str__(self) -> str:
        """Several lines for the reader."""
        lines = [f"{self.out}: {self.num_episodes} episodes, {self.num_frames} frames"]
        if self.without_success:
            counts = Counter(task for task, _ in self.without_success)
            what = "kept" if self.kept_failures else "dropped, others recorded instead"
            words = ", ".join(f"{task} {count}" for task, count in counts.items())
            lines.append(f"  without success, {what}: {len(self.without_success)} ({words})")
        lines += [f"  crashed, left out: {t} seed {s} ({why})" for t, s, why in self.crashed]
        if self.num_retried:
            lines.append(f"  crashes that a second try mended: {self.num_retried}")
        return "\n".join(lines)


def collect_metaworld(
    out_dir: Path | str,
    plan: MetaWorldPlan,
    *,
    num_workers: int = 1,
    overwrite: bool = False,
    report: Callable[[int, int], None] | None = None,
) -> CollectionReport:
    """Writes a LeRobot v3.0 dataset of expert episodes; the folder appears when complete.

    The same call goes on where an interrupted one stopped. Seeds `plan.seed`, `plan.seed + 1`, ...
    of the split "train" are recorded until every task has its episodes: one without success is
    replaced by the next seed (unless kept), one that crashes the simulator twice too. Episodes do
    not depend on the number of workers. Beside frames, label maps, actions and instruction, rows
    hold `observation.state` (hand x, y, z, gripper opening) and `expert_action`.

    Args:
        report: called with the number of episodes done and the total after each.

    Raises:
        ValueError: `out_dir` exists, an unfinished collection there has another plan, another
            process works on it, or most attempts of a task fail.
        MissingGL: this machine has no off-screen OpenGL.
    """
    find_backend()
    out = Path(out_dir)
    if out.exists() and not overwrite:
        raise ValueError(
            f"{out} exists already: choose another folder, or pass --overwrite to replace it."
        )
    staging = Staging(_staging_folder(out), plan)
    with staging.locked():
        queue = SeedQueue(plan, staging.outcomes())
        total = len(plan.tasks) * plan.episodes_per_task
        summary = CollectionReport(out, kept_failures=plan.keep_failures)
        if report is not None:
            report(queue.num_done, total)
        arguments = (plan, str(staging.folder))
        with IsolatedWorkers[Job, dict[str, Any]](start_recorder, arguments, num_workers) as pool:
            for finished in pool.map(queue.take):
                if _settle(finished, queue, staging):
                    summary.num_retried += 1
                staging.move_parts(queue.ready(), at_least=EPISODES_PER_SAVE)
                if report is not None:
                    report(queue.num_done, total)
        staging.move_parts(queue.ready(), at_least=1)
        _fill(summary, staging, queue)
        write_json(staging.dataset / REPORT, _as_json(plan, summary))
        with atomic_path(out) as temporary:  # linked, so that staging stays whole until the end
            shutil.copytree(staging.dataset, temporary, copy_function=_link)
    remove(staging.folder)
    return summary


def discard_unfinished(out_dir: Path | str) -> None:
    """Removes what an interrupted collection has kept."""
    remove(_staging_folder(Path(out_dir)))


def start_recorder(plan: MetaWorldPlan, folder: str) -> Callable[[Job], dict[str, Any]]:
    """The work of one process: records a job's episode into a file of `folder`."""
    worlds: dict[str, MetaWorld] = {}

    def record(job: Job) -> dict[str, Any]:
        from mujoco import FatalError

        task, seed = job
        if task not in worlds:
            for other in worlds.values():
                other.close()
            worlds.clear()
            worlds[task] = MetaWorld(
                task,
                cameras=plan.cameras,
                size=plan.size,
                split="train",
                max_steps=plan.max_steps,
                ends_on_success=False,
                perturbations=parse_perturbations(plan.perturbation),
            )
        try:
            episode = record_episode(worlds[task], seed, plan)
        except (SimulatorError, FatalError) as error:
            raise Crash(str(error)) from error
        outcome = {"success_step": episode.success_step, "num_frames": len(episode.actions)}
        return Staging(Path(folder), plan).save(job, episode, outcome)

    return record


def _settle(finished: Finished[Job, dict[str, Any]], queue: SeedQueue, staging: Staging) -> bool:
    """Notes a finished job; True = it crashed and is tried again."""
    if not finished.crash:
        assert finished.result is not None
        queue.finish(finished.job, finished.result)
        return False
    if queue.crash(finished.job):
        return True
    outcome = {"crash": finished.crash}
    staging.save_crash(finished.job, outcome)
    queue.finish(finished.job, outcome)
    return False


def _fill(summary: CollectionReport, staging: Staging, queue: SeedQueue) -> None:
    kept = queue.ready()
    summary.num_episodes = len(kept)
    summary.num_frames = sum(queue.outcomes[job]["num_frames"] for job in kept)
    for job, outcome in sorted(queue.outcomes.items()):
        if "crash" in outcome:
            summary.crashed.append((*job, outcome["crash"]))
        elif outcome["success_step"] is None:
            summary.without_success.append(job)


def _as_json(plan: MetaWorldPlan, summary: CollectionReport) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "world": "metaworld",
        "versions": {name: version(name) for name in ("metaworld", "mujoco")},
        "plan": asdict(plan),
        "split": "train",
        "num_episodes": summary.num_episodes,
        "num_frames": summary.num_frames,
        "without_success": [list(job) for job in summary.without_success],
        "crashed": [list(row) for row in summary.crashed],
    }


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # no hard links here
        shutil.copy2(source, target)


def _staging_folder(out: Path) -> Path:
    return out.with_name(f".{out.name}.collecting")
