"""The WorldDreamer quickstart, from clips to report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from maskworld.cli.material import (
    Material,
    drive_material,
    mirrored,
    user_material,
)
from maskworld.cli.quickstart import QuickstartOptions
from maskworld.cli.quickstart_parts import (
    Mixture,
    Timer,
    claim_folder,
    print_summary,
    read_curves,
    train_stages,
    write_videos,
)
from maskworld.cli.worlddreamer_scores import evaluate
from maskworld.evaluation.prediction import (
    tokens_of,
)
from maskworld.evaluation.results import Results
from maskworld.recipes import load_recipe_of
from maskworld.recipes.open import save_release
from maskworld.recipes.recipe import WorldDreamerRecipe
from maskworld.report import VideoRow, write_report
from maskworld.systems.worlddreamer import WorldDreamer
from maskworld.tokenizers.patch import PatchTokenizer
from maskworld.training.config import Stage, shortened
from maskworld.types import Clip, collate

CURVES = ("cross_entropy", "accuracy", "l1")
"""Terms of the log that the report draws."""


def run(options: QuickstartOptions) -> None:
    """Runs the quickstart; see `QuickstartOptions`."""
    recipe = quickstart_recipe(options)
    claim_folder(options)
    timer = Timer({})
    with timer.phase("collect"):
        if options.data is None:
            material = drive_material(recipe, options.seed, options.workers)
        else:
            material = user_material(recipe, options.data)
    torch.manual_seed(options.seed)
    model = WorldDreamer(recipe.system)
    curves: dict[str, list[tuple[int, float]]] = {}
    with timer.phase("train"):
        fit(model, recipe, material, options, curves)
    with timer.phase("evaluate"):
        results, rows = evaluate(model, recipe, material, options.seed)
    with timer.phase("report"):
        results.protocol["seconds"] = dict(timer.seconds)
        write_outputs(options.out, model, recipe, results, rows, curves, material)
    print_summary(options.out, results)


def quickstart_recipe(options: QuickstartOptions) -> WorldDreamerRecipe:
    """The tiny recipe, for the driving world, a video or tokens."""
    is_tokens = options.data is not None and options.data.suffix in (".npy", ".npz")
    name = "worlddreamer-tokens" if is_tokens else "worlddreamer-tiny"
    recipe = load_recipe_of(WorldDreamerRecipe, name)
    stages = recipe.stages
    if options.data is not None and not is_tokens:
        stages = tuple(
            replace(s, num_steps=recipe.user_steps) if s.name == "world" else s for s in stages
        )
    stages = tuple(shortened(s, options.steps) if s.name == "world" else s for s in stages)
    return replace(recipe, stages=stages)


def fit(
    model: WorldDreamer,
    recipe: WorldDreamerRecipe,
    material: Material,
    options: QuickstartOptions,
    curves: dict[str, list[tuple[int, float]]],
) -> None:
    """Fits the tokenizer, then trains the stages."""
    generator = torch.Generator().manual_seed(options.seed)
    clips = material.train
    has_pixels = clips[0].frames is not None
    if has_pixels and isinstance(model.tokenizer, PatchTokenizer):
        sample = torch.cat([clip.frames[0, ::4] for clip in clips if clip.frames is not None])
        model.tokenizer.fit(sample, generator)

    def sets(stage: Stage) -> list[Clip] | Mixture:
        if stage.name == "tokenizer":
            return [single_frames(clip) for clip in clips]
        return world_sets(model, recipe, material)

    stages = [s for s in recipe.stages if has_pixels or s.name != "tokenizer"]
    train_stages(model, stages, sets, options, recipe.name, str(options.data or "drive"))
    curves.update(read_curves(options.out / "run" / "metrics.jsonl", CURVES))


def single_frames(clip: Clip) -> Clip:
    """A clip thinned to two frames: neighbours teach a tokenizer little."""
    assert clip.frames is not None
    last = clip.frames.shape[2 - 1] - 1
    frames = clip.frames[:, [0, last // 2]]
    return replace(clip, frames=frames, labels=None, actions=None)


def world_sets(
    model: WorldDreamer, recipe: WorldDreamerRecipe, material: Material
) -> list[Clip] | Mixture:
    """What the world stage trains on, encoded once: clips with their mirror images, and drives
    shown in one style and asked for in another."""
    clips = material.train
    if clips[0].frames is None:
        return clips
    names = material.action_names
    plain = encoded(model, [*clips, *mirrored(clips, names)])
    sources, targets = (
        encoded(model, [*part, *mirrored(part, names)]) for part in material.restyled
    )
    if not sources:
        return plain
    both = [*zip(sources, targets, strict=True), *zip(targets, sources, strict=True)]
    restyled = [replace(asked, reference_tokens=shown.tokens) for shown, asked in both]
    share = recipe.drive.p_restyled
    return Mixture([plain, restyled], [1 - share, share])


def encoded(model: WorldDreamer, clips: list[Clip]) -> list[Clip]:
    """The clips as tokens, without their pixels."""
    done = []
    for start in range(0, len(clips), 64):
        part = clips[start : start + 64]
        for clip, tokens in zip(part, tokens_of(model, collate(part)), strict=True):
            done.append(replace(clip, frames=None, labels=None, tokens=tokens[None]))
    return done


def write_outputs(
    out: Path,
    model: WorldDreamer,
    recipe: WorldDreamerRecipe,
    results: Results,
    rows: list[VideoRow],
    curves: dict[str, list[tuple[int, float]]],
    material: Material,
) -> None:
    """Writes model, metrics, videos and report, each whole or not at all."""
    save_release(model, out / "model", recipe.decoding)
    results.write(out / "metrics.json")
    write_videos(out / "videos", rows)
    content = results.to_dict()
    write_report(
        out / "report.html",
        title="WorldDreamer",
        summary=(
            f"A {results.protocol['parameters'] / 1e6:.1f}M-parameter WorldDreamer, trained on "
            f"{material.description['train_clips']} clips of {material.description['source']} and "
            f"scored on {material.description['held_out_clips']} held-out ones "
            f"({material.split})."
        ),
        results=content,
        videos=rows,
        curves=curves,
        notes=NOTES if material.held_out.frames is not None else (),
    )


NOTES = (
    "Dreamt: codes drawn in parallel and decoded. Dreamt, expected: the decoder applied to "
    "expected code embeddings of one pass; blurry by nature, and best in squared error. PSNR "
    "scores the latter and shows the most likely codes beside it.",
    "A blurred copy of the last frame or the mean training image beats a plain copy in PSNR while "
    "knowing nothing of the future; best_trivial is the best of the three at each step. Whether a "
    "model reads its actions shows in action sensitivity and steering, not in PSNR.",
)
