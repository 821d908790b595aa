"""Success tables: rates with Wilson intervals, and differences paired over initial states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from maskworld.evaluation.manipulation import CLEAN, Evaluation
from maskworld.evaluation.results import Results
from maskworld.metrics.intervals import Interval, bootstrap_interval, success_rate
from maskworld.metrics.scores import ClipScores
from maskworld.metrics.success import compare_paired, npauc, npauc_interval


def add_success(results: Results, evaluation: Evaluation, model: str = "model") -> None:
    """Adds "success" and "success/<task>", under a perturbation "success_under/<perturbation>" and
    so on, the policies that tried the same beside; and "success_gain/<other>", paired, likewise.

    Rates are over the initial states that all policies tried; the interval of several tasks
    together takes their episodes as one sample. The protocol gets what the scores depend on and
    McNemar's p-values.

    Raises:
        ValueError: no episodes of the model.
    """
    if model not in evaluation.policies:
        raise ValueError(f"Expected episodes of {model!r}, found some of {evaluation.policies}.")
    p_values: dict[str, dict[str, float]] = {}
    counts: dict[str, dict[str, int]] = {}
    for perturbation in evaluation.perturbations:
        if model not in evaluation.tried(perturbation):
            continue
        others = [name for name in evaluation.tried(perturbation) if name != model]
        where = "" if perturbation == CLEAN else f"_under/{label_of(perturbation)}"
        states = evaluation.states([model, *others], perturbation)
        tasks = sorted({task for task, _ in states})
        counts[perturbation or "clean"] = {t: sum(s[0] == t for s in states) for t in tasks}
        for task in [None, *tasks]:
            some = [state for state in states if task in (None, state[0])]
            found = {p: evaluation.successes(p, some, perturbation) for p in [model, *others]}
            rate, interval = success_rate(found[model])
            results.add(
                f"success{where}" + (f"/{task}" if task else ""),
                model=rate,
                interval=interval,
                n=len(some),
                better="higher",
                baselines={p: float(found[p].mean()) for p in others},
            )
        for other in others:
            paired = compare_paired(
                evaluation.successes(model, states, perturbation),
                evaluation.successes(other, states, perturbation),
            )
            results.add(
                f"success_gain{where}/{other}",
                model=paired.difference,
                interval=paired.interval,
                n=paired.n,
                better="higher",
                baselines={"no_difference": 0.0},
            )
            p_values.setdefault(perturbation or "clean", {})[other] = paired.p_value
    results.protocol["manipulation"] = {
        **evaluation.protocol,
        "num_states": counts,
        "seeds": sorted({key.seed for key in evaluation.results}),
        "endings": {name: evaluation.endings(name) for name in evaluation.policies},
        "mcnemar_p": p_values,
        "crashed_episodes": [asdict(failure.key) for failure in evaluation.failures],
        "crashes": dict(evaluation.crashes),
    }


@dataclass(frozen=True)
class RobustnessRow:
    """One policy under one perturbation."""

    policy: str
    perturbation: str
    n: int
    rate: float
    interval: Interval
    retained: float | None
    """Of the rate without perturbation from the same states; None where that is 0."""
    gain: float
    """Over the reference policy, paired."""
    gain_interval: Interval
    p_value: float


def robustness_table(
    evaluation: Evaluation, policies: Sequence[str], reference: str
) -> list[RobustnessRow]:
    """Policies times perturbations, clean first, each against the reference on the same states.
    What a policy or the reference has not tried has no row.

    Raises:
        ValueError: no initial state in common.
    """
    rows = []
    for perturbation in evaluation.perturbations:
        tried = evaluation.tried(perturbation)
        shown = [policy for policy in policies if policy in tried]
        if reference not in tried or not shown:
            continue
        states = evaluation.states([*shown, reference], perturbation)
        clean = set(evaluation.states([*shown, reference], CLEAN))
        shared = [state for state in states if state in clean]
        beside = evaluation.successes(reference, states, perturbation)
        for policy in shown:
            found = evaluation.successes(policy, states, perturbation)
            rate, interval = success_rate(found)
            base = evaluation.successes(policy, shared, CLEAN).sum() if shared else 0
            kept = evaluation.successes(policy, shared, perturbation).sum() if shared else 0
            paired = compare_paired(found, beside)
            rows.append(
                RobustnessRow(
                    policy,
                    perturbation or "clean",
                    len(states),
                    rate,
                    interval,
                    float(kept / base) if base else None,
                    paired.difference,
                    paired.interval,
                    paired.p_value,
                )
            )
    return rows


def markdown(rows: Sequence[RobustnessRow]) -> str:
    """A robustness table to read."""
    lines = [
        "| policy | perturbation | success | 95 % | retained | paired gain | 95 % | p | n |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        retained = "-" if row.retained is None else f"{row.retained:.2f}"
        spans = [
            "{:.0f} to {:.0f}".format(*(100 * x for x in span))
            for span in (row.interval, row.gain_interval)
        ]
        lines.append(
            f"| {row.policy} | {row.perturbation} | {row.rate:.1%} | {spans[0]} | {retained} | "
            f"{100 * row.gain:+.1f} | {spans[1]} | {row.p_value:.2g} | {row.n} |"
        )
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class SeedComparison:
    """Two ways to train, each with several training seeds, over the same initial states."""

    differences: tuple[float, ...]
    """Of the success rates, one per training seed."""
    mean: float
    interval: Interval
    """Of the mean over initial states, given these networks: how much other training seeds would
    change it, `differences` shows."""
    num_states: int


def compare_over_seeds(
    evaluation: Evaluation,
    first: Sequence[str],
    second: Sequence[str],
    perturbation: str = CLEAN,
    *,
    seed: int = 0,
) -> SeedComparison:
    """Success of the policies `first` minus that of `second`, paired by place and initial state.

    Raises:
        ValueError: not as many of each, or no initial state in common.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"Expected as many of each, found {list(first)} and {list(second)}.")
    states = evaluation.states([*first, *second], perturbation)
    rows = [
        evaluation.successes(a, states, perturbation).astype(float)
        - evaluation.successes(b, states, perturbation)
        for a, b in zip(first, second)
    ]
    table = np.stack(rows)  # training seed, state
    _, strata = np.unique([task for task, _ in states], return_inverse=True)
    scores = ClipScores(table.mean(0)[:, None], np.ones((len(states), 1)))
    return SeedComparison(
        tuple(table.mean(1).tolist()),
        float(table.mean()),
        bootstrap_interval(scores, np.random.default_rng(seed), strata=strata),
        len(states),
    )


