"""From recordings to clips worth training on: scenes, motion, scores, likeness, captions.

Reference: WorldDreamer, section 4.1. Thresholds that the paper does not give are ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from maskworld.data.sources.row_filter import KEEP_ALL, RowFilter
from maskworld.data.storage import atomic_path, write_json
from maskworld.preparation.captioning import Captioner, Merge, merge_captions
from maskworld.preparation.clip_measures import Measures, key_frames, measure, scene_motion
from maskworld.preparation.conversion import (
    ImportReport,
    ImportSettings,
    Progress,
    Recording,
    check_destination,
    layout_of,
    name_of,
    write_recordings,
)
from maskworld.preparation.scene_cuts import THRESHOLD
from maskworld.preparation.score_rows import row_of

REPORT = "meta/curation.json"


@dataclass(frozen=True)
class CurationSettings:
    """What is kept. None switches a step off."""

    scene_threshold: float | None = THRESHOLD
    """Change between frames that is a cut, of 255; None = no search."""
    min_frames: int = 16
    """Shorter scenes are dropped (WorldDreamer trains on 16 frames)."""
    min_motion: float | None = 2.0
    """Mean optical flow in per cent of the width per second; slower scenes are dropped."""
    row_filter: RowFilter | None = field(default_factory=RowFilter)
    """Thresholds on the scores of a recording's row."""
    duplicate_bits: int | None = 12
    """Scenes whose three key frames differ in at most so many of 192 hash bits, and little in
    lightness, are duplicates; the first one stays."""


MAX_LIGHTNESS = 8.0
"""Mean difference of duplicates' thumbnails, of 255 (ours): flat pictures have like hashes."""


@dataclass
class Scene:
    """A piece of a recording, and what became of it."""

    recording: str
    number: int
    """Of the recording within the source."""
    start: int
    stop: int
    motion: float | None = None
    verdict: str = "kept"
    """ "kept", "short", "slow", "watermark", "nsfw", "unscored" or "duplicate"."""
    duplicate_of: str = ""
    caption: str = ""

    @property
    def name(self) -> str:
        return f"{self.recording}[{self.start}:{self.stop}]"


@dataclass
class CurationReport:
    """Every scene of every recording with its verdict."""

    scenes: list[Scene]
    settings: CurationSettings
    unreadable: dict[str, str] = field(default_factory=dict)
    """Recordings that were skipped, with the reason."""

    @property
    def kept(self) -> list[Scene]:
        return [scene for scene in self.scenes if scene.verdict == "kept"]

    def as_json(self) -> dict[str, Any]:
        """Counts and quantiles first, then scene by scene."""
        verdicts = Counter(scene.verdict for scene in self.scenes)
        speeds = [scene.motion for scene in self.scenes if scene.motion is not None]
        quantiles = (0, 10, 25, 50, 75, 90, 100)
        return {
            "settings": asdict(self.settings),
            "num_scenes": len(self.scenes),
            "num_frames": sum(s.stop - s.start for s in self.scenes),
            "num_frames_kept": sum(s.stop - s.start for s in self.kept),
            "verdicts": dict(sorted(verdicts.items())),
            "motion_percentiles": (
                {str(q): float(np.percentile(speeds, q)) for q in quantiles} if speeds else {}
            ),
            "unreadable": self.unreadable,
            "scenes": [asdict(scene) for scene in self.scenes],
        }

    def __str__(self) -> str:
        found = self.as_json()
        lines = [
            f"{len(self.kept)} of {len(self.scenes)} scenes kept, "
            f"{found['num_frames_kept']} of {found['num_frames']} frames"
        ]
        lines += [f"  {v}: {n}" for v, n in found["verdicts"].items() if v != "kept"]
        if found["motion_percentiles"]:
            speeds = ", ".join(f"{q} %: {v:.1f}" for q, v in found["motion_percentiles"].items())
            lines.append(f"  motion, % of the width per second, percentiles: {speeds}")
        lines += [f"  {s.name} is a duplicate of {s.duplicate_of}" for s in self._duplicates()[:10]]
        lines += [f"  skipped {name}: {reason}" for name, reason in self.unreadable.items()]
        return "\n".join(lines)

    def _duplicates(self) -> list[Scene]:
        return [scene for scene in self.scenes if scene.verdict == "duplicate"]


def curate(
    source: Any,
    out: Path | str | None,
    settings: CurationSettings | None = None,
    writing: ImportSettings | None = None,
    *,
    rows: Mapping[str, Mapping[str, Any]] | None = None,
    captioner: Captioner | None = None,
    merge: Merge = merge_captions,
    split_scenes: bool = True,
    progress: Progress | None = None,
) -> CurationReport:
    """Judges every scene of `source` and writes the kept ones as a dataset with a report in it.

    Args:
        source: a folder of videos, a LeRobot dataset, ... as a Source with `size` and `fps`.
        out: the new dataset; None = only judge.
        rows: facts of recordings (scores) by file name; see read_rows. Attributes of episodes and
            JSON files beside videos count too.
        captioner: describes the 10, 50 and 90 % key frames of every kept scene; None = the caption
            that the recording has.
        split_scenes: kept scenes become episodes; False = recordings stay whole, and their kept
            scenes become segments that no window leaves.

    Raises:
        ValueError: `out` exists, or nothing is left; says what was dropped for which reason.
    """
    settings, writing = settings or CurationSettings(), writing or ImportSettings()
    if out is not None:
        check_destination(Path(out), writing)
    report = CurationReport([], settings)
    likeness = _Likeness(settings.duplicate_bits)
    for number in range(len(source)):
        name, episode = name_of(source, number), source.episode(number)
        try:
            row = row_of(name, episode, rows or {})
            report.scenes += _judge(name, number, episode, row, settings, likeness)
        except ValueError as error:
            if writing.on_error == "raise":
                raise
            report.unreadable[name] = str(error)
        if progress is not None:
            progress(number + 1, len(source))
    if not report.kept:
        raise ValueError(
            f"Nothing of {source.name} is left. {report}\n"
            "Lower the thresholds (--min-motion, --min-frames), or switch a step off."
        )
    for scene in report.kept:
        episode = source.episode(scene.number)
        scene.caption = _caption(scene, episode, captioner, merge)
    if out is not None:
        _write(source, Path(out), report, writing, split_scenes)
    return report


