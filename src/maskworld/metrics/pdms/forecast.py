"""Where PDM-Closed expects the recorded tracks to be: straight on, at their present speed.

Reference: Dauner et al., Parting with Misconceptions about Learning-based Vehicle Motion Planning
(2023), section 4; radius, limits and the hold are those of the code released with NAVSIM v1.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from maskworld.metrics.pdms.scene import AGENT_TYPES, NUM_STATES, Agent
from maskworld.metrics.pdms.tracks import Tracks

RADIUS = 100.0
"""m between the centres of the car and of the tracks that are looked at."""
NEAREST = {"static": 50, "vehicle": 50, "pedestrian": 25, "bicycle": 10}
"""How many tracks of each group are kept, in the order in which the groups are searched."""
HOLD = 2
"""Ticks for which a forecast stands still."""
HOLD_SECONDS = 0.2
NUM_HOLDS = (NUM_STATES - 1) // HOLD + 1


@dataclass(frozen=True)
class Forecast:
    """The tracks near the car, groups in the order of `NEAREST`, each by distance to the car.

    Global frame, SI units. Axis `h` counts forecasts: tick t sees number t // 2.
    """

    centres: Float[np.ndarray, "h n 2"]
    headings: Float[np.ndarray, " n"]
    """Of the boxes; a track that reverses moves the other way."""
    speeds: Float[np.ndarray, " n"]
    """At least 0; 0 for static tracks, whatever their recorded velocity."""
    sizes: Float[np.ndarray, "n 2"]
    """Length, width."""
    is_moving_class: Bool[np.ndarray, " n"]
    """Vehicle, pedestrian or bicycle."""

    def __len__(self) -> int:
        return len(self.headings)

    def corners(self) -> Float[np.ndarray, "h n 4 2"]:
        """Corners of the boxes: front left, rear left, rear right, front right."""
        ahead = np.stack([np.cos(self.headings), np.sin(self.headings)], axis=1)
        left = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1)
        front, side = ahead * self.sizes[:, :1] / 2, left * self.sizes[:, 1:] / 2
        offsets = np.stack([front + side, side - front, -front - side, front - side], axis=1)
        return self.centres[:, :, None] + offsets

    def tracks(self, is_ignored: Bool[np.ndarray, " n"]) -> Tracks:
        """The forecast tick by tick, as a scorer reads tracks."""
        poses = np.empty((len(self), NUM_STATES, 3))
        poses[..., :2] = np.moveaxis(self.centres[np.arange(NUM_STATES) // HOLD], 0, 1)
        poses[..., 2] = self.headings[:, None]
        return Tracks(
            poses=poses,
            half_sizes=self.sizes / 2,
            speeds=self.speeds,
            is_moving_class=self.is_moving_class,
            is_ignored=is_ignored,
        )


def forecast_tracks(agents: Sequence[Agent], centre: Float[np.ndarray, " 2"]) -> Forecast:
    """Forecasts what is there at t = 0 within `RADIUS` of `centre`, the middle of the car's box.

    Vehicles, pedestrians and bicycles move at constant speed along their heading, or against it if
    their velocity points backwards; the heading stays. Everything else stands.
    """
    near = _nearest(agents, centre)
    now = np.array([agent.states[0] for agent in near]).reshape(len(near), 5)
    is_moving_class = np.array([agent.type in AGENT_TYPES for agent in near], dtype=bool)
    ahead = np.stack([np.cos(now[:, 2]), np.sin(now[:, 2])], axis=1)
    speeds = np.where(is_moving_class, np.hypot(now[:, 3], now[:, 4]), 0.0)
    is_backwards = (now[:, 3:] * ahead).sum(axis=1) < 0
    velocities = np.where(is_backwards, -speeds, speeds)[:, None] * ahead
    times = HOLD_SECONDS * np.arange(NUM_HOLDS)
    return Forecast(
        centres=now[:, :2] + times[:, None, None] * velocities,
        headings=now[:, 2],
        speeds=speeds,
        sizes=np.array([(agent.length, agent.width) for agent in near]).reshape(len(near), 2),
        is_moving_class=is_moving_class,
    )


def _nearest(agents: Sequence[Agent], centre: Float[np.ndarray, " 2"]) -> list[Agent]:
    """The agents that are forecast, in the order of `Forecast`."""
    groups: dict[str, list[tuple[float, Agent]]] = {name: [] for name in NEAREST}
    for agent in agents:
        x, y = agent.states[0, :2]
        distance = float(np.hypot(x - centre[0], y - centre[1]))
        if distance <= RADIUS:  # NaN, absent now, is not
            name = agent.type if agent.type in AGENT_TYPES else "static"
            groups[name].append((distance, agent))
    return [
        agent
        for name, limit in NEAREST.items()
        for _, agent in sorted(groups[name], key=lambda pair: pair[0])[:limit]
    ]
