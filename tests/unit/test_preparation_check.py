"""Checking a set: whole sets have no problem, each kind of damage is found and named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskworld.data.episodes import ArrayEpisode, ListSource
from maskworld.data.lerobot import LeRobotSource, LeRobotWriter
from maskworld.data.sources.tokens import TokenSource
from maskworld.data.sources.video_folder import VideoFolderSource
from maskworld.data.video_files import write_video
from maskworld.preparation.check import check, check_shards


def episode(num_frames: int = 10, **changes: Any) -> ArrayEpisode:
    rng = np.random.default_rng(0)
    whole = ArrayEpisode(
        frames=rng.integers(0, 256, (1, num_frames, 3, 16, 24), dtype=np.uint8),
        fps=10.0,
        caption="a road",
        actions=rng.normal(size=(num_frames, 2)),
        labels=rng.integers(0, 3, (1, num_frames, 16, 24), dtype=np.uint8),
    )
    for name, value in changes.items():
        setattr(whole, name, value)  # past the checks of the constructor
    return whole


class Source(ListSource):
    """Episodes in memory with class names."""

    label_names = ("sky", "road", "car")


def test_a_whole_set_has_no_problem_and_is_described() -> None:
    report = check(Source([episode(), episode(6)], "drive"), num_frames=4, clip_stride=2)
    assert report.problems == []
    assert (report.num_episodes, report.num_frames, report.seconds) == (2, 16, 1.6)
    assert (report.num_captions, report.num_with_actions, report.num_with_labels) == (2, 2, 2)
    assert report.sizes == {"16 x 24": 16}
    assert sum(report.label_pixels.values()) == 16 * 16 * 24
    text = str(report)
    assert "No problem found." in text
    assert "6 clips of 4 frames" in text
    assert "sky 3" in text
    assert "action_1" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": np.full((10, 2), np.nan)}, "actions of 10 frames hold NaN"),
        ({"actions": np.zeros((9, 2))}, "9 rows of actions for 10 frames"),
        ({"actions": np.zeros((10, 3))}, "3 channels, those before have 2"),
        ({"labels": np.full((1, 10, 16, 24), 3, dtype=np.uint8)}, r"label 3 at frame 0"),
        ({"labels": np.zeros((1, 10, 8, 8), dtype=np.uint8)}, "labels of shape"),
        ({"segments": [(0, 11)]}, r"segment \(0, 11\) lies outside"),
    ],
)
def test_each_damage_is_named_with_its_episode(changes: dict[str, Any], message: str) -> None:
    report = check(Source([episode(), episode(**changes)], "drive"))
    assert len(report.problems) == 1
    with pytest.raises(AssertionError, match=f"episode 1 of drive: .*{message}"):
        raise AssertionError(report.problems[0])


def test_still_pictures_and_missing_parts_are_notes() -> None:
    still = np.zeros((1, 10, 3, 16, 24), dtype=np.uint8)
    report = check(Source([episode(), episode(frames=still, actions=None)], "drive"))
    assert report.problems == []
    assert any("are the same" in note for note in report.notes)
    assert any("1 episodes have no actions" in note for note in report.notes)


def test_clips_that_do_not_fit_are_a_problem() -> None:
    report = check(Source([episode(5)], "drive"), num_frames=8)
    assert len(report.problems) == 1
    assert "the longest stretch without a cut has 5" in report.problems[0]


def test_a_sample_reads_first_and_last() -> None:
    report = check(Source([episode(5 + i) for i in range(10)], "drive"), sample=2)
    assert report.num_frames == 5 + 14
    assert "2 of 10 episodes read" in report.notes


def test_a_lerobot_set_is_compared_with_its_metadata(tmp_path: Path) -> None:
    with LeRobotWriter(tmp_path / "a", fps=10.0, size=(16, 24)) as writer:
        for _ in range(2):
            writer.add_episode(frames=episode().frames, caption="x")
    source = LeRobotSource(tmp_path / "a")
    assert check(source).problems == []
    source.info["total_frames"] = 21
    assert check(source).problems == ["meta/info.json: total_frames is 21, 20 are there"]


def test_a_video_that_breaks_off_is_found(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), dtype=np.uint8)
    for name in "ab":
        write_video(tmp_path / f"{name}.mp4", frames, 10.0)
    whole = (tmp_path / "b.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.warns(UserWarning, match="1 of 2"):
        source = VideoFolderSource(tmp_path, on_error="skip")
    report = check(source)
    assert report.num_frames == 30
    assert len(report.problems) == 1
    assert "b.mp4" in report.problems[0]


def test_codes_out_of_range_are_found(tmp_path: Path) -> None:
    codes = np.arange(40).reshape(5, 2, 4)
    np.save(tmp_path / "a.npy", codes)
    np.save(tmp_path / "b.npy", codes + 10)
    report = check(TokenSource(tmp_path, fps=10.0, vocab_size=40))
    assert len(report.problems) == 1
    assert "b.npy: expected codes 0..39" in report.problems[0]
    assert report.sizes["2 x 4"] == 5
    assert check(TokenSource(tmp_path, fps=10.0)).problems == []


def test_broken_samples_of_shards_are_found(tmp_path: Path) -> None:
    import io
    import tarfile

    import cv2

    good = cv2.imencode(".png", np.zeros((8, 12, 3), dtype=np.uint8))[1].tobytes()
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in (("a.png", good), ("a.txt", b"hi"), ("b.png", b"bad"), ("c.png", good)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    report = check_shards([str(tmp_path / "a.tar")])
    assert (report.num_episodes, report.num_captions, report.sizes) == (3, 1, {"8 x 12": 2})
    assert len(report.problems) == 1
    assert "sample 'b'" in report.problems[0]
