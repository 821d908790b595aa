"""Milliseconds per plan of the PDM score, part by part, on one core.

    python benchmarks/pdms_speed.py                      # 64 plans, a small and a large scene
    python benchmarks/pdms_speed.py --plans 1 15 64 256

A made-up scene: a curved road of three lanes with crossings, traffic on it and beside it, plans
that spread over the road. Counted is processor time of this process, the fastest and the median of
the repeats. `first` is the first call on a scene, which also cuts the polygons it meets into
slabs. PDM-Closed, which plans the reference once per scene, stands apart. Wanted: 0.1 ms per plan.
Writes nothing.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from maskworld.metrics.pdms import (
    Agent,
    EgoState,
    MapPolygon,
    PDMScene,
    reference_plan,
    score_plans,
    score_states,
    simulate,
    track,
)
from maskworld.metrics.pdms.collisions import collision_scores
from maskworld.metrics.pdms.comfort import comfort_terms
from maskworld.metrics.pdms.scorer import driving_direction, off_road, progress
from maskworld.metrics.pdms.vehicle import box_centre

LANE_WIDTH = 3.5
RADIUS = 150.0
"""Of the curve, metres."""
WANTED_MS = 0.1
MANY = 64
"""Plans from which on that is wanted: a call alone takes one to three milliseconds."""


@dataclass(frozen=True)
class Size:
    """How much there is in a scene."""

    name: str
    num_sections: int
    """The road is cut into so many roadblocks, of three lanes each."""
    num_crossings: int
    num_agents: int


SIZES = (Size("small", 1, 1, 8), Size("large", 50, 50, 60))


def on_road(along: np.ndarray, left: float | np.ndarray) -> np.ndarray:
    """Points and headings at distances along the curve, `left` metres left of its middle."""
    angle = along / RADIUS
    x, y = np.sin(angle) * (RADIUS - left), RADIUS - np.cos(angle) * (RADIUS - left)
    return np.stack([x, y, angle], axis=-1)


def strip(start: float, end: float, left: float, right: float) -> np.ndarray:
    """The outline of a piece of the road, a vertex every metre."""
    along = np.linspace(start, end, max(2, round(end - start) + 1))
    return np.concatenate([on_road(along, left), on_road(along[::-1], right)])[:, :2]


def make_scene(size: Size, rng: np.random.Generator) -> PDMScene:
    """A road of 120 m with crossings and traffic, the ego in its middle lane at 9 m/s."""
    polygons = []
    cuts = np.linspace(-20, 100, size.num_sections + 1)
    for i, (start, end) in enumerate(itertools.pairwise(cuts)):
        half = 1.5 * LANE_WIDTH
        polygons.append(MapPolygon(f"block{i}", "roadblock", False, strip(start, end, half, -half)))
        for k in (-1, 0, 1):
            left, right = (k + 0.5) * LANE_WIDTH, (k - 0.5) * LANE_WIDTH
            outline = strip(start, end, left, right)
            polygons.append(MapPolygon(f"lane{i}.{k}", "lane", k < 1, outline))
    for i, along in enumerate(np.linspace(30, 90, size.num_crossings)):
        outline = strip(along, along + 1, 20, -20)
        polygons.append(MapPolygon(f"crossing{i}", "intersection", False, outline))
    ticks = np.arange(51) * 0.1
    agents = []
    for i in range(size.num_agents):
        # One in four drives in the ego's lane or beside it, the others stand or walk at the kerb.
        drives = i % 4 == 0
        speed = rng.uniform(6, 12) if drives else (0.0, 1.2, 0.0)[i % 3]
        if drives:
            left = LANE_WIDTH * int(rng.integers(-1, 2))
        else:
            left = float(rng.choice([-1, 1]) * rng.uniform(6, 15))
        poses = on_road(rng.uniform(12, 90) + speed * ticks, left)
        velocity = speed * np.stack([np.cos(poses[:, 2]), np.sin(poses[:, 2])], axis=-1)
        kind = ("vehicle", "pedestrian", "barrier")[i % 3]
        length, width = ((4.6, 1.9), (0.7, 0.7), (1.5, 0.5))[i % 3]
        agents.append(Agent(f"{i}", kind, length, width, np.concatenate([poses, velocity], 1)))
    line = on_road(np.arange(-20.0, 101.0), 0.0)
    return PDMScene(EgoState(0, 0, 0, vx=9.0), tuple(polygons), line, tuple(agents))


def make_plans(num_plans: int, rng: np.random.Generator) -> np.ndarray:
    """Plans of 2 to 14 m/s that drift to either side of the road."""
    seconds = 0.5 * np.arange(1, 9)
    speeds = rng.uniform(2, 14, num_plans)[:, None]
    drift = rng.uniform(-1.2, 1.2, num_plans)[:, None]
    return on_road(speeds * seconds, drift * seconds)


def fastest_and_median(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Milliseconds of processor time."""
    run()
    times = []
    for _ in range(repeats):
        start = time.process_time_ns()
        run()
        times.append((time.process_time_ns() - start) / 1e6)
    return min(times), statistics.median(times)


