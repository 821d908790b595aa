"""Clips of the driving world for planners: a past, a moment called now, and a future.

All clips of a world drive its log until now. What follows is the log ("expert") or a ghost that
starts from the same pose. So they share frames: the log is filmed once per style, and windows are
cut out of it. What comes out depends on the seeds alone, never on the number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8

from maskworld.preparation.collect import Kind, map_worlds, record_world, scene_stride
from maskworld.types import Clip, PlanSample
from maskworld.worlds.drive import (
    STYLES,
    Scene,
    camera_rig,
    caption,
    counterfactual_actions,
    ghost_actions,
    rollout_poses,
)
from maskworld.worlds.drive.ego import actions_of, to_local

NUM_WAYPOINTS = 8
INTERVAL = 0.5
"""Plans of NAVSIM: 8 poses at 2 Hz, 4 s."""


@dataclass(frozen=True)
class MomentPlan:
    """What to film of every world, around the moments called now."""

    clips_per_world: int = 16
    num_past: int = 9
    """Frames until now, which is the last of them."""
    num_future: int = 8
    """Frames after now."""
    size: tuple[int, int] = (64, 96)
    """Height, width."""
    fps: float = 5.0
    styles: tuple[str, ...] = STYLES
    styles_per_world: int = 1
    """The log of a world is filmed this many times."""
    kinds: tuple[Kind, ...] = ("expert", "ghost")
    """They take turns. Experts alone cost little more frames and are what a planner imitates."""
    num_cameras: int = 1
    num_steps: int = 110
    """Moments of the recording, 10 per second."""
    seed: int = 0

    @property
    def stride(self) -> int:
        """Steps of the recording per frame."""
        return scene_stride(self.fps)


def collect_planning_clips(
    worlds: Sequence[int],
    clips_per_world: int,
    *,
    num_past: int = 9,
    num_future: int = 8,
    size: tuple[int, int] = (64, 96),
    fps: float | int = 5,
    styles: Sequence[str] = STYLES,
    styles_per_world: int = 1,
    kinds: Sequence[Kind] = ("expert", "ghost"),
    num_cameras: int = 1,
    num_steps: int = 110,
    seed: int = 0,
    num_workers: int = 1,
) -> list[Clip]:
    """Clips with plans in memory, the `kinds` in turn, `clips_per_world` of every world.

    `Clip.plan` holds ego state, command and, for experts, the next 4 s; a ghost's future is not
    to be imitated. `Clip.caption` tells of the past alone. `Clip.episode` is the world seed.

    Raises:
        ValueError: the recording is too short for the clips, or `fps` does not divide 10 Hz.
    """
    plan = MomentPlan(
        clips_per_world,
        num_past,
        num_future,
        size,
        float(fps),
        tuple(styles),
        styles_per_world,
        tuple(kinds),
        num_cameras,
        num_steps,
        seed,
    )
    jobs = [(world, plan) for world in worlds]
    found = map_worlds(planning_clips_of_world, jobs, num_workers)
    return [clip for clips in found for clip in clips]


def collect_planning_pairs(
    worlds: Sequence[int], num_pairs: int, plan: MomentPlan, *, num_workers: int = 1
) -> tuple[list[Clip], list[Clip]]:
    """`num_pairs` left turns and their right twins, spread evenly over `worlds`.

    Both clips of a pair share the past and the frame at now, bit for bit.
    """
    share = replace(plan, clips_per_world=-(-num_pairs // len(worlds)))
    found = map_worlds(planning_pairs_of_world, [(world, share) for world in worlds], num_workers)
    pairs = [pair for of_world in found for pair in of_world][:num_pairs]
    return [left for left, _ in pairs], [right for _, right in pairs]


class LogFilm:
    """The log of a recorded world in one style; every frame of it is rendered only once."""

    def __init__(
        self,
        scene: Scene,
        *,
        style: str,
        style_seed: int,
        size: tuple[int, int],
        num_cameras: int = 1,
    ) -> None:
        self.scene, self.style, self.size = scene, style, size
        self._appearance = scene.appearance(style, style_seed)
        self._rig = camera_rig(num_cameras)
        self._frames: dict[int, UInt8[np.ndarray, "v c h w"]] = {}

    def log(self, steps: Sequence[int]) -> UInt8[np.ndarray, "v n c h w"]:
        """What the expert saw at each of `steps`."""
        for step in steps:
            if step not in self._frames:
                self._frames[step] = self._render(self.scene.poses[step], step)
        return np.stack([self._frames[step] for step in steps], axis=1)

    def elsewhere(
        self, poses: Float[np.ndarray, "n 3"], steps: Sequence[int]
    ) -> UInt8[np.ndarray, "v n c h w"]:
        """What is seen from other poses than the expert's at each of `steps`."""
        shots = [self._render(pose, step) for pose, step in zip(poses, steps, strict=True)]
        return np.stack(shots, axis=1)

    def _render(self, pose: Float[np.ndarray, " 3"], step: int) -> UInt8[np.ndarray, "v c h w"]:
        rgb, _ = self.scene.render(
            pose, step, style=self._appearance, size=self.size, cameras=self._rig
        )
        return np.moveaxis(rgb, -1, 1)


