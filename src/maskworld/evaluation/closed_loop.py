"""Planners at the wheel of the stepping world: traffic reacts, and they plan again and again.

The expert drives until there is a past to see. From then on the planner is asked every half second
what to do next, and the tracker and bicycle of the PDM score drive after its plan. Once the ego has
hit something it stands still, and the world goes on to the end of the drive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, UInt8

from maskworld.evaluation.planning import KEYS
from maskworld.evaluation.results import Results
from maskworld.interfaces import Planner
from maskworld.metrics.intervals import bootstrap_interval, success_rate
from maskworld.metrics.pdms import NUM_STATES, reference_plan, score_states, simulate, track
from maskworld.metrics.pdms.simulator import NUM_TICKS
from maskworld.metrics.scores import ClipScores
from maskworld.preparation.collect import SCENE_FPS, scenario_of
from maskworld.preparation.planning_clips import MomentPlan, frame_steps, log_actions, make_clip
from maskworld.types import Clip, collate
from maskworld.worlds.drive import DriveWorld, Scene, actions_of
from maskworld.worlds.drive.pdm_scene import ego_of, pdm_scene

RATES = ("success", "collision", "off_road")


@dataclass(frozen=True)
class ClosedLoopConfig:
    """How long, and how often a new plan. Numbers are ours, but for the 4 s of a score."""

    num_windows: int = 2
    """Windows of 4 s that are scored; the drive lasts a second longer for the traffic."""
    replan_every: int = 5
    """Steps of 0.1 s between plans."""
    seen: MomentPlan = field(default_factory=lambda: MomentPlan(num_future=0))
    """Frames, size, rate and styles of what the planner sees."""
    min_progress: float = 0.5
    """A success comes this far, as a share of the expert's way in the same world."""

    @property
    def num_steps(self) -> int:
        """Steps that the planner drives."""
        return self.num_windows * (NUM_TICKS - 1) + NUM_STATES - NUM_TICKS


@dataclass(frozen=True)
class DriveRecord:
    """What happened in one world."""

    log: Scene
    """The ego that was driven, and the traffic that reacted to it."""
    start: int
    """Step at which the planner took over."""
    collision: int | None
    """Step of the first contact since then, whoever is at fault."""
    off_road: int | None
    """Step at which the rear axle first left the asphalt, or the painted part of the world."""
    progress: float
    """Metres along the route since then."""
    num_bad_plans: int = 0
    """Plans that were not finite; the car is asked to stand still instead."""


def drive(
    planner: Planner | None,
    worlds: Sequence[int],
    config: ClosedLoopConfig,
    generator: torch.Generator,
    *,
    device: torch.device | str = "cpu",
) -> list[DriveRecord]:
    """Drives every world once, all side by side so that plans are made in batches.

    Args:
        planner: None is the world's own expert, who acts at every step and sees everything.
        device: where the planner is given its batches.
    """
    drives = [_Drive(world, config) for world in worlds]
    for _ in range(0, config.num_steps, config.replan_every):
        if planner is not None:
            batch = collate([each.observation() for each in drives]).to(device)
            with torch.no_grad():
                plans = planner.plan(batch, generator).cpu().double().numpy()
            for each, plan in zip(drives, plans, strict=True):
                each.follow(plan)
        for each in drives:
            each.advance(is_expert=planner is None)
    return [each.record() for each in drives]


def realised_scores(record: DriveRecord, config: ClosedLoopConfig) -> dict[str, float]:
    """The PDM score of what was driven among the traffic that reacted, a mean over the windows.

    Nothing is simulated but the reference: PDM-Closed from the same moment, among the same traffic.
    """
    windows: list[list[float]] = []
    for window in range(config.num_windows):
        first = record.start + window * (NUM_TICKS - 1)
        pdm = pdm_scene(record.log, first)
        driven = _states(record.log, first)
        reference = simulate(reference_plan(pdm).poses[None], pdm.ego.state[None])
        states = np.concatenate([driven[None], reference])
        scores = score_states(states, pdm.road, pdm.line, pdm.tracks)
        ep = scores.ego_progress(np.full(2, scores.progress.max()))
        values = {**vars(scores), "ep": ep, "pdms": scores.pdms(ep)}
        windows.append([float(values[key][0]) for key in KEYS])
    return dict(zip(KEYS, np.mean(windows, axis=0).tolist(), strict=True))


