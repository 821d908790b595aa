"""highway-env's lanes in plain floats, and the two searches that its drivers make all the time.

The answers are those of highway-env; only arrays of two numbers, which cost it most of its time,
are gone. Positions here are highway-env's own (y to the right).
"""

from __future__ import annotations

from math import atan, atan2, cos, hypot, pi, sin
from typing import Any

CELL = 12.0
"""Size of the cells that lanes are looked up by, metres."""
LANE_OVERHANG = 5.0
"""highway-env counts this far before and after a lane as on it, metres."""

LaneIndex = tuple[str, str, int]


class StraightFrame:
    """Coordinates along and across a straight or sinusoidal lane."""

    def __init__(self, lane: Any) -> None:
        self.x, self.y = (float(v) for v in lane.start)
        self.dx, self.dy = (float(v) for v in lane.direction)
        self.angle, self.length, self.width = float(lane.heading), float(lane.length), lane.width
        self.amplitude = float(getattr(lane, "amplitude", 0.0))
        self.pulsation = float(getattr(lane, "pulsation", 0.0))
        self.phase = float(getattr(lane, "phase", 0.0))

    def coordinates(self, x: float, y: float) -> tuple[float, float]:
        x, y = x - self.x, y - self.y
        along, across = x * self.dx + y * self.dy, -x * self.dy + y * self.dx
        if self.amplitude:
            across -= self.amplitude * sin(self.pulsation * along + self.phase)
        return along, across

    def heading(self, along: float) -> float:
        if not self.amplitude:
            return self.angle
        slope = self.amplitude * self.pulsation * cos(self.pulsation * along + self.phase)
        return self.angle + atan(slope)


class CircularFrame:
    """Coordinates along and across an arc."""

    def __init__(self, lane: Any) -> None:
        self.x, self.y = (float(v) for v in lane.center)
        self.radius, self.direction = float(lane.radius), int(lane.direction)
        self.start, self.length, self.width = (
            float(lane.start_phase),
            float(lane.length),
            lane.width,
        )

    def coordinates(self, x: float, y: float) -> tuple[float, float]:
        x, y = x - self.x, y - self.y
        turn = wrap(atan2(y, x) - self.start)
        return (
            self.direction * turn * self.radius,
            self.direction * (self.radius - hypot(x, y)),
        )

    def heading(self, along: float) -> float:
        return self.direction * (along / self.radius + pi / 2) + self.start


def wrap(angle: float) -> float:
    """Into [-pi, pi)."""
    return (angle + pi) % (2 * pi) - pi


def make_frame(lane: Any) -> StraightFrame | CircularFrame:
    """The frame of one of highway-env's lanes."""
    return CircularFrame(lane) if hasattr(lane, "radius") else StraightFrame(lane)


class IndexedNetwork:
    """highway-env's road network with a faster closest lane: only lanes nearby are tried.

    A position far from every lane asks the original.
    """

    def __init__(self, network: Any) -> None:
        self._network = network
        self.frames = {index: make_frame(lane) for index, lane in network.lanes_dict().items()}
        cells: dict[tuple[int, int], dict[LaneIndex, None]] = {}
        for index, lane in network.lanes_dict().items():
            # The straight highway is 10 km long, and nobody gets farther than this.
            for station in range(0, int(min(lane.length, 1500.0)) + 4, 4):
                x, y = (int(v // CELL) for v in lane.position(station, 0.0))
                if index in cells.get((x, y), ()):
                    continue
                for cell in [(x + i, y + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]:
                    cells.setdefault(cell, {})[index] = None
        self._cells = {cell: list(found) for cell, found in cells.items()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def get_closest_lane_index(self, position: Any, heading: Any = None) -> Any:
        x, y = float(position[0]), float(position[1])
        found = self._cells.get((int(x // CELL), int(y // CELL)))
        if found is None:
            return self._network.get_closest_lane_index(position, heading)
        best, best_distance = found[0], float("inf")
        for index in found:
            frame = self.frames[index]
            along, across = frame.coordinates(x, y)
            distance = abs(across) + max(along - frame.length, 0.0) + max(-along, 0.0)
            if heading is not None and distance < best_distance:
                distance += abs(wrap(heading - frame.heading(along)))
            if distance < best_distance:
                best, best_distance = index, distance
        return best


def neighbour_vehicles(road: Any, vehicle: Any, lane_index: Any = None) -> tuple[Any, Any]:
    """Who drives before and behind on a lane; as highway-env's `Road.neighbour_vehicles`."""
    frame = road.network.frames[lane_index or vehicle.lane_index]
    here, _ = frame.coordinates(*vehicle.position.tolist())
    limit = frame.width / 2 + 1.0
    front, rear, front_at, rear_at = None, None, float("inf"), -float("inf")
    for other in road.vehicles + road.objects:
        if other is vehicle:
            continue
        along, across = frame.coordinates(*other.position.tolist())
        if abs(across) > limit or not -LANE_OVERHANG <= along < frame.length + LANE_OVERHANG:
            continue
        if here <= along <= front_at:
            front, front_at = other, along
        elif rear_at < along < here:
            rear, rear_at = other, along
    return front, rear
