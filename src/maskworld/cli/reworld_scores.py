"""What the ReWorld quickstart scores and shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskworld.cli.quickstart_parts import as_video, frame_rate, side_by_side, spread, steering_rows
from maskworld.cli.reworld_material import PlanningMaterial
from maskworld.cli.reworld_planning import evaluate_drives, evaluate_planning
from maskworld.cli.reworld_report import Evaluation, gamma_section
from maskworld.evaluation.baselines import TrivialFutures
from maskworld.evaluation.flow_prediction import (
    GAMMAS,
    POSTERIOR_MEAN,
    dream,
    dream_with_gammas,
    reconstruct,
    rows_of,
    score_dream_speed,
    score_flow_sensitivity,
    with_latents,
)
from maskworld.evaluation.frechet import score_frechet_proxy
from maskworld.evaluation.futures import score_futures
from maskworld.evaluation.results import Results
from maskworld.evaluation.steering import score_steering
from maskworld.evaluation.stylization import style_of
from maskworld.metrics.image import FrameMetric, psnr
from maskworld.metrics.intervals import bootstrap_interval
from maskworld.nn.config_io import config_to_json
from maskworld.recipes.recipe import ReWorldRecipe
from maskworld.report import VideoRow
from maskworld.systems.reworld import ReWorld
from maskworld.types import Batch, collate

NUM_SWEPT = 128  # whole batches of `dream`, so that noise is the same with fewer clips
"""Held-out clips dreamt at every gamma; a Fréchet distance needs as many."""
SSIM_EVERY = 3
"""The SSIM is of every third held-out clip: of all it would take a minute."""
NUM_GALLERY, NUM_SHOWN_PAIRS = 6, 4
NUM_SHOWN = 600
"""Training clips on which the trivial futures are fitted."""


def evaluate(
    model: ReWorld, without: ReWorld, recipe: ReWorldRecipe, material: PlanningMaterial, seed: int
) -> Evaluation:
    """All scores on held-out worlds, and the clips and scenes to show.

    Args:
        without: the planner without a world model.
    """
    model.eval()
    without.eval()
    system = recipe.system
    protocol: dict[str, Any] = {
        "recipe": recipe.name,
        "seed": seed,
        "split": "whole worlds",
        **material.description,
        "frames": system.num_frames,
        "given_frames": system.num_past,
        "frame_size": list(system.frame_size),
        "fps": system.fps,
        "sampling": config_to_json(recipe.sampling),
        "gamma": recipe.sampling.guidance.gamma,
        "training_steps": {stage.name: stage.num_steps for stage in recipe.stages},
        "parameters": sum(p.numel() for p in model.parameters()),
        "torch_threads": torch.get_num_threads(),
    }
    own, other = (Evaluation(Results("reworld", told)) for told in (protocol, {}))
    held_out = with_latents(model, material.held_out)

    def dreams_and_drives() -> Dreams:
        dreams = evaluate_dreams(own, model, recipe, material, held_out, seed)
        evaluate_drives(own, model, without, recipe, material, seed)
        return dreams

    def plans_and_gammas() -> dict[float, Tensor]:
        evaluate_steering(other, model, material, seed)
        evaluate_planning(other, model, without, recipe, material, seed)
        part = rows_of(held_out, slice(NUM_SWEPT))
        return dream_with_gammas(model, part, recipe.sampling, gammas_beside(recipe), seed)

    # Two networks of one thread each are faster than one of two at this size.
    dreams, swept = side_by_side(dreams_and_drives, plans_and_gammas)
    own.results.take(other.results)
    own.results.protocol |= other.results.protocol
    own.rows.extend(other.rows)
    own.sections.update(other.sections)
    evaluate_gammas(own, recipe, material, dreams, swept, seed)
    return own


@dataclass(frozen=True)
class Dreams:
    """What came in the held-out clips, what was dreamt, and what knows nothing of it; frames after
    now."""

    real: Tensor
    mean: Tensor
    sampled: Tensor
    reconstructed: Tensor
    trivial: Mapping[str, Tensor]


def evaluate_dreams(
    evaluation: Evaluation,
    model: ReWorld,
    recipe: ReWorldRecipe,
    material: PlanningMaterial,
    batch: Batch,
    seed: int,
) -> Dreams:
    """Horizon curves, speed and action sensitivity of the held-out clips; a gallery."""
    results, groups, now = evaluation.results, material.groups, recipe.system.num_past
    gamma = recipe.sampling.guidance.gamma
    assert batch.frames is not None
    mean = dream(model, batch, POSTERIOR_MEAN, torch.Generator().manual_seed(seed))
    sampled = dream(model, batch, recipe.sampling, torch.Generator().manual_seed(seed))
    reconstructed = reconstruct(model, batch)
    dreams = Dreams(
        batch.frames[:, :, now:],
        mean.frames[:, :, now:],
        sampled.frames[:, :, now:],
        reconstructed[:, :, now:],
        trivial_futures(material, now),
    )
    others = {"model_sampled": dreams.sampled, "reconstruction": dreams.reconstructed}
    score_futures(
        results,
        dreams.real,
        dreams.mean,
        others,
        dreams.trivial,
        groups,
        seed,
        ssim_every=SSIM_EVERY,
    )
    score_flow_sensitivity(results, model, batch, groups, seed)
    score_dream_speed(results, "dream_mean", mean.seconds, len(batch))
    score_dream_speed(results, "dream_sampled", sampled.seconds, len(batch))
    evaluation.rows.extend(
        VideoRow(
            name=f"clip {i}",
            panels={
                "real": as_video(batch.frames[i]),
                "reconstructed": as_video(reconstructed[i]),
                "dreamt, mean": as_video(mean.frames[i]),
                "dreamt, sampled": as_video(sampled.frames[i]),
            },
            caption=f"{batch.captions[i]} (sampled with gamma {gamma:g})",
            num_context=now,
            fps=frame_rate(batch),
        )
        for i in spread(len(batch), NUM_GALLERY)
    )
    return dreams


def trivial_futures(material: PlanningMaterial, num_past: int) -> Mapping[str, Tensor]:
    """What knows nothing of the held-out futures, each fitted on training clips."""
    held_out, styles = material.held_out, material.plan.styles
    shown = collate([material.train[i] for i in spread(len(material.train), NUM_SHOWN)])
    assert shown.frames is not None
    assert held_out.frames is not None
    kinds = [style_of(caption, styles) for caption in shown.captions]
    return TrivialFutures.fit(shown.frames, num_past, kinds).predict(
        held_out.frames[:, :, :num_past],
        held_out.frames.shape[2] - num_past,
        [style_of(caption, styles) for caption in held_out.captions],
    )


def gammas_beside(recipe: ReWorldRecipe) -> list[float]:
    """The gammas to sweep, but for the recipe's own, at which the dreams are sampled anyway."""
    if not recipe.system.supervised_layers:  # nothing to guide with
        return []
    return [gamma for gamma in GAMMAS if gamma != recipe.sampling.guidance.gamma]


