"""The ReWorld quickstart, from clips to report."""

from __future__ import annotations

from dataclasses import replace

import torch

from maskworld.cli.quickstart import QuickstartOptions
from maskworld.cli.quickstart_parts import (
    Timer,
    claim_folder,
    print_summary,
    read_curves,
    train_stages,
    write_videos,
)
from maskworld.cli.reworld_material import (
    EncodedClips,
    PlanningMaterial,
    encode_clips,
    fit_system,
    is_expert,
    planning_material,
    with_features,
)
from maskworld.cli.reworld_report import Evaluation, negatives_section
from maskworld.cli.reworld_scores import evaluate
from maskworld.policies.trajectory_flow import TrajectoryFlowConfig, fit_trajectory_flow
from maskworld.preparation.candidates import FlowCandidates
from maskworld.preparation.mine import mine
from maskworld.preparation.mining_pool import NegativePool, attach_negatives
from maskworld.recipes import load_recipe_of
from maskworld.recipes.open import save_release
from maskworld.recipes.recipe import ReWorldRecipe
from maskworld.report.sections import read_style, write_sectioned_report
from maskworld.systems.reworld import ReWorld
from maskworld.training.config import Stage, shortened
from maskworld.types import Clip, collate

RECIPE = "reworld-tiny"
GENERATOR_STEPS = 500
"""Of the generator of candidates."""
CURVES = ("velocity", "alignment", "repulsion", "l1")
"""Terms of the log that the report draws."""


def run(options: QuickstartOptions) -> None:
    """Runs the quickstart; see `QuickstartOptions`."""
    recipe = quickstart_recipe(options)
    claim_folder(options)
    timer = Timer({})
    with timer.phase("collect"):
        material = planning_material(recipe, options.seed, options.workers)
    torch.manual_seed(options.seed)
    model = ReWorld(recipe.system)
    with timer.phase("encode"):
        fit_system(model, material.train, options.seed)
        clips = encode_clips(model, material.train, material.windows)
        fit_statistics(model, clips)
    without = untrained_twin(model, options.seed)
    with timer.phase("mine"):
        pool = mine_negatives(model, recipe, material, clips, options)
    with timer.phase("train"):
        fit(model, recipe, material, clips, pool, options)
    with timer.phase("no world model"):
        fit_without_world_model(without, recipe, clips, pool, options)
    with timer.phase("evaluate"):
        evaluation = evaluate(model, without, recipe, material, options.seed)
    with timer.phase("report"):
        evaluation.results.protocol["seconds"] = dict(timer.seconds)
        write_outputs(options, model, recipe, evaluation, material, pool)
    print_summary(options.out, evaluation.results)


def quickstart_recipe(options: QuickstartOptions) -> ReWorldRecipe:
    """The tiny recipe, its video stage as long as asked.

    Raises:
        ValueError: data of the user's.
    """
    if options.data is not None:
        raise ValueError(
            f"Expected no --data for the quickstart of reworld, found {options.data}: a video has "
            "no plans, traffic or map to score a planner with. Train on it with maskworld train "
            "reworld-tiny, or run maskworld quickstart worlddreamer --data."
        )
    recipe = load_recipe_of(ReWorldRecipe, RECIPE)
    stages = tuple(
        shortened(stage, options.steps) if stage.name.startswith("video") else stage
        for stage in recipe.stages
    )
    return replace(recipe, stages=stages)


def fit_statistics(model: ReWorld, clips: EncodedClips) -> None:
    """Measures what the config leaves to the data, mirror images included."""
    model.fit_latents(torch.stack([c.latents for c in clips.all if c.latents is not None]))
    plans = collate(clips.planning()).plan
    assert plans is not None
    model.fit_plans(plans)


def untrained_twin(model: ReWorld, seed: int) -> ReWorld:
    """The same towers with other first weights, the same tokenizer and statistics."""
    torch.manual_seed(seed + 1)
    twin = ReWorld(model.config)
    twin.tokenizer.load_state_dict(model.tokenizer.state_dict())
    twin.normaliser.load_state_dict(model.normaliser.state_dict())
    twin.delta.load_state_dict(model.delta.state_dict())
    if model.config.carries_past:
        twin.prior_variance.copy_(model.prior_variance)
    if model.config.carries_motion:
        twin.plan_variance.copy_(model.plan_variance)
    return twin


