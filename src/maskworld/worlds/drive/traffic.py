"""Traffic: highway-env's IDM and MOBIL drivers around a vehicle that someone else moves."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float

from maskworld.worlds.drive import ego
from maskworld.worlds.drive.lanes import IndexedNetwork, neighbour_vehicles
from maskworld.worlds.drive.roads import RoadMap, flip, import_highway_env
from maskworld.worlds.drive.route import Route

KINDS = ("car", "van", "truck")
SIZES = {"car": (4.5, 1.85, 1.5), "van": (5.2, 2.0, 2.1), "truck": (8.5, 2.5, 3.3)}
"""Length, width, height in metres. Ours."""
CRUISE = {
    "highway": (13.0, 21.0),
    "merge": (12.0, 18.0),
    "intersection": (6.5, 9.0),
    "roundabout": (6.0, 8.5),
    "racetrack": (6.0, 9.0),
}
"""Range of the drivers' target speeds, m/s. Ours."""


class Traffic:
    """Steppable traffic in our frame. Bit-for-bit the same for the same road, route and seed."""

    def __init__(self, road_map: RoadMap, route: Route, seed: int, *, num_agents: int = 12) -> None:
        import_highway_env()
        self._rng = np.random.default_rng([seed, 1])
        self._road = _make_road(IndexedNetwork(road_map.network), self._rng)
        self._ego = _make_puppet(self._road)
        self._road.vehicles.append(self._ego)
        self._regulated = road_map.scenario == "intersection"
        self._steps = 0
        start = route.points[route.start]
        self.set_ego(np.array([*start, route.heading[route.start]]), route.speed_limit)
        self.kinds: list[str] = []
        self._spawn(road_map, start, num_agents)

    @property
    def agents(self) -> Float[np.ndarray, "n 6"]:
        """Rows of x, y, heading (centre of the box), length, width, speed; the order is stable."""
        rows = [
            (v.position[0], -v.position[1], -v.heading, v.LENGTH, v.WIDTH, v.speed)
            for v in self._road.vehicles[1:]
        ]
        return np.array(rows, dtype=np.float64).reshape(-1, 6)

    def set_ego(self, pose: Float[np.ndarray, " 3"], speed: float) -> None:
        """Places the ego that the others react to."""
        self._ego.position = flip(ego.centre(pose))
        self._ego.heading = -float(pose[2])
        self._ego.speed = float(speed)
        self._ego.on_state_update()

    def step(self, duration: float) -> None:
        """Lets every driver decide once and move for `duration` seconds; the ego stays."""
        if self._regulated and self._steps % max(1, round(0.5 / duration)) == 0:
            _enforce_right_of_way(self._road)
        self._steps += 1
        self._road.act()
        for vehicle in self._road.vehicles[1:]:
            vehicle.step(duration)
            # Drivers brake to a halt, they never reverse.
            vehicle.speed = max(vehicle.speed, 0.0)

    def _spawn(self, road_map: RoadMap, start: Float[np.ndarray, " 2"], num_agents: int) -> None:
        driver = _driver_class()
        rng = self._rng
        slots = _spawn_slots(road_map, start)
        taken = [self._ego.position]
        for slot in rng.permutation(len(slots)):
            index, station = slots[slot]
            lane = road_map.network.get_lane(index)
            position = lane.position(station + rng.uniform(-3, 3), rng.normal(0, 0.15))
            gap = 22.0 if road_map.scenario in ("highway", "merge") else 13.0
            if min(np.hypot(*(position - other)) for other in taken) < gap:
                continue
            taken.append(position)
            fast = road_map.scenario in ("highway", "merge")
            kind = KINDS[int(rng.choice(3, p=(0.65, 0.2, 0.15) if fast else (0.75, 0.2, 0.05)))]
            cruise = rng.uniform(*CRUISE[road_map.scenario]) * (0.85 if kind == "truck" else 1.0)
            vehicle = driver(
                self._road, position, lane.heading_at(station), cruise, target_speed=cruise
            )
            vehicle.LENGTH, vehicle.WIDTH = SIZES[kind][:2]
            vehicle.target_lane_index = index
            vehicle.enable_lane_change = road_map.scenario in ("highway", "racetrack")
            _plan(vehicle, road_map.scenario, rng)
            vehicle.randomize_behavior()
            self._road.vehicles.append(vehicle)
            self.kinds.append(kind)
            if len(self.kinds) == num_agents:
                break


