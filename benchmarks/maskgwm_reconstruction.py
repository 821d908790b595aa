"""MaskGWM's mask reconstruction on against off, and its ablations: one command, cells that resume.

    python benchmarks/maskgwm_reconstruction.py --out runs/reconstruction --seeds 0 1 2
    python benchmarks/maskgwm_reconstruction.py --out runs/reconstruction --only tokens --seeds 0
    python benchmarks/maskgwm_reconstruction.py --out runs/reconstruction --table-only --doc PAGE.md

| group | variants | MaskGWM |
|---|---|---|
| main | off; on | nuScenes, Figure of long horizons |
| tokens | learned alone, and at t >= .5; noise alone, and at t <= .5; contrastive | mask tokens |
| masks | spatial alone; rows alone; rows without shift; anywhere in every frame | strategies |
| ratios | .1, .4 (on has the recipe's) | mask ratios |
| branch | none; shared; two layers | depth of F |

The recipe is taken with one camera. All variants of a seed start from one stage "video", trained
once, and go on for equal steps on the same clips: stage "masked", or "video" again where nothing is
dropped; first weights are alike wherever two variants share them. Trained on is the domain `SEEN`
of the driving world; tested on its held-out worlds, on the shifts of
`preparation/driving_domains.py`, on a real video (`--real`), and on long drives. Clips are filmed
from one seed and the tokenizer is made once: all cells of all seeds share them, so that differences
are of the same clips. A seed varies first weights, batches, noise, masks and dreams. Stop it at
will and start it again. One thread; other seeds may run beside it once `OUT/data/cell.json` is
there.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import maskgwm_reconstruction_tables as tables
import torch
from ablation_folder import check_folder, finish, is_done, say, write_into
from ablation_training import run_stages, stages_of
from maskgwm_reconstruction_data import Data, open_data, score
from reworld_cost import counted, interleaved, ratio_interval

from maskworld.data.storage import write_json
from maskworld.nn.config_io import config_to_json
from maskworld.objectives.contrast import ContrastConfig
from maskworld.recipes import load_recipe_of
from maskworld.recipes.recipe import MaskGWMRecipe
from maskworld.systems.maskgwm import MaskGWM, MaskGWMConfig
from maskworld.training.config import shortened
from maskworld.types import collate


@dataclass(frozen=True)
class Variant:
    """A cell's way to train: fields of the reconstruction's config that differ, or None = off."""

    name: str
    changes: tuple[tuple[str, Any], ...] | None = ()
    contrast: ContrastConfig | None = None

    @property
    def stage(self) -> str:
        return "video" if self.changes is None else "masked"

    def config(self, recipe: MaskGWMRecipe) -> MaskGWMConfig:
        """The recipe's system with this way to hide tokens."""
        masks = recipe.system.reconstruction
        if masks is None:
            raise ValueError(
                f"Expected a recipe with reconstruction, found {recipe.name} without one."
            )
        if self.changes is None:
            return replace(recipe.system, reconstruction=None)
        masks = replace(masks, **dict(self.changes))
        return replace(recipe.system, reconstruction=masks, contrast=self.contrast)


SMALL_CONTRAST = ContrastConfig(num_prototypes=256, hidden_dim=192, bottleneck_dim=48)
"""DINO's numbers scaled down to a tiny network. Ours."""
OFF, ON = Variant("off", None), Variant("on")
GROUPS = {
    "main": (OFF, ON),
    "tokens": (
        Variant("token-learned", (("token", "learned"),)),
        Variant("token-learned-late", (("token", "learned"), ("token_times", (0.5, 1.0)))),
        Variant("token-noise", (("token", "noise"),)),
        Variant("token-noise-early", (("token", "noise"), ("token_times", (0.0, 0.5)))),
        Variant("contrastive", (("token", "latent"),), SMALL_CONTRAST),
    ),
    "masks": (
        Variant("space-alone", (("p_time", 0.0),)),
        Variant("rows-alone", (("p_time", 1.0),)),
        Variant("rows-without-shift", (("p_time", 1.0), ("time_attention", "places"))),
        Variant(
            "anywhere-alone",
            (("p_time", 1.0), ("time_kind", "time_random"), ("time_attention", "places")),
        ),
    ),
    "ratios": (Variant("ratio-0.1", (("ratio", 0.1),)), Variant("ratio-0.4", (("ratio", 0.4),))),
    "branch": (
        Variant("no-branch", (("branch_depth", 0),)),
        Variant("shared", (("is_shared", True),)),
        Variant("two-layers", (("branch_depth", 2),)),
    ),
}
VARIANTS = [variant for group in GROUPS.values() for variant in group]


def main(arguments: Sequence[str] | None = None) -> None:
    options = read_options(arguments)
    torch.set_num_threads(1)
    recipe = prepared(load_recipe_of(MaskGWMRecipe, options.recipe), options.steps)
    if not options.table_only:
        run(recipe, options)
    found = tables.all_tables(options.out, [variant.name for variant in VARIANTS])
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
    parser.add_argument("--recipe", default="maskgwm-tiny")
    parser.add_argument("--steps", type=int, nargs=2, metavar=("VIDEO", "MASKED"))
    parser.add_argument("--only", nargs="+", choices=tuple(GROUPS), default=["main"])
    parser.add_argument("--real", type=Path, help="a real video, tested on without actions")
    parser.add_argument("--no-proxy", action="store_true", help="no Fréchet proxy: sooner done")
    parser.add_argument("--data-seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that film")
    parser.add_argument("--cost-rounds", type=int, default=15, help="timed steps; 0 = no times")
    parser.add_argument("--table-only", action="store_true", help="train nothing")
    parser.add_argument("--doc", type=Path, help="a page whose tables to replace")
    parser.add_argument("--commit", help="of the code, where git cannot tell")
    return parser.parse_args(arguments)


