"""Curation: what is kept, what is dropped for which reason, and what the kept is called."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from maskworld.data.episodes import ArrayEpisode
from maskworld.data.lerobot import LeRobotSource
from maskworld.data.sources.video_folder import VideoFolderSource
from maskworld.data.video_files import write_video
from maskworld.data.windows import ClipIndex
from maskworld.preparation.captioning import merge_captions
from maskworld.preparation.clip_measures import key_frames, measure, scene_motion
from maskworld.preparation.conversion import ImportSettings
from maskworld.preparation.curate import REPORT, CurationSettings, curate
from maskworld.preparation.score_rows import read_rows

REAL = Path(__file__).parents[3] / "shared/data"
needs_real = pytest.mark.skipif(
    not REAL.is_dir(), reason="the real data of ../shared/data is not on this machine"
)
SETTINGS = CurationSettings(min_frames=6)


def moving(seed: int, num_frames: int = 20, speed: float = 1.0, width: int = 80) -> np.ndarray:
    """A camera over a random pattern, `speed` pixels of 80 per frame to the side."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (12, 40, 3), dtype=np.uint8)
    world = cv2.resize(noise, (400, 60), interpolation=cv2.INTER_CUBIC)
    shift = [np.array([[1, 0, -i * speed], [0, 1, 0]], dtype=np.float32) for i in range(num_frames)]
    frames = [cv2.warpAffine(world, m, (400, 60))[:, 200:280] for m in shift]
    height = 60 * width // 80
    return np.stack([cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) for f in frames])


def save(folder: Path, **videos: np.ndarray) -> Path:
    for name, frames in videos.items():
        write_video(folder / f"{name}.mp4", frames, 10.0)
    return folder


def verdicts(report: Any) -> dict[str, str]:
    return {scene.name: scene.verdict for scene in report.scenes}


def test_scenes_of_a_cut_video_become_episodes(tmp_path: Path) -> None:
    whole = np.concatenate([moving(0, 20), moving(1, 12)])
    source = VideoFolderSource(save(tmp_path / "in", a=whole))
    report = curate(source, tmp_path / "out", SETTINGS)
    assert verdicts(report) == {"a.mp4[0:20]": "kept", "a.mp4[20:32]": "kept"}
    written = LeRobotSource(tmp_path / "out")
    second = written.episode(1)
    assert [written.episode(i).num_frames for i in range(2)] == [20, 12]
    original = source.episode(0).read([20])[0, 0].astype(int)
    assert np.abs(second.read([0])[0, 0].astype(int) - original).mean() < 3
    assert second.attributes["scene_start"] == 20


def test_scenes_can_stay_segments_that_no_window_leaves(tmp_path: Path) -> None:
    whole = np.concatenate([moving(0, 20), moving(1, 4), moving(2, 12)])
    source = VideoFolderSource(save(tmp_path / "in", a=whole))
    curate(source, tmp_path / "out", SETTINGS, split_scenes=False)
    written = LeRobotSource(tmp_path / "out")
    assert written.episode(0).num_frames == 36
    assert written.episode(0).segments == [(0, 20), (24, 36)]
    index = ClipIndex(written, num_frames=8)
    assert {index[i].start for i in range(len(index))} == {*range(13), *range(24, 29)}


def test_a_cut_within_the_first_moments_is_found() -> None:
    frames = np.concatenate([moving(0, 3), moving(1, 12)])
    episode = ArrayEpisode(np.moveaxis(frames, -1, 1)[None], fps=10.0)
    assert measure(episode).scenes == [(0, 3), (3, 15)]
    assert measure(episode, scene_threshold=None).scenes == [(0, 15)]


def test_known_cuts_stay_cuts() -> None:
    frames = np.moveaxis(moving(0, 12), -1, 1)[None]
    episode = ArrayEpisode(frames, fps=10.0, segments=[(0, 5), (5, 12)])
    assert measure(episode).scenes == [(0, 5), (5, 12)]


