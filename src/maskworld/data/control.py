"""Clips of robot episodes: memory frames, the future to predict, and the action chunk from now.

A row t of a source's `actions` is the step *into* frame t, as everywhere (ADR 0007), so the chunk
that starts at frame `now` is rows now + 1, now + 2, ..., and the state after action i is that of
frame now + 1 + i. GE-ACT's loader, which Mask World Model's derives from, starts its chunk one row
later (it skips the action applied at the last memory frame) and pairs each action with the state
it is applied at (`data/libero_dataset.py`); ours pairs it with the state it leads to.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float

from maskworld.data.control_statistics import ControlStatistics, control_rows, episode_name
from maskworld.data.episodes import Source
from maskworld.data.transforms import RecolorRegions, Transform, apply_transforms
from maskworld.data.windows import Window, full_ranges
from maskworld.types import Clip, ControlSample


@dataclass(frozen=True)
class MemoryPick:
    """Which frames a policy remembers: `num_frames` of them, the last is now.

    The loader of training clips and the running policy ask the same function.
    """

    num_frames: int = 4
    """With now. GE-ACT and Mask World Model: 4."""
    mode: Literal["random", "every"] = "random"
    """"random": sorted draws without repetition from the last `window` steps (training, GE-ACT).
    "every": each `stride` steps back (a running policy)."""
    window: int = 463
    """Steps back that "random" draws from. GE-ACT: 500, of which the chunk takes 36 and now 1."""
    before: int = 100
    """"random" counts so many steps before the episode as its first frame (GE-ACT: 100)."""
    stride: int = 20
    """Steps between remembered frames of "every". GE-ACT on LIBERO: 20, or 30 for the suites
    object and spatial; it counts them from the start of the episode, we count back from now."""

    def __post_init__(self) -> None:
        if self.mode not in ("random", "every"):
            raise ValueError(f"Expected mode 'random' or 'every', got {self.mode!r}.")
        if min(self.num_frames, self.window, self.stride) < 1 or self.before < 0:
            raise ValueError(
                f"Expected num_frames, window and stride of at least 1 and before of at least 0, "
                f"got {self}."
            )

    def indices(
        self, now: int, rng: np.random.Generator | None = None, first: int = 0
    ) -> list[int]:
        """Frame numbers, oldest first, the last is `now`; none lies before `first`, which stands in
        for those that would.

        Args:
            rng: needed by "random" alone.

        Raises:
            ValueError: "random" without a generator, or `now` before `first`.
        """
        if now < first:
            raise ValueError(f"Expected now at or after frame {first}, got {now}.")
        count = self.num_frames - 1
        if self.mode == "every":
            return [max(first, now - k * self.stride) for k in range(count, -1, -1)]
        if rng is None:
            raise ValueError("Random memory frames need a generator: pass rng.")
        candidates = np.arange(max(first - self.before, now - self.window), now)
        if len(candidates) < count:
            candidates = np.concatenate([np.full(count - len(candidates), first), candidates])
        drawn = np.sort(rng.choice(candidates, count, replace=False))
        return [*np.maximum(drawn, first).tolist(), now]


@dataclass(frozen=True)
class ControlWindow:
    """What a clip shows and asks around its moment `now`."""

    memory: MemoryPick = MemoryPick()
    num_future: int = 9
    """Future frames (pixels, not latents). GE-ACT's and Mask World Model's `chunk: 9`; the paper's
    text reads as 33 (5 latents)."""
    frame_stride: int = 4
    """Steps between future frames: now + 4, ..., now + 36 are GE's indices 3, 7, ..., 35."""
    chunk: int = 36
    """Actions from now on."""

    def __post_init__(self) -> None:
        if min(self.frame_stride, self.chunk) < 1 or self.num_future < 0:
            raise ValueError(
                f"Expected frame_stride and chunk of at least 1 and num_future of at least 0, got "
                f"{self}."
            )

    @property
    def span(self) -> int:
        """Steps after now that a clip without padding needs."""
        return max(self.chunk, self.num_future * self.frame_stride)

    def future(self, now: int, last: int) -> list[int]:
        """The future frames; `last` stands in for those after it."""
        return [min(last, now + k * self.frame_stride) for k in range(1, self.num_future + 1)]


