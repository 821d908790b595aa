"""Recording clips of the driving world, in memory or as a LeRobot dataset, in parallel by world.

What comes out depends on the seeds alone, never on the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Literal

import cv2
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8

from maskworld.types import Clip
from maskworld.worlds.drive import (
    SCENARIOS,
    STYLES,
    Scene,
    actions_of,
    camera_rig,
    caption,
    ghost_actions,
    record_scene,
    rollout_poses,
)

Kind = Literal["expert", "ghost"]
SCENE_FPS = 10.0
"""Traffic is simulated at this rate; clips take every second, third, ... step."""


def scenario_of(world: int) -> str:
    """The scenario of a world; consecutive seeds take turns."""
    return SCENARIOS[world % len(SCENARIOS)]


def record_world(world: int, *, num_steps: int = 80) -> Scene:
    """The scene of a world seed."""
    return record_scene(scenario_of(world), world, num_steps=num_steps, fps=SCENE_FPS)


@dataclass(frozen=True)
class Drive:
    """Where the ego was in a clip. Row t of `actions` is the step into frame t."""

    poses: Float[np.ndarray, "t 3"]
    actions: Float[np.ndarray, "t 2"]
    start: int
    """Step of the scene of the first frame."""
    stride: int
    """Steps of the scene per frame."""


def draw_drive(
    scene: Scene, rng: np.random.Generator, *, num_frames: int, fps: float, kind: Kind
) -> Drive:
    """Draws a start and drives from there, as the expert did or as a ghost.

    Raises:
        ValueError: the scene is too short, or its rate is not a multiple of `fps`.
    """
    stride = round(scene.fps / fps)
    if abs(stride * fps - scene.fps) > 1e-6:
        raise ValueError(
            f"Expected a frame rate that divides the scene's {scene.fps:g}, found {fps:g}: "
            f"use one of {', '.join(f'{scene.fps / k:g}' for k in (1, 2, 5))}."
        )
    last = scene.num_steps - 1 - (num_frames - 1) * stride
    if last < stride:
        raise ValueError(
            f"Expected at least {(num_frames - 1) * stride + stride + 1} steps for {num_frames} "
            f"frames at {fps:g} Hz, found {scene.num_steps}: record more steps or fewer frames."
        )
    start = int(rng.integers(stride, last + 1))
    if kind == "ghost":
        actions = ghost_actions(rng, scene, num_frames, start_step=start, fps=fps)
        poses = rollout_poses(scene.poses[start], actions[1:], fps)
    else:
        steps = start + stride * np.arange(-1, num_frames)
        poses = scene.poses[steps]
        actions = actions_of(poses, fps)
        poses = poses[1:]
    return Drive(poses, actions, start, stride)


def film(
    scene: Scene,
    drive: Drive,
    *,
    style: str,
    style_seed: int,
    size: tuple[int, int],
    num_cameras: int = 1,
) -> tuple[UInt8[np.ndarray, "v t c h w"], UInt8[np.ndarray, "v t h w"]]:
    """Frames and labels of a drive through the recorded traffic."""
    appearance = scene.appearance(style, style_seed)
    rig = camera_rig(num_cameras)
    shots = [
        scene.render(pose, drive.start + i * drive.stride, style=appearance, size=size, cameras=rig)
        for i, pose in enumerate(drive.poses)
    ]
    frames = rearrange([rgb for rgb, _ in shots], "t v h w c -> v t c h w")
    labels = rearrange([label for _, label in shots], "t v h w -> v t h w")
    return np.ascontiguousarray(frames), np.ascontiguousarray(labels)


def sample_clip(
    scene: Scene,
    rng: np.random.Generator,
    *,
    num_frames: int,
    size: tuple[int, int],
    style: str,
    kind: Kind,
    fps: float = 5.0,
    num_cameras: int = 1,
) -> Clip:
    """One captioned clip with labels and actions (speed in m/s, yaw rate in rad/s).

    `size` is (height, width); sun and hue within the style are drawn too.
    """
    drive = draw_drive(scene, rng, num_frames=num_frames, fps=fps, kind=kind)
    style_seed = int(rng.integers(2**31))
    frames, labels = film(
        scene, drive, style=style, style_seed=style_seed, size=size, num_cameras=num_cameras
    )
    return Clip(
        frames=torch.from_numpy(frames),
        labels=torch.from_numpy(labels),
        actions=torch.from_numpy(drive.actions.astype(np.float32)),
        caption=caption(scene, drive.poses, drive.start, style, fps=fps),
        fps=fps,
        source=f"drive/{scene.scenario}",
        episode=scene.seed,
        start=drive.start,
    )


@dataclass(frozen=True)
class ClipPlan:
    """What to film of every world."""

    clips_per_world: int = 15
    num_frames: int = 9
    size: tuple[int, int] = (64, 96)
    """Height, width."""
    fps: float = 5.0
    styles: tuple[str, ...] = STYLES
    num_cameras: int = 1
    num_steps: int = 80
    seed: int = 0


def collect_clips(
    worlds: Sequence[int],
    clips_per_world: int,
    *,
    num_frames: int = 9,
    size: tuple[int, int] = (64, 96),
    fps: float = 5.0,
    styles: Sequence[str] = STYLES,
    num_cameras: int = 1,
    num_steps: int = 80,
    seed: int = 0,
    num_workers: int = 1,
) -> list[Clip]:
    """Clips of the given world seeds in memory: half expert, half ghost, in a random style each.

    `Clip.episode` is the world seed, so that sets can be split by world.
    """
    plan = ClipPlan(
        clips_per_world, num_frames, size, fps, tuple(styles), num_cameras, num_steps, seed
    )
    clips: list[Clip] = []
    for part in map_worlds(_clips_of_world, [(world, plan) for world in worlds], num_workers):
        clips += part
    return clips


def _clips_of_world(job: tuple[int, ClipPlan]) -> list[Clip]:
    world, plan = job
    scene = record_world(world, num_steps=plan.num_steps)
    rng = np.random.default_rng([plan.seed, world, 11])
    kinds: tuple[Kind, Kind] = ("expert", "ghost")
    return [
        sample_clip(
            scene,
            rng,
            num_frames=plan.num_frames,
            size=plan.size,
            style=str(rng.choice(plan.styles)),
            kind=kinds[i % 2],
            fps=plan.fps,
            num_cameras=plan.num_cameras,
        )
        for i in range(plan.clips_per_world)
    ]


def _start_worker() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


@contextmanager
def _pool(num_workers: int) -> Iterator[ProcessPoolExecutor]:
    # Spawned, not forked: torch's threads do not survive a fork.
    pool = ProcessPoolExecutor(num_workers, get_context("spawn"), _start_worker)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def map_worlds(function, jobs: list, num_workers: int) -> Iterator:
    """Results in the order of the jobs."""
    if num_workers <= 1 or len(jobs) <= 1:
        yield from map(function, jobs)
        return
    with _pool(min(num_workers, len(jobs))) as pool:
        yield from pool.map(function, jobs)
