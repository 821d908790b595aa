"""ReWorld's ablations: one command, cells that resume, tables of whatever is done.

    python benchmarks/reworld_ablation.py --out runs/ablation --seeds 0 1 2
    python benchmarks/reworld_ablation.py --out runs/ablation --table-only --doc PAGE.md
    python benchmarks/reworld_ablation.py --out runs/ablation --only rivals --seeds 0

| table | question | ReWorld |
|---|---|---|
| planners | base, + align, + RDE, both; equal steps, one stage 1 per seed | Table 4 |
| head | intermediate head on and off: held-out loss, dreams, steps to equal loss | Table 2 |
| gammas | strength of self-guidance, one model, one noise | Table 6 |
| weights | lambda_RDE | Table 7 |
| layers | of the head and of the alignment: the recipe's and its neighbours | Table 5 |
| rivals | SRA, SRA2, Self-Flow in place of the head (only when asked for) | Table 2 |

The data are filmed from one seed, and tokenizer, statistics and hard negatives made once: all cells
of all seeds share them. A seed varies first weights, batches, noise, the draws of plans and dreams
and the ego-status planner. Where a loss is off, its stage trains L_FM alone for as many steps.
Cells that share a stage share its weights. Stop it at will and start it again: finished cells stay,
a half-trained stage goes on from its last checkpoint. It runs on one thread; other seeds may run
beside it once `OUT/data/cell.json` is there.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import reworld_ablation_tables as tables
import torch
from ablation_folder import check_folder, is_done, read_cell, say, told, write_into
from reworld_ablation_cells import (
    RIVALS,
    Cell,
    DreamsCell,
    PlannerCell,
    ReferenceCell,
    Runner,
    VideoCell,
)
from reworld_ablation_data import open_data

from maskworld.nn.config_io import config_to_json
from maskworld.recipes import load_recipe_of
from maskworld.recipes.recipe import ReWorldRecipe
from maskworld.training.config import shortened

WEIGHTS = (0.02, 0.04, 0.06, 0.08, 0.10)
TABLES = ("planners", "head", "gammas", "weights", "layers", "rivals")
PARTS = {
    "planners": ("planners", "terms"),
    "head": ("head", "equal-loss"),
    "layers": ("head-layers", "alignment-layers"),
}
"""Tables that are shown for one of `TABLES`, where it is not one of the same name."""
STAGES = ("video", "action", "joint")
RIVAL_CELLS = [VideoCell(rival=rival) for rival in RIVALS]


def main(arguments: Sequence[str] | None = None) -> None:
    options = read_options(arguments)
    torch.set_num_threads(1)
    recipe = with_steps(load_recipe_of(ReWorldRecipe, options.recipe), options.steps)
    if not options.table_only:
        run(recipe, options)
    found = all_tables(recipe, options.out)
    if options.only:
        shown = [part for name in options.only for part in PARTS.get(name, (name,))]
        found = {name: found[name] for name in ["protocol", *shown]}
    for name, table in found.items():
        print(f"\n## {name}\n\n{table}")
    if options.doc:
        write_into(options.doc, found)


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What the user asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a folder for all cells")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipe", default="reworld-tiny")
    parser.add_argument("--steps", type=int, nargs=3, metavar=("VIDEO", "ACTION", "JOINT"))
    parser.add_argument("--only", nargs="+", choices=TABLES, help="all but rivals when not given")
    parser.add_argument("--rivals", action="store_true", help="also the rivals")
    parser.add_argument("--data", type=Path, help="a finished quickstart of the recipe")
    parser.add_argument("--data-seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that film and mine")
    parser.add_argument("--table-only", action="store_true", help="train nothing")
    parser.add_argument("--doc", type=Path, help="a page whose tables to replace")
    parser.add_argument("--commit", help="of the code, where git cannot tell")
    return parser.parse_args(arguments)


def with_steps(recipe: ReWorldRecipe, steps: Sequence[int] | None) -> ReWorldRecipe:
    """The recipe with other numbers of steps of its three stages."""
    if steps is None:
        return recipe
    asked = dict(zip(STAGES, steps))
    stages = tuple(shortened(stage, asked.get(stage.name)) for stage in recipe.stages)
    return replace(recipe, stages=stages)


def neighbours(layer: int, num_layers: int) -> list[int]:
    """The layer and those beside it."""
    return [near for near in (layer - 1, layer, layer + 1) if 1 <= near <= num_layers]


def cells_of(recipe: ReWorldRecipe, table: str) -> Sequence[Cell]:
    """What a table needs."""
    system = recipe.system
    head, layer = system.supervised_layers[0], system.alignment_layers[0]
    weight = system.repulsion_weight
    own, without = VideoCell((head,)), VideoCell()
    if table == "planners":
        settings = [(0, 0.0), (layer, weight), (layer, 0.0), (0, weight)]
        return [ReferenceCell(), *(PlannerCell(*setting) for setting in settings)]
    if table == "weights":
        return [PlannerCell(layer, each) for each in (0.0, *WEIGHTS)]
    if table == "layers":
        heads = [VideoCell((near,)) for near in neighbours(head, system.video.num_layers)]
        layers = neighbours(layer, system.action.num_layers)
        return [*map(DreamsCell, heads), *(PlannerCell(near, weight) for near in layers)]
    if table == "head":
        return [own, without, DreamsCell(own), DreamsCell(without)]
    return [DreamsCell(own)] if table == "gammas" else [*map(DreamsCell, RIVAL_CELLS)]


def run(recipe: ReWorldRecipe, options: argparse.Namespace) -> None:
    """All cells that are asked for and not done: table by table, seed by seed."""
    made_with = {
        "recipe": recipe.name,
        "data_seed": options.data_seed,
        "system": config_to_json(recipe.system),
        "sampling": config_to_json(recipe.sampling),
        "drive": config_to_json(recipe.drive),
        "stages": config_to_json(recipe.stages),
    }
    check_folder(options.out, made_with, options.commit)
    chosen = options.only or [name for name in TABLES if name != "rivals" or options.rivals]
    work = [
        (cell, seed) for name in chosen for seed in options.seeds for cell in cells_of(recipe, name)
    ]
    work = list(dict.fromkeys(work))
    left = [each for each in work if not is_done(options.out / f"seed-{each[1]}" / each[0].name)]
    say(f"{len(work) - len(left)} of {len(work)} cells are done; filming and encoding ...")
    if not left:
        return
    data = open_data(recipe, options.out / "data", options.data_seed, options.workers, options.data)
    runner = Runner(data, options.out, say)
    for number, (cell, seed) in enumerate(left):
        runner.run(cell, seed)
        say(f"{len(work) - len(left) + number + 1} of {len(work)} cells")


def all_tables(recipe: ReWorldRecipe, out: Path) -> dict[str, str]:
    """Every table, from the cells that are there."""
    cells, system = tables.Cells.read(out), recipe.system
    head, layer = system.supervised_layers[0], system.alignment_layers[0]
    weight, depth = system.repulsion_weight, system.video.num_layers
    data = read_cell(out / "data") if is_done(out / "data") else {}
    own, without = VideoCell((head,)), VideoCell()
    named = [(f"head at layer {head}", own)]
    heads = [("no head", without)] + [
        (f"head at layer {near} of {depth}", VideoCell((near,))) for near in neighbours(head, depth)
    ]
    rivals = [(rival.name.removeprefix("video-"), rival) for rival in RIVAL_CELLS]
    return {
        "protocol": protocol(recipe, cells, out, data),
        "planners": tables.planners(cells, layer, weight),
        "terms": tables.terms(cells, layer, weight),
        "head": tables.videos(cells, [("no head", without), *named], data.get("dreams")),
        "equal-loss": tables.equal_loss(cells, own.name, without.name),
        "gammas": tables.gammas(cells, DreamsCell(own).name),
        "weights": tables.weights(cells, layer, WEIGHTS),
        "head-layers": tables.videos(cells, heads),
        "alignment-layers": tables.alignment_layers(
            cells,
            neighbours(layer, system.action.num_layers),
            system.action.num_layers,
            layer,
            weight,
        ),
        "rivals": tables.videos(cells, [("vanilla", without), *rivals, *named]),
    }


def protocol(recipe: ReWorldRecipe, cells: tables.Cells, out: Path, data: dict[str, Any]) -> str:
    """What the numbers are of."""
    lines = [f"- recipe {recipe.name}"]
    file = out / "ablation.json"
    if file.is_file():
        known = json.loads(file.read_text(encoding="utf-8"))
        steps = [
            f"{row['name']} {row['num_steps']} x {row['batch_size']}" for row in known["stages"]
        ]
        lines[0] += (
            f"; steps x batch: {', '.join(steps)}; code: commit {', '.join(known['commits'])}"
        )
    if data:
        made, floor = data["description"], data["dreams"]["proxy_floor"]
        lines.append(
            f"- data of seed {data['seed']}, the same for all seeds: {made['train_clips']} clips "
            f"({made['train_clips_of_experts']} of experts) of {made['train_worlds']} worlds, for "
            f"the planner {made.get('train_windows', 0)} moments more; held out: "
            f"{made['held_out_clips']} clips and {made['held_out_scenes']} scenes of "
            f"{made['held_out_worlds']} other worlds"
        )
        lines.append(
            f"- hard negatives: {data['negatives']['share_with_negative']:.0%} of the training "
            f"scenes have one; Fréchet proxy of real against real: {floor:.2f}"
        )
    seconds = sum(
        cell["processor_seconds"] for found in cells.by_seed.values() for cell in found.values()
    )
    count = sum(map(len, cells.by_seed.values()))
    seeds = told(list(cells.by_seed)) or "none"
    lines.append(
        f"- seeds: {seeds}; {count} stages and cells done, {seconds / 60:.0f} minutes of one "
        "processor"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
