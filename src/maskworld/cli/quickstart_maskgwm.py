"""The MaskGWM quickstart, from clips to report.

Two models, as in the paper: of the front camera, for long dreams; then, from its weights and with
view blocks, of all cameras. The first is scored while the second trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from maskworld.cli.maskgwm_material import FilmMaterial, encoded, film_material, fit_tokenizer
from maskworld.cli.maskgwm_scores import Evaluation, evaluate, evaluate_rig, protocol_of
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
from maskworld.evaluation.results import Results
from maskworld.recipes import load_recipe_of
from maskworld.recipes.open import save_release
from maskworld.recipes.recipe import MaskGWMRecipe
from maskworld.report.sections import write_sectioned_report
from maskworld.systems.maskgwm import MaskGWM, MaskGWMConfig
from maskworld.training.config import Stage, shortened
from maskworld.types import Clip

RECIPE = "maskgwm-tiny"
RIG_STAGE = "-rig"
"""Ending of the names of stages that train on all cameras."""
CURVES = ("velocity", "l1")
"""Terms of the log that the report draws."""


def run(options: QuickstartOptions) -> None:
    """Runs the quickstart; see `QuickstartOptions`."""
    recipe = quickstart_recipe(options)
    claim_folder(options)
    timer = Timer({})
    with timer.phase("collect"):
        material = film_material(recipe, options.seed, options.workers)
    torch.manual_seed(options.seed)
    model = MaskGWM(one_camera(recipe.system))
    with timer.phase("encode"):
        fit_tokenizer(model, material.train, options.seed)
        clips = encoded(model, material.train, with_mirrored=True)
        fit_latents(model, clips)
    with timer.phase("train"):
        fit(model, recipe, material, clips, options)
    rig_model = with_view_blocks(model, recipe.system, options.seed)
    parts = Evaluation(Results("maskgwm", {}))
    with timer.phase("train all cameras, evaluate one"):
        side_by_side(
            lambda: fit_rig(rig_model, recipe, material, options),
            lambda: evaluate(parts, model, recipe, material, options.seed),
        )
    with timer.phase("evaluate all cameras"):
        evaluate_rig(parts, rig_model, recipe, material, options.seed)
    with timer.phase("report"):
        told = protocol_of(model, rig_model, recipe, material, options.seed)
        results = parts.results
        results.protocol.update({**told, **results.protocol, "seconds": dict(timer.seconds)})
        write_outputs(options, model, rig_model, recipe, parts)
    print_summary(options.out, results)


def quickstart_recipe(options: QuickstartOptions) -> MaskGWMRecipe:
    """The tiny recipe, its clips of one camera trained on as long as asked.

    Raises:
        ValueError: data of the user's.
    """
    if options.data is not None:
        raise ValueError(
            f"Expected no --data for the quickstart of maskgwm, found {options.data}: a video "
            "alone has no actions, counterfactual turns or second camera. Train on it with "
            "maskworld train maskgwm-tiny, or run maskworld quickstart worlddreamer --data."
        )
    recipe = load_recipe_of(MaskGWMRecipe, RECIPE)
    stages = tuple(
        stage if stage.name == "tokenizer" else shortened(stage, options.steps)
        for stage in recipe.stages
    )
    return replace(recipe, stages=stages)


def one_camera(config: MaskGWMConfig) -> MaskGWMConfig:
    """The system without view blocks."""
    network = replace(config.network, view_attention="none")
    return replace(config, network=network, num_views=1)


def with_view_blocks(model: MaskGWM, config: MaskGWMConfig, seed: int) -> MaskGWM:
    """The trained model with silent view blocks after its layers: it dreams as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        grown = MaskGWM(config)
    found = grown.load_state_dict(model.state_dict(), strict=False)
    others = [name for name in found.missing_keys if ".views." not in name]
    assert not others, others
    assert not found.unexpected_keys, found.unexpected_keys
    return grown


def fit_latents(model: MaskGWM, clips: Sequence[Clip]) -> None:
    """Measures what the config leaves to the data."""
    model.fit_latents(torch.stack([c.latents for c in clips if c.latents is not None]))


def single_frames(clip: Clip) -> Clip:
    """A clip thinned to two frames: neighbours teach a tokenizer little."""
    assert clip.frames is not None
    frames = clip.frames[:, [0, clip.frames.shape[1] // 2]]
    return replace(clip, frames=frames, labels=None, actions=None)


def fit(
    model: MaskGWM,
    recipe: MaskGWMRecipe,
    material: FilmMaterial,
    clips: list[Clip],
    options: QuickstartOptions,
) -> None:
    """Trains the stages of one camera."""
    frames = [single_frames(clip) for clip in material.train]
    stages = [stage for stage in recipe.stages if not stage.name.endswith(RIG_STAGE)]

    def sets(stage: Stage) -> list[Clip]:
        return frames if stage.name == "tokenizer" else clips

    train_stages(model, stages, sets, options, recipe.name)


def fit_rig(
    model: MaskGWM, recipe: MaskGWMRecipe, material: FilmMaterial, options: QuickstartOptions
) -> None:
    """Trains the stages of all cameras, on clips of all cameras. They have no mirror images: the
    rig looks to one side."""
    clips = encoded(model, material.train_rig, with_mirrored=False)
    stages = [stage for stage in recipe.stages if stage.name.endswith(RIG_STAGE)]
    train_stages(model, stages, lambda _: clips, options, recipe.name, folder="run/rig")


def write_outputs(
    options: QuickstartOptions,
    model: MaskGWM,
    rig_model: MaskGWM,
    recipe: MaskGWMRecipe,
    evaluation: Evaluation,
) -> None:
    """Writes models, metrics, videos and report, each whole or not at all."""
    out, results = options.out, evaluation.results
    save_release(model, out / "model", recipe.sampling)
    save_release(rig_model, out / "model-all-cameras", recipe.sampling)
    results.write(out / "metrics.json")
    write_videos(out / "videos", evaluation.rows)
    told = results.protocol
    write_sectioned_report(
        out / "report.html",
        sections=evaluation.sections,
        title="MaskGWM",
        summary=(
            f"A {told['parameters'] / 1e6:.1f}M-parameter MaskGWM, trained on "
            f"{told['train_clips']} clips of the driving world, dreams {told['held_out_clips']} "
            f"held-out clips and {told['long_drives']} long drives of worlds it was never trained "
            f"on; from it a model of {recipe.system.num_views} cameras, trained on "
            f"{told['train_clips_of_all_cameras']} clips. While they train, "
            f"{told['mask_ratio']:.0%} of the tokens are hidden."
        ),
        results=results.to_dict(),
        videos=evaluation.rows,
        curves=read_curves(out / "run" / "metrics.jsonl", CURVES)
        | {
            f"all cameras, {name}": points
            for name, points in read_curves(
                out / "run" / "rig" / "metrics.jsonl", CURVES[:1]
            ).items()
        },
        notes=NOTES,
    )


NOTES = (
    "Dreamt, mean: one step from pure noise, the mean of what may come; blurry by nature, and best "
    "in squared error. Dreamt, sampled: one draw, step by step. PSNR and steering score the "
    "former; long dreams and the cameras' agreement are of draws.",
    "Action sensitivity is in units of the velocity loss (not nats): how much worse the velocity "
    "is predicted when the actions after the given frame are another clip's, or mirrored. 0: the "
    "actions are ignored.",
    "A long dream has left the real drive after some seconds, though it was told the same actions: "
    "it is compared with it in kind, by how much it changes from frame to frame and by its "
    "contrast.",
)
