"""How the ReWorld quickstart scores its planner: in held-out scenes, and at the wheel."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from maskworld.cli.quickstart_parts import spread
from maskworld.cli.reworld_material import PlanningMaterial
from maskworld.cli.reworld_report import Evaluation, planner_section, scene_section
from maskworld.data.transforms import mirror_plan
from maskworld.evaluation.closed_loop import ClosedLoopConfig, add_closed_loop, drive
from maskworld.evaluation.flow_prediction import score_dream_speed
from maskworld.evaluation.planning import score_planning, standard_planners
from maskworld.evaluation.results import Results
from maskworld.interfaces import Planner
from maskworld.metrics.intervals import bootstrap_interval
from maskworld.metrics.scores import ClipScores
from maskworld.policies import ConstantVelocity
from maskworld.preparation.planning_scenes import PlanningScene
from maskworld.recipes.recipe import ReWorldRecipe
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.reworld import ReWorld
from maskworld.types import Batch, Clip, PlanBatch, collate

NUM_DRIVES = 8
"""Worlds driven in closed loop by each planner."""
EGO_STATUS_STEPS = 1000


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
    train = plans_with_mirror_images(material.experts)
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


def plans_with_mirror_images(clips: list[Clip]) -> PlanBatch:
    """Ego states, commands and trajectories alone: all that the planner is trained on, for one that
    sees no picture."""
    nothing = torch.zeros(1, 1, 1, 1, 1)
    plans = [clip.plan for clip in clips if clip.plan is not None]
    plans += [mirror_plan(plan) for plan in plans]
    batch = collate([Clip(latents=nothing, plan=plan) for plan in plans])
    assert batch.plan is not None
    return batch.plan


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
