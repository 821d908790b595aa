"""Claims about the drawings of planners."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pdms_scenes import agent, straight_plan, straight_road

from maskworld.evaluation.results import Results
from maskworld.metrics.pdms import EgoState
from maskworld.report.driving import (
    ShownPlan,
    birds_eye,
    camera_view,
    plan_section,
    planner_table,
    project,
    score_colour,
)
from maskworld.report.sections import read_style, write_sectioned_report
from maskworld.worlds.drive.cameras import SUPERSAMPLING, camera_rig, rays

SIZE = (72, 120)


def shown(**changes: object) -> ShownPlan:
    made = ShownPlan(
        title="merge, turning",
        caption="PDMS 0.9 <of 1>",
        frame=np.full((*SIZE, 3), 90, np.uint8),
        scene=straight_road(agents=(agent(20.0, 4.0, speed=5.0),)),
        plans={"plan": straight_plan(8.0, y=3.0), "expert": straight_plan(8.0)},
    )
    return replace(made, **changes)


def numbers(path: str) -> np.ndarray:
    """The points of an SVG path's `d`."""
    return np.array([float(x) for x in re.findall(r"-?\d+\.\d+", path)]).reshape(-1, 2)


def line_of(svg: str, kind: str) -> np.ndarray:
    found = re.search(rf'<path class="line {kind}"[^>]* d="([^"]+)"', svg)
    assert found is not None, kind
    return numbers(found[1])


@pytest.mark.parametrize("camera", camera_rig(6), ids=lambda camera: camera.name)
def test_ground_that_a_ray_hits_is_projected_back_to_the_rays_pixel(camera) -> None:
    seen = rays(camera, SIZE)
    rows, columns = np.indices(seen.ground_x.shape)
    ground = np.stack([seen.ground_x.ravel(), seen.ground_y.ravel(), np.zeros(rows.size)], axis=1)
    pixels, depth = project(ground.astype(np.float64), camera, SIZE)
    samples = np.stack([columns.ravel() + 0.5, rows.ravel() + seen.horizon + 0.5], axis=1)
    near = seen.distance.ravel() < 60  # rays are float32
    assert (depth > 0).all()
    np.testing.assert_allclose(pixels[near], samples[near] / SUPERSAMPLING, atol=0.02)


def test_what_lies_behind_the_camera_has_no_depth() -> None:
    front = camera_rig(1)[0]
    _, depth = project(np.array([[-5.0, 0.0, 0.0], [5.0, 0.0, 0.0]]), front, SIZE)
    assert depth[0] < 0 < depth[1]


def test_a_plan_to_the_left_is_left_in_both_views() -> None:
    picture, above = camera_view(shown()), birds_eye(shown())
    plan, expert = line_of(picture, "plan"), line_of(picture, "expert")
    assert plan[-1, 0] < expert[-1, 0] == pytest.approx(SIZE[1] / 2, abs=0.1)
    assert plan[-1, 1] < plan[0, 1]  # farther away is higher up
    plan = line_of(above, "plan")
    np.testing.assert_allclose(plan[0], [0.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(plan[-1], [-3.0, -32.0], atol=1e-6)  # left, forward is up


def test_the_view_from_above_does_not_depend_on_the_frame_of_the_world() -> None:
    scene = straight_road(agents=(agent(20.0, 4.0, speed=5.0),))
    turn = np.deg2rad(73.0)
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])

    def moved(points: np.ndarray) -> np.ndarray:
        return points @ spin.T + np.array([400.0, -90.0])

    states = scene.agents[0].states.copy()
    states[:, :2], states[:, 2] = moved(states[:, :2]), states[:, 2] + turn
    x, y = moved(np.zeros((1, 2)))[0]
    other = replace(
        scene,
        ego=EgoState(x, y, turn, vx=8.0),
        polygons=tuple(replace(p, xy=moved(p.xy)) for p in scene.polygons),
        agents=(replace(scene.agents[0], states=states),),
    )
    here, there = birds_eye(shown(scene=scene)), birds_eye(shown(scene=other))
    for kind in ("track", "plan"):
        np.testing.assert_allclose(line_of(here, kind), line_of(there, kind), atol=0.011)
    roads = [re.findall(r'<path class="road" d="([^"]+)"', svg) for svg in (here, there)]
    assert len(roads[0]) == 1
    np.testing.assert_allclose(numbers(roads[0][0]), numbers(roads[1][0]), atol=0.011)


def test_candidates_are_coloured_by_their_scores_and_the_negative_stands_out() -> None:
    svg = birds_eye(
        shown(
            candidates=np.stack([straight_plan(8.0, y) for y in (-3.0, 0.0, 3.0)]),
            scores=np.array([0.0, 1.0, 0.5]),
            negative=straight_plan(8.0, -3.0),
        )
    )
    for score in (0.0, 0.5, 1.0):
        assert svg.count(f'"stroke:{score_colour(score)}"') == 1
    np.testing.assert_allclose(line_of(svg, "negative")[-1], [3.0, -32.0], atol=1e-6)
    assert score_colour(-1.0) == score_colour(0.0) != score_colour(1.0) == score_colour(2.0)


def test_the_table_puts_the_model_first_then_rivals_by_score_then_who_knows_more() -> None:
    keys = ("pdms", "nc", "dac", "ttc", "comfort", "ep")
    values = {"expert": 0.95, "random": 0.3, "constant_velocity": 0.7, "model": 0.8}
    scores = {name: dict.fromkeys(keys, value) for name, value in values.items()}
    gain = {"pdms_gain/constant_velocity": {"model": 0.1, "interval": [0.05, 0.15]}}
    table = planner_table(scores, dict.fromkeys(values, (1.0, 2.0)), gain)
    names = re.findall(r'<th scope="row">([^<]+)<', table)
    assert names == ["ReWorld", "constant velocity", "random", "expert"]
    assert "+10.0 [+5.0, +15.0]" in table


def test_sections_stand_between_videos_and_numbers_and_fetch_nothing(tmp_path: Path) -> None:
    results = Results("reworld", {})
    results.add("pdms", model=0.8, interval=(0.7, 0.9), n=3, better="higher",
                baselines={"constant_velocity": 0.6})  # fmt: skip
    section = plan_section("Plans", "plans", "Some <scenes>.", [shown(), shown()])
    write_sectioned_report(
        tmp_path / "report.html",
        sections=[section],
        title="ReWorld",
        summary="",
        results=results.to_dict(),
        videos=[],
        curves={},
        notes=[],
        style=read_style("driving.css"),
    )
    page = (tmp_path / "report.html").read_text()
    assert page.index('<section id="plans">') < page.index('<section id="numbers">')
    assert page.count('<svg class="camera"') == 2
    assert "Some &lt;scenes&gt;." in page
    assert "PDMS 0.9 &lt;of 1&gt;" in page
    assert ".ribbon" in page.partition("</head>")[0]
    assert not re.search(r"(?:src|href)=[\"'](?!data:)|https?://", page)
