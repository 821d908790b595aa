"""The work of `maskworld train`: the user's data meets a recipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from maskworld.cli.adapt import check_fits, check_frame_size, fit_config
from maskworld.cli.inputs import check_writable
from maskworld.cli.stage_data import StageData, Windows, describe
from maskworld.cli.train import TrainOptions
from maskworld.data.storage import remove
from maskworld.data.video_files import write_video
from maskworld.evaluation.prediction import predict
from maskworld.nn.config_io import config_to_json
from maskworld.nn.weights_io import load_state_tensors, state_tensors
from maskworld.recipes import load_recipe, load_recipe_of
from maskworld.recipes.open import (
    Dataset,
    Source,
    load_worlddreamer,
    open_dataset,
    open_source,
    save_release,
)
from maskworld.recipes.recipe import (
    MaskGWMRecipe,
    MaskWorldModelRecipe,
    ReWorldRecipe,
    WorldDreamerRecipe,
)
from maskworld.samplers.parallel import ParallelDecoding
from maskworld.systems.worlddreamer import WorldDreamer, WorldDreamerConfig
from maskworld.tokenizers.patch import PatchTokenizer
from maskworld.tokenizers.pretrained import PretrainedVQ, PretrainedVQConfig
from maskworld.tokenizers.token_grid import TokenGrid
from maskworld.training.checkpoint import list_checkpoints, read_state
from maskworld.training.config import Stage, shortened
from maskworld.training.distributed import derive_seed, processes_from_environment
from maskworld.training.loop import OnSample, train
from maskworld.training.stage_run import Batches
from maskworld.types import Batch

FIT_FRAMES = 600
"""Frames that codes are fitted on: more patches than the fit takes."""
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
    recipe = load_recipe_of(WorldDreamerRecipe, options.recipe)
    told = "WorldDreamer has one stage after its tokenizer, and no plans."
    _refuse(options, REWORLD_OPTIONS, "of ReWorld", told)
    check_run(options)
    sources = [open_source(path) for path in options.data]
    system, decoding = _build_system(options, recipe, sources)
    stages = _stages(options, recipe, system)
    data = _open_data(options, recipe, system.config, sources)
    model = options.out / "model"
    train_and_release(
        options,
        system,
        stages,
        data,
        decoding,
        fit=lambda: _fit_tokenizer(system.tokenizer, data, options.seed),
        record=_record(options, recipe, system.config),
        on_sample=_sampler(options, recipe, data, decoding),
        hints=[
            f"Score it:  maskworld evaluate {model} --data HELD_OUT",
            f"Dream:     maskworld generate {model} --image FILE --out dream.mp4",
        ],
    )


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


# ---------------------------------------------------------------------------------------- system


def _build_system(
    options: TrainOptions, recipe: WorldDreamerRecipe, sources: Sequence[Source | list[str]]
) -> tuple[WorldDreamer, ParallelDecoding]:
    """The system that the recipe, the options and the data ask for, and how it is sampled."""
    decoding = recipe.decoding
    initial: WorldDreamer | None = None
    if options.init is not None:
        release = load_worlddreamer(options.init)
        initial, decoding = release.system, release.decoding
        config = _asked(options, initial.config)
        check_fits(config, sources)
    else:
        config = fit_config(_asked(options, recipe.system), sources, options.fps)
    check_frame_size(config)
    is_published = initial is None and isinstance(config.tokenizer, PretrainedVQConfig)
    published = _published_tokenizer(options) if is_published else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(options.seed, 0, "weights"))
        system = WorldDreamer(config)
    if initial is not None:
        load_state_tensors(system, state_tensors(initial), str(options.init))
    if published is not None:
        system.tokenizer = published
    return system, decoding


def _asked(options: TrainOptions, config: WorldDreamerConfig) -> WorldDreamerConfig:
    asked: dict[str, Any] = {
        "num_frames": options.window,
        "frame_size": options.frame_size,
        "fps": options.fps,
    }
    return replace(config, **{k: v for k, v in asked.items() if v is not None})


def _published_tokenizer(options: TrainOptions) -> PretrainedVQ:
    from maskworld.weights.amused import load_amused_vq

    if options.tokenizer is None:
        raise ValueError(
            f"Expected --tokenizer with the published VQ weights for {options.recipe}: the `vqvae` "
            "folder of amused/amused-256, or give --data of tokens."
        )
    return load_amused_vq(options.tokenizer)


# ------------------------------------------------------------------------------------------ data


def _open_data(
    options: TrainOptions,
    recipe: WorldDreamerRecipe,
    config: WorldDreamerConfig,
    sources: Sequence[Source | list[str]],
) -> StageData:
    processes = processes_from_environment()

    def open_one(source: Source | list[str], windows: Windows) -> Dataset:
        return open_dataset(
            source,
            windows.num_frames,
            windows.size,
            config.fps,
            clip_stride=_clip_stride(options, recipe),
            rank=processes.rank,
            world_size=processes.num_processes,
            seed=options.seed,
        )

    return StageData(
        sources,
        Windows(config.num_frames, config.frame_size),
        open_one,
        weights=options.weights,
        seed=options.seed,
        num_workers=options.workers,
    )


def _clip_stride(options: TrainOptions, recipe: WorldDreamerRecipe) -> int:
    return recipe.clip_stride if options.clip_stride is None else options.clip_stride


def _fit_tokenizer(tokenizer: Any, data: StageData, seed: int) -> None:
    """Fits the codes of patches on frames of the training data, alike in all processes; a
    tokenizer that came fitted stays."""
    if not isinstance(tokenizer, PatchTokenizer) or tokenizer.is_fitted:
        return
    loader, frames, count = data.first(4, "fit"), [], 0
    while count < FIT_FRAMES:
        batch = next(loader)
        frames.append(rearrange(batch.frames, "b v t c h w -> (b v t) c h w"))
        count += len(frames[-1])
    generator = torch.Generator().manual_seed(derive_seed(seed, 0, "fit"))
    tokenizer.fit(torch.cat(frames), generator)


# ---------------------------------------------------------------------------------------- stages


def _stages(options: TrainOptions, recipe: WorldDreamerRecipe, system: WorldDreamer) -> list[Stage]:
    """The recipe's stages with the user's settings; the tokenizer's own only where it learns."""
    stages = []
    for stage in recipe.stages:
        if stage.name == "tokenizer":
            learns = any(p.requires_grad for p in system.tokenizer.parameters())
            if options.init is None and learns:
                stages.append(shortened(stage, options.tokenizer_steps))
            continue
        stages.append(with_settings(options, stage, not isinstance(system.tokenizer, TokenGrid)))
    return stages


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


