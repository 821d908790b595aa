"""Recording Meta-World's scripted experts as a LeRobot dataset: resumable, parallel, crash-proof.

An episode is a function of its task and seed. Finished ones are kept beside the dataset until all
are there, so nothing is recorded twice and nothing lost, whenever the process is stopped.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from einops import rearrange
from jaxtyping import Float, UInt8

from maskworld.data.lerobot import LeRobotSource, LeRobotWriter
from maskworld.data.storage import atomic_path, remove, write_json
from maskworld.preparation.isolated_jobs import Crash, Finished, IsolatedWorkers
from maskworld.worlds.metaworld import (
    ACTION_NAMES,
    CAMERAS,
    CLASSES,
    CONTROL_FPS,
    MAX_STEPS,
    MetaWorld,
    SimulatorError,
    check_task,
    find_backend,
)

Job: TypeAlias = tuple[str, int]
"""A task and a seed."""
REPORT = "meta/collection.json"
EPISODES_PER_SAVE = 20
"""Episodes that move into the dataset at a time (ours)."""
MAX_CRASHES = 2
"""So often may one seed crash before it is given up (ours)."""
_NOISE_STREAM = 29


@dataclass(frozen=True)
class Recording:
    """One episode. Row t of `actions` is applied at frame t and leads to frame t + 1."""

    frames: UInt8[np.ndarray, "v t c h w"]
    labels: UInt8[np.ndarray, "v t h w"]
    states: Float[np.ndarray, "t s"]
    actions: Float[np.ndarray, "t a"]
    expert_actions: Float[np.ndarray, "t a"]
    """What the expert would have done; differs from `actions` by the noise."""
    success_step: int | None
    """Steps to the first success; None without."""


@dataclass(frozen=True)
class MetaWorldPlan:
    """What to record. All but the number of episodes decides what an episode looks like."""

    tasks: tuple[str, ...]
    episodes_per_task: int
    cameras: tuple[str, ...] = CAMERAS[:2]
    size: tuple[int, int] = (128, 128)
    seed: int = 0
    """The first seed of every task; the next ones follow."""
    keep_failures: bool = False
    action_noise: float = 0.0
    """Standard deviation of Gaussian noise on the expert's x, y, z, for recoveries."""
    steps_after_success: int = 5
    """Recorded past the first success, so that the last frames show it (ours)."""
    max_steps: int = MAX_STEPS

    def __post_init__(self) -> None:
        for task in self.tasks:
            check_task(task)
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"Expected different tasks, at least one, found {list(self.tasks)}.")
        if self.episodes_per_task < 1 or self.seed < 0:
            raise ValueError(
                "Expected at least one episode per task and a seed of at least 0, found "
                f"{self.episodes_per_task} and {self.seed}."
            )
        if not 0 <= self.action_noise <= 2 or self.steps_after_success < 0:
            raise ValueError(
                "Expected action_noise within 0 and 2 and steps_after_success of at least 0, found "
                f"{self.action_noise} and {self.steps_after_success}."
            )


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


