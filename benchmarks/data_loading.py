"""Clips per second: our loader against plain PyAV (open the file, seek, decode).

    python benchmarks/data_loading.py [--video PATH] [--seconds S] [--workers N]

The video is ../shared/data/driving_real/highway.mp4, or a generated one where that is absent.
Both sides deliver the same clips, drawn at random: uint8 RGB of `--size`, scaled in the same way.
All rows are from one run, in turns of a second; ratios are to plain PyAV. A dataset is decoded
anew every epoch, so that what `data import` saves by storing small frames counts every time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from maskworld.data.dataset import ClipDataset
from maskworld.data.episodes import Source
from maskworld.data.lerobot import LeRobotSource, LeRobotWriter
from maskworld.data.loader import make_loader
from maskworld.data.transforms import ResizeCrop
from maskworld.data.video_files import OpenVideos, read_video, write_video
from maskworld.data.windows import ClipIndex

HIGHWAY = Path(__file__).parents[2] / "shared/data/driving_real/highway.mp4"


def plain_pyav(path: Path, num_frames: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """What one writes in five minutes: each clip opens the file, seeks and decodes."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        length, rate = stream.frames, stream.average_rate
        time_base = stream.time_base
    assert rate is not None
    assert time_base is not None
    rng = np.random.default_rng(0)
    while True:
        start = int(rng.integers(length - num_frames + 1))
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            target = round(start / rate / time_base)
            container.seek(target, stream=stream)
            frames = []
            for frame in container.decode(stream):
                if frame.pts is not None and frame.pts >= target - 1:
                    small = frame.reformat(size[1], size[0], "rgb24", interpolation="AREA")
                    frames.append(small.to_ndarray())
                if len(frames) == num_frames:
                    break
        yield np.stack(frames)


class ScaledVideo:
    """One video file as a source and its only episode, scaled while it is decoded."""

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        self.path, self.name = path, path.stem
        self._videos = OpenVideos(size=size)
        reader = self._videos.open(path)
        self.num_frames, self.fps, self.caption = len(reader), reader.index.fps, ""
        self.segments: Sequence[tuple[int, int]] = [(0, self.num_frames)]
        self.actions: Float[np.ndarray, "t a"] | None = None

    def __len__(self) -> int:
        return 1

    def episode(self, index: int) -> ScaledVideo:
        return self

    def read(self, indices: Sequence[int]) -> np.ndarray:
        return self._videos.open(self.path).read(indices).transpose(0, 3, 1, 2)[None]

    def read_labels(self, indices: Sequence[int]) -> None:
        return None


def loader_clips(
    source: Source, num_frames: int, size: tuple[int, int], workers: int
) -> Iterator[object]:
    index = ClipIndex(source, num_frames)
    dataset = ClipDataset(source, index, [ResizeCrop(size)])
    loader = make_loader([dataset], batch_size=1, num_workers=workers)
    try:
        yield from loader
    finally:
        loader.close()


def clips_per_second(rows: dict[str, Iterator[object]], seconds: float) -> dict[str, float]:
    """Measures the rows in turns of a second, so that what else the machine does hits all alike."""
    counts, spent = dict.fromkeys(rows, 0), dict.fromkeys(rows, 0.0)
    for clips in rows.values():
        next(clips)  # opening files and starting workers is not what is measured
    for _ in range(max(1, round(seconds))):
        for name, clips in rows.items():
            for _ in range(6 if "workers" in name else 0):
                next(clips)  # prepared while it was the turn of others
            start = time.perf_counter()
            while (now := time.perf_counter()) - start < 1.0:
                next(clips)
                counts[name] += 1
            spent[name] += now - start
    return {name: counts[name] / spent[name] for name in rows}


def convert(video: Path, folder: Path, size: tuple[int, int], codec: str) -> LeRobotSource:
    """The video as a LeRobot dataset of `size`, as `maskworld data import video` would make."""
    frames = read_video(video, size=size)
    with LeRobotWriter(folder, fps=25, size=size, codec=codec) as writer:
        writer.add_episode(frames=np.ascontiguousarray(frames.transpose(0, 3, 1, 2))[None])
    return LeRobotSource(folder)


def generated_video(path: Path) -> None:
    rows, columns = np.mgrid[:540, :960]
    images = [np.stack([columns + 7 * t, rows + 3 * t, rows + columns], -1) for t in range(221)]
    write_video(path, np.stack(images).astype(np.uint8), fps=25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--video", type=Path, default=HIGHWAY)
    parser.add_argument("--size", type=int, nargs=2, default=(64, 112), metavar=("H", "W"))
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    size, n = (arguments.size[0], arguments.size[1]), arguments.frames
    with tempfile.TemporaryDirectory() as temporary:
        folder, video = Path(temporary), arguments.video
        if not video.is_file():
            print(f"{video} is absent: measuring on a generated video.")
            video = folder / "generated.mp4"
            generated_video(video)
        scaled = ScaledVideo(video, size)
        workers = arguments.workers
        rows: dict[str, Iterator[object]] = {
            "plain PyAV: open, seek, decode, scale": plain_pyav(video, n, size),
            "loader, video file": loader_clips(scaled, n, size, 0),
            f"loader, video file, {workers} workers": loader_clips(scaled, n, size, workers),
        }
        for codec in ("av1", "h264", "png"):
            source = convert(video, folder / codec, size, codec)
            name = f"loader, LeRobot {codec} of {size[0]}x{size[1]}"
            rows[name] = loader_clips(source, n, size, 0)
        rates = clips_per_second(rows, arguments.seconds)
        for clips in rows.values():
            clips.close()  # type: ignore[attr-defined]
    print(f"{video.name}, random clips of {n} frames at {size[0]}x{size[1]}\n")
    print(f"{'':40}{'clips/s':>10}{'ratio':>8}")
    base = next(iter(rates.values()))
    for name, rate in rates.items():
        print(f"{name:40}{rate:10.1f}{rate / base:8.2f}")


if __name__ == "__main__":
    main()
