"""The PDM score: equal to the released scorer on the reference scenes, and to closed forms."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pdms_scenes import (
    agent,
    needs_reference,
    rectangle,
    reference_files,
    straight_plan,
    straight_road,
)

from maskworld.metrics.pdms import (
    MapPolygon,
    PDMScene,
    PDMScores,
    read_scene,
    reference_plan,
    result_json,
    score_batch,
    score_plans,
    score_states,
    simulate,
    track,
)

SCENE_PLANS = 399


def all_plans(scene: PDMScene) -> np.ndarray:
    return np.stack(list(scene.plans.values()))


def assert_same(found: Any, expected: Any, path: str) -> None:
    """Numbers to 1e-6, everything else exactly."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert_same(found[key], value, f"{path}/{key}")
    elif isinstance(expected, list):
        assert np.array(found).dtype == np.array(expected).dtype, path
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6, err_msg=path)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-6), path
    else:
        assert found == expected, path


@needs_reference
def test_everything_agrees_with_the_released_scorer_on_all_reference_scenes() -> None:
    """End to end, in one batch: reference planner, tracking, simulation, all scores."""
    files = reference_files()
    scenes = [read_scene(path) for path, _ in files]
    references = [reference_plan(scene) for scene in scenes]
    plans = [all_plans(scene) for scene in scenes]
    batch = score_batch(scenes, plans, [reference.poses for reference in references])
    num_plans = 0
    for (path, expected), scene, scores, reference in zip(files, scenes, batch, references):
        found = json.loads(json.dumps(result_json(list(scene.plans), scores, reference)))
        for result in expected["results"].values():
            result.pop("tracked", None)
        assert_same(found, expected, path.stem)
        num_plans += len(expected["results"])
    assert num_plans == SCENE_PLANS


@needs_reference
def test_plans_become_the_poses_that_the_released_code_tracks() -> None:
    num_tracked = 0
    for path, expected in reference_files():
        scene = read_scene(path)
        poses = track(all_plans(scene), scene.ego)
        for found, result in zip(poses, expected["results"].values()):
            if "tracked" in result:
                np.testing.assert_allclose(found, result["tracked"], rtol=0, atol=1e-9)
                num_tracked += 1
    assert num_tracked > 90


@needs_reference
def test_scores_without_a_planner_agree_given_the_reference_poses() -> None:
    """As the end-to-end test where results hold the reference's poses, without PDM-Closed."""
    for path, expected in reference_files():
        if "reference_tracked" not in expected["info"]:
            continue
        scene = read_scene(path)
        poses = np.array(expected["info"]["reference_tracked"])
        scores = score_plans(scene, all_plans(scene), poses)
        assert scores.reference is not None
        for i, result in enumerate(expected["results"].values()):
            for mine, wanted in ((scores, result), (scores.reference, result["reference"])):
                for name, values in mine.named().items():
                    assert values[i] == pytest.approx(wanted[name], abs=1e-6), (path, i, name)


def moved(scene: PDMScene, angle: float, shift: tuple[float, float]) -> PDMScene:
    """The same scene in another global frame."""
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    ego = scene.ego
    x, y = turn @ [ego.x, ego.y] + shift
    line = scene.centerline.copy()
    line[:, :2] = line[:, :2] @ turn.T + shift
    line[:, 2] += angle
    agents = []
    for other in scene.agents:
        states = other.states.copy()
        states[:, :2] = states[:, :2] @ turn.T + shift
        states[:, 2] += angle
        states[:, 3:] = states[:, 3:] @ turn.T
        agents.append(replace(other, states=states))
    return replace(
        scene,
        ego=replace(ego, x=float(x), y=float(y), heading=ego.heading + angle),
        polygons=tuple(replace(p, xy=p.xy @ turn.T + shift) for p in scene.polygons),
        centerline=line,
        agents=tuple(agents),
    )


def busy_scene() -> PDMScene:
    """Traffic, a crossing, a corner off the road, lanes side by side."""
    road = straight_road()
    crossing = MapPolygon("crossing", "intersection", False, rectangle(25.3, 33.7, -15, 15))
    return straight_road(
        polygons=(*road.polygons, crossing),
        agents=(
            agent(17.3, 0.2, speed=5.1, token="lead"),
            agent(31.2, -14.1, heading=1.5, speed=6.3, token="crossing"),
            agent(9.1, 4.2, speed=7.2, token="beside"),
            agent(22.4, -2.9, kind="barrier", token="barrier"),
        ),
    )


