"""One moment to plan from: ego, map, what the others do for five seconds, plans; from and to JSON.

Everything is in one global frame (any), metres, radians, seconds; headings are counter-clockwise.
Only plans are in the ego's frame: x forward, y left, origin at the rear axle (ADR 0002).
"""

from __future__ import annotations

import copy
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from maskworld.data.storage import write_text
from maskworld.metrics.pdms.geometry import Line, Outline
from maskworld.metrics.pdms.roads import DRIVABLE_TYPES, POLYGON_TYPES, RoadMap
from maskworld.metrics.pdms.scene_checks import (
    as_array,
    check_choice,
    check_finite,
    check_keys,
    check_simple_polygon,
)
from maskworld.metrics.pdms.tracks import NUM_STATES, Tracks

NUM_PLAN_POSES = 8
"""Poses of a plan, every 0.5 s: 4 s (NAVSIM)."""
AGENT_TYPES = ("vehicle", "pedestrian", "bicycle")
"""Classes that move; a collision with one scores 0."""
STATIC_TYPES = ("traffic_cone", "barrier", "czone_sign", "generic_object")
"""Classes that count as standing whatever their velocity; a collision with one scores 0.5."""

ROW_HINT = "a row is x, y, heading, vx, vy, or null"


@dataclass(frozen=True)
class EgoState:
    """The car at t = 0, at the rear axle: global pose, then the motion in its own frame.

    `steer` is the angle of the front wheels. Raises a ValueError for what is not finite.
    """

    x: float
    y: float
    heading: float
    vx: float = 0.0
    vy: float = 0.0
    ax: float = 0.0
    ay: float = 0.0
    steer: float = 0.0
    yaw_rate: float = 0.0
    yaw_acc: float = 0.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = as_array(getattr(self, item.name), f"ego.{item.name}", ())
            check_finite(value, f"ego.{item.name}")
            object.__setattr__(self, item.name, float(value))

    @property
    def state(self) -> Float[np.ndarray, " 11"]:
        """x, y, heading, vx, vy, ax, ay, steering, steering rate (0), yaw rate, yaw acceleration:
        the simulator's row 0."""
        motion = (self.vx, self.vy, self.ax, self.ay, self.steer, 0.0, self.yaw_rate, self.yaw_acc)
        return np.array([self.x, self.y, self.heading, *motion])


@dataclass(frozen=True, eq=False)
class MapPolygon:
    """An area of the map. Raises a ValueError for an unknown type or an outline that is no polygon.

    The outline may be given closed or open, in either direction; it is kept open. `on_route` is
    read for lanes and lane connectors only.
    """

    id: str
    type: str
    on_route: bool
    xy: Float[np.ndarray, "n 2"]

    def __post_init__(self) -> None:
        where = f"polygons[{self.id!r}]"
        check_choice(self.type, POLYGON_TYPES, f"{where}.type")
        xy = as_array(self.xy, f"{where}.xy", (None, 2))
        check_finite(xy, f"{where}.xy")
        if len(xy) > 1 and np.array_equal(xy[0], xy[-1]):
            xy = xy[:-1]
        check_simple_polygon(xy, f"{where}.xy")
        object.__setattr__(self, "on_route", bool(self.on_route))
        object.__setattr__(self, "xy", xy)

    @cached_property
    def outline(self) -> Outline:
        """Cut into slabs, ready to be asked what it holds; scenes of one map share it."""
        return Outline.of(self.xy)

    def on(self, on_route: bool) -> MapPolygon:
        """The same area on another route: its outline is neither checked nor cut again."""
        other = copy.copy(self)
        vars(other).update(on_route=on_route, outline=self.outline)
        return other


@dataclass(frozen=True, eq=False)
class Agent:
    """Something else on the road, as a box around its centre.

    `states` are x, y, heading of the centre and vx, vy (global frame) every 0.1 s; a row of NaN is
    a tick at which it is absent, and then nothing can collide with it: gaps are not filled here.
    Fewer than 51 rows are continued with the last one, so a single row stands still (as NAVSIM
    places what was annotated once). Its speed is that of the first row that is there.

    Raises:
        ValueError: an unknown type, no size, no row at all, or rows that are partly finite.
    """

    token: str
    type: str
    length: float
    width: float
    states: Float[np.ndarray, "n 5"]
    """n at most 51 when given; 51 rows afterwards."""

    def __post_init__(self) -> None:
        where = f"agents[{self.token!r}]"
        check_choice(self.type, AGENT_TYPES + STATIC_TYPES, f"{where}.type")
        for name in ("length", "width"):
            size = as_array(getattr(self, name), f"{where}.{name}", ())
            if not (np.isfinite(size) and size > 0):
                raise ValueError(f"{where}.{name}: expected metres above 0, found {size}.")
            object.__setattr__(self, name, float(size))
        object.__setattr__(self, "states", _full_states(self.states, f"{where}.states"))