@pytest.mark.parametrize("fps", [5.0, 10.0, 30.0])
@pytest.mark.parametrize("width", [80, 240])
def test_motion_is_measured_in_widths_per_second(fps: float, width: int) -> None:
    """20 % of the width per second, whatever the rate and the resolution."""
    frames = moving(0, num_frames=24, speed=16.0 / fps, width=width)
    episode = ArrayEpisode(np.moveaxis(frames, -1, 1)[None], fps=fps)
    assert scene_motion(measure(episode), 0, 24) == pytest.approx(20.0, rel=0.15)


def test_the_motion_of_a_scene_is_not_that_of_its_neighbours() -> None:
    frames = np.concatenate([moving(0, 12), moving(1, 12, speed=0.0)])
    measures = measure(ArrayEpisode(np.moveaxis(frames, -1, 1)[None], fps=10.0))
    assert measures.scenes == [(0, 12), (12, 24)]
    assert scene_motion(measures, 0, 12) > 8
    assert scene_motion(measures, 12, 24) < 0.5


def test_slow_and_short_scenes_are_dropped(tmp_path: Path) -> None:
    source = VideoFolderSource(
        save(tmp_path / "in", fast=moving(0), still=moving(1, speed=0.0), short=moving(2, 5))
    )
    report = curate(source, tmp_path / "out", SETTINGS)
    assert verdicts(report) == {
        "fast.mp4[0:20]": "kept",
        "short.mp4[0:5]": "short",
        "still.mp4[0:20]": "slow",
    }
    assert len(LeRobotSource(tmp_path / "out")) == 1


def test_a_duplicate_names_its_original(tmp_path: Path) -> None:
    """Another size, other light, another encoding: still the same pictures."""
    brighter = np.clip(moving(0, width=160).astype(int) + 5, 0, 255).astype(np.uint8)
    source = VideoFolderSource(save(tmp_path / "in", a=moving(0), b=moving(1), c=brighter))
    writing = ImportSettings(size=(60, 80))
    report = curate(source, tmp_path / "out", SETTINGS, writing)
    copy = report.scenes[2]
    assert (copy.verdict, copy.duplicate_of) == ("duplicate", "a.mp4[0:20]")
    assert "c.mp4[0:20] is a duplicate of a.mp4[0:20]" in str(report)
    assert len(report.kept) == 2
    keep_all = CurationSettings(min_frames=6, duplicate_bits=None)
    assert len(curate(source, None, keep_all).kept) == 3


def test_flat_pictures_of_other_lightness_are_no_duplicates(tmp_path: Path) -> None:
    frames = {f"v{i}": np.full((8, 32, 32, 3), 80 * i, dtype=np.uint8) for i in range(3)}
    source = VideoFolderSource(save(tmp_path / "in", **frames))
    settings = CurationSettings(min_frames=6, min_motion=None)
    assert len(curate(source, None, settings).kept) == 3


