"""Moments of unseen worlds on which planners are scored: what they see, and what the score reads.

The choice is fixed by the worlds alone: moments at even distances in every log, none left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from maskworld.metrics.pdms import NUM_STATES, PDMScene, reference_plan
from maskworld.metrics.pdms.simulator import PLAN_STRIDE
from maskworld.preparation.collect import map_worlds, record_world
from maskworld.preparation.planning_clips import (
    LogFilm,
    MomentPlan,
    expert_clip,
    expert_waypoints,
    moments,
)
from maskworld.types import Clip
from maskworld.worlds.drive import Scene
from maskworld.worlds.drive.ego import to_local
from maskworld.worlds.drive.pdm_scene import pdm_scene

TURN = 0.35
"""Change of the expert's heading within 4 s that makes a turn, radians. Ours."""
BRAKE = 2.0
"""Loss of speed within 4 s that makes braking, m/s. Ours."""
SHIFT = 1.5
"""Metres to the side in 4 s that make a merge or a lane change, on fast roads. Ours."""
MANOEUVRES = ("turning", "merging", "braking")


@dataclass(frozen=True)
class PlanningScene:
    """One moment to plan from."""

    clip: Clip
    """The expert's, past and future."""
    pdm: PDMScene
    reference: Float[np.ndarray, "41 3"]
    """What PDM-Closed plans here; made once, since that takes longer than a score."""
    expert: Float[np.ndarray, "8 3"]
    """The log's next 4 s at 2 Hz in the ego frame."""
    manoeuvres: tuple[str, ...]
    """Which of `MANOEUVRES` the expert is about to do."""

    @property
    def token(self) -> str:
        """Names the moment."""
        return "" if self.clip.plan is None else self.clip.plan.token

    @property
    def closed(self) -> Float[np.ndarray, "8 3"]:
        """The plan of PDM-Closed, who knows map and traffic, at 2 Hz in the ego frame."""
        poses = self.reference[PLAN_STRIDE::PLAN_STRIDE]
        state = self.pdm.ego
        local = to_local(poses, np.array([state.x, state.y, state.heading]))
        turn = (local[:, 2] + np.pi) % (2 * np.pi) - np.pi
        return np.column_stack([local[:, :2], np.unwrap(turn)])

    @property
    def world(self) -> int:
        """Moments of one world are not independent."""
        return self.clip.episode

    def observation(self, num_past: int) -> Clip:
        """What a planner may see: frames and actions until now, ego state and command."""
        clip = self.clip
        if clip.frames is None or clip.actions is None or clip.plan is None:
            raise ValueError(f"Expected frames, actions and a plan sample in {self.token!r}.")
        return replace(
            clip,
            frames=clip.frames[:, :num_past],
            tokens=None,
            latents=None,
            labels=None,
            actions=clip.actions[:num_past],
            plan=replace(clip.plan, trajectory=None, negative=None),
        )


def collect_planning_scenes(
    worlds: Sequence[int],
    num_scenes: int,
    plan: MomentPlan,
    *,
    min_manoeuvres: float = 1 / 3,
    num_workers: int = 1,
) -> list[PlanningScene]:
    """`num_scenes` moments, spread evenly over `worlds`.

    Args:
        min_manoeuvres: share of moments at which the expert is about to turn, merge or brake.

    Raises:
        ValueError: fewer manoeuvres than that.
    """
    share = replace(plan, clips_per_world=-(-num_scenes // len(worlds)))
    found = map_worlds(planning_scenes_of_world, [(world, share) for world in worlds], num_workers)
    rounds = zip(*found, strict=True)  # the first moment of every world, then the second, ...
    scenes = [scene for of_round in rounds for scene in of_round][:num_scenes]
    rate = float(np.mean([bool(scene.manoeuvres) for scene in scenes]))
    if rate < min_manoeuvres:
        raise ValueError(
            f"Expected {min_manoeuvres:.0%} of the scenes to turn, merge or brake, found "
            f"{rate:.0%}: take other or more worlds."
        )
    return scenes


def planning_scenes_of_world(job: tuple[int, MomentPlan]) -> list[PlanningScene]:
    """`clips_per_world` moments of one world at even distances, all in one style."""
    world, plan = job
    scene = record_world(world, num_steps=plan.num_steps)
    rng = np.random.default_rng([plan.seed, world, 29])
    film = LogFilm(
        scene,
        style=str(rng.choice(plan.styles)),
        style_seed=int(rng.integers(2**31)),
        size=plan.size,
        num_cameras=plan.num_cameras,
    )
    return [planning_scene(film, step, plan) for step in _even_moments(scene, plan)]


def planning_scene(film: LogFilm, step: int, plan: MomentPlan) -> PlanningScene:
    """One moment of a filmed log."""
    pdm = pdm_scene(film.scene, step)
    return PlanningScene(
        clip=expert_clip(film, step, plan),
        pdm=pdm,
        reference=reference_plan(pdm).poses,
        expert=expert_waypoints(film.scene, step),
        manoeuvres=manoeuvres_of(film.scene, step),
    )


def manoeuvres_of(scene: Scene, step: int) -> tuple[str, ...]:
    """What the expert does in the 4 s after `step`, from its log."""
    ahead = slice(step, step + round(4 * scene.fps) + 1)
    turn = np.abs(scene.poses[ahead, 2] - scene.poses[step, 2]).max()
    loss = scene.actions[step, 0] - scene.actions[ahead, 0].min()
    aside = abs(float(expert_waypoints(scene, step)[-1, 1]))
    found = {
        "turning": turn > TURN,
        "merging": scene.stage.is_fast and aside > SHIFT,
        "braking": loss > BRAKE,
    }
    return tuple(name for name in MANOEUVRES if found[name])


def describe_scenes(scenes: Sequence[PlanningScene]) -> dict[str, object]:
    """For the protocol of a score: how many, of what, and by which rule."""
    shares = {
        name: round(float(np.mean([name in s.manoeuvres for s in scenes])), 4)
        for name in MANOEUVRES
    }
    return {
        "num_scenes": len(scenes),
        "num_worlds": len({scene.world for scene in scenes}),
        "share_of_manoeuvres": round(float(np.mean([bool(s.manoeuvres) for s in scenes])), 4),
        "shares": shares,
        "turning_rad": TURN,
        "braking_mps": BRAKE,
        "merging_m": SHIFT,
        "choice": "moments at even distances in the log of every world",
    }


def _even_moments(scene: Scene, plan: MomentPlan) -> list[int]:
    possible = moments(scene, plan)
    last = min(possible[-1], scene.num_steps - NUM_STATES)  # 5 s of traffic for the score
    if last < possible[0]:
        raise ValueError(
            f"Expected at least {possible[0] + NUM_STATES} steps, with 5 s of traffic after the "
            f"first moment, found {scene.num_steps}: record more steps."
        )
    even = np.linspace(possible[0], last, plan.clips_per_world)
    return [round(step) for step in even.tolist()]