@dataclass(frozen=True, eq=False)
class PDMScene:
    """What a PDM score needs.

    Attributes:
        polygons: the map around the ego; NAVSIM takes what lies within 100 m of it. At least one
            of `DRIVABLE_TYPES`.
        centerline: x, y, heading along the route, in driving direction; progress is measured on it.
        agents: everything that can be hit.
        plans: name -> 8 poses x, y, heading every 0.5 s, in the ego's frame.
        reference: "idm" (PDM-Closed plans along the centreline), or 8 poses like a plan's.
        speed_limit: of the lane the ego starts in, m/s; None = unknown (PDM-Closed takes 15).

    Raises:
        ValueError: names the field, what was expected and found, and the fix.
    """

    ego: EgoState
    polygons: tuple[MapPolygon, ...]
    centerline: Float[np.ndarray, "n 3"]
    agents: tuple[Agent, ...] = ()
    plans: Mapping[str, Float[np.ndarray, "8 3"]] = field(default_factory=dict)
    reference: str | Float[np.ndarray, "8 3"] = "idm"
    speed_limit: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "polygons", tuple(self.polygons))
        object.__setattr__(self, "agents", tuple(self.agents))
        if not any(polygon.type in DRIVABLE_TYPES for polygon in self.polygons):
            raise ValueError(
                f"polygons: expected at least one of type {', '.join(DRIVABLE_TYPES)}, found "
                f"{len(self.polygons)} polygons, none of them: without a road every plan scores 0."
            )
        for name, items in (("polygons", self.polygons), ("agents", self.agents)):
            ids = [item.id if isinstance(item, MapPolygon) else item.token for item in items]
            twice = [key for key, count in Counter(ids).items() if count > 1]
            if twice:
                raise ValueError(f"{name}: expected names that differ, found {twice[0]!r} twice.")
        object.__setattr__(self, "centerline", _checked_line(self.centerline))
        plans = {key: checked_plan(value, f"plans[{key!r}]") for key, value in self.plans.items()}
        object.__setattr__(self, "plans", plans)
        if isinstance(self.reference, str):
            check_choice(self.reference, ("idm",), "reference")
        else:
            object.__setattr__(self, "reference", checked_plan(self.reference, "reference"))
        if self.speed_limit is not None:
            if not (math.isfinite(self.speed_limit) and self.speed_limit > 0):
                raise ValueError(
                    f"speed_limit: expected m/s above 0, or null if it is not known, "
                    f"found {self.speed_limit}."
                )
            object.__setattr__(self, "speed_limit", float(self.speed_limit))

    @cached_property
    def road(self) -> RoadMap:
        """The map, ready to be asked where points lie."""
        return RoadMap(self.polygons)

    @cached_property
    def line(self) -> Line:
        """The centreline, ready to be projected on."""
        return Line.of(self.centerline[:, :2])

    @cached_property
    def tracks(self) -> Tracks:
        """The agents as recorded, none ignored."""
        agents = self.agents
        states = np.array([agent.states for agent in agents]).reshape(-1, NUM_STATES, 5)
        first = np.isfinite(states[..., 0]).argmax(axis=1)
        seen = states[np.arange(len(agents)), first]
        return Tracks(
            poses=states[..., :3],
            half_sizes=np.array([[a.length / 2, a.width / 2] for a in agents]).reshape(-1, 2),
            speeds=np.hypot(seen[:, 3], seen[:, 4]),
            is_moving_class=np.array([a.type in AGENT_TYPES for a in agents], dtype=bool),
            is_ignored=np.zeros(len(agents), dtype=bool),
        )

    def to_json(self) -> dict[str, Any]:
        """The scene as lists and dictionaries; `read_scene` reads it back exactly."""
        reference = self.reference
        return {
            "ego": asdict(self.ego),
            "polygons": [
                {"id": p.id, "type": p.type, "on_route": p.on_route, "xy": p.xy.tolist()}
                for p in self.polygons
            ],
            "centerline": self.centerline.tolist(),
            "agents": [{**vars(a), "states": _rows_or_null(a.states)} for a in self.agents],
            "plans": {name: plan.tolist() for name, plan in self.plans.items()},
            "reference": reference if isinstance(reference, str) else reference.tolist(),
            "speed_limit": self.speed_limit,
        }

    @classmethod
    def from_json(cls, data: Any) -> PDMScene:
        """The scene of what `json.load` returned.

        Raises:
            ValueError: names the field.
        """
        required = ("ego", "polygons", "centerline", "agents")
        check_keys(data, required, ("plans", "reference", "speed_limit"), "the scene")
        for name, kind in (("polygons", list), ("agents", list), ("plans", dict)):
            if not isinstance(data.get(name, kind()), kind):
                raise ValueError(
                    f"{name}: expected a {'list' if kind is list else 'mapping from names'}, "
                    f"found {type(data[name]).__name__}."
                )
        names = [item.name for item in fields(EgoState)]
        check_keys(data["ego"], names[:3], names[3:], "ego")
        ego = {key: float(as_array(v, f"ego.{key}", ())) for key, v in data["ego"].items()}
        reference = data.get("reference", "idm")
        if not isinstance(reference, str):
            reference = checked_plan(reference, "reference")
        limit = data.get("speed_limit")
        polygons = [_read_polygon(p, f"polygons[{i}]") for i, p in enumerate(data["polygons"])]
        return cls(
            ego=EgoState(**ego),
            polygons=tuple(polygons),
            centerline=as_array(data["centerline"], "centerline", (None, 3)),
            agents=tuple(_read_agent(a, f"agents[{i}]") for i, a in enumerate(data["agents"])),
            plans={
                name: checked_plan(plan, f"plans[{name!r}]")
                for name, plan in data.get("plans", {}).items()
            },
            reference=reference,
            speed_limit=None if limit is None else float(as_array(limit, "speed_limit", ())),
        )


