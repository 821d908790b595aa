"""Importers: what comes out is what went in, whole or not at all; an interrupted one goes on."""

from __future__ import annotations

import errno
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from nuscenes_tables import make_nuscenes

from maskworld.data.lerobot import LeRobotSource, LeRobotWriter
from maskworld.data.sources.tokens import TokenSource
from maskworld.data.video_files import write_video
from maskworld.preparation import conversion
from maskworld.preparation.conversion import ImportSettings, discard_unfinished, frames_at_rate
from maskworld.preparation.importing import (
    import_lerobot,
    import_nuscenes,
    import_tokens,
    import_video,
    import_webdataset,
)

REAL = Path(__file__).parents[3] / "shared/data"
needs_real = pytest.mark.skipif(
    not REAL.is_dir(), reason="the real data of ../shared/data is not on this machine"
)


def make_videos(folder: Path, num_videos: int = 3, num_frames: int = 8, fps: float = 10.0) -> Path:
    """Frame i of video k is grey of value 50 k + 6 i; the speed is i."""
    for k in range(num_videos):
        frames = np.zeros((num_frames, 32, 64, 3), dtype=np.uint8)
        frames += (50 * k + 6 * np.arange(num_frames, dtype=np.uint8))[:, None, None, None]
        write_video(folder / f"{k}.mp4", frames, fps)
        np.save(folder / f"{k}.npy", np.arange(num_frames, dtype=np.float64))
        (folder / f"{k}.txt").write_text(f"video {k}")
    return folder


def greys(episode: Any) -> np.ndarray:
    return episode.read(range(episode.num_frames))[0, :, 0, 8, 8]