class ControlClips:
    """Clips of robot episodes, one for every moment whose next frame is recorded.

    `Clip.frames` are the memory frames, oldest first and ending now, then, with `reads_future`, the
    future frames. `Clip.labels` are the class maps of the future frames alone. `Clip.start` is now;
    `Clip.fps` that of the future frames.

    Chunks that reach beyond the episode repeat its last action and state with `is_real` False, and
    future frames its last frame, as GE-ACT does (moments near the end are drawn like all others).
    Losses leave unreal rows out; or use `allows_padding=False`, which leaves out such moments.

    Args:
        source: robot episodes; those with `reads_control` have `actions` and `state`.
        transforms: applied to every clip in order (`ResizeCrop`, `ColorJitter`).
        ranges: frames to use by episode (`split_by_episode`, `split_by_time`); None = all.
        clip_stride: steps between moments.
        reads_control: fill `Clip.control`. Without it a source needs no actions and no state.
        reads_labels: read the masks of the future. False: no mask is ever opened (stage 2).
        reads_future: append future frames (the RGB target). False: none is ever opened.
        recolor: an augmentation that reads the masks of the frames shown, and keeps them to itself.
        expects: statistics of the data that a model was trained on; the source must fit them.
        only_successes: leave out, and count, episodes whose attribute `success` is false.

    Raises:
        ValueError: nothing to take clips from, no masks, actions or states where they are read,
            another robot than `expects`; on reading: NaN, masks of another size or unknown class.
            Messages name the episode.
    """

    def __init__(
        self,
        source: Source,
        window: ControlWindow | None = None,
        *,
        transforms: Sequence[Transform] = (),
        ranges: Mapping[int, Sequence[tuple[int, int]]] | None = None,
        clip_stride: int = 1,
        reads_control: bool = True,
        reads_labels: bool = False,
        reads_future: bool = False,
        recolor: RecolorRegions | None = None,
        expects: ControlStatistics | None = None,
        allows_padding: bool = True,
        only_successes: bool = False,
    ) -> None:
        self.source, self.window = source, window or ControlWindow()
        self.transforms, self.recolor = list(transforms), recolor
        self.reads_control, self.reads_labels = reads_control, reads_labels
        self.reads_future = reads_future
        self.left_out: Counter[str] = Counter()
        """Episodes that give no clip, by reason."""
        if clip_stride < 1:
            raise ValueError(f"Expected clip_stride of at least 1, got {clip_stride}.")
        if (reads_labels or reads_future) and self.window.num_future == 0:
            raise ValueError("Expected future frames to read, found num_future = 0: ask for some.")
        if expects is not None:
            expects.check(source)
        needed = 1 if allows_padding else self.window.span
        self._stretches: list[_Stretch] = []
        longest = 0
        used = full_ranges(source) if ranges is None else ranges
        for number in sorted(used):
            episode: Any = source.episode(number)
            if only_successes and getattr(episode, "attributes", {}).get("success") is False:
                self.left_out["without success"] += 1
                continue
            pairs = ((s, r) for s in episode.segments for r in used[number])
            whole = [(max(a, c), min(b, d)) for (a, b), (c, d) in pairs]
            longest = max([longest, *(b - a for a, b in whole)])
            found = [
                _Stretch(number, a, b - 1, range(a, b - needed, clip_stride)) for a, b in whole
            ]
            kept = [stretch for stretch in found if len(stretch.moments)]
            self.left_out["too short"] += not kept
            self._stretches += kept
        if not self._stretches:
            raise ValueError(
                f"{source.name} gives no clip: expected {needed + 1} frames in a row, found at "
                f"most {longest} ({dict(self.left_out)}). Record longer episodes, ask for a "
                "shorter chunk, or allow padding."
            )
        self._ends = np.cumsum([len(s.moments) for s in self._stretches]).tolist()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __str__(self) -> str:
        episodes = len({stretch.episode for stretch in self._stretches})
        left_out = ", ".join(f"{n} {why}" for why, n in sorted(self.left_out.items()) if n)
        text = f"{self.source.name}: {len(self)} moments from {episodes} episodes"
        return text + (f", episodes left out: {left_out}" if left_out else "")

    def moment(self, index: int) -> Window:
        """The episode of clip `index`, and its frame number of now."""
        place = self._place(index)
        return Window(place.episode, place.now)

    def __getitem__(self, index: int) -> Clip:
        """Clip `index` with the random draws of seed `index`."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.source.name} has {len(self)} clips, asked for {index}.")
        return self.get(index % len(self), seed=index % len(self))

    def get(self, index: int, seed: int) -> Clip:
        """Clip `index`, its memory frames and transforms drawn from `seed`."""
        place = self._place(index)
        rng = np.random.default_rng([seed, index])
        episode: Any = self.source.episode(place.episode)
        shown = self.window.memory.indices(place.now, rng, place.first)
        future = self.window.future(place.now, place.last)
        shown += future if self.reads_future else []
        frames = torch.from_numpy(_read(episode.read, shown))
        if self.recolor is not None:
            labels = self._labels(episode, place.episode, shown, tuple(frames.shape[-2:]))
            draws = torch.Generator().manual_seed(int(rng.integers(2**62)))
            frames = self.recolor(frames, labels, draws)
        clip = Clip(
            frames=frames,
            labels=self._labels(episode, place.episode, future, tuple(frames.shape[-2:]))
            if self.reads_labels
            else None,
            control=self._control(episode, place) if self.reads_control else None,
            caption=episode.caption,
            fps=float(episode.fps) / self.window.frame_stride,
            source=self.source.name,
            episode=place.episode,
            start=place.now,
        )
        return apply_transforms(clip, self.transforms, seed)

    def _place(self, index: int) -> _Place:
        number = bisect_right(self._ends, index)
        episode, first, last, moments = self._stretches[number]
        before = self._ends[number - 1] if number else 0
        return _Place(episode, first, moments[index - before], last)

    def _control(self, episode: Any, place: _Place) -> ControlSample:
        actions, state = control_rows(episode, episode_name(self.source, place.episode))
        return control_sample(actions, state, place.now, place.last, self.window.chunk)

    def _labels(
        self, episode: Any, number: int, indices: list[int], size: tuple[int, ...]
    ) -> torch.Tensor:
        where = episode_name(self.source, number)
        if (maps := _read(episode.read_labels, indices)) is None:
            raise ValueError(
                f"{where} has no masks: expected a label map for every camera. Store them with the "
                "dataset (`maskworld data segment`), or read none."
            )
        if maps.shape[-2:] != size:
            raise ValueError(
                f"{where}: expected masks of the size of the frames, {size}, found "
                f"{maps.shape[-2:]}. Render or resize them again, by the nearest pixel."
            )
        names = getattr(self.source, "label_names", None)
        if names and maps.max() >= len(names):
            raise ValueError(
                f"{where}: found class {int(maps.max())} in a mask, expected 0 to "
                f"{len(names) - 1} ({', '.join(names)}). Name it in label_names, or store it again."
            )
        return torch.from_numpy(maps)


class _Stretch(NamedTuple):
    """Frames `first` to `last` of an episode, without a cut, and the moments to take of them."""

    episode: int
    first: int
    last: int
    moments: range


@dataclass(frozen=True)
class _Place:
    """A moment of an episode, within the frames `first` to `last`."""

    episode: int
    first: int
    now: int
    last: int


def control_sample(
    actions: Float[np.ndarray, "t a"],
    state: Float[np.ndarray, "t s"],
    now: int,
    last: int,
    chunk: int,
) -> ControlSample:
    """The chunk that starts at frame `now` of an episode whose last frame is `last` > `now`.

    Args:
        actions: row t is the step into frame t.
    """
    wanted = np.arange(now + 1, now + 1 + chunk)
    is_real: Bool[np.ndarray, " l"] = wanted <= last
    rows = np.minimum(wanted, last)
    return ControlSample(
        state=torch.from_numpy(state[now].copy()),
        actions=torch.from_numpy(actions[rows]),
        states=torch.from_numpy(state[rows]),
        is_real=torch.from_numpy(is_real),
    )


def _read(read: Any, indices: list[int]) -> Any:
    """`read(indices)` with every frame decoded once."""
    wanted, back = np.unique(indices, return_inverse=True)
    found = read(wanted.tolist())
    return None if found is None else np.ascontiguousarray(found[:, back])
