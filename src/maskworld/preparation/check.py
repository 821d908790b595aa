"""`maskworld data check`: reads a whole set and lists what would spoil a training run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange

from maskworld.data.sources.row_filter import KEEP_ALL
from maskworld.data.sources.tar_samples import SampleVideo
from maskworld.data.sources.tar_shards import TarShardStream
from maskworld.data.statistics import RunningStatistics
from maskworld.data.windows import ClipIndex
from maskworld.preparation.conversion import Progress, name_of

CHUNK = 64
"""Frames decoded at once."""


@dataclass
class CheckReport:
    """What a set holds, and what is wrong with it."""

    name: str
    num_episodes: int = 0
    num_frames: int = 0
    """Of the episodes that were read."""
    seconds: float = 0.0
    views: list[str] = field(default_factory=list)
    sizes: Counter[str] = field(default_factory=Counter)
    """Frames (of codes: grids) by "height x width"."""
    rates: Counter[float] = field(default_factory=Counter)
    """Episodes by frames per second."""
    num_captions: int = 0
    num_with_actions: int = 0
    num_with_labels: int = 0
    label_pixels: dict[str, int] = field(default_factory=dict)
    action_names: list[str] = field(default_factory=list)
    actions: dict[str, np.ndarray] = field(default_factory=dict)
    """RunningStatistics over all rows."""
    codes: str = ""
    windows: str = ""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Odd, but not wrong."""

    def __str__(self) -> str:
        sizes = ", ".join(f"{size} ({count})" for size, count in self.sizes.most_common())
        rates = ", ".join(f"{rate:g} Hz ({n})" for rate, n in self.rates.most_common())
        n = self.num_episodes
        counted = f"{n} episode" if n == 1 else f"{n} episodes"
        lines = [
            f"{self.name}: {counted}, {self.num_frames} frames, {self.seconds:.1f} s",
            f"  views     {', '.join(self.views) or 'one'}",
            f"  sizes     {sizes or 'none'}",
            f"  rates     {rates or 'none'}",
            f"  captions  {self.num_captions} of {n}",
            f"  labels    {self.num_with_labels} of {n}{self._label_text()}",
            f"  actions   {self.num_with_actions} of {n}",
            *self._action_lines(),
        ]
        lines += [f"  codes     {self.codes}"] if self.codes else []
        lines += [f"  windows   {self.windows}"] if self.windows else []
        lines += [f"  note      {note}" for note in self.notes]
        lines += [f"  problem   {problem}" for problem in self.problems]
        return "\n".join([*lines, self._verdict()])

    def _verdict(self) -> str:
        count = len(self.problems)
        return f"{count} problem{'s' if count > 1 else ''} found." if count else "No problem found."

    def _label_text(self) -> str:
        total = sum(self.label_pixels.values())
        shares = [f"{name} {100 * n / total:.1f} %" for name, n in self.label_pixels.items() if n]
        return f": {', '.join(shares)}" if shares else ""

    def _action_lines(self) -> list[str]:
        found = self.actions
        return [
            f"    {name:<12} mean {found['mean'][i]:.4g}, std {found['std'][i]:.4g}, "
            f"min {found['min'][i]:.4g}, max {found['max'][i]:.4g}"
            for i, name in enumerate(self.action_names if found else [])
        ]


def check(
    source: Any,
    *,
    sample: int | None = None,
    num_frames: int | None = None,
    frame_stride: int = 1,
    clip_stride: int = 1,
    progress: Progress | None = None,
) -> CheckReport:
    """Reads every frame of every episode (or of `sample` of them, evenly spread).

    Args:
        source: any Source; one that skipped bad files (`skipped`) gets them as problems.
        num_frames: length of the clips to count; None = no count.
    """
    report = CheckReport(source.name, views=list(getattr(source, "views", [])))
    report.problems += [reason for _, reason in getattr(source, "skipped", [])]
    statistics: list[RunningStatistics] = []
    chosen = _spread(len(source), sample)
    if len(chosen) < len(source):
        report.notes.append(f"{len(chosen)} of {len(source)} episodes read")
    for done, number in enumerate(chosen, start=1):
        name = name_of(source, number)
        for problem in _episode_problems(source, number, report, statistics):
            report.problems.append(problem if name in problem else f"{name}: {problem}")
        if progress is not None:
            progress(done, len(chosen))
    _compare_totals(source, report, is_whole=len(chosen) == len(source))
    if statistics and statistics[0].count:
        report.actions = statistics[0].compute()
        names = getattr(source, "action_names", None)
        report.action_names = list(names or [f"action_{i}" for i in range(statistics[0].dim)])
    for what, count in (("actions", report.num_with_actions), ("labels", report.num_with_labels)):
        if 0 < count < report.num_episodes:
            report.notes.append(f"{report.num_episodes - count} episodes have no {what}")
    if num_frames is not None:
        try:
            index = ClipIndex(source, num_frames, frame_stride, clip_stride)
            report.windows = str(index).removeprefix(f"{source.name}: ")
        except ValueError as error:
            report.problems.append(str(error))
    return report


