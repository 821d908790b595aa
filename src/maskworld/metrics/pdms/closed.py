"""PDM-Closed, the reference planner of the PDM score: 15 proposals along the route, the best wins.

Three paths (the centreline, 1 m to its right, 1 m to its left) times five target speeds. Each
proposal follows the leader of its path by the intelligent driver model (IDM) among tracks that are
forecast straight on; all are simulated and scored against the same forecast.

Reference: Dauner et al., Parting with Misconceptions about Learning-based Vehicle Motion Planning
(2023), section 4; IDM: Treiber et al., Congested traffic states (2000). Numbers and quirks are
those of the code released with NAVSIM v1.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from maskworld.metrics.pdms.closed_leader import LeaderSearch, prepare_search
from maskworld.metrics.pdms.closed_paths import offset_paths
from maskworld.metrics.pdms.forecast import HOLD, forecast_tracks
from maskworld.metrics.pdms.scene import NUM_STATES, PDMScene
from maskworld.metrics.pdms.scorer import score_states
from maskworld.metrics.pdms.simulator import DT, NUM_TICKS, simulate
from maskworld.metrics.pdms.vehicle import box_centre

FRACTIONS = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Target speeds over the speed limit."""
UNKNOWN_LIMIT = 15.0
"""m/s, where the map knows no speed limit."""
CORRIDOR_SECONDS = 5.0
"""At the highest target speed: how far ahead of the start a leader is looked for."""
MIN_GAP, HEADWAY = 1.0, 1.5
"""m and s of the IDM."""
ACCELERATION, DECELERATION, EXPONENT = 1.5, 3.0, 10
"""m/s^2, comfortable; exponent of the free road term."""


@dataclass(frozen=True)
class ClosedPlan:
    """The winner."""

    poses: Float[np.ndarray, "51 3"]
    """Global x, y, heading (unwrapped) of the rear axle every 0.1 s, on the path: what is planned,
    not what is driven. The first 41 are the reference trajectory of the PDM score."""
    index: int
    """5 * path + policy."""
    scores: Float[np.ndarray, " 15"]
    """PDM score of each proposal against the forecast."""


def idm_acceleration(
    progress: Float[np.ndarray, "*n"],
    speed: Float[np.ndarray, "*n"],
    target_speed: Float[np.ndarray, "*n"],
    leaders: Float[np.ndarray, "*n 3"],
) -> Float[np.ndarray, "*n"]:
    """m/s^2 behind a leader: its position, its speed, its length at the rear.

    Reference: Treiber et al. (2000), desired gap and acceleration of the IDM; here the gap is at
    least 1 m and the result is clipped to [-3, 1.5].
    """
    approach = speed * (speed - leaders[..., 1]) / (2 * np.sqrt(ACCELERATION * DECELERATION))
    wanted = MIN_GAP + HEADWAY * speed + approach
    gap = np.maximum(leaders[..., 0] - progress - leaders[..., 2], MIN_GAP)
    free = (speed / target_speed) ** EXPONENT
    acceleration = ACCELERATION * (1 - free - (wanted / gap) ** 2)
    return np.minimum(np.maximum(acceleration, -DECELERATION), ACCELERATION)


@dataclass
class RollOut:
    """Proposals side by side, those of one path together, rolled out tick by tick."""

    search: LeaderSearch
    path_index: Int[np.ndarray, " p"]
    target_speeds: Float[np.ndarray, " p"]
    progress: Float[np.ndarray, "p t"]
    """m along the path at every tick so far."""
    speeds: Float[np.ndarray, " p"]
    leaders: Float[np.ndarray, "p 3"]
    """Of the latest search. At first all zeros: a gap of 1 m, so a moving ego brakes."""

    def advance(self, num_ticks: int) -> None:
        """Rolls on: explicit Euler, a new leader at every even tick."""
        first = self.progress.shape[1]
        grown = np.empty((len(self.progress), first + num_ticks))
        grown[:, :first] = self.progress
        for tick in range(first, first + num_ticks):
            now = grown[:, tick - 1]
            if tick % HOLD == 0:
                self.leaders = self.search.leaders(tick, self.path_index, now)
            acceleration = idm_acceleration(now, self.speeds, self.target_speeds, self.leaders)
            grown[:, tick] = now + DT * self.speeds
            self.speeds = self.speeds + DT * acceleration
        self.progress = grown

    def only(self, row: int) -> RollOut:
        """The roll-out of one proposal alone."""
        keep = slice(row, row + 1)
        return RollOut(
            search=self.search,
            path_index=self.path_index[keep],
            target_speeds=self.target_speeds[keep],
            progress=self.progress[keep],
            speeds=self.speeds[keep],
            leaders=self.leaders[keep],
        )

    def poses(self) -> Float[np.ndarray, "p t 3"]:
        """Global x, y, heading at every tick so far."""
        index = np.broadcast_to(self.path_index[:, None], self.progress.shape)
        return self.search.paths.poses_at(index, self.progress)


def plan_closed(scene: PDMScene) -> ClosedPlan:
    """Plans along the scene's centreline as PDM-Closed does. `scene.reference` is not read.

    Raises:
        ValueError: the centreline has no length.
    """
    roll_out = start_proposals(scene)
    roll_out.advance(NUM_TICKS - 1)
    search = roll_out.search
    poses = roll_out.poses()
    states = simulate(poses, np.broadcast_to(scene.ego.state, (len(poses), 11)))
    tracks = search.forecast.tracks(search.is_in_contact)
    sub_scores = score_states(states, scene.road, scene.line, tracks)
    scores = sub_scores.pdms(sub_scores.pooled_progress())
    index = int(scores.argmax())
    winner = roll_out.only(index)  # nobody is left to share its leader record with
    winner.advance(NUM_STATES - NUM_TICKS)
    return ClosedPlan(winner.poses()[0], index, scores)


def start_proposals(scene: PDMScene) -> RollOut:
    """The 15 proposals of a scene at t = 0, before their first tick."""
    ego = scene.ego
    pose = ego.state[:3]
    limit = UNKNOWN_LIMIT if scene.speed_limit is None else scene.speed_limit
    paths = offset_paths(scene.centerline)
    start = paths.start(pose[:2])
    forecast = forecast_tracks(scene.agents, box_centre(pose))
    targets = limit * np.array(FRACTIONS)
    search = prepare_search(paths, start, CORRIDOR_SECONDS * float(targets.max()), forecast, pose)
    num_proposals = len(paths) * len(targets)
    return RollOut(
        search=search,
        path_index=np.repeat(np.arange(len(paths)), len(targets)),
        target_speeds=np.tile(targets, len(paths)),
        progress=np.repeat(start, len(targets))[:, None],
        speeds=np.full(num_proposals, ego.vx),
        leaders=np.zeros((num_proposals, 3)),
    )
