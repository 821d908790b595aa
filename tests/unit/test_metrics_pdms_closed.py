"""PDM-Closed: the released planner's choices, a slow version, and each rule on its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from shapely.ops import substring

from maskworld.metrics.pdms.closed import (
    FRACTIONS,
    ClosedPlan,
    idm_acceleration,
    plan_closed,
    start_proposals,
)
from maskworld.metrics.pdms.closed_leader import prepare_search
from maskworld.metrics.pdms.closed_paths import Paths, offset_paths
from maskworld.metrics.pdms.forecast import forecast_tracks
from maskworld.metrics.pdms.scene import Agent, EgoState, MapPolygon, PDMScene, read_scene

REFERENCE = Path(__file__).parents[3] / "shared/reference/pdms"
RESULTS = sorted(REFERENCE.glob("result_*.json")) if REFERENCE.is_dir() else []
needs_reference = pytest.mark.skipif(
    not RESULTS, reason="the reference scores of ../shared/reference/pdms are not on this machine"
)


def straight_line(length: float = 200.0, step: float = 1.0) -> np.ndarray:
    x = np.arange(0.0, length + step / 2, step)
    return np.stack([x, 0 * x, 0 * x], axis=1)


def curved_line(num_points: int = 150, curvature: float = 0.01) -> np.ndarray:
    heading = curvature * np.arange(num_points) + 0.3
    steps = np.stack([np.cos(heading), np.sin(heading)], axis=1)
    points = np.array([5.0, -7.0]) + np.cumsum(steps, axis=0) - steps[0]
    return np.column_stack([points, heading])


def box_agent(token: str, kind: str, row: Sequence[float], size: tuple[float, float]) -> Agent:
    return Agent(token, kind, *size, states=np.tile(np.array(row, dtype=float), (51, 1)))


def make_scene(
    agents: Sequence[Agent] = (),
    *,
    line: np.ndarray | None = None,
    speed: float = 8.0,
    start: float = 20.0,
    limit: float | None = 12.0,
    aside: float = 0.0,
) -> PDMScene:
    """A wide road along `line`; the car stands `start` m along it, `aside` m to its left."""
    line = straight_line() if line is None else line
    x, y, heading = Paths(line[None]).poses_at(np.array([0]), np.array([start]))[0]
    ego = EgoState(x - aside * np.sin(heading), y + aside * np.cos(heading), heading, vx=speed)
    outline = np.array(shapely.LineString(line[:, :2]).buffer(6.0).exterior.coords)
    road = MapPolygon("road", "roadblock", True, outline)
    lane = MapPolygon("lane", "lane", True, outline)
    return PDMScene(ego, (road, lane), line, tuple(agents), speed_limit=limit)


def random_scene(seed: int) -> PDMScene:
    """A curved road with slow, standing, crossing and reversing tracks, some of them in a heap."""
    rng = np.random.default_rng(seed)
    line = curved_line(curvature=float(rng.uniform(-0.02, 0.02)))
    kinds = ("vehicle", "vehicle", "pedestrian", "bicycle", "traffic_cone", "barrier")
    agents = []
    for i in range(14):
        kind = kinds[i % len(kinds)]
        along = 60.0 if i < 4 else float(rng.uniform(5, 120))
        x, y, heading = Paths(line[None]).poses_at(np.array([0]), np.array([along]))[0]
        x, y = x + rng.normal(0, 1.5), y + rng.normal(0, 1.5)
        speed = float(rng.choice([-3.0, 0.0, 2.0, 6.0]))
        heading += float(rng.choice([0.0, 0.1, np.pi / 2]))
        velocity = speed * np.array([np.cos(heading), np.sin(heading)])
        size = (4.6, 1.9) if kind == "vehicle" else (1.2, 0.8)
        agents.append(box_agent(f"a{i}", kind, [x, y, heading, *velocity], size))
    speed = float(rng.uniform(0, 12))
    return make_scene(agents, line=line, speed=speed, aside=float(rng.normal(0, 0.5)))


# The slow version: loops over ticks, proposals and tracks, from the description alone.


def slow_boxes(poses: np.ndarray, length: float, width: float, ahead: float = 0.0) -> Any:
    x, y, heading = poses
    box = shapely.box(ahead - length / 2, -width / 2, ahead + length / 2, width / 2)
    turned = shapely.affinity.rotate(box, heading, origin=(0, 0), use_radians=True)
    return shapely.affinity.translate(turned, x, y)


def slow_tracks(scene: PDMScene) -> list[tuple[Agent, np.ndarray, float]]:
    """Agent, velocity of the forecast, speed; in the order of the search."""
    ego = scene.ego
    centre = np.array([ego.x, ego.y]) + 1.461 * np.array([np.cos(ego.heading), np.sin(ego.heading)])
    tracks = []
    for kinds in (("traffic_cone", "barrier"), ("vehicle",), ("pedestrian",), ("bicycle",)):
        group = [agent for agent in scene.agents if agent.type in kinds]
        for agent in sorted(group, key=lambda a: np.hypot(*(a.states[0, :2] - centre))):
            row = agent.states[0]
            is_static = "traffic_cone" in kinds
            speed = 0.0 if is_static else float(np.hypot(row[3], row[4]))
            ahead = np.array([np.cos(row[2]), np.sin(row[2])])
            sign = -1.0 if row[3:] @ ahead < 0 else 1.0
            tracks.append((agent, sign * speed * ahead, speed))
    return tracks


def slow_leaders(
    scene: PDMScene, path: np.ndarray, limit: float, progress: np.ndarray, tick: int
) -> list[list[float]]:
    """The five records of one path at an even tick, given the progress one tick before."""
    line = shapely.LineString(path[:, :2])
    starts = np.array([line.project(shapely.Point(p)) for p in path[:, :2]])
    begin = line.project(shapely.Point(scene.ego.x, scene.ego.y))
    inside = (starts >= begin) & (starts <= begin + 5 * limit)
    corridor = shapely.LineString(path[inside, :2]).buffer(1.1485, cap_style="square")
    tracks = slow_tracks(scene)
    boxes, centres = [], []
    for agent, velocity, _ in tracks:
        x, y, heading = agent.states[0, :3]
        centres.append(np.array([x, y]) + 0.1 * 2 * (tick // 2) * velocity)
        boxes.append(slow_boxes(np.array([*centres[-1], heading]), agent.length, agent.width))
    ego_box = slow_boxes(scene.ego.state[:3], 5.176, 2.297, 1.461)
    record, records = [0.0, 0.0, 0.0], []
    for own in progress:
        pose = np.array([np.interp(max(own, 1e-5), starts, c) for c in path.T])
        box = slow_boxes(pose, 5.176, 2.297, 1.461)
        found: list[tuple[float, int]] = []
        for i in shapely.STRtree(boxes, node_capacity=10).query(corridor, predicate="intersects"):
            agent = tracks[i][0]
            now = slow_boxes(agent.states[0, :3], agent.length, agent.width)
            if not now.intersects(ego_box) and line.project(shapely.Point(centres[i])) > own:
                found.append((box.distance(boxes[i]), int(i)))
        if found:
            gap, i = min(found, key=lambda pair: pair[0])
            turned = tracks[i][0].states[0, 2] - pose[2]
            record[:2] = own + gap, tracks[i][2] * np.cos(turned)
        else:
            record[0], record[2] = line.length, 2.588
        records.append(list(record))
    return records


def slow_poses(scene: PDMScene, num_ticks: int) -> np.ndarray:
    """Poses `15 t 3` of all proposals."""
    limit = scene.speed_limit or 15.0
    poses = []
    for offset in (0.0, 1.0, -1.0):
        path = scene.centerline.copy()
        path[:, 0] += offset * np.sin(path[:, 2])
        path[:, 1] -= offset * np.cos(path[:, 2])
        line = shapely.LineString(path[:, :2])
        starts = np.array([line.project(shapely.Point(p)) for p in path[:, :2]])
        x = np.full((5, num_ticks), line.project(shapely.Point(scene.ego.x, scene.ego.y)))
        v = np.full(5, scene.ego.vx)
        leaders = [[0.0, 0.0, 0.0]] * 5
        for tick in range(1, num_ticks):
            if tick % 2 == 0:
                leaders = slow_leaders(scene, path, limit, x[:, tick - 1], tick)
            for i, fraction in enumerate((0.2, 0.4, 0.6, 0.8, 1.0)):
                lead_x, lead_v, lead_r = leaders[i]
                wanted = 1 + 1.5 * v[i] + v[i] * (v[i] - lead_v) / (2 * 4.5**0.5)
                gap = max(lead_x - x[i, tick - 1] - lead_r, 1.0)
                a = 1.5 * (1 - (v[i] / (fraction * limit)) ** 10 - (wanted / gap) ** 2)
                x[i, tick] = x[i, tick - 1] + 0.1 * v[i]
                v[i] += 0.1 * min(max(a, -3.0), 1.5)
        for row in x:
            columns = [np.interp(np.maximum(row, 1e-5), starts, c) for c in path.T]
            poses.append(np.stack(columns, axis=1))
    return np.array(poses)


# Agreement.


@needs_reference
@pytest.mark.parametrize("result_file", RESULTS, ids=lambda path: path.stem[-2:])
def test_choice_scores_and_poses_are_those_of_the_released_code(result_file: Path) -> None:
    scene = read_scene(result_file.with_name(result_file.name.replace("result", "scene")))
    info = json.loads(result_file.read_text())["info"]
    if not isinstance(scene.reference, str):
        assert "pdm_closed_choice" not in info
        return
    plan = plan_closed(scene)
    assert plan.index == info["pdm_closed_choice"]
    np.testing.assert_allclose(plan.scores, info["pdm_closed_scores"], atol=1e-9, rtol=0)
    if "reference_tracked" in info:  # the first scenes only
        np.testing.assert_allclose(plan.poses[:41], info["reference_tracked"], atol=1e-8, rtol=0)


@pytest.mark.parametrize("seed", range(6))
def test_roll_out_equals_the_slow_version(seed: int) -> None:
    scene = random_scene(seed)
    roll_out = start_proposals(scene)
    roll_out.advance(40)
    assert roll_out.search.may_block.any()
    np.testing.assert_allclose(roll_out.poses(), slow_poses(scene, 41), atol=1e-9, rtol=0)


def moved(scene: PDMScene, angle: float, shift: np.ndarray) -> PDMScene:
    """The scene in another global frame."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def points(rows: np.ndarray) -> np.ndarray:
        return rows @ turn.T + shift

    ego = scene.ego
    x, y = points(np.array([ego.x, ego.y]))
    agents = []
    for agent in scene.agents:
        states = agent.states.copy()
        states[:, :2], states[:, 3:] = points(states[:, :2]), states[:, 3:] @ turn.T
        states[:, 2] += angle
        agents.append(replace(agent, states=states))
    line = np.column_stack([points(scene.centerline[:, :2]), scene.centerline[:, 2] + angle])
    return replace(
        scene,
        ego=replace(ego, x=float(x), y=float(y), heading=ego.heading + angle),
        polygons=tuple(replace(polygon, xy=points(polygon.xy)) for polygon in scene.polygons),
        centerline=line,
        agents=tuple(agents),
    )


