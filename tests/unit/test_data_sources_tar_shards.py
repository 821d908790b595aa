"""Tar shards as a stream of clips: packing, filters, sharing, order, and where it goes on."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torchdata.stateful_dataloader import StatefulDataLoader

from maskworld.data.sources.row_filter import RowFilter
from maskworld.data.sources.tar_shards import TarShardStream
from maskworld.data.video_files import write_video
from maskworld.types import Clip


def jpg(value: int, size: tuple[int, int] = (20, 30)) -> bytes:
    return cv2.imencode(".png", np.full((*size, 3), value, dtype=np.uint8))[1].tobytes()


def mp4(folder: Path, num_frames: int) -> bytes:
    path = folder / "made.mp4"
    frames = np.zeros((num_frames, 32, 32, 3), dtype=np.uint8)
    frames += (20 * np.arange(num_frames, dtype=np.uint8))[:, None, None, None]
    write_video(path, frames, 10.0)
    return path.read_bytes()


def make_shard(path: Path, files: dict[str, bytes | str]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            content = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def image_shards(folder: Path, num_shards: int, num_images: int) -> None:
    """Image k of all is grey of value k and is called so."""
    for shard in range(num_shards):
        files: dict[str, bytes | str] = {}
        for i in range(num_images):
            number = shard * num_images + i
            files |= {f"{i:03d}.png": jpg(number), f"{i:03d}.txt": f"image {number}\n"}
        make_shard(folder / f"{shard:02d}.tar", files)


def stream(path: Path, **options: Any) -> TarShardStream:
    settings: dict[str, Any] = {
        "num_frames": 4,
        "size": (16, 16),
        "images_per_clip": 4,
        "shuffle_buffer": 0,
        "num_epochs": 1,
    }
    return TarShardStream(path, **(settings | options))


def numbers(clips: Iterator[Clip]) -> list[int]:
    """The grey value of every frame, one after another."""
    return [int(v) for clip in clips for v in clip.frames[0, :, 0, 0, 0]]  # type: ignore[index]


def test_sixteen_images_make_a_clip_with_a_caption_line_each(tmp_path: Path) -> None:
    image_shards(tmp_path, 2, 17)
    clips = list(stream(tmp_path, images_per_clip=16))
    assert len(clips) == 2
    assert all(clip.is_image for clip in clips)
    assert clips[0].frames is not None
    assert clips[0].frames.shape == (1, 16, 3, 16, 16)
    assert clips[1].caption.split("\n") == [f"image {i}" for i in range(16, 32)]
    assert numbers(iter(clips)) == list(range(32))


def test_a_video_gives_a_window_at_a_seeded_start(tmp_path: Path) -> None:
    video = mp4(tmp_path, 12)
    row = json.dumps({"title": "a car"})
    make_shard(
        tmp_path / "a.tar",
        {f"{i}.{k}": d for i in range(6) for k, d in (("mp4", video), ("json", row))},
    )
    clips = list(stream(tmp_path, frame_stride=2))
    assert [clip.caption for clip in clips] == ["a car"] * 6
    assert {clip.fps for clip in clips} == {5.0}
    assert len({clip.start for clip in clips}) > 1
    for clip in clips:
        expected = 20 * (clip.start + 2 * np.arange(4))
        np.testing.assert_allclose(numbers(iter([clip])), expected, atol=3)
    again = list(stream(tmp_path, frame_stride=2))
    assert [c.start for c in again] == [c.start for c in clips]
    other = list(stream(tmp_path, frame_stride=2, seed=1))
    assert [c.start for c in other] != [c.start for c in clips]


def test_videos_shorter_than_the_window_are_counted(tmp_path: Path) -> None:
    make_shard(tmp_path / "a.tar", {"a.mp4": mp4(tmp_path, 3), "b.mp4": mp4(tmp_path, 4)})
    shards = stream(tmp_path)
    assert [clip.start for clip in shards] == [0]
    assert shards.counts["too_short"] == 1


def test_laion_rows_are_dropped_by_the_papers_thresholds(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"pwatermark": 0.5, "punsafe": 0.45},
        {"pwatermark": 0.51, "punsafe": 0.0},
        {"pwatermark": 0.0, "punsafe": 0.46},
        {"NSFW": "UNLIKELY"},
    ]
    files = {f"{i}.png": jpg(i) for i in range(4)} | {
        f"{i}.json": json.dumps(row) for i, row in enumerate(rows)
    }
    make_shard(tmp_path / "a.tar", {k: files[k] for k in sorted(files)})
    shards = stream(tmp_path, images_per_clip=1)
    assert numbers(iter(shards)) == [0, 3]
    assert {k: shards.counts[k] for k in ("kept", "watermark", "nsfw", "unscored")} == {
        "kept": 1,
        "watermark": 1,
        "nsfw": 1,
        "unscored": 1,
    }
    strict = stream(tmp_path, images_per_clip=1, row_filter=RowFilter(keep_unscored=False))
    assert numbers(iter(strict)) == [0]


@pytest.mark.parametrize("num_shards", [4, 1])
@pytest.mark.parametrize("shuffle_buffer", [0, 8])
def test_ranks_and_workers_share_every_sample_once(
    tmp_path: Path, num_shards: int, shuffle_buffer: int
) -> None:
    image_shards(tmp_path, num_shards, 32 // num_shards)
    seen: list[int] = []
    for rank in range(2):
        part = stream(tmp_path, shuffle_buffer=shuffle_buffer, rank=rank, world_size=2)
        seen += numbers(iter(part))
    assert sorted(seen) == list(range(32))


def test_the_shuffled_order_depends_on_seed_and_epoch_alone(tmp_path: Path) -> None:
    image_shards(tmp_path, 4, 8)
    two = numbers(iter(stream(tmp_path, shuffle_buffer=16, num_epochs=2)))
    assert two == numbers(iter(stream(tmp_path, shuffle_buffer=16, num_epochs=2)))
    assert sorted(two[:32]) == sorted(two[32:]) == list(range(32))
    assert two[:32] != two[32:]
    assert two[:32] != list(range(32))
    assert two[:32] != numbers(iter(stream(tmp_path, shuffle_buffer=16, seed=1)))


def test_a_stream_goes_on_where_its_state_was_taken(tmp_path: Path) -> None:
    """With images waiting for their clip, with dropped and with broken samples in between."""
    video = mp4(tmp_path, 9)
    for shard in range(3):
        files: dict[str, bytes | str] = {}
        for i in range(8):
            files[f"{i}.png"] = jpg(10 * shard + i) if i != 3 else b"no image"
            files[f"{i}.json"] = json.dumps({"punsafe": 0.9 if i == 5 else 0.0})[
                : 3 if i == 6 else 99
            ]
            files[f"{i}v.mp4"] = video
        make_shard(tmp_path / f"{shard}.tar", files)
    options: dict[str, Any] = {"shuffle_buffer": 6, "num_epochs": 2, "on_error": "skip"}
    whole = stream(tmp_path, **options)
    clips, states = [], []
    for clip in whole:
        clips.append(clip)
        states.append(whole.state_dict())
    assert any(state["pending"] for state in states)
    for taken in (0, 7, len(clips) // 2, len(clips) - 2):
        later = stream(tmp_path, **options)
        later.load_state_dict(json.loads(json.dumps(states[taken])))
        rest = list(later)
        assert len(rest) == len(clips) - taken - 1
        for mine, expected in zip(rest, clips[taken + 1 :]):
            assert torch.equal(mine.frames, expected.frames)  # type: ignore[arg-type]
            assert (mine.start, mine.caption) == (expected.start, expected.caption)
        assert later.counts == whole.counts


def test_a_loader_of_two_workers_resumes(tmp_path: Path) -> None:
    image_shards(tmp_path, 4, 16)

    def loader() -> StatefulDataLoader:
        return StatefulDataLoader(
            stream(tmp_path, shuffle_buffer=8), batch_size=None, num_workers=2
        )

    first = loader()
    iterator = iter(first)
    head = list(islice(iterator, 5))
    state = first.state_dict()
    rest = numbers(iterator)
    second = loader()
    second.load_state_dict(state)
    assert numbers(iter(second)) == rest
    assert sorted(numbers(iter(head)) + rest) == list(range(64))


def test_a_truncated_shard_names_itself_or_is_skipped_on_request(tmp_path: Path) -> None:
    image_shards(tmp_path, 2, 8)
    bad = tmp_path / "00.tar"
    bad.write_bytes(bad.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"00\.tar cannot be read as a tar shard"):
        list(stream(tmp_path))
    shards = stream(tmp_path, on_error="skip", images_per_clip=1)
    # The image before the damage came without its text, so it is left out too.
    assert numbers(iter(shards)) == list(range(8, 16))
    assert shards.counts["bad"] == 1


def test_bad_samples_name_shard_and_key(tmp_path: Path) -> None:
    for name, data in (("a.png", b"no image"), ("a.mp4", b"no video"), ("a.json", b"{}")):
        make_shard(tmp_path / "x.tar", {name: data})
        with pytest.raises(ValueError, match=r"x\.tar: sample 'a'"):
            list(stream(tmp_path))
    make_shard(tmp_path / "x.tar", {"a.png": jpg(1), "a.json": b"{truncated"})
    with pytest.raises(ValueError, match=r"\.json or \.txt cannot be read"):
        list(stream(tmp_path))


def test_missing_and_empty_shards_say_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no \.tar file"):
        stream(tmp_path)
    with pytest.raises(ValueError, match="2 of 2 shards are missing"):
        stream(tmp_path / "web-{00..01}.tar")
    make_shard(tmp_path / "a.tar", {})
    with pytest.raises(ValueError, match="hold no sample"):
        list(stream(tmp_path))
