"""The work behind `maskworld data`: options to function calls, with a progress bar."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from maskworld.cli import data as verbs
from maskworld.cli.data_mine import run_mine
from maskworld.cli.data_robot import (
    ImportLibero,
    ImportRlbench,
    MasksLibero,
    Segment,
    run_import,
    run_masks,
    run_segment,
)
from maskworld.data.lerobot import LeRobotSource
from maskworld.data.sources.row_filter import RowFilter
from maskworld.data.sources.video_folder import VideoFolderSource
from maskworld.data.storage import write_json
from maskworld.preparation.conversion import ImportReport, ImportSettings, Progress


def run_command(options: Any) -> int:
    """Runs the command of an options object; returns the exit code."""
    runs: dict[type, Callable[[Any], int | None]] = {
        verbs.CollectDrive: _collect_drive,
        verbs.CollectMetaworld: _collect_metaworld,
        verbs.ImportVideo: _import_video,
        verbs.ImportLerobot: _import_lerobot,
        verbs.ImportTokens: _import_tokens,
        verbs.ImportWebdataset: _import_webdataset,
        verbs.ImportNuscenes: _import_nuscenes,
        ImportLibero: run_import,
        ImportRlbench: run_import,
        MasksLibero: run_masks,
        Segment: run_segment,
        verbs.Curate: _curate,
        verbs.Mine: run_mine,
        verbs.Check: _check,
        verbs.Show: _show,
    }
    try:
        return runs[type(options)](options) or 0
    except KeyboardInterrupt as stop:
        if getattr(options, "resume", False) or isinstance(options, verbs.CollectMetaworld):
            raise KeyboardInterrupt(
                "Stopped by Ctrl-C; finished episodes are kept, run the same command to go on."
            ) from stop
        raise


def _collect_drive(options: verbs.CollectDrive) -> None:
    from maskworld.preparation.collect import collect_drive
    from maskworld.worlds.drive import STYLES

    with _progress("worlds") as progress:
        collect_drive(
            options.out,
            num_worlds=options.num_worlds,
            episodes_per_world=options.episodes_per_world,
            num_frames=options.num_frames,
            size=options.size,
            fps=options.fps,
            seed=options.seed,
            num_workers=options.num_workers,
            num_cameras=options.num_cameras,
            styles=options.styles or STYLES,
            overwrite=options.overwrite,
            report=progress,
        )
    count = options.num_worlds * options.episodes_per_world
    print(f"{options.out}: {count} episodes, {count * options.num_frames} frames")
    _say_next(options.out)


def _collect_metaworld(options: verbs.CollectMetaworld) -> None:
    from maskworld.preparation.collect_metaworld import collect_metaworld
    from maskworld.preparation.metaworld_episodes import MetaWorldPlan

    plan = MetaWorldPlan(
        tasks=options.tasks,
        episodes_per_task=options.episodes,
        cameras=options.cameras,
        size=options.size,
        seed=options.seed,
        keep_failures=options.keep_failures,
        action_noise=options.action_noise,
        max_steps=options.max_steps,
        perturbation=options.perturb,
    )
    with _progress("episodes") as progress:
        report = collect_metaworld(
            options.out,
            plan,
            num_workers=options.workers,
            overwrite=options.overwrite,
            report=progress,
        )
    print(report)
    _say_next(options.out)


def _settings(writing: verbs.Writing, resume: bool = False) -> ImportSettings:
    return ImportSettings(
        size=writing.size,
        fps=writing.fps,
        codec=writing.codec,
        on_error="skip" if writing.skip_bad else "raise",
        overwrite=writing.overwrite,
        resume=resume,
    )


def _import_video(options: verbs.ImportVideo) -> None:
    from maskworld.preparation.importing import import_video

    masks = dict(_pair(text) for text in options.masks) or None
    settings = _settings(options.writing, options.resume)
    with _progress("videos") as progress:
        report = import_video(
            options.path, options.writing.out, settings, masks=masks, progress=progress
        )
    _finish(report)


def _pair(text: str) -> tuple[str, str]:
    name, sign, file = text.partition("=")
    if not (name and sign and file):
        raise ValueError(f"Expected --masks as CLASS=FILE, found {text!r}.")
    return name, file


def _import_lerobot(options: verbs.ImportLerobot) -> None:
    from maskworld.preparation.importing import import_lerobot

    settings = _settings(options.writing, options.resume)
    with _progress("episodes") as progress:
        report = import_lerobot(
            options.path,
            options.writing.out,
            settings,
            views=options.views or None,
            progress=progress,
        )
    _finish(report)


def _import_tokens(options: verbs.ImportTokens) -> None:
    from maskworld.preparation.importing import import_tokens

    with _progress("arrays") as progress:
        report = import_tokens(
            options.path,
            options.out,
            grid=options.grid,
            vocab_size=options.vocab_size,
            fps=options.fps,
            overwrite=options.overwrite,
            progress=progress,
        )
    _finish(report)


def _import_webdataset(options: verbs.ImportWebdataset) -> None:
    from maskworld.preparation.importing import import_webdataset

    with _progress("samples") as progress:
        report = import_webdataset(
            options.path,
            options.writing.out,
            _settings(options.writing, options.resume),
            kind=options.kind,
            row_filter=RowFilter(options.max_watermark, options.max_nsfw),
            max_samples=options.max_samples,
            progress=progress,
        )
    _finish(report)


def _import_nuscenes(options: verbs.ImportNuscenes) -> None:
    from maskworld.data.sources.nuscenes import CLIP_STRIDE, FRAME_STRIDE
    from maskworld.data.windows import ClipIndex
    from maskworld.preparation.importing import import_nuscenes

    with _progress("scenes") as progress:
        report = import_nuscenes(
            options.path,
            options.writing.out,
            _settings(options.writing, options.resume),
            version=options.version,
            cameras=options.cameras,
            sweeps=not options.key_frames,
            scenes=options.scenes,
            progress=progress,
        )
    _finish(report)
    source: Any = LeRobotSource(report.out)
    strides = (1, 1) if options.key_frames else (FRAME_STRIDE, CLIP_STRIDE)
    if max(source.episode(i).num_frames for i in range(len(source))) > 23 * strides[0]:
        print(ClipIndex(source, 24, *strides))


def _curate(options: verbs.Curate) -> None:
    from maskworld.preparation.captioning import TransformersCaptioner
    from maskworld.preparation.conversion import check_destination
    from maskworld.preparation.curate import CurationSettings, curate
    from maskworld.preparation.score_rows import read_rows
    from maskworld.recipes.open import open_source

    if options.out is None and options.report is None:
        raise ValueError(
            "Expected --out DIR for the dataset, --report FILE to only judge, or both."
        )
    writing = ImportSettings(
        size=options.size,
        fps=options.fps,
        codec=options.codec,
        on_error="skip" if options.skip_bad else "raise",
        overwrite=options.overwrite,
    )
    if options.out is not None:
        check_destination(options.out, writing)
    source: Any = _open_lenient(options.path) if options.skip_bad else open_source(options.path)
    if not isinstance(source, (VideoFolderSource, LeRobotSource)):
        raise ValueError(f"{options.path}: curation takes videos or a LeRobot dataset.")
    settings = CurationSettings(
        scene_threshold=options.scene_threshold or None,
        min_frames=options.min_frames,
        min_motion=options.min_motion or None,
        row_filter=RowFilter(options.max_watermark, options.max_nsfw),
        duplicate_bits=None if options.duplicate_bits < 0 else options.duplicate_bits,
    )
    captioner = None if options.captioner is None else TransformersCaptioner(options.captioner)
    place = options.rows or options.path  # a single video has no table beside it
    rows = {} if place.is_file() and options.rows is None else read_rows(place)
    with _progress("recordings") as progress:
        report = curate(
            source,
            options.out,
            settings,
            writing,
            rows=rows,
            captioner=captioner,
            split_scenes=not options.keep_whole,
            progress=progress,
        )
    if options.report is not None:
        write_json(options.report, report.as_json())
    print(report)
    if options.out is not None:
        _say_next(options.out)


def _check(options: verbs.Check) -> int:
    from maskworld.preparation.check import check, check_shards

    source = _open_lenient(options.path)
    with _progress("read") as progress:
        if isinstance(source, list):
            report = check_shards(source, progress=progress)
        else:
            num_frames, stride, clip_stride = _clips_to_count(options, source)
            report = check(
                source,
                sample=options.sample,
                num_frames=num_frames,
                frame_stride=stride,
                clip_stride=clip_stride,
                progress=progress,
            )
    print(report)
    return 2 if report.problems else 0


def _clips_to_count(options: verbs.Check, source: Any) -> tuple[int | None, int, int]:
    if options.recipe is None:
        return options.num_frames, options.frame_stride, options.clip_stride
    from maskworld.recipes import load_recipe
    from maskworld.recipes.open import stride_to
    from maskworld.recipes.recipe import MaskWorldModelRecipe
    from maskworld.systems.mask_world_model import MaskWorldModelConfig

    recipe = load_recipe(options.recipe)
    if isinstance(recipe, MaskWorldModelRecipe):  # a clip for each moment that has a next frame
        return options.num_frames or 2, 1, recipe.robot.clip_stride
    assert not isinstance(recipe.system, MaskWorldModelConfig)
    num_frames = options.num_frames or recipe.system.num_frames
    return num_frames, stride_to(recipe.system.fps, source), recipe.clip_stride


def _open_lenient(path: Path) -> Any:
    """Like open_source, but bad videos of a folder are listed by the source, and stop nothing."""
    from maskworld.recipes.open import open_source

    try:
        return open_source(path)
    except ValueError as error:
        if not path.is_dir():
            raise
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return VideoFolderSource(path, on_error="skip")
            except ValueError:
                raise error from None


def _show(options: verbs.Show) -> None:
    from maskworld.cli.inputs import check_output
    from maskworld.data.sources.tar_shards import TarShardStream
    from maskworld.preparation.contact_sheet import (
        rows_of_clips,
        rows_of_source,
        write_contact_sheet,
    )
    from maskworld.recipes.open import open_source

    check_output(options.out, (".png",))
    if min(options.num_rows, options.num_columns) < 1 or options.thumb_width < 16:
        raise ValueError("Expected at least one row, one column and thumbnails of 16 pixels.")
    source: Any = open_source(options.path)
    names: dict[str, Any] = {}
    if isinstance(source, list):
        count = options.num_columns
        clips = TarShardStream(
            source, num_frames=count, size=(256, 256), images_per_clip=count, num_epochs=1
        )
        rows = rows_of_clips(clips, options.num_rows, count)
        name, facts = Path(source[0]).stem, f"{len(source)} shards"
    else:
        rows = rows_of_source(source, options.num_rows, options.num_columns, options.first)
        name, facts = source.name, _facts(source)
        names = {
            "label_names": getattr(source, "label_names", None),
            "action_names": getattr(source, "action_names", None),
        }
    write_contact_sheet(options.out, name, facts, rows, thumb_width=options.thumb_width, **names)
    print(options.out)


def _facts(source: Any) -> str:
    """One line about a set: sizes of episodes are known without decoding them."""
    lengths = [source.episode(i).num_frames for i in range(len(source))]
    words = [f"{len(lengths)} episode{'s' * (len(lengths) != 1)}", f"{sum(lengths)} frames"]
    size, fps = getattr(source, "size", None), getattr(source, "fps", None)
    grid = getattr(source, "grid", None)
    words += [f"{size[1]}x{size[0]} pixels"] if size else []
    words += [f"{grid[0]}x{grid[1]} of {source.vocab_size} codes per frame"] if grid else []
    words += [f"{fps:g} Hz"] if fps else []
    return " · ".join(words)


def _finish(report: ImportReport) -> None:
    print(report)
    _say_next(report.out)


def _say_next(out: Path) -> None:
    print(f"Next: maskworld data check {out}, maskworld data show {out}", file=sys.stderr)


@contextmanager
def _progress(what: str) -> Iterator[Progress]:
    """A bar on a terminal; nothing where the output is a file."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=None)

        def update(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        yield update