def prepared(recipe: MaskGWMRecipe, steps: Sequence[int] | None) -> MaskGWMRecipe:
    """The recipe with one camera and its stages "tokenizer", "video" and "masked", the latter two
    of so many steps.

    Raises:
        ValueError: it lacks a stage.
    """
    system, by_name = recipe.system, {stage.name: stage for stage in recipe.stages}
    if missing := {"video", "masked"} - by_name.keys():
        raise ValueError(
            f"Expected the stages video and masked in {recipe.name}, found no "
            f"{' and no '.join(sorted(missing))}."
        )
    asked = dict(zip(("video", "masked"), steps or ()))
    stages = [
        shortened(by_name[name], asked.get(name))
        for name in ("tokenizer", "video", "masked")
        if name in by_name
    ]
    network = replace(system.network, view_attention="none", max_views=1)
    return replace(
        recipe, system=replace(system, network=network, num_views=1), stages=tuple(stages)
    )


def run(recipe: MaskGWMRecipe, options: argparse.Namespace) -> None:
    """All cells that are asked for and not done, seed by seed; then the times."""
    made_with = {
        "recipe": recipe.name,
        "data_seed": options.data_seed,
        "has_proxy": not options.no_proxy,
        "real": None if options.real is None else options.real.name,
        "system": config_to_json(recipe.system),
        "sampling": config_to_json(recipe.sampling),
        "film": config_to_json(recipe.film),
        "stages": config_to_json(recipe.stages),
    }
    check_folder(options.out, made_with, options.commit)
    chosen = [variant for group in options.only for variant in GROUPS[group]]
    work = [(variant, seed) for seed in options.seeds for variant in chosen]
    left = [
        (variant, seed) for variant, seed in work if not is_done(cell_of(options, variant, seed))
    ]
    cost = options.out / "cost.json"
    known = json.loads(cost.read_text(encoding="utf-8")) if cost.is_file() else {}
    is_timed = not options.cost_rounds or {variant.name for variant in chosen} <= known.keys()
    say(f"{len(work) - len(left)} of {len(work)} cells are done; filming and encoding ...")
    if not left and is_timed:
        return
    data = open_data(
        recipe,
        options.out / "data",
        options.data_seed,
        options.workers,
        options.real,
        not options.no_proxy,
    )
    for number, (variant, seed) in enumerate(left):
        run_cell(data, variant, seed, cell_of(options, variant, seed))
        say(f"{len(work) - len(left) + number + 1} of {len(work)} cells")
    if not is_timed:
        write_json(cost, known | time_steps(data, [OFF, *chosen], options.cost_rounds))


def cell_of(options: argparse.Namespace, variant: Variant, seed: int) -> Path:
    """The folder of a cell."""
    return options.out / f"seed-{seed}" / variant.name


def run_cell(data: Data, variant: Variant, seed: int, folder: Path) -> None:
    """Trains and scores one cell."""
    started = time.perf_counter(), time.process_time()
    start = folder.parent / "start"
    if not is_done(start):
        say(f"seed {seed}  start ...")
        system = data.system(OFF.config(data.recipe), seed)
        stages = stages_of(data.recipe, "video")
        terms = run_stages(system, stages, data.latents, start, seed, {"cell": "start"})
        seconds = round(time.process_time() - started[1], 1)
        finish(start, system, {"terms": terms, "processor_seconds": seconds})
    say(f"seed {seed}  {variant.name} ...")
    started = time.perf_counter(), time.process_time()
    system = data.system(variant.config(data.recipe), seed, start / "model")
    stages = [replace(stage, name=variant.stage) for stage in stages_of(data.recipe, "masked")]
    terms = run_stages(system, stages, data.latents, folder, seed, {"cell": variant.name})
    trained = time.perf_counter(), time.process_time()
    found = score(system, data, seed) | {
        "cell": variant.name,
        "seed": seed,
        "terms": terms,
        "steps": sum(stage.num_steps for stage in stages),
        "train_seconds": round(trained[0] - started[0], 1),
        "seconds": round(time.perf_counter() - started[0], 1),
        "processor_seconds": round(time.process_time() - started[1], 1),
    }
    finish(folder, system, found)
    say(f"seed {seed}  {variant.name} {found['seconds']:.0f} s")


# ------------------------------------------------------------------------------------- times


def time_steps(data: Data, variants: Sequence[Variant], rounds: int) -> dict[str, Any]:
    """Processor seconds of training steps of all variants in turn, ratios to "off" of the same
    round with a 95 % interval of their median, and FLOPs of a step (mean of 4: masks vary)."""
    variants = list(dict.fromkeys(variants))
    steps = {variant.name: training_step(data, variant) for variant in variants}
    seconds = interleaved(steps, rounds)
    return {
        name: {
            "seconds": times,
            "ratio": ratio_interval(times, seconds[OFF.name]),
            "flops": sum(counted(steps[name]) for _ in range(4)) / 4,
        }
        for name, times in seconds.items()
    }


def training_step(data: Data, variant: Variant) -> Callable[[], None]:
    """Loss, gradient and AdamW of one batch."""
    system: MaskGWM = data.system(variant.config(data.recipe), 0).train()
    batch_size = stages_of(data.recipe, "masked")[0].batch_size
    batch = collate(data.latents[:batch_size])
    groups = system.parameter_groups(variant.stage)
    optimizer = torch.optim.AdamW(groups, lr=1e-4, fused=True)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        system.training_loss(batch, variant.stage, generator).total.backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
