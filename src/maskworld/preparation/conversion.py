"""Recordings of any source to one size, rate and layout, written as LeRobotDataset v3.0."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from maskworld.data.lerobot_reader import LeRobotSource
from maskworld.data.lerobot_schema import INDEX_FEATURES
from maskworld.data.lerobot_writer import LeRobotWriter
from maskworld.data.storage import atomic_path, remove
from maskworld.data.transforms import ResizeCrop
from maskworld.types import Clip

Progress: TypeAlias = Callable[[int, int | None], None]
"""Called with the number of episodes done and, where known, of all."""

MAX_EPISODE_MB = 512.0
"""Decoded pixels that are held at once; longer recordings become several episodes (ours)."""
EPISODES_PER_SAVE = 20
"""With `resume`, episodes between two safe points (ours)."""


@dataclass(frozen=True)
class ImportSettings:
    """How recordings are brought to one format.

    Frames are resized and cropped in the middle to `size` (height, width); `fps` lowers the frame
    rate by leaving frames out (actions of left-out frames are averaged, as rates are). None keeps
    what the source has, where all its episodes agree.
    """

    size: tuple[int, int] | None = None
    fps: float | int | None = None
    codec: str = "auto"
    """"png", "av1", "h264", "h264-lossless", or "auto" (see LeRobotWriter)."""
    on_error: Literal["raise", "skip"] = "raise"
    overwrite: bool = False
    resume: bool = False
    max_episode_mb: float | int = MAX_EPISODE_MB


@dataclass
class ImportReport:
    """What an import did."""

    out: Path
    num_episodes: int = 0
    num_frames: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """What was left out, and why."""
    counts: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """Several lines for the reader."""
        lines = [f"{self.out}: {self.num_episodes} episodes, {self.num_frames} frames"]
        lines += [f"  {reason}: {count}" for reason, count in self.counts.items() if count]
        lines += [f"  skipped {name}: {reason}" for name, reason in self.skipped]
        return "\n".join(lines)


@dataclass(frozen=True)
class Recording:
    """An episode of a source on its way: its number there, and how messages call it."""

    number: int
    name: str
    episode: Any


@dataclass(frozen=True)
class Layout:
    """What all episodes of a dataset share; the writer's arguments."""

    fps: float
    size: tuple[int, int]
    views: tuple[str, ...] = ("front",)
    action_names: tuple[str, ...] | None = None
    label_names: tuple[str, ...] | None = None
    extra_names: tuple[str, ...] = ()
    """Further columns that episodes have as `extra(name)`."""


def layout_of(source: Any, settings: ImportSettings) -> Layout:
    """The layout of a source after `settings`.

    Raises:
        ValueError: its episodes differ in size or rate, and `settings` do not say which to take.
    """
    size, fps = settings.size or source.size, settings.fps or source.fps
    if size is None:
        raise ValueError(
            f"The recordings of {source.name} have different sizes: pass --size HEIGHT WIDTH, to "
            "which all are resized and cropped."
        )
    if fps is None:
        raise ValueError(
            f"The recordings of {source.name} have different frame rates: pass --fps, at most the "
            "lowest of them."
        )
    features = getattr(source, "features", {})
    return Layout(
        fps=float(fps),
        size=size,
        views=tuple(source.views),
        action_names=_tuple(getattr(source, "action_names", None)),
        label_names=_tuple(getattr(source, "label_names", None)),
        extra_names=tuple(k for k, f in features.items() if _is_extra(k, f)),
    )


