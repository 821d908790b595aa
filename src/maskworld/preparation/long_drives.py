"""Long drives of the expert, on which long dreams are judged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from maskworld.preparation.collect import ClipPlan, record_world, sample_clip, scene_stride
from maskworld.types import Clip
from maskworld.worlds.drive import Scene
from maskworld.worlds.drive.route import SPACING

MIN_SPEED = 1.0
"""m/s on average over the last quarter: a drive that has ended shows nothing to dream."""
MIN_AHEAD = 10.0
"""Metres of the route that are left at the end: behind it roads may end, too."""


def long_drive_of_world(job: tuple[int, ClipPlan]) -> list[Clip]:
    """One drive of the plan's length, from the first moment on; none where the expert arrives
    before its end, or stands over its last quarter. In one of the plan's styles."""
    world, plan = job
    stride = scene_stride(plan.fps)
    scene = record_world(world, num_steps=stride * plan.num_frames + 1)
    if not is_under_way(scene):
        return []
    rng = np.random.default_rng([plan.seed, world, 19])
    clip = sample_clip(
        scene,
        rng,
        num_frames=plan.num_frames,
        size=plan.size,
        style=str(rng.choice(plan.styles)),
        kind="expert",
        fps=plan.fps,
        num_cameras=plan.num_cameras,
    )
    return [replace(clip, labels=None)]


def is_under_way(scene: Scene) -> bool:
    """Whether the expert still drives at the end, with route ahead of it."""
    x, y, _ = scene.poses[-1].tolist()
    route = scene.stage.route
    ahead = (len(route.points) - 1 - route.nearest(x, y)) * SPACING
    speed = scene.actions[-(scene.num_steps // 4) :, 0].mean()
    return bool(ahead >= MIN_AHEAD and speed >= MIN_SPEED)
