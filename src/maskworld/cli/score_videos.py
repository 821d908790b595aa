"""The work behind `maskworld score fvd` and `maskworld score compare`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from maskworld.cli.inputs import check_output
from maskworld.cli.score import ScoreCompare, ScoreFvd
from maskworld.cli.video_features import (
    DEFAULT_FVD,
    FeatureFiles,
    check_number,
    default_fid,
    fid_features,
    fvd_features,
)
from maskworld.data.sources.waymo import WaymoSource
from maskworld.evaluation.results import Results, baseline_names, read_results
from maskworld.evaluation.video_metrics import (
    Collected,
    Features,
    ScoreSettings,
    collect,
    compare_results,
    make_protocol,
    score_sets,
)
from maskworld.evaluation.video_pairs import score_pairs
from maskworld.evaluation.video_sets import ClipSet, FolderClips, SourceClips
from maskworld.metrics.lpips import load_lpips
from maskworld.metrics.protocol import Preset, Selection, find_preset
from maskworld.training.distributed import (
    Processes,
    choose_device,
    processes_from_environment,
    start_process_group,
)

NUM_FRAMES = 16
"""Without --frames and --preset: as StyleGAN-V's fvd2048_16f and most that followed."""
SYSTEM = "videos"


@dataclass(frozen=True)
class _Plan:
    """What is scored, after the preset and the user's words are one."""

    preset: str
    num_frames: int
    selection: Selection
    condition_frames: int
    fvd_includes: bool
    fid_includes: bool
    num_clips: int | None
    fid_frames: int
    fvd_backend: str
    fid_backend: str
    allows_few: bool
    fps: float | None


def score_videos(options: ScoreFvd) -> None:
    """Computes every metric that the given weights allow, prints and writes them."""
    plan = _plan(options)
    if options.out is not None:
        check_output(options.out, (".json",))
    processes = processes_from_environment()
    device = choose_device(options.device, processes)
    start_process_group(processes, device)
    clips = _clips(options, plan, plan.fvd_includes)
    _check_rate(plan, options, clips[0])
    files = _files(options, plan)
    features = fvd_features(files, clips[0].num_scored, clips[0].size, device, options.batch_size)
    fid = fid_features(files, device)
    about = {
        "real": str(options.real),
        "dreamt": str(options.dreamt),
        "dreamt_sha256": clips[1].sha256(),
    }
    results = Results(SYSTEM, about)
    _score(results, options, plan, clips, features, processes, device)
    if fid is not None:
        again = clips
        if plan.fid_includes != plan.fvd_includes:
            again = _clips(options, plan, plan.fid_includes)
        _score(results, options, plan, again, fid, processes, device)
    if options.paired:
        _score_pairs(results, options, plan)
    if processes.is_main:
        _print(results)
        if options.weights is None:
            print(f"{features.metric} is no FVD: give --weights for that (docs/video_metrics.md).")
        if options.out is not None:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            results.write(options.out)
            print(f"written to {options.out}")


def compare_videos(options: ScoreCompare) -> None:
    """Prints the metrics that two results share, if their protocols are one."""
    first, second = (read_results(path) for path in (options.first, options.second))
    table = _table("metric", [str(options.first), str(options.second), "difference"])
    for name, one, other in compare_results(first, second):
        table.add_row(name, f"{one:.4g}", f"{other:.4g}", f"{other - one:+.4g}")
    _show(table)


def _plan(options: ScoreFvd) -> _Plan:
    if options.fid_backend is not None and options.fid_weights is None:
        raise ValueError("Expected --fid-weights with --fid-backend, found none.")
    heads = (options.alexnet, options.lpips_heads)
    if any(heads) and not (all(heads) and options.paired):
        raise ValueError(
            "Expected --alexnet, --lpips-heads and --paired together: LPIPS compares frames of the "
            "same clips."
        )
    preset = None if options.preset is None else find_preset(options.preset)
    condition = _settled("condition-frames", options.condition_frames, preset, "condition_frames")
    excludes = options.leave_out_condition
    if preset is not None and excludes and preset.fvd_includes_condition:
        raise ValueError(
            f"Expected --preset {preset.name} to say which frames are scored, found "
            "--leave-out-condition too: leave one out."
        )
    return _Plan(
        preset="" if preset is None else preset.name,
        num_frames=_settled("frames", options.frames, preset, "num_frames", NUM_FRAMES),
        selection=_settled("select", options.select, preset, "selection", "first"),
        condition_frames=condition,
        fvd_includes=preset.fvd_includes_condition if preset else not excludes,
        fid_includes=preset.fid_includes_condition if preset else not excludes,
        num_clips=_settled("num-clips", options.num_clips, preset, "num_clips", None),
        fid_frames=0 if preset is None else preset.fid_frames,
        fvd_backend=options.backend or (preset.fvd_backend if preset else DEFAULT_FVD),
        fid_backend=options.fid_backend or (preset.fid_backend if preset else default_fid()),
        allows_few=options.allow_few or (preset is not None and preset.allows_few),
        fps=None if preset is None else preset.fps,
    )