def evaluate_gammas(
    evaluation: Evaluation,
    recipe: ReWorldRecipe,
    material: PlanningMaterial,
    dreams: Dreams,
    swept: Mapping[float, Tensor],
    seed: int,
) -> None:
    """Adds "psnr_sampled/gamma_<gamma>", and "frechet_proxy" with every gamma beside the model.

    Args:
        swept: dreams of the first held-out clips at other gammas, from the same noise.
    """
    results, now = evaluation.results, recipe.system.num_past
    own = recipe.sampling.guidance.gamma
    first = slice(min(NUM_SWEPT, len(dreams.real)))
    real, groups = dreams.real[first], material.groups[first]
    by_gamma = {gamma: frames[:, :, now:] for gamma, frames in swept.items()}
    by_gamma = dict(sorted({**by_gamma, own: dreams.sampled[first]}.items()))
    means: dict[float, float] = {}
    for gamma, frames in by_gamma.items():
        metric = FrameMetric(psnr)
        metric.update(frames, real)
        scores = metric.compute()
        means[gamma] = scores.mean
        results.add(
            f"psnr_sampled/gamma_{gamma:g}",
            model=scores.mean,
            interval=bootstrap_interval(scores, np.random.default_rng(seed), groups=groups),
            n=len(scores),
            better="higher",
            baselines={"unguided": means[1.0]} if gamma > 1 and 1.0 in means else {},
        )
    others = {f"model_gamma_{gamma:g}": frames for gamma, frames in by_gamma.items()}
    others |= {"model_mean": dreams.mean[first], "reconstruction": dreams.reconstructed[first]}
    others |= {name: frames[first] for name, frames in dreams.trivial.items()}
    score_frechet_proxy(results, real, dreams.sampled[first], others, groups, seed=seed)
    frechet = results.to_dict()["metrics"]["frechet_proxy"]
    evaluation.sections["gammas"] = gamma_section(means, frechet)


def evaluate_steering(
    evaluation: Evaluation, model: ReWorld, material: PlanningMaterial, seed: int
) -> None:
    """Left and right from one past; frames are counted after now."""
    now = material.plan.num_past
    sides = [replace(side, captions=[""] * len(side)) for side in material.pairs]
    dreams = [
        dream(model, side, POSTERIOR_MEAN, torch.Generator().manual_seed(seed)).frames
        for side in sides
    ]
    left_now, right_now = (_from_now(side, now) for side in sides)
    dreamt_left, dreamt_right = (frames[:, :, now - 1 :] for frames in dreams)
    score_steering(evaluation.results, left_now, right_now, dreamt_left, dreamt_right, seed=seed)
    told = "one past, two futures to be told: left and right"
    evaluation.rows.extend(steering_rows(sides, dreams, now, NUM_SHOWN_PAIRS, told))


def _from_now(batch: Batch, now: int) -> Batch:
    """The last past frame and what follows."""
    assert batch.frames is not None
    assert batch.actions is not None
    return replace(batch, frames=batch.frames[:, :, now - 1 :], actions=batch.actions[:, now - 1 :])
