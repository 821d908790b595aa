"""Mask World Model's robustness: mask target, RGB target, no world model; one command that resumes.

    python benchmarks/mask_world_model_robustness.py --out runs/robust --seeds 0 1 2
    python benchmarks/mask_world_model_robustness.py --out runs/robust --table-only --doc PAGE.md

| cell | what |
|---|---|
| mask | the recipe: future masks, then actions on what expects them |
| rgb | the same network and steps, the future in RGB |
| none | the quickstart's policies without a world model, with images and without |
| mask-recolor | mask, with floor, sky and table of half the clips in another colour (reads masks) |
| rgb-recolor | rgb, likewise (only when asked for) |

All cells of all seeds learn from the same recorded episodes and act from the same unseen initial
states: clean, under each perturbation, and, mask and rgb, with tokens dropped. A seed varies first
weights, batches, and noise. Stop it at will and start it again: trained cells stay, a
half-trained stage goes on from its last checkpoint, finished episodes are not run again; more
seeds, episodes, perturbations and ratios may be asked for later. Other seeds may run beside it
once `OUT/data` is there.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from ablation_folder import check_folder, say, write_into
from mask_world_model_robustness_cells import VARIANTS, Runner, Trials, cells
from mask_world_model_robustness_tables import all_tables

from maskworld.metrics.success import PRUNING_RATIOS
from maskworld.nn.config_io import config_to_json
from maskworld.recipes import load_recipe_of
from maskworld.recipes.recipe import MaskWorldModelRecipe
from maskworld.training.config import shortened
from maskworld.worlds.metaworld import parse_perturbations
from maskworld.worlds.metaworld.tasks import check_task

PERTURBATIONS = (
    "light",
    "background",
    "table-texture",
    "object-color",
    "camera-shift",
    "distractors",
    "sensor-noise",
)
DEFAULT_VARIANTS = ("mask", "rgb", "none", "mask-recolor")


def main(arguments: Sequence[str] | None = None) -> None:
    options = read_options(arguments)
    torch.set_num_threads(1)
    recipe = with_options(load_recipe_of(MaskWorldModelRecipe, options.recipe), options)
    if not options.table_only:
        run(recipe, options)
    found = all_tables(recipe, options.out, sorted(options.ratios))
    for name, table in found.items():
        print(f"\n## {name}\n\n{table}")
    if options.doc:
        write_into(options.doc, {f"robustness-{name}": table for name, table in found.items()})


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What the user asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a folder for all cells")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(DEFAULT_VARIANTS))
    parser.add_argument("--recipe", default="mask-world-model-tiny")
    parser.add_argument(
        "--steps",
        type=int,
        nargs=3,
        metavar=("DYNAMICS", "POLICY", "NONE"),
        help="the last: of the policies without a world model",
    )
    parser.add_argument("--tasks", nargs="+", help="of Meta-World; the recipe's if none")
    parser.add_argument("--demonstrations", type=int, help="recorded episodes of a task")
    parser.add_argument("--episodes", type=int, default=20, help="initial states of a task")
    parser.add_argument("--perturbations", nargs="*", default=list(PERTURBATIONS))
    parser.add_argument("--ratios", type=float, nargs="*", default=list(PRUNING_RATIOS))
    parser.add_argument("--step-limit", type=int, help="of an episode")
    parser.add_argument("--data-seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that record and try")
    parser.add_argument("--table-only", action="store_true", help="train and try nothing")
    parser.add_argument("--doc", type=Path, help="a page whose tables to replace")
    parser.add_argument("--commit", help="of the code, where git cannot tell")
    options = parser.parse_args(arguments)
    for task in options.tasks or ():
        check_task(task)
    for text in options.perturbations:
        parse_perturbations(text)
    return options


def with_options(recipe: MaskWorldModelRecipe, options: argparse.Namespace) -> MaskWorldModelRecipe:
    """The recipe with what the user asks for."""
    robot, stages = recipe.robot, recipe.stages
    if options.tasks:
        robot = replace(robot, tasks=tuple(options.tasks))
    if options.demonstrations:
        robot = replace(robot, episodes_per_task=options.demonstrations)
    if options.step_limit:
        robot = replace(robot, step_limit=options.step_limit)
    if options.steps:
        asked = dict(zip(("dynamics", "policy"), options.steps))
        robot = replace(robot, baseline_steps=options.steps[2])
        stages = tuple(shortened(stage, asked.get(stage.name)) for stage in stages)
    return replace(recipe, robot=robot, stages=stages)


def run(recipe: MaskWorldModelRecipe, options: argparse.Namespace) -> None:
    """All cells that are asked for and not done, seed by seed.

    Raises:
        ValueError: the folder holds cells of another recipe, other steps or other data.
    """
    made_with = {
        "recipe": recipe.name,
        "data_seed": options.data_seed,
        "system": config_to_json(recipe.system),
        "sampling": config_to_json(recipe.sampling),
        "robot": config_to_json(recipe.robot),
        "stages": config_to_json(recipe.stages),
    }
    check_folder(options.out, made_with, options.commit)
    trials = Trials(
        options.episodes, tuple(options.perturbations), tuple(options.ratios), options.workers
    )
    runner = Runner(recipe, options.out, options.data_seed, trials, say)
    work = cells(options.variants, options.seeds)
    for number, (variant, seed) in enumerate(work, start=1):
        runner.train(variant, seed)
        runner.try_out(variant, seed)
        say(f"{number} of {len(work)} cells")


if __name__ == "__main__":
    main()