def _settled(word: str, said: Any, preset: Preset | None, field: str, default: Any = 0) -> Any:
    """The user's value, or the preset's; both only where they agree.

    Raises:
        ValueError: they differ, or neither knows it.
    """
    if preset is None:
        return default if said is None else said
    known = getattr(preset, field)
    if known is None and said is None:
        raise ValueError(
            f"Expected --{word}: {preset.source} does not say it, and numbers without it mean "
            "nothing."
        )
    if None not in (known, said) and known != said:
        raise ValueError(
            f"Expected --{word} {known} with --preset {preset.name}, found {said}: leave the "
            "preset out to score with other settings."
        )
    return known if said is None else said


def _clips(options: ScoreFvd, plan: _Plan, includes: bool) -> list[ClipSet]:
    skip = 0 if includes else plan.condition_frames
    return [_open(folder, options, plan, skip) for folder in (options.real, options.dreamt)]


def _open(folder: Path, options: ScoreFvd, plan: _Plan, skip: int) -> ClipSet:
    """A folder of videos, or a split of Waymo."""
    if not (folder / "camera_image").is_dir():
        return FolderClips(
            folder,
            num_frames=plan.num_frames,
            stride=options.stride,
            selection=plan.selection,
            skip=skip,
            num_clips=plan.num_clips,
            every=options.every,
            size=options.size,
        )
    if plan.selection != "first" or options.size is not None:
        raise ValueError(
            f"Expected no --size and the first frames with {folder}, a split of Waymo: write its "
            "clips as videos to score them otherwise."
        )
    return SourceClips(
        WaymoSource(folder),
        num_frames=plan.num_frames,
        stride=options.stride,
        skip=skip,
        num_clips=plan.num_clips,
        every=options.every,
    )


def _check_rate(plan: _Plan, options: ScoreFvd, clips: ClipSet) -> None:
    if plan.fps is None or clips.fps is None:
        return
    rate = clips.fps / options.stride
    if abs(rate - plan.fps) > 0.01 * plan.fps:
        raise ValueError(
            f"Expected {plan.fps:g} frames per second with --preset {plan.preset}, found {rate:g} "
            f"in {options.real}: export the videos at that rate, or give a --stride."
        )


def _files(options: ScoreFvd, plan: _Plan) -> FeatureFiles:
    return FeatureFiles(
        weights=options.weights,
        backend=plan.fvd_backend,
        resize=options.resize,
        runs_program=options.run_program,
        fid_weights=options.fid_weights,
        fid_backend=plan.fid_backend,
        is_backend_said=options.backend is not None,
    )


def _score(
    results: Results,
    options: ScoreFvd,
    plan: _Plan,
    clips: Sequence[ClipSet],
    features: Features,
    processes: Processes,
    device: torch.device,
) -> None:
    real, dreamt = clips
    includes = plan.fid_includes if features.is_per_frame else plan.fvd_includes
    sampled = plan.fid_frames if features.is_per_frame else 0
    protocol = make_protocol(
        real,
        dreamt,
        features,
        num_frames=plan.num_frames,
        frame_stride=options.stride,
        selection=plan.selection,
        condition_frames=plan.condition_frames,
        includes_condition_frames=includes,
        sampled_frames=sampled,
        preset=plan.preset,
    )
    fewest = min(len(real), len(dreamt))
    num_frames = plan.fid_frames if features.is_per_frame else 0
    check_number(features, fewest, real.num_scored, plan.allows_few, sampled_frames=num_frames)
    sides: list[Collected] = []
    with _progress(f"{features.metric}", len(real) + len(dreamt), processes) as advance:
        for one in clips:
            sides.append(
                collect(
                    one,
                    features,
                    sampled_frames=sampled,
                    seed=options.seed,
                    batch_size=options.batch_size,
                    processes=processes,
                    device=device,
                    on_clips=advance,
                )
            )
    settings = ScoreSettings(seed=options.seed, allows_few=plan.allows_few)
    score_sets(results, sides[0], sides[1], features, protocol, settings)


def _score_pairs(results: Results, options: ScoreFvd, plan: _Plan) -> None:
    lpips = None
    if options.alexnet is not None and options.lpips_heads is not None:
        lpips = load_lpips(options.alexnet, options.lpips_heads)
    real, dreamt = _clips(options, plan, includes=False)
    score_pairs(results, real, dreamt, lpips=lpips, seed=options.seed)


@contextmanager
def _progress(what: str, total: int, processes: Processes) -> Iterator[Any]:
    if not (processes.is_main and sys.stderr.isatty()):
        yield None
        return
    with Progress(console=Console(stderr=True), transient=True) as display:
        task = display.add_task(what, total=total / processes.num_processes)
        yield lambda count: display.advance(task, count)


def _print(results: Results) -> None:
    table = _table("metric", ["dreamt", "95 % interval", "beside it", "n"])
    for name, entry in results.to_dict()["metrics"].items():
        low, high = entry["interval"]
        beside = ", ".join(f"{key} {entry[key]:.4g}" for key in baseline_names(entry))
        table.add_row(
            name, f"{entry['model']:.4g}", f"{low:.4g} to {high:.4g}", beside, str(entry["n"])
        )
    _show(table)


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _show(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)