@pytest.mark.parametrize("seed", range(3))
def test_plan_moves_with_the_frame(seed: int) -> None:
    scene = random_scene(seed)
    shift = np.array([300.0, -40.0])
    plan, other = plan_closed(scene), plan_closed(moved(scene, 2.0, shift))
    assert plan.index == other.index
    np.testing.assert_allclose(plan.scores, other.scores, atol=1e-6)
    turn = np.array([[np.cos(2.0), -np.sin(2.0)], [np.sin(2.0), np.cos(2.0)]])
    np.testing.assert_allclose(plan.poses[:, :2] @ turn.T + shift, other.poses[:, :2], atol=1e-6)
    turned = other.poses[:, 2] - plan.poses[:, 2] - 2.0
    np.testing.assert_allclose(np.cos(turned), 1.0, atol=1e-9)


# Intelligent driver model.


def drive(speed: float, target: float, leader: Sequence[float], seconds: float) -> np.ndarray:
    """Speeds behind a leader that never changes."""
    position, speeds = np.zeros(1), [np.array([speed])]
    for _ in range(round(10 * seconds)):
        a = idm_acceleration(position, speeds[-1], np.array([target]), np.array([leader]))
        position, now = position + 0.1 * speeds[-1], speeds[-1] + 0.1 * a
        speeds.append(now)
    return np.concatenate(speeds)


