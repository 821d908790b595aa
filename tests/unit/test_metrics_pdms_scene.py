"""Scenes of the PDM score: round trips, and what is refused in which words."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pdms_scenes import agent, needs_reference, reference_files, straight_plan, straight_road

from maskworld.metrics.pdms import Agent, PDMScene, read_scene, write_scene


def example() -> dict[str, Any]:
    """A valid scene as JSON."""
    other = agent(20, 0, speed=2.0)
    states = other.states.copy()
    states[10:20] = np.nan
    cone = agent(30, 1, kind="traffic_cone", token="cone")
    agents = (Agent("other", "vehicle", 4.0, 2.0, states), cone)
    plans = {"steady": straight_plan(8.0), "slow": straight_plan(3.0)}
    scene = straight_road(agents=agents, plans=plans, speed_limit=12.0)
    data: dict[str, Any] = json.loads(json.dumps(scene.to_json(), allow_nan=False))
    return data


def test_a_scene_survives_writing_and_reading(tmp_path: Path) -> None:
    scene = PDMScene.from_json(example())
    write_scene(scene, tmp_path / "scene.json")
    again = read_scene(tmp_path / "scene.json")
    assert again.to_json() == scene.to_json() == example()
    np.testing.assert_array_equal(again.tracks.poses, scene.tracks.poses)
    assert np.isnan(again.agents[0].states[10:20]).all()


@needs_reference
def test_the_reference_scenes_survive_reading_and_writing() -> None:
    for path, _ in reference_files():
        written = json.loads(path.read_text())
        read = read_scene(path).to_json()
        assert read["plans"] == written["plans"], path
        for mine, theirs in zip(read["polygons"], written["polygons"]):
            closed = theirs["xy"][0] == theirs["xy"][-1]
            assert mine == {**theirs, "xy": theirs["xy"][: -1 if closed else None]}, path


def test_fewer_rows_of_an_agent_are_continued_and_a_gap_is_not_filled() -> None:
    data = example()
    data["agents"][1]["states"] = data["agents"][1]["states"][:1]
    scene = PDMScene.from_json(data)
    np.testing.assert_array_equal(scene.tracks.poses[1], np.tile([30.0, 1.0, 0.0], (51, 1)))
    assert np.isnan(scene.tracks.poses[0, 10:20]).all()
    assert np.isfinite(scene.tracks.poses[0, 20:]).all()


def test_the_speed_of_an_agent_is_that_of_its_first_sight() -> None:
    data = example()
    rows = data["agents"][0]["states"]
    rows[:3] = [None] * 3
    rows[3][3:] = [3.0, 4.0]
    assert PDMScene.from_json(data).tracks.speeds.tolist() == [5.0, 0.0]


def test_closed_outlines_and_missing_options_are_fine() -> None:
    data = example()
    for polygon in data["polygons"]:
        polygon["xy"].append(polygon["xy"][0])
        del polygon["on_route"]
    for name in ("plans", "reference", "speed_limit"):
        del data[name]
    data["ego"] = {"x": 1, "y": 2, "heading": 0}
    scene = PDMScene.from_json(data)
    assert (len(scene.polygons[0].xy), scene.reference, scene.speed_limit) == (4, "idm", None)
    assert scene.ego.state.tolist() == [1, 2] + [0] * 9


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets the value at "a/0/b"."""

    def change(data: Any) -> None:
        *parents, last = [int(key) if key.isdigit() else key for key in path.split("/")]
        for key in parents:
            data = data[key]
        if value is KeyError:
            del data[last]
        else:
            data[last] = value

    return change


BOW_TIE = [[0, 0], [4, 4], [4, 0], [0, 4]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("plans/slow", [[0, 0, 0]] * 7), r"plans\['slow'\]: .*\(8, 3\), found shape \(7, 3\)"),
        (put("plans/slow/3/1", float("nan")), r"plans\['slow'\]\[3\]\[1\]: expected a finite"),
        (put("plans/slow/3", [1, 2]), r"plans\['slow'\]: expected numbers of shape"),
        (put("plans", [1]), "plans: expected a mapping from names, found list"),
        (put("reference", "pdm"), "reference: expected one of idm, found 'pdm'"),
        (put("reference", [[0, 0, 0]]), r"reference: .* found shape \(1, 3\)"),
        (put("ego/vx", "fast"), r"ego.vx: expected a number"),
        (put("ego/vx", float("inf")), r"ego.vx: expected a finite number, found inf"),
        (put("ego/heading", KeyError), "ego: .* found no heading"),
        (
            put("ego/speed", 3),
            "ego: key: .* found 'speed'. Did you mean 'steer'",
        ),
        (put("ego", 3), "ego: expected a mapping .* found int"),
        (put("polygons/0/type", "lanes"), r"\.type: .* found 'lanes'. Did you mean 'lane'"),
        (put("polygons/0/xy", BOW_TIE), "does not cross or touch itself, found Self-intersection"),
        (put("polygons/0/xy", [[0, 0], [1, 1]]), "at least 3 corners, found 2"),
        (put("polygons/0/xy/0/0", float("nan")), r"\.xy\[0\]\[0\]: expected a finite number"),
        (put("polygons/0/id", "left"), "polygons: .* found 'left' twice"),
        (put("polygons", []), "polygons: expected at least one of type roadblock"),
        (put("centerline", [[0, 0, 0]]), "centerline: expected at least two different points"),
        (put("centerline", [[0, 0, 0]] * 3), "centerline: expected at least two different points"),
        (put("centerline", []), r"centerline: .* found shape \(0,\)"),
        (put("agents/0/type", "car"), r"agents\['other'\].type: expected one of vehicle"),
        (put("agents/0/width", 0), "width: expected metres above 0, found 0"),
        (put("agents/0/states", [None] * 3), "at least one row that is there"),
        (put("agents/0/states", []), r"states: .* found shape \(0,\)"),
        (put("agents/0/states/1/2", float("nan")), r"states\[1\]: expected five finite numbers"),
        (put("agents/0/states", [[0, 0, 0, 0, 0]] * 52), "expected 1 to 51 rows .* found 52"),
        (put("agents/1/token", "other"), "agents: .* found 'other' twice"),
        (put("agents/0/lenght", 3), "key: .* Did you mean 'length'"),
        (put("agents", KeyError), "the scene: .* found no agents"),
        (put("speed_limit", 0), "speed_limit: expected m/s above 0"),
        (put("palns", {}), "the scene: key: .* Did you mean 'plans'"),
    ],
)
def test_what_is_wrong_with_a_scene_is_named(
    change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    data = copy.deepcopy(example())
    change(data)
    path = tmp_path / "scene.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=message) as error:
        read_scene(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "scene.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"scene.json: expected a scene as JSON"):
        read_scene(path)
    path.write_text("[1]")
    with pytest.raises(ValueError, match=r"the scene: expected a mapping"):
        read_scene(path)
