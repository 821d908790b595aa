"""Bringing recordings of other formats into the native layout, LeRobotDataset v3.0.

Every importer writes its folder whole or not at all. With `resume=True` finished episodes are kept
in a hidden folder beside it while the import runs, and the same call goes on after an interruption.
Tokens stay arrays: a folder of .npy files with a `meta.json`, as TokenSource reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from einops import rearrange

from maskworld.data.episodes import ArrayEpisode
from maskworld.data.lerobot_reader import LeRobotSource
from maskworld.data.sources.nuscenes import NuScenesSource
from maskworld.data.sources.row_filter import RowFilter
from maskworld.data.sources.tar_samples import SampleVideo, TarSample
from maskworld.data.sources.tar_shards import TarShardStream
from maskworld.data.sources.tokens import ACTIONS_SUFFIX, FORMAT, VERSION, TokenSource
from maskworld.data.sources.video_folder import VideoFolderSource
from maskworld.data.storage import atomic_path, write_json
from maskworld.preparation.conversion import (
    ImportReport,
    ImportSettings,
    Layout,
    Progress,
    Recording,
    check_destination,
    layout_of,
    name_of,
    write_recordings,
)


def import_video(
    path: Path | str,
    out: Path | str,
    settings: ImportSettings | None = None,
    *,
    masks: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """A video or a folder of videos, with captions, actions and masks beside them.

    Raises:
        ValueError: as VideoFolderSource does; videos of several sizes or rates and no `size` or
            `fps`; `out` exists.
    """
    settings = settings or ImportSettings()
    check_destination(Path(out), settings)
    source = VideoFolderSource(path, masks=masks, on_error=settings.on_error)
    return import_source(source, out, settings, progress=progress)


def import_lerobot(
    path: Path | str,
    out: Path | str,
    settings: ImportSettings | None = None,
    *,
    views: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """A LeRobotDataset of v2.0, v2.1 or v3.0, its further columns of numbers included.

    Raises:
        ValueError: as LeRobotSource does; `out` exists.
    """
    settings = settings or ImportSettings()
    check_destination(Path(out), settings)
    return import_source(LeRobotSource(path, views), out, settings, progress=progress)


def import_nuscenes(
    root: Path | str,
    out: Path | str,
    settings: ImportSettings | None = None,
    *,
    version: str | None = None,
    cameras: Sequence[str] = ("CAM_FRONT",),
    sweeps: bool = True,
    scenes: Sequence[str] | Path | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Camera pictures and ego motion of nuScenes; each scene is an episode.

    Raises:
        ValueError: as NuScenesSource does; `out` exists.
    """
    settings = settings or ImportSettings()
    check_destination(Path(out), settings)
    source = NuScenesSource(root, version, cameras=cameras, sweeps=sweeps, scenes=scenes)
    report = import_source(source, out, settings, progress=progress)
    report.counts["frames without a picture of every camera"] = source.num_unmatched
    return report


def import_source(
    source: Any, out: Path | str, settings: ImportSettings, *, progress: Progress | None = None
) -> ImportReport:
    """Any source whose episodes share their views, actions and labels."""
    check_destination(Path(out), settings)
    recordings = (
        Recording(number, name_of(source, number), source.episode(number))
        for number in range(len(source))
    )
    report = ImportReport(Path(out))
    report.skipped += [(path.name, reason) for path, reason in getattr(source, "skipped", [])]
    layout = layout_of(source, settings)
    write_recordings(recordings, layout, report, settings, total=len(source), progress=progress)
    return report


