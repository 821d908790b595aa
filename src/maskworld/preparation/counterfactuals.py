"""Counterfactual pairs: what else could have happened, with a real picture of both.

Steering pairs share the first frame and turn left and right. Restyled pairs share the whole drive
and differ in style.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from maskworld.preparation.collect import (
    ClipPlan,
    Drive,
    Kind,
    draw_drive,
    film,
    map_worlds,
    record_world,
)
from maskworld.types import Clip
from maskworld.worlds.drive import Scene, caption, counterfactual_actions, rollout_poses


def collect_pairs(
    worlds: Sequence[int],
    num_pairs: int,
    *,
    num_frames: int,
    size: tuple[int, int],
    fps: float,
    seed: int = 0,
    num_workers: int = 1,
) -> tuple[list[Clip], list[Clip]]:
    """`num_pairs` left turns and their right twins, spread evenly over `worlds`.

    Both clips of a pair share the first frame, style, traffic and speeds. Depends on the seeds
    alone, not on the number of workers.
    """
    plan = ClipPlan(num_frames=num_frames, size=size, fps=fps, seed=seed)
    return _spread_over(worlds, pairs_of_world, num_pairs, plan, num_workers)


def collect_restyled(
    worlds: Sequence[int],
    num_pairs: int,
    *,
    num_frames: int,
    size: tuple[int, int],
    fps: float,
    seed: int = 0,
    num_workers: int = 1,
) -> tuple[list[Clip], list[Clip]]:
    """`num_pairs` drives, each filmed in two different styles, spread evenly over `worlds`."""
    plan = ClipPlan(num_frames=num_frames, size=size, fps=fps, seed=seed)
    return _spread_over(worlds, restyled_of_world, num_pairs, plan, num_workers)


def _spread_over(
    worlds: Sequence[int],
    pairs_of: Callable[[tuple[int, ClipPlan]], list[tuple[Clip, Clip]]],
    num_pairs: int,
    plan: ClipPlan,
    num_workers: int,
) -> tuple[list[Clip], list[Clip]]:
    """As many pairs of every world as make `num_pairs` in all, both sides apart."""
    share = replace(plan, clips_per_world=-(-num_pairs // len(worlds)))
    found = map_worlds(pairs_of, [(world, share) for world in worlds], num_workers)
    pairs = [pair for of_world in found for pair in of_world][:num_pairs]
    return [first for first, _ in pairs], [second for _, second in pairs]


def restyled_of_world(job: tuple[int, ClipPlan]) -> list[tuple[Clip, Clip]]:
    """The drives of one world, each in two styles."""
    world, plan = job
    scene = record_world(world, num_steps=plan.num_steps)
    rng = np.random.default_rng([plan.seed, world, 17])
    pairs = []
    for index in range(plan.clips_per_world):
        kind: Kind = "ghost" if index % 2 else "expert"
        drive = draw_drive(scene, rng, num_frames=plan.num_frames, fps=plan.fps, kind=kind)
        styles = rng.choice(plan.styles, 2, replace=False)
        seeds = rng.integers(2**31, size=2)
        first, second = (
            _filmed(scene, drive, str(style), int(style_seed), plan)
            for style, style_seed in zip(styles, seeds, strict=True)
        )
        pairs.append((first, second))
    return pairs


def _filmed(scene: Scene, drive: Drive, style: str, style_seed: int, plan: ClipPlan) -> Clip:
    frames, labels = film(scene, drive, style=style, style_seed=style_seed, size=plan.size)
    return Clip(
        frames=torch.from_numpy(frames),
        labels=torch.from_numpy(labels),
        actions=torch.from_numpy(drive.actions.astype(np.float32)),
        caption=caption(scene, drive.poses, drive.start, style, fps=plan.fps),
        fps=plan.fps,
        source=f"drive/{scene.scenario}",
        episode=scene.seed,
        start=drive.start,
    )


def pairs_of_world(job: tuple[int, ClipPlan]) -> list[tuple[Clip, Clip]]:
    """The left turns of one world and their right twins."""
    world, plan = job
    scene = record_world(world, num_steps=plan.num_steps)
    rng = np.random.default_rng([plan.seed, world, 13])
    stride = round(scene.fps / plan.fps)
    last = scene.num_steps - 1 - (plan.num_frames - 1) * stride
    pairs = []
    for _ in range(plan.clips_per_world):
        start = int(rng.integers(stride, last + 1))
        style, style_seed = str(rng.choice(plan.styles)), int(rng.integers(2**31))
        sides = []
        for actions in counterfactual_actions(scene, start, plan.num_frames, fps=plan.fps):
            poses = rollout_poses(scene.poses[start], actions[1:], plan.fps)
            drive = Drive(poses, actions, start, stride)
            sides.append(_filmed(scene, drive, style, style_seed, plan))
        pairs.append((sides[0], sides[1]))
    return pairs