def many_plans(num_plans: int) -> np.ndarray:
    """Plans of all speeds to all sides, some of them wild."""
    rng = np.random.default_rng(0)
    t = 0.5 * np.arange(1, 9)
    plans = [straight_plan(rng.uniform(0, 14), rng.uniform(-5, 7)) for _ in range(num_plans)]
    plans[::5] = [plan + rng.normal(0, 0.7, plan.shape) for plan in plans[::5]]
    plans.append(np.stack([-2 * t, 0 * t, 0 * t], axis=1))  # backwards
    plans.append(np.stack([3 * np.sin(t), 3 - 3 * np.cos(t), t], axis=1))  # round and round
    return np.stack(plans)


def assert_equal_scores(a: PDMScores, b: PDMScores, atol: float = 0.0) -> None:
    for name, values in {**a.named(), "progress": a.progress_raw}.items():
        other = b.progress_raw if name == "progress" else b.named()[name]
        np.testing.assert_allclose(values, other, rtol=0, atol=atol, err_msg=name)
    np.testing.assert_array_equal(a.time_to_collision_tick, b.time_to_collision_tick)
    np.testing.assert_array_equal(a.comfort_terms, b.comfort_terms)


@pytest.mark.parametrize(("angle", "shift"), [(0.7, (3.0, -8.0)), (-2.9, (6.6e5, 4.8e6))])
def test_scores_do_not_depend_on_the_global_frame(angle: float, shift: tuple[float, float]) -> None:
    plans = many_plans(60)
    here = score_plans(busy_scene(), plans)
    for name in ("NC", "DAC", "TTC", "C", "DDC"):  # the scene tells plans apart
        assert len(np.unique(here.named()[name])) > 1, name
    assert_equal_scores(here, score_plans(moved(busy_scene(), angle, shift), plans), 1e-6)


def test_scores_do_not_depend_on_the_order_of_plans_agents_and_polygons() -> None:
    plans, scene = many_plans(20), busy_scene()
    order = np.random.default_rng(1).permutation(len(plans))
    turned = replace(scene, agents=scene.agents[::-1], polygons=scene.polygons[::-1])
    scores, other = score_plans(scene, plans), score_plans(turned, plans[order])
    np.testing.assert_array_equal(scores.pdms[order], other.pdms)
    np.testing.assert_array_equal(
        scores.time_to_collision_tick[order], other.time_to_collision_tick
    )


def test_a_batch_of_scenes_equals_one_call_per_scene_and_per_plan() -> None:
    scenes = [busy_scene(), straight_road(), moved(busy_scene(), 2.0, (5.0, 5.0))]
    plans = [many_plans(6), many_plans(0), many_plans(3)]
    for scene, own, scores in zip(scenes, plans, score_batch(scenes, plans)):
        assert_equal_scores(scores, score_plans(scene, own), 1e-9)
        for i, plan in enumerate(own):
            single = score_plans(scene, plan[None])
            assert single.pdms[0] == pytest.approx(scores.pdms[i], abs=1e-9)


def test_no_plans_and_no_scenes_give_no_scores() -> None:
    scores = score_plans(straight_road(), np.zeros((0, 8, 3)))
    assert scores.pdms.shape == (0,)
    assert scores.states.shape == (0, 41, 11)
    assert score_batch([], []) == []


def test_an_empty_road_driven_as_the_reference_scores_one() -> None:
    scores = score_plans(straight_road(), straight_plan(8.0)[None])
    assert {name: float(v[0]) for name, v in scores.named().items()} == dict.fromkeys(
        ("NC", "DAC", "EP", "TTC", "C", "DDC", "PDMS"), 1.0
    )
    assert scores.progress_raw[0] == pytest.approx(32.0, abs=0.1)
    assert scores.time_to_collision_tick[0] == -1


