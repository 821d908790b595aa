"""Claims about reading LeRobotDataset v2.0, v2.1 and v3.0, and about damaged datasets."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from einops import rearrange

from maskworld.data import lerobot_schema as schema
from maskworld.data.dataset import ClipDataset
from maskworld.data.lerobot import LeRobotSource, LeRobotWriter
from maskworld.data.loader import make_loader
from maskworld.data.video_files import VideoEncoder
from maskworld.data.windows import ClipIndex

LENGTHS, FPS, SIZE = (7, 12, 5), 10, (16, 24)
CAMERAS = ("observation.images.front", "observation.images.wrist")


def recordings() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        {
            "frames": rng.integers(0, 256, (2, n, *SIZE, 3), dtype=np.uint8),
            "action": rng.normal(size=(n, 3)).astype(np.float32),
            "observation.state": rng.normal(size=(n, 2)).astype(np.float32),
        }
        for n in LENGTHS
    ]


def features(images: str) -> dict[str, Any]:
    names = ["height", "width", "channels"]
    camera = {"dtype": images, "shape": [*SIZE, 3], "names": names}
    return {
        CAMERAS[0]: camera,
        CAMERAS[1]: camera | {"shape": [3, *SIZE], "names": ["channels", "height", "width"]},
        "action": {"dtype": "float32", "shape": [3], "names": {"motors": ["x", "y", "grip"]}},
        "observation.state": {"dtype": "float32", "shape": [2], "names": None},
        **schema.INDEX_FEATURES,
    }


def encode(path: Path, parts: list[np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encoder = VideoEncoder(path, fps=FPS, size=SIZE, codec="h264-lossless")
    for part in parts:
        encoder.write(part)
    encoder.close()


def frame_table(number: int, first: int, recording: dict[str, np.ndarray], images: str) -> Any:
    import pyarrow as pa

    n = len(recording["action"])
    columns: dict[str, Any] = {
        "action": recording["action"].tolist(),
        "observation.state": recording["observation.state"].tolist(),
        "timestamp": (np.arange(n) / FPS).astype(np.float32),
        "frame_index": np.arange(n),
        "episode_index": np.full(n, number),
        "index": np.arange(n) + first,
        "task_index": np.full(n, number % 2),
    }
    if images == "image":
        for key, frames in zip(CAMERAS, recording["frames"]):
            columns[key] = [{"bytes": schema.encode_png(f), "path": "frame.png"} for f in frames]
    return pa.table(columns)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_info(root: Path, version: str, images: str, **paths: str | None) -> None:
    (root / "meta").mkdir(parents=True, exist_ok=True)
    info = {"codebase_version": version, "robot_type": "arm", "fps": FPS, "chunks_size": 2}
    info |= {"total_episodes": len(LENGTHS), "total_frames": sum(LENGTHS), "total_tasks": 2}
    info |= {"splits": {"train": f"0:{len(LENGTHS)}"}, "features": features(images), **paths}
    (root / "meta/info.json").write_text(json.dumps(info))


def write_v2(root: Path, version: str, images: str) -> None:
    """As LeRobot v2 lays it out: a parquet file and a video per episode, JSON lines."""
    import pyarrow.parquet as pq

    data = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    video = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    write_info(root, version, images, data_path=data, video_path=video)
    first, stats = 0, []
    for i, recording in enumerate(recordings()):
        path = root / f"data/chunk-{i // 2:03d}/episode_{i:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(frame_table(i, first, recording, images), path)
        first += LENGTHS[i]
        for key, frames in zip(CAMERAS, recording["frames"]):
            if images == "video":
                encode(root / f"videos/chunk-{i // 2:03d}/{key}/episode_{i:06d}.mp4", [frames])
        action = recording["action"].astype(float)
        moments = {k: getattr(action, k)(axis=0).tolist() for k in ("min", "max", "mean", "std")}
        stats.append({"action": moments | {"count": [len(action)]}})
    write_lines(
        root / "meta/episodes.jsonl",
        [
            {"episode_index": i, "tasks": [f"task {i % 2}"], "length": n}
            for i, n in enumerate(LENGTHS)
        ],
    )
    write_lines(
        root / "meta/tasks.jsonl", [{"task_index": i, "task": f"task {i}"} for i in range(2)]
    )
    if version == "v2.1":
        rows = [{"episode_index": i, "stats": s} for i, s in enumerate(stats)]
        write_lines(root / "meta/episodes_stats.jsonl", rows)
    else:
        action = np.concatenate([r["action"] for r in recordings()]).astype(float)
        moments = {k: getattr(action, k)(axis=0).tolist() for k in ("min", "max", "mean", "std")}
        (root / "meta/stats.json").write_text(json.dumps({"action": moments}))


def write_v3(root: Path, images: str) -> None:
    """As LeRobot v3 lays it out (row groups across episodes, tasks as a pandas index), written
    here without our writer."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_info(root, "v3.0", images, data_path=schema.DATA_PATH, video_path=schema.VIDEO_PATH)
    firsts = np.cumsum([0, *LENGTHS])
    tables = [frame_table(i, int(firsts[i]), r, images) for i, r in enumerate(recordings())]
    rows = []
    for file, episodes in enumerate(([0, 1], [2])):
        path = root / f"data/chunk-000/file-{file:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.concat_tables([tables[i] for i in episodes]), path, row_group_size=4)
        for key, camera in zip(CAMERAS, range(2)):
            if images == "video":
                parts = [recordings()[i]["frames"][camera] for i in episodes]
                encode(root / f"videos/{key}/chunk-000/file-{file:03d}.mp4", parts)
        for i in episodes:
            start = int(firsts[i] - firsts[episodes[0]])
            row: dict[str, Any] = {"episode_index": i, "tasks": [f"task {i % 2}"]}
            row |= {"length": LENGTHS[i], "data/chunk_index": 0, "data/file_index": file}
            row |= {"dataset_from_index": firsts[i], "dataset_to_index": firsts[i + 1]}
            for key in CAMERAS if images == "video" else ():
                row |= {f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": file}
                row[f"videos/{key}/from_timestamp"] = start / FPS
                row[f"videos/{key}/to_timestamp"] = (start + LENGTHS[i]) / FPS
            rows.append(row | {"stats/action/mean": [0.0, 0.0, 0.0]})
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    tasks = pa.table({"task_index": [0, 1], "__index_level_0__": ["task 0", "task 1"]})
    pq.write_table(tasks, root / "meta/tasks.parquet")


@pytest.mark.parametrize("images", ["video", "image"])
@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0"])
def test_every_version_reads_the_same_recordings(tmp_path: Path, version: str, images: str) -> None:
    root = tmp_path / "set"
    write_v3(root, images) if version == "v3.0" else write_v2(root, version, images)
    source = LeRobotSource(root)
    assert (len(source), source.views, source.size) == (3, ["front", "wrist"], SIZE)
    assert source.action_names == ["x", "y", "grip"]
    assert source.label_names is None
    for i, recording in enumerate(recordings()):
        episode, n = source.episode(i), LENGTHS[i]
        order = [n - 1, 0, 3, 3]
        expected = rearrange(recording["frames"][:, order], "v n h w c -> v n c h w")
        np.testing.assert_array_equal(episode.read(order), expected)
        np.testing.assert_array_equal(
            episode.extra("observation.state"), recording["observation.state"]
        )
        # LeRobot's action of frame t leads away from it; ours leads into it.
        np.testing.assert_array_equal(episode.actions[1:], recording["action"][:-1])
        assert (episode.num_frames, episode.caption) == (n, f"task {i % 2}")
        assert list(episode.segments) == [(0, n)]
        assert episode.read_labels([0]) is None


def test_statistics_of_v21_are_those_of_all_episodes_together(tmp_path: Path) -> None:
    for version in ("v2.0", "v2.1"):
        write_v2(tmp_path / version, version, "image")
    old, new = (LeRobotSource(tmp_path / v).statistics["action"] for v in ("v2.0", "v2.1"))
    for key in ("mean", "std", "min", "max"):
        np.testing.assert_allclose(new[key], old[key], rtol=1e-9)


def test_views_can_be_chosen_and_must_exist(tmp_path: Path) -> None:
    write_v2(tmp_path / "set", "v2.1", "image")
    source = LeRobotSource(tmp_path / "set", views=["wrist"])
    expected = rearrange(recordings()[1]["frames"][1:, :2], "v n h w c -> v n c h w")
    np.testing.assert_array_equal(source.episode(1).read([0, 1]), expected)
    with pytest.raises(ValueError, match="no views"):
        LeRobotSource(tmp_path / "set", views=["top"])


def test_cameras_of_different_sizes_are_refused(tmp_path: Path) -> None:
    write_v2(tmp_path / "set", "v2.1", "image")
    path = tmp_path / "set/meta/info.json"
    info = json.loads(path.read_text())
    info["features"][CAMERAS[1]]["shape"] = [3, 8, 8]
    path.write_text(json.dumps(info))
    with pytest.raises(ValueError, match="different sizes"):
        LeRobotSource(tmp_path / "set")
    assert LeRobotSource(tmp_path / "set", views=["front"]).size == SIZE


def test_workers_and_pickles_read_what_this_process_reads(tmp_path: Path) -> None:
    write_v3(tmp_path / "set", "video")
    source = LeRobotSource(tmp_path / "set")
    dataset = ClipDataset(source, ClipIndex(source, 3))
    here = make_loader([dataset], batch_size=2, seed=3)
    there = make_loader([dataset], batch_size=2, seed=3, num_workers=2)
    for _ in range(6):
        a, b = next(here).frames, next(there).frames
        assert a is not None
        assert b is not None
        assert (a == b).all()
    there.close()
    copied = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copied.episode(1).read([4]), source.episode(1).read([4]))