def _episode_problems(
    source: Any, number: int, report: CheckReport, statistics: list[RunningStatistics]
) -> Iterator[str]:
    """Reads one episode into the report and yields what is wrong with it."""
    try:
        episode = source.episode(number)
        report.num_episodes += 1
        report.num_frames += episode.num_frames
        report.seconds += episode.num_frames / episode.fps
        report.rates[round(episode.fps, 3)] += 1
        report.num_captions += bool(episode.caption)
        yield from _action_problems(episode, report, statistics)
        yield from _time_problems(episode, source)
        yield from _segment_problems(episode)
        if hasattr(episode, "read_tokens"):
            yield from _token_problems(source, episode, report)
        else:
            yield from _pixel_problems(source, episode, report)
    except ValueError as error:
        yield str(error)


def _action_problems(
    episode: Any, report: CheckReport, statistics: list[RunningStatistics]
) -> Iterator[str]:
    actions = episode.actions
    if actions is None:
        return
    report.num_with_actions += 1
    if len(actions) != episode.num_frames:
        yield f"{len(actions)} rows of actions for {episode.num_frames} frames"
    finite = np.isfinite(actions).all(axis=1)
    if not finite.all():
        first = int(np.flatnonzero(~finite)[0])
        yield f"actions of {int((~finite).sum())} frames hold NaN or infinity, first frame {first}"
    if not statistics:
        statistics.append(RunningStatistics(actions.shape[1]))
    if actions.shape[1] != statistics[0].dim:
        yield f"actions have {actions.shape[1]} channels, those before have {statistics[0].dim}"
    else:
        statistics[0].update(actions[finite].astype(np.float64))


def _time_problems(episode: Any, source: Any) -> Iterator[str]:
    """Time stamps that go back, or leave the nominal rate."""
    times = getattr(episode, "timestamps", None)
    if times is not None:
        yield from _backward_problems(times)
    elif "timestamp" in getattr(source, "features", {}):
        seconds = episode.extra("timestamp").reshape(-1).astype(np.float64)
        away = np.abs(seconds - seconds[0] - np.arange(len(seconds)) / episode.fps)
        yield from _backward_problems(seconds)
        if away.max() > 0.5 / episode.fps:
            yield (
                f"the time stamp of frame {int(away.argmax())} is {away.max():.3f} s away from "
                f"{episode.fps:g} frames per second"
            )


def _backward_problems(times: np.ndarray) -> Iterator[str]:
    backward = np.flatnonzero(np.diff(times) <= 0)
    if len(backward):
        yield f"time does not go on at frame {int(backward[0]) + 1}"


def _segment_problems(episode: Any) -> Iterator[str]:
    for start, stop in episode.segments:
        if not 0 <= start < stop <= episode.num_frames:
            yield f"segment {(start, stop)} lies outside its {episode.num_frames} frames"


def _pixel_problems(source: Any, episode: Any, report: CheckReport) -> Iterator[str]:
    names = getattr(source, "label_names", None)
    shape: tuple[int, ...] | None = None
    has_labels, is_well_labelled, is_still, before = False, True, True, None
    for indices in _chunks(episode.num_frames):
        frames = episode.read(indices)
        expected = (shape or frames.shape)[0], len(indices), *(shape or frames.shape)[2:]
        shape = frames.shape
        if frames.shape != expected:
            yield f"frames change their shape from {expected} to {frames.shape}"
        report.sizes[f"{frames.shape[-2]} x {frames.shape[-1]}"] += len(indices)
        for view_frame in rearrange(frames, "v n c h w -> n v c h w"):
            is_still = is_still and (before is None or np.array_equal(before, view_frame))
            before = view_frame
        labels = episode.read_labels(indices)
        if labels is not None:
            found = list(_label_problems(labels, frames, names, indices[0], report))
            yield from found if is_well_labelled else []  # the first of a kind tells
            has_labels, is_well_labelled = True, is_well_labelled and not found
    report.num_with_labels += has_labels
    if is_still and episode.num_frames > 1:
        report.notes.append(f"all {episode.num_frames} frames of an episode are the same")
    size = getattr(source, "size", None)
    if size is not None and shape is not None and tuple(shape[-2:]) != tuple(size):
        yield f"frames of {shape[-2:]}, the set promises {tuple(size)}"


