"""Trained on one source, tested on another: the same scores for every domain, side by side.

Trivial futures are fitted where the model was trained, so both meet a domain for the first time.
PSNR itself says little across domains (a night is dark and easily guessed); the margin over the
best trivial future of the same clips does, and so does the Fréchet proxy beside its floor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from torch import Tensor

from maskworld.evaluation.baselines import TrivialFutures
from maskworld.evaluation.frechet import score_frechet_proxy
from maskworld.evaluation.results import Results, baseline_names
from maskworld.metrics.frechet_proxy import NAME as PROXY
from maskworld.metrics.image import FrameMetric, psnr
from maskworld.metrics.intervals import bootstrap_interval
from maskworld.metrics.scores import ClipScores


@dataclass(frozen=True)
class DomainScores:
    """What `score_domain` found, by clip."""

    psnr: dict[str, ClipScores]
    """"model" and the trivial futures."""
    margin: ClipScores
    """The model's PSNR minus that of the trivial future that is best at each step."""


def score_domain(
    results: Results,
    domain: str,
    real: UInt8[Tensor, "b v t c h w"],
    predicted: UInt8[Tensor, "_ _ _ _ _ _"],
    dreamt: UInt8[Tensor, "_ _ _ _ _ _"] | None,
    trivial: TrivialFutures,
    groups: Int[np.ndarray, " b"],
    *,
    num_given: int,
    seed: int = 0,
) -> DomainScores:
    """Adds "zero_shot/DOMAIN/psnr", "/psnr_margin" and, with dreams, "/frechet_proxy".

    Args:
        domain: its name; "seen" for held-out worlds of the source that was trained on.
        real: the given frames first.
        predicted: what the model expects: the mean of the future, which PSNR asks for.
        dreamt: sampled futures, for the proxy; None = no proxy (too few clips or groups).
        trivial: fitted on the training clips of the *seen* source.
        groups: world or recording of each row.

    Raises:
        ValueError: other shapes, no dreamt frame, fewer than 2 groups; with `dreamt`, too few clips
            or groups for the proxy.
    """
    for frames in (predicted, dreamt):
        if frames is not None and frames.shape != real.shape:
            raise ValueError(
                f"Expected futures of the clips' shape {tuple(real.shape)}, found "
                f"{tuple(frames.shape)}: score the same moments and frames."
            )
    if not 1 <= num_given < real.shape[2]:
        raise ValueError(f"Expected 1 to {real.shape[2] - 1} given frames, found {num_given}.")
    future = real[:, :, num_given:]
    guesses = trivial.predict(real[:, :, :num_given], future.shape[2])
    scores: dict[str, ClipScores] = {}
    for name, frames in {"model": predicted[:, :, num_given:], **guesses}.items():
        metric = FrameMetric(psnr)
        metric.update(frames, future)
        scores[name] = metric.compute()
    best = _best_by_step({name: scores[name] for name in guesses})
    margin = scores["model"].minus(best)
    rng = np.random.default_rng(seed)
    baselines = {name: found.mean for name, found in scores.items() if name != "model"}
    curves = {name: found.per_horizon for name, found in scores.items()}
    results.add(
        f"zero_shot/{domain}/psnr",
        model=scores["model"].mean,
        interval=bootstrap_interval(scores["model"], rng, groups=groups),
        n=len(groups),
        better="higher",
        baselines=baselines | {"best_trivial": best.mean},
        per_horizon=curves | {"best_trivial": best.per_horizon},
    )
    results.add(
        f"zero_shot/{domain}/psnr_margin",
        model=margin.mean,
        interval=bootstrap_interval(margin, rng, groups=groups),
        n=len(groups),
        better="higher",
        baselines={"best_trivial": 0.0},
        per_horizon={"model": margin.per_horizon, "best_trivial": [0.0] * future.shape[2]},
    )
    if dreamt is not None:
        scratch = Results("zero_shot", {})
        sets = {name: guesses[name] for name in ("copy_last", "blurred_copy")}
        score_frechet_proxy(
            scratch, future, dreamt[:, :, num_given:], sets, groups, seed=seed, num_resamples=100
        )
        entry = scratch.to_dict()["metrics"][PROXY]
        results.add(
            f"zero_shot/{domain}/{PROXY}",
            model=entry["model"],
            interval=entry["interval"],
            n=entry["n"],
            better="lower",
            baselines={name: entry[name] for name in baseline_names(entry)},
        )
        results.protocol[f"zero_shot/{domain}/{PROXY}"] = scratch.protocol[PROXY]
    return DomainScores(scores, margin)


def _best_by_step(scores: Mapping[str, ClipScores]) -> ClipScores:
    """At every step the guess that is best there on all clips."""
    names = list(scores)
    steps = np.stack([scores[name].total.mean(axis=0) for name in names]).argmax(axis=0)
    total = np.stack([scores[names[i]].total[:, t] for t, i in enumerate(steps)], axis=1)
    return ClipScores(total, np.ones_like(total))


def zero_shot_table(content: Mapping[str, Any]) -> str:
    """A Markdown table of all domains in the content of a `metrics.json`.

    Raises:
        ValueError: it has no "zero_shot/..." metric.
    """
    metrics = content["metrics"]
    domains = [
        name.split("/")[1] for name in metrics if name.startswith("zero_shot/") if "margin" in name
    ]
    if not domains:
        raise ValueError("Expected metrics of zero_shot/..., found none: call score_domain first.")
    lines = [
        "| domain | PSNR | best trivial | margin | Fréchet proxy | real to real | copy | clips |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for domain in domains:
        score, margin = (metrics[f"zero_shot/{domain}/{name}"] for name in ("psnr", "psnr_margin"))
        proxy = metrics.get(f"zero_shot/{domain}/{PROXY}")
        parts = [f"{score['model']:.2f}", f"{score['best_trivial']:.2f}", _told(margin, "+.2f")]
        if proxy is None:
            parts += ["-", "-", "-"]
        else:
            floor, copy = proxy["real_vs_real"], proxy["copy_last"]
            parts += [_told(proxy, ".1f"), f"{floor:.1f}", f"{copy:.1f}"]
        lines.append(f"| {domain} | {' | '.join(parts)} | {score['n']} |")
    return "\n".join(lines)


def _told(entry: Mapping[str, Any], form: str) -> str:
    low, high = entry["interval"]
    return f"{entry['model']:{form}} [{low:{form}}, {high:{form}}]"