@pytest.mark.parametrize("target", [3.0, 9.0, 15.0])
def test_idm_reaches_the_target_speed_on_a_free_road(target: float) -> None:
    speeds = drive(0.0, target, (1e9, 0.0, 0.0), 60.0)
    assert speeds[-1] == pytest.approx(target, rel=1e-6)
    assert speeds.max() <= target * 1.01
    assert np.diff(speeds).max() <= 0.1 * 1.5 + 1e-12


def test_idm_stops_behind_a_standing_leader() -> None:
    assert drive(8.0, 15.0, (100.0, 0.0, 0.0), 120.0)[-1] == pytest.approx(0.0, abs=0.05)


def test_idm_brakes_no_harder_than_three() -> None:
    own = (np.array([0.0]), np.array([15.0]), np.array([15.0]))
    hard = idm_acceleration(*own, np.array([[5.0, 0.0, 0.0]]))
    assert hard.item() == -3.0


def test_idm_acceleration_by_hand() -> None:
    own = (np.array([10.0]), np.array([10.0]), np.array([20.0]))
    a = idm_acceleration(*own, np.array([[60.0, 5.0, 2.588]]))
    wanted = 1 + 15 + 10 * 5 / (2 * np.sqrt(4.5))
    assert a.item() == pytest.approx(1.5 * (1 - 0.5**10 - (wanted / 47.412) ** 2))


