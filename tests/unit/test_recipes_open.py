"""Drives and robots opened by their path: which reader, at which rate, with which plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cli_material import moving_frames
from nuscenes_tables import make_nuscenes
from test_data_sources_comma2k19 import make_segment
from test_data_sources_libero import write_demos
from test_data_sources_nuplan import make_log
from test_data_sources_openscene import openscene_frame
from test_data_sources_rlbench import rlbench, write_task

from maskworld.data.dataset import ClipDataset
from maskworld.data.sources.comma2k19_video import Comma2k19Source
from maskworld.data.sources.libero import LiberoSource
from maskworld.data.sources.nuplan import NuPlanSource
from maskworld.data.sources.nuscenes import NuScenesSource
from maskworld.data.sources.openscene import OpenSceneSource
from maskworld.data.sources.rlbench import RLBenchSource
from maskworld.data.sources.stored_masks import (
    MaskMeta,
    episode_file,
    masks_folder,
    write_episode,
    write_meta,
)
from maskworld.data.video_files import write_video
from maskworld.recipes.open import open_dataset, open_episodes, open_source

__all__ = ["rlbench"]  # a fixture


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


def test_demonstrations_of_libero_and_rlbench_are_told_by_their_files(
    tmp_path: Path, rlbench: Any
) -> None:
    file = write_demos(tmp_path / "suite")
    assert isinstance(open_source(file), LiberoSource)
    assert isinstance(open_source(file.parent), LiberoSource)
    write_task(tmp_path / "demos", rlbench)
    assert isinstance(open_source(tmp_path / "demos"), RLBenchSource)


def test_mask_videos_beside_a_video_are_its_masks(tmp_path: Path) -> None:
    frames = moving_frames(6)
    write_video(tmp_path / "robot" / "video.mp4", frames, 10.0)
    assert open_source(tmp_path / "robot").episode(0).read_labels([0]) is None  # type: ignore[union-attr]
    white = np.full_like(frames, 255)
    for name in ("robot", "objects"):
        write_video(tmp_path / "robot" / f"mask_{name}.mp4", white, 10.0)
    source: Any = open_source(tmp_path / "robot")
    assert len(source) == 1
    assert source.label_names == ["background", "robot", "object"]
    assert (source.episode(0).read_labels([0, 5]) == 2).all()  # objects cover the robot
    write_video(tmp_path / "robot" / "mask_table.mp4", white, 10.0)
    renamed: Any = open_source(tmp_path / "robot")
    assert renamed.label_names == ["background", "objects", "robot", "table"]


def test_masks_made_after_a_recording_are_found_beside_it(tmp_path: Path) -> None:
    write_video(tmp_path / "cup.mp4", moving_frames(4), 10.0)
    size = open_episodes(tmp_path / "cup.mp4").episode(0).read([0]).shape[-2:]
    folder = masks_folder(tmp_path / "cup.mp4")
    write_meta(folder, MaskMeta(["background", "cup"], ["front"], 1, {}))
    maps = [np.full(size, 1, np.uint8)] * 4
    write_episode(episode_file(folder, 0), {"front": maps}, 4)
    found: Any = open_episodes(tmp_path / "cup.mp4")
    assert found.label_names == ["background", "cup"]
    assert found.episode(0).read_labels([3]).min() == 1
    np.save(tmp_path / "codes.npy", np.zeros((12, 128), np.int64))
    with pytest.raises(ValueError, match="Expected recordings in pixels"):
        open_episodes(tmp_path / "codes.npy")
