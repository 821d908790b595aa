"""The PDM score's parts against slow versions written here: tracker, bicycle, geometry, filters."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import shapely
from pdms_scenes import agent, rectangle, straight_plan, straight_road

from maskworld.metrics.pdms import EgoState, MapPolygon, PDMScene, simulate, track
from maskworld.metrics.pdms.collisions import LOOK_AHEAD, collision_scores
from maskworld.metrics.pdms.comfort import comfort_terms, filter_matrix
from maskworld.metrics.pdms.geometry import Boxes, Line, boxes_touch
from maskworld.metrics.pdms.roads import RoadMap
from maskworld.metrics.pdms.scorer import driving_direction, off_road
from maskworld.metrics.pdms.simulator import reference_profiles, wrap
from maskworld.metrics.pdms.vehicle import (
    FRONT,
    LENGTH,
    REAR,
    WHEEL_BASE,
    WIDTH,
    box_centre,
    box_corners,
)

DT = 0.1


def slow_profiles(poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Speed and curvature by the least-squares problems as they are written down."""
    steps, headings = np.diff(poses[:, :2], axis=0), poses[:-1, 2]
    design = np.zeros((80, 40))
    for i in range(40):
        for axis, part in enumerate((math.cos(headings[i]), math.sin(headings[i]))):
            design[2 * i + axis, 0] = DT * part
            design[2 * i + axis, 1 : i + 1] = DT**2 * part
    penalty = np.zeros((38, 40))
    penalty[np.arange(37), np.arange(1, 38)] = 1
    penalty[37, 38:] = -1, 1
    normal = design.T @ design + 1e-4 * penalty.T @ penalty
    found = np.linalg.pinv(normal) @ design.T @ steps.reshape(-1)
    speed = found[0] + DT * np.concatenate([[0], np.cumsum(found[1:])])
    turns = (np.diff(poses[:, 2]) + math.pi) % (2 * math.pi) - math.pi
    design = np.zeros((40, 40))
    design[:, 0] = DT * speed
    for i in range(40):
        design[i, 1 : i + 1] = DT**2 * speed[i]
    normal = design.T @ design + np.diag([1e-10] + [1e-2] * 39)
    found = np.linalg.pinv(normal) @ design.T @ turns
    return speed, found[0] + DT * np.concatenate([[0], np.cumsum(found[1:])])


def slow_simulation(poses: np.ndarray, initial: np.ndarray) -> np.ndarray:
    """One plan, tracked with the ten matrices of the lateral model multiplied out."""
    speeds, curvatures = slow_profiles(poses)
    states = [np.array(initial)]
    for k in range(40):
        x, y, h, v, _, a, _, delta, *_ = states[-1]
        v_ref = speeds[min(k + 10, 39)]
        rate = 0.0
        if v_ref <= 0.2 and v <= 0.2:
            command = -0.5 * (v - v_ref)
        else:
            command = 10 / 11 * (v_ref - v)
            x_ref, y_ref, h_ref = poses[k]
            e_y = -math.sin(h_ref) * (x - x_ref) + math.cos(h_ref) * (y - y_ref)
            e_psi = (h - h_ref + math.pi) % (2 * math.pi) - math.pi
            transition, effect, drift = np.eye(3), np.zeros(3), np.zeros(3)
            for n in range(10):
                v_n = v + command * n * DT
                step = np.eye(3)
                step[0, 1], step[1, 2] = v_n * DT, v_n * DT / WHEEL_BASE
                bend = curvatures[min(k + n, 39)]
                transition = step @ transition
                effect = step @ effect + [0, 0, DT]
                drift = step @ drift - [0, v_n * bend * DT, 0]
            error = transition @ [e_y, e_psi, delta] + drift
            error[1:] = (error[1:] + math.pi) % (2 * math.pi) - math.pi
            weights = np.array([1.0, 10.0, 0.0])
            rate = -(effect @ (weights * error)) / (effect @ (weights * effect) + 1)
        a_new = a + DT / (DT + 0.2) * (command - a)
        delta_new = delta + DT / (DT + 0.05) * DT * rate
        steering_rate = (delta_new - delta) / DT
        delta_new = min(max(delta_new, -math.pi / 3), math.pi / 3)
        v_new = v + DT * a_new
        yaw_rate = v_new * math.tan(delta_new) / WHEEL_BASE
        states.append(
            np.array(
                [
                    x + DT * v * math.cos(h),
                    y + DT * v * math.sin(h),
                    h + DT * v * math.tan(delta) / WHEEL_BASE,
                    v_new,
                    0,
                    a_new,
                    0,
                    delta_new,
                    steering_rate,
                    yaw_rate,
                    (yaw_rate - states[-1][9]) / DT,
                ]
            )
        )
    return np.stack(states)


