"""A recorded world: roads, scenery, the log of all traffic and of the expert, and its pictures."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, UInt8

from maskworld.types import EgoState
from maskworld.worlds.drive import ego
from maskworld.worlds.drive.cameras import Camera, camera_rig
from maskworld.worlds.drive.expert import Expert
from maskworld.worlds.drive.panorama import paint_panorama
from maskworld.worlds.drive.raster import build_raster
from maskworld.worlds.drive.render import Surroundings, render_view
from maskworld.worlds.drive.roads import SCENARIOS, RoadMap, check_scenario, make_road_map
from maskworld.worlds.drive.route import Command, Route, plan_route
from maskworld.worlds.drive.scenery import (
    CAR_COLOURS,
    Fleet,
    build_fleet,
    place_buildings,
    plant_trees,
)
from maskworld.worlds.drive.traffic import Traffic
from maskworld.worlds.drive.weather import Appearance, Style, make_appearance, parse_style

MARGIN = 60.0
"""Metres of ground around the expert's path that are painted. Ours."""


@dataclass(frozen=True, eq=False)
class Scene:
    """`num_steps` moments of one world. Step 0 is the start; row t of `actions` leads to step t."""

    scenario: str
    seed: int
    fps: float
    road_map: RoadMap
    route: Route
    surroundings: Surroundings
    agents: Float[np.ndarray, "t n 6"]
    """Rows of x, y, heading (centre of the box), length, width (metres), speed (m/s)."""
    kinds: list[str]
    fleet: Fleet
    poses: Float[np.ndarray, "t 3"]
    """The expert's rear axle: x, y, heading."""
    actions: Float[np.ndarray, "t 2"]
    """The expert's speed (m/s) and yaw rate (rad/s) in the step into each moment."""
    _cache: OrderedDict[tuple[Style, int], tuple[Appearance, np.ndarray]] = field(
        default_factory=OrderedDict, repr=False
    )

    @property
    def num_steps(self) -> int:
        return len(self.poses)

    @property
    def is_fast(self) -> bool:
        """Highway speeds: less steering is needed."""
        return self.scenario in ("highway", "merge")

    def ego_state(self, step: int) -> EgoState:
        """The expert at a step; the acceleration is that of the step into it."""
        x, y, heading = self.poses[step].tolist()
        speed, yaw_rate = self.actions[step].tolist()
        before = float(self.actions[max(step - 1, 0), 0])
        return EgoState(x, y, heading, speed, (speed - before) * self.fps, yaw_rate)

    def command(self, pose: Float[np.ndarray, " 3"]) -> Command:
        """What the route asks for at a pose."""
        return self.route.command(float(pose[0]), float(pose[1]))

    def appearance(self, style: Style | str, seed: int | None = None) -> Appearance:
        """A style with its details drawn from `seed` (the world's own when None)."""
        style = parse_style(style) if isinstance(style, str) else style
        return self._dressed(style, self.seed if seed is None else seed)[0]

    def render(
        self,
        pose: Float[np.ndarray, " 3"],
        step: int,
        *,
        style: Appearance | Style | str = "summer",
        size: tuple[int, int] = (96, 160),
        cameras: tuple[Camera, ...] | None = None,
    ) -> tuple[UInt8[np.ndarray, "v h w 3"], UInt8[np.ndarray, "v h w"]]:
        """RGB and labels (`CLASSES`) seen from `pose` among the traffic of `step`."""
        return self.render_agents(pose, self.agents[step], style=style, size=size, cameras=cameras)

    def render_agents(
        self,
        pose: Float[np.ndarray, " 3"],
        agents: Float[np.ndarray, "n 6"],
        *,
        style: Appearance | Style | str = "summer",
        size: tuple[int, int] = (96, 160),
        cameras: tuple[Camera, ...] | None = None,
    ) -> tuple[UInt8[np.ndarray, "v h w 3"], UInt8[np.ndarray, "v h w"]]:
        """As `render`, with the traffic given."""
        appearance = style if isinstance(style, Appearance) else self.appearance(style)
        strip = self._dressed(appearance.style, appearance.seed)[1]
        views = [
            render_view(
                self.surroundings,
                self.fleet,
                agents,
                strip,
                appearance,
                camera,
                np.asarray(pose, dtype=np.float64),
                size,
            )
            for camera in cameras or camera_rig(1)
        ]
        return np.stack([rgb for rgb, _ in views]), np.stack([labels for _, labels in views])

    def _dressed(self, style: Style, seed: int) -> tuple[Appearance, UInt8[np.ndarray, "h w 4"]]:
        """An appearance and its panorama; the last few are kept."""
        key = (style, seed)
        if key not in self._cache:
            appearance = make_appearance(style, seed)
            self._cache[key] = (appearance, paint_panorama(appearance, self.seed))
            while len(self._cache) > 8:
                self._cache.popitem(last=False)
        return self._cache[key]


def build_surroundings(
    road_map: RoadMap, path: Float[np.ndarray, "n 2"], seed: int, *, margin: float = MARGIN
) -> Surroundings:
    """Ground, trees and buildings around a path."""
    rng = np.random.default_rng([seed, 2])
    low, high = path.min(axis=0) - margin, path.max(axis=0) + margin
    raster = build_raster(road_map, low, high, rng)
    trees = plant_trees(raster, path, rng)
    buildings, trees = place_buildings(raster, path, trees, rng)
    return Surroundings(raster, trees, buildings)


def record_scene(
    scenario: str, seed: int, *, num_steps: int = 120, fps: float = 10.0, num_agents: int = 12
) -> Scene:
    """Drives the expert through fresh traffic for `num_steps` moments, `fps` per second.

    Raises:
        ValueError: an unknown scenario, or fewer than two steps.
    """
    check_scenario(scenario)
    if num_steps < 2:
        raise ValueError(f"Expected at least 2 steps, found {num_steps}: pass num_steps=120.")
    rng = np.random.default_rng([seed, SCENARIOS.index(scenario)])
    road_map = make_road_map(scenario, rng)
    route = plan_route(road_map, rng)
    traffic = Traffic(road_map, route, seed, num_agents=num_agents)
    expert = Expert(route)
    start = route.points[route.start]
    pose = np.array([*start, route.heading[route.start]])
    speed = expert.initial_speed(pose, traffic.agents)
    poses, actions, agents = [pose], [np.array([speed, 0.0])], [traffic.agents]
    for _ in range(num_steps - 1):
        action = expert.act(pose, speed, agents[-1], 1.0 / fps)
        pose, speed = ego.step_pose(pose, action, 1.0 / fps), float(action[0])
        traffic.step(1.0 / fps)
        traffic.set_ego(pose, speed)
        poses.append(pose)
        actions.append(action)
        agents.append(traffic.agents)
    path = np.stack(poses)[:, :2]
    colours = CAR_COLOURS[rng.integers(0, len(CAR_COLOURS), len(traffic.kinds))]
    return Scene(
        scenario=scenario,
        seed=seed,
        fps=fps,
        road_map=road_map,
        route=route,
        surroundings=build_surroundings(road_map, path, seed),
        agents=np.stack(agents),
        kinds=traffic.kinds,
        fleet=build_fleet(traffic.kinds, colours),
        poses=np.stack(poses),
        actions=np.stack(actions),
    )
