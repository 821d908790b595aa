"""Claims about maskworld.data.video_files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from maskworld.data.video_files import (
    CODECS,
    OpenVideos,
    VideoEncoder,
    VideoReader,
    can_encode,
    probe_video,
    read_video,
    write_video,
)


def moving(length: int, height: int = 64, width: int = 96) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    images = [
        np.stack([(columns + 5 * t) % 200, rows * 2 % 200, np.full_like(rows, t % 250)], axis=-1)
        for t in range(length)
    ]
    return np.stack(images).astype(np.uint8)


def decode_all(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def encode(path: Path, length: int, codec: str, **options: str) -> None:
    encoder = VideoEncoder(path, fps=12.5, size=(64, 96), codec=codec, **options)
    encoder.write(moving(length))
    encoder.close()


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("h264", {"g": "2"}),
        ("h264", {"g": "15", "bf": "3"}),
        ("h264", {"g": "8", "bf": "3", "x264-params": "open-gop=1:b-pyramid=none"}),
        ("av1", {}),
        ("h264-lossless", {}),
    ],
)
def test_any_order_gives_the_frames_of_sequential_decoding(
    tmp_path: Path, codec: str, options: dict[str, str]
) -> None:
    if not can_encode(codec):
        pytest.skip(f"this PyAV cannot write {codec}")
    path = tmp_path / "video.mp4"
    encode(path, 60, codec, **options)
    expected = decode_all(path)
    rng = np.random.default_rng(0)
    with VideoReader(path) as reader:
        assert len(reader) == 60
        for _ in range(25):
            order = rng.integers(0, 60, size=4).tolist()
            np.testing.assert_array_equal(reader.read(order), expected[order])
        for start in (0, 3, 57):  # windows that follow each other, and the end
            order = list(range(start, min(start + 8, 60)))
            np.testing.assert_array_equal(reader.read(order), expected[order])
        times = [i / 12.5 + 0.01 for i in (59, 0, 30)]
        np.testing.assert_array_equal(reader.read_times(times, 0.04), expected[[59, 0, 30]])
        with pytest.raises(ValueError, match="no frame within"):
            reader.read_times([60 / 12.5 + 0.1], 0.04)


def test_another_process_opens_files_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forked worker would share its parent's file position."""
    write_video(tmp_path / "a.mp4", moving(4), fps=10)
    videos = OpenVideos()
    first = videos.open(tmp_path / "a.mp4")
    monkeypatch.setattr("os.getpid", lambda: 1)
    assert videos.open(tmp_path / "a.mp4") is not first
    assert first.read([2]).shape == (1, 64, 96, 3)  # still open


def test_sequential_windows_decode_each_frame_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seeks = tmp_path / "video.mp4", []
    encode(path, 40, "h264", g="250")
    seek = VideoReader._seek
    monkeypatch.setattr(VideoReader, "_seek", lambda r, t: (seeks.append(t), seek(r, t))[1])
    with VideoReader(path) as reader:
        for start in range(0, 40, 5):
            reader.read(list(range(start, start + 5)))
        assert len(seeks) == 1
        reader.read([3])
        assert len(seeks) == 2


def test_lossless_video_is_lossless(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4", 12, "h264-lossless")
    np.testing.assert_array_equal(read_video(tmp_path / "a.mp4"), moving(12))


@pytest.mark.parametrize(("height", "width"), [(64, 96), (33, 47)])
def test_written_videos_play_in_browsers_and_look_the_same(
    tmp_path: Path, height: int, width: int
) -> None:
    frames = moving(9, height, width)
    write_video(tmp_path / "a.mp4", frames, fps=7.5)
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.height % 2, context.width % 2) == (0, 0)
    info = probe_video(tmp_path / "a.mp4")
    assert (info.num_frames, info.fps) == (9, 7.5)
    found = read_video(tmp_path / "a.mp4")[:, :height, :width]
    assert np.abs(found.astype(int) - frames).mean() < 4
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays before all of it has arrived


