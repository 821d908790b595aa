"""Recording clips of the driving world, in memory or as a LeRobot dataset, in parallel by world.

What comes out depends on the seeds alone, never on the number of workers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8

from maskworld.data.lerobot import LeRobotWriter
from maskworld.types import Clip
from maskworld.worlds.drive import (
    CLASSES,
    SCENARIOS,
    STYLES,
    Camera,
    Scene,
    actions_of,
    camera_rig,
    caption,
    ghost_actions,
    parse_style,
    record_scene,
    rollout_poses,
)

Kind = Literal["expert", "ghost"]
ACTION_NAMES = ("speed", "yaw_rate")
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


def scene_stride(fps: float | int) -> int:
    """Steps of a scene per frame of a clip.

    Raises:
        ValueError: `SCENE_FPS` is not a multiple of `fps`.
    """
    stride = max(1, round(SCENE_FPS / fps)) if fps > 0 else 0
    if not np.isclose(stride * fps, SCENE_FPS):
        raise ValueError(
            f"Expected a frame rate that divides {SCENE_FPS:g}, found {fps:g}: "
            f"use one of {', '.join(f'{SCENE_FPS / k:g}' for k in (1, 2, 4, 5, 10))}."
        )
    return stride


def draw_drive(
    scene: Scene, rng: np.random.Generator, *, num_frames: int, fps: float | int, kind: Kind
) -> Drive:
    """Draws a start and drives from there, as the expert did or as a ghost.

    Raises:
        ValueError: the scene is too short, or `SCENE_FPS` is not a multiple of `fps`.
    """
    stride = scene_stride(fps)
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
    cameras: tuple[Camera, ...] | None = None,
) -> tuple[UInt8[np.ndarray, "v t c h w"], UInt8[np.ndarray, "v t h w"]]:
    """Frames and labels of a drive through the recorded traffic."""
    appearance = scene.appearance(style, style_seed)
    shots = [
        scene.render(
            pose, drive.start + i * drive.stride, style=appearance, size=size, cameras=cameras
        )
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
    fps: float | int = 5,
    num_cameras: int = 1,
) -> Clip:
    """One captioned clip with labels and actions (speed in m/s, yaw rate in rad/s).

    `size` is (height, width); sun and hue within the style are drawn too.
    """
    drive = draw_drive(scene, rng, num_frames=num_frames, fps=fps, kind=kind)
    style_seed = int(rng.integers(2**31))
    rig = camera_rig(num_cameras)
    return filmed_clip(
        scene, drive, style=style, style_seed=style_seed, size=size, fps=fps, cameras=rig
    )


def filmed_clip(
    scene: Scene,
    drive: Drive,
    *,
    style: str,
    style_seed: int,
    size: tuple[int, int],
    fps: float | int,
    cameras: tuple[Camera, ...] | None = None,
) -> Clip:
    """A drive as a clip: pictures, labels, actions, caption. `Clip.episode` is the world's seed."""
    frames, labels = film(
        scene, drive, style=style, style_seed=style_seed, size=size, cameras=cameras
    )
    return Clip(
        frames=torch.from_numpy(frames),
        labels=torch.from_numpy(labels),
        actions=torch.from_numpy(drive.actions.astype(np.float32)),
        caption=caption(scene, drive.poses, drive.start, style, fps=fps),
        fps=float(fps),
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
    fps: float | int = 5,
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
        clips_per_world, num_frames, size, float(fps), tuple(styles), num_cameras, num_steps, seed
    )
    clips: list[Clip] = []
    for part in map_worlds(clips_of_world, [(world, plan) for world in worlds], num_workers):
        clips += part
    return clips


def clips_of_world(job: tuple[int, ClipPlan]) -> list[Clip]:
    """The clips that a plan asks of one world."""
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


@dataclass(frozen=True)
class EpisodePlan:
    """What to record of every world for a dataset."""

    episodes_per_world: int
    num_frames: int
    size: tuple[int, int]
    fps: float
    styles: tuple[str, ...]
    num_cameras: int
    seed: int


