"""OpenScene logs: exported from true pickles, read without any."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from maskworld.data.sources.openscene import OpenSceneSource
from maskworld.data.trajectories import LEFT, RIGHT, UncutMoment

EXPORT = Path(__file__).parents[2] / "examples/export_openscene.py"
SPEED, YAW_RATE = 8.0, 0.2
START = 1_621_000_000_000_000


def openscene_frame(i: int, log: str = "2021.05.12.22.00.38_veh-35", *, late: int = 0) -> Any:
    """Frame `i` of a car on a circle to the left, as create_openscene_metadata.py writes it: NumPy
    arrays among built-in types."""
    time = 0.5 * i + late / 1e6
    heading = 3.0 + YAW_RATE * time
    radius = SPEED / YAW_RATE
    place = np.array(
        [331_000 + radius * np.sin(heading), 4_690_000 - radius * np.cos(heading), 0.6]
    )
    rotation = np.array([np.cos(heading / 2), 0, 0, np.sin(heading / 2)])
    pose = np.eye(4)
    camera = {
        "data_path": f"{log}/CAM_F0/{i:016x}.jpg",
        "sensor2lidar_rotation": np.eye(3),
        "sensor2lidar_translation": np.zeros(3),
        "cam_intrinsic": np.eye(3),
        "distortion": np.zeros(5),
    }
    return {
        "token": f"{i:016x}",
        "frame_idx": i,
        "timestamp": START + 500_000 * i + late,
        "log_name": log,
        "log_token": "aa",
        "scene_name": f"log-0001-scene-{i // 40:04d}",
        "scene_token": "bb",
        "map_location": "us-nv-las-vegas-strip",
        "roadblock_ids": ["12", "13"],
        "vehicle_name": "35",
        "can_bus": np.zeros(18),
        "lidar_path": f"{log}/MergedPointCloud/{i:016x}.pcd",
        "lidar2ego_translation": np.zeros(3),
        "lidar2ego_rotation": [1.0, 0.0, 0.0, 0.0],
        "ego2global_translation": place,
        "ego2global_rotation": rotation,
        "ego_dynamic_state": [SPEED, 0.0, 0.0, SPEED * YAW_RATE],
        "traffic_lights": [(123, True)],
        "driving_command": np.array([1, 0, 0, 0] if i % 2 else [0, 0, 1, 0]),
        "cams": dict.fromkeys(("CAM_F0", "CAM_L0", "CAM_R0"), camera),
        "sample_prev": None,
        "sample_next": None,
        "ego2global": pose,
        "lidar2ego": pose,
        "lidar2global": pose,
        "anns": {"gt_boxes": np.zeros((2, 7)), "gt_names": np.array(["vehicle", "pedestrian"])},
    }


def exported(folder: Path, frames: list[Any], log: str = "log-a") -> Path:
    """Runs the export script as a user does."""
    (folder / "pickles").mkdir(parents=True, exist_ok=True)
    with (folder / "pickles" / f"{log}.pkl").open("wb") as file:
        pickle.dump(frames, file)
    command = [sys.executable, str(EXPORT), str(folder / "pickles"), str(folder / "out")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "out"


def test_an_exported_log_gives_the_waypoints_of_its_circle(tmp_path: Path) -> None:
    source = OpenSceneSource(exported(tmp_path, [openscene_frame(i) for i in range(20)]))
    episode = source.episode(0)
    assert (len(source), source.fps, source.views) == (1, 2.0, ["cam_f0"])
    assert (episode.num_frames, episode.segments) == (20, [(0, 20)])
    assert source.episode(0) is episode, "a log is parsed once, not for every clip"
    assert episode.attributes == {"log": "log-a", "location": "us-nv-las-vegas-strip"}
    sample = episode.plan_at(5)
    turned = YAW_RATE * 0.5 * np.arange(1, 9)
    radius = SPEED / YAW_RATE
    expected = np.stack([radius * np.sin(turned), radius * (1 - np.cos(turned)), turned], axis=1)
    assert sample.trajectory is not None
    np.testing.assert_allclose(sample.trajectory, expected, atol=1e-4)
    np.testing.assert_allclose(sample.ego, [SPEED, 0, 0, SPEED * YAW_RATE])
    assert (sample.command, sample.token) == (LEFT, f"{5:016x}")
    assert episode.plan_at(6).command == RIGHT
    np.testing.assert_allclose(episode.actions[:, 1], YAW_RATE, rtol=1e-4)
    with pytest.raises(UncutMoment, match="found the last at"):
        episode.plan_at(12)


def test_late_frames_move_the_waypoints_to_their_time(tmp_path: Path) -> None:
    """Every second frame 100 ms late: rows of the log are no waypoints, moments are."""
    frames = [openscene_frame(i, late=100_000 * (i % 2)) for i in range(20)]
    sample = OpenSceneSource(exported(tmp_path, frames)).episode(0).plan_at(4)
    turned = YAW_RATE * 0.5 * np.arange(1, 9)
    assert sample.trajectory is not None
    # Interpolated over up to 0.6 s on an arc of 40 m: 7 cm of sagitta at most.
    np.testing.assert_allclose(sample.trajectory[:, 0], 40 * np.sin(turned), atol=0.08)
    np.testing.assert_allclose(sample.trajectory[:, 2], turned, atol=1e-4)


def test_missing_frames_are_a_cut_and_no_future(tmp_path: Path) -> None:
    frames = [openscene_frame(i) for i in range(30) if i not in (14, 15)]
    episode = OpenSceneSource(exported(tmp_path, frames)).episode(0)
    assert episode.segments == [(0, 14), (14, 28)]
    episode.plan_at(5)
    with pytest.raises(UncutMoment, match=r"found a gap of 1\.500 s"):
        episode.plan_at(6)


def test_pictures_are_below_the_folder_of_sensors(tmp_path: Path) -> None:
    frames = [openscene_frame(i) for i in range(3)]
    out = exported(tmp_path, frames)
    for frame in frames[:2]:
        path = tmp_path / "sensors" / frame["cams"]["CAM_F0"]["data_path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = np.full((9, 16, 3), 40 * frame["frame_idx"], np.uint8)
        cv2.imwrite(str(path), grey, [cv2.IMWRITE_JPEG_QUALITY, 100])
    episode = OpenSceneSource(out, tmp_path / "sensors").episode(0)
    pictures = episode.read([0, 1])
    assert pictures.shape == (1, 2, 3, 9, 16)
    np.testing.assert_allclose(pictures[0, :, 0, 0, 0], [0, 40], atol=2)
    with pytest.raises(ValueError, match=f"{2:016x}.jpg of .*log-a.jsonl is missing"):
        episode.read([2])


def test_pickles_are_refused_with_the_way_out(tmp_path: Path) -> None:
    exported(tmp_path, [openscene_frame(i) for i in range(3)])
    for given in (tmp_path / "pickles", tmp_path / "pickles/log-a.pkl"):
        with pytest.raises(ValueError, match=r"examples/export_openscene\.py"):
            OpenSceneSource(given)


def test_damaged_lines_are_named(tmp_path: Path) -> None:
    out = exported(tmp_path, [openscene_frame(i) for i in range(4)])
    path = out / "log-a.jsonl"
    lines = path.read_text().splitlines()

    def refuses(change: dict[str, Any], match: str) -> None:
        row = json.loads(lines[2]) | change
        path.write_text("\n".join([*lines[:2], json.dumps(row), lines[3]]))
        with pytest.raises(ValueError, match=r"log-a\.jsonl, line 3: " + match):
            OpenSceneSource(out).episode(0)

    refuses({"driving_command": [1, 0, 0]}, "expected 4 numbers as driving_command")
    refuses({"driving_command": [1, 1, 0, 0]}, "expected a one-hot driving_command")
    refuses({"timestamp": "soon"}, "expected an object with an integer timestamp")
    refuses({"ego_dynamic_state": None}, "expected 4 numbers as ego_dynamic_state")
    refuses({"cams": {"CAM_L0": {}}}, r"expected a data_path of cameras \['CAM_F0'\]")
    path.write_text("\n".join([lines[0], lines[2], lines[1]]))
    with pytest.raises(ValueError, match=r"log-a\.jsonl: expected increasing time stamps"):
        OpenSceneSource(out).episode(0)
    path.write_text(lines[0] + "\n{")
    with pytest.raises(ValueError, match="line 2 is no JSON"):
        OpenSceneSource(out).episode(0)
    with pytest.raises(ValueError, match=r"expected logs \['log-z'\]"):
        OpenSceneSource(out, names=["log-z"])