def add_closed_loop(
    results: Results,
    records: Mapping[str, Sequence[DriveRecord]],
    config: ClosedLoopConfig,
    *,
    seed: int = 0,
) -> None:
    """Adds "closed_loop/..." for the records of "model", those of the others beside it.

    success: no contact, never off the road, and a share of the expert's way; collision; off_road;
    progress in metres; and the realised PDM score with its parts. "expert" must be among the
    records.

    Raises:
        ValueError: no records of the model or the expert, or drives in other worlds.
    """
    for name in ("model", "expert"):
        if name not in records:
            raise ValueError(f"Expected records of {name!r}, found {sorted(records)}.")
    worlds = {name: [r.log.seed for r in each] for name, each in records.items()}
    if any(each != worlds["model"] for each in worlds.values()):
        raise ValueError(f"Expected drives in the same worlds, found {worlds}.")
    table = {name: _table(each, records["expert"], config) for name, each in records.items()}
    others = [name for name in records if name != "model"]
    for key, values in table["model"].items():
        scores = ClipScores(values[:, None], np.ones((len(values), 1)))
        is_rate = key in RATES
        interval = (
            success_rate(values > 0)[1]
            if is_rate
            else bootstrap_interval(scores, np.random.default_rng(seed))
        )
        results.add(
            f"closed_loop/{key}",
            model=scores.mean,
            interval=interval,
            n=len(values),
            better="lower" if key in ("collision", "off_road") else "higher",
            baselines={other: float(table[other][key].mean()) for other in others},
        )
    results.protocol["closed_loop"] = {
        "num_worlds": len(worlds["model"]),
        "seconds": config.num_steps / SCENE_FPS,
        "replan_every_seconds": config.replan_every / SCENE_FPS,
        "windows_of_4_s": config.num_windows,
        "success_min_share_of_expert_progress": config.min_progress,
        "bad_plans": {name: sum(r.num_bad_plans for r in each) for name, each in records.items()},
    }


