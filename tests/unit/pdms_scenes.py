"""Made-up scenes for the PDM score, and the reference results where they are on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskworld.metrics.pdms import Agent, EgoState, MapPolygon, PDMScene

REFERENCE = Path(__file__).parents[3] / "shared/reference/pdms"
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="../shared/reference/pdms is not on this machine"
)
TICKS = 0.1 * np.arange(51)


def reference_files() -> list[tuple[Path, dict[str, Any]]]:
    """Scene files and what the released code returns for them."""
    scenes = sorted(REFERENCE.glob("scene_*.json"))
    results = [path.with_name(path.name.replace("scene", "result")) for path in scenes]
    return [(path, json.loads(file.read_text())) for path, file in zip(scenes, results)]


def rectangle(x0: float, x1: float, y0: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=float)


def straight_road(**changes: Any) -> PDMScene:
    """Two lanes of 4 m along x, -30 to 120 m, the right one on the route; the ego at the origin, in
    the right lane's middle, at 8 m/s. Nothing else is on the road."""
    fields: dict[str, Any] = {
        "ego": EgoState(0.0, 0.0, 0.0, vx=8.0),
        "polygons": (
            MapPolygon("right", "lane", True, rectangle(-30, 120, -2, 2)),
            MapPolygon("left", "lane", False, rectangle(-30, 120, 2, 6)),
            MapPolygon("block", "roadblock", False, rectangle(-30, 120, -2, 6)),
        ),
        "centerline": np.stack([np.linspace(-30, 120, 151), np.zeros(151), np.zeros(151)], axis=1),
        "reference": straight_plan(8.0),
    }
    return PDMScene(**{**fields, **changes})


def straight_plan(speed: float, y: float = 0.0) -> np.ndarray:
    """A plan at constant speed along x, gently over to y."""
    t = 0.5 * np.arange(1, 9)
    share = np.clip(t / 3, 0, 1)
    side = y * share**2 * (3 - 2 * share)
    heading = np.arctan2(np.gradient(side, t), max(speed, 1.0))
    return np.stack([speed * t, side, heading], axis=1)


def agent(
    x: float,
    y: float,
    *,
    heading: float = 0.0,
    speed: float = 0.0,
    kind: str = "vehicle",
    token: str = "other",
    length: float = 4.0,
    width: float = 2.0,
) -> Agent:
    """An agent at constant speed along its heading."""
    direction = np.array([np.cos(heading), np.sin(heading)])
    states = np.empty((51, 5))
    states[:, :2] = np.array([x, y]) + speed * TICKS[:, None] * direction
    states[:, 2], states[:, 3:] = heading, speed * direction
    return Agent(token, kind, length, width, states)