def plans_of_all_kinds() -> np.ndarray:
    t = 0.5 * np.arange(1, 9)
    rng = np.random.default_rng(3)
    return np.stack(
        [
            straight_plan(8.0),
            straight_plan(6.0, 3.0),
            np.zeros((8, 3)),
            np.stack([6 * (1 - np.exp(-t)), 0 * t, 0 * t], axis=1),  # stops
            np.stack([-2 * t, 0 * t, 0 * t], axis=1),  # backwards
            np.stack([5 * np.sin(t), 5 - 5 * np.cos(t), t], axis=1),  # more than half a turn
            np.stack([3 * t, 0 * t, 2.5 * t], axis=1),  # spins
            np.stack([4 * t, t, np.full(8, 3.1)], axis=1) + rng.normal(0, 0.3, (8, 3)),
            rng.normal(0, 10, (8, 3)),
        ]
    )


@pytest.mark.parametrize("vx", [8.0, 0.1, -1.5])
def test_the_simulation_equals_a_slow_one_step_by_step(vx: float) -> None:
    ego = EgoState(3.0, -7.0, 2.9, vx=vx, ax=-0.7, ay=0.3, vy=0.1, steer=0.1, yaw_rate=0.2)
    poses = track(plans_of_all_kinds(), ego)
    found = simulate(poses, np.repeat(ego.state[None], len(poses), axis=0))
    for i, (own, states) in enumerate(zip(poses, found)):
        slow = slow_simulation(own, ego.state)
        slow[:, 2] = wrap(slow[:, 2])
        turn = wrap(states[:, 2] - slow[:, 2])
        np.testing.assert_allclose(turn, 0, atol=1e-8, err_msg=f"heading of plan {i}")
        rest = [c for c in range(11) if c != 2]
        np.testing.assert_allclose(states[:, rest], slow[:, rest], atol=1e-6, err_msg=f"plan {i}")


def test_plans_of_different_scenes_are_simulated_side_by_side() -> None:
    egos = [EgoState(0.0, 0.0, 0.0, vx=8.0), EgoState(5e5, 4e6, -2.0, vx=3.0, steer=-0.2)]
    plans = plans_of_all_kinds()
    poses = [track(plans, ego) for ego in egos]
    initial = [np.repeat(ego.state[None], len(plans), axis=0) for ego in egos]
    together = simulate(np.concatenate(poses), np.concatenate(initial))
    alone = [simulate(p, i) for p, i in zip(poses, initial)]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=0, atol=1e-8)


def test_a_steady_plan_has_its_own_speed_and_curvature() -> None:
    angle = 0.06 * np.arange(41)  # 6 m/s on a circle of 10 m
    poses = np.stack([10 * np.sin(angle), 10 - 10 * np.cos(angle), angle], axis=1)
    speed, curvature = reference_profiles(poses[None])
    np.testing.assert_allclose(speed, 6, rtol=1e-3)
    np.testing.assert_allclose(curvature, 0.1, rtol=1e-3)


def test_tracked_plans_are_rounded_to_float32_and_interpolated_across_pi() -> None:
    ego = EgoState(1e6, 0.0, 3.0)
    plan = np.zeros((1, 8, 3))
    plan[0, :, 0] = 0.1
    plan[0, :, 2] = 0.5
    poses = track(plan, ego)[0]
    assert poses[5, 0] == pytest.approx(1e6 + np.float64(np.float32(0.1)) * math.cos(3.0), abs=1e-9)
    np.testing.assert_allclose(poses[:6, 2], wrap(3.0 + 0.1 * np.arange(6)), atol=1e-7)
    assert (np.abs(poses[:, 2]) <= math.pi).all()


def random_polygon(rng: np.random.Generator) -> np.ndarray:
    """Star-shaped, so simple; some vertices share coordinates."""
    n = int(rng.integers(3, 30))
    angle = np.sort(rng.uniform(0, 2 * math.pi, n))
    radius = rng.uniform(1, 10, n)
    xy = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return np.round(xy, 1 if rng.random() < 0.5 else 9) + rng.uniform(-3, 3, 2).round(1)


def road_map(types: list[str], on_route: list[bool], outlines: list[Any]) -> RoadMap:
    told = zip(types, on_route, outlines, strict=True)
    return RoadMap([MapPolygon(f"{i}", *each) for i, each in enumerate(told)])