def _spawn_slots(
    road_map: RoadMap, start: Float[np.ndarray, " 2"]
) -> list[tuple[tuple[str, str, int], float]]:
    """Places where a vehicle may start: lane and station, around the start of the ego."""
    reach = 110.0 if road_map.scenario in ("highway", "merge") else 95.0
    slots = []
    for index, lane in road_map.lanes.items():
        junction = index[0][:2] in ("ir",) and road_map.scenario == "intersection"
        if junction or (road_map.scenario == "merge" and index == ("b", "c", 2)):
            continue
        stations = np.arange(4.0, len(lane.centreline) - 4.0, 9.0)
        positions = lane.centreline[stations.astype(int)]
        near = np.hypot(*(positions - start).T) < reach
        slots += [(index, float(s)) for s in stations[near]]
    return slots


def _plan(vehicle: Any, scenario: str, rng: np.random.Generator) -> None:
    """Gives a driver somewhere to go, where roads fork."""
    node = vehicle.target_lane_index[0]
    if scenario == "intersection" and node.startswith("o"):
        vehicle.plan_route_to(f"o{(int(node[1]) + int(rng.integers(1, 4))) % 4}")
    elif scenario == "roundabout" and not node.endswith("xs"):
        vehicle.plan_route_to(str(rng.choice(["exr", "sxr", "nxr", "wxr"])))


def _make_road(network: IndexedNetwork, rng: np.random.Generator) -> Any:
    from highway_env.road.road import Road

    class PlainRoad(Road):
        """highway-env's road with the fast neighbour search."""

        def neighbour_vehicles(self, vehicle: Any, lane_index: Any = None) -> Any:
            return neighbour_vehicles(self, vehicle, lane_index)

    return PlainRoad(network=network, np_random=rng)


@cache
def _driver_class() -> Any:
    from highway_env.vehicle.behavior import IDMVehicle

    class Driver(IDMVehicle):
        """highway-env's driver with its numbers fixed: its intersection changes them for all."""

        ACC_MAX = 6.0
        COMFORT_ACC_MAX = 3.0
        COMFORT_ACC_MIN = -4.0
        DISTANCE_WANTED = 8.0
        TIME_WANTED = 1.5

    return Driver


def _make_puppet(road: Any) -> Any:
    from highway_env.vehicle.kinematics import Vehicle

    class Puppet(Vehicle):
        """The ego as the traffic sees it: it neither decides nor moves by itself."""

        LENGTH, WIDTH = ego.LENGTH, ego.WIDTH

        def act(self, action: Any = None) -> None:
            del action

    return Puppet(road, (0.0, 0.0))


def _enforce_right_of_way(road: Any) -> None:
    """Who has lower priority waits half a second, as in highway-env's RegulatedRoad.

    The difference is cost: every path is predicted once, and all pairs are compared at once.
    """
    times = np.arange(0.25, 3.0, 0.25)
    vehicles = road.vehicles
    for vehicle in vehicles[1:]:
        if getattr(vehicle, "is_yielding", False):
            vehicle.target_speed = vehicle.cruise_speed
            vehicle.is_yielding = False
    paths = []
    for vehicle in vehicles:
        if hasattr(vehicle, "route"):
            path = np.array(vehicle.predict_trajectory_constant_speed(times)[0])
        else:
            path = vehicle.position + times[:, None] * vehicle.velocity
        paths.append(path)
    stacked = np.stack(paths)
    distance = np.linalg.norm(stacked[:, None] - stacked[None], axis=-1)
    conflicts = np.argwhere(np.triu((distance < 4.0).any(axis=-1), k=1))
    for i, j in conflicts.tolist():
        one, two = vehicles[i], vehicles[j]
        if one.lane.priority != two.lane.priority:
            waits = two if one.lane.priority > two.lane.priority else one
        else:
            waits = one if one.front_distance_to(two) > two.front_distance_to(one) else two
        if waits is not vehicles[0]:
            if not getattr(waits, "is_yielding", False):
                waits.cruise_speed = waits.target_speed
            waits.target_speed = 0.0
            waits.is_yielding = True
