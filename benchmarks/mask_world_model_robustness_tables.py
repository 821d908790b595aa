"""The tables of Mask World Model's robustness, from the episodes that are there.

A rate is over training seeds and initial states together, with its Wilson interval, which takes
episodes as independent; the rates of the training seeds stand beside it, since episodes of one
network are not. Differences are paired by training seed and initial state. Their interval is a
bootstrap over initial states within tasks, given these networks (of one training seed, Newcombe's);
what other training seeds would give, the differences by seed show. McNemar's exact p is per seed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ablation_folder import is_done, read_cell, told
from mask_world_model_robustness_cells import VARIANTS, pruned

from maskworld.evaluation.episode_log import check_same
from maskworld.evaluation.manipulation import CLEAN, Evaluation, join, read_evaluation
from maskworld.evaluation.manipulation_scores import add_pruning, compare_over_seeds
from maskworld.evaluation.results import Results
from maskworld.metrics.intervals import success_rate
from maskworld.metrics.success import compare_paired
from maskworld.recipes.recipe import MaskWorldModelRecipe

LABELS = {
    "mask": "mask target",
    "rgb": "RGB target",
    "none": "no world model",
    "mask-recolor": "mask target, recoloured",
    "rgb-recolor": "RGB target, recoloured",
    "blind": "no image",
    "expert": "scripted expert",
}
PAIRS = (
    ("mask", "rgb"),
    ("mask", "none"),
    ("rgb", "none"),
    ("mask-recolor", "mask"),
    ("mask-recolor", "rgb-recolor"),
)
REFERENCES = ("blind", "expert")
"""Tried clean only, in the cell without a world model."""


@dataclass(frozen=True)
class Tried:
    """Everything that was tried: policies are "mask 0", "mask 0 pruned 0.1", ..."""

    evaluation: Evaluation
    cells: Mapping[str, Mapping[str, Any]]
    """By policy, its `cell.json`."""
    seeds: Mapping[str, list[int]]
    """By variant (or reference)."""
    ratios: tuple[float, ...]

    @staticmethod
    def read(out: Path, ratios: Sequence[float]) -> Tried | None:
        """None where nothing was tried."""
        joined: dict[str, Evaluation] = {}
        cells: dict[str, Any] = {}
        seeds: dict[str, list[int]] = {}
        for folder in sorted(out.glob("seed-*/*"), key=lambda f: (int(f.parent.name[5:]), f.name)):
            name, seed = folder.name, int(folder.parent.name[5:])
            if not is_done(folder) or not (folder / "episodes").is_dir() or name not in VARIANTS:
                continue
            found = read_evaluation(folder / "episodes")
            others = REFERENCES if name == "none" else tuple(map(pruned, ratios))
            for policy in ("model", *others):
                if policy not in found.policies:
                    continue
                variant = policy if name == "none" and policy != "model" else name
                is_pruned = policy.startswith("pruned")
                label = f"{name} {seed} {policy}" if is_pruned else f"{variant} {seed}"
                joined[label] = join({label: found}, policy)
                if not is_pruned:
                    seeds.setdefault(variant, []).append(seed)
                    cells[label] = read_cell(folder)
        if not joined:
            return None
        _check(joined)
        first = next(iter(joined.values())).protocol
        everything = {k: r for each in joined.values() for k, r in each.results.items()}
        return Tried(Evaluation(first, everything), cells, seeds, tuple(ratios))

    def names(self, variant: str, perturbation: str = CLEAN) -> list[str]:
        """Its policies that were tried so in all tasks."""
        tried = {
            (k.policy, k.task) for k in self.evaluation.results if k.perturbation == perturbation
        }
        named = [f"{variant} {seed}" for seed in self.seeds.get(variant, [])]
        return [name for name in named if all((name, task) in tried for task in self.tasks)]

    @property
    def perturbations(self) -> list[str]:
        """But for none."""
        return [name for name in self.evaluation.perturbations if name != CLEAN]

    @property
    def tasks(self) -> list[str]:
        return sorted({key.task for key in self.evaluation.results})

    def cell(
        self, variant: str, perturbation: str = CLEAN, task: str | None = None, *, by_seed: bool
    ) -> str:
        """A rate with its interval, and those of the training seeds."""
        if not (names := self.names(variant, perturbation)):
            return "not run"
        states = self.evaluation.states(names, perturbation, task)
        found = np.stack([self.evaluation.successes(n, states, perturbation) for n in names])
        rate, (low, high) = success_rate(found.ravel())
        text = f"{100 * rate:.0f} [{100 * low:.0f}, {100 * high:.0f}]"
        if by_seed and len(names) > 1:
            text += f" ({', '.join(f'{100 * row.mean():.0f}' for row in found)})"
        return text

    def retained(self, variant: str, perturbation: str) -> str:
        """Of the clean successes from the same states."""
        names = [n for n in self.names(variant, perturbation) if n in self.names(variant)]
        if not names:
            return "-"
        states = set(self.evaluation.states(names, perturbation))
        shared = sorted(states & set(self.evaluation.states(names)))
        kept, base = (
            sum(self.evaluation.successes(n, shared, p).sum() for n in names)
            for p in (perturbation, CLEAN)
        )
        return f"{kept / base:.2f}" if base else "-"


def _check(evaluations: Mapping[str, Evaluation]) -> None:
    """Raises ValueError for episodes in other worlds, or given up by another rule."""
    told_by = {
        label: {key: each.protocol[key] for key in ("world", "steps")}
        for label, each in evaluations.items()
    }
    first, protocol = next(iter(told_by.items()))
    for label, other in told_by.items():
        check_same(protocol, other, f"{first} and {label}")


def success(found: Tried) -> str:
    """Without perturbation, by task."""
    tasks = found.tasks
    head = ["", "all tasks (by training seed)", *(t.removesuffix("-v3") for t in tasks), "seeds"]
    lines = [_row(head), "|---" * len(head) + "|"]
    for variant in [*VARIANTS, *REFERENCES]:
        if seeds := found.seeds.get(variant):
            cells = [found.cell(variant, task=task, by_seed=False) for task in tasks]
            lines.append(
                _row([LABELS[variant], found.cell(variant, by_seed=True), *cells, told(seeds)])
            )
    return "\n".join(lines)


def perturbed(found: Tried) -> str:
    """All tasks together, with the share of clean success that is retained."""
    variants = [variant for variant in VARIANTS if variant in found.seeds]
    head = ["", *(LABELS[v] for v in variants), *(f"{LABELS[v]}: retained" for v in variants)]
    lines = [_row(head), "|---" * len(head) + "|"]
    for name in [CLEAN, *found.perturbations]:
        rates = [found.cell(v, name, by_seed=True) for v in variants]
        lines.append(_row([name or "clean", *rates, *(found.retained(v, name) for v in variants)]))
    return "\n".join(lines)


def differences(found: Tried) -> str:
    """Paired, in points: first minus second."""
    head = ["", "perturbation", "points [95 %]", "by training seed", "McNemar p by seed", "states"]
    lines = [_row(head), "|---" * len(head) + "|"]
    for first, second in PAIRS:
        for name in [CLEAN, *found.perturbations]:
            a, b = found.names(first, name), found.names(second, name)
            both = [s for s in found.seeds.get(first, []) if f"{second} {s}" in b]
            both = [s for s in both if f"{first} {s}" in a]
            if not both:
                continue
            pairs = [(f"{first} {s}", f"{second} {s}") for s in both]
            compared = compare_over_seeds(
                found.evaluation, [p for p, _ in pairs], [q for _, q in pairs], name
            )
            paired = []
            for one, other in pairs:
                states = found.evaluation.states([one, other], name)
                rows = [found.evaluation.successes(p, states, name) for p in (one, other)]
                paired.append(compare_paired(*rows))
            low, high = compared.interval if len(both) > 1 else paired[0].interval
            lines.append(
                _row(
                    [
                        f"{LABELS[first]} - {LABELS[second]}",
                        name or "clean",
                        f"{100 * compared.mean:+.0f} [{100 * low:+.0f}, {100 * high:+.0f}]",
                        ", ".join(f"{100 * d:+.0f}" for d in compared.differences),
                        ", ".join(f"{each.p_value:.2g}" for each in paired),
                        str(compared.num_states),
                    ]
                )
            )
    return "\n".join(lines)


def by_task(found: Tried) -> str:
    """Every task under every perturbation."""
    variants = [variant for variant in VARIANTS if variant in found.seeds]
    head = ["perturbation", "task", *(LABELS[v] for v in variants)]
    lines = [_row(head), "|---" * len(head) + "|"]
    for name in [CLEAN, *found.perturbations]:
        for task in found.tasks:
            cells = [found.cell(v, name, task, by_seed=False) for v in variants]
            lines.append(_row([name or "clean", task.removesuffix("-v3"), *cells]))
    return "\n".join(lines)


def pruning(found: Tried) -> str:
    """What is left as visual tokens are dropped, and nPAUC by training seed."""
    head = ["", "seed", "nPAUC [95 %]", "0", *(f"{ratio:g}" for ratio in found.ratios)]
    lines = [_row(head), "|---" * len(head) + "|"]
    for variant in [v for v in VARIANTS if VARIANTS[v].is_pruned]:
        for seed in found.seeds.get(variant, []):
            base = f"{variant} {seed}"
            names = {r: f"{base} {pruned(r)}" for r in found.ratios}
            names = {r: n for r, n in names.items() if n in found.evaluation.policies}
            if not names:
                continue
            states = found.evaluation.states([base, *names.values()])
            rates = [found.evaluation.successes(n, states).mean() for n in (base, *names.values())]
            score, results = "undefined: a task never succeeds", Results("mask_world_model", {})
            succeeds = {t: False for t, _ in states}
            for (task, _), good in zip(states, found.evaluation.successes(base, states)):
                succeeds[task] |= bool(good)
            if all(succeeds.values()):
                add_pruning(results, found.evaluation, base, names, seed=0)
                entry = results.to_dict()["metrics"]["npauc"]
                low, high = entry["interval"]
                score = f"{entry['model']:.2f} [{low:.2f}, {high:.2f}]"
            shown = dict(zip(("", *names), rates))
            left = [f"{100 * shown[r]:.0f}" if r in shown else "-" for r in found.ratios]
            lines.append(_row([LABELS[variant], str(seed), score, f"{100 * rates[0]:.0f}", *left]))
    return "\n".join(lines)


def protocol(recipe: MaskWorldModelRecipe, out: Path, found: Tried | None) -> str:
    """What the numbers are of."""
    file = out / "ablation.json"
    if not file.is_file():
        return "Not run."
    known = json.loads(file.read_text(encoding="utf-8"))
    steps = ", ".join(f"{s['name']} {s['num_steps']} x {s['batch_size']}" for s in known["stages"])
    robot = known["robot"]
    per_task = robot["episodes_per_task"] - robot["held_out_per_task"]
    lines = [
        f"- recipe {recipe.name}; steps x batch: {steps}; policies without a world model "
        f"{robot['baseline_steps']} x 32; code: commit {', '.join(known['commits'])}",
        f"- {per_task} recorded episodes of each of {', '.join(robot['tasks'])}, of seed "
        f"{known['data_seed']}, the same for all cells",
    ]
    if found is None:
        return "\n".join(lines)
    told_by = found.evaluation.protocol
    policy = next(p for p in told_by["policies"].values() if "exec_steps" in p)
    lines.append(
        f"- Meta-World {told_by['world']['versions']['metaworld']}, split "
        f"{told_by['world']['split']}, cameras {', '.join(told_by['world']['cameras'])}, "
        f"{'x'.join(map(str, told_by['world']['size']))} pixels; at most "
        f"{told_by['steps']['limit']} steps, {policy['exec_steps']} executed of a chunk; last "
        "checkpoint"
    )
    for name in (v for v in VARIANTS if v in found.seeds):
        cells = [found.cells[f"{name} {seed}"] for seed in found.seeds[name]]
        sizes = ", ".join(f"{k} {v / 1e6:.2f}M" for k, v in cells[0]["parameters"].items())
        spent = np.mean([cell["processor_seconds"] for cell in cells]) / 60
        tried = np.mean([cell.get("episode_seconds", 0.0) for cell in cells]) / 60
        lines.append(
            f"- {LABELS[name]}: {sizes} parameters; {spent:.1f} processor minutes of training and "
            f"{tried:.1f} minutes of episodes a cell; seeds {told(found.seeds[name])}"
        )
    return "\n".join(lines)


def all_tables(recipe: MaskWorldModelRecipe, out: Path, ratios: Sequence[float]) -> dict[str, str]:
    """Every table, of whatever is there."""
    found = Tried.read(out, ratios)
    tables: dict[str, Any] = {
        "success": success,
        "perturbed": perturbed,
        "differences": differences,
        "pruning": pruning,
        "by-task": by_task,
    }
    made = {name: "Not run." if found is None else table(found) for name, table in tables.items()}
    return {"protocol": protocol(recipe, out, found), **made}


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