def add_pruning(
    results: Results,
    evaluation: Evaluation,
    clean: str,
    pruned: Mapping[float, str],
    *,
    baselines: Mapping[str, tuple[str, Mapping[float, str]]] | None = None,
    seed: int = 0,
) -> None:
    """Adds "npauc": what is left of success as visual tokens are dropped, its curve over the ratios
    in place of steps.

    Args:
        clean: the policy without dropping.
        pruned: policies by ratio.
        baselines: other policies in the same form, by name.

    Reference: Mask World Model, random token pruning.
    """
    scores: dict[str, float] = {}
    curves: dict[str, list[float]] = {}
    entries = {"model": (clean, pruned), **(baselines or {})}
    everyone = [name for base, by in entries.values() for name in (base, *by.values())]
    states = evaluation.states(everyone)
    tasks = sorted({task for task, _ in states})
    per_task = {task: [state for state in states if state[0] == task] for task in tasks}
    size = min(map(len, per_task.values()))
    for label, (base, by_ratio) in entries.items():
        ratios = sorted(by_ratio)
        if ratios != sorted(pruned):
            raise ValueError(f"Expected the ratios {sorted(pruned)} of {label}, found {ratios}.")
        # Bool arrays: task, ratio, state; tasks with more states are cut to the fewest.
        left = np.stack(
            [
                [evaluation.successes(by_ratio[r], per_task[task][:size]) for r in ratios]
                for task in tasks
            ]
        )
        whole = np.stack([evaluation.successes(base, per_task[task][:size]) for task in tasks])
        scores[label] = npauc(left.mean(-1), whole.mean(-1), tasks)
        curves[label] = left.mean(axis=(0, 2)).tolist()
        if label == "model":
            interval = npauc_interval(left, whole, np.random.default_rng(seed))
    results.add(
        "npauc",
        model=scores.pop("model"),
        interval=interval,
        n=len(tasks) * size,
        better="higher",
        baselines=scores,
        per_horizon=curves,
    )
    results.protocol["pruning"] = {"ratios": sorted(pruned), "suites": tasks}


def label_of(perturbation: str) -> str:
    """A perturbation in the name of a metric: "light=0.5" is "light-0.5"."""
    return perturbation.lower().replace("=", "-").replace("+", ".") or "clean"
