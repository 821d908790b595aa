"""Claims about maskworld.data.sources.waymo, on files of the published schema."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from waymo_segments import SEGMENT, SPEED, YAW_RATE, write_segment

from maskworld.data.sources.waymo import WaymoSource
from maskworld.evaluation.video_sets import SourceClips


def test_a_segment_gives_pictures_in_time_order_and_the_drive(tmp_path: Path) -> None:
    write_segment(tmp_path)
    source = WaymoSource(tmp_path, cameras=("FRONT", "FRONT_RIGHT"))
    episode = source.episode(0)
    assert (len(source), source.segment(0), episode.num_frames) == (1, SEGMENT, 12)
    assert source.views == ["front", "front_right"]
    frames = episode.read([0, 7])
    assert frames.shape == (2, 2, 3, 32, 48)
    means = frames.mean((-1, -2))  # v n c, RGB
    np.testing.assert_allclose(means[:, 1, 2], [70, 70], atol=3)
    np.testing.assert_allclose(means[:, 0, 1], [40, 120], atol=3)
    np.testing.assert_allclose(means[..., 0], 200, atol=3)
    np.testing.assert_allclose(episode.actions, [[SPEED, YAW_RATE]] * 12, rtol=1e-3)
    np.testing.assert_allclose(episode.poses.pose[0], [50, 20, 1.0], atol=1e-9)
    assert episode.segments == [(0, 12)]
    assert episode.read_labels([0]) is None


def test_without_poses_there_are_no_actions_and_a_pause_is_a_cut(tmp_path: Path) -> None:
    write_segment(tmp_path, gap_after=4)
    for file in (tmp_path / "vehicle_pose").iterdir():
        file.unlink()
    episode = WaymoSource(tmp_path).episode(0)
    assert episode.actions is None
    assert episode.segments == [(0, 5), (5, 12)]


def test_clips_for_video_metrics_never_cross_a_cut(tmp_path: Path) -> None:
    write_segment(tmp_path, "a", gap_after=4)
    write_segment(tmp_path, "b")
    source = WaymoSource(tmp_path)

    def starts(**settings: object) -> list[int]:
        found = SourceClips(source, **settings)
        return [round(float(found.clip(i)[0, 2].float().mean()) / 10) for i in range(len(found))]

    assert starts(num_frames=4) == [0, 5, 0]
    assert starts(num_frames=4, every=3) == [0, 5, 8, 0, 3, 6]
    assert starts(num_frames=4, stride=2) == [5, 0]
    assert starts(num_frames=4, skip=1, num_clips=1) == [1]
    clips = SourceClips(source, num_frames=4, every=3)
    assert list(clips.units) == ["waymo 0"] * 3 + ["waymo 1"] * 3
    assert (clips.size, clips.fps, clips.num_scored) == ((32, 48), 10.0, 4)
    with pytest.raises(ValueError, match="Expected 600 clips of 4 frames in waymo, found 3"):
        SourceClips(source, num_frames=4, num_clips=600)


def test_what_is_not_waymo_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="camera_image"):
        WaymoSource(tmp_path)
    write_segment(tmp_path)
    with pytest.raises(ValueError, match="cameras among"):
        WaymoSource(tmp_path, cameras=("REAR",))
    with pytest.raises(ValueError, match="pictures of one size"):
        WaymoSource(tmp_path, cameras=("FRONT", "SIDE_LEFT")).episode(0).read([0])
    path = tmp_path / "camera_image" / f"{SEGMENT}.parquet"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=rf"{SEGMENT}\.parquet: expected a whole Parquet file"):
        WaymoSource(tmp_path).episode(0)
    pq.write_table(pa.table({"key.camera_name": [1]}), path)
    with pytest.raises(ValueError, match=r"key\.frame_timestamp_micros"):
        WaymoSource(tmp_path).episode(0)
    with pytest.raises(ValueError, match="asked for number 3"):
        WaymoSource(tmp_path).episode(3)