def mine_negatives(
    model: ReWorld,
    recipe: ReWorldRecipe,
    material: PlanningMaterial,
    clips: EncodedClips,
    options: QuickstartOptions,
) -> NegativePool:
    """Candidates of every training scene from a small generator, scored; kept in the run's folder.

    The generator trains on the experts in seconds. It looks at the last past latent, and knows
    nothing of traffic or map beyond it.
    """
    config = TrajectoryFlowConfig(
        dim=64,
        num_heads=4,
        picture="latents",
        picture_channels=model.tokenizer.channels,
        num_past=model.num_past_latents,
    )
    generator = torch.Generator().manual_seed(options.seed)
    flow = fit_trajectory_flow(
        collate(clips.experts()), generator, config=config, num_steps=GENERATOR_STEPS
    )
    experts = [clip for clip in clips.plain if is_expert(clip)]
    mined = mine(
        experts,
        FlowCandidates(flow),
        options.out / "run" / "negatives",
        held_out={scene.token for scene in material.scenes},
        num_candidates=recipe.drive.num_candidates,
        seed=options.seed,
        num_workers=options.workers,
        resume=options.resume,
    )
    return mined.pool


def fit(
    model: ReWorld,
    recipe: ReWorldRecipe,
    material: PlanningMaterial,
    clips: EncodedClips,
    pool: NegativePool,
    options: QuickstartOptions,
) -> None:
    """Trains the stages in turn: all clips teach the video, the experts' the planner, and the last
    stage also their hard negatives."""
    with_negatives = attach_negatives(clips.plain, pool, recipe.drive.threshold)

    def sets(stage: Stage) -> list[Clip]:
        if stage.name == "tokenizer":
            return material.train
        if stage.name.startswith("video"):
            return clips.all
        if stage.name == "joint":
            return clips.planning(with_negatives)
        return with_features(model, clips.planning(), options.seed)

    train_stages(model, recipe.stages, sets, options, recipe.name)


def fit_without_world_model(
    twin: ReWorld,
    recipe: ReWorldRecipe,
    clips: EncodedClips,
    pool: NegativePool,
    options: QuickstartOptions,
) -> None:
    """Trains the planner of the same size on features of a video tower that never saw a video: the
    planner's stages alike, on the same moments and negatives. In the last one its video tower moves
    too, as the model's does."""
    with_negatives = attach_negatives(clips.plain, pool, recipe.drive.threshold)
    stages = [stage for stage in recipe.stages if stage.name in ("action", "joint")]

    def sets(stage: Stage) -> list[Clip]:
        if stage.name == "joint":
            return clips.planning(with_negatives)
        return with_features(twin, clips.planning(), options.seed)

    train_stages(twin, stages, sets, options, recipe.name, folder="run/no-world-model")


def write_outputs(
    options: QuickstartOptions,
    model: ReWorld,
    recipe: ReWorldRecipe,
    evaluation: Evaluation,
    material: PlanningMaterial,
    pool: NegativePool,
) -> None:
    """Writes model, metrics, videos and report, each whole or not at all."""
    out, results = options.out, evaluation.results
    threshold = recipe.drive.threshold
    results.protocol["hard_negatives"] = pool.summary(threshold)
    shown = evaluation.sections
    negatives = negatives_section(material.experts, pool, threshold)
    save_release(model, out / "model", recipe.sampling)
    results.write(out / "metrics.json")
    write_videos(out / "videos", evaluation.rows)
    told, pdms = material.description, results.to_dict()["metrics"]["pdms"]
    write_sectioned_report(
        out / "report.html",
        sections=[shown["plans"], shown["planners"], negatives, shown["gammas"]],
        title="ReWorld",
        summary=(
            f"A {results.protocol['parameters'] / 1e6:.1f}M-parameter ReWorld, trained on "
            f"{told['train_clips']} clips of the driving world, dreams {told['held_out_clips']} "
            f"held-out clips and plans in {told['held_out_scenes']} held-out scenes, all of worlds "
            f"it was never trained on. PDM score of its plans: {pdms['model']:.1%}, of constant "
            f"velocity {pdms['constant_velocity']:.1%}, of the expert {pdms['expert']:.1%}."
        ),
        results=results.to_dict(),
        videos=evaluation.rows,
        curves=read_curves(out / "run" / "metrics.jsonl", CURVES),
        notes=NOTES,
        style=read_style("driving.css"),
    )


NOTES = (
    "Dreamt, mean: one step from pure noise, the mean of what may come; blurry by nature, and best "
    "in squared error. Dreamt, sampled: one draw, step by step. PSNR scores the former and shows "
    "the latter beside it.",
    "Action sensitivity is in units of the velocity loss (not nats): how much worse the velocity "
    "is predicted when the future actions are another clip's, or mirrored; past and scene are the "
    "same. 0: the actions are ignored.",
    "PDM scores are those of NAVSIM v1.1, non-reactive, in scenes of the driving world. No world "
    "model: the same two towers and the same planner training, but the video tower was never "
    "trained. PDM-Closed knows map and traffic, and the expert's plan is what it then drove; they "
    "are no rivals.",
)
