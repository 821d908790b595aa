"""One self-contained HTML file: the videos, the curves and the numbers of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from maskworld.data.storage import write_text
from maskworld.evaluation.results import check_results
from maskworld.report.charts import BAND, NUM_COLOURS, Number, line_chart
from maskworld.report.frames import Sheet, VideoRow, encode_rows
from maskworld.report.labels import BEST_TRIVIAL, is_rival, is_variant, label_of, words
from maskworld.report.tables import (
    best_baseline,
    horizon_table,
    metrics_table,
    protocol_list,
    verdict,
)

MAX_VIDEO_BYTES = 9_000_000
"""Of all encoded sheets; base64 adds a third, which keeps a report under about 13 MB."""
HIGHLIGHTS = (
    "psnr",
    "pdms",
    "pdms_gain/constant_velocity",
    "changed_token_accuracy",
    "bits_per_token",
    "steering/frame_2",
    "action_sensitivity/mirrored",
    "success",
    "token_accuracy",
)
"""Metrics shown large at the top, the first four that a report has."""

SPLITS = ("train", "held_out", "validation")
"""Last parts of curve names that share a chart: "loss/train" with "loss/held_out"."""


def write_report(
    path: Path | str,
    *,
    title: str,
    results: Mapping[str, Any],
    videos: Sequence[VideoRow] = (),
    curves: Mapping[str, Sequence[tuple[Number, Number]]] | None = None,
    notes: Sequence[str] = (),
    summary: str = "",
    max_video_bytes: int = MAX_VIDEO_BYTES,
) -> None:
    """Writes the report, whole or not at all. The page requests nothing from anywhere.

    Args:
        path: of the HTML file.
        title: of the page.
        results: the content of `metrics.json`.
        videos: rows of clips; those of one section share a player, in the order of first use.
        curves: name -> (step, value) pairs; those that differ by their last part alone, one of
            `SPLITS`, share a chart.
        notes: paragraphs of plain text under the numbers.
        summary: one or two sentences under the title.
        max_video_bytes: beyond it, clips are stored with loss, and the page says so.

    Raises:
        ValueError: results outside the schema, a curve without finite points, a clip too large.
        OSError: the disk is full.
    """
    write_text(
        path,
        render_report(
            title=title,
            results=results,
            videos=videos,
            curves=curves or {},
            notes=notes,
            summary=summary,
            max_video_bytes=max_video_bytes,
        ),
    )


def render_report(
    *,
    title: str,
    results: Mapping[str, Any],
    videos: Sequence[VideoRow],
    curves: Mapping[str, Sequence[tuple[Number, Number]]],
    notes: Sequence[str],
    summary: str,
    max_video_bytes: int,
) -> str:
    """The page as text; the same input gives the same text."""
    check_results(results)
    metrics = results["metrics"]
    sheets, quality = encode_rows(list(videos), max_video_bytes)
    stored = "without loss" if quality is None else f"as WebP of quality {quality}"
    return _fill(
        _asset("page.html"),
        {
            "title": escape(title),
            "system": escape(results["system"]),
            "summary": f'<p class="lead">{escape(summary)}</p>' if summary else "",
            "style": _asset("page.css"),
            "script": _asset("player.js"),
            "highlights": _highlights(metrics),
            "videos": _video_sections(videos, sheets),
            "horizons": _section("By horizon", "horizons", _horizons(metrics)),
            "metrics": _section("Numbers", "numbers", metrics_table(metrics) + _notes(notes)),
            "curves": _section("Training", "training", _curve_charts(curves)),
            "protocol": _section("Protocol", "protocol", protocol_list(results["protocol"])),
            "stored": f"Frames are stored {stored}." if videos else "",
        },
    )


def _asset(name: str) -> str:
    return resources.files("maskworld.report").joinpath(name).read_text(encoding="utf-8")


def _fill(template: str, parts: Mapping[str, str]) -> str:
    """Replaces every `{{name}}` once; content that looks like a placeholder stays as it is."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _section(title: str, anchor: str, content: str) -> str:
    if not content:
        return ""
    return f'<section id="{anchor}"><h2>{escape(title)}</h2>{content}</section>'


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    return f'<div class="notes">{"".join(f"<p>{escape(note)}</p>" for note in notes)}</div>'


def _highlights(metrics: Mapping[str, Any]) -> str:
    """Up to four large numbers, each with its interval and its strongest baseline."""
    tiles = []
    for name in [name for name in HIGHLIGHTS if name in metrics][:4]:
        entry, label = metrics[name], label_of(name)
        low, high = (label.format(end, unit=False) for end in entry["interval"])
        best = best_baseline(entry)
        against = ""
        if best is not None:
            against = f"against {label.format(best[1], unit=False)}, {escape(words(best[0]))}"
        tiles.append(
            f'<div class="tile"><dt>{escape(label.title)}</dt>'
            f'<dd class="{verdict(entry)}"><b>{label.format(entry["model"])}</b>'
            f"<span>{against}</span><span>95 % interval {low} – {high}</span></dd></div>"
        )
    return f'<dl class="tiles">{"".join(tiles)}</dl>' if tiles else ""