def _sampler(
    options: TrainOptions, recipe: WorldDreamerRecipe, data: StageData, decoding: ParallelDecoding
) -> Any:
    """What draws and writes samples."""
    kept: list[Batch] = []

    def sample(system: WorldDreamer, step: int) -> None:
        if isinstance(system.tokenizer, TokenGrid):
            return
        if not kept:
            loader = data.first(4, "samples")
            drawn = (next(loader) for _ in range(20))
            kept.extend([next((b for b in drawn if not b.is_image), next(loader))])
        batch = kept[0].to(system.null_text.device)
        if batch.is_image:
            return  # only images to train on: there is no future to show
        generator = torch.Generator().manual_seed(options.seed)
        dream = predict(system, batch, recipe.num_context, decoding, generator).dream
        assert batch.frames is not None
        assert dream.frames is not None
        write_sample(options.out, step, batch.frames, dream.frames, system.config.fps)

    return sample


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


def _record(
    options: TrainOptions, recipe: WorldDreamerRecipe, config: WorldDreamerConfig
) -> dict[str, Any]:
    """What config.json keeps; a resumed run must say the same."""
    return {
        "name": recipe.name,
        "data": [str(Path(path)) if "://" not in path else path for path in options.data],
        "weights": list(options.weights),
        "clip_stride": _clip_stride(options, recipe),
        "init": options.init,
        "system_config": config_to_json(config),
        "decoding": asdict(recipe.decoding),
    }
