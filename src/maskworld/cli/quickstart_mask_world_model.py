"""The Mask World Model quickstart, from recorded episodes to report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from threading import Event
from typing import Any

import torch

from maskworld.cli.quickstart import QuickstartOptions
from maskworld.cli.quickstart_parts import (
    Timer,
    claim_folder,
    print_summary,
    read_curves,
    side_by_side,
    train_stages,
    write_videos,
)
from maskworld.cli.robot_data import STATISTICS_FILE
from maskworld.cli.robot_material import (
    EncodedEpisodes,
    RobotMaterial,
    control_clips,
    encode_episodes,
    fit_robot_system,
    robot_material,
    with_bank,
)
from maskworld.cli.robot_report import success_section
from maskworld.cli.robot_scores import (
    RobotPolicies,
    baseline_policies,
    film_episodes,
    score_masks,
    try_policies,
    with_model,
)
from maskworld.data.transforms import RecolorRegions
from maskworld.evaluation.manipulation_scores import add_success
from maskworld.evaluation.results import Results
from maskworld.recipes import load_recipe_of
from maskworld.recipes.open import save_release
from maskworld.recipes.recipe import MaskWorldModelRecipe
from maskworld.report.sections import write_sectioned_report
from maskworld.systems.mask_world_model import MaskWorldModel
from maskworld.training.config import Stage, shortened

RECIPE = "mask-world-model-tiny"
CURVES = ("velocity", "action", "l1")
"""Terms of the log that the report draws."""


def run(options: QuickstartOptions) -> None:
    """Runs the quickstart; see `QuickstartOptions`."""
    recipe = quickstart_recipe(options)
    claim_folder(options)
    timer = Timer({})
    with timer.phase("collect"):
        options.out.mkdir(parents=True, exist_ok=True)
        folder = options.out / "data"
        material = robot_material(recipe, folder, options.seed, options.workers)
    torch.manual_seed(options.seed)
    model = MaskWorldModel(recipe.system)
    with timer.phase("fit"):
        fit_robot_system(model, material, options.seed)
    episodes, failed = options.out / "run/episodes", Event()

    def fit_and_try_baselines() -> RobotPolicies:
        baselines = baseline_policies(recipe, material, options.seed)
        try_policies(baselines, recipe, episodes, num_workers=1, should_stop=failed.is_set)
        return baselines

    with timer.phase("train, try the baselines"):
        _, baselines = side_by_side(
            lambda: fit(model, recipe, material, options), fit_and_try_baselines, failed.set
        )
    policies = with_model(baselines, model, recipe, material, options.seed)
    results = Results(
        "mask_world_model",
        {"recipe": recipe.name, "seed": options.seed, "parameters": policies.parameters},
    )
    with timer.phase("evaluate"):
        shown = score_masks(results, model, recipe, material, options.seed)
        tried = try_policies(policies, recipe, episodes, options.workers)
        add_success(results, tried)
        rows = [*shown, *film_episodes(policies.makers["model"], recipe)]
    with timer.phase("report"):
        results.protocol["seconds"] = dict(timer.seconds)
        save_release(model, options.out / "model", recipe.sampling)
        material.statistics.save(options.out / "model" / STATISTICS_FILE)
        results.write(options.out / "metrics.json")
        write_videos(options.out / "videos", rows)
        write_sectioned_report(
            options.out / "report.html",
            sections=[success_section(tried)],
            title="Mask World Model",
            summary=_summary(results, recipe, material),
            results=results.to_dict(),
            videos=rows,
            curves=read_curves(options.out / "run" / "metrics.jsonl", CURVES),
            notes=NOTES,
        )
    print_summary(options.out, results)


def quickstart_recipe(options: QuickstartOptions) -> MaskWorldModelRecipe:
    """The tiny recipe, its two stages as long as asked.

    Raises:
        ValueError: data of the user's.
    """
    if options.data is not None:
        raise ValueError(
            f"Expected no --data for the quickstart of mask-world-model, found {options.data}: it "
            "records Meta-World, where its policy can be tried. Train on your own recordings with "
            "maskworld train mask-world-model-tiny --data."
        )
    recipe = load_recipe_of(MaskWorldModelRecipe, RECIPE)
    stages = tuple(
        stage if stage.name == "tokenizer" else shortened(stage, options.steps)
        for stage in recipe.stages
    )
    return replace(recipe, stages=stages)


def fit(
    model: MaskWorldModel,
    recipe: MaskWorldModelRecipe,
    material: RobotMaterial,
    options: QuickstartOptions,
    recolor: RecolorRegions | None = None,
) -> None:
    """Trains the stages in turn. Clips become latents once the tokenizer has been trained.

    Args:
        recolor: an augmentation of both stages; the quickstart has none.
    """
    encoded: list[EncodedEpisodes] = []
    stride = recipe.robot.clip_stride

    def sets(stage: Stage) -> Any:
        if stage.name == "tokenizer":
            return control_clips(model.config, material.train, stride)
        if not encoded:
            encoded.append(encode_episodes(model, material, stride, recolor))
        if stage.name.startswith("dynamics"):
            return list(encoded[0].dynamics)
        policy: Sequence[Any] = encoded[0].policy
        if model.config.trains == "action_only":
            policy = with_bank(model, policy, options.seed)
        return list(policy)

    train_stages(model, recipe.stages, sets, options, recipe.name, "metaworld")


def _summary(results: Results, recipe: MaskWorldModelRecipe, material: RobotMaterial) -> str:
    found = results.to_dict()["metrics"]["success"]
    size = results.protocol["parameters"]["model"] / 1e6
    return (
        f"A {size:.1f}M-parameter Mask World Model, trained on {len(material.train)} recorded "
        f"episodes of {len(recipe.robot.tasks)} Meta-World tasks, dreams how masks evolve and acts "
        f"on what it expects. It succeeds in {found['model']:.0%} of {found['n']} episodes from "
        f"initial states that it never saw; a policy without images in {found['blind']:.0%}."
    )


NOTES = (
    "All policies see images and hand position with gripper, never where objects or goals are; the "
    "blind one sees no images, and the scripted expert sees everything. Masks were needed to train "
    "the first stage only.",
    "Dreamt masks: all steps of the denoising, for inspection. The policy itself runs the video "
    "tower once per chunk and never denoises a picture.",
    "Perturbations change what the cameras see, not the physics; the model was trained on none of "
    "them.",
)
