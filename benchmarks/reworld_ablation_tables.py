"""The tables of ReWorld's ablations, of the finished cells. Intervals: `ablation_samples`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ablation_samples
import numpy as np
from ablation_folder import told
from ablation_samples import Samples
from reworld_ablation_cells import REFERENCES, DreamsCell, PlannerCell, VideoCell

KEYS = ("pdms", "nc", "dac", "ttc", "comfort", "ep")
PLANNER_HEAD = "| planner | PDMS | NC | DAC | TTC | C | EP | ADE, m | seeds |\n" + "|---" * 9 + "|"
GAIN_HEAD = (
    "| against {} | PDMS | NC | DAC | TTC | EP | PDMS by seed | seeds |\n" + "|---" * 8 + "|"
)


class Cells(ablation_samples.Cells):
    """ReWorld's, with what its cells measure."""

    def planner(self, name: str, key: str, planner: str = "model") -> Samples:
        """Scores of a planner by scene."""
        return self.samples(name, lambda cell: (cell["scores"][planner][key], cell["worlds"]))

    def loss(self, name: str) -> Samples:
        """Held-out velocity loss by clip."""
        return self.samples(name, lambda cell: (cell["loss"], cell["worlds"]))

    def psnr(self, name: str, dream: str) -> Samples:
        """PSNR by clip of one kind of dream."""
        return self.samples(name, lambda cell: (cell["dreams"][dream]["psnr"], cell["worlds"]))

    def proxy(self, name: str, dream: str) -> str:
        """Fréchet proxy: mean and range over the seeds; of a single seed, its interval."""
        found = [self.by_seed[seed][name]["dreams"][dream] for seed in self.having(name)]
        values = [each["proxy"] for each in found]
        if len(values) == 1:
            low, high = found[0]["proxy_interval"]
            return f"{values[0]:.2f} [{low:.2f}, {high:.2f}]"
        return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def planner_rows(cells: Cells, rows: Sequence[tuple[str, str, str]]) -> str:
    """Scores of (label, cell, planner)."""
    lines = [PLANNER_HEAD]
    for label, name, planner in rows:
        if not (seeds := cells.having(name)):
            lines.append(f"| {label} | not run |" + " |" * 7)
            continue
        scores = [cells.planner(name, key, planner).told() for key in KEYS]
        error = f"{cells.planner(name, 'ade', planner).values.mean():.2f}"
        lines.append(f"| {label} | {' | '.join(scores)} | {error} | {told(seeds)} |")
    return "\n".join(lines)


def gain_rows(cells: Cells, base: str, label: str, rows: Sequence[tuple[str, str]]) -> str:
    """Paired differences of (label, cell) to a base cell."""
    if not cells.having(base):
        return ""
    lines = [GAIN_HEAD.format(label)]
    for row, name in rows:
        both = [seed for seed in cells.having(name) if seed in cells.having(base)]
        if name == base or not both:
            continue
        gains = {key: cells.planner(name, key).minus(cells.planner(base, key)) for key in KEYS}
        parts = [gains[key].told(3, "+") for key in ("pdms", "nc", "dac", "ttc", "ep")]
        by_seed = gains["pdms"].by_seed(3, "+")
        lines.append(f"| {row} | {' | '.join(parts)} | {by_seed} | {told(both)} |")
    return "\n".join(lines) if len(lines) > 1 else ""