def test_moving_car_brakes_in_the_first_step_and_a_standing_one_waits() -> None:
    for speed, change in ((8.0, -0.3), (0.0, 0.0)):
        roll_out = start_proposals(make_scene(speed=speed))
        roll_out.advance(1)
        np.testing.assert_allclose(roll_out.speeds, speed + change)  # s* / gap = 1 at rest
        np.testing.assert_allclose(np.diff(roll_out.progress[:, :2]), 0.1 * speed)


# Forecast.


def test_forecast_moves_along_the_heading_with_the_norm_of_the_velocity() -> None:
    rows = {"ahead": (3.0, 4.0), "back": (-3.0, 4.0), "still": (0.0, 0.0)}
    agents = [
        box_agent(token, "vehicle", [i, 0.0, 0.0, *velocity], (4.0, 2.0))
        for i, (token, velocity) in enumerate(rows.items())
    ]
    forecast = forecast_tracks(agents, np.zeros(2))
    np.testing.assert_allclose(forecast.speeds, [5.0, 5.0, 0.0])
    np.testing.assert_allclose(forecast.centres[10, :, 0], [10.0, 1 - 10.0, 2.0])
    np.testing.assert_allclose(forecast.centres[:, :, 1], 0.0, atol=1e-12)
    np.testing.assert_allclose(forecast.headings, 0.0)


def test_forecast_stands_still_for_two_ticks() -> None:
    agents = [box_agent("a", "bicycle", [0, 0, np.pi / 2, 0, 2.0], (2.0, 1.0))]
    tracks = forecast_tracks(agents, np.zeros(2)).tracks(np.array([False]))
    np.testing.assert_allclose(tracks.poses[0, :6, 1], [0, 0, 0.4, 0.4, 0.8, 0.8], atol=1e-12)
    np.testing.assert_allclose(tracks.poses[0, :, 2], np.pi / 2)
    np.testing.assert_allclose(tracks.half_sizes, [[1.0, 0.5]])
    assert tracks.speeds.item() == pytest.approx(2.0)


def test_static_classes_stand_whatever_their_velocity() -> None:
    agents = [box_agent("a", "barrier", [1, 2, 0, 9, 0], (2.0, 1.0))]
    forecast = forecast_tracks(agents, np.zeros(2))
    assert forecast.speeds.item() == 0.0
    assert not forecast.is_moving_class.item()
    np.testing.assert_allclose(np.ptp(forecast.centres, axis=0), 0.0)


