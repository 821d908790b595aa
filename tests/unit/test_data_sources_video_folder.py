"""A folder of videos as a Source: what stands beside a video belongs to it, bad files say so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maskworld.data.sources.video_folder import VideoFolderSource
from maskworld.data.video_files import read_video, write_video
from maskworld.data.windows import ClipIndex

REAL = Path(__file__).parents[3] / "shared/data"
needs_real = pytest.mark.skipif(
    not REAL.is_dir(), reason="the real data of ../shared/data is not on this machine"
)


def make_video(
    path: Path, num_frames: int = 6, size: tuple[int, int] = (32, 48), fps: float = 10.0
) -> np.ndarray:
    """Frame i is grey of value 20 i, so that a frame tells its number."""
    frames = np.zeros((num_frames, *size, 3), dtype=np.uint8)
    frames += (20 * np.arange(num_frames, dtype=np.uint8))[:, None, None, None]
    write_video(path, frames, fps)
    return frames


def test_sidecars_belong_to_the_video_of_their_stem(tmp_path: Path) -> None:
    make_video(tmp_path / "b.mp4")
    make_video(tmp_path / "sub/a.mp4", num_frames=4)
    (tmp_path / "b.txt").write_text("a car\n turns left\n")
    np.save(tmp_path / "b.npy", np.arange(12.0).reshape(6, 2))
    (tmp_path / "sub/a.csv").write_text("speed,yaw_rate\n" + "1.5,0.25\n" * 4)
    source = VideoFolderSource(tmp_path)
    first, second = source.episode(0), source.episode(1)
    assert [first.path.name, second.path.name] == ["b.mp4", "a.mp4"]
    assert (first.caption, second.caption) == ("a car turns left", "")
    assert (first.num_frames, second.num_frames, first.fps) == (6, 4, 10.0)
    np.testing.assert_array_equal(first.actions, np.arange(12.0).reshape(6, 2))
    np.testing.assert_array_equal(second.actions, [[1.5, 0.25]] * 4)
    assert (source.size, source.fps, len(source)) == ((32, 48), 10.0, 2)


def test_frames_come_in_the_order_asked(tmp_path: Path) -> None:
    frames = make_video(tmp_path / "a.mp4")
    read = VideoFolderSource(tmp_path / "a.mp4").episode(0).read([4, 0, 5])
    assert read.shape == (1, 3, 3, 32, 48)
    np.testing.assert_allclose(read[0, :, 0, 0, 0], frames[[4, 0, 5], 0, 0, 0], atol=3)


def test_mask_videos_become_classes_and_no_episodes(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", num_frames=3)
    masks = np.zeros((2, 3, 32, 48, 3), dtype=np.uint8)
    masks[0, :, :16] = 255  # car: upper half
    masks[1, 1, :, :24] = 255  # robot: left half of frame 1, covers the car
    write_video(tmp_path / "a.mask-car.mp4", masks[0], 10.0)
    write_video(tmp_path / "a.mask-robot.mp4", masks[1], 10.0)
    source = VideoFolderSource(tmp_path)
    assert len(source) == 1
    assert source.label_names == ["background", "car", "robot"]
    labels = source.episode(0).read_labels([0, 1])
    assert labels is not None
    assert labels.shape == (1, 2, 32, 48)
    assert labels[0, 0, 4, 4] == labels[0, 1, 4, 40] == 1
    assert labels[0, 1, 4, 4] == labels[0, 1, 28, 4] == 2
    assert labels[0, 0, 28, 4] == labels[0, 1, 28, 40] == 0


def test_mixed_sizes_and_rates_are_told_apart_from_equal_ones(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4")
    make_video(tmp_path / "b.mp4", size=(40, 40), fps=25.0)
    source = VideoFolderSource(tmp_path)
    assert source.size is None
    assert source.fps is None
    assert source.episode(1).read([0]).shape[-2:] == (40, 40)


def test_odd_sizes_are_read(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", size=(33, 47))
    height, width = VideoFolderSource(tmp_path).episode(0).read([0]).shape[-2:]
    assert (height, width) == (34, 48)  # h264 has even sides only: one row and column more


def damaged(kind: str, folder: Path) -> Path:
    path = folder / "bad.mp4"
    if kind == "truncated":
        make_video(path, num_frames=20)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "text":
        path.write_text("this is no video, whatever its name says\n" * 20)
    elif kind == "zero bytes":
        path.touch()
    return path


@pytest.mark.parametrize("kind", ["truncated", "text", "zero bytes"])
def test_a_bad_file_names_itself_and_is_skipped_only_on_request(tmp_path: Path, kind: str) -> None:
    make_video(tmp_path / "good.mp4")
    bad = damaged(kind, tmp_path)
    with pytest.raises(ValueError, match=r"bad\.mp4"):
        VideoFolderSource(tmp_path)
    with pytest.warns(UserWarning, match="1 of 2 videos skipped"):
        source = VideoFolderSource(tmp_path, on_error="skip")
    assert len(source) == 1
    assert [path for path, _ in source.skipped] == [bad]
    (tmp_path / "good.mp4").unlink()
    with pytest.raises(ValueError, match="None of the 1 videos"):
        VideoFolderSource(tmp_path, on_error="skip")


def test_an_empty_folder_a_missing_one_and_one_without_videos_say_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="an empty folder"):
        VideoFolderSource(tmp_path)
    with pytest.raises(ValueError, match="found nothing"):
        VideoFolderSource(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        VideoFolderSource(tmp_path)


def test_one_frame_is_an_episode_and_too_short_for_a_window(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", num_frames=1)
    source = VideoFolderSource(tmp_path)
    assert source.episode(0).num_frames == 1
    with pytest.raises(ValueError, match="longest stretch without a cut has 1"):
        ClipIndex(source, num_frames=2)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.full((6, 2), np.nan), "frame 0 hold NaN or infinity"),
        (np.zeros((5, 2)), "5 rows of actions for 6 frames"),
        (np.zeros((6, 2, 2)), "one row of actions per frame"),
        (np.array(["left"] * 6), "expected numbers"),
    ],
)
def test_wrong_actions_name_their_file(tmp_path: Path, actions: np.ndarray, message: str) -> None:
    make_video(tmp_path / "a.mp4")
    np.save(tmp_path / "a.npy", actions)
    with pytest.raises(ValueError, match=message) as error:
        VideoFolderSource(tmp_path)
    assert "a.npy" in str(error.value)


def test_actions_of_python_objects_are_refused(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4")
    np.save(tmp_path / "a.npy", np.array([{"speed": 1}] * 6, dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="as plain numbers"):
        VideoFolderSource(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("speed\n1\n2\nfast\n4\n5\n6\n", "row 2"), ("1,2\n" * 5 + "1\n", "one length")],
)
def test_a_wrong_csv_names_its_row(tmp_path: Path, text: str, message: str) -> None:
    make_video(tmp_path / "a.mp4")
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        VideoFolderSource(tmp_path)


@needs_real
def test_the_real_highway_video_is_read() -> None:
    source = VideoFolderSource(REAL / "driving_real/highway.mp4")
    episode = source.episode(0)
    assert (source.size, episode.num_frames, episode.fps) == ((540, 960), 221, 25.0)
    np.testing.assert_array_equal(
        np.moveaxis(episode.read([200])[0, 0], 0, -1),
        read_video(REAL / "driving_real/highway.mp4", 200, 201)[0],
    )


@needs_real
def test_the_real_robot_has_its_masks() -> None:
    masks = {"robot": "mask_robot.mp4", "object": "mask_objects.mp4"}
    source = VideoFolderSource(REAL / "robot_real", masks=masks)
    assert len(source) == 1
    assert source.label_names == ["background", "robot", "object"]
    labels = source.episode(0).read_labels([100])
    assert labels is not None
    assert set(np.unique(labels)) == {0, 1, 2}
