"""The sub-scores of simulated plans, and how they become one number.

PDMS = NC * DAC * (5 EP + 5 TTC + 2 C + 0 DDC) / 12.
Reference: Dauner et al., NAVSIM (2024), Eq. 1; details of its version 1.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from maskworld.metrics.pdms.collisions import collision_scores
from maskworld.metrics.pdms.comfort import comfort_terms
from maskworld.metrics.pdms.geometry import Line
from maskworld.metrics.pdms.roads import RoadMap
from maskworld.metrics.pdms.simulator import States
from maskworld.metrics.pdms.tracks import Tracks
from maskworld.metrics.pdms.vehicle import box_centre, box_corners

# Of NAVSIM.
W_PROGRESS, W_TTC, W_COMFORT, W_DIRECTION = 5.0, 5.0, 2.0, 0.0
MIN_PROGRESS = 5.0
"""Metres; where nobody comes further, progress is not asked for."""
WRONG_WAY_WINDOW = 11
"""Increments (of 0.1 s) that are added up while the car is on no lane of its route."""
WRONG_WAY_COMPLIANT, WRONG_WAY_LIMIT = 2.0, 6.0
"""Metres in a window: below the first 1, below the second 0.5, else 0."""

PerPlan = Float[np.ndarray, " p"]


@dataclass(frozen=True)
class StateScores:
    """Sub-scores of simulated plans, each on its own: all but the comparison of progress.

    Attributes:
        nc: no collisions at fault, 0, 0.5 or 1. dac: drivable-area compliance, 0 or 1. ttc: time to
            collision within bounds, 0 or 1. comfort: 0 or 1. ddc: driving direction, 0, 0.5 or 1.
        progress_raw: metres along the centreline, at least 0.
        comfort_terms: which of `comfort.COMFORT_TERMS` are kept.
        time_to_collision_tick: tick of the first contact at fault, -1 if there is none.
    """

    nc: PerPlan
    dac: PerPlan
    ttc: PerPlan
    comfort: PerPlan
    ddc: PerPlan
    progress_raw: PerPlan
    comfort_terms: Bool[np.ndarray, "p 6"]
    time_to_collision_tick: Int[np.ndarray, " p"]

    @property
    def progress(self) -> PerPlan:
        """Progress of plans without collision and off-road driving (half with half the NC)."""
        return self.progress_raw * self.nc * self.dac

    def ego_progress(self, best: PerPlan) -> PerPlan:
        """EP, 0 to 1: progress in units of `best`, the longest among those compared (m)."""
        is_asked = best > MIN_PROGRESS
        relative = self.progress / np.where(is_asked, best, 1.0)
        return np.where(is_asked, relative, (self.nc * self.dac > 0).astype(float))

    def pooled_progress(self) -> PerPlan:
        """EP with all plans of this object compared among each other."""
        return self.ego_progress(np.full(len(self.nc), self.progress.max(initial=0.0)))

    def pdms(self, ep: PerPlan) -> PerPlan:
        """The PDM score, 0 to 1, given EP. Reference: NAVSIM, Eq. 1."""
        weighted = W_PROGRESS * ep + W_TTC * self.ttc + W_COMFORT * self.comfort
        weighted += W_DIRECTION * self.ddc
        return self.nc * self.dac * weighted / (W_PROGRESS + W_TTC + W_COMFORT + W_DIRECTION)

    def __getitem__(self, rows: slice | Int[np.ndarray, " q"]) -> StateScores:
        """The scores of some of the plans."""
        return StateScores(**{name: value[rows] for name, value in vars(self).items()})


def score_states(states: States, road: RoadMap, line: Line, tracks: Tracks) -> StateScores:
    """Scores simulated plans of one scene: `scene.road`, `scene.line`, `scene.tracks`, or a
    forecast instead of the tracks that were recorded."""
    is_off_road = off_road(states, road)
    collisions = collision_scores(states, tracks, road, is_off_road)
    centres = box_centre(states)
    terms = comfort_terms(states)
    return StateScores(
        nc=collisions.nc,
        dac=(~is_off_road.any(axis=1)).astype(float),
        ttc=collisions.ttc,
        comfort=terms.all(axis=1).astype(float),
        ddc=driving_direction(centres, road),
        progress_raw=progress(centres, line),
        comfort_terms=terms,
        time_to_collision_tick=collisions.time_to_collision_tick,
    )


def off_road(states: States, road: RoadMap) -> Bool[np.ndarray, "p 41"]:
    """When a corner of the car is in no drivable area."""
    corners = box_corners(states)
    is_on_road = road.in_drivable_area(corners.reshape(-1, 2)).reshape(corners.shape[:-1])
    return np.logical_not(is_on_road.all(axis=-1))


def progress(centres: Float[np.ndarray, "p 41 2"], line: Line) -> PerPlan:
    """Metres along the line from the first to the last centre of the car, at least 0."""
    first_and_last = line.project(centres[:, [0, -1]].reshape(-1, 2)).reshape(-1, 2)
    return np.maximum(first_and_last[:, 1] - first_and_last[:, 0], 0.0)


def driving_direction(centres: Float[np.ndarray, "p 41 2"], road: RoadMap) -> PerPlan:
    """1, 0.5 or 0 by the longest way in about a second with the centre on no lane of the route."""
    steps = np.diff(centres, axis=1, prepend=centres[:, :1])
    way = np.hypot(steps[..., 0], steps[..., 1])
    on_route = road.in_route_lane(centres.reshape(-1, 2)).reshape(way.shape)
    total = np.cumsum(np.where(on_route, 0.0, way), axis=1)
    total = np.pad(total, ((0, 0), (WRONG_WAY_WINDOW, 0)))
    longest = (total[:, WRONG_WAY_WINDOW:] - total[:, :-WRONG_WAY_WINDOW]).max(axis=1)
    return np.where(
        longest < WRONG_WAY_COMPLIANT, 1.0, np.where(longest < WRONG_WAY_LIMIT, 0.5, 0.0)
    )
