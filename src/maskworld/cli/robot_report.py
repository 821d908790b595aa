"""What Mask World Model's quickstart shows beside its videos: who succeeds where."""

from __future__ import annotations

from html import escape

from maskworld.evaluation.manipulation import CLEAN, Evaluation
from maskworld.metrics.intervals import success_rate
from maskworld.report.sections import Section

NAMES = {
    "model": "Mask World Model",
    "no_world_model": "no world model (same images)",
    "blind": "blind (no image)",
    "replay": "replayed expert episode",
    "random": "random actions",
    "expert": "scripted expert (knows the state)",
}
"""In the order of the table."""


def success_section(evaluation: Evaluation) -> Section:
    """Success by policy and task, and under perturbations."""
    clean = sorted({key.task for key in evaluation.results})
    changed = [name for name in evaluation.perturbations if name != CLEAN]
    tables = [_table(evaluation, [(task, CLEAN, task.removesuffix("-v3")) for task in clean])]
    if changed:
        tables.append(_table(evaluation, [("", name, name) for name in changed]))
    return Section(
        "Success",
        "success",
        "".join(tables),
        "Share of episodes that succeed, all policies from the same unseen initial states, with "
        "95 % Wilson intervals. Below: all tasks under a change of what the cameras see.",
    )


def _table(evaluation: Evaluation, columns: list[tuple[str, str, str]]) -> str:
    """Columns are (task or "" for all, perturbation, title)."""
    head = "".join(f"<th>{escape(title)}</th>" for _, _, title in columns)
    rows = []
    for policy in [name for name in NAMES if name in evaluation.policies]:
        cells = []
        for task, perturbation, _ in columns:
            found = [
                result.success
                for key, result in evaluation.results.items()
                if key.policy == policy
                and key.perturbation == perturbation
                and task in ("", key.task)
            ]
            cells.append(_cell(found))
        if any(cell != "<td>–</td>" for cell in cells):
            rows.append(f"<tr><th>{escape(NAMES[policy])}</th>{''.join(cells)}</tr>")
    return f'<table class="scores"><tr><th>policy</th>{head}</tr>{"".join(rows)}</table>'


def _cell(found: list[bool]) -> str:
    if not found:
        return "<td>–</td>"
    import numpy as np

    rate, (low, high) = success_rate(np.array(found))
    return f"<td>{rate:.0%} <small>[{low:.0%}, {high:.0%}] of {len(found)}</small></td>"