def _read_polygon(item: Any, where: str) -> MapPolygon:
    check_keys(item, ("id", "type", "xy"), ("on_route",), where)
    xy = as_array(item["xy"], f"{where}.xy", (None, 2))
    return MapPolygon(str(item["id"]), str(item["type"]), bool(item.get("on_route", False)), xy)


def _read_agent(item: Any, where: str) -> Agent:
    check_keys(item, [each.name for each in fields(Agent)], (), where)
    rows = item["states"]
    if isinstance(rows, Sequence):
        rows = [[math.nan] * 5 if row is None else row for row in rows]
    return Agent(
        token=str(item["token"]),
        type=str(item["type"]),
        length=float(as_array(item["length"], f"{where}.length", ())),
        width=float(as_array(item["width"], f"{where}.width", ())),
        states=as_array(rows, f"{where}.states", (None, 5), hint=ROW_HINT),
    )


def read_scene(path: Path | str) -> PDMScene:
    """Reads a scene from JSON (docs/pdms.md describes the file).

    Raises:
        ValueError: the file is no JSON or no scene; names the file and the field.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected a scene as JSON, found {error}.") from error
    try:
        return PDMScene.from_json(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_scene(scene: PDMScene, path: Path | str) -> None:
    """Writes a scene as JSON, whole or not at all."""
    write_text(path, json.dumps(scene.to_json(), allow_nan=False) + "\n")


def checked_plan(plan: Any, where: str) -> Float[np.ndarray, "8 3"]:
    """`plan` as 8 finite poses. `where` names it in the ValueError."""
    poses = as_array(plan, where, (NUM_PLAN_POSES, 3), hint="a plan is x, y, heading every 0.5 s")
    check_finite(poses, where)
    return poses


def _checked_line(line: Any) -> Float[np.ndarray, "n 3"]:
    centerline = as_array(line, "centerline", (None, 3))
    check_finite(centerline, "centerline")
    if len(centerline) < 2 or not np.ptp(centerline[:, :2], axis=0).any():
        raise ValueError(
            f"centerline: expected at least two different points x, y, heading, found "
            f"{len(centerline)} points: progress is measured along it."
        )
    return centerline


def _full_states(states: Any, where: str) -> Float[np.ndarray, "51 5"]:
    """`states` as 51 rows: the last one is repeated."""
    rows = as_array(states, where, (None, 5), hint=ROW_HINT)
    if not 1 <= len(rows) <= NUM_STATES:
        raise ValueError(
            f"{where}: expected 1 to {NUM_STATES} rows (10 Hz, t = 0 to 5 s), found {len(rows)}."
        )
    is_there = np.isfinite(rows).all(axis=1)
    bad = np.flatnonzero(~is_there & ~np.isnan(rows).all(axis=1))
    if bad.size:
        raise ValueError(
            f"{where}[{bad[0]}]: expected five finite numbers, or a null row where the agent is "
            f"absent, found {rows[bad[0]].tolist()}."
        )
    if not is_there.any():
        raise ValueError(f"{where}: expected at least one row that is there: drop the agent.")
    return np.concatenate([rows, np.repeat(rows[-1:], NUM_STATES - len(rows), axis=0)])


def _rows_or_null(states: Float[np.ndarray, "51 5"]) -> list[list[float] | None]:
    return [None if np.isnan(row[0]) else row.tolist() for row in states]
