"""Tables of metrics as HTML: value, interval, baselines, and a small picture of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from maskworld.evaluation.results import baseline_names
from maskworld.report.labels import Label, is_rival, label_of, words

SPAN, MARGIN = 150.0, 8.0
ARROWS = {"higher": ("↑", "higher is better"), "lower": ("↓", "lower is better")}


def metrics_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """One line per metric."""
    lines = "".join(_line(name, entry) for name, entry in metrics.items())
    return (
        '<div class="scroll"><table class="metrics"><thead><tr><th scope="col">Metric</th>'
        '<th scope="col" class="number">Model</th><th scope="col" class="number">95 % interval</th>'
        '<th scope="col">Baselines</th><th scope="col"><span class="unseen">Picture</span></th>'
        f'<th scope="col" class="number">n</th></tr></thead><tbody>{lines}</tbody></table></div>'
    )


def best_baseline(entry: Mapping[str, Any]) -> tuple[str, int | float] | None:
    """The strongest baseline of a metric and its value; ceilings and variants are none."""
    names = [key for key in baseline_names(entry) if is_rival(key)]
    if not names:
        return None
    pick = max if entry["better"] == "higher" else min
    name = pick(names, key=lambda key: entry[key])
    return name, entry[name]


def verdict(entry: Mapping[str, Any]) -> str:
    """ "better", "worse" or "even": the model's interval against its best baseline."""
    best = best_baseline(entry)
    if best is None:
        return ""
    low, high = entry["interval"]
    if entry["better"] == "lower":
        low, high, value = -high, -low, -best[1]
    else:
        value = best[1]
    return "better" if low > value else "worse" if high < value else "even"


def horizon_table(name: str, entry: Mapping[str, Any]) -> str:
    """The numbers behind a per-horizon chart."""
    label = label_of(name)
    curves = entry["per_horizon"]
    steps = range(1, len(curves["model"]) + 1)
    head = "".join(f'<th scope="col" class="number">{step}</th>' for step in steps)
    body = "".join(
        f'<tr{" class=ours" if key == "model" else ""}><th scope="row">{escape(words(key))}</th>'
        + "".join(f'<td class="number">{label.format(x, unit=False)}</td>' for x in curve)
        + "</tr>"
        for key, curve in curves.items()
    )
    unit = "%" if label.is_share else label.unit
    corner = f"step{f' ({unit})' if unit else ''}"
    return (
        f'<div class="scroll"><table class="steps"><thead><tr><th scope="col">{escape(corner)}</th>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def protocol_list(protocol: Mapping[str, Any]) -> str:
    """What the numbers mean, as term and value; nested settings as `outer / inner`."""
    items = "".join(
        f"<div><dt>{escape(words(key))}</dt><dd>{escape(value)}</dd></div>"
        for key, value in _flat(protocol)
    )
    return f'<dl class="protocol">{items}</dl>'


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat += _flat(value, f"{name} / ")
        elif isinstance(value, list):
            flat.append((name, ", ".join(map(str, value))))
        else:
            flat.append((name, str(value)))
    return flat


def _line(name: str, entry: Mapping[str, Any]) -> str:
    label = label_of(name)
    arrow, meaning = ARROWS[entry["better"]]
    low, high = entry["interval"]
    if low == high:
        interval = "–"
    else:
        interval = f"{label.format(low, unit=False)} – {label.format(high, unit=False)}"
    best = best_baseline(entry)
    baselines = "".join(
        f'<span class="baseline{" strongest" if best and key == best[0] else ""}">'
        f"<span>{escape(words(key))}</span> {label.format(entry[key], unit=False)}</span>"
        for key in baseline_names(entry)
    )
    judged = verdict(entry)
    note = f'<span class="unseen"> ({judged} than the best baseline)</span>' if judged else ""
    return (
        f'<tr><th scope="row">{escape(label.title)} '
        f'<span class="arrow" title="{meaning}" aria-label="{meaning}">{arrow}</span>'
        f"<small>{escape(label.meaning)}</small></th>"
        f'<td class="number value {judged}">{label.format(entry["model"])}{note}</td>'
        f'<td class="number">{interval}</td><td class="baselines">{baselines or "–"}</td>'
        f'<td class="picture">{_picture(label, entry)}</td>'
        f'<td class="number">{entry["n"]:,}</td></tr>'
    )


def _picture(label: Label, entry: Mapping[str, Any]) -> str:
    """The model's value and interval on a line with its baselines as ticks."""
    names = baseline_names(entry)
    if not names:
        return ""
    low, high = entry["interval"]
    values = [low, high, entry["model"], *(entry[name] for name in names)]
    start, end = min(values), max(values)
    if end <= start:
        return ""

    def place(value: int | float) -> float:
        return MARGIN + (value - start) / (end - start) * (SPAN - 2 * MARGIN)

    def tick(name: str) -> str:
        across, kind = f"{place(entry[name]):.1f}", "rival" if is_rival(name) else "reference"
        return (
            f'<line class="{kind}" x1="{across}" x2="{across}" y1="4" y2="16">'
            f"<title>{escape(words(name))} {label.format(entry[name])}</title></line>"
        )

    ticks = "".join(map(tick, names))
    return (
        f'<svg viewBox="0 0 {SPAN:.0f} 20" width="{SPAN:.0f}" height="20" aria-hidden="true">'
        f'<line class="base" x1="{MARGIN}" x2="{SPAN - MARGIN}" y1="10" y2="10"/>{ticks}'
        f'<line class="range" x1="{place(low):.1f}" x2="{place(high):.1f}" y1="10" y2="10"/>'
        f'<circle class="own" cx="{place(entry["model"]):.1f}" cy="10" r="4"/></svg>'
    )
