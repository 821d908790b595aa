"""The still part of a world: roads, route, scenery, and how it all looks from somewhere."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, UInt8

from maskworld.worlds.drive.cameras import Camera, camera_rig
from maskworld.worlds.drive.panorama import paint_panorama
from maskworld.worlds.drive.raster import build_raster
from maskworld.worlds.drive.render import Surroundings, render_view
from maskworld.worlds.drive.roads import SCENARIOS, RoadMap, check_scenario, make_road_map
from maskworld.worlds.drive.route import SPACING, Route, plan_route
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
"""Metres of ground around the route that are painted. Ours."""


@dataclass(frozen=True, eq=False)
class Stage:
    """Everything of a world but the motion. Any style can be rendered without rebuilding it."""

    scenario: str
    seed: int
    road_map: RoadMap
    route: Route
    surroundings: Surroundings
    fleet: Fleet
    _looks: OrderedDict[tuple[Style, int], tuple[Appearance, np.ndarray]] = field(
        default_factory=OrderedDict, repr=False
    )

    @property
    def is_fast(self) -> bool:
        """Highway speeds: less steering is needed."""
        return self.scenario in ("highway", "merge")

    @property
    def start_pose(self) -> Float[np.ndarray, " 3"]:
        """Where the ego's rear axle starts."""
        start = self.route.start
        return np.array([*self.route.points[start], self.route.heading[start]])

    def appearance(self, style: Style | str, seed: int | None = None) -> Appearance:
        """A style with its details drawn from `seed` (the world's own when None)."""
        style = parse_style(style) if isinstance(style, str) else style
        return self._look(style, self.seed if seed is None else seed)[0]

    def render(
        self,
        pose: Float[np.ndarray, " 3"],
        agents: Float[np.ndarray, "n 6"],
        *,
        style: Appearance | Style | str = "summer",
        size: tuple[int, int] = (96, 160),
        cameras: tuple[Camera, ...] | None = None,
    ) -> tuple[UInt8[np.ndarray, "v h w 3"], UInt8[np.ndarray, "v h w"]]:
        """RGB and labels (`CLASSES`) seen from `pose` among `agents`, `size` = (height, width)."""
        appearance = style if isinstance(style, Appearance) else self.appearance(style)
        strip = self._look(appearance.style, appearance.seed)[1]
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

    def _look(self, style: Style, seed: int) -> tuple[Appearance, UInt8[np.ndarray, "h w 4"]]:
        """An appearance and its panorama; the last few are kept."""
        key = (style, seed)
        if key not in self._looks:
            appearance = make_appearance(style, seed)
            self._looks[key] = (appearance, paint_panorama(appearance, self.seed))
            while len(self._looks) > 8:
                self._looks.popitem(last=False)
        return self._looks[key]


def build_stage(
    scenario: str, seed: int, *, duration: float, num_agents: int = 12
) -> tuple[Stage, Traffic]:
    """A fresh world and its traffic, for a drive of `duration` seconds.

    Raises:
        ValueError: an unknown scenario.
    """
    check_scenario(scenario)
    rng = np.random.default_rng([seed, SCENARIOS.index(scenario)])
    road_map = make_road_map(scenario, rng)
    route = plan_route(road_map, rng)
    traffic = Traffic(road_map, route, seed, num_agents=num_agents)
    colours = CAR_COLOURS[rng.integers(0, len(CAR_COLOURS), len(traffic.kinds))]
    end = route.start + int((route.speed_limit * duration + 10.0) / SPACING)
    path = route.points[route.start : end]
    fleet = build_fleet(traffic.kinds, colours)
    return Stage(scenario, seed, road_map, route, _surround(road_map, path, seed), fleet), traffic


def _surround(road_map: RoadMap, path: Float[np.ndarray, "n 2"], seed: int) -> Surroundings:
    """Ground, trees and buildings around a path."""
    rng = np.random.default_rng([seed, 2])
    low, high = path.min(axis=0) - MARGIN, path.max(axis=0) + MARGIN
    raster = build_raster(road_map, low, high, rng)
    trees = plant_trees(raster, path, rng)
    buildings, trees = place_buildings(raster, path, trees, rng)
    return Surroundings(raster, trees, buildings)
