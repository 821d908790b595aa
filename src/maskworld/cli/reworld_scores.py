"""What the ReWorld quickstart scores and shows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from maskworld.cli.quickstart_parts import as_video, frame_rate, spread
from maskworld.cli.reworld_material import PlanningMaterial
from maskworld.cli.reworld_report import gamma_section, planner_section, scene_section
from maskworld.evaluation.baselines import TrivialFutures
from maskworld.evaluation.closed_loop import ClosedLoopConfig, add_closed_loop, drive
from maskworld.evaluation.flow_prediction import (
    GAMMAS,
    POSTERIOR_MEAN,
    dream,
    dream_with_gammas,
    reconstruct,
    rows_of,
    score_dream_speed,
    score_dreams,
    score_flow_sensitivity,
    with_latents,
)
from maskworld.evaluation.frechet import score_frechet_proxy
from maskworld.evaluation.planning import score_planning, standard_planners
from maskworld.evaluation.results import Results
from maskworld.evaluation.steering import score_steering
from maskworld.evaluation.stylization import style_of
from maskworld.interfaces import Planner
from maskworld.metrics.image import FrameMetric, psnr
from maskworld.metrics.intervals import bootstrap_interval
from maskworld.metrics.scores import ClipScores
from maskworld.nn.config_io import config_to_json
from maskworld.policies import ConstantVelocity
from maskworld.preparation.planning_scenes import PlanningScene
from maskworld.recipes.recipe import ReWorldRecipe
from maskworld.report import VideoRow
from maskworld.report.driving import Section
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.reworld import ReWorld
from maskworld.types import Batch, Clip, PlanBatch, collate

NUM_SWEPT = 128
"""Held-out clips dreamt at every gamma; a Fréchet distance needs as many."""
NUM_GALLERY, NUM_SHOWN_PAIRS = 6, 4
NUM_SHOWN = 600
"""Training clips on which the trivial futures are fitted."""
NUM_DRIVES = 8
"""Worlds driven in closed loop by each planner."""
EGO_STATUS_STEPS = 1000


@dataclass(frozen=True)
class Evaluation:
    """All scores, and what to show."""

    results: Results
    rows: list[VideoRow] = field(default_factory=list)
    sections: dict[str, Section] = field(default_factory=dict)
    """"plans", "planners", "gammas"."""


@dataclass
class SampledPlanner:
    """A system as a planner, sampled as its recipe says; keeps the plans it made, in order."""

    system: ReWorld
    sampling: FlowSampling
    plans: list[Float[Tensor, "b l 3"]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """Per plan, of every batch."""

    def plan(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "b l 3"]:
        """One sampled plan per row."""
        started = time.perf_counter()
        found = self.system.plan(batch, generator, self.sampling)
        self.seconds.append((time.perf_counter() - started) / len(found))
        self.plans.append(found.cpu())
        return found


@dataclass
class KeptPlans:
    """Any planner, and the plans it made, in order."""

    planner: Planner
    plans: list[Float[Tensor, "b l 3"]] = field(default_factory=list)

    def plan(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "b l 3"]:
        """What the planner plans."""
        found = self.planner.plan(batch, generator)
        self.plans.append(found.cpu())
        return found


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
    evaluation = Evaluation(Results("reworld", protocol))
    evaluate_dreams(evaluation, model, recipe, material, seed)
    evaluate_steering(evaluation, model, material, seed)
    evaluate_planning(evaluation, model, without, recipe, material, seed)
    evaluate_drives(evaluation, model, without, recipe, material, seed)
    return evaluation


def evaluate_dreams(
    evaluation: Evaluation,
    model: ReWorld,
    recipe: ReWorldRecipe,
    material: PlanningMaterial,
    seed: int,
) -> None:
    """Horizon curves, the Fréchet proxy, gammas, actions; a gallery."""
    results, now = evaluation.results, recipe.system.num_past
    batch, groups = with_latents(model, material.held_out), material.groups
    assert batch.frames is not None
    real = batch.frames[:, :, now:]
    mean = dream(model, batch, POSTERIOR_MEAN, torch.Generator().manual_seed(seed))
    sampled = dream(model, batch, recipe.sampling, torch.Generator().manual_seed(seed))
    reconstructed = reconstruct(model, batch)
    trivial = trivial_futures(material, now)
    others = {
        "model_sampled": sampled.frames[:, :, now:],
        "reconstruction": reconstructed[:, :, now:],
    }
    score_dreams(results, real, mean.frames[:, :, now:], others, trivial, groups, seed)
    swept = sweep_gammas(evaluation, model, recipe, batch, groups, seed)
    score_frechet_proxy(
        results,
        real[swept.rows],
        sampled.frames[swept.rows][:, :, now:],
        {
            **swept.dreams,
            "model_mean": mean.frames[swept.rows][:, :, now:],
            "reconstruction": reconstructed[swept.rows][:, :, now:],
            **{name: frames[swept.rows] for name, frames in trivial.items()},
        },
        groups[swept.rows.numpy()],
        seed=seed,
    )
    frechet = results.to_dict()["metrics"]["frechet_proxy"]
    evaluation.sections["gammas"] = gamma_section(swept.psnr, frechet)
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
            caption=batch.captions[i],
            num_context=now,
            fps=frame_rate(batch),
        )
        for i in spread(len(batch), NUM_GALLERY)
    )


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


@dataclass(frozen=True)
class GammaSweep:
    """Sampled dreams of the same clips at several strengths of self-guidance."""

    rows: Tensor
    """Which of the held-out clips."""
    dreams: dict[str, Tensor]
    """"model_gamma_1.4" -> future frames."""
    psnr: dict[float, float]


def sweep_gammas(
    evaluation: Evaluation,
    model: ReWorld,
    recipe: ReWorldRecipe,
    batch: Batch,
    groups: np.ndarray,
    seed: int,
) -> GammaSweep:
    """Adds "psnr_sampled/gamma_<gamma>"; the Fréchet proxy takes the dreams as variants."""
    now = recipe.system.num_past
    rows = torch.tensor(spread(len(batch), NUM_SWEPT))
    part = rows_of(batch, rows)
    assert part.frames is not None
    gammas = GAMMAS if recipe.system.supervised_layers else (1.0,)
    found = dream_with_gammas(model, part, recipe.sampling, gammas, seed)
    means = {}
    for gamma, frames in found.items():
        metric = FrameMetric(psnr)
        metric.update(frames[:, :, now:], part.frames[:, :, now:])
        scores = metric.compute()
        means[gamma] = scores.mean
        evaluation.results.add(
            f"psnr_sampled/gamma_{gamma:g}",
            model=scores.mean,
            interval=bootstrap_interval(
                scores, np.random.default_rng(seed), groups=groups[rows.numpy()]
            ),
            n=len(scores),
            better="higher",
            baselines={} if gamma == 1 else {"unguided": means[1.0]},
        )
    dreams = {f"model_gamma_{gamma:g}": frames[:, :, now:] for gamma, frames in found.items()}
    return GammaSweep(rows, dreams, means)


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
    left, right = (side.frames for side in sides)
    assert left is not None
    assert right is not None
    evaluation.rows.extend(
        VideoRow(
            name=f"pair {i}",
            panels={
                "left, real": as_video(left[i]),
                "dreamt left": as_video(dreams[0][i]),
                "right, real": as_video(right[i]),
                "dreamt right": as_video(dreams[1][i]),
            },
            caption="one past, two futures to be told: left and right",
            num_context=now,
            fps=frame_rate(sides[0]),
            section="Counterfactual steering",
        )
        for i in spread(len(left), NUM_SHOWN_PAIRS)
    )


def _from_now(batch: Batch, now: int) -> Batch:
    """The last past frame and what follows."""
    assert batch.frames is not None
    assert batch.actions is not None
    return replace(batch, frames=batch.frames[:, :, now - 1 :], actions=batch.actions[:, now - 1 :])


def evaluate_planning(
    evaluation: Evaluation,
    model: ReWorld,
    without: ReWorld,
    recipe: ReWorldRecipe,
    material: PlanningMaterial,
    seed: int,
) -> None:
    """PDM scores and displacements beside everyone else's, and scenes to show."""
    results, scenes = evaluation.results, material.scenes
    train = plans_of_clips(material.experts)
    generator = torch.Generator().manual_seed(seed)
    others = standard_planners(train, scenes, generator, num_steps=EGO_STATUS_STEPS)
    own = SampledPlanner(model, recipe.sampling)
    rivals = {"no_world_model": KeptPlans(SampledPlanner(without, recipe.sampling))}
    rivals |= {name: KeptPlans(planner) for name, planner in others.items()}
    scores = score_planning(
        results, scenes, own, rivals, material.plan.num_past, generator, seed=seed
    )
    made = {"model": own.plans, **{name: kept.plans for name, kept in rivals.items()}}
    plans = {name: torch.cat(each).double().numpy() for name, each in made.items()}
    displacement = add_displacement(results, scenes, plans, seed)
    score_dream_speed(results, "plan", own.seconds, len(scenes))
    metrics = results.to_dict()["metrics"]
    evaluation.sections["plans"] = scene_section(scenes, plans, scores)
    evaluation.sections["planners"] = planner_section(scores, displacement, metrics)