class _Drive:
    """One world with its log so far."""

    def __init__(self, world: int, config: ClosedLoopConfig) -> None:
        self.config, seen = config, config.seen
        warm_up = seen.num_past * seen.stride
        total = warm_up + config.num_steps
        self.env = DriveWorld(
            size=seen.size,
            num_cameras=seen.num_cameras,
            fps=SCENE_FPS,
            max_steps=total,
            has_plan=False,
        )
        self.style = str(np.random.default_rng([seen.seed, world, 31]).choice(seen.styles))
        options = {"scenario": scenario_of(world), "world": world, "style": self.style}
        observation, _ = self.env.reset(options=options)
        self.frames: list[UInt8[np.ndarray, "v c h w"]] = []
        self.poses: list[Float[np.ndarray, " 3"]] = []
        self.actions: list[Float[np.ndarray, " 2"]] = []
        self.agents: list[Float[np.ndarray, "n 6"]] = []
        self._keep(observation, np.array([self.env.ego.speed, 0.0]))
        self.start = warm_up
        self.collision: int | None = None
        self.off_road: int | None = None
        self.progress = 0.0
        self.num_bad_plans = 0
        self._queue: list[Float[np.ndarray, " 2"]] = []
        for _ in range(warm_up):
            self._step(self.env.expert_action())

    def observation(self) -> Clip:
        """What the planner may see now: nothing of it lies ahead."""
        seen, now = self.config.seen, len(self.poses) - 1
        steps = frame_steps(now, seen)[: seen.num_past]
        scene = self._scene()
        frames = np.stack([self.frames[step] for step in steps], axis=1)
        actions = log_actions(scene, steps, seen)
        return make_clip(scene, frames, actions, now, seen, self.style, is_expert=False)

    def follow(self, plan: Float[np.ndarray, "8 3"]) -> None:
        """Takes the actions with which tracker and bicycle follow a plan until the next one."""
        if not np.isfinite(plan).all():
            self.num_bad_plans += 1
            plan = np.zeros((8, 3))
        state = self.env.ego
        ego = ego_of(self.env.pose, state.speed, state.acceleration, state.yaw_rate)
        states = simulate(track(plan[None], ego), ego.state[None])[0]
        headings = np.unwrap(states[:, 2])
        poses = np.column_stack([states[:, :2], headings])
        self._queue = list(actions_of(poses, SCENE_FPS)[: self.config.replan_every])

    def advance(self, *, is_expert: bool) -> None:
        """Drives until the next plan, or the end."""
        left = self.start + self.config.num_steps - (len(self.poses) - 1)
        for i in range(min(self.config.replan_every, left)):
            if self.collision is not None:
                self._step(np.zeros(2))
            else:
                self._step(self.env.expert_action() if is_expert else self._queue[i])

    def record(self) -> DriveRecord:
        """What happened so far."""
        return DriveRecord(
            log=self._scene(),
            start=self.start,
            collision=self.collision,
            off_road=self.off_road,
            progress=self.progress,
            num_bad_plans=self.num_bad_plans,
        )

    def _step(self, action: Float[np.ndarray, " 2"]) -> None:
        observation, progress, has_collided, _, info = self.env.step(action)
        self._keep(observation, np.array([self.env.ego.speed, self.env.ego.yaw_rate]))
        now = len(self.poses) - 1
        if now <= self.start:
            return
        self.progress += progress
        if has_collided and self.collision is None:
            self.collision = now
        if not info["is_on_road"] and self.off_road is None:
            self.off_road = now

    def _keep(self, observation: Mapping[str, np.ndarray], action: np.ndarray) -> None:
        self.frames.append(np.moveaxis(observation["rgb"], -1, 1))
        self.poses.append(self.env.pose)
        self.actions.append(action)
        self.agents.append(self.env.traffic.agents)

    def _scene(self) -> Scene:
        return Scene(
            self.env.stage,
            SCENE_FPS,
            np.stack(self.agents),
            self.env.traffic.kinds,
            np.stack(self.poses),
            np.stack(self.actions),
        )


def _states(log: Scene, first: int) -> Float[np.ndarray, "41 11"]:
    """What was driven, as the states that the score reads."""
    rows = slice(first, first + NUM_TICKS)
    states = np.zeros((NUM_TICKS, 11))
    states[:, :3] = log.poses[rows]
    states[:, 3], states[:, 9] = log.actions[rows].T
    before = log.actions[first - 1 : first + NUM_TICKS - 1]
    states[:, 5] = (states[:, 3] - before[:, 0]) * log.fps
    states[:, 10] = (states[:, 9] - before[:, 1]) * log.fps
    return states


def _table(
    records: Sequence[DriveRecord], expert: Sequence[DriveRecord], config: ClosedLoopConfig
) -> dict[str, Float[np.ndarray, " n"]]:
    """Every number of every drive."""
    collision = np.array([r.collision is not None for r in records], dtype=float)
    off_road = np.array([r.off_road is not None for r in records], dtype=float)
    progress = np.array([r.progress for r in records])
    wanted = config.min_progress * np.array([r.progress for r in expert])
    success = (collision == 0) & (off_road == 0) & (progress >= wanted)
    realised = [realised_scores(record, config) for record in records]
    return {
        "success": success.astype(float),
        "collision": collision,
        "off_road": off_road,
        "progress": progress,
        **{key: np.array([each[key] for each in realised]) for key in KEYS},
    }
