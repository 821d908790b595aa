"""The user's recordings as MaskGWM reads them: which cameras, in which order, at which rate, and
which of their actions are the model's signals."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from maskworld.cli.maskgwm_signals import DriveSignals, TakeColumns, column_places, source_columns
from maskworld.cli.stage_data import StageData, Windows, windows_of_stage
from maskworld.cli.train import TrainOptions
from maskworld.conditioning.signals import Signal
from maskworld.data.cameras import in_order, own_names, plain_name
from maskworld.data.dataset import ClipDataset, ImageDataset, ImageFolderSource
from maskworld.data.sources.tokens import TokenSource
from maskworld.data.sources.waymo import WaymoSource
from maskworld.data.storage import write_json
from maskworld.data.transforms import ResizeCrop
from maskworld.recipes.open import (
    Drives,
    cameras_at,
    drives_of,
    open_dataset,
    open_source,
    stride_to,
)
from maskworld.training.config import Stage
from maskworld.training.distributed import processes_from_environment
from maskworld.types import Clip

CAMERAS_FILE = "cameras.json"
"""Beside a trained model: its cameras by their plain names, in order."""
RATE_TOLERANCE = 0.1
"""How far a thinned out recording may run from the rate asked for. Ours."""


@dataclass(frozen=True)
class Recordings:
    """One of --data, its cameras chosen."""

    path: str
    source: Any
    num_views: int

    @property
    def are_images(self) -> bool:
        """Single pictures, which have no future."""
        return isinstance(self.source, ImageFolderSource)


# --------------------------------------------------------------------------------------- cameras


def choose_cameras(
    paths: Sequence[str], num_views: int, asked: Sequence[str] = (), known: Sequence[str] = ()
) -> list[str]:
    """The cameras of a model, by their plain names in order.

    Args:
        num_views: how many the recipe has.
        asked: by the user.
        known: of a trained model that is trained on.

    Raises:
        ValueError: two names for one camera, or none of the data has all of them.
    """
    there = {path: [plain_name(name) for name in cameras_at(path)] for path in paths}
    wanted = [plain_name(name) for name in asked] or list(known)
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"Expected different cameras, found --cameras {' '.join(asked)}.")
    if wanted:
        for names in there.values():
            if set(wanted) <= set(names) or (not names and len(wanted) == 1):
                return wanted
        richest = max(there, key=lambda path: len(set(wanted) & set(there[path])))
        own_names(there[richest], wanted, richest)  # says which are missing
    richest = max(there, key=lambda path: len(there[path]))
    found = in_order(there[richest])[:num_views] or ["front"]
    if len(found) < num_views:
        warnings.warn(
            f"the recipe is for {num_views} cameras, the recordings have {len(found)} "
            f"({', '.join(found)}): it is trained with {len(found)}",
            stacklevel=2,
        )
    return found


def open_recordings(paths: Sequence[str], cameras: Sequence[str]) -> list[Recordings]:
    """All of --data with these cameras. Recordings of the first camera alone may stand beside
    those of all: a batch is of one source.

    Raises:
        ValueError: tokens, or several cameras of which one is missing; says which and where.
    """
    found = []
    for path in paths:
        there = [plain_name(name) for name in cameras_at(path)]
        is_single = there in ([], [cameras[0]])
        chosen = list(cameras[:1]) if is_single else list(cameras)
        source = open_source(path, cameras=chosen, unknown_actions=True)
        if isinstance(source, TokenSource):
            raise ValueError(f"Expected recordings in pixels for MaskGWM, found tokens in {path}.")
        found.append(Recordings(path, source, len(chosen)))
    return found


def write_cameras(model: Path, cameras: Sequence[str]) -> None:
    """Keeps the cameras beside a model."""
    write_json(model / CAMERAS_FILE, {"cameras": list(cameras)})


def read_cameras(model: Path | str, num_views: int) -> list[str]:
    """The cameras of a trained model; for one without the file those around a car, in order.

    Raises:
        ValueError: a damaged file, or another number than the model has.
    """
    import json

    from maskworld.data.cameras import AROUND

    path = Path(model) / CAMERAS_FILE
    if not path.is_file():
        return list(AROUND[:num_views])
    try:
        names = [str(name) for name in json.loads(path.read_text(encoding="utf-8"))["cameras"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"Expected the names of the model's cameras in {path}, found others ({error!r}): copy "
            "the model again."
        ) from error
    if len(names) != num_views:
        raise ValueError(
            f"Expected {num_views} cameras in {path}, as the model has, found {len(names)}: copy "
            "the model again."
        )
    return names


# ------------------------------------------------------------------------------------------ rates


def check_rates(recordings: Recordings, fps: float) -> None:
    """Checks that windows of a source run at about `fps`.

    Raises:
        ValueError: recordings of several rates, or of one that does not come near.
    """
    source = recordings.source
    if recordings.are_images or isinstance(source, list | Drives | WaymoSource):
        return  # drives are resampled by their time stamps
    rates = sorted({round(source.episode(i).fps, 3) for i in range(len(source))})
    bring = f"`maskworld data import video {recordings.path} --fps {fps:g} --out NEW`"
    if rates[-1] > 1.01 * rates[0]:
        raise ValueError(
            f"Expected recordings of one frame rate in {recordings.path}, found "
            f"{rates[0]:g} to {rates[-1]:g} per second: bring them to one with {bring}, or give "
            "them as separate --data."
        )
    thinned = rates[0] / stride_to(fps, source)
    if abs(thinned - fps) > RATE_TOLERANCE * fps:
        raise ValueError(
            f"Expected recordings that can be thinned out to about {fps:g} frames per second, "
            f"found {rates[0]:g} in {recordings.path}, which gives {thinned:g}: bring them to "
            f"another rate with {bring}, or pass --fps {thinned:g}."
        )


# ----------------------------------------------------------------------------------------- clips


def open_clips(
    recordings: Recordings,
    num_frames: int,
    size: tuple[int, int],
    fps: float,
    signals: tuple[Signal, ...],
    **settings: Any,
) -> Any:
    """Windows of recordings whose actions are the model's signals; what is not known is NaN.

    Args:
        settings: of `open_dataset`.

    Raises:
        ValueError: no window fits, or actions that are none of the signals.
    """
    dataset = open_dataset(
        recordings.source, num_frames, size, fps, unknown_actions=True, **settings
    )
    if not isinstance(dataset, ClipDataset):
        return dataset
    if not signals:
        dataset.transforms.append(_drop_actions)
        return dataset
    drives = drives_of(recordings.source)
    columns = source_columns(recordings.source)
    if columns is None and drives is None:
        return dataset
    places = None if columns is None else column_places(columns, signals)
    if places is not None and None not in places:
        dataset.transforms.append(TakeColumns(places))
    elif drives is not None:
        dataset.transforms.append(DriveSignals(dataset, drives, signals))
    elif places is not None:
        dataset.transforms.append(TakeColumns(places))
    else:
        named = ", ".join(f"{signal.name} ({signal.size})" for signal in signals)
        raise ValueError(
            f"Expected actions that the model knows ({named}), found "
            f"{', '.join(columns or ())} in {recordings.path}: name the columns so (a header of "
            "the .csv, the names of a LeRobot feature), or drop the actions."
        )
    return dataset


def _drop_actions(clip: Clip, generator: torch.Generator) -> Clip:
    return replace(clip, actions=None)


def open_maskgwm_data(
    options: TrainOptions, recordings: Sequence[Recordings], config: Any, clip_stride: int
) -> StageData:
    """All recordings, each batch of one of them. Stages "image..." read single frames, of
    recordings too; no other stage reads a folder of images, but for a tokenizer that has nothing
    else."""
    processes = processes_from_environment()
    only_images = all(each.are_images for each in recordings)
    default = Windows(config.num_frames, config.frame_size, are_images=only_images)

    def open_one(each: Any, windows: Windows) -> Any:
        if windows.are_images and not isinstance(each.source, list):
            return ImageDataset(each.source, windows.num_frames, [ResizeCrop(windows.size)])
        if each.are_images:
            return None
        return open_clips(
            each,
            windows.num_frames,
            windows.size,
            config.fps,
            config.signals,
            clip_stride=clip_stride,
            rank=processes.rank,
            world_size=processes.num_processes,
            seed=options.seed,
        )

    def windows_of(stage: Stage) -> Windows:
        windows = windows_of_stage(stage, replace(default, are_images=False))
        if stage.name.startswith("image"):
            return Windows(stage.num_frames or 1, windows.size, are_images=True)
        return replace(windows, are_images=stage.name == "tokenizer" and only_images)

    return StageData(
        recordings,
        default,
        open_one,
        windows_of=windows_of,
        weights=options.weights,
        seed=options.seed,
        num_workers=options.workers,
    )


def say_what_is_read(recordings: Sequence[Recordings], cameras: Sequence[str], config: Any) -> None:
    """One line on the cameras, and one per source on its signals."""
    print(f"cameras: {', '.join(cameras)}", file=sys.stderr)
    for each in recordings:
        if each.are_images or isinstance(each.source, list) or not config.signals:
            continue
        drives, columns = drives_of(each.source), source_columns(each.source)
        if columns is None and drives is None:
            print(f"{each.path}: no actions", file=sys.stderr)
