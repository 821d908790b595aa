"""Claims about the driving world's moments as scenes of the PDM score."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from maskworld.metrics.pdms import PDMScene, score_plans
from maskworld.preparation.collect import record_world
from maskworld.preparation.planning_clips import expert_waypoints
from maskworld.worlds.drive import Scene
from maskworld.worlds.drive.pdm_scene import (
    REACH,
    SHOULDER,
    TOLERANCE,
    PDMWorld,
    pdm_scene,
    simplify,
)

STEP = 20


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """One of every scenario."""
    return [record_world(world, num_steps=80) for world in range(5)]


def test_expert_neither_collides_nor_leaves_the_road_and_nearly_reaches_the_reference(
    scenes: list[Scene],
) -> None:
    for scene in scenes:
        for step in (STEP, 29):
            scores = score_plans(pdm_scene(scene, step), expert_waypoints(scene, step)[None])
            assert scores.nc[0] == scores.dac[0] == scores.comfort[0] == 1
            assert scores.ep[0] > 0.6
            assert scores.pdms[0] > 0.8


def test_plans_off_the_road_and_into_traffic_lose_their_score(scenes: list[Scene]) -> None:
    time = 0.5 * np.arange(1, 9)
    aside = np.stack([8 * time, 4 * time, np.full(8, 0.46)], axis=1)
    for scene in scenes:
        if scene.scenario == "racetrack":  # up to four lanes wide
            aside = aside * (1.0, 2.0, 1.0)
        assert score_plans(pdm_scene(scene, STEP), aside[None]).dac[0] == 0
    scene = scenes[2]
    agents = scene.agents.copy()
    # A wall of the first vehicle 12 m ahead, standing.
    x, y, heading = scene.poses[STEP]
    agents[:, 0] = (x + 12 * np.cos(heading), y + 12 * np.sin(heading), heading, 4.5, 1.85, 0.0)
    straight = np.stack([5 * time, 0 * time, 0 * time], axis=1)
    blocked = pdm_scene(replace(scene, agents=agents), STEP)
    assert score_plans(blocked, straight[None]).nc[0] == 0


def test_road_is_a_shoulder_wider_than_the_lanes(scenes: list[Scene]) -> None:
    for scene in scenes:
        road = pdm_scene(scene, STEP).road
        lane = next(iter(scene.stage.road_map.lanes.values()))
        here = scene.poses[STEP, :2]
        near = np.hypot(*(lane.centreline - here).T) < 0.8 * REACH
        if not near.any():
            continue
        left = lane.edge(lane.width / 2 + SHOULDER - 0.05)[near]
        right = lane.edge(-lane.width / 2 - SHOULDER + 0.05)[near]
        assert road.in_drivable_area(np.concatenate([left, right, lane.centreline[near]])).all()
        rightmost = [
            each for each in scene.stage.road_map.lanes.values() if each.index[:2] == ("0", "1")
        ]
        if rightmost:
            outside = rightmost[-1].edge(-rightmost[-1].width / 2 - SHOULDER - 0.1)
            assert not road.in_drivable_area(outside).any()


def test_route_runs_on_lanes_of_the_route_and_oncoming_lanes_are_none(scenes: list[Scene]) -> None:
    for scene in scenes:
        pdm = pdm_scene(scene, STEP)
        near = np.hypot(*(pdm.centerline[:, :2] - scene.poses[STEP, :2]).T) < 60
        on_lane = pdm.road.in_route_lane(pdm.centerline[near, :2])
        assert on_lane.mean() > 0.95
    intersection = pdm_scene(scenes[2], STEP)
    route = {p.id.split("/")[1] for p in intersection.polygons if p.on_route}
    arms = {name for name in route if name.startswith("o")}
    assert len(arms) == 1  # one arm is entered; the other three come towards us
    assert {p.type for p in intersection.polygons} == {
        "lane",
        "lane_connector",
        "drivable",
        "intersection",
    }


def test_agents_and_ego_are_those_of_the_log(scenes: list[Scene]) -> None:
    scene = scenes[3]
    pdm = pdm_scene(scene, STEP)
    assert pdm.agents
    for agent in pdm.agents:
        log = scene.agents[STEP : STEP + 51, int(agent.token.split("/")[1])]
        np.testing.assert_array_equal(agent.states[:, :3], log[:, :3])
        np.testing.assert_allclose(np.hypot(*agent.states[:, 3:].T), log[:, 5], atol=1e-12)
        moved = np.hypot(*np.diff(agent.states[:, :2], axis=0).T)
        np.testing.assert_allclose(moved, 0.1 * log[1:, 5], atol=0.08)
    assert (pdm.ego.x, pdm.ego.y, pdm.ego.heading) == tuple(scene.poses[STEP])
    assert pdm.ego.vx == scene.actions[STEP, 0]
    assert pdm.ego.ay == scene.actions[STEP].prod()


def test_traffic_out_of_reach_is_left_out(scenes: list[Scene]) -> None:
    scene = scenes[0]
    agents = scene.agents.copy()
    agents[:, 0, 0] += 5000
    far = pdm_scene(replace(scene, agents=agents), STEP)
    assert "agent/0" not in {agent.token for agent in far.agents}


def test_scene_survives_json(scenes: list[Scene]) -> None:
    pdm = pdm_scene(scenes[1], STEP)
    back = PDMScene.from_json(json.loads(json.dumps(pdm.to_json())))
    plan = expert_waypoints(scenes[1], STEP)[None]
    assert score_plans(pdm, plan).pdms[0] == score_plans(back, plan).pdms[0]


def test_simplified_lines_stay_within_the_tolerance() -> None:
    t = np.linspace(0, 3, 200)
    line = np.stack([20 * np.cos(t), 20 * np.sin(t)], axis=1)
    line = np.concatenate([line, line[-1] + np.arange(1, 50)[:, None] * (0.3, -1.0)])
    few = simplify(line)
    assert len(few) < len(line) / 2
    along = few[1:] - few[:-1]
    share = np.einsum("nkd,kd->nk", line[:, None] - few[:-1], along) / (along**2).sum(axis=1)
    foot = few[:-1] + np.clip(share, 0, 1)[..., None] * along
    gaps = np.hypot(*(line[:, None] - foot).transpose(2, 0, 1)).min(axis=1)
    assert 0 < gaps.max() <= TOLERANCE
    assert len(simplify(line[200:])) == 2


def test_moments_of_one_world_share_outlines_and_score_as_those_made_alone(
    scenes: list[Scene],
) -> None:
    for scene in scenes:
        world = PDMWorld(scene)
        early, late = world.at(5), world.at(29)
        first, then = ({p.id: p for p in pdm.polygons} for pdm in (early, late))
        both = [(first[name], then[name]) for name in first.keys() & then.keys()]
        assert both
        assert all(a is b or (a.on_route != b.on_route and a.xy is b.xy) for a, b in both)
        plans = expert_waypoints(scene, 29)[None] * np.linspace(0.5, 1.5, 8)[:, None, None]
        alone = pdm_scene(scene, 29)
        assert [(p.id, p.on_route) for p in alone.polygons] == [
            (p.id, p.on_route) for p in late.polygons
        ]
        shared, own = (score_plans(pdm, plans).named() for pdm in (late, alone))
        assert all(np.array_equal(shared[name], own[name]) for name in own)


def test_moments_without_five_seconds_of_log_are_refused(scenes: list[Scene]) -> None:
    with pytest.raises(ValueError, match="0 to 29"):
        pdm_scene(scenes[0], 30)
    with pytest.raises(ValueError, match="10 Hz"):
        pdm_scene(replace(scenes[0], fps=5.0), 10)
