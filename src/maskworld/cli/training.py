"""The work of `maskworld train`: which system's it is, and what all of them share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from maskworld.cli.inputs import check_writable
from maskworld.cli.stage_data import StageData, describe
from maskworld.cli.train import TrainOptions
from maskworld.data.storage import remove
from maskworld.data.video_files import write_video
from maskworld.recipes import load_recipe, load_recipe_of
from maskworld.recipes.open import save_release
from maskworld.recipes.recipe import (
    MaskGWMRecipe,
    MaskWorldModelRecipe,
    ReWorldRecipe,
    WorldDreamerRecipe,
)
from maskworld.training.checkpoint import list_checkpoints, read_state
from maskworld.training.config import Stage, shortened
from maskworld.training.distributed import processes_from_environment
from maskworld.training.loop import OnSample, train
from maskworld.training.stage_run import Batches

REWORLD_OPTIONS = (
    "stages",
    "start_at",
    "pool",
    "video_weights",
    "no_world_model",
    "mine_online",
    "mining_every",
    "mining_scenes",
    "generator",
    "num_candidates",
    "cfg_scale",
    "noise_scale",
    "threshold",
    "metric",
)
"""Of `TrainOptions`."""
FLOW_OPTIONS = ("stages", "start_at", "video_weights")
"""Of ReWorld's, those that MaskGWM has too."""
MASKGWM_OPTIONS = ("cameras", "no_reconstruction")
"""Of `TrainOptions`."""
ROBOT_OPTIONS = ("target", "color_jitter", "recolor")
"""Of `TrainOptions`."""


def run_training(options: TrainOptions) -> None:
    """Everything that can be wrong with the settings and the data is found before the run folder
    is made; a run that fails before its first checkpoint leaves none."""
    recipe = load_recipe(options.recipe)
    if not isinstance(recipe, MaskGWMRecipe):
        _refuse(options, MASKGWM_OPTIONS, "of MaskGWM", "other systems see what the data show.")
    if isinstance(recipe, MaskWorldModelRecipe):
        from maskworld.cli.robot_training import run_robot_training

        run_robot_training(options, recipe)
        return
    _refuse(options, ROBOT_OPTIONS, "of Mask World Model", "other systems have no masks to train.")
    if isinstance(recipe, MaskGWMRecipe):
        from maskworld.cli.maskgwm_training import run_maskgwm_training

        planning = [name for name in REWORLD_OPTIONS if name not in FLOW_OPTIONS]
        _refuse(options, planning, "of ReWorld", "MaskGWM plans nothing.")
        run_maskgwm_training(options, recipe)
        return
    if isinstance(recipe, ReWorldRecipe):
        from maskworld.cli.reworld_training import run_reworld_training

        run_reworld_training(options, recipe)
        return
    from maskworld.cli.worlddreamer_training import run_worlddreamer_training

    told = "WorldDreamer has one stage after its tokenizer, and no plans."
    _refuse(options, REWORLD_OPTIONS, "of ReWorld", told)
    run_worlddreamer_training(options, load_recipe_of(WorldDreamerRecipe, options.recipe))


def check_run(options: TrainOptions) -> bool:
    """Checks data, weights and run folder; whether the folder has a checkpoint to resume from."""
    if not options.data:
        raise ValueError(
            "Expected --data with something to train on: see `maskworld train --help`."
        )
    if options.weights and len(options.weights) != len(options.data):
        raise ValueError(
            f"Expected one of --weights per --data ({len(options.data)}), found "
            f"{len(options.weights)}."
        )
    check_writable(options.out)
    has_checkpoint = bool(list_checkpoints(options.out / "checkpoints"))
    if has_checkpoint and not options.resume:
        raise ValueError(
            f"Expected a new folder, found a run in {options.out}: pass --resume to continue it, "
            "or another --out."
        )
    return has_checkpoint


