"""Claims about maskworld.data.lerobot: what is written comes back, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskworld.data import lerobot_writer
from maskworld.data.lerobot import LeRobotSource, LeRobotWriter

SIZE = (16, 24)
SETTINGS: dict[str, Any] = {
    "fps": 10,
    "size": SIZE,
    "views": ("front", "left"),
    "action_names": ["speed", "yaw_rate"],
    "label_names": ["sky", "road", "car"],
}


def make_episode(length: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "frames": rng.integers(0, 256, (2, length, 3, *SIZE), dtype=np.uint8),
        "labels": rng.integers(0, 256, (2, length, *SIZE), dtype=np.uint8),
        "actions": rng.normal(size=(length, 2)).astype(np.float32),
        "caption": f"task {seed % 2}",
        "segments": [(0, 3), (3, length)],
        "extra": {
            "observation.state": rng.normal(size=(length, 5)).astype(np.float32),
            "future": rng.normal(size=(length, 4, 3)),
            "command": np.arange(length),
            "is_wet": rng.random(length) < 0.5,
        },
        "attributes": {"world": seed, "season": "autumn"},
    }


def write(root: Path, episodes: list[dict[str, Any]], **settings: Any) -> LeRobotSource:
    with LeRobotWriter(root, **(SETTINGS | settings)) as writer:
        for episode in episodes:
            writer.add_episode(**episode)
    return LeRobotSource(root)


def assert_equal(source: LeRobotSource, episodes: list[dict[str, Any]]) -> None:
    assert len(source) == len(episodes)
    for i, expected in enumerate(episodes):
        found, length = source.episode(i), expected["frames"].shape[1]
        order = [2, 0, 0, length - 1]
        np.testing.assert_array_equal(found.read(order), expected["frames"][:, order])
        np.testing.assert_array_equal(found.read_labels(order), expected["labels"][:, order])
        np.testing.assert_array_equal(found.actions, expected["actions"])
        assert found.actions.dtype == np.float32
        for name, values in expected["extra"].items():
            np.testing.assert_array_equal(found.extra(name), values)
            assert found.extra(name).dtype == values.dtype
        assert (found.caption, found.fps) == (expected["caption"], 10.0)
        assert list(found.segments) == expected["segments"]
        assert found.attributes == expected["attributes"]


@pytest.mark.parametrize("codec", ["png", "h264-lossless"])
def test_a_round_trip_is_exact_over_several_files(tmp_path: Path, codec: str) -> None:
    episodes = [make_episode(n, n) for n in (9, 4, 12, 5)]
    source = write(tmp_path / "set", episodes, codec=codec, data_file_mb=0.02, video_file_mb=0.01)
    assert len(list((tmp_path / "set/data").rglob("*.parquet"))) > 1
    if codec != "png":
        assert len(list((tmp_path / "set/videos").rglob("*.mp4"))) > 2
    assert_equal(source, episodes)
    assert (source.views, source.size) == (["front", "left"], SIZE)
    assert source.action_names == ["speed", "yaw_rate"]
    assert source.label_names == ["sky", "road", "car"]


def test_several_episodes_share_one_video_file_and_lossy_colours_stay_near(tmp_path: Path) -> None:
    colours = np.array([[200, 40, 30], [20, 180, 60], [90, 90, 220]], dtype=np.uint8)
    for codec in ("av1", "h264"):
        with LeRobotWriter(tmp_path / codec, fps=5, size=(64, 96), codec=codec) as writer:
            for colour in colours:
                frames = np.broadcast_to(colour[None, None, :, None, None], (1, 6, 3, 64, 96))
                writer.add_episode(frames=frames.copy())
        source = LeRobotSource(tmp_path / codec)
        assert len(list((tmp_path / codec).rglob("*.mp4"))) == 1
        for i, colour in enumerate(colours):
            for frame in (0, 5):  # the ends touch the neighbouring episodes
                seen = source.episode(i).read([frame])[0, 0].reshape(3, -1).mean(axis=1)
                assert np.abs(seen - colour).max() < 6, (codec, i, frame, seen)


def test_odd_sides_come_back_from_video_without_the_padding(tmp_path: Path) -> None:
    frames = np.full((1, 4, 3, 35, 41), 120, dtype=np.uint8)
    with LeRobotWriter(tmp_path / "set", fps=5, size=(35, 41), codec="h264") as writer:
        writer.add_episode(frames=frames)
    assert LeRobotSource(tmp_path / "set").episode(0).read([0, 3]).shape == (1, 2, 3, 35, 41)


def test_actions_are_read_from_the_column_that_is_named(tmp_path: Path) -> None:
    episode = make_episode(6, 0)
    wanted = episode["actions"] + 1
    episode["extra"]["expert_action"] = wanted
    write(tmp_path / "data", [episode])
    source = LeRobotSource(tmp_path / "data", action_column="expert_action")
    np.testing.assert_array_equal(source.episode(0).actions, wanted)
    with pytest.raises(ValueError, match="no column 'wish' of actions"):
        LeRobotSource(tmp_path / "data", action_column="wish")


def test_the_automatic_codec_keeps_small_frames_lossless() -> None:
    assert lerobot_writer.choose_codec("auto", (96, 160)) == "png"
    assert lerobot_writer.choose_codec("auto", (256, 256)) in ("av1", "h264")
    with pytest.raises(ValueError, match="Unknown codec"):
        lerobot_writer.choose_codec("mpeg", (96, 160))


def test_the_metadata_are_those_of_version_3(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write(tmp_path / "set", [make_episode(n, n) for n in (5, 6)], codec="h264-lossless")
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (2, 11, 2)
    assert info["splits"] == {"train": "0:2"}
    assert info["features"]["observation.images.front"]["shape"] == [*SIZE, 3]
    rows = pq.read_table(tmp_path / "set/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    second = rows[1]
    assert (second["dataset_from_index"], second["dataset_to_index"]) == (5, 11)
    key = "videos/observation.images.left"
    assert second[f"{key}/from_timestamp"] == pytest.approx(0.5)
    assert second[f"{key}/to_timestamp"] == pytest.approx(1.1)
    assert second["meta/episodes/file_index"] == 0
    frames = pq.read_table(tmp_path / "set/data/chunk-000/file-000.parquet")
    assert frames["index"].to_pylist() == list(range(11))
    assert frames["frame_index"].to_pylist() == [*range(5), *range(6)]
    assert frames["task_index"].to_pylist() == [0] * 5 + [1] * 6
    stats = json.loads((tmp_path / "set/meta/stats.json").read_text())
    actions = np.concatenate([make_episode(n, n)["actions"] for n in (5, 6)]).astype(float)
    np.testing.assert_allclose(stats["action"]["mean"], actions.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(stats["action"]["std"], actions.std(axis=0), rtol=1e-9)
    assert np.shape(stats["observation.images.front"]["mean"]) == (3, 1, 1)


def test_pandas_sees_the_tasks_as_lerobot_does(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    write(tmp_path / "set", [make_episode(n, n) for n in (5, 6)])
    tasks = pandas.read_parquet(tmp_path / "set/meta/tasks.parquet")
    assert tasks.iloc[1].name == "task 0"
    assert tasks.loc["task 1"].task_index == 0


def test_appending_keeps_what_was_there_and_updates_the_statistics(tmp_path: Path) -> None:
    episodes = [make_episode(n, n) for n in (9, 4, 12)]
    write(tmp_path / "one", episodes, codec="h264-lossless")
    write(tmp_path / "two", episodes[:1], codec="h264-lossless")
    source = write(tmp_path / "two", episodes[1:], codec="h264-lossless", append=True)
    assert_equal(source, episodes)
    one = LeRobotSource(tmp_path / "one").statistics
    assert source.statistics["action"]["count"] == [25]
    for feature in ("action", "observation.images.front", "timestamp"):
        np.testing.assert_allclose(source.statistics[feature]["std"], one[feature]["std"])
        np.testing.assert_allclose(source.statistics[feature]["mean"], one[feature]["mean"])


def test_appending_other_features_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    episode = make_episode(5, 0)
    write(tmp_path / "set", [episode])
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=r"differs in: .*action"):
        write(tmp_path / "set", [episode], action_names=["speed", "steer"], append=True)
    with pytest.raises(ValueError, match="exists already"):
        write(tmp_path / "set", [episode])
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def broken(**changes: Any) -> dict[str, Any]:
    return make_episode(6, 1) | changes


NAN = make_episode(6, 1)["actions"].copy()
NAN[4, 1] = np.nan
BAD_EPISODES = {
    "nan": (broken(actions=NAN), "Episode 1: actions of frame 4 holds NaN"),
    "empty": (make_episode(6, 1) | {"frames": np.zeros((2, 0, 3, *SIZE), np.uint8)}, "is empty"),
    "size": (broken(frames=np.zeros((2, 6, 3, 8, 8), np.uint8)), "expected frames v t c h w"),
    "views": (broken(frames=np.zeros((1, 6, 3, *SIZE), np.uint8)), "expected frames v t c h w"),
    "labels": (broken(labels=np.zeros((2, 5, *SIZE), np.uint8)), "expected labels"),
    "no labels": (broken(labels=None), "has no labels"),
    "actions": (broken(actions=np.zeros((5, 2), np.float32)), "expected actions"),
    "segments": (broken(segments=[(0, 9)]), r"segment \(0, 9\)"),
    "extra": (broken(extra={}), "the extra columns"),
}


@pytest.mark.parametrize("name", BAD_EPISODES)
def test_a_bad_episode_is_refused_by_name_and_the_good_ones_can_go_on(
    tmp_path: Path, name: str
) -> None:
    bad, message = BAD_EPISODES[name]
    good = make_episode(5, 0)
    with LeRobotWriter(tmp_path / "set", **SETTINGS) as writer:
        writer.add_episode(**good)
        with pytest.raises(ValueError, match=message):
            writer.add_episode(**bad)
    assert_equal(LeRobotSource(tmp_path / "set"), [good])


@pytest.mark.parametrize("codec", ["png", "av1"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_writer_leaves_nothing(
    tmp_path: Path, error: type[BaseException], codec: str
) -> None:
    def interrupted() -> None:
        with LeRobotWriter(tmp_path / "set", **(SETTINGS | {"codec": codec})) as writer:
            writer.add_episode(**make_episode(5, 0))
            raise error

    with pytest.raises(error):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_an_episode_interrupted_halfway_is_never_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def write_on() -> None:
        with LeRobotWriter(tmp_path / "set", **SETTINGS) as writer:
            writer.add_episode(**make_episode(5, 0))
            monkeypatch.setattr(LeRobotWriter, "_write_data", full)
            with pytest.raises(OSError, match="No space"):
                writer.add_episode(**make_episode(5, 1))

    with pytest.raises(ValueError, match="half written"):
        write_on()
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_without_episodes_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no episode"), LeRobotWriter(tmp_path / "a", **SETTINGS):
        pass
    assert list(tmp_path.iterdir()) == []


def test_overwriting_replaces_the_dataset_at_the_end(tmp_path: Path) -> None:
    write(tmp_path / "set", [make_episode(5, 0)])
    episodes = [make_episode(6, 1), make_episode(7, 2)]
    assert_equal(write(tmp_path / "set", episodes, overwrite=True), episodes)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
