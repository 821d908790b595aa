"""The tables of MaskGWM's ablation, from the cells that exist.

Means are over seeds and clips. Intervals draw seeds and worlds, as in `ablation_samples`;
differences are taken clip by clip within a seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ablation_folder import is_done, read_cell, told
from ablation_samples import Cells

OFF = "off"
STATISTICS = ("frame_change", "luminance_deviation", "sharpness")
DOMAIN_HEAD = (
    "| domain | variant | held-out loss | against off | PSNR, dB | margin over the best trivial |"
    " against off, dB | Fréchet proxy (range over seeds) | seeds |\n" + "|---" * 9 + "|"
)


def all_tables(out: Path, variants: Sequence[str]) -> dict[str, str]:
    """Every table of a folder, variants in their order."""
    cells = Cells.read(out)
    cells = Cells({seed: _trained(found) for seed, found in cells.by_seed.items()})
    known = [name for name in variants if cells.having(name)]
    data = read_cell(out / "data") if is_done(out / "data") else {}
    if not known or not data:
        return dict.fromkeys(("protocol", "domains", "long", "horizons", "cost"), "Not run.")
    return {
        "protocol": protocol(cells, out, data),
        "domains": domains(cells, known, data),
        "long": long_dreams(cells, known),
        "horizons": horizons(cells, known),
        "cost": cost(out, known),
    }


def _trained(found: Any) -> dict[str, Any]:
    return {name: cell for name, cell in found.items() if "domains" in cell}


def against_off(cells: Cells, name: str, read: Callable[[Any], Any], digits: int) -> str:
    """The paired difference to "off", for the seeds that both have."""
    both = [seed for seed in cells.having(name) if seed in cells.having(OFF)]
    if name == OFF or not both:
        return "-"
    gain = cells.samples(name, read).minus(cells.samples(OFF, read))
    return gain.told(digits, "+")


def protocol(cells: Cells, out: Path, data: dict[str, Any]) -> str:
    """What the numbers are of."""
    known = json.loads((out / "ablation.json").read_text(encoding="utf-8"))
    made = data["description"]
    steps = [f"{row['name']} {row['num_steps']} x {row['batch_size']}" for row in known["stages"]]
    tests = ", ".join(
        f"{name} {clips} clips of {worlds}" for name, (clips, worlds) in made["held_out"].items()
    )
    found = [cell for each in cells.by_seed.values() for cell in each.values()]
    minutes = sum(cell["processor_seconds"] for cell in found) / 60
    return "\n".join(
        [
            f"- recipe {known['recipe']} with one camera; steps x batch: {', '.join(steps)}; code: "
            f"commit {', '.join(known['commits'])}",
            f"- data of seed {data['seed']}, the same for all seeds: {made['train_clips']} clips "
            f"of {made['train_worlds']} worlds; held out: {tests} (worlds or stretches); "
            f"{made['long_drives']} long drives of {made['long_frames']} frames",
            f"- seeds: {told(list(cells.by_seed))}; {len(found)} cells, {minutes:.0f} minutes of "
            "one processor",
        ]
    )


def domains(cells: Cells, names: Sequence[str], data: dict[str, Any]) -> str:
    """In distribution and zero-shot: loss, PSNR and its margin, proxy."""
    lines = [DOMAIN_HEAD]
    for domain, ceiling in data["reconstruction"].items():

        def reader(key: str, domain: str = domain) -> Callable[[Any], Any]:
            return lambda cell: (cell["domains"][domain][key], cell["domains"][domain]["worlds"])

        for name in names:
            parts = [
                cells.samples(name, reader("loss")).told(4),
                against_off(cells, name, reader("loss"), 4),
                f"{cells.samples(name, reader('psnr')).values.mean():.2f}",
                cells.samples(name, reader("margin")).told(2, "+"),
                against_off(cells, name, reader("psnr"), 2),
                _proxy([cells.by_seed[s][name]["domains"][domain] for s in cells.having(name)]),
            ]
            seeds = told(cells.having(name))
            lines.append(f"| {domain} | {name} | {' | '.join(parts)} | {seeds} |")
        proxy = ceiling["proxy"]
        floor = "-" if proxy is None else f"{proxy['model']:.1f}"
        trivial = "-" if proxy is None else f"{proxy['copy_last']:.1f} (copy)"
        real = "-" if proxy is None else f"{proxy['real_vs_real']:.1f}"
        lines.append(
            f"| {domain} | reconstruction | | | {np.mean(ceiling['psnr']):.2f} | | | {floor} | |"
        )
        lines.append(
            f"| {domain} | best trivial | | | {ceiling['best_trivial']:.2f} | | | {trivial} | |"
        )
        lines.append(f"| {domain} | real against real | | | | | | {real} | |")
    return "\n".join(lines)


def _proxy(found: Sequence[Any]) -> str:
    values = [each["proxy"]["model"] for each in found if each["proxy"] is not None]
    if not values:
        return "-"
    return f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def long_dreams(cells: Cells, names: Sequence[str]) -> str:
    """The last frames of long dreams over those of the real drives: 1 is right."""
    lines = [
        "| variant | frame change | contrast | sharpness | verdicts by seed |",
        "|---" * 5 + "|",
    ]
    for name in names:
        found = [cells.by_seed[seed][name]["long"] for seed in cells.having(name)]
        ratios = [
            f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"
            for key in STATISTICS
            if (values := [each["ratios"][key] for each in found])
        ]
        verdicts = ", ".join(each["verdict"] for each in found)
        lines.append(f"| {name} | {' | '.join(ratios)} | {verdicts} |")
    return "\n".join(lines)


def horizons(cells: Cells, names: Sequence[str]) -> str:
    """PSNR and proxy of long dreams by horizon."""
    first = cells.by_seed[cells.having(names[0])[0]][names[0]]["long"]
    ends = first["seconds"]
    head = " | ".join(f"{end:.0f} s" for end in ends)
    lines = [f"| to | {head} |", "|---" * (len(ends) + 1) + "|"]

    def reader(step: int) -> Callable[[Any], Any]:
        return lambda cell: (np.array(cell["long"]["psnr"])[:, step], cell["long"]["worlds"])

    for name in names:
        values = [cells.samples(name, reader(i)).told(2) for i in range(len(ends))]
        lines.append(f"| {name}: PSNR, dB | {' | '.join(values)} |")
        if name != OFF:
            gains = [against_off(cells, name, reader(i), 2) for i in range(len(ends))]
            lines.append(f"| {name}: against off | {' | '.join(gains)} |")
    best = " | ".join(f"{value:.2f}" for value in first["psnr_of_best_trivial"])
    lines.append(f"| best trivial: PSNR | {best} |")
    for name in names:
        found = [cells.by_seed[seed][name]["long"]["proxy"] for seed in cells.having(name)]
        if any(each is None for each in found):
            continue
        means = np.mean([each["model"] for each in found], axis=0)
        lines.append(f"| {name}: proxy | {' | '.join(f'{value:.1f}' for value in means)} |")
    if first["proxy"] is not None:
        for who in ("copy_last", "real_vs_real"):
            values = " | ".join(f"{value:.1f}" for value in first["proxy"][who])
            lines.append(f"| {who.replace('_', ' ')}: proxy | {values} |")
    return "\n".join(lines)


def cost(out: Path, names: Sequence[str]) -> str:
    """Seconds of a training step beside "off"."""
    file = out / "cost.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    lines = [
        "| variant | processor seconds of a step | over off (95 %) | FLOPs over off |",
        "|---" * 4 + "|",
    ]
    for name in names:
        if name in known:
            row = known[name]
            ratio = "{:.3f} ({:.3f} to {:.3f})".format(*row["ratio"])
            flops = row["flops"] / known[OFF]["flops"]
            lines.append(f"| {name} | {np.median(row['seconds']):.3f} | {ratio} | {flops:.3f} |")
    return "\n".join(lines) if len(lines) > 2 else "Not timed."