def train_and_release(
    options: TrainOptions,
    system: Any,
    stages: Sequence[Stage],
    data: StageData,
    sampling: Any,
    *,
    fit: Callable[[], None],
    record: dict[str, Any],
    on_sample: OnSample,
    hints: Sequence[str],
    batches: Batches | None = None,
    also_save: Callable[[Path], None] | None = None,
) -> None:
    """Says what is read, trains, saves the model, and says what to do with it. A run that fails
    before its first checkpoint leaves no folder.

    Args:
        fit: measures what is not learnt; not called where a checkpoint holds it already.
        record: what config.json keeps; a resumed run must say the same.
        hints: commands to print at the end.
        batches: of a stage; by default those of `data`.
        also_save: writes more files into the model's folder.
    """
    is_main, model = processes_from_environment().is_main, options.out / "model"
    datasets = {id(each): each for stage in stages for each in data.datasets_of(stage)}
    if is_main:
        for dataset in datasets.values():
            print(describe(dataset), file=sys.stderr)
    with clean_run_folder(options.out):
        if not list_checkpoints(options.out / "checkpoints"):
            fit()
        result = train(
            system,
            stages,
            batches or data.batches,
            options.out,
            seed=options.seed,
            device=options.device,
            resume=options.resume,
            config=record,
            on_sample=on_sample,
            tracker=options.tracker,
        )
        if is_main:
            save_release(system.cpu(), model, sampling)
            if also_save is not None:
                also_save(model)
    if is_main:
        print(f"Trained {result.step} steps, last loss {result.loss:.4f} -> {model}")
        print("\n".join(hints))


def reached_stage(run: Path) -> str | None:
    """The stage of a run's newest checkpoint; None without one."""
    found = list_checkpoints(run / "checkpoints")
    return str(read_state(found[-1][1])["stage_name"]) if found else None


@contextmanager
def clean_run_folder(out: Path) -> Iterator[None]:
    """Removes a run folder that this run made, where it fails before its first checkpoint."""
    existed = out.exists()
    try:
        yield
    except BaseException:
        has_checkpoint = bool(list_checkpoints(out / "checkpoints"))
        is_main = processes_from_environment().is_main
        if is_main and not existed and out.exists() and not has_checkpoint:
            remove(out)
        raise


def _refuse(options: TrainOptions, names: Sequence[str], owner: str, why: str) -> None:
    given = [name for name in names if getattr(options, name) not in (None, (), False)]
    if given:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(
            f"Expected {flags} with a recipe {owner} only, found {options.recipe!r}: {why}"
        )


def with_settings(options: TrainOptions, stage: Stage, draws: bool = True) -> Stage:
    """A stage with the user's settings. A window or frame size that the user asks for holds for
    all stages.

    Args:
        draws: whether samples can be drawn: unless the user says otherwise, four in a stage.
    """
    asked: dict[str, Any] = {
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "precision": options.precision,
        "save_every": options.save_every,
        "sample_every": options.sample_every,
    }
    stage = shortened(stage, options.steps)
    given = {name: value for name, value in asked.items() if value is not None}
    given.setdefault("sample_every", max(1, stage.num_steps // 4) if draws else 0)
    windows = {"num_frames": options.window, "frame_size": options.frame_size}
    given |= {name: None for name, value in windows.items() if value is not None}
    return replace(stage, **given, compile=options.compile or stage.compile)


def write_sample(
    out: Path,
    step: int,
    real: UInt8[Tensor, "b v t c h w"],
    dreamt: UInt8[Tensor, "b v t c h w"],
    fps: float,
) -> None:
    """Writes RUN/samples/step-N.mp4: real clips above, their dreamt futures below."""
    rows = torch.stack([real[:, 0].cpu(), dreamt[:, 0].cpu()])
    image = rearrange(rows, "rows b t c h w -> t (rows h) (b w) c").contiguous()
    write_video(out / "samples" / f"step-{step:08d}.mp4", image.numpy(), fps)
