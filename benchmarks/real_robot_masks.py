"""Mask dynamics of real recordings: trained on their first three quarters, dreamt on the last.

    maskworld data import video ../shared/data/robot_real --size 128 128 --out real \\
        --masks robot=mask_robot.mp4 object=mask_objects.mp4
    python benchmarks/real_robot_masks.py --data real --out runs/real --steps 600

Any recordings with masks do (docs/robot_data.md). Import them small first: training reads frames in
random order, and a long-GOP video of full size takes most of the time to decode. Dreamt masks of
the held-out part stand beside the mask of now, copied, and beside the real masks through tokenizer
and palette, by future frame. Windows never cross the cut. They overlap, so intervals draw blocks of
neighbouring windows, each as long as a window's future; a recording has few, and says little of
others. Stopped, the same command goes on; a finished run only scores again.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskworld.cli.quickstart_parts import spread
from maskworld.cli.robot_data import JITTER, fit_robot_config, open_recordings
from maskworld.cli.robot_material import control_window
from maskworld.data.control import ControlClips
from maskworld.data.loader import make_loader
from maskworld.data.transforms import ResizeCrop
from maskworld.data.windows import split_by_time
from maskworld.evaluation.mask_rollouts import dream_masks, score_mask_rollouts
from maskworld.evaluation.results import Results
from maskworld.recipes import load_recipe_of
from maskworld.recipes.open import save_release
from maskworld.recipes.recipe import MaskWorldModelRecipe
from maskworld.systems.mask_world_model import MaskWorldModel, MaskWorldModelConfig
from maskworld.training.config import shortened
from maskworld.training.loop import train
from maskworld.types import collate

FIT_CLIPS = 64
"""Clips that patch latents and the average future are fitted on."""
PREDICTORS = ("model", "copy_last", "reconstruction")


def main(arguments: Sequence[str] | None = None) -> None:
    options = read_options(arguments)
    torch.set_num_threads(1)
    recipe = load_recipe_of(MaskWorldModelRecipe, options.recipe)
    recordings = open_recordings([str(options.data)])
    if not recordings[0].has_masks:
        raise ValueError(f"Expected recordings with masks in {options.data}, found none.")
    config = fit_robot_config(recipe.system, recordings, None, options.frame_size)
    config = replace(config, frame_stride=options.frame_stride or config.frame_stride)
    config = replace(config, fps=recordings[0].fps / config.frame_stride)
    source = recordings[0].source
    shown, held = split_by_time(source, options.held_out)
    model = fit(recipe, config, clips_of(source, config, shown, learns=True), options)
    clips = clips_of(source, config, held, learns=False)
    results = score(model, recipe, clips, options)
    results.write(options.out / "metrics.json")
    save_release(model, options.out / "model", recipe.sampling)
    print(table(results))


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What the user asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="recordings with masks")
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--recipe", default="mask-world-model-tiny")
    parser.add_argument("--steps", type=int, help="of the mask dynamics; the recipe's if none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", type=float, default=0.25, help="the last part of each")
    parser.add_argument("--frame-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--frame-stride", type=int, help="recorded frames per predicted one")
    parser.add_argument("--num-clips", type=int, default=64, help="held-out windows, at most")
    options = parser.parse_args(arguments)
    options.frame_size = tuple(options.frame_size) if options.frame_size else None
    return options


def clips_of(source: Any, config: MaskWorldModelConfig, ranges: Any, *, learns: bool) -> Any:
    """Whole windows within some ranges; those to learn from with colour jitter."""
    window = control_window(config)
    if not learns:
        memory = replace(window.memory, mode="every")
        window = replace(window, memory=memory)
    transforms = [ResizeCrop(config.frame_size), *([JITTER] if learns else [])]
    return ControlClips(
        source,
        replace(window, chunk=1),
        transforms=transforms,
        ranges=ranges,
        reads_control=False,
        reads_labels=True,
        allows_padding=False,
    )


def fit(
    recipe: MaskWorldModelRecipe, config: MaskWorldModelConfig, clips: Any, options: Any
) -> MaskWorldModel:
    """Fits patch latents, then trains the mask dynamics."""
    torch.manual_seed(options.seed)
    model = MaskWorldModel(config)
    few = collate([clips[i] for i in spread(len(clips), FIT_CLIPS)])
    model.fit_tokenizer(few, torch.Generator().manual_seed(options.seed))
    model.fit_latents(model.clips.encode(few, with_future=True))
    stages = [shortened(s, options.steps) for s in recipe.stages if s.name == "dynamics"]
    train(
        model,
        stages,
        lambda stage: make_loader([clips], [1.0], batch_size=stage.batch_size, seed=options.seed),
        options.out / "run",
        seed=options.seed,
        device="cpu",
        resume=True,
        config={"recipe": recipe.name, "data": str(options.data), "held_out": options.held_out},
        keep_checkpoints=1,
    )
    return model.eval()


def score(model: MaskWorldModel, recipe: MaskWorldModelRecipe, clips: Any, options: Any) -> Results:
    """Dreamt masks of the held-out part beside copied ones."""
    chosen = spread(len(clips), options.num_clips)
    dreamt = dream_masks(model, clips, chosen, options.seed, sampling=recipe.sampling)
    moments = [clips.moment(i) for i in chosen]
    blocks = [(m.episode, m.start // clips.window.span) for m in moments]
    groups = np.unique(np.array(blocks), axis=0, return_inverse=True)[1].ravel()
    results = Results(
        "mask_world_model",
        {
            "data": str(options.data),
            "held_out": f"the last {options.held_out:g} of each recording",
            "recipe": recipe.name,
            "steps": options.steps,
            "seed": options.seed,
            "clips": len(chosen),
            "blocks": len(set(groups.tolist())),
            "future_fps": float(model.config.fps),
            "frame_size": list(model.config.frame_size),
        },
    )
    score_mask_rollouts(
        results,
        dreamt.real,
        dreamt.model,
        dreamt.now,
        dreamt.names,
        groups,
        options.seed,
        others={"reconstruction": dreamt.reconstruction},
        background=dreamt.names[:1],
    )
    return results


def table(results: Results) -> str:
    """mIoU and boundary F by future frame."""
    content = results.to_dict()
    told, metrics = content["protocol"], content["metrics"]
    lines = [
        f"{told['clips']} held-out windows, {told['blocks']} blocks; a future "
        f"frame is {1 / told['future_fps']:.2f} s; classes {told['mask_rollouts']['classes']}",
        "",
    ]
    for metric in ("mask_iou", "mask_boundary_f"):
        curves = metrics[metric]["per_horizon"]
        count = len(curves["model"])
        lines.append(f"| {metric} | mean | {' | '.join(map(str, range(1, count + 1)))} |")
        lines.append("|---" * (count + 2) + "|")
        for name in PREDICTORS:
            steps = ["-" if x is None else f"{x:.3f}" for x in curves[name]]
            lines.append(f"| {name} | {metrics[metric][name]:.3f} | {' | '.join(steps)} |")
        lines.append("")
    gain = metrics["mask_iou_gain/copy_last"]
    low, high = gain["interval"]
    won = told["mask_rollouts"]["steps_better_than_copy"]
    lines.append(
        f"model - copy_last: {gain['model']:+.3f} [{low:+.3f}, {high:+.3f}] mIoU; better at "
        f"future frames {won or 'none'}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