@pytest.mark.parametrize(
    ("kind", "limit"),
    [("vehicle", 50), ("pedestrian", 25), ("bicycle", 10), ("traffic_cone", 50)],
)
def test_forecast_keeps_the_nearest_of_each_group(kind: str, limit: int) -> None:
    order = np.random.default_rng(0).permutation(60)
    agents = [box_agent(str(i), kind, [1.0 + i, 0, 0, 0, 0], (0.5, 0.5)) for i in order]
    forecast = forecast_tracks(agents, np.zeros(2))
    np.testing.assert_allclose(forecast.centres[0, :, 0], 1.0 + np.arange(limit))


def test_forecast_orders_groups_and_leaves_out_the_absent_and_the_far() -> None:
    kinds = ("bicycle", "pedestrian", "vehicle", "generic_object")
    agents = [box_agent(k, k, [i, 0, 0, 0, 0], (1.0, 1.0)) for i, k in enumerate(kinds)]
    agents.append(box_agent("far", "vehicle", [100.1, 0, 0, 0, 0], (30.0, 30.0)))
    agents.append(box_agent("near", "vehicle", [99.9, 0, 0, 0, 0], (1.0, 1.0)))
    late = np.full((51, 5), np.nan)
    late[1:] = 0.0
    agents.append(Agent("late", "vehicle", 1.0, 1.0, late))
    forecast = forecast_tracks(agents, np.zeros(2))
    np.testing.assert_allclose(forecast.centres[0, :, 0], [3.0, 2.0, 99.9, 1.0, 0.0])


# Paths and corridors.


def test_paths_lie_one_metre_right_and_left_with_the_same_headings() -> None:
    line = curved_line()
    paths = offset_paths(line)
    np.testing.assert_allclose(paths.poses[0], line)
    to_side = paths.poses[1:, :, :2] - line[:, :2]
    left = np.stack([-np.sin(line[:, 2]), np.cos(line[:, 2])], axis=1)
    np.testing.assert_allclose(to_side, [-left, left], atol=1e-12)
    np.testing.assert_allclose(paths.poses[:, :, 2], np.tile(line[:, 2], (3, 1)))


def test_headings_are_interpolated_the_short_way() -> None:
    line = straight_line(3.0)
    line[:, 2] = [3.1, 3.1, -3.1, -3.1]
    middle = offset_paths(line).poses_at(np.array([0]), np.array([1.5]))[0]
    assert np.cos(middle[2] - np.pi) == pytest.approx(1.0)


def test_poses_stay_within_the_ends_of_a_path_and_survive_repeated_points() -> None:
    line = straight_line(10.0)[[0, 0, 1, 2, 2, 3, 10, 10]]
    paths = offset_paths(line)
    along = np.array([-5.0, 0.5, 2.0, 2.5, 9.0, 10.0, 50.0])
    for k, y in enumerate((0.0, -1.0, 1.0)):
        poses = paths.poses_at(np.full(7, k), along)
        np.testing.assert_allclose(poses[:, 0], np.clip(along, 1e-5, 10.0), atol=1e-12)
        np.testing.assert_allclose(poses[:, 1], y, atol=1e-12)


@pytest.mark.parametrize(
    ("start", "reach", "low", "high"),
    [
        (0.0, 30.0, 0.0, 30.0),  # vertices at both ends
        (5.0, 30.0, 10.0, 30.0),  # own vertices only: 10, 20, 30
        (5.0, 10.0, 5.0, 15.0),  # one vertex inside: the exact piece
        (12.0, 5.0, 12.0, 17.0),  # no vertex inside: the exact piece
        (25.0, 100.0, 30.0, 40.0),  # past the end: up to the last vertex
        (35.0, 100.0, 35.0, 40.0),
    ],
)
def test_corridor_spans_vertices_or_the_exact_piece(
    start: float, reach: float, low: float, high: float
) -> None:
    corridor = offset_paths(straight_line(40.0, 10.0)).corridor(0, start, reach)
    expected = (low - 1.1485, -1.1485, high + 1.1485, 1.1485)  # square caps
    np.testing.assert_allclose(corridor.bounds, expected)
    assert corridor.area == pytest.approx((high - low + 2.297) * 2.297)