def test_progress_is_compared_with_the_reference_or_with_the_pool() -> None:
    plans = np.stack([straight_plan(v) for v in (4.0, 8.0, 9.0)])
    pair, pool = (score_plans(straight_road(), plans, pool=pool) for pool in (False, True))
    assert pair.reference is not None
    assert pool.reference is not None
    raw = pair.progress_raw
    np.testing.assert_allclose(pair.ep, [raw[0] / raw[1], 1, 1])
    np.testing.assert_allclose(pair.reference.ep, [1, 1, raw[1] / raw[2]])
    np.testing.assert_allclose(pool.ep, raw / raw[2])
    np.testing.assert_allclose(pool.reference.ep, raw[1] / raw[2])
    # Eq. 1 of NAVSIM: (5 EP + 5 TTC + 2 C) / 12, nothing hit.
    np.testing.assert_allclose(pool.pdms, (5 * pool.ep + 5 * pool.ttc + 2 * pool.comfort) / 12)


def test_where_nobody_gets_five_metres_far_progress_is_not_asked_for() -> None:
    scene = straight_road(ego=replace(straight_road().ego, vx=0.5), reference=straight_plan(0.5))
    scores = score_plans(scene, np.stack([straight_plan(0.1), straight_plan(0.6)]))
    assert scores.progress_raw.max() < 5
    np.testing.assert_array_equal(scores.ep, 1)


@pytest.mark.parametrize(
    ("other", "nc", "why"),
    [
        (agent(20, 0), 0.0, "runs into a standing car"),
        (agent(20, 0, kind="traffic_cone"), 0.5, "runs into a cone"),
        (agent(20, 0, speed=3.0), 0.0, "runs into a slower car with its front"),
        (agent(-9, 0, speed=14.0), 1.0, "is run into from behind"),
        (agent(22, 9, heading=-math.pi / 2, speed=4.0), 0.0, "its front meets crossing traffic"),
        (agent(4.5, 9, heading=-math.pi / 2, speed=8.0), 1.0, "is hit in its side, in its lane"),
        (agent(14, 3.1, speed=2.0), 1.0, "passes beside"),
    ],
)
def test_fault_depends_on_who_hits_whom(other: Any, nc: float, why: str) -> None:
    scores = score_plans(straight_road(agents=(other,)), straight_plan(8.0)[None])
    assert scores.nc[0] == nc, why
    assert (scores.time_to_collision_tick[0] >= 0) == (nc < 1)


def test_a_side_hit_between_lanes_or_off_the_road_is_the_cars_fault() -> None:
    hit = agent(4.5, 9, heading=-math.pi / 2, speed=8.0)
    in_lane = straight_road(agents=(hit,))
    halves = [
        MapPolygon(f"half {i}", "lane", True, rectangle(-30, 120, *y))
        for i, y in enumerate([(-2, 0), (0, 2)])
    ]
    between = replace(in_lane, polygons=(*in_lane.polygons[1:], *halves))
    narrow = MapPolygon("block", "roadblock", False, rectangle(-30, 120, -1, 1))
    off_road = replace(in_lane, polygons=(*in_lane.polygons[:2], narrow))
    plan = straight_plan(8.0)[None]
    assert [score_plans(s, plan).nc[0] for s in (in_lane, between, off_road)] == [1, 0, 0]


def test_a_standing_car_is_never_at_fault() -> None:
    scene = straight_road(
        ego=replace(straight_road().ego, vx=0.0), agents=(agent(20, 0, heading=math.pi, speed=6),)
    )
    scores = score_plans(scene, np.zeros((1, 8, 3)))
    assert (scores.nc[0], scores.ttc[0]) == (1.0, 1.0)


def test_an_agent_that_is_absent_cannot_be_hit() -> None:
    other = agent(20, 0)
    states = other.states.copy()
    states[15:27] = np.nan
    plan = straight_plan(8.0)[None]
    full = score_plans(straight_road(agents=(other,)), plan).time_to_collision_tick[0]
    gap = replace(other, states=states)
    assert full in range(15, 27)
    assert score_plans(straight_road(agents=(gap,)), plan).time_to_collision_tick[0] == 27


def test_an_agent_that_leaves_for_good_is_no_longer_hit_and_one_that_comes_later_is() -> None:
    other = agent(20, 0)
    leaves, comes = other.states.copy(), other.states.copy()
    leaves[10:], comes[:10] = np.nan, np.nan
    plan = straight_plan(8.0)[None]
    gone = straight_road(agents=(replace(other, states=leaves),))
    scores = score_plans(gone, plan, reference_plan(straight_road()).poses)
    assert (scores.nc[0], scores.ttc[0], scores.pdms[0]) == (1, 1, 1)
    assert np.isfinite(reference_plan(gone).poses).all()  # PDM-Closed sees it at the start only
    late = score_plans(straight_road(agents=(replace(other, states=comes),)), plan)
    assert (late.nc[0], late.pdms[0]) == (0, 0)


