"""Road networks: the border to highway-env's geometry, where its y-down frame becomes y-left.

highway-env measures y to the right and headings clockwise. Everything that leaves this module is
x forward, y left, counter-clockwise: (x, y, heading) = (x, -y, -heading) of highway-env.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

SCENARIOS = ("highway", "merge", "intersection", "roundabout", "racetrack")
LINE_NONE, LINE_STRIPED, LINE_SOLID = 0, 1, 2


@dataclass(frozen=True)
class Lane:
    """One lane: its centreline from start to end, and the lines painted on its two sides."""

    index: tuple[str, str, int]
    """Start node, end node, number from the left; as in highway-env's network."""
    centreline: Float[np.ndarray, "n 2"]
    """World metres, spaced by about 1 m."""
    width: float
    left_line: int
    right_line: int
    speed_limit: float

    def edge(self, lateral: float) -> Float[np.ndarray, "n 2"]:
        """The centreline moved `lateral` metres to the left."""
        return offset_polyline(self.centreline, lateral)

    def polygon(self) -> Float[np.ndarray, "m 2"]:
        """The outline of the lane, counter-clockwise."""
        return np.concatenate([self.edge(-self.width / 2), self.edge(self.width / 2)[::-1]])


@dataclass(frozen=True)
class RoadMap:
    """The lanes of a world, and highway-env's own network for its traffic."""

    scenario: str
    lanes: dict[tuple[str, str, int], Lane]
    network: Any

    @cached_property
    def centrelines(self) -> dict[tuple[str, str, int], Float[np.ndarray, "_ 2"]]:
        """Of all lanes, by start node, end node and number from the left."""
        return {index: lane.centreline for index, lane in self.lanes.items()}

    @cached_property
    def polygons(self) -> list[Float[np.ndarray, "_ 2"]]:
        """Outlines of all lanes, in their order; neighbours share their edges up to rounding."""
        return [lane.polygon() for lane in self.lanes.values()]


def check_scenario(scenario: str) -> None:
    """Raises ValueError for a name outside `SCENARIOS`, with the nearest one."""
    if scenario not in SCENARIOS:
        near = get_close_matches(scenario, SCENARIOS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"Expected a scenario of {SCENARIOS}, found {scenario!r}.{hint}")


def import_highway_env() -> Any:
    """highway-env without a window: pygame must see a driver before it is imported (takes ~2 s)."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    import highway_env

    return highway_env


def flip(points: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
    """Between highway-env's y-down and our y-left, in both directions."""
    return np.asarray(points, dtype=np.float64) * (1.0, -1.0)


def offset_polyline(
    points: Float[np.ndarray, "n 2"], lateral: float | Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n 2"]:
    """Points moved to the left of the direction of travel, in metres."""
    tangent = np.gradient(points, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    return points + normal * np.reshape(lateral, (-1, 1))


def make_road_map(scenario: str, rng: np.random.Generator) -> RoadMap:
    """Draws the geometry of a world: lanes, radius or track, by scenario."""
    check_scenario(scenario)
    import_highway_env()
    from highway_env.envs.highway_env import HighwayEnvFast
    from highway_env.envs.intersection_env import IntersectionEnv
    from highway_env.envs.merge_env import MergeEnv
    from highway_env.envs.racetrack_env import RacetrackEnv, RacetrackEnvOval
    from highway_env.envs.roundabout_env import RoundaboutGenericEnv

    make: dict[str, Any] = {
        "highway": lambda: HighwayEnvFast(
            {"lanes_count": int(rng.integers(2, 5)), "vehicles_count": 1}
        ),
        "merge": lambda: MergeEnv(),
        "intersection": lambda: IntersectionEnv({"initial_vehicle_count": 1}),
        "roundabout": lambda: RoundaboutGenericEnv(
            {
                "roundabout_radius": float(rng.uniform(17, 26)),
                "roundabout_lanes": int(rng.integers(1, 3)),
                "vehicles_count": 0,
            }
        ),
        "racetrack": lambda: (RacetrackEnv, RacetrackEnvOval)[int(rng.integers(2))](
            {"other_vehicles": 0}
        ),
    }
    network = make[scenario]().unwrapped.road.network
    lanes = {key: _lane(key, lane) for key, lane in network.lanes_dict().items()}
    return RoadMap(scenario, lanes, network)


def _lane(index: tuple[str, str, int], lane: Any) -> Lane:
    # The straight highway is 10 km long; 1.2 km is more than any drive needs.
    length = min(float(lane.length), 1200.0)
    stations = np.linspace(0.0, length, max(2, int(np.ceil(length)) + 1))
    points = flip(np.array([lane.position(s, 0.0) for s in stations]))
    lines = [min(int(line), LINE_SOLID) for line in lane.line_types]
    limit = 20.0 if lane.speed_limit is None else float(lane.speed_limit)
    # highway-env's first line lies at negative lateral, which is left of the direction of travel.
    return Lane(index, points, float(lane.width_at(0.0)), lines[0], lines[1], limit)