def test_corridor_of_a_car_past_the_end_is_a_square_around_it() -> None:
    corridor = offset_paths(straight_line(40.0, 10.0)).corridor(0, 40.0, 10.0)
    np.testing.assert_allclose(corridor.bounds, (38.8515, -1.1485, 41.1485, 1.1485))
    assert substring(shapely.LineString([(0, 0), (40, 0)]), 40.0, 50.0).geom_type == "Point"


# Leaders.


def leaders_of(agents: Sequence[Agent], progress: Sequence[float], tick: int = 2) -> np.ndarray:
    """Leaders of proposals on one straight path, 200 m long; the car stands at 10 m."""
    paths = offset_paths(straight_line())
    pose = np.array([10.0, 0.0, 0.0])
    forecast = forecast_tracks(agents, np.array([11.461, 0.0]))
    search = prepare_search(paths, np.full(3, 10.0), 75.0, forecast, pose)
    return search.leaders(tick, np.zeros(len(progress), dtype=np.int64), np.array(progress))


def test_proposals_of_a_path_share_one_leader_record() -> None:
    car = box_agent("car", "vehicle", [50.0, 0.0, 0.0, 0.0, 0.0], (4.0, 2.0))
    walker = box_agent("walker", "pedestrian", [70.0, 0.0, np.pi / 3, 1.0, 1.7320508], (1.0, 1.0))
    first, free, last = leaders_of([car, walker], [20.0, 90.0, 60.0], tick=2)
    np.testing.assert_allclose(first, [20 + (48 - 20 - 4.049), 0.0, 0.0])
    np.testing.assert_allclose(free, [200.0, 0.0, 2.588])
    np.testing.assert_allclose(last[1:], [2 * np.cos(np.pi / 3), 2.588], atol=1e-7)  # rear stays
    blocked, free = leaders_of([walker], [20.0, 90.0])
    assert blocked[2] == 0.0
    np.testing.assert_allclose(free, [200.0, blocked[1], 2.588])  # speed stays
    assert blocked[1] == pytest.approx(1.0)


def test_every_path_starts_a_new_leader_record() -> None:
    walker = box_agent("walker", "pedestrian", [70.0, 0.0, 0.0, 2.0, 0.0], (1.0, 1.0))
    paths = offset_paths(straight_line())
    forecast = forecast_tracks([walker], np.zeros(2))
    search = prepare_search(paths, np.full(3, 10.0), 75.0, forecast, np.array([10.0, 0, 0]))
    leaders = search.leaders(2, np.array([0, 0, 1, 2]), np.array([20.0, 90.0, 20.0, 90.0]))
    np.testing.assert_allclose(leaders[:, 1], [2.0, 2.0, 2.0, 0.0])
    np.testing.assert_allclose(leaders[:, 2], [0.0, 2.588, 0.0, 2.588])


def test_leader_is_the_nearest_box_ahead_in_the_corridor() -> None:
    rows = {"behind": (5.0, 0.0), "far": (60.0, 0.0), "near": (40.0, 1.6), "beside": (30.0, 2.2)}
    agents = [
        box_agent(token, "traffic_cone", [x, y, 0, 0, 0], (1.0, 1.0))
        for token, (x, y) in rows.items()
    ]
    (leader,) = leaders_of(agents, [12.0])
    assert leader[0] == pytest.approx(12.0 + (39.5 - 12.0 - 4.049))
    (sees_far,) = leaders_of(agents, [40.5])
    assert sees_far[0] == pytest.approx(40.5 + (59.5 - 40.5 - 4.049))


@pytest.mark.parametrize("seed", range(5))
def test_among_overlapping_tracks_the_search_tree_decides(seed: int) -> None:
    rng = np.random.default_rng(seed)
    crowd = [  # a different speed each, so that the leader's speed tells who it is
        box_agent(str(i), "pedestrian", [*row, 0.0, 0.1 + 0.1 * i, 0.0], (0.8, 0.8))
        for i, row in enumerate(rng.uniform([46, -1.5], [56, 1.5], size=(24, 2)))
    ]
    scene = make_scene(crowd, start=10.0, limit=15.0)
    progress = np.array([44.0, 46.0, 47.0, 48.0, 49.0])
    expected = slow_leaders(scene, scene.centerline, 15.0, progress, 2)
    np.testing.assert_allclose(leaders_of(crowd, progress.tolist()), expected, atol=1e-9)