def test_reading_takes_ranges_and_sizes(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4", 20, "h264-lossless")
    found = read_video(tmp_path / "a.mp4", 3, 15, 4, size=(32, 48))
    assert found.shape == (3, 32, 48, 3)
    mean = moving(20)[3:15:4].reshape(3, 32, 2, 48, 2, 3).mean(axis=(2, 4))
    assert np.abs(found - mean)[:, :, :-2].mean() < 3
    with pytest.raises(ValueError, match="none of them"):
        read_video(tmp_path / "a.mp4", 30)
    with pytest.raises(ValueError, match="asked for frame 20"):
        VideoReader(tmp_path / "a.mp4").read([20])


def test_one_frame_is_a_video(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving(1), fps=10)
    assert probe_video(tmp_path / "a.mp4").num_frames == 1
    assert read_video(tmp_path / "a.mp4").shape == (1, 64, 96, 3)


def test_files_that_are_no_video_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("hello, I am not a video\n" * 20)
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(ValueError, match=r"text\.mp4 cannot be opened, it is no video"):
        probe_video(tmp_path / "text.mp4")
    with pytest.raises(ValueError, match=r"empty\.mp4 is empty \(0 bytes\)"):
        probe_video(tmp_path / "empty.mp4")
    with pytest.raises(ValueError, match=r"Expected a video file .*found nothing"):
        probe_video(tmp_path / "missing.mp4")
    with pytest.raises(ValueError, match="found a folder"):
        probe_video(tmp_path)


def test_truncated_videos_are_named(tmp_path: Path) -> None:
    encode(tmp_path / "whole.mp4", 40, "h264")  # its index stands in front
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: int(0.7 * len(data))])
    (tmp_path / "head.mp4").write_bytes(data[:40])
    with pytest.raises(ValueError, match=r"cut\.mp4 (is truncated|breaks off)"):
        probe_video(tmp_path / "cut.mp4")
    with pytest.raises(ValueError, match=r"head\.mp4 .*truncated mp4"):
        probe_video(tmp_path / "head.mp4")


def test_a_video_without_frames_and_one_without_pictures_are_named(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "none.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        container.start_encoding()
    with pytest.raises(ValueError, match=r"none\.mp4"):
        probe_video(tmp_path / "none.mp4")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        sound: Any = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 16000
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    with pytest.raises(ValueError, match="no video stream"):
        probe_video(tmp_path / "sound.mp4")


def test_a_change_of_size_within_a_file_is_named(tmp_path: Path) -> None:
    for number, size in enumerate(((64, 96), (48, 64))):
        with av.open(str(tmp_path / f"{number}.ts"), "w") as container:
            stream: Any = container.add_stream("libx264", rate=10, options={"bf": "0"})
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            for i, image in enumerate(moving(10, *size)):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = i + 10 * number
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    mixed = tmp_path / "mixed.ts"
    mixed.write_bytes((tmp_path / "0.ts").read_bytes() + (tmp_path / "1.ts").read_bytes())
    with VideoReader(mixed) as reader, pytest.raises(ValueError, match="changes its frame size"):
        reader.read(list(range(len(reader))))


def test_a_failed_write_leaves_the_old_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, moving(3), fps=10)
    before = path.read_bytes()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoEncoder, "_mux", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_video(path, moving(30), fps=10)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_nothing_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / "a.mp4", moving(3)[:0], fps=10)
    with pytest.raises(ValueError, match="fps above 0"):
        write_video(tmp_path / "a.mp4", moving(3), fps=0)
    with pytest.raises(ValueError, match="Unknown codec"):
        VideoEncoder(tmp_path / "a.mp4", fps=10, size=(64, 96), codec="mpeg")
    assert list(tmp_path.iterdir()) == []
    assert set(CODECS) == {"av1", "h264", "h264-lossless"}


def test_open_videos_keep_a_few_and_reopen_the_rest(tmp_path: Path) -> None:
    for i in range(3):
        write_video(tmp_path / f"{i}.mp4", moving(4 + i), fps=10)
    videos = OpenVideos(max_open=2)
    first = videos.open(tmp_path / "0.mp4")
    assert videos.open(tmp_path / "0.mp4") is first
    assert [len(videos.open(tmp_path / f"{i}.mp4")) for i in (0, 1, 2, 0)] == [4, 5, 6, 4]
    again = videos.open(tmp_path / "0.mp4")
    assert again is not first
    assert again.read([3]).shape == (1, 64, 96, 3)