def small_set(root: Path) -> LeRobotSource:
    with LeRobotWriter(root, fps=5, size=SIZE, codec="h264-lossless", action_names=["v"]) as writer:
        frames = np.zeros((1, 8, 3, *SIZE), dtype=np.uint8)
        writer.add_episode(frames=frames, actions=np.zeros((8, 1), dtype=np.float32))
    return LeRobotSource(root)


@pytest.mark.parametrize("name", ["meta/info.json", "meta/tasks.parquet"])
def test_missing_metadata_name_the_file(tmp_path: Path, name: str) -> None:
    small_set(tmp_path / "set")
    (tmp_path / "set" / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} is missing"):
        LeRobotSource(tmp_path / "set")


@pytest.mark.parametrize("folder", ["data", "meta/episodes"])
def test_a_truncated_parquet_file_is_named(tmp_path: Path, folder: str) -> None:
    small_set(tmp_path / "set")
    path = tmp_path / "set" / folder / "chunk-000/file-000.parquet"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=rf"{folder}.*damaged or truncated"):
        LeRobotSource(tmp_path / "set").episode(0).extra("timestamp")


def test_a_missing_and_a_truncated_video_are_named(tmp_path: Path) -> None:
    source = small_set(tmp_path / "set")
    path = next((tmp_path / "set").rglob("*.mp4"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"file-000\.mp4"):
        source.episode(0).read([7])
    path.unlink()
    with pytest.raises(ValueError, match=r"file-000\.mp4 of episode 0 is missing"):
        LeRobotSource(tmp_path / "set").episode(0).read([0])


def test_an_unknown_version_and_broken_json_are_refused(tmp_path: Path) -> None:
    small_set(tmp_path / "set")
    path = tmp_path / "set/meta/info.json"
    info = path.read_text()
    path.write_text(info.replace("v3.0", "v1.6"))
    with pytest.raises(ValueError, match=r"v1\.6.*expected one of"):
        LeRobotSource(tmp_path / "set")
    path.write_text(info[:40])
    with pytest.raises(ValueError, match="is no JSON"):
        LeRobotSource(tmp_path / "set")


def test_wrong_frames_columns_and_episodes_are_refused(tmp_path: Path) -> None:
    source = small_set(tmp_path / "set")
    with pytest.raises(ValueError, match="has 8 frames, asked for frame 8"):
        source.episode(0).read([8])
    with pytest.raises(ValueError, match="no column 'speed'"):
        source.episode(0).extra("speed")
    with pytest.raises(ValueError, match="has 1 episodes"):
        source.episode(1)
