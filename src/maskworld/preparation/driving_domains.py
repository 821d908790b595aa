"""Sources to train on and others to test on: the driving world by towns, weather and cameras.

A domain says which roads, which season, light and weather, and which cameras; `SEEN` is trained on,
and each of `SHIFTS` changes one of the three, the last one all. Held-out worlds of `SEEN` are the
test in distribution. The split is ours; MaskGWM trains on OpenDV and nuScenes and tests on Waymo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from maskworld.data.dataset import ClipDataset
from maskworld.data.sources.video_folder import VideoFolderSource
from maskworld.data.transforms import ResizeCrop
from maskworld.data.windows import ClipIndex
from maskworld.preparation.collect import (
    SCENE_FPS,
    Kind,
    draw_drive,
    filmed_clip,
    map_worlds,
    scene_stride,
)
from maskworld.preparation.long_drives import is_under_way
from maskworld.types import Clip
from maskworld.worlds.drive import Camera, Scene, camera_rig, record_scene


@dataclass(frozen=True)
class Domain:
    """Where, in which light, and through which cameras. None = as the rig has it."""

    name: str
    scenarios: tuple[str, ...]
    styles: tuple[str, ...]
    pitch: float | None = None
    """Radians, upwards positive."""
    height: float | None = None
    """Metres."""
    fov: float | None = None
    """Horizontal, radians."""

    def cameras(self, num_cameras: int) -> tuple[Camera, ...]:
        """The rig as this domain mounts it."""
        told = {"pitch": self.pitch, "height": self.height, "fov": self.fov}
        changes: dict[str, Any] = {k: value for k, value in told.items() if value is not None}
        return tuple(replace(camera, **changes) for camera in camera_rig(num_cameras))


SEEN = Domain("seen", ("highway", "intersection", "racetrack"), ("summer", "autumn", "dusk"))
TOWNS = replace(SEEN, name="towns", scenarios=("merge", "roundabout"))
WEATHER = replace(SEEN, name="weather", styles=("night", "winter", "night rain", "winter fog"))
CAMERA = replace(SEEN, name="camera", pitch=-0.15, height=2.4, fov=float(np.deg2rad(70.0)))
"""A van's: higher, tilted down, narrower."""
EVERYTHING = replace(CAMERA, name="everything", scenarios=TOWNS.scenarios, styles=WEATHER.styles)
SHIFTS = (TOWNS, WEATHER, CAMERA, EVERYTHING)


@dataclass(frozen=True)
class DomainPlan:
    """What to film of every world of a domain."""

    domain: Domain
    clips_per_world: int = 8
    num_frames: int = 8
    size: tuple[int, int] = (72, 120)
    """Height, width."""
    fps: float = 5.0
    num_cameras: int = 1
    seed: int = 0

    @property
    def num_steps(self) -> int:
        """Of a scene: at least `collect`'s 80, and room for clips to start in different places."""
        return max(80, int(1.25 * self.num_frames * SCENE_FPS / self.fps) + 8)


def collect_domain(plan: DomainPlan, worlds: Sequence[int], *, num_workers: int = 1) -> list[Clip]:
    """Clips of the given world seeds: half expert, half ghost, in a random style of the domain.

    `Clip.episode` is the world seed. The result depends on the seeds alone.
    """
    jobs = [(world, plan) for world in worlds]
    return [clip for part in map_worlds(clips_of_domain, jobs, num_workers) for clip in part]


def clips_of_domain(job: tuple[int, DomainPlan]) -> list[Clip]:
    """The clips that a plan asks of one world."""
    world, plan = job
    scenarios = plan.domain.scenarios
    scene = record_scene(
        scenarios[world % len(scenarios)], world, num_steps=plan.num_steps, fps=SCENE_FPS
    )
    rng = np.random.default_rng([plan.seed, world, 17])
    kinds: tuple[Kind, Kind] = ("expert", "ghost")
    return [_clip(scene, rng, plan, kinds[i % 2]) for i in range(plan.clips_per_world)]


def long_drives_of_domain(job: tuple[int, DomainPlan]) -> list[Clip]:
    """One drive of the expert of the plan's length, from the first moment on; none where it ends or
    stands before that, see `long_drives.is_under_way`."""
    world, plan = job
    scenarios, stride = plan.domain.scenarios, scene_stride(plan.fps)
    scene = record_scene(
        scenarios[world % len(scenarios)],
        world,
        num_steps=stride * plan.num_frames + 1,
        fps=SCENE_FPS,
    )
    if not is_under_way(scene):
        return []
    return [_clip(scene, np.random.default_rng([plan.seed, world, 19]), plan, "expert")]


def _clip(scene: Scene, rng: np.random.Generator, plan: DomainPlan, kind: Kind) -> Clip:
    drive = draw_drive(scene, rng, num_frames=plan.num_frames, fps=plan.fps, kind=kind)
    style = str(rng.choice(plan.domain.styles))
    clip = filmed_clip(
        scene,
        drive,
        style=style,
        style_seed=int(rng.integers(2**31)),
        size=plan.size,
        fps=plan.fps,
        cameras=plan.domain.cameras(plan.num_cameras),
    )
    return replace(clip, labels=None, source=f"drive/{plan.domain.name}/{scene.scenario}")


def real_clips(
    path: Path | str,
    *,
    num_frames: int,
    size: tuple[int, int],
    fps: float | int,
    clip_stride: int | None = None,
) -> list[Clip]:
    """Windows of recorded videos as a domain of their own, without actions.

    `Clip.episode` numbers stretches as long as a window, so that overlapping windows are mostly
    drawn together.

    Args:
        clip_stride: source frames between starts; None = one frame of the clips.

    Raises:
        ValueError: videos of several frame rates, or a rate that `fps` does not divide.
    """
    source = VideoFolderSource(path)
    rate = source.fps
    if rate is None or abs(rate / fps - round(rate / fps)) > 0.02 * rate / fps:
        raise ValueError(
            f"Expected videos of one frame rate that {fps:g} divides, found "
            f"{'several' if rate is None else f'{rate:g}'}: resample them with maskworld data."
        )
    stride = round(rate / fps)
    index = ClipIndex(source, num_frames, stride, clip_stride or stride)
    dataset = ClipDataset(source, index, [ResizeCrop(size)])
    clips = [dataset[i] for i in range(len(dataset))]
    return [
        replace(clip, episode=clip.episode * 1_000_000 + clip.start // index.span) for clip in clips
    ]