@pytest.mark.parametrize("kind", ["json", "csv", "jsonl"])
def test_rows_above_a_threshold_are_dropped(tmp_path: Path, kind: str) -> None:
    folder = save(tmp_path / "in", a=moving(0), b=moving(1), c=moving(2))
    scores = {"a": (0.5, 0.1), "b": (0.6, 0.1), "c": (0.1, 0.9)}
    rows = [
        {"file_name": f"{k}.mp4", "pwatermark": w, "punsafe": n} for k, (w, n) in scores.items()
    ]
    if kind == "json":
        for row in rows:
            (folder / row["file_name"]).with_suffix(".json").write_text(json.dumps(row))
    elif kind == "jsonl":
        (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    else:
        lines = [",".join(str(v) for v in row.values()) for row in rows]
        (folder / "metadata.csv").write_text("\n".join([",".join(rows[0]), *lines]))
    report = curate(VideoFolderSource(folder), None, SETTINGS, rows=read_rows(folder))
    assert [scene.verdict for scene in report.scenes] == ["kept", "watermark", "nsfw"]


class Grey:
    """Says how light an image is."""

    def __init__(self) -> None:
        self.images: list[np.ndarray] = []

    def caption(self, image: np.ndarray) -> str:
        self.images.append(image)
        return f"a road, frame {len(self.images)}"


def test_key_frames_go_to_the_captioner_and_become_one_caption(tmp_path: Path) -> None:
    folder = save(tmp_path / "in", a=moving(0, 21))
    (folder / "a.txt").write_text("from the sidecar")
    source = VideoFolderSource(folder)
    curate(source, tmp_path / "plain", SETTINGS)
    assert LeRobotSource(tmp_path / "plain").episode(0).caption == "from the sidecar"
    captioner = Grey()
    curate(source, tmp_path / "out", SETTINGS, captioner=captioner)
    expected = np.moveaxis(source.episode(0).read([2, 10, 18])[0], 1, -1)
    np.testing.assert_array_equal(captioner.images, expected)
    caption = LeRobotSource(tmp_path / "out").episode(0).caption
    assert caption == "a road, frame 1, frame 2, frame 3"

    def longest(captions: Sequence[str]) -> str:
        return max(captions, key=len)

    report = curate(source, None, SETTINGS, captioner=Grey(), merge=longest)
    assert report.kept[0].caption == "a road, frame 1"


def test_merging_keeps_every_phrase_once() -> None:
    captions = ["Autumn dusk, a car ahead.", "a car ahead, turning left", "a red car ahead; dusk"]
    assert merge_captions(captions) == "Autumn dusk, a car ahead, turning left, a red car ahead"
    assert merge_captions(["", " . "]) == ""
    assert merge_captions(["a car", "a car ahead"]) == "a car ahead"


def test_key_frames_lie_at_ten_fifty_and_ninety_per_cent() -> None:
    assert key_frames(0, 101) == [10, 50, 90]
    assert key_frames(7, 8) == [7, 7, 7]


def test_the_report_says_why_and_lies_in_the_dataset(tmp_path: Path) -> None:
    source = VideoFolderSource(save(tmp_path / "in", a=moving(0), b=moving(1, speed=0.0)))
    curate(source, tmp_path / "out", SETTINGS)
    report = json.loads((tmp_path / "out" / REPORT).read_text())
    assert report["verdicts"] == {"kept": 1, "slow": 1}
    assert (report["num_frames"], report["num_frames_kept"]) == (40, 20)
    assert report["settings"]["min_frames"] == 6
    assert report["scenes"][1]["verdict"] == "slow"
    assert report["motion_percentiles"]["0"] < 2 < report["motion_percentiles"]["100"]


def test_nothing_left_says_what_was_dropped_and_writes_nothing(tmp_path: Path) -> None:
    source = VideoFolderSource(save(tmp_path / "in", a=moving(0, speed=0.0)))
    with pytest.raises(ValueError, match=r"(?s)Nothing of in is left.*slow: 1.*--min-motion") as e:
        curate(source, tmp_path / "out", SETTINGS)
    assert "0 of 1 scenes kept" in str(e.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_a_recording_that_breaks_is_skipped_only_on_request(tmp_path: Path) -> None:
    folder = save(tmp_path / "in", a=moving(0), b=moving(1))
    source = VideoFolderSource(folder)
    (folder / "b.json").write_text("{broken")
    with pytest.raises(ValueError, match=r"b\.json is no JSON"):
        curate(source, tmp_path / "out", SETTINGS)
    report = curate(source, tmp_path / "out", SETTINGS, ImportSettings(on_error="skip"))
    assert list(report.unreadable) == ["b.mp4"]
    assert len(LeRobotSource(tmp_path / "out")) == 1


@needs_real
def test_the_real_highway_is_one_moving_scene() -> None:
    source = VideoFolderSource(REAL / "driving_real/highway.mp4")
    report = curate(source, None)
    assert verdicts(report) == {"highway.mp4[0:221]": "kept"}
    assert report.scenes[0].motion is not None
    assert 5 < report.scenes[0].motion < 12