def test_points_are_found_in_polygons_as_shapely_finds_them() -> None:
    rng = np.random.default_rng(5)
    outlines = [random_polygon(rng) for _ in range(60)]
    valid = [xy for xy in outlines if shapely.Polygon(xy).is_valid]
    assert len(valid) > 40
    road = road_map(
        ["lane", "roadblock"] * len(valid),
        [True] * (2 * len(valid)),
        [xy for xy in valid for _ in range(2)],
    )
    points = np.concatenate(
        [
            rng.uniform(-14, 14, (3000, 2)),
            np.concatenate(valid) + np.array([0.0, 1e-3]),  # where slabs meet
            rng.integers(-10, 10, (500, 2)) + 0.0,
        ]
    )
    union = np.zeros(len(points), dtype=bool)
    for xy in valid:
        shape = shapely.Polygon(xy)
        inside = shapely.contains_xy(shape, points)
        alone = road_map(["roadblock"], [False], [xy])
        near = shapely.distance(shape.boundary, shapely.points(points)) < 1e-9
        np.testing.assert_array_equal(alone.in_drivable_area(points)[~near], inside[~near])
        union |= inside
    np.testing.assert_array_equal(road.in_drivable_area(points[:3000]), union[:3000])
    np.testing.assert_array_equal(road.in_route_lane(points[:3000]), union[:3000])


def test_the_outline_is_outside() -> None:
    road = road_map(["carpark"], [False], [rectangle(0, 4, 0, 2)])
    points = np.array([[1, 1], [0, 1], [4, 1], [1, 0], [1, 2], [0, 0], [4, 2], [5, 1], [2, 1e-12]])
    expected = [True, False, False, False, False, False, False, False, True]
    assert road.in_drivable_area(points.astype(float)).tolist() == expected


def test_lanes_are_no_drivable_area_and_connectors_are_lanes() -> None:
    types = ["lane", "lane_connector", "intersection"]
    outlines = [rectangle(4 * i, 4 * i + 4, 0, 4) for i in range(3)]
    road = road_map(types, [False, True, True], outlines)
    points = np.array([[2.0, 2.0], [6.0, 2.0], [10.0, 2.0]])
    assert road.in_drivable_area(points).tolist() == [False, False, True]
    assert road.in_route_lane(points).tolist() == [False, True, False]
    assert road.in_intersection(points).tolist() == [False, False, True]
    boxes = np.array([rectangle(3, 5, 1, 2), rectangle(1, 2, 1, 2), rectangle(7, 9, 1, 2)])
    assert road.in_multiple_lanes(boxes).tolist() == [True, False, False]
    wide = road_map([*types, "lane"], [False] * 4, [*outlines, rectangle(0, 9.5, 0, 9)])
    assert wide.in_multiple_lanes(boxes).tolist() == [False, False, False]


def test_points_far_apart_are_found_among_many_polygons() -> None:
    outlines = [rectangle(i, i + 1, 0, 1) for i in range(9)]
    road = road_map(["carpark"] * 9, [False] * 9, outlines)
    points = np.array([[i + 0.5, 0.5] for i in range(9)] + [[1e6, 0.5], [4.5, 1.5]])
    assert road.in_drivable_area(points).tolist() == [True] * 9 + [False] * 2


def slow_box(x: float, y: float, heading: float, length: float, width: float) -> shapely.Polygon:
    corners = np.array(rectangle(-length / 2, length / 2, -width / 2, width / 2))
    cos, sin = math.cos(heading), math.sin(heading)
    return shapely.Polygon(corners @ np.array([[cos, sin], [-sin, cos]]) + [x, y])


def test_boxes_touch_where_shapely_says_they_intersect() -> None:
    rng = np.random.default_rng(7)
    n = 3000
    headings = rng.uniform(-7, 7, (2, n))
    a, b = (
        Boxes(
            rng.uniform(-4, 4, n),
            rng.uniform(-4, 4, n),
            np.cos(heading),
            np.sin(heading),
            rng.uniform(0, 3, n),
            rng.uniform(0.2, 2, n),
        )
        for heading in headings
    )
    shapes = [
        [
            slow_box(x, y, h, 2 * length, 2 * width)
            for h, x, y, _, _, length, width in zip(heading, *boxes)
        ]
        for heading, boxes in zip(headings, (a, b))
    ]
    expected = shapely.intersects(*(np.array(s) for s in shapes))
    assert 0.2 < expected.mean() < 0.8
    np.testing.assert_array_equal(boxes_touch(a, b), expected)
    segment = a._replace(half_length=0.0)
    ends = [slow_box(x, y, h, 1e-9, 2 * w) for h, x, y, _, _, _, w in zip(headings[0], *a)]
    np.testing.assert_array_equal(
        boxes_touch(segment, b), shapely.intersects(np.array(ends), np.array(shapes[1]))
    )