def plans_of_clips(clips: list[Clip]) -> PlanBatch:
    """Ego states, commands and trajectories alone."""
    nothing = torch.zeros(1, 1, 1, 1, 1)
    plans = collate([Clip(latents=nothing, plan=clip.plan) for clip in clips]).plan
    assert plans is not None
    return plans


def add_displacement(
    results: Results,
    scenes: list[PlanningScene],
    plans: Mapping[str, Float[np.ndarray, "n 8 3"]],
    seed: int,
) -> dict[str, tuple[float, float]]:
    """Adds "planner_displacement/ade" and "/fde": metres between plan and expert, on average over
    the waypoints and at the last. Returns both by planner."""
    expert = np.stack([scene.expert for scene in scenes])
    worlds = np.array([scene.world for scene in scenes])
    error = {
        name: np.hypot(*np.moveaxis((plan - expert)[..., :2], -1, 0))
        for name, plan in plans.items()
    }
    table = {name: (float(e.mean()), float(e[:, -1].mean())) for name, e in error.items()}
    for column, (key, columns) in enumerate((("ade", slice(None)), ("fde", slice(-1, None)))):
        values = error["model"][:, columns].mean(axis=1)
        model = ClipScores(values[:, None], np.ones((len(values), 1)))
        results.add(
            f"planner_displacement/{key}",
            model=model.mean,
            interval=bootstrap_interval(model, np.random.default_rng(seed), groups=worlds),
            n=len(values),
            better="lower",
            baselines={name: row[column] for name, row in table.items() if name != "model"},
        )
    return table


def evaluate_drives(
    evaluation: Evaluation,
    model: ReWorld,
    without: ReWorld,
    recipe: ReWorldRecipe,
    material: PlanningMaterial,
    seed: int,
) -> None:
    """At the wheel of the stepping world, in a few held-out worlds."""
    config = ClosedLoopConfig(seen=replace(material.plan, num_future=0))
    worlds = [material.worlds[i] for i in spread(len(material.worlds), NUM_DRIVES)]
    planners: dict[str, Planner | None] = {
        "model": SampledPlanner(model, recipe.sampling),
        "no_world_model": SampledPlanner(without, recipe.sampling),
        "constant_velocity": ConstantVelocity(),
        "expert": None,
    }
    records = {
        name: drive(planner, worlds, config, torch.Generator().manual_seed(seed))
        for name, planner in planners.items()
    }
    add_closed_loop(evaluation.results, records, config, seed=seed)
