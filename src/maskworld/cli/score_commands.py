"""The work behind `maskworld score`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from maskworld.cli import score as verbs
from maskworld.cli.errors import say_error
from maskworld.cli.inputs import check_writable
from maskworld.data.storage import write_json
from maskworld.metrics.pdms import (
    SCORE_NAMES,
    PDMScene,
    read_scene,
    reference_plan,
    result_json,
    score_plans,
)

Result = Mapping[str, Any]
"""As `result_json` makes it."""
Row = Mapping[str, float]


def run_command(options: Any) -> int:
    """Runs the command of an options object; returns the exit code."""
    from maskworld.cli.score_videos import compare_videos, score_videos

    runs: dict[type, Callable[[Any], int | None]] = {
        verbs.ScorePdms: _score_pdms,
        verbs.ScoreFvd: score_videos,
        verbs.ScoreCompare: compare_videos,
    }
    return runs[type(options)](options) or 0


def _score_pdms(options: verbs.ScorePdms) -> int | None:
    if not options.scenes:
        raise ValueError("Expected at least one SCENE.json, found none.")
    if options.out is not None:
        check_writable(options.out.parent)
        if options.out.is_dir():
            raise ValueError(f"Expected a file at {options.out}, found a folder: name the file.")
        if any(options.out.resolve() == path.resolve() for path in options.scenes):
            raise ValueError(
                f"Expected another file at --out, found a scene, {options.out}: it would be lost."
            )
    results, bad = _score_files(options)
    if len(options.scenes) == 1 and results:
        only = next(iter(results.values()))
        _print_plans(only)
        written: Mapping[str, Any] = only
    else:
        means = _means(results.values())
        _print_means(means, len(results))
        written = {"scenes": results, "mean": means}
    if options.out is not None and results:
        write_json(options.out, written)
        print(f"written to {options.out}")
    for message in bad:
        say_error(message)
    if bad:
        print(f"{len(bad)} of {len(options.scenes)} scenes left out", file=sys.stderr)
    return None if results else 2


def _score_files(options: verbs.ScorePdms) -> tuple[dict[str, Result], list[str]]:
    """Results by file, and what was wrong with the files that were left out."""
    results: dict[str, Result] = {}
    bad: list[str] = []
    for path in options.scenes:
        try:
            scene = read_scene(path)
            if not scene.plans:
                raise ValueError(f"{path}: plans: expected at least one plan, found none.")
            results[str(path)] = score_scene(scene, pool=options.pool)
        except (ValueError, FileNotFoundError) as error:
            if not options.skip_bad:
                raise
            bad.append(str(error))
    return results, bad


def score_scene(scene: PDMScene, *, pool: bool = False) -> dict[str, Any]:
    """Everything about a scene's own plans, as it is written to JSON."""
    import numpy as np

    reference = reference_plan(scene)
    plans = np.stack(list(scene.plans.values()))
    scores = score_plans(scene, plans, reference.poses, pool=pool)
    return result_json(list(scene.plans), scores, reference)


def _means(results: Iterable[Result]) -> dict[str, dict[str, float]]:
    """Plan name -> mean of each score over the scenes that have it, and their number."""
    rows: dict[str, list[Row]] = {}
    for result in results:
        for name, row in result["results"].items():
            rows.setdefault(name, []).append(row)
    means = {}
    for name, each in rows.items():
        mean = {score: sum(row[score] for row in each) / len(each) for score in SCORE_NAMES}
        means[name] = {**mean, "num_scenes": len(each)}
    return means


def _print_plans(result: Result) -> None:
    rows = {
        name: (row, f"{row['progress_raw']:.1f}", _contact(row["time_to_collision_tick"]))
        for name, row in result["results"].items()
    }
    _print("plan", rows, ("progress m", "contact at"))
    # EP and PDMS of the reference depend on the plan beside it; the rest is the same in all rows.
    reference = next(iter(result["results"].values()))["reference"]
    alone = [name for name in SCORE_NAMES if name not in ("EP", "PDMS")]
    scores = ", ".join(f"{name} {reference[name]:g}" for name in alone)
    who = "PDM-Closed" if "pdm_closed_choice" in result["info"] else "given in the scene"
    print(f"reference ({who}): {scores}, progress {reference['progress_raw']:.1f} m")


def _contact(tick: int | None) -> str:
    return "-" if tick is None else f"{tick / 10:.1f} s"


def _print_means(means: Mapping[str, Row], num_scenes: int) -> None:
    rows = {name: (row, f"{row['num_scenes']:.0f}") for name, row in means.items()}
    print(f"means over {num_scenes} scenes, plans of one name together")
    _print("plan", rows, ("scenes",))


def _print(
    title: str, rows: Mapping[str, tuple[Row, *tuple[str, ...]]], more: Sequence[str]
) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title, overflow="fold")
    for name in (*SCORE_NAMES, *more):
        table.add_column(name, justify="right")
    for name, (row, *others) in rows.items():
        table.add_row(name, *(f"{row[score]:.3f}" for score in SCORE_NAMES), *others)
    # Piped into a file, lines stay whole.
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)