def _judge(
    name: str,
    number: int,
    episode: Any,
    row: Mapping[str, Any],
    settings: CurationSettings,
    likeness: _Likeness,
) -> Iterator[Scene]:
    """The scenes of one recording. Rows are judged first: a bad one is not even decoded."""
    row_filter = settings.row_filter or KEEP_ALL
    verdict = row_filter.verdict(row)
    if not row_filter.keeps(verdict):
        yield Scene(name, number, 0, episode.num_frames, verdict=verdict)
        return
    measures = measure(episode, settings.scene_threshold)
    for start, stop in measures.scenes:
        scene = Scene(name, number, start, stop, motion=scene_motion(measures, start, stop))
        if stop - start < settings.min_frames:
            scene.verdict = "short"
        elif settings.min_motion is not None and (scene.motion or 0.0) < settings.min_motion:
            scene.verdict = "slow"
        elif like := likeness.find(scene, measures):
            scene.verdict, scene.duplicate_of = "duplicate", like
        yield scene


class _Likeness:
    """Remembers kept scenes by the hashes and thumbnails of their key frames."""

    def __init__(self, max_bits: int | None) -> None:
        self._max_bits = max_bits
        self._names: list[str] = []
        self._hashes: list[np.ndarray] = []
        self._thumbnails: list[np.ndarray] = []

    def find(self, scene: Scene, measures: Measures) -> str:
        """The name of an earlier scene that looks like this one, or ""; this one is remembered."""
        if self._max_bits is None:
            return ""
        frames = key_frames(scene.start, scene.stop)
        bits = np.packbits(measures.hashes[frames].reshape(-1))
        thumbnail = measures.thumbnails[frames].reshape(-1).astype(np.int16)
        if self._names:
            distance = np.bitwise_count(np.array(self._hashes) ^ bits).sum(axis=1)
            near = np.flatnonzero(distance <= self._max_bits)
            for i in near[np.argsort(distance[near], kind="stable")]:
                if np.abs(self._thumbnails[i] - thumbnail).mean() <= MAX_LIGHTNESS:
                    return self._names[i]
        self._names.append(scene.name)
        self._hashes.append(bits)
        self._thumbnails.append(thumbnail)
        return ""


def _caption(scene: Scene, episode: Any, captioner: Captioner | None, merge: Merge) -> str:
    if captioner is None:
        return episode.caption
    images = episode.read(key_frames(scene.start, scene.stop))[0]
    return merge([captioner.caption(np.ascontiguousarray(np.moveaxis(i, 0, -1))) for i in images])


def _write(
    source: Any, out: Path, report: CurationReport, writing: ImportSettings, split_scenes: bool
) -> None:
    layout = layout_of(source, writing)
    pieces = _scenes_as_episodes if split_scenes else _scenes_as_segments
    with atomic_path(out, what=f"the curated dataset {out.name}") as folder:
        written = ImportReport(folder)
        write_recordings(pieces(source, report.kept), layout, written, writing)
        report.unreadable |= dict(written.skipped)
        write_json(folder / REPORT, report.as_json())


def _scenes_as_episodes(source: Any, kept: Sequence[Scene]) -> Iterator[Recording]:
    for number, scene in enumerate(kept):
        whole = (scene.start, scene.stop)
        episode = _Part(source.episode(scene.number), whole, [whole], scene.caption)
        yield Recording(number, scene.name, episode)


def _scenes_as_segments(source: Any, kept: Sequence[Scene]) -> Iterator[Recording]:
    for index, number in enumerate(dict.fromkeys(scene.number for scene in kept)):
        scenes = [scene for scene in kept if scene.number == number]
        episode = source.episode(number)
        caption = merge_captions([scene.caption for scene in scenes])
        segments = [(scene.start, scene.stop) for scene in scenes]
        part = _Part(episode, (0, episode.num_frames), segments, caption)
        yield Recording(index, scenes[0].recording, part)


class _Part:
    """Some frames of an episode as an episode."""

    def __init__(
        self,
        episode: Any,
        frames: tuple[int, int],
        segments: Sequence[tuple[int, int]],
        caption: str,
    ) -> None:
        self._episode, self._start = episode, frames[0]
        self.num_frames, self.fps = frames[1] - frames[0], episode.fps
        self.caption = caption
        self.segments = [(a - frames[0], b - frames[0]) for a, b in segments]
        actions = episode.actions
        self.actions = None if actions is None else actions[frames[0] : frames[1]]
        self.attributes = getattr(episode, "attributes", {}) | {"scene_start": frames[0]}
        self._stop = frames[1]

    def read(self, indices: Sequence[int]) -> np.ndarray:
        return self._episode.read([self._start + i for i in indices])

    def read_labels(self, indices: Sequence[int]) -> np.ndarray | None:
        return self._episode.read_labels([self._start + i for i in indices])

    def extra(self, name: str) -> np.ndarray:
        return self._episode.extra(name)[self._start : self._stop]