def test_touching_counts_and_absence_touches_nothing() -> None:
    one = np.ones(1)
    box = Boxes(0 * one, 0 * one, one, 0 * one, 1.0, 1.0)
    assert boxes_touch(box, box._replace(x=2 * one))[0]
    assert not boxes_touch(box, box._replace(x=2.0001 * one))[0]
    assert not boxes_touch(box, box._replace(x=np.nan * one))[0]


def test_distance_along_a_line_is_shapelys() -> None:
    rng = np.random.default_rng(9)
    points = np.cumsum(rng.normal(0, 1, (30, 2)), axis=0)
    points[10] = points[11]  # a segment without length
    queries = rng.uniform(-8, 8, (300, 2))
    expected = shapely.line_locate_point(shapely.LineString(points), shapely.points(queries))
    np.testing.assert_allclose(Line.of(points).project(queries), expected, atol=1e-9)


def test_the_car_reaches_from_its_rear_axle_to_both_bumpers() -> None:
    pose = np.array([1.0, 2.0, 0.0])
    corners = box_corners(pose)
    np.testing.assert_allclose(corners.max(axis=0), [1 + FRONT, 2 + WIDTH / 2])
    np.testing.assert_allclose(corners.min(axis=0), [1 - REAR, 2 - WIDTH / 2])
    np.testing.assert_allclose(box_centre(pose), corners.mean(axis=0))
    assert pytest.approx(5.176) == LENGTH


def slow_filter(values: np.ndarray, window: int, degree: int, derivative: int) -> np.ndarray:
    """Polynomials fitted window by window."""
    n, half = len(values), window // 2
    result = np.empty(n)
    for tick in range(n):
        start = min(max(tick - half + (window % 2 == 0), 0), n - window)
        full = half <= tick < n - half
        place = tick + 0.5 if full and window % 2 == 0 else float(tick)
        ticks = np.arange(start, start + window)
        fit = np.polynomial.Polynomial.fit(DT * ticks, values[ticks], degree)
        result[tick] = (fit.deriv(derivative) if derivative else fit)(DT * place)
    return result


