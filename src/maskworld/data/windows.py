"""Clip windows over the episodes of a source, and splits that no window crosses."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from maskworld.data.episodes import Episode, Source

Ranges: TypeAlias = dict[int, list[tuple[int, int]]]
"""Half-open frame ranges by episode that windows may use; absent episodes are not used."""


class Window(NamedTuple):
    """A clip of an episode: its first frame."""

    episode: int
    start: int


class ClipIndex:
    """All windows of `num_frames` frames, every `frame_stride`-th, starting every `clip_stride`.

    Windows lie within one segment (no scene cut inside), one episode, and one range of `ranges`.
    `clip_stride=1` takes every start; `clip_stride = num_frames * frame_stride` takes windows side
    by side. MaskGWM trains on nuScenes with both strides 6 (12 Hz images, clips at 2 Hz).

    Raises:
        ValueError: no window fits; names the longest stretch and the fix.
    """

    def __init__(
        self,
        source: Source,
        num_frames: int,
        frame_stride: int = 1,
        clip_stride: int = 1,
        ranges: Mapping[int, Sequence[tuple[int, int]]] | None = None,
    ) -> None:
        for name, value in (
            ("num_frames", num_frames),
            ("frame_stride", frame_stride),
            ("clip_stride", clip_stride),
        ):
            if value < 1:
                raise ValueError(f"Expected {name} of at least 1, got {value}.")
        if len(source) == 0:
            raise ValueError(f"{source.name} has no episode: there is nothing to take clips from.")
        self.num_frames, self.frame_stride = num_frames, frame_stride
        self.clip_stride, self.name = clip_stride, source.name
        self.span = (num_frames - 1) * frame_stride + 1  # frames from first to last, both counted
        used = full_ranges(source) if ranges is None else ranges
        windows: list[tuple[int, int]] = []
        longest, self.num_too_short, self.num_episodes = 0, 0, len(used)
        for number in sorted(used):
            segments = source.episode(number).segments
            stretches = [
                (max(a, c), min(b, d)) for a, b in segments for c, d in used[number] if a < d
            ]
            longest = max([longest, *(stop - start for start, stop in stretches)])
            found = [
                (number, first)
                for start, stop in stretches
                for first in range(start, stop - self.span + 1, clip_stride)
            ]
            self.num_too_short += not found
            windows += found
        if not windows:
            raise ValueError(self._too_short_message(longest))
        self._windows = np.array(windows, dtype=np.int32)

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> Window:
        episode, start = self._windows[index]
        return Window(int(episode), int(start))

    def frames(self, index: int) -> list[int]:
        """The frame numbers of window `index` within its episode."""
        start = self[index].start
        return list(range(start, start + self.span, self.frame_stride))

    def __str__(self) -> str:
        text = (
            f"{self.name}: {len(self)} clips of {self.num_frames} frames "
            f"(frame stride {self.frame_stride}, clip stride {self.clip_stride}) "
            f"from {self.num_episodes} episodes"
        )
        return text + (f", {self.num_too_short} too short" if self.num_too_short else "")

    def _too_short_message(self, longest: int) -> str:
        fix = f"take at most {longest} frames" if longest else "use other ranges"
        if self.frame_stride > 1 and longest >= self.num_frames:
            widest = (longest - 1) // max(self.num_frames - 1, 1)
            fix += f", or a frame stride of at most {widest}"
        return (
            f"No clip of {self.num_frames} frames with frame stride {self.frame_stride} fits into "
            f"{self.name}: it spans {self.span} frames, the longest stretch without a cut has "
            f"{longest}. Record longer episodes, {fix}."
        )


def full_ranges(source: Source) -> Ranges:
    """All frames of all episodes."""
    return {i: [(0, source.episode(i).num_frames)] for i in range(len(source))}


def split_by_episode(
    source: Source,
    held_out: float | int,
    *,
    seed: int = 0,
    group: Callable[[Episode], Hashable] | None = None,
) -> tuple[Ranges, Ranges]:
    """Ranges to train on and to hold out: whole episodes, drawn by `seed`.

    Args:
        held_out: part of the groups to hold out, in (0, 1); at least one group, never all.
        group: episodes with the same value stay together (their world, their driver);
            None = each episode is a group.

    Raises:
        ValueError: fewer than two groups.
    """
    _check_part(held_out)
    keys = [i if group is None else group(source.episode(i)) for i in range(len(source))]
    groups = list(dict.fromkeys(keys))
    if len(groups) < 2:
        raise ValueError(
            f"{source.name} has {len(groups)} group(s) of episodes, a split needs two: "
            "split it in time (split_by_time) or add episodes."
        )
    count = min(max(1, round(held_out * len(groups))), len(groups) - 1)
    drawn = np.random.default_rng(seed).permutation(len(groups))[:count]
    chosen = {groups[i] for i in drawn}
    whole = full_ranges(source)
    train = {i: r for i, r in whole.items() if keys[i] not in chosen}
    return train, {i: r for i, r in whole.items() if keys[i] in chosen}


def split_by_time(source: Source, held_out: float | int = 0.25) -> tuple[Ranges, Ranges]:
    """Ranges to train on and to hold out: the last part of every episode; windows made from
    them never cross the cut."""
    _check_part(held_out)
    train: Ranges = {}
    held: Ranges = {}
    for i in range(len(source)):
        length = source.episode(i).num_frames
        cut = length - round(held_out * length)
        train[i], held[i] = [(0, cut)], [(cut, length)]
    return train, held


def _check_part(held_out: float | int) -> None:
    if not 0.0 < held_out < 1.0:
        raise ValueError(f"Expected the part to hold out within (0, 1), got {held_out}.")