def test_track_in_contact_at_the_start_is_no_leader_and_costs_nothing() -> None:
    touching = box_agent("a", "vehicle", [15.0, 0.0, 0.0, 0.0, 0.0], (3.0, 2.0))
    (leader,) = leaders_of([touching], [10.0])
    np.testing.assert_allclose(leader, [200.0, 0.0, 2.588])
    blocked = [replace(touching, states=touching.states + np.array([10.0, 0, 0, 0, 0]))]
    free_plan, plan = plan_closed(make_scene()), plan_closed(make_scene(blocked))
    assert isinstance(free_plan, ClosedPlan)
    np.testing.assert_allclose(plan.scores, free_plan.scores)
    np.testing.assert_allclose(plan.poses, free_plan.poses)


def test_leaders_move_as_forecast() -> None:
    car = box_agent("car", "vehicle", [40.0, 0.0, 0.0, 5.0, 0.0], (4.0, 2.0))
    positions = [leaders_of([car], [20.0], tick=tick)[0, 0] for tick in (2, 4, 20)]
    np.testing.assert_allclose(np.array(positions) - (38.0 - 4.049), [1.0, 2.0, 10.0])


# The planner.


def test_plan_on_an_empty_road_follows_the_centreline_at_the_limit() -> None:
    plan = plan_closed(make_scene())
    assert plan.index == 4  # ties and losses of the offset paths: the centreline is nearest
    assert plan.scores[4] == pytest.approx(1.0)
    np.testing.assert_allclose(plan.poses[:, 1:], 0.0, atol=1e-12)
    np.testing.assert_allclose(plan.poses[0, 0], 20.0)
    speeds = np.diff(plan.poses[:, 0]) / 0.1
    assert speeds[-1] > speeds[1] > 7.0


def test_plan_starts_on_the_path_beside_the_car() -> None:
    plan = plan_closed(make_scene(aside=0.4))
    np.testing.assert_allclose(plan.poses[0], [20.0, (0.0, -1.0, 1.0)[plan.index // 5], 0.0])


def test_proposals_are_numbered_by_path_then_by_target_speed() -> None:
    roll_out = start_proposals(make_scene(limit=10.0))
    np.testing.assert_allclose(roll_out.target_speeds, np.tile([2.0, 4.0, 6.0, 8.0, 10.0], 3))
    np.testing.assert_array_equal(roll_out.path_index, np.repeat([0, 1, 2], 5))
    assert len(FRACTIONS) == 5


def test_unknown_speed_limit_is_fifteen() -> None:
    scene = make_scene(limit=None)
    np.testing.assert_allclose(
        start_proposals(scene).target_speeds[:5], [3.0, 6.0, 9.0, 12.0, 15.0]
    )
    unknown, known = plan_closed(scene), plan_closed(replace(scene, speed_limit=15.0))
    np.testing.assert_array_equal(unknown.poses, known.poses)
    np.testing.assert_array_equal(unknown.scores, known.scores)


def test_plan_stops_for_a_barrier() -> None:
    barrier = box_agent("b", "barrier", [45.0, 0.0, 0.0, 0.0, 0.0], (0.5, 8.0))
    plan = plan_closed(make_scene([barrier]))
    assert plan.poses[:, 0].max() + 4.049 < 44.75
    assert plan.scores[plan.index] > 0


def test_first_of_equal_scores_wins() -> None:
    wall = box_agent("b", "barrier", [36.0, 0.0, 0.0, 0.0, 0.0], (20.0, 12.0))
    plan = plan_closed(make_scene([wall], speed=0.0))  # nobody comes 5 m far: progress is free
    np.testing.assert_array_equal(plan.scores, 1.0)
    assert plan.index == 0


@pytest.mark.parametrize("num_points", [0, 1])
def test_centreline_without_two_points_is_refused(num_points: int) -> None:
    with pytest.raises(ValueError, match="at least 2 points, found"):
        offset_paths(np.zeros((num_points, 3)))


def test_centreline_without_length_is_refused() -> None:
    with pytest.raises(ValueError, match="some length"):
        offset_paths(np.zeros((3, 3)))