def planners(cells: Cells, layer: int, weight: float) -> str:
    """Table 4 of the paper: both losses on and off."""
    own = [
        ("base", PlannerCell().name),
        ("+ align", PlannerCell(layer).name),
        ("+ RDE", PlannerCell(0, weight).name),
        ("+ align + RDE", PlannerCell(layer, weight).name),
    ]
    rows = [(label, name, "model") for label, name in own]
    rows += [(name.replace("_", " "), "references", name) for name in REFERENCES]
    table = planner_rows(cells, rows)
    seeds = cells.having(own[0][1])
    if not seeds:
        return table
    within = ["| PDMS by seed, intervals over worlds | " + " | ".join(map(str, seeds)) + " |"]
    within.append("|---" * (len(seeds) + 1) + "|")
    for label, name in own:
        texts = []
        for seed in seeds:
            if name in cells.by_seed[seed]:
                texts.append(Cells({seed: cells.by_seed[seed]}).planner(name, "pdms").told())
            else:
                texts.append("not run")
        within.append(f"| {label} | {' | '.join(texts)} |")
    gains = gain_rows(cells, own[0][1], "base", own)
    return "\n\n".join(part for part in (table, gains, "\n".join(within)) if part)


def terms(cells: Cells, layer: int, weight: float) -> str:
    """What stages 2 and 3 ended with: weighted terms of the training loss over the last fifth of
    the log, means over seeds."""
    names = {"action_velocity": "L_FM", "alignment": "alignment", "repulsion": "repulsion"}
    stages = [PlannerCell(), PlannerCell(layer)]
    stages = [*stages, PlannerCell(0, weight), PlannerCell(layer, weight)]
    lines = [f"| stage | {' | '.join(names.values())} | seeds |", "|---" * 5 + "|"]
    for name in [*(each.stage_two for each in stages[:2]), *(each.name for each in stages)]:
        found = [cells.by_seed[seed][name]["terms"] for seed in cells.having(name)]
        values = [
            f"{np.mean([each[key] for each in found]):.4f}" if found and key in found[0] else "-"
            for key in names
        ]
        lines.append(f"| {name} | {' | '.join(values)} | {told(cells.having(name))} |")
    return "\n".join(lines)


def weights(cells: Cells, layer: int, found: Sequence[float]) -> str:
    """Table 7: the weight of the repulsion, after the aligned stage 2."""
    rows = [(f"{weight:g}", PlannerCell(layer, weight).name) for weight in (0.0, *found)]
    table = planner_rows(cells, [(label, name, "model") for label, name in rows])
    table = table.replace("| planner |", "| lambda_RDE |", 1)
    gains = gain_rows(cells, rows[0][1], "lambda 0", rows)
    return f"{table}\n\n{gains}".strip()


def alignment_layers(
    cells: Cells, layers: Sequence[int], num_layers: int, own: int, weight: float
) -> str:
    """The layer of the alignment, everything else as in "both"."""
    rows = [("none", PlannerCell(0, weight).name)]
    rows += [
        (f"{layer} of {num_layers}", PlannerCell(layer, weight).name) for layer in sorted(layers)
    ]
    table = planner_rows(cells, [(label, name, "model") for label, name in rows])
    table = table.replace("| planner |", "| alignment layer |", 1)
    base = PlannerCell(own, weight).name
    return f"{table}\n\n{gain_rows(cells, base, f'layer {own}', rows)}".strip()


def videos(
    cells: Cells,
    rows: Sequence[tuple[str, VideoCell]],
    trivial: Mapping[str, Any] | None = None,
) -> str:
    """Held-out loss and unguided dreams of kinds of stage 1."""
    lines = [
        "| stage 1 | held-out loss | against the first row | PSNR, mean future | PSNR, sampled |"
        " against the first row | proxy, mean future | proxy, sampled | seeds |",
        "|---" * 9 + "|",
    ]
    base = rows[0][1].name
    for label, cell in rows:
        name = cell.name
        if not (seeds := cells.having(name)):
            lines.append(f"| {label} | not run |" + " |" * 7)
            continue
        loss = cells.loss(name)
        has_base = name != base and bool(set(seeds) & set(cells.having(base)))
        gain = loss.minus(cells.loss(base)).told(4, "+") if has_base else "-"
        dreams = dreams_columns(cells, DreamsCell(cell).name, DreamsCell(rows[0][1]).name)
        lines.append(f"| {label} | {loss.told(4)} | {gain} | {dreams} | {told(seeds)} |")
    for name, each in (trivial or {}).get("dreams", {}).items():
        value, proxy = np.mean(each["psnr"]), each["proxy"]
        lines.append(f"| {name.replace('_', ' ')} | | | {value:.2f} | | | {proxy:.2f} | | |")
    return "\n".join(lines)


