"""What the quickstarts of all systems share: the clock, the folder, curves, clips to show."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from maskworld.cli.quickstart import QuickstartOptions
from maskworld.data.dataset import ClipsByNumber, MemoryDataset
from maskworld.data.loader import ClipLoader, make_loader
from maskworld.data.video_files import write_video
from maskworld.evaluation.results import Results
from maskworld.report import VideoRow
from maskworld.training.config import Stage
from maskworld.training.loop import train
from maskworld.types import Batch, Clip

A = TypeVar("A")
B = TypeVar("B")


@dataclass
class Timer:
    """Wall-clock seconds of every phase, printed as they begin and end."""

    seconds: dict[str, float]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times a phase."""
        print(f"[{name}]", flush=True)
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 1)
        print(f"[{name}] {self.seconds[name]:.1f} s", flush=True)


def side_by_side(
    first: Callable[[], A],
    second: Callable[[], B],
    on_error: Callable[[], None] = lambda: None,
) -> tuple[A, B]:
    """Runs both at once, each network operation on one thread; the first stays in this thread, so
    that Ctrl-C reaches it.

    At the sizes of a quickstart a second thread inside an operation gains nothing. What either
    computes does not depend on the other; the first error is raised after both have ended.

    Args:
        on_error: called as soon as the first fails: tells the second that it may stop.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(1) as pool:
            right = pool.submit(second)
            try:
                left = first()
            except BaseException:
                on_error()
                raise
        return left, right.result()
    finally:
        torch.set_num_threads(threads)


def claim_folder(options: QuickstartOptions) -> None:
    """Makes sure that nothing of the user's is overwritten unasked."""
    run_folder = options.out / "run"
    if options.out.is_dir() and any(options.out.iterdir()):
        if not (options.overwrite or options.resume):
            raise ValueError(
                f"Expected a new or empty folder, found files in {options.out}: pass another "
                "--out, --resume to continue there, or --overwrite to replace a quickstart."
            )
        if options.overwrite and not options.resume and run_folder.is_dir():
            shutil.rmtree(run_folder)


@dataclass(frozen=True)
class Mixture:
    """Sets of clips in memory, and how often a batch comes from each."""

    sets: Sequence[list[Clip]]
    weights: Sequence[float]


def train_stages(
    system: Any,
    stages: Sequence[Stage],
    sets: Callable[[Stage], list[Clip] | ClipsByNumber | Mixture],
    options: QuickstartOptions,
    recipe: str,
    data: str = "drive",
    folder: str = "run",
) -> None:
    """One call of the training loop, each stage on its own clips.

    Args:
        sets: what a stage trains on, asked for when its turn comes.
        recipe, data: their names, for the run's config.json.
        folder: of the run, within the quickstart's.
    """

    def batches(stage: Stage) -> ClipLoader:
        found = sets(stage)
        if isinstance(found, list):
            found = Mixture([found], [1.0])
        if isinstance(found, Mixture):
            datasets: list[Any] = [MemoryDataset(clips) for clips in found.sets]
            weights = found.weights
        else:
            datasets, weights = [found], [1.0]
        return make_loader(datasets, weights, batch_size=stage.batch_size, seed=options.seed)

    options.out.mkdir(parents=True, exist_ok=True)
    train(
        system,
        stages,
        batches,
        options.out / folder,
        seed=options.seed,
        device="cpu",
        resume=options.resume,
        config={"recipe": recipe, "data": data},
    )


def read_curves(path: Path, keys: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
    """Curves of a run's log, by term: those whose names end with one of `keys`, which are also the
    order they come in."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        step = int(row["step"])
        for key in keys:
            for name, value in row.items():
                if name.endswith(key) and isinstance(value, int | float):
                    curves.setdefault(name, []).append((step, float(value)))
    return curves


def steering_rows(
    real: Sequence[Batch],
    dreamt: Sequence[UInt8[Tensor, "b v t c h w"]],
    num_context: int,
    count: int,
    caption: str,
) -> list[VideoRow]:
    """Counterfactual pairs to show: what really came of left and of right, and what was dreamt.

    Args:
        real: left and right, pair by pair.
        dreamt: likewise.
        num_context: frames that dreams were given.
        count: pairs to show, spread over all.
    """
    left, right = (side.frames for side in real)
    assert left is not None
    assert right is not None
    return [
        VideoRow(
            name=f"pair {i}",
            panels={
                "left, real": as_video(left[i]),
                "dreamt left": as_video(dreamt[0][i]),
                "right, real": as_video(right[i]),
                "dreamt right": as_video(dreamt[1][i]),
            },
            caption=caption,
            num_context=num_context,
            fps=frame_rate(real[0]),
            section="Counterfactual steering",
        )
        for i in spread(len(left), count)
    ]


def write_videos(folder: Path, rows: Sequence[VideoRow]) -> None:
    """Every row as one .mp4, its panels side by side, twice as large."""
    folder.mkdir(exist_ok=True)
    for row in rows:
        name = "".join(c if c.isalnum() else "-" for c in f"{row.section} {row.name}".lower())
        strip = np.concatenate(list(row.panels.values()), axis=2)
        enlarged = strip.repeat(2, axis=1).repeat(2, axis=2)
        write_video(folder / f"{name}.mp4", enlarged, row.fps)


def print_summary(out: Path, results: Results) -> None:
    """The numbers a user looks for first, and where the rest is."""
    for name, entry in results.to_dict()["metrics"].items():
        low, high = entry["interval"]
        print(f"  {name:34s} {entry['model']:9.3f}  [{low:.3f}, {high:.3f}]  n={entry['n']}")
    print(f"\n{out / 'report.html'}")


def as_video(frames: UInt8[Tensor, "v t c h w"]) -> UInt8[np.ndarray, "t h w2 c"]:
    """One clip as RGB frames, views side by side."""
    return rearrange(frames, "v t c h w -> t h (v w) c").contiguous().numpy()


def spread(total: int, count: int) -> list[int]:
    """Up to `count` indices spread evenly over `total`."""
    count = min(count, total)
    return [round(i * (total - 1) / max(1, count - 1)) for i in range(count)]


def frame_rate(batch: Batch) -> float:
    """Frames per second of the clips of a batch."""
    return float(batch.fps[0]) if batch.fps is not None else 5.0