def planning_clips_of_world(job: tuple[int, MomentPlan]) -> list[Clip]:
    """The clips that a plan asks of one world."""
    world, plan = job
    return film_clips(record_world(world, num_steps=plan.num_steps), plan)[0]


def film_clips(scene: Scene, plan: MomentPlan) -> tuple[list[Clip], list[LogFilm]]:
    """The clips that a plan asks of a recorded world, and the films they were cut from."""
    rng = np.random.default_rng([plan.seed, scene.seed, 19])
    films = _films(scene, plan, rng)
    turns = len(plan.kinds)
    share = -(-plan.clips_per_world // turns)
    nows = [_draw_moments(scene, plan, share, rng) for _ in plan.kinds]
    clips = []
    for i in range(plan.clips_per_world):
        kind = plan.kinds[i % turns]
        now = nows[i % turns][i // turns]
        film = films[i // turns % len(films)]
        if kind == "expert":
            clips.append(expert_clip(film, now, plan))
        else:
            drawn = ghost_actions(rng, scene, plan.num_future + 1, start_step=now, fps=plan.fps)
            clips.append(_departing_clip(film, now, plan, drawn[1:]))
    return clips, films


def planning_pairs_of_world(job: tuple[int, MomentPlan]) -> list[tuple[Clip, Clip]]:
    """The left turns of one world and their right twins, `clips_per_world` of them."""
    world, plan = job
    scene = record_world(world, num_steps=plan.num_steps)
    rng = np.random.default_rng([plan.seed, world, 23])
    films = _films(scene, plan, rng)
    pairs = []
    for i, now in enumerate(_draw_moments(scene, plan, plan.clips_per_world, rng)):
        film = films[i % len(films)]
        left, right = counterfactual_actions(scene, now, plan.num_future + 1, fps=plan.fps)
        pairs.append(
            (
                _departing_clip(film, now, plan, left[1:]),
                _departing_clip(film, now, plan, right[1:]),
            )
        )
    return pairs


def moments(scene: Scene, plan: MomentPlan) -> range:
    """The steps that can be now: with a whole past, whole future frames and 4 s to plan for.

    Raises:
        ValueError: there is none.
    """
    stride = plan.stride
    first = plan.num_past * stride  # the first frame has a step before it, its action
    after = max(plan.num_future * stride, NUM_WAYPOINTS * round(INTERVAL * scene.fps))
    last = scene.num_steps - 1 - after
    if plan.num_past < 1 or plan.num_future < 0:
        raise ValueError(
            "Expected num_past of at least 1 and num_future of at least 0, found "
            f"{plan.num_past} and {plan.num_future}."
        )
    if last < first:
        raise ValueError(
            f"Expected at least {first + after + 1} steps for {plan.num_past} past and "
            f"{plan.num_future} future frames at {plan.fps:g} Hz and a plan of 4 s, found "
            f"{scene.num_steps}: record more steps."
        )
    return range(first, last + 1)


def plan_sample(scene: Scene, step: int, *, is_expert: bool) -> PlanSample:
    """What a planner is given at a step of the log, and for experts what it is asked."""
    state = scene.ego_state(step)
    lateral = state.speed * state.yaw_rate
    ego = torch.tensor([state.speed, 0.0, state.acceleration, lateral], dtype=torch.float32)
    return PlanSample(
        ego=ego,
        command=int(scene.command(scene.poses[step])),
        trajectory=torch.from_numpy(expert_waypoints(scene, step)).float() if is_expert else None,
        token=f"drive/{scene.scenario}/{scene.seed}/{step}",
    )


def expert_waypoints(scene: Scene, step: int) -> Float[np.ndarray, "8 3"]:
    """The next 4 s of the log at 2 Hz: x, y, heading in the ego frame at `step`.

    Raises:
        ValueError: the log ends before.
    """
    steps = step + round(INTERVAL * scene.fps) * np.arange(1, NUM_WAYPOINTS + 1)
    if steps[-1] >= scene.num_steps:
        raise ValueError(
            f"Expected a log of more than {steps[-1]} steps for a plan from step {step}, found "
            f"{scene.num_steps}: record more steps or plan earlier."
        )
    return to_local(scene.poses[steps], scene.poses[step])


def expert_clip(film: LogFilm, now: int, plan: MomentPlan) -> Clip:
    """A window of the log around now."""
    steps = frame_steps(now, plan)
    actions = log_actions(film.scene, steps, plan)
    return make_clip(film.scene, film.log(steps), actions, now, plan, film.style, is_expert=True)


def _departing_clip(
    film: LogFilm, now: int, plan: MomentPlan, actions: Float[np.ndarray, "t 2"]
) -> Clip:
    """The log until now, then wherever `actions` lead; its plan has no trajectory."""
    steps = frame_steps(now, plan)
    past, future = steps[: plan.num_past], steps[plan.num_past :]
    frames, rows = [film.log(past)], [log_actions(film.scene, past, plan)]
    if future:
        poses = rollout_poses(film.scene.poses[now], actions, plan.fps)
        frames.append(film.elsewhere(poses[1:], future))
        rows.append(actions)
    return make_clip(
        film.scene,
        np.concatenate(frames, axis=1),
        np.concatenate(rows),
        now,
        plan,
        film.style,
        is_expert=False,
    )


def make_clip(
    scene: Scene,
    frames: UInt8[np.ndarray, "v t c h w"],
    actions: Float[np.ndarray, "t 2"],
    now: int,
    plan: MomentPlan,
    style: str,
    *,
    is_expert: bool,
) -> Clip:
    """A clip around step `now` of a log, the first `plan.num_past` frames being those until now."""
    stride = plan.stride
    before = now - plan.num_past * stride
    # From the poses until now, so that no planner reads its future in the caption.
    past = scene.poses[before : now + 1 : stride]
    return Clip(
        frames=torch.from_numpy(np.ascontiguousarray(frames)),
        actions=torch.from_numpy(actions.astype(np.float32)),
        plan=plan_sample(scene, now, is_expert=is_expert),
        caption=caption(scene, past, before, style, fps=plan.fps),
        fps=plan.fps,
        source=f"drive/{scene.scenario}",
        episode=scene.seed,
        start=before + stride,
    )


def _films(scene: Scene, plan: MomentPlan, rng: np.random.Generator) -> list[LogFilm]:
    return [
        LogFilm(
            scene,
            style=str(rng.choice(plan.styles)),
            style_seed=int(rng.integers(2**31)),
            size=plan.size,
            num_cameras=plan.num_cameras,
        )
        for _ in range(plan.styles_per_world)
    ]


def _draw_moments(
    scene: Scene, plan: MomentPlan, count: int, rng: np.random.Generator
) -> list[int]:
    """Different moments a whole number of frames apart, so that their windows share frames."""
    found = np.array(moments(scene, plan))
    found = found[:: plan.stride]
    if count > len(found):
        raise ValueError(
            f"Expected at most {len(found)} clips of a kind from {scene.num_steps} steps, found "
            f"{count}: record more steps or ask for fewer clips of a world."
        )
    return [int(step) for step in rng.permutation(found)[:count]]


def frame_steps(now: int, plan: MomentPlan) -> list[int]:
    """The steps of the log of a clip's frames; `plan.num_past` of them until now."""
    return [now + i * plan.stride for i in range(1 - plan.num_past, plan.num_future + 1)]


def log_actions(scene: Scene, steps: Sequence[int], plan: MomentPlan) -> Float[np.ndarray, "t 2"]:
    """Speed and yaw rate in the log's step into each frame, averaged over the frame's time."""
    return actions_of(scene.poses[[steps[0] - plan.stride, *steps]], plan.fps)