@pytest.mark.parametrize(
    ("window", "degree", "derivative"),
    [(41, 2, 0), (41, 2, 1), (8, 2, 0), (5, 2, 1), (5, 3, 2)],
)
def test_filters_are_polynomial_fits(window: int, degree: int, derivative: int) -> None:
    values = np.random.default_rng(window).normal(0, 1, 41)
    expected = slow_filter(values, window, degree, derivative)
    found = filter_matrix(window, degree, derivative) @ values
    np.testing.assert_allclose(found, expected, atol=1e-8 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize(
    ("column", "value", "term"),
    [(5, 2.5, 0), (5, -4.2, 0), (6, 5.0, 1)],
)
def test_steady_acceleration_beyond_its_bound_breaks_one_term(
    column: int, value: float, term: int
) -> None:
    states = np.zeros((2, 41, 11))
    states[0, :, column] = value
    states[1, :, column] = 0.9 * value
    terms = comfort_terms(states)
    assert terms[1].all()
    assert np.flatnonzero(~terms[0]).tolist() == [term]


@pytest.mark.parametrize(("rate", "kept"), [(0.94, True), (0.96, False)])
def test_yaw_rate_is_bounded_and_unwrapped(rate: float, kept: bool) -> None:
    states = np.zeros((1, 41, 11))
    states[0, :, 2] = wrap(3.0 + rate * DT * np.arange(41))
    assert comfort_terms(states)[0].tolist() == [True] * 5 + [kept]


@pytest.mark.parametrize(("column", "term", "bound"), [(5, 3, 4.13), (5, 2, 8.37), (6, 2, 8.37)])
def test_jerk_is_bounded_along_the_car_and_in_all(column: int, term: int, bound: float) -> None:
    ramp = DT * np.arange(41)  # the magnitude rises all the time
    response = np.abs(slow_filter(slow_filter(ramp, 8, 2, 0), 41, 2, 1)).max()
    states = np.zeros((2, 41, 11))
    for row, share in zip(states, (0.999, 1.001)):
        row[:, column] = share * bound / response * ramp
    assert comfort_terms(states)[:, term].tolist() == [True, False]
    if column == 6:  # sideways there is none along the car
        assert comfort_terms(states)[:, 3].all()


@pytest.mark.parametrize(("step", "score"), [(0.18, 1), (0.185, 0.5), (0.54, 0.5), (0.55, 0)])
def test_driving_direction_adds_up_eleven_increments(step: float, score: float) -> None:
    centres = np.zeros((1, 41, 2))
    centres[0, :, 0] = step * np.arange(41)
    nowhere = road_map(["lane"], [True], [rectangle(-9, -8, -9, -8)])
    assert driving_direction(centres, nowhere)[0] == score
    # Ten increments off the route are below the bound, and increments on it do not count.
    ten = road_map(["lane"], [True], [rectangle(-1, 30.5 * step, -1, 1)])
    assert driving_direction(centres, ten)[0] == (1 if step < 0.2 else 0.5)


def test_collisions_equal_a_search_over_all_ticks_with_shapely() -> None:
    rng = np.random.default_rng(11)
    agents = tuple(
        agent(
            rng.uniform(-5, 35),
            rng.uniform(-8, 8),
            heading=rng.uniform(-3, 3),
            speed=rng.uniform(0, 6),
            kind=("vehicle", "barrier", "pedestrian")[i % 3],
            token=f"{i}",
        )
        for i in range(8)
    )
    states_with_gap = agents[0].states.copy()
    states_with_gap[10:20] = np.nan
    agents = (replace(agents[0], states=states_with_gap), *agents[1:])
    scene = straight_road(agents=agents)
    plans = np.stack([straight_plan(rng.uniform(0, 10), rng.uniform(-4, 6)) for _ in range(25)])
    poses = track(plans, scene.ego)
    states = simulate(poses, np.repeat(scene.ego.state[None], len(poses), axis=0))
    found = collision_scores(states, scene.tracks, scene.road, off_road(states, scene.road))
    expected = [slow_collisions(own, scene) for own in states]
    assert 0.2 < found.nc.mean() < 0.95
    assert found.ttc.mean() < 0.95
    np.testing.assert_array_equal(np.stack([found.nc, found.ttc], axis=1), expected)


def slow_collisions(states: np.ndarray, scene: PDMScene) -> tuple[float, float]:
    """NC and TTC of one plan with the ignore lists of the released code."""
    nc = ttc = 1.0
    ignored: dict[str, set[int]] = {"nc": set(), "ttc": set()}
    lanes = [shapely.Polygon(p.xy) for p in scene.polygons if p.type == "lane"]
    block = next(shapely.Polygon(p.xy) for p in scene.polygons if p.type == "roadblock")
    for tick, state in enumerate(states):
        x, y, h = state[:3]
        speed = math.hypot(state[3], state[4])
        corners = [shapely.Point(c) for c in box_corners(state)]
        held = [[lane.contains(c) for c in corners] for lane in lanes]
        misplaced = (sum(map(any, held)) > 1 and not any(map(all, held))) or not all(
            block.contains(c) for c in corners
        )
        for look in LOOK_AHEAD.tolist():
            ahead = state.copy()
            ahead[:2] += speed * DT * look * np.array([math.cos(h), math.sin(h)])
            ego = shapely.Polygon(box_corners(ahead))
            for i, other in enumerate(scene.agents):
                ox, oy, oh = other.states[tick + look, :3]
                if math.isnan(ox):
                    continue
                box = slow_box(ox, oy, oh, other.length, other.width)
                if not ego.intersects(box):
                    continue
                bearing = abs(math.remainder(math.atan2(oy - y, ox - x) - h, 2 * math.pi))
                if look == 0 and i not in ignored["nc"]:
                    ignored["nc"].add(i)
                    moving = other.type != "barrier"
                    standing = not moving or math.hypot(*other.states[0, 3:]) <= 0.05
                    front = shapely.LineString([corners[0], corners[3]])
                    lateral = misplaced or front.intersects(box)
                    if speed > 0.05 and (standing or (bearing <= math.radians(150) and lateral)):
                        nc = min(nc, 0.0 if moving else 0.5)
                if i not in ignored["ttc"] and speed >= 5e-3:
                    ignored["ttc"].add(i)
                    beside = misplaced and bearing <= math.radians(150)
                    if bearing < math.radians(30) or beside:
                        ttc = 0.0
    return nc, ttc
