"""The WorldDreamer quickstart, from clips to report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskworld.cli.material import (
    Material,
    drive_material,
    mirrored,
    user_material,
)
from maskworld.cli.quickstart import QuickstartOptions
from maskworld.cli.worlddreamer_scores import evaluate
from maskworld.data.dataset import MemoryDataset
from maskworld.data.loader import make_loader
from maskworld.data.video_files import write_video
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
from maskworld.training.config import Stage
from maskworld.training.loop import train
from maskworld.types import Clip, collate


@dataclass
class Timer:
    """Wall-clock seconds of every phase, printed as they begin and end."""

    seconds: dict[str, float]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times a phase."""
        print(f"[{name}]", flush=True)
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 1)
        print(f"[{name}] {self.seconds[name]:.1f} s", flush=True)


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
    if options.steps is not None:
        stages = tuple(
            replace(s, num_steps=options.steps, warmup_steps=min(s.warmup_steps, options.steps))
            if s.name == "world"
            else s
            for s in stages
        )
    return replace(recipe, stages=stages)


def claim_folder(options: QuickstartOptions) -> None:
    """Makes sure that nothing of the user's is overwritten unasked."""
    run_folder = options.out / "run"
    if options.out.is_dir() and any(options.out.iterdir()):
        if not (options.overwrite or options.resume):
            raise ValueError(
                f"Expected a new or empty folder, found files in {options.out}: pass another "
                "--out, --resume to continue there, or --overwrite to replace a quickstart."
            )
        if options.overwrite and not options.resume and run_folder.is_dir():
            shutil.rmtree(run_folder)


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

    def batches(stage: Stage) -> Any:
        if stage.name == "tokenizer":
            sets, weights = [[single_frames(clip) for clip in clips]], [1.0]
        else:
            sets, weights = world_sets(model, recipe, material)
        datasets = [MemoryDataset(part) for part in sets]
        return make_loader(datasets, weights, batch_size=stage.batch_size, seed=options.seed)

    options.out.mkdir(parents=True, exist_ok=True)
    stages = [s for s in recipe.stages if has_pixels or s.name != "tokenizer"]
    train(
        model,
        stages,
        batches,
        options.out / "run",
        seed=options.seed,
        device="cpu",
        resume=options.resume,
        config={"recipe": recipe.name, "data": str(options.data or "drive")},
    )
    curves.update(read_curves(options.out / "run" / "metrics.jsonl"))


def single_frames(clip: Clip) -> Clip:
    """A clip thinned to two frames: neighbours teach a tokenizer little."""
    assert clip.frames is not None
    last = clip.frames.shape[2 - 1] - 1
    frames = clip.frames[:, [0, last // 2]]
    return replace(clip, frames=frames, labels=None, actions=None)


def world_sets(
    model: WorldDreamer, recipe: WorldDreamerRecipe, material: Material
) -> tuple[list[list[Clip]], list[float]]:
    """What the world stage trains on, encoded once: clips with their mirror images, and drives
    shown in one style and asked for in another."""
    clips = material.train
    if clips[0].frames is None:
        return [clips], [1.0]
    names = material.action_names
    plain = encoded(model, [*clips, *mirrored(clips, names)])
    sources, targets = (
        encoded(model, [*part, *mirrored(part, names)]) for part in material.restyled
    )
    if not sources:
        return [plain], [1.0]
    both = [*zip(sources, targets, strict=True), *zip(targets, sources, strict=True)]
    restyled = [replace(asked, reference_tokens=shown.tokens) for shown, asked in both]
    share = recipe.drive.p_restyled
    return [plain, restyled], [1 - share, share]


def encoded(model: WorldDreamer, clips: list[Clip]) -> list[Clip]:
    """The clips as tokens, without their pixels."""
    done = []
    for start in range(0, len(clips), 64):
        part = clips[start : start + 64]
        for clip, tokens in zip(part, tokens_of(model, collate(part)), strict=True):
            done.append(replace(clip, frames=None, labels=None, tokens=tokens[None]))
    return done


def read_curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Loss curves of the run's log, by term."""
    import json

    curves: dict[str, list[tuple[int, float]]] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        step = int(row["step"])
        for key in ("cross_entropy", "accuracy", "l1"):
            for name, value in row.items():
                if name.endswith(key) and isinstance(value, int | float):
                    curves.setdefault(name, []).append((step, float(value)))
    return curves


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
    (out / "videos").mkdir(exist_ok=True)
    for row in rows:
        name = "".join(c if c.isalnum() else "-" for c in f"{row.section} {row.name}".lower())
        strip = np.concatenate(list(row.panels.values()), axis=2)
        enlarged = strip.repeat(2, axis=1).repeat(2, axis=2)
        write_video(out / "videos" / f"{name}.mp4", enlarged, row.fps)
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


def print_summary(out: Path, results: Results) -> None:
    """The numbers a user looks for first, and where the rest is."""
    for name, entry in results.to_dict()["metrics"].items():
        low, high = entry["interval"]
        print(f"  {name:34s} {entry['model']:9.3f}  [{low:.3f}, {high:.3f}]  n={entry['n']}")
    print(f"\n{out / 'report.html'}")
