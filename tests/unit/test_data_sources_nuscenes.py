"""nuScenes from its tables: the right pictures, the right motion, never across scenes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nuscenes_tables import SPEED, YAW_RATE, make_nuscenes

from maskworld.data.dataset import ClipDataset
from maskworld.data.resampling import ResampledSource
from maskworld.data.sources.nuscenes import NuScenesSource
from maskworld.data.trajectories import LEFT, UNKNOWN, UncutMoment
from maskworld.data.windows import ClipIndex


def edit(root: Path, table: str, change: Any) -> None:
    path = root / "v1.0-mini" / f"{table}.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([row for row in rows if change(row) is not False]))


def test_scenes_are_episodes_of_sweeps_in_time(tmp_path: Path) -> None:
    source = NuScenesSource(make_nuscenes(tmp_path))
    assert (len(source), source.fps, source.size) == (2, 12.0, (18, 32))
    episode = source.episode(1)
    assert (episode.num_frames, episode.caption) == (25, "Night, scene 1, turn left")
    assert episode.attributes == {"scene": "scene-0002", "location": "singapore-onenorth"}
    assert episode.segments == [(0, 25)]
    frames = episode.read([0, 7, 24])
    assert frames.shape == (1, 3, 3, 18, 32)
    np.testing.assert_allclose(frames[0, :, 0, 9, 16], [10, 17, 34], atol=3)


def test_key_frames_alone_are_at_two_hertz(tmp_path: Path) -> None:
    source = NuScenesSource(make_nuscenes(tmp_path), sweeps=False)
    episode = source.episode(0)
    assert (source.fps, episode.num_frames, episode.segments) == (2.0, 5, [(0, 5)])
    np.testing.assert_allclose(episode.read([0, 1, 4])[0, :, 0, 9, 16], [0, 6, 24], atol=3)


def test_cameras_are_views_of_the_nearest_time(tmp_path: Path) -> None:
    root = make_nuscenes(tmp_path)
    source = NuScenesSource(root, cameras=("CAM_FRONT", "CAM_BACK"))
    frames = source.episode(0).read([0, 8])
    assert source.views == ["cam_front", "cam_back"]
    np.testing.assert_allclose(frames[:, :, 2, 9, 16], [[0, 0], [40, 40]], atol=3)
    np.testing.assert_allclose(frames[1, :, 0, 9, 16], [0, 8], atol=3)


def test_actions_are_speed_and_yaw_rate_of_the_ego(tmp_path: Path) -> None:
    """On a circle, chord over time is a little below the speed; headings pass through pi."""
    actions = NuScenesSource(make_nuscenes(tmp_path)).episode(0).actions
    assert actions is not None
    assert actions.shape == (25, 2)
    np.testing.assert_allclose(actions[:, 0], SPEED, rtol=1e-4)
    np.testing.assert_allclose(actions[:, 1], YAW_RATE, rtol=1e-4)


def test_driving_backwards_has_negative_speed(tmp_path: Path) -> None:
    root = make_nuscenes(tmp_path)

    def mirror(row: dict[str, Any]) -> None:
        row["translation"] = [-row["translation"][0], -row["translation"][1], 0.0]

    edit(root, "ego_pose", mirror)
    actions = NuScenesSource(root).episode(0).actions
    assert actions is not None
    np.testing.assert_allclose(actions[:, 0], -SPEED, rtol=1e-4)


def test_windows_of_six_by_six_are_counted_within_scenes(tmp_path: Path) -> None:
    source = NuScenesSource(make_nuscenes(tmp_path))
    index = source.windows(num_frames=4)  # spans 19 of 25 frames: starts at 0 and 6
    assert [tuple(index[i]) for i in range(len(index))] == [(0, 0), (0, 6), (1, 0), (1, 6)]
    assert "4 clips of 4 frames (frame stride 6, clip stride 6)" in str(index)


def test_a_lost_picture_is_a_cut(tmp_path: Path) -> None:
    root = make_nuscenes(tmp_path)
    edit(root, "sample_data", lambda row: row["token"] != "d-0-CAM_FRONT-10")
    source = NuScenesSource(root)
    assert source.episode(0).segments == [(0, 10), (10, 24)]
    assert source.episode(1).segments == [(0, 25)]


def test_a_frame_without_its_other_camera_is_left_out_and_counted(tmp_path: Path) -> None:
    root = make_nuscenes(tmp_path)
    lost = {f"d-0-CAM_BACK-{i}" for i in (9, 10, 11)}
    edit(root, "sample_data", lambda row: row["token"] not in lost)
    source = NuScenesSource(root, cameras=("CAM_FRONT", "CAM_BACK"))
    assert source.num_unmatched == 1  # its neighbours find a picture within 0.1 s
    assert source.episode(0).segments == [(0, 10), (10, 24)]


def test_scenes_are_chosen_by_name_or_by_a_list_on_disk(tmp_path: Path) -> None:
    root = make_nuscenes(tmp_path, num_scenes=3)
    (tmp_path / "val.txt").write_text("scene-0003\nscene-0001\n")
    source = NuScenesSource(root, scenes=tmp_path / "val.txt")
    assert [source.episode(i).attributes["scene"] for i in range(2)] == ["scene-0001", "scene-0003"]
    assert len(NuScenesSource(root, scenes=["scene-0002"])) == 1
    with pytest.raises(ValueError, match="no scenes \\['scene-0009'\\]"):
        NuScenesSource(root, scenes=["scene-0009"])


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name the data root"):
        NuScenesSource(tmp_path)
    root = make_nuscenes(tmp_path)
    with pytest.raises(ValueError, match="no cameras \\['CAM_TOP'\\]"):
        NuScenesSource(root, cameras=("CAM_TOP",))
    source = NuScenesSource(root)
    picture = sorted((root / "sweeps/CAM_FRONT").iterdir())[0]
    picture.unlink()
    with pytest.raises(ValueError, match="extract the archive") as error:
        source.episode(0).read(range(25))
    assert picture.name in str(error.value)
    edit(root, "ego_pose", lambda row: row["token"] != "p-d-0-CAM_FRONT-3")
    with pytest.raises(ValueError, match="lacks 1 poses"):
        NuScenesSource(root)
    (root / "v1.0-mini/ego_pose.json").write_text('[{"token":')
    with pytest.raises(ValueError, match="is no JSON"):
        NuScenesSource(root)
    (root / "v1.0-mini/ego_pose.json").unlink()
    with pytest.raises(ValueError, match=r"ego_pose\.json is missing"):
        NuScenesSource(root)


# plans


def add_can_bus(root: Path, *, scene: str = "scene-0001", seconds: float = 9) -> None:
    """Messages of the true schema at 50 Hz; vx is the time since the start of the scene."""
    messages = [
        {
            "utime": 20_000 * k,
            "pos": [0.0, 0.0, 0.0],
            "orientation": [1.0, 0.0, 0.0, 0.0],
            "rotation_rate": [0.0, 0.0, YAW_RATE],
            "vel": [0.02 * k, 0.5, 0.0],
            "accel": [1.0, SPEED * YAW_RATE, 9.8],
        }
        for k in range(round(50 * seconds))
    ]
    (root / "can_bus").mkdir(exist_ok=True)
    (root / f"can_bus/{scene}_pose.json").write_text(json.dumps(messages))


def test_plans_of_a_scene_follow_its_circle(tmp_path: Path) -> None:
    """8 s a scene; without a CAN bus the velocity comes from past poses, the command is unknown."""
    episode = NuScenesSource(make_nuscenes(tmp_path, num_keyframes=17)).episode(1)
    sample = episode.plan_at(30)
    turned = YAW_RATE * 0.5 * np.arange(1, 9)
    radius = SPEED / YAW_RATE
    expected = np.stack([radius * np.sin(turned), radius * (1 - np.cos(turned)), turned], axis=1)
    assert sample.trajectory is not None
    np.testing.assert_allclose(sample.trajectory, expected, atol=5e-3)
    np.testing.assert_allclose(sample.ego, [SPEED, 0, 0, SPEED * YAW_RATE], atol=0.15)
    assert sample.command == UNKNOWN
    assert sample.token == f"scene-0002@{episode.timestamps[30]}"
    with pytest.raises(UncutMoment, match=r"scene-0002: .* found the last at"):
        episode.plan_at(60)


def test_key_frames_alone_give_plans_too(tmp_path: Path) -> None:
    root = make_nuscenes(tmp_path, num_keyframes=17)
    sparse, dense = (NuScenesSource(root, sweeps=s).episode(0) for s in (False, True))
    one, other = sparse.plan_at(4), dense.plan_at(24)
    assert one.trajectory is not None
    assert other.trajectory is not None
    np.testing.assert_allclose(one.trajectory, other.trajectory, atol=1e-2)
    np.testing.assert_allclose(one.ego, other.ego, atol=0.2)


def test_the_can_bus_gives_status_and_its_route_the_command(tmp_path: Path) -> None:
    root = make_nuscenes(tmp_path, num_keyframes=17)
    add_can_bus(root)
    heading = YAW_RATE * np.arange(-1, 14, 0.05) + 3.0
    radius = SPEED / YAW_RATE
    route = np.stack([600 + radius * np.sin(heading), 1600 - radius * np.cos(heading)], axis=1)
    (root / "can_bus/scene-0001_route.json").write_text(json.dumps(route.tolist()))
    source = NuScenesSource(root)
    with_can, without = source.episode(0).plan_at(30), source.episode(1).plan_at(30)
    np.testing.assert_allclose(with_can.ego, [2.5, 0.5, 1.0, SPEED * YAW_RATE], atol=1e-4)
    assert (with_can.command, without.command) == (LEFT, UNKNOWN)  # 20 m on: 5 m to the left
    np.testing.assert_allclose(without.ego[0], SPEED, atol=0.05)
    assert with_can.trajectory is not None
    assert without.trajectory is not None
    np.testing.assert_allclose(with_can.trajectory, without.trajectory, atol=1e-4)


def test_can_messages_of_another_time_say_nothing(tmp_path: Path) -> None:
    root = make_nuscenes(tmp_path, num_keyframes=17)
    add_can_bus(root, seconds=4)  # the scene lasts 8 s
    np.testing.assert_allclose(NuScenesSource(root).episode(0).plan_at(30).ego[0], 8, atol=0.05)
    (root / "can_bus/scene-0001_pose.json").write_text('[{"utime": 1}]')
    with pytest.raises(ValueError, match=r"scene-0001_pose\.json: expected messages"):
        NuScenesSource(root).episode(0).plan_at(30)
    with pytest.raises(ValueError, match=r"CAN bus expansion at .*nowhere"):
        NuScenesSource(root, can_bus=tmp_path / "nowhere")


def test_a_scene_is_resampled_from_twelve_to_eight_hertz(tmp_path: Path) -> None:
    source = ResampledSource(NuScenesSource(make_nuscenes(tmp_path, num_keyframes=17)), 8.0)
    episode = source.episode(0)
    assert (episode.fps, episode.segments) == (8.0, [(0, 65)])
    np.testing.assert_allclose(episode.read([1, 2, 64])[0, :, 0, 9, 16], [1, 3, 96], atol=3)
    assert episode.actions is not None
    np.testing.assert_allclose(episode.actions[:, 0], SPEED, rtol=1e-4)
    assert episode.plan_at(20).token == f"scene-0001@{episode.timestamps[20]}"


def test_clips_of_eight_hertz_are_cut_from_a_resampled_scene(tmp_path: Path) -> None:
    source = ResampledSource(NuScenesSource(make_nuscenes(tmp_path, num_keyframes=17)), 8.0)
    dataset = ClipDataset(source, ClipIndex(source, 9, 1, 8))
    assert len(dataset) == 2 * 8  # 65 frames a scene
    clip = dataset[1]
    assert clip.frames is not None
    assert (clip.fps, clip.frames.shape) == (8.0, (1, 9, 3, 18, 32))
    np.testing.assert_allclose(clip.frames[0, [0, 8], 0, 9, 16], [12, 24], atol=3)