def _label_problems(
    labels: np.ndarray,
    frames: np.ndarray,
    names: Sequence[str] | None,
    first: int,
    report: CheckReport,
) -> Iterator[str]:
    if labels.shape != (*frames.shape[:2], *frames.shape[-2:]):
        yield f"labels of shape {labels.shape} for frames of shape {frames.shape}, frame {first}"
    counts = np.bincount(labels.reshape(-1), minlength=len(names or []))
    if names is not None and len(counts) > len(names):
        yield f"label {len(counts) - 1} at frame {first}, expected 0..{len(names) - 1}"
    for value, count in enumerate(counts):
        name = names[value] if names is not None and value < len(names) else f"class {value}"
        report.label_pixels[name] = report.label_pixels.get(name, 0) + int(count)


def _token_problems(source: Any, episode: Any, report: CheckReport) -> Iterator[str]:
    used = np.zeros(source.vocab_size, dtype=bool)
    for indices in _chunks(episode.num_frames):
        codes = episode.read_tokens(indices)
        report.sizes[f"{codes.shape[-2]} x {codes.shape[-1]}"] += len(indices)
        used[np.unique(codes)] = True
    report.codes = f"{source.vocab_size} codes, {int(used.sum())} used in the last episode read"
    if used.sum() == 1:
        yield "all codes are the same"


def _compare_totals(source: Any, report: CheckReport, is_whole: bool) -> None:
    info = getattr(source, "info", {})
    found = {"total_episodes": len(source), "total_frames": report.num_frames}
    for key, value in found.items():
        if is_whole and key in info and info[key] != value:
            report.problems.append(f"meta/info.json: {key} is {info[key]}, {value} are there")
    if len(set(report.views)) != len(report.views):
        report.problems.append(f"views have the same names: {report.views}")


def check_shards(shards: Sequence[str], *, progress: Progress | None = None) -> CheckReport:
    """Decodes every video and image of tar shards; a damaged shard is read as far as it goes."""
    report = CheckReport(Path(shards[0]).stem)
    for done, shard in enumerate(shards, start=1):
        stream = TarShardStream(
            [shard],
            num_frames=1,
            size=(16, 16),
            row_filter=KEEP_ALL,
            shuffle_buffer=0,
            num_epochs=1,
            rank=0,
            world_size=1,
        )
        try:
            for sample in stream.samples():
                report.num_captions += bool(sample.caption)
                report.num_episodes += 1
                try:
                    _read_sample(sample, report)
                except ValueError as error:
                    report.problems.append(str(error))
        except ValueError as error:
            report.problems.append(f"{error} The rest of the shard was not read.")
        if progress is not None:
            progress(done, len(shards))
    if report.num_episodes == 0:
        report.problems.append(f"{len(shards)} shards hold no sample")
    return report


def _read_sample(sample: Any, report: CheckReport) -> None:
    if sample.is_image:
        height, width = sample.image().shape[:2]
        report.sizes[f"{height} x {width}"] += 1
        report.num_frames += 1
        return
    with SampleVideo(sample) as video:
        for indices in _chunks(video.num_frames):
            height, width = video.read(list(indices)).shape[1:3]
            report.sizes[f"{height} x {width}"] += len(indices)
        report.num_frames += video.num_frames
        report.seconds += video.num_frames / video.fps
        report.rates[round(video.fps, 3)] += 1


def _chunks(num_frames: int) -> Iterator[range]:
    for start in range(0, num_frames, CHUNK):
        yield range(start, min(start + CHUNK, num_frames))


def _spread(count: int, sample: int | None) -> list[int]:
    """All numbers, or `sample` of them from the first to the last."""
    if sample is None or sample >= count:
        return list(range(count))
    if sample < 1:
        raise ValueError(f"Expected a sample of at least 1 episode, got {sample}.")
    return sorted({round(i) for i in np.linspace(0, count - 1, sample)})