def write_recordings(
    recordings: Iterable[Recording],
    layout: Layout,
    report: ImportReport,
    settings: ImportSettings,
    *,
    total: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Writes recordings as they come, into `report.out`, and fills `report`."""
    target = _staging(report.out) if settings.resume else report.out
    done = 0
    if settings.resume and target.exists():
        done = _continue(target, report)
    waiting = (r for r in recordings if r.number >= done)
    exhausted = False
    while not exhausted:
        with _writer(target, layout, settings) as add:
            for count, recording in enumerate(waiting, start=1):
                _import_one(recording, layout, report, settings, add)
                if progress is not None:
                    progress(recording.number + 1, total)
                if settings.resume and count == EPISODES_PER_SAVE:
                    break
            else:
                exhausted = True
    if settings.resume:
        with atomic_path(report.out) as temporary:
            os.rename(target, temporary)


def check_destination(out: Path, settings: ImportSettings) -> None:
    """Says that `out` exists before any work is done."""
    if out.exists() and not settings.overwrite:
        raise ValueError(
            f"{out} exists already: choose another folder, or pass --overwrite to replace it."
        )


@contextmanager
def _writer(target: Path, layout: Layout, settings: ImportSettings) -> Iterator[Callable[..., int]]:
    """Opens the writer with the first episode, so that an empty last group writes nothing."""
    writer: LeRobotWriter | None = None

    def add(**episode: Any) -> int:
        nonlocal writer
        if writer is None:
            writer = LeRobotWriter(
                target,
                fps=layout.fps,
                size=layout.size,
                views=layout.views,
                action_names=layout.action_names,
                label_names=layout.label_names,
                codec=settings.codec,
                append=settings.resume,
                overwrite=settings.overwrite,
            ).__enter__()
        return writer.add_episode(**episode)

    try:
        yield add
    except BaseException as error:
        if writer is not None:
            writer.__exit__(type(error), error, error.__traceback__)
        raise
    if writer is not None:
        writer.__exit__(None, None, None)
    elif not target.exists():
        raise ValueError(f"{target.name}: no episode could be imported, nothing is written.")


def _import_one(
    recording: Recording,
    layout: Layout,
    report: ImportReport,
    settings: ImportSettings,
    add: Callable[..., int],
) -> None:
    try:
        for piece in _pieces(recording.episode, layout, settings):
            if not _segments(recording.episode.segments, piece):
                continue  # nothing that a window may use
            add(**_converted(recording, piece, layout))
            report.num_episodes += 1
            report.num_frames += len(piece)
    except ValueError as error:
        text = str(error) if recording.name in str(error) else f"{recording.name}: {error}"
        if settings.on_error == "raise":
            raise ValueError(text) from error
        report.skipped.append((recording.name, str(error)))


def _pieces(episode: Any, layout: Layout, settings: ImportSettings) -> Iterator[list[int]]:
    """Frame numbers of the episodes that a recording becomes."""
    kept = frames_at_rate(episode.num_frames, episode.fps, layout.fps)
    height, width = getattr(episode, "size", None) or layout.size
    per_frame = len(layout.views) * max(height * width, layout.size[0] * layout.size[1]) * 3
    longest = max(2, int(settings.max_episode_mb * 2**20 / per_frame))
    for start in range(0, len(kept), longest):
        yield kept[start : start + longest]


def frames_at_rate(num_frames: int, fps: float, wanted: float) -> list[int]:
    """The frames nearest to the times of a lower rate.

    Raises:
        ValueError: the rate would have to be raised.
    """
    if fps < 0.999 * wanted:
        raise ValueError(
            f"Recorded at {fps:g} frames per second, {wanted:g} asked for: frames are left out, "
            f"never invented. Pass --fps {fps:g} or less."
        )
    if fps <= 1.001 * wanted:
        return list(range(num_frames))
    count = int((num_frames - 1) * wanted / fps) + 1
    return [round(k * fps / wanted) for k in range(count)]


def _converted(recording: Recording, frames: list[int], layout: Layout) -> dict[str, Any]:
    """The arguments of `add_episode` for some frames of a recording."""
    episode = recording.episode
    labels = episode.read_labels(frames) if layout.label_names is not None else None
    clip = ResizeCrop(layout.size)(
        Clip(
            frames=torch.from_numpy(np.ascontiguousarray(episode.read(frames))),
            labels=None if labels is None else torch.from_numpy(np.ascontiguousarray(labels)),
        ),
        torch.Generator(),
    )
    assert clip.frames is not None
    attributes = {"source_episode": recording.number, "source_frame": frames[0]}
    return {
        "frames": clip.frames.numpy(),
        "labels": None if clip.labels is None else clip.labels.numpy(),
        "actions": _actions(episode.actions, frames),
        "caption": episode.caption,
        "segments": _segments(episode.segments, frames),
        "extra": {name: episode.extra(name)[frames] for name in layout.extra_names},
        "attributes": getattr(episode, "attributes", {}) | attributes,
    }


def _actions(actions: np.ndarray | None, frames: list[int]) -> np.ndarray | None:
    """The mean over the steps since the frame before; a first frame has its own step."""
    if actions is None:
        return None
    before = [frames[0] - 1, *frames[:-1]]
    return np.stack([actions[a + 1 : b + 1].mean(axis=0) for a, b in zip(before, frames)])


def _segments(segments: Sequence[tuple[int, int]], frames: list[int]) -> list[tuple[int, int]]:
    """The ranges of `frames` that lie in one segment; frames of none stand alone."""
    found: list[tuple[int, int]] = []
    for start, stop in segments:
        inside = [i for i, frame in enumerate(frames) if start <= frame < stop]
        if inside:
            found.append((inside[0], inside[-1] + 1))
    return found


def _staging(out: Path) -> Path:
    return out.with_name(f".{out.name}.importing")


def _continue(staging: Path, report: ImportReport) -> int:
    """Counts what an interrupted import has, and tells at which recording to go on."""
    kept = LeRobotSource(staging)
    report.num_episodes = len(kept)
    report.num_frames = sum(row["length"] for row in kept.rows)
    return int(kept.episode(len(kept) - 1).attributes["source_episode"]) + 1


def discard_unfinished(out: Path | str) -> None:
    """Removes what an interrupted import with `resume` has kept."""
    remove(_staging(Path(out)))


def name_of(source: Any, number: int) -> str:
    """How messages call an episode: its file, its scene, else its number."""
    attributes = getattr(source.episode(number), "attributes", {})
    found = attributes.get("file") or attributes.get("scene")
    return str(found) if found else f"episode {number} of {source.name}"


def _is_extra(name: str, feature: Mapping[str, Any]) -> bool:
    is_numbers = feature["dtype"] not in ("image", "video", "string")
    return is_numbers and name not in INDEX_FEATURES and name != "action" and "/" not in name


def _tuple(names: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)