def collect_drive(
    out_dir: Path | str,
    *,
    num_worlds: int = 20,
    episodes_per_world: int = 4,
    num_frames: int = 40,
    size: tuple[int, int] = (96, 160),
    fps: float | int = 5,
    seed: int = 0,
    num_workers: int = 1,
    num_cameras: int = 1,
    styles: Sequence[str] = STYLES,
    overwrite: bool = False,
    report: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes a LeRobot v3.0 dataset of expert and ghost drives; the folder appears when complete.

    Beside frames, labels, actions and captions, every frame carries `ego` (x, y, heading, speed,
    acceleration, yaw rate), `command` (see `Command`) and `world`, the seed of its world, by which
    to split. Worlds are `seed`, `seed + 1`, ... The bytes of frames, labels and numbers are the
    same for any `num_workers`.

    Args:
        report: called with the number of worlds done and the total after each.

    Raises:
        ValueError: `out_dir` exists and `overwrite` is False, or a number or style is wrong.
    """
    for name, value in (("num_worlds", num_worlds), ("episodes_per_world", episodes_per_world)):
        if value < 1:
            raise ValueError(f"Expected {name} of at least 1, found {value}.")
    if num_frames < 2:
        raise ValueError(f"Expected num_frames of at least 2, found {num_frames}.")
    for style in styles:
        parse_style(style)
    plan = EpisodePlan(
        episodes_per_world, num_frames, size, float(fps), tuple(styles), num_cameras, seed
    )
    jobs = [(world, plan) for world in range(seed, seed + num_worlds)]
    views = [camera.name for camera in camera_rig(num_cameras)]
    with LeRobotWriter(
        out_dir,
        fps=fps,
        size=size,
        views=views,
        action_names=ACTION_NAMES,
        label_names=CLASSES,
        robot_type="maskworld-drive",
        overwrite=overwrite,
    ) as writer:
        for done, episodes in enumerate(map_worlds(_episodes_of_world, jobs, num_workers), 1):
            for episode in episodes:
                writer.add_episode(**episode)
            if report is not None:
                report(done, num_worlds)
    return Path(out_dir)


def _episodes_of_world(job: tuple[int, EpisodePlan]) -> list[dict[str, Any]]:
    """The arguments of `LeRobotWriter.add_episode` for each episode of a world."""
    world, plan = job
    stride = scene_stride(plan.fps)
    # Half as long again as an episode, so that they start in different places.
    scene = record_world(world, num_steps=int(1.5 * plan.num_frames * stride) + stride + 1)
    rng = np.random.default_rng([plan.seed, world, 13])
    return [
        _episode(scene, rng, plan, "expert" if i % 2 == 0 else "ghost")
        for i in range(plan.episodes_per_world)
    ]


def _episode(
    scene: Scene, rng: np.random.Generator, plan: EpisodePlan, kind: Kind
) -> dict[str, Any]:
    drive = draw_drive(scene, rng, num_frames=plan.num_frames, fps=plan.fps, kind=kind)
    style, style_seed = str(rng.choice(plan.styles)), int(rng.integers(2**31))
    frames, labels = film(
        scene,
        drive,
        style=style,
        style_seed=style_seed,
        size=plan.size,
        cameras=camera_rig(plan.num_cameras),
    )
    speed = drive.actions[:, 0]
    acceleration = np.gradient(speed) * plan.fps
    ego = np.stack([*drive.poses.T, speed, acceleration, drive.actions[:, 1]], axis=1)
    return {
        "frames": frames,
        "labels": labels,
        "actions": drive.actions.astype(np.float32),
        "caption": caption(scene, drive.poses, drive.start, style, fps=plan.fps),
        "extra": {
            "ego": ego.astype(np.float32),
            "command": np.array([scene.command(pose) for pose in drive.poses], np.int64),
            "world": np.full(plan.num_frames, scene.seed, np.int64),
        },
        "attributes": {
            "world": scene.seed,
            "scenario": scene.scenario,
            "style": style,
            "kind": kind,
            "start": drive.start,
        },
    }


def _start_worker() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def map_worlds(function: Callable[[Any], Any], jobs: list[Any], num_workers: int) -> Iterator[Any]:
    """Results in the order of the jobs; only a few wait in memory at a time."""
    if num_workers <= 1 or len(jobs) <= 1:
        yield from map(function, jobs)
        return
    num_workers = min(num_workers, len(jobs))
    # Spawned, not forked: torch's threads do not survive a fork.
    pool = ProcessPoolExecutor(num_workers, get_context("spawn"), _start_worker)
    try:
        waiting: deque[Future[Any]] = deque()
        for job in jobs:
            waiting.append(pool.submit(function, job))
            if len(waiting) > 2 * num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
