"""Cameras by name: their order, which are missing, how they see; folders of pictures."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from jaxtyping import UInt8
from nuscenes_tables import make_nuscenes

from maskworld.data.cameras import Calibration, in_order, own_names, plain_name
from maskworld.data.dataset import ClipDataset, ImageFolderSource
from maskworld.data.lerobot import LeRobotSource, LeRobotWriter
from maskworld.data.sources.frame_folders import FrameFolderSource
from maskworld.data.sources.nuscenes import NuScenesSource
from maskworld.recipes.open import cameras_at, open_dataset, open_source

SIX = ("CAM_BACK", "CAM_FRONT_RIGHT", "CAM_FRONT", "CAM_BACK_LEFT", "CAM_FRONT_LEFT")


def grey(views: int, frames: int, first: int = 0) -> UInt8[np.ndarray, "v t 3 8 12"]:
    """View k is 40 k + `first` grey."""
    values = (40 * np.arange(views) + first).astype(np.uint8)
    return np.broadcast_to(values[:, None, None, None, None], (views, frames, 3, 8, 12)).copy()


def write_dataset(root: Path, views: tuple[str, ...], first: int = 0) -> Path:
    with LeRobotWriter(root, fps=5, size=(8, 12), views=views) as writer:
        writer.add_episode(frames=grey(len(views), 6, first), caption="")
    return root


def set_camera_info(root: Path, view: str, **values: object) -> None:
    path = root / "meta" / "info.json"
    info = json.loads(path.read_text())
    info["features"][f"observation.images.{view}"].setdefault("info", {}).update(values)
    path.write_text(json.dumps(info))


@pytest.mark.parametrize(
    ("view", "plain"),
    [
        ("CAM_FRONT_LEFT", "front_left"),
        ("observation.images.front", "front"),
        ("CAM_B0", "back"),
        ("SIDE_LEFT", "left"),
        ("wrist", "wrist"),
    ],
)
def test_every_data_set_names_a_camera_alike(view: str, plain: str) -> None:
    assert plain_name(view) == plain


def test_views_stand_around_the_car_and_others_after_them() -> None:
    assert in_order(["wrist", "back", "front_left", "front"]) == [
        "front",
        "front_left",
        "back",
        "wrist",
    ]


def test_a_missing_camera_is_named_with_what_is_there() -> None:
    with pytest.raises(ValueError, match=r"no back and no left \(it has front\): .*--cameras"):
        own_names(["CAM_FRONT"], ["back", "front", "left"], "drives")
    assert own_names([], ["front"], "one video") == []
    with pytest.raises(ValueError, match="one without a name"):
        own_names([], ["front", "back"], "one video")


def test_swapped_cameras_are_ordered_by_name(tmp_path: Path) -> None:
    straight = write_dataset(tmp_path / "a", ("front", "front_left"))
    swapped = write_dataset(tmp_path / "b", ("front_left", "front"))
    wanted = ["front", "front_left"]
    first, second = (
        open_source(path, cameras=wanted).episode(0).read([0])[:, 0, 0, 0, 0]  # type: ignore[union-attr]
        for path in (straight, swapped)
    )
    assert first.tolist() == [0, 40]
    assert second.tolist() == [40, 0]  # the same places, by name


def test_nuscenes_gives_views_in_the_order_asked_for(tmp_path: Path) -> None:
    make_nuscenes(tmp_path, cameras=SIX)
    assert cameras_at(tmp_path)[:3] == ["CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT"]
    wanted = ["front", "front_left", "back"]
    source = open_source(tmp_path, cameras=wanted)
    assert isinstance(source, NuScenesSource)
    assert source.views == [f"cam_{name}" for name in wanted]
    dataset = open_dataset(source, 4, (16, 24), 6.0)
    assert isinstance(dataset, ClipDataset)
    frames = dataset[0].frames
    assert frames is not None
    assert frames.shape == (3, 4, 3, 16, 24)
    blue = frames[:, 0, 2].float().mean((1, 2))  # 40 times the number of the camera in SIX
    expected = [40.0 * SIX.index(f"CAM_{name.upper()}") for name in wanted]
    np.testing.assert_allclose(blue.numpy(), expected, atol=4)


def test_nuscenes_tells_how_its_cameras_see_or_that_it_does_not_know(tmp_path: Path) -> None:
    make_nuscenes(tmp_path, cameras=("CAM_FRONT", "CAM_BACK"))
    source = NuScenesSource(tmp_path, cameras=("CAM_BACK",))
    with pytest.raises(ValueError, match="camera_intrinsic of cam_back of scene-0001"):
        source.calibration(0)
    path = tmp_path / "v1.0-mini" / "calibrated_sensor.json"
    rows = json.loads(path.read_text())
    for row in rows:  # nuScenes' front camera, rounded: its z is the car's x, its y is down
        row["rotation"] = [0.5, -0.5, 0.5, -0.5]
        row["camera_intrinsic"] = [[20.0, 0, 16], [0, 20, 9], [0, 0, 1]]
    path.write_text(json.dumps(rows))
    seen = NuScenesSource(tmp_path, cameras=("CAM_BACK",)).calibration(0)["cam_back"]
    assert seen.size == (18, 32)
    np.testing.assert_allclose(seen.pose[:3, :3] @ [0, 0, 1], [1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(seen.pose[:3, :3] @ [0, 1, 0], [0, 0, -1], atol=1e-9)
    np.testing.assert_allclose(seen.pose[:3, 3], [1.7, 0, 1.5])


def test_a_dataset_keeps_its_calibration_and_says_which_is_missing(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "a", ("front", "back"))
    told = Calibration(np.eye(3), np.eye(4), (8, 12))
    set_camera_info(root, "front", calibration=told.to_json())
    with pytest.raises(ValueError, match="calibration of camera back"):
        LeRobotSource(root).calibration(0)
    found = LeRobotSource(root, views=["front"]).calibration(0)["front"]
    assert found.size == (8, 12)
    np.testing.assert_array_equal(found.pose, np.eye(4))
    set_camera_info(root, "front", calibration={"intrinsics": [1, 2]})
    with pytest.raises(ValueError, match="intrinsics"):
        LeRobotSource(root, views=["front"]).calibration(0)


def test_cameras_of_different_rates_are_refused(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "a", ("front", "back"))
    set_camera_info(root, "back", **{"video.fps": 10})
    with pytest.raises(ValueError, match=r"at 5 frames per second, found .*back at 10"):
        LeRobotSource(root)
    assert LeRobotSource(root, views=["front"]).views == ["front"]


def test_folders_of_numbered_pictures_are_recordings_and_gaps_are_cuts(tmp_path: Path) -> None:
    folder = tmp_path / "channel" / "video"
    folder.mkdir(parents=True)
    for number in [10, 11, 12, 20, 21]:
        cv2.imwrite(str(folder / f"{number:09d}.png"), np.full((8, 12, 3), number, np.uint8))
    source = open_source(tmp_path)
    assert isinstance(source, FrameFolderSource)
    episode = source.episode(0)
    assert episode.segments == [(0, 3), (3, 5)]
    assert episode.read([1, 4])[0, :, 0, 0, 0].tolist() == [11, 21]
    row = {"folder": "channel/video", "first_frame": "000000010.jpg", "blip": "a street"}
    told = [row | {"last_frame": "000000012.jpg", "cmd": 0}]
    (tmp_path / "10hz_YouTube_val.json").write_text(json.dumps(told))
    captioned = FrameFolderSource(tmp_path)
    assert [(e.num_frames, e.caption) for e in map(captioned.episode, range(1))] == [
        (3, "a street")
    ]
    (tmp_path / "10hz_YouTube_val.json").write_text('[{"folder": 3}]')
    with pytest.raises(ValueError, match="10hz_YouTube_val"):
        FrameFolderSource(tmp_path)


def test_a_folder_of_photos_is_no_recording(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "photos").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "photos" / f"{number}.png"), np.zeros((8, 12, 3), np.uint8))
    assert isinstance(open_source(tmp_path), ImageFolderSource)
