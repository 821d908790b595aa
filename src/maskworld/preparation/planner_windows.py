"""Moments that only a planner trains on: past frames and a plan, without a filmed future.

A drive is filmed once, and every other step of it can be now; so a world yields many more moments
to plan from than clips to dream of. Half of them come from a drive that strays (`recovery`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from maskworld.preparation.collect import record_world
from maskworld.preparation.planning_clips import (
    INTERVAL,
    NUM_WAYPOINTS,
    LogFilm,
    MomentPlan,
    expert_clip,
    film_clips,
    moments,
    plan_sample,
)
from maskworld.types import Clip, PlanSample
from maskworld.worlds.drive import Scene
from maskworld.worlds.drive.ego import to_local
from maskworld.worlds.drive.recovery import is_safe, straying_drive, way_back


@dataclass(frozen=True)
class TrainingJob:
    """What one world gives to training."""

    world: int
    plan: MomentPlan
    num_log: int = 0
    """Windows of the log."""
    num_recovery: int = 0
    """Windows of a drive that strays, at most."""


def training_clips_of_world(job: TrainingJob) -> list[Clip]:
    """The clips that the plan asks for, then windows for the planner alone. The world is recorded
    and its log filmed once for both."""
    plan = job.plan
    scene = record_world(job.world, num_steps=plan.num_steps)
    clips, films = film_clips(scene, plan)
    rng = np.random.default_rng([plan.seed, job.world, 37])
    clips += log_windows(films[0], plan, job.num_log)
    return clips + recovery_windows(scene, plan, job.num_recovery, rng)


def log_windows(film: LogFilm, plan: MomentPlan, count: int) -> list[Clip]:
    """Up to `count` moments of a filmed log, at even distances; the future is not filmed."""
    seen = replace(plan, num_future=0)
    return [expert_clip(film, step, seen) for step in _even(film.scene, seen, count)]


def recovery_windows(
    scene: Scene, plan: MomentPlan, count: int, rng: np.random.Generator
) -> list[Clip]:
    """Up to `count` moments of one drive that strays; their plans lead back to the route.

    Moments without a safe way back, or after a bad one was driven, are left out, so there may be
    fewer. The frames show what was seen on the way: nothing of it is the log's.
    """
    if count == 0:
        return []
    seen = replace(plan, num_future=0)
    drive = straying_drive(scene, rng)
    film = LogFilm(
        drive,
        style=str(rng.choice(plan.styles)),
        style_seed=int(rng.integers(2**31)),
        size=plan.size,
        num_cameras=plan.num_cameras,
    )
    clips = []
    for step in _even(drive, seen, count):
        first = step - (plan.num_past - 1) * plan.stride
        back = way_back(drive, step, round(NUM_WAYPOINTS * INTERVAL * drive.fps))
        if is_safe(drive, step, back) and is_safe(drive, first, drive.poses[first : step + 1]):
            clip = expert_clip(film, step, seen)
            clips.append(replace(clip, plan=_recovery_plan(drive, step, back)))
    return clips


def _recovery_plan(drive: Scene, step: int, back: Float[np.ndarray, "m 3"]) -> PlanSample:
    every = round(INTERVAL * drive.fps)
    waypoints = to_local(back[every::every], back[0])
    found = plan_sample(drive, step, is_expert=False)
    return replace(
        found,
        trajectory=torch.from_numpy(waypoints).float(),
        token=f"{found.token}/recovery",
    )


def _even(scene: Scene, plan: MomentPlan, count: int) -> list[int]:
    """Moments a whole number of frames apart, so that their windows share frames."""
    possible = moments(scene, plan)[:: plan.stride]
    count = min(count, len(possible))
    chosen = np.linspace(0, len(possible) - 1, count).round().astype(int)
    return [possible[i] for i in chosen]