def dreams_columns(cells: Cells, name: str, base: str) -> str:
    """PSNR of mean and sampled futures, the latter against the base's, and both proxies."""
    if not (seeds := cells.having(name)):
        return "not run | | | |"
    sampled, gain = cells.psnr(name, "gamma 1"), "-"
    if name != base and set(seeds) & set(cells.having(base)):
        gain = sampled.minus(cells.psnr(base, "gamma 1")).told(2, "+")
    parts = [cells.psnr(name, "mean").told(2), sampled.told(2), gain]
    return " | ".join([*parts, cells.proxy(name, "mean"), cells.proxy(name, "gamma 1")])


def equal_loss(cells: Cells, with_head: str, without: str) -> str:
    """Steps until the run with the head is as good as the one without at its end."""
    seeds = [seed for seed in cells.having(with_head) if seed in cells.having(without)]
    if not seeds:
        return "Steps to equal loss: not run."
    lines = [
        "| seed | final loss without head | final loss with head | steps of both |"
        " steps with head to the loss without |",
        "|---" * 5 + "|",
    ]
    for seed in seeds:
        with_curve, without_curve = (
            cells.by_seed[seed][name]["curve"] for name in (with_head, without)
        )
        total, goal = without_curve[-1]
        reached = [step for step, loss in with_curve if loss <= goal]
        needed = f"{reached[0]} ({reached[0] / total:.0%})" if reached else "not reached"
        lines.append(f"| {seed} | {goal:.4f} | {with_curve[-1][1]:.4f} | {total} | {needed} |")
    curves = {
        name: [dict(map(tuple, cells.by_seed[seed][name]["curve"])) for seed in seeds]
        for name in (without, with_head)
    }
    known = set.intersection(*(set(curve) for each in curves.values() for curve in each))
    steps = sorted(known)[-1 :: -max(1, len(known) // 8)][::-1]
    lines += [
        "",
        "| step | " + " | ".join(map(str, steps)) + " |",
        "|---" * (len(steps) + 1) + "|",
    ]
    for name, each in curves.items():
        means = [np.mean([curve[step] for curve in each]) for step in steps]
        lines.append(f"| {name} | " + " | ".join(f"{value:.4f}" for value in means) + " |")
    return "\n".join(lines)


def gammas(cells: Cells, name: str) -> str:
    """Table 6: one model, one noise, five strengths of self-guidance."""
    if not (seeds := cells.having(name)):
        return "Not run."
    lines = [
        "| gamma | PSNR, sampled | against gamma 1 | proxy | proxy against gamma 1, by seed |",
        "|---" * 5 + "|",
    ]
    kinds = [kind for kind in cells.by_seed[seeds[0]][name]["dreams"] if kind != "mean"]
    plain = cells.psnr(name, "gamma 1")
    for kind in kinds:
        scores = cells.psnr(name, kind)
        changes = [
            cells.by_seed[seed][name]["dreams"][kind]["proxy"]
            - cells.by_seed[seed][name]["dreams"]["gamma 1"]["proxy"]
            for seed in seeds
        ]
        gain = "-" if kind == "gamma 1" else scores.minus(plain).told(2, "+")
        shown = "-" if kind == "gamma 1" else ", ".join(f"{value:+.2f}" for value in changes)
        value = kind.removeprefix("gamma ")
        lines.append(
            f"| {value} | {scores.told(2)} | {gain} | {cells.proxy(name, kind)} | {shown} |"
        )
    return "\n".join(lines)