def parts_of(scene: PDMScene, plans: np.ndarray, poses: np.ndarray) -> dict[str, Callable]:
    """What scoring consists of, each on inputs made beforehand."""
    both = np.concatenate([track(plans, scene.ego), poses[None]])
    initial = np.repeat(scene.ego.state[None], len(both), axis=0)
    states = simulate(both, initial)
    away = off_road(states, scene.road)
    return {
        "track": lambda: track(plans, scene.ego),
        "simulate": lambda: simulate(both, initial),
        "drivable area": lambda: off_road(states, scene.road),
        "NC + TTC": lambda: collision_scores(states, scene.tracks, scene.road, away),
        "comfort": lambda: comfort_terms(states),
        "DDC": lambda: driving_direction(box_centre(states), scene.road),
        "progress": lambda: progress(box_centre(states), scene.line),
        "all of a state's scores": lambda: score_states(
            states, scene.road, scene.line, scene.tracks
        ),
        "score_plans": lambda: score_plans(scene, plans, poses),
    }


def report(size: Size, num_plans: int, repeats: int) -> None:
    """Prints one table."""
    scene = make_scene(size, np.random.default_rng(0))
    plans = make_plans(num_plans, np.random.default_rng(1))
    poses = reference_plan(scene).poses
    fresh = make_scene(size, np.random.default_rng(0))
    start = time.process_time_ns()
    scores = score_plans(fresh, plans, poses)
    first = (time.process_time_ns() - start) / 1e6
    print(
        f"\n{size.name}: {len(scene.polygons)} polygons, {len(scene.agents)} agents, "
        f"{num_plans} plans (mean PDMS {scores.pdms.mean():.3f}, collisions in "
        f"{np.mean(scores.nc < 1):.0%}, off the road {np.mean(scores.dac < 1):.0%})"
    )
    print(f"{'part':<26}{'fastest ms':>12}{'median ms':>12}{'ms per plan':>13}")
    for name, run in parts_of(scene, plans, poses).items():
        low, middle = fastest_and_median(run, repeats)
        print(f"{name:<26}{low:>12.3f}{middle:>12.3f}{low / num_plans:>13.4f}")
    verdict = "reached" if low / num_plans <= WANTED_MS else "missed"
    if num_plans >= MANY:
        print(f"wanted {WANTED_MS} ms per plan: {verdict}")
    print(f"{'first call on a scene':<26}{first:>12.3f}")
    low, middle = fastest_and_median(lambda: reference_plan(scene), max(3, repeats // 10))
    print(f"{'PDM-Closed, per scene':<26}{low:>12.3f}{middle:>12.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plans", type=int, nargs="+", default=[64])
    parser.add_argument("--repeats", type=int, default=50)
    arguments = parser.parse_args()
    for size in SIZES:
        for num_plans in arguments.plans:
            report(size, num_plans, arguments.repeats)


if __name__ == "__main__":
    main()