def record_episode(world: MetaWorld, seed: int, plan: MetaWorldPlan) -> Recording:
    """Plays the expert from the initial state of a seed and films it.

    Raises:
        SimulatorError: the physics became unstable.
    """
    rng = np.random.default_rng([seed, _NOISE_STREAM])
    observation, _ = world.reset(seed=seed)
    rows: dict[str, list[Any]] = {"frames": [], "labels": [], "states": []}
    wanted: list[np.ndarray] = []
    applied: list[np.ndarray] = []
    success_step: int | None = None
    for step in range(plan.max_steps):
        if success_step is not None and step >= success_step + plan.steps_after_success:
            break
        views = world.render()
        rows["frames"].append(views.frames)
        rows["labels"].append(views.labels)
        rows["states"].append(observation.state.numpy())
        action = world.expert_action()
        noise = np.append(rng.normal(0.0, 1.0, 3), 0.0) * plan.action_noise
        wanted.append(action)
        applied.append(np.clip(action + noise, -1.0, 1.0).astype(np.float32))
        observation, _, _, _, info = world.step(applied[-1])
        if info["success"] and success_step is None:
            success_step = step + 1
    return Recording(
        frames=np.ascontiguousarray(rearrange(rows["frames"], "t v c h w -> v t c h w")),
        labels=np.ascontiguousarray(rearrange(rows["labels"], "t v h w -> v t h w")),
        states=np.stack(rows["states"]),
        actions=np.stack(applied),
        expert_actions=np.stack(wanted),
        success_step=success_step,
    )


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
        with atomic_path(out) as temporary:
            os.rename(staging.dataset, temporary)
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
            )
        try:
            episode = record_episode(worlds[task], seed, plan)
        except (SimulatorError, FatalError) as error:
            raise Crash(str(error)) from error
        outcome = {"success_step": episode.success_step, "num_frames": len(episode.actions)}
        return Staging(Path(folder), plan).save(job, episode, outcome)

    return record


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
            if len(mine) - kept > max(10, self.plan.episodes_per_task):
                raise ValueError(
                    f"{task}: {len(mine) - kept} of {len(mine)} attempts gave no episode (no "
                    f"success within {self.plan.max_steps} steps, or a crash): lower the action "
                    "noise, raise the step limit, or keep failures."
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


class Staging:
    """The folder beside the dataset that holds finished episodes: `parts`, one file each, and
    `dataset`, the episodes that have moved on."""

    def __init__(self, folder: Path, plan: MetaWorldPlan) -> None:
        self.folder, self.plan = folder, plan
        self.parts, self.dataset = folder / "parts", folder / "dataset"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder for the plan, or checks that it is the plan's, for this process alone.

        Raises:
            ValueError: another plan's episodes are there, or another process works there.
        """
        self.parts.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"Another process is collecting into {self.folder}: wait for it, or choose "
                    "another folder."
                ) from None
            plan_file, mine = self.folder / "plan.json", json.loads(json.dumps(asdict(self.plan)))
            if plan_file.exists():
                self._check_plan(json.loads(plan_file.read_text()), mine)
            else:
                write_json(plan_file, mine)
            yield

    def _check_plan(self, theirs: dict[str, Any], mine: dict[str, Any]) -> None:
        differing = [name for name in mine if theirs.get(name) != mine[name]]
        if differing:
            words = ", ".join(f"{n}: {theirs.get(n)} then, {mine[n]} now" for n in differing)
            raise ValueError(
                f"{self.folder} holds an unfinished collection with other settings ({words}): run "
                "it with those to finish it, or remove the folder."
            )

    def save(self, job: Job, episode: Recording, outcome: dict[str, Any]) -> dict[str, Any]:
        """Keeps an episode, whole or not at all; one that will be dropped leaves its outcome."""
        path = self.parts / _part_name(job)
        if outcome["success_step"] is not None or self.plan.keep_failures:
            arrays = {k: v for k, v in vars(episode).items() if k != "success_step"}
            with atomic_path(path.with_suffix(".npz"), what=f"{job[0]} seed {job[1]}") as temporary:
                np.savez(temporary, **arrays)
        write_json(path.with_suffix(".json"), outcome)  # last: it says that the episode is there
        return outcome

    def save_crash(self, job: Job, outcome: dict[str, Any]) -> None:
        """Keeps the fact that a seed crashed every time."""
        write_json((self.parts / _part_name(job)).with_suffix(".json"), outcome)

    def outcomes(self) -> dict[Job, dict[str, Any]]:
        """What is known from earlier runs."""
        found = {}
        for path in sorted(self.parts.glob("*.json")):
            task, _, seed = path.stem.rpartition("-seed-")
            found[task, int(seed)] = json.loads(path.read_text())
        return found

    @cached_property
    def _moved(self) -> set[Job]:
        if not self.dataset.exists():
            return set()
        source = LeRobotSource(self.dataset)
        rows = (source.episode(i).attributes for i in range(len(source)))
        return {(str(row["task"]), int(row["seed"])) for row in rows}

    def move_parts(self, ready: list[Job], *, at_least: int) -> None:
        """Moves episodes into the dataset, in order, if enough of them wait."""
        waiting = [job for job in ready if job not in self._moved]
        if waiting and len(waiting) >= at_least:
            with LeRobotWriter(
                self.dataset,
                fps=CONTROL_FPS,
                size=self.plan.size,
                views=self.plan.cameras,
                action_names=ACTION_NAMES,
                label_names=CLASSES,
                timing="from_frame",
                robot_type="metaworld-sawyer",
                append=True,
            ) as writer:
                for job in waiting:
                    writer.add_episode(**self._episode(job))
            self._moved.update(waiting)
        for job in ready:  # those of an earlier run too, if it was stopped between the two
            if job in self._moved:
                (self.parts / _part_name(job)).with_suffix(".npz").unlink(missing_ok=True)

    def _episode(self, job: Job) -> dict[str, Any]:
        """The arguments of `LeRobotWriter.add_episode`."""
        from maskworld.worlds.metaworld import TASKS

        task, seed = job
        path = self.parts / _part_name(job)
        outcome = json.loads(path.with_suffix(".json").read_text())
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
            return {
                "frames": arrays["frames"],
                "labels": arrays["labels"],
                "actions": arrays["actions"],
                "caption": TASKS[task],
                "extra": {
                    "observation.state": arrays["states"],
                    "expert_action": arrays["expert_actions"],
                },
                "attributes": {
                    "task": task,
                    "seed": seed,
                    "split": "train",
                    "success": outcome["success_step"] is not None,
                    "success_step": outcome["success_step"] or -1,
                    "action_noise": self.plan.action_noise,
                },
            }


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


def _part_name(job: Job) -> str:
    return f"{job[0]}-seed-{job[1]:06d}"


def _staging_folder(out: Path) -> Path:
    return out.with_name(f".{out.name}.collecting")