def test_time_to_collision_looks_nine_tenths_of_a_second_ahead() -> None:
    # At 8 m/s the front is at 4.049 + 8 t; the rear of a car that stands at x is at x - 2. Moved on
    # by 0.9 s at 4 s the front reaches 43.2 m (less what the tracker falls short).
    plan = straight_plan(8.0)[None]
    near, far = (score_plans(straight_road(agents=(agent(x, 0),)), plan) for x in (44.5, 46.5))
    assert (near.nc[0], near.ttc[0]) == (1, 0)
    assert (far.nc[0], far.ttc[0]) == (1, 1)


def test_ttc_counts_traffic_beside_only_in_intersections_and_between_lanes() -> None:
    beside = agent(-2.0, 4.5, speed=4.0)
    states = beside.states.copy()
    states[:, 1] -= 0.1 * np.arange(51)  # keeps beside the car and comes nearer
    slow = replace(straight_road().ego, vx=4.0)
    plain = straight_road(ego=slow, agents=(replace(beside, states=states),))
    crossing = MapPolygon("crossing", "intersection", False, rectangle(-9, 50, -20, 20))
    inside = replace(plain, polygons=(*plain.polygons, crossing))
    narrow = [MapPolygon(f"{y}", "lane", True, rectangle(-30, 120, y - 1, y + 1)) for y in (-1, 1)]
    between = replace(plain, polygons=(*plain.polygons[1:], *narrow))
    plan = straight_plan(4.0)[None]
    scores = [score_plans(scene, plan) for scene in (plain, inside, between)]
    assert [s.ttc[0] for s in scores] == [1, 0, 0]
    assert [s.nc[0] for s in scores] == [1, 1, 0]


def test_leaving_the_road_with_one_corner_loses_all() -> None:
    # Centre at y, half width 1.1485: the right kerb at -2 is crossed beyond y = -0.8515.
    plans = np.stack([straight_plan(8.0, -0.4), straight_plan(8.0, -1.1)])
    scores = score_plans(straight_road(), plans)
    assert scores.dac.tolist() == [1, 0]
    assert scores.pdms[1] == 0


def test_driving_in_the_wrong_lane_is_counted_but_weighs_nothing() -> None:
    scores = score_plans(straight_road(), np.stack([straight_plan(8.0), straight_plan(8.0, 3.0)]))
    assert scores.ddc.tolist() == [1, 0]
    np.testing.assert_allclose(scores.pdms, (5 * scores.ep + 5 + 2 * scores.comfort) / 12)


def test_ignored_tracks_are_not_hit() -> None:
    scene = straight_road(agents=(agent(20, 0), agent(30, 0, token="second")))
    poses = track(straight_plan(8.0)[None], scene.ego)
    states = simulate(poses, scene.ego.state[None])
    for ignored, tick in (([False, False], 17), ([True, False], 30), ([True, True], -1)):
        tracks = replace(scene.tracks, is_ignored=np.array(ignored))
        scores = score_states(states, scene.road, scene.line, tracks)
        assert abs(int(scores.time_to_collision_tick[0]) - tick) <= 1
        assert scores.nc[0] == (1.0 if all(ignored) else 0.0)


def test_plans_that_are_not_finite_are_refused() -> None:
    plans = np.zeros((2, 8, 3))
    plans[1, 7, 2] = np.nan
    with pytest.raises(ValueError, match=r"plans of scene 0\[1\]\[7\]\[2\]: expected a finite"):
        score_plans(straight_road(), plans)
    with pytest.raises(ValueError, match=r"reference of scene 0\[0\]\[0\]: .* found inf"):
        score_plans(straight_road(), plans[:1], np.full((41, 3), np.inf))


def test_scenes_and_plans_of_different_number_are_refused() -> None:
    with pytest.raises(ValueError, match="found 1 scenes, 2 sets of plans, 1 references"):
        score_batch([straight_road()], [np.zeros((1, 8, 3))] * 2)