def import_tokens(
    path: Path | str,
    out: Path | str,
    *,
    grid: tuple[int, int] | None = None,
    vocab_size: int | None = None,
    fps: float | int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Arrays of codes, checked, in the smallest integers that hold them, with captions and
    actions, and a `meta.json` that says what the arrays do not.

    Raises:
        ValueError: as TokenSource does; codes out of range; `out` exists.
    """
    check_destination(Path(out), ImportSettings(overwrite=overwrite))
    source = TokenSource(path, grid=grid, vocab_size=vocab_size, fps=fps)
    report = ImportReport(Path(out))
    kind = np.min_scalar_type(source.vocab_size - 1)
    with atomic_path(out, what=f"the tokens of {source.name}") as folder:
        folder.mkdir()
        for number in range(len(source)):
            episode = source.episode(number)
            stem = f"episode-{number:06d}"
            codes = episode.read_tokens(range(episode.num_frames))[0]
            np.save(folder / f"{stem}.npy", codes.astype(kind))
            if episode.actions is not None:
                np.save(folder / f"{stem}{ACTIONS_SUFFIX}", episode.actions)
            if episode.caption:
                (folder / f"{stem}.txt").write_text(episode.caption + "\n", encoding="utf-8")
            report.num_episodes += 1
            report.num_frames += episode.num_frames
            if progress is not None:
                progress(number + 1, len(source))
        meta = {"format": FORMAT, "version": VERSION, "grid": list(source.grid)}
        meta |= {"vocab_size": source.vocab_size, "fps": source.fps, "source": source.name}
        write_json(folder / "meta.json", meta)
    return report


def import_webdataset(
    shards: Path | str | Sequence[Path | str],
    out: Path | str,
    settings: ImportSettings,
    *,
    kind: Literal["video", "image"] = "video",
    row_filter: RowFilter | None = None,
    max_samples: int | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Videos, or images, of tar shards; an image becomes an episode of one frame.

    For sets that do not fit on a disk, train from the shards themselves (TarShardStream).

    Args:
        settings: `size` is needed; `fps` too for videos, since web videos differ in both.
        max_samples: stop after so many kept samples.

    Raises:
        ValueError: as TarShardStream does; no sample of `kind`; `out` exists.
    """
    check_destination(Path(out), settings)
    if settings.size is None or (kind == "video" and settings.fps is None):
        raise ValueError(
            "Videos and images of the web differ in size and rate: pass --size HEIGHT WIDTH"
            + (" and --fps." if kind == "video" else ".")
        )
    stream = TarShardStream(
        shards,
        num_frames=1,
        size=settings.size,
        row_filter=row_filter,
        shuffle_buffer=0,
        num_epochs=1,
        rank=0,
        world_size=1,
        on_error=settings.on_error,
    )
    report = ImportReport(Path(out))
    layout = Layout(fps=float(settings.fps or 1.0), size=settings.size)
    recordings = _web_recordings(stream, kind, max_samples)
    try:
        write_recordings(recordings, layout, report, settings, total=max_samples, progress=progress)
    finally:
        report.counts = dict(stream.counts)
    return report


def _web_recordings(stream: Any, kind: str, max_samples: int | None) -> Iterator[Recording]:
    number = 0
    for sample in stream.samples():
        if sample.is_image != (kind == "image"):
            stream.counts[f"no {kind}"] += 1
            continue
        verdict = stream.row_filter.verdict(sample.row)
        stream.counts[verdict] += 1
        if not stream.row_filter.keeps(verdict):
            continue
        if max_samples is not None and number >= max_samples:
            return
        yield Recording(number, sample.where, _WebEpisode(sample))
        number += 1


class _WebEpisode:
    """A sample of a shard as an episode; decoded as a whole, when it is first asked for."""

    actions = None

    def __init__(self, sample: TarSample) -> None:
        self._sample, self.caption = sample, sample.caption
        self.attributes = {"key": sample.key, "shard": Path(sample.shard).name}

    @cached_property
    def _pixels(self) -> ArrayEpisode:
        if self._sample.is_image:
            images, fps = self._sample.image()[None], 1.0
        else:
            with SampleVideo(self._sample) as video:
                images, fps = video.read(list(range(video.num_frames))), video.fps
        return ArrayEpisode(np.ascontiguousarray(rearrange(images, "t h w c -> 1 t c h w")), fps)

    @property
    def num_frames(self) -> int:
        return self._pixels.num_frames

    @property
    def fps(self) -> float:
        return self._pixels.fps

    @property
    def segments(self) -> Sequence[tuple[int, int]]:
        return self._pixels.segments

    def read(self, indices: Sequence[int]) -> np.ndarray:
        return self._pixels.read(indices)

    def read_labels(self, indices: Sequence[int]) -> None:
        return None
