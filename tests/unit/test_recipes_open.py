"""Drives opened by their path: which reader, at which rate, with which plans."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from cli_material import moving_frames
from nuscenes_tables import make_nuscenes
from test_data_sources_comma2k19 import make_segment
from test_data_sources_nuplan import make_log
from test_data_sources_openscene import openscene_frame

from maskworld.data.dataset import ClipDataset
from maskworld.data.sources.comma2k19_video import Comma2k19Source
from maskworld.data.sources.nuplan import NuPlanSource
from maskworld.data.sources.nuscenes import NuScenesSource
from maskworld.data.sources.openscene import OpenSceneSource
from maskworld.data.video_files import write_video
from maskworld.recipes.open import open_dataset, open_source


def put_pictures(source: NuPlanSource | OpenSceneSource, sensors: Path) -> None:
    """Grey pictures where the first log expects them."""
    for (file,) in source.episode(0).files:
        (sensors / file).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(sensors / file), np.full((24, 36, 3), 128, np.uint8))


def openscene_logs(folder: Path, num_frames: int = 20) -> Path:
    rows = []
    for number in range(num_frames):
        frame = openscene_frame(number)
        row = {name: frame[name] for name in ("token", "timestamp", "map_location")}
        for name in (
            "ego2global_translation",
            "ego2global_rotation",
            "ego_dynamic_state",
            "driving_command",
        ):
            row[name] = np.asarray(frame[name]).tolist()
        row["cams"] = {"CAM_F0": {"data_path": frame["cams"]["CAM_F0"]["data_path"]}}
        rows.append(json.dumps(row))
    folder.mkdir(parents=True)
    (folder / "log-a.jsonl").write_text("\n".join(rows))
    return folder


def clip_of(path: Path, num_frames: int, fps: float, plan_frame: int | None) -> ClipDataset:
    source = open_source(path)
    dataset = open_dataset(source, num_frames, (24, 36), fps, plan_frame=plan_frame)
    assert isinstance(dataset, ClipDataset)
    return dataset


def test_nuscenes_is_resampled_by_its_stamps(tmp_path: Path) -> None:
    root = make_nuscenes(tmp_path / "nuscenes", num_keyframes=14)
    assert isinstance(open_source(root), NuScenesSource)
    dataset = clip_of(root, 9, 8.0, plan_frame=8)
    clip = dataset[0]
    assert clip.fps == 8.0
    assert clip.frames is not None
    assert clip.frames.shape == (1, 9, 3, 24, 36)
    assert clip.plan is not None
    assert clip.plan.token.startswith("scene-0001@")
    assert dataset.without_plan["future too short"] > 0
    assert "left out without a plan" in str(dataset)


def test_openscene_pictures_are_found_beside_the_logs(tmp_path: Path) -> None:
    logs = openscene_logs(tmp_path / "navsim_logs" / "mini")
    sensors = tmp_path / "sensor_blobs" / "mini"
    sensors.mkdir(parents=True)
    source = open_source(logs)
    assert isinstance(source, OpenSceneSource)
    put_pictures(source, sensors)
    clip = clip_of(logs, 4, 2.0, plan_frame=3)[0]
    assert clip.frames is not None
    assert clip.plan is not None
    assert clip.plan.command in (0, 2)


def test_a_log_slower_than_asked_says_its_rate(tmp_path: Path) -> None:
    logs = openscene_logs(tmp_path / "logs")
    with pytest.raises(ValueError, match=r"found 2\.00 Hz"):
        clip_of(logs, 4, 5.0, plan_frame=None)


def test_nuplan_logs_are_told_by_their_files(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    make_log(tmp_path / "logs" / "a.db")
    (tmp_path / "sensor_blobs").mkdir()
    source = open_source(tmp_path / "logs")
    assert isinstance(source, NuPlanSource)
    put_pictures(source, tmp_path / "sensor_blobs")
    dataset = clip_of(tmp_path / "logs", 9, 8.0, plan_frame=8)
    clip = dataset[0]
    assert clip.plan is not None
    assert clip.plan.trajectory is not None
    assert clip.plan.trajectory[0, 0] == pytest.approx(40 * np.sin(0.1), abs=1e-2)


def test_comma2k19_has_a_picture_for_every_pose(tmp_path: Path) -> None:
    segment = make_segment(tmp_path / "route" / "3")
    with pytest.raises(ValueError, match="ffmpeg"):
        open_source(tmp_path)
    count = len(np.load(next(p for p in segment.rglob("*frame_times*"))))
    write_video(segment / "video.mp4", moving_frames(count), 20.0)
    source = open_source(tmp_path)
    assert isinstance(source, Comma2k19Source)
    assert source.episode(0).num_frames == count
    clip = clip_of(tmp_path, 9, 10.0, plan_frame=8)[0]
    assert clip.frames is not None
    assert clip.plan is not None
    assert clip.plan.token == "route/3, frame 16"
    write_video(segment / "video.mp4", moving_frames(count - 1), 20.0)
    with pytest.raises(ValueError, match="for each of the"):
        open_source(tmp_path).episode(0)  # type: ignore[union-attr]
