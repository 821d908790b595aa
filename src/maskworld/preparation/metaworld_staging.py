"""Finished episodes on their way into a dataset: nothing is lost if the process dies."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from maskworld.data.lerobot import LeRobotSource, LeRobotWriter
from maskworld.data.storage import atomic_path, write_json
from maskworld.preparation.metaworld_episodes import Job, MetaWorldPlan, Recording
from maskworld.worlds.metaworld import ACTION_NAMES, CLASSES, CONTROL_FPS, TASKS


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
        """What is known from earlier runs. Crashes after a task's last episode are forgotten: what
        made them all crash may be mended by now."""
        found: dict[Job, dict[str, Any]] = {}
        has_episode_after: set[str] = set()
        for path in sorted(self.parts.glob("*.json"), reverse=True):
            task, _, seed = path.stem.rpartition("-seed-")
            outcome = json.loads(path.read_text())
            if "crash" in outcome and task not in has_episode_after:
                path.unlink()
                continue
            has_episode_after.add(task)
            found[task, int(seed)] = outcome
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


def _part_name(job: Job) -> str:
    return f"{job[0]}-seed-{job[1]:06d}"
