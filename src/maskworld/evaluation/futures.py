"""How near are the futures that a model shows to the one that came, and to guesses that know
nothing? One protocol for every system."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int, UInt8
from torch import Tensor

from maskworld.evaluation.baselines import best_trivial
from maskworld.evaluation.results import Results
from maskworld.metrics.image import FrameMetric, psnr, ssim
from maskworld.metrics.intervals import bootstrap_interval
from maskworld.metrics.scores import ClipScores


def score_futures(
    results: Results,
    real: UInt8[Tensor, "b v f c h w"],
    model: UInt8[Tensor, "b v f c h w"],
    others: Mapping[str, UInt8[Tensor, "b v f c h w"]],
    trivial: Mapping[str, UInt8[Tensor, "b v f c h w"]],
    groups: Int[np.ndarray, " n"],
    seed: int,
    *,
    ssim_every: int = 1,
    suffix: str = "",
) -> dict[str, ClipScores]:
    """Adds "psnr" and "ssim" per horizon step, beside the best of the trivial futures at each.

    Args:
        real: what came, without the given frames.
        model: what the model says of it.
        others: the model in another way and ceilings: "model_sampled", "reconstruction".
        trivial: futures of `TrivialFutures.predict`.
        ssim_every: measure the SSIM, which takes 50 times as long, of every so many clips.
        suffix: of the metrics' names, "/all_cameras".

    Returns the PSNR scores by name.
    """
    found: dict[str, dict[str, ClipScores]] = {}
    for name, measure, every in (("psnr", psnr, 1), ("ssim", ssim, ssim_every)):
        rivals = dict(trivial)
        if name == "ssim":  # a mean image has no structure to compare
            rivals = {key: value for key, value in trivial.items() if "mean" not in key}
        by_name: dict[str, ClipScores] = {}
        for label, frames in {"model": model, **others, **rivals}.items():
            metric = FrameMetric(measure)
            metric.update(frames[::every], real[::every])
            by_name[label] = metric.compute()
        found[name] = by_name
        curves = {label: scores.per_horizon for label, scores in by_name.items()}
        curves["best_trivial"] = best_trivial({key: curves[key] for key in rivals}, "higher")
        results.add(
            f"{name}{suffix}",
            model=by_name["model"].mean,
            interval=bootstrap_interval(
                by_name["model"], np.random.default_rng(seed), groups=groups[::every]
            ),
            n=len(by_name["model"]),
            better="higher",
            baselines={key: scores.mean for key, scores in by_name.items() if key != "model"},
            per_horizon=curves,
        )
    return found["psnr"]