def left_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_videos_arrive_with_caption_actions_and_size(tmp_path: Path) -> None:
    make_videos(tmp_path / "in")
    seen: list[tuple[int, int | None]] = []
    report = import_video(
        tmp_path / "in",
        tmp_path / "out",
        ImportSettings(size=(16, 16)),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert (report.num_episodes, report.num_frames) == (3, 24)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    source = LeRobotSource(tmp_path / "out")
    episode = source.episode(2)
    assert (source.size, source.fps, episode.caption) == ((16, 16), 10.0, "video 2")
    np.testing.assert_allclose(greys(episode), 100 + 6 * np.arange(8), atol=3)
    np.testing.assert_array_equal(episode.actions, np.arange(8.0)[:, None])
    assert episode.attributes["file"] == "2.mp4"


def test_a_lower_rate_leaves_frames_out_and_averages_actions(tmp_path: Path) -> None:
    make_videos(tmp_path / "in", num_videos=1)
    import_video(tmp_path / "in", tmp_path / "out", ImportSettings(fps=5.0))
    episode = LeRobotSource(tmp_path / "out").episode(0)
    assert episode.fps == 5.0
    np.testing.assert_allclose(greys(episode), 6 * np.array([0, 2, 4, 6]), atol=3)
    np.testing.assert_array_equal(episode.actions, [[0.0], [1.5], [3.5], [5.5]])


@pytest.mark.parametrize(
    ("fps", "wanted", "expected"),
    [
        (30.0, 12.0, [0, 2, 5, 8, 10]),
        (29.97, 30.0, list(range(12))),
        (25.0, 25.0, list(range(12))),
        (10.0, 1.0, [0, 10]),
    ],
)
def test_kept_frames_are_the_nearest_in_time(
    fps: float, wanted: float, expected: list[int]
) -> None:
    assert frames_at_rate(12, fps, wanted) == expected


def test_rates_are_never_raised() -> None:
    with pytest.raises(ValueError, match="never invented"):
        frames_at_rate(10, 10.0, 20.0)


def test_long_recordings_become_several_episodes_without_a_lost_frame(tmp_path: Path) -> None:
    make_videos(tmp_path / "in", num_videos=1)
    three_frames = 3 * 32 * 64 * 3 / 2**20
    import_video(tmp_path / "in", tmp_path / "out", ImportSettings(max_episode_mb=three_frames))
    source = LeRobotSource(tmp_path / "out")
    episodes = [source.episode(i) for i in range(len(source))]
    assert [e.num_frames for e in episodes] == [3, 3, 2]
    assert [e.attributes["source_frame"] for e in episodes] == [0, 3, 6]
    values = np.concatenate([greys(e) for e in episodes])
    np.testing.assert_allclose(values, 6 * np.arange(8), atol=3)


def test_masks_become_lossless_labels(tmp_path: Path) -> None:
    make_videos(tmp_path / "in", num_videos=1)
    mask = np.zeros((8, 32, 64, 3), dtype=np.uint8)
    mask[:, :, :32] = 255
    write_video(tmp_path / "in/0.mask-car.mp4", mask, 10.0)
    import_video(tmp_path / "in", tmp_path / "out", ImportSettings(size=(16, 32)))
    source = LeRobotSource(tmp_path / "out")
    labels = source.episode(0).read_labels([3])
    assert source.label_names == ["background", "car"]
    assert labels is not None
    assert (labels[0, 0, :, :16] == 1).all()
    assert (labels[0, 0, :, 16:] == 0).all()


def test_mixed_sizes_and_rates_ask_for_one(tmp_path: Path) -> None:
    make_videos(tmp_path / "in", num_videos=1)
    write_video(tmp_path / "in/x.mp4", np.zeros((8, 40, 40, 3), dtype=np.uint8), 25.0)
    (tmp_path / "in/0.npy").unlink()
    with pytest.raises(ValueError, match="pass --size"):
        import_video(tmp_path / "in", tmp_path / "out")
    with pytest.raises(ValueError, match="pass --fps"):
        import_video(tmp_path / "in", tmp_path / "out", ImportSettings(size=(16, 16)))
    import_video(tmp_path / "in", tmp_path / "out", ImportSettings(size=(16, 16), fps=10.0))
    assert [LeRobotSource(tmp_path / "out").episode(i).num_frames for i in (0, 1)] == [8, 3]


def test_actions_beside_some_videos_only_name_the_video(tmp_path: Path) -> None:
    make_videos(tmp_path / "in")
    (tmp_path / "in/1.npy").unlink()
    with pytest.raises(ValueError, match=r"1\.mp4: .* has no actions"):
        import_video(tmp_path / "in", tmp_path / "out")
    assert left_in(tmp_path) == ["in"]


def test_a_bad_video_stops_the_import_or_is_skipped_on_request(tmp_path: Path) -> None:
    make_videos(tmp_path / "in")
    (tmp_path / "in/1.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"1\.mp4"):
        import_video(tmp_path / "in", tmp_path / "out")
    assert left_in(tmp_path) == ["in"]
    with pytest.warns(UserWarning, match="1 of 3"):
        report = import_video(tmp_path / "in", tmp_path / "out", ImportSettings(on_error="skip"))
    assert (report.num_episodes, [name for name, _ in report.skipped]) == (2, ["1.mp4"])
    assert "1.mp4" in str(report)


def test_an_existing_folder_is_replaced_only_on_request(tmp_path: Path) -> None:
    make_videos(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/precious.txt").write_text("keep me")
    with pytest.raises(ValueError, match="exists already"):
        import_video(tmp_path / "in", tmp_path / "out")
    assert left_in(tmp_path / "out") == ["precious.txt"]
    import_video(tmp_path / "in", tmp_path / "out", ImportSettings(overwrite=True))
    assert len(LeRobotSource(tmp_path / "out")) == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_an_interrupted_import_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    make_videos(tmp_path / "in")

    def stop(done: int, total: int | None) -> None:
        if done == 2:
            raise error

    with pytest.raises(type(error)):
        import_video(tmp_path / "in", tmp_path / "out", progress=stop)
    assert left_in(tmp_path) == ["in"]


def test_an_interrupted_import_goes_on_where_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "EPISODES_PER_SAVE", 2)
    make_videos(tmp_path / "in", num_videos=5)
    settings = ImportSettings(resume=True)
    seen: list[int] = []

    def stop(done: int, total: int | None) -> None:
        seen.append(done)
        if done == 4 and seen.count(4) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_video(tmp_path / "in", tmp_path / "out", settings, progress=stop)
    assert not (tmp_path / "out").exists()
    report = import_video(tmp_path / "in", tmp_path / "out", settings, progress=stop)
    assert seen == [1, 2, 3, 4, 3, 4, 5]  # two were safe
    assert (report.num_episodes, report.num_frames) == (5, 40)
    assert left_in(tmp_path) == ["in", "out"]
    source = LeRobotSource(tmp_path / "out")
    for k in range(5):
        assert source.episode(k).caption == f"video {k}"
        assert abs(int(greys(source.episode(k))[1]) - (50 * k + 6)) <= 3


def test_what_an_interrupted_import_kept_can_be_discarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "EPISODES_PER_SAVE", 1)
    make_videos(tmp_path / "in")

    def stop(done: int, total: int | None) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_video(tmp_path / "in", tmp_path / "out", ImportSettings(resume=True), progress=stop)
    assert left_in(tmp_path) == [".out.importing", "in"]
    discard_unfinished(tmp_path / "out")
    assert left_in(tmp_path) == ["in"]


def test_a_lerobot_dataset_keeps_its_further_columns(tmp_path: Path) -> None:
    state = np.arange(18, dtype=np.float32).reshape(6, 3)
    with LeRobotWriter(
        tmp_path / "in", fps=10.0, size=(16, 16), views=("a", "b"), action_names=("x",)
    ) as writer:
        writer.add_episode(
            frames=np.full((2, 6, 3, 16, 16), 77, dtype=np.uint8),
            actions=np.arange(6, dtype=np.float32)[:, None],
            caption="push",
            segments=[(0, 4), (4, 6)],
            extra={"observation.state": state},
        )
    import_lerobot(tmp_path / "in", tmp_path / "out", ImportSettings(size=(8, 8), fps=5.0))
    source = LeRobotSource(tmp_path / "out")
    episode = source.episode(0)
    assert (source.views, source.action_names, source.size) == (["a", "b"], ["x"], (8, 8))
    assert (episode.caption, episode.segments) == ("push", [(0, 2), (2, 3)])
    np.testing.assert_array_equal(episode.extra("observation.state"), state[::2])


def test_nuscenes_arrives_with_its_views_and_motion(tmp_path: Path) -> None:
    root = make_nuscenes(tmp_path / "in")
    cameras = ("CAM_FRONT", "CAM_BACK")
    import_nuscenes(root, tmp_path / "out", cameras=cameras, scenes=["scene-0002"])
    source = LeRobotSource(tmp_path / "out")
    episode = source.episode(0)
    assert (source.views, source.action_names) == (["cam_front", "cam_back"], ["speed", "yaw_rate"])
    assert (episode.num_frames, episode.fps) == (25, 12.0)
    assert episode.attributes["scene"] == "scene-0002"
    assert episode.caption == "Night, scene 1, turn left"


def test_tokens_become_small_arrays_with_their_layout(tmp_path: Path) -> None:
    codes = np.arange(5 * 128).reshape(5, 128) % 1024
    np.save(tmp_path / "a.npy", codes)
    (tmp_path / "a.txt").write_text("a minute")
    np.save(tmp_path / "a.actions.npy", np.ones((5, 2)))
    report = import_tokens(tmp_path / "a.npy", tmp_path / "out")
    source = TokenSource(tmp_path / "out")
    episode = source.episode(0)
    assert (report.num_frames, source.grid, source.vocab_size, source.fps) == (5, (8, 16), 1024, 20)
    np.testing.assert_array_equal(
        episode.read_tokens(range(5))[0].reshape(5, 128),
        codes,
    )
    assert episode.caption == "a minute"
    np.testing.assert_array_equal(episode.actions, np.ones((5, 2)))
    assert np.load(tmp_path / "out/episode-000000.npy").dtype == np.uint16


def test_tokens_out_of_range_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in/a.npy", np.zeros((5, 128), dtype=np.int64))
    np.save(tmp_path / "in/b.npy", np.full((5, 128), 1024))
    with pytest.raises(ValueError, match=r"b\.npy: expected codes"):
        import_tokens(tmp_path / "in", tmp_path / "out")
    assert left_in(tmp_path) == ["in"]


def make_shard(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_videos_of_shards_become_episodes_and_dropped_rows_are_counted(tmp_path: Path) -> None:
    make_videos(tmp_path / "in", num_videos=2)
    files: dict[str, bytes] = {}
    for k in range(2):
        files[f"{k}.mp4"] = (tmp_path / f"in/{k}.mp4").read_bytes()
        files[f"{k}.json"] = json.dumps({"pwatermark": 0.9 * k, "caption": f"web {k}"}).encode()
    files["x.jpg"] = cv2.imencode(".jpg", np.zeros((40, 40, 3), dtype=np.uint8))[1].tobytes()
    make_shard(tmp_path / "a.tar", files)
    settings = ImportSettings(size=(16, 16), fps=10.0)
    report = import_webdataset(tmp_path / "a.tar", tmp_path / "out", settings)
    source = LeRobotSource(tmp_path / "out")
    assert (len(source), source.episode(0).caption) == (1, "web 0")
    np.testing.assert_allclose(greys(source.episode(0)), 6 * np.arange(8), atol=3)
    assert report.counts == {"unscored": 1, "watermark": 1, "no video": 1}
    import_webdataset(
        tmp_path / "a.tar", tmp_path / "images", ImportSettings(size=(16, 16)), kind="image"
    )
    assert LeRobotSource(tmp_path / "images").episode(0).num_frames == 1
    with pytest.raises(ValueError, match="pass --size"):
        import_webdataset(tmp_path / "a.tar", tmp_path / "other", ImportSettings())


@needs_real
def test_the_real_highway_is_imported_at_training_size(tmp_path: Path) -> None:
    settings = ImportSettings(size=(64, 96), fps=5.0)
    import_video(REAL / "driving_real/highway.mp4", tmp_path / "out", settings)
    source = LeRobotSource(tmp_path / "out")
    assert (source.episode(0).num_frames, source.fps, source.size) == (45, 5.0, (64, 96))


@needs_real
def test_the_real_minute_of_tokens_survives(tmp_path: Path) -> None:
    path = REAL / "driving_tokens/commavq_minute.npy"
    import_tokens(path, tmp_path / "out")
    codes = TokenSource(tmp_path / "out").episode(0).read_tokens(range(1200))
    np.testing.assert_array_equal(codes.reshape(1200, 128), np.load(path))