def _video_sections(videos: Sequence[VideoRow], sheets: Sequence[Mapping[str, Sheet]]) -> str:
    sections: dict[str, list[tuple[VideoRow, Mapping[str, Sheet]]]] = {}
    for row, encoded in zip(videos, sheets, strict=True):
        sections.setdefault(row.section, []).append((row, encoded))
    parts = []
    for name, rows in sections.items():
        figures = "".join(_row(row, encoded, i == 0) for i, (row, encoded) in enumerate(rows))
        parts.append(
            f'<section class="player"><h2>{escape(name)}</h2><div class="controls" hidden></div>'
            f'<div class="rows">{figures}</div></section>'
        )
    return "".join(parts)


def _row(row: VideoRow, sheets: Mapping[str, Sheet], first: bool) -> str:
    wide = " class=wide" if len(sheets) > 3 or (first and len(sheets) == 3) else ""
    strips = "".join(_strip(row, name, sheet) for name, sheet in sheets.items())
    caption = f"<span>{escape(row.caption)}</span>" if row.caption else ""
    return (
        f'<figure{wide} data-frames="{row.num_frames}" data-fps="{row.fps:g}" '
        f'data-context="{row.num_context}" style="--panels:{len(sheets)}">'
        f"<figcaption><b>{escape(row.name)}</b>{caption}</figcaption>"
        f'<div class="panels"></div><details open><summary>All frames</summary>{strips}</details>'
        "</figure>"
    )


def _strip(row: VideoRow, name: str, sheet: Sheet) -> str:
    dreamt = name.lower().startswith("dreamt")
    told = f", {row.num_context} given, then dreamt" if dreamt and row.num_context else ""
    description = f"{row.name}, {name}: {row.num_frames} frames{told}. {row.caption}".strip()
    return (
        f'<div class="strip"><span>{escape(name)}</span><img src="{sheet.data_uri}" '
        f'alt="{escape(description)}" data-name="{escape(name)}" data-columns="{sheet.columns}" '
        f'data-width="{sheet.width}" data-height="{sheet.height}"'
        f"{' data-dreamt' if dreamt else ''}></div>"
    )


def _horizons(metrics: Mapping[str, Any]) -> str:
    """A chart per metric that has more than one step, its numbers folded below."""
    charts = []
    for name, entry in metrics.items():
        steps = entry.get("per_horizon")
        if steps is None or all(x is None for curve in steps.values() for x in curve):
            continue
        label = label_of(name)
        factor = 100 if label.is_share else 1
        lines = {
            words(key): [
                (i, None if y is None else factor * y) for i, y in enumerate(steps[key], 1)
            ]
            for key in ("model", *(key for key in steps if key != "model"))
        }
        chart = line_chart(
            f"{label.title} of the model and its baselines at each predicted frame",
            lines,
            x_label="predicted frame",
            y_label="%" if label.is_share else label.unit,
            whole_steps=True,
            looks=_looks(steps),
        )
        band = (
            " Wide band: the best trivial baseline at each step." if BEST_TRIVIAL in steps else ""
        )
        charts.append(
            f"<figure><figcaption><b>{escape(label.title)}</b><span>{escape(label.meaning)}</span>"
            f"</figcaption>{chart}<details><summary>Values</summary>{horizon_table(name, entry)}"
            "</details></figure>"
        )
    if not charts:
        return ""
    banded = any(BEST_TRIVIAL in entry.get("per_horizon", {}) for entry in metrics.values())
    band = "<p>The grey band is the best trivial baseline at each step.</p>" if banded else ""
    return f'{band}<div class="charts">{"".join(charts)}</div>'


def _looks(curves: Mapping[str, Any]) -> dict[str, str]:
    """Colours by meaning: the model and its variants in one, baselines each in its own, ceilings in
    dashed grey, the best trivial baseline as a band."""
    looks, rivals = {}, 0
    for key in curves:
        if key == "model":
            look = "c0"
        elif key == BEST_TRIVIAL:
            look = BAND
        elif is_variant(key):
            look = "c0 dashed"
        elif is_rival(key):
            look = f"c{1 + rivals % (NUM_COLOURS - 2)}"
            rivals += 1
        else:
            look = f"c{NUM_COLOURS - 1} dashed"
        looks[words(key)] = look
    return looks


def _curve_charts(curves: Mapping[str, Sequence[tuple[Number, Number]]]) -> str:
    """A chart per curve; those that only differ by their split share one."""
    families: dict[str, dict[str, Sequence[tuple[Number, Number]]]] = {}
    for name, points in curves.items():
        family, _, split = name.rpartition("/")
        if split not in SPLITS:
            family, split = name, ""
        families.setdefault(family, {})[words(split)] = points
    charts = []
    for family, members in families.items():
        label = label_of(family if "/" not in family else family.removeprefix("loss/"))
        chart = line_chart(
            f"{label.title} over training steps",
            members,
            x_label="training step",
            y_label="" if label.is_share else label.unit,
        )
        charts.append(
            f"<figure><figcaption><b>{escape(label.title)}</b></figcaption>{chart}</figure>"
        )
    return f'<div class="charts">{"".join(charts)}</div>' if charts else ""
