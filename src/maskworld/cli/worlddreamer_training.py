"""The work of `maskworld train worlddreamer-...`: its stages in turn on the user's data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange

from maskworld.cli.adapt import check_fits, check_frame_size, fit_config
from maskworld.cli.stage_data import StageData, Windows
from maskworld.cli.train import TrainOptions
from maskworld.cli.training import check_run, train_and_release, with_settings, write_sample
from maskworld.evaluation.prediction import predict
from maskworld.nn.config_io import config_to_json
from maskworld.nn.weights_io import load_state_tensors, state_tensors
from maskworld.recipes.open import Dataset, Source, load_worlddreamer, open_dataset, open_source
from maskworld.recipes.recipe import WorldDreamerRecipe
from maskworld.samplers.parallel import ParallelDecoding
from maskworld.systems.worlddreamer import WorldDreamer, WorldDreamerConfig
from maskworld.tokenizers.patch import PatchTokenizer
from maskworld.tokenizers.pretrained import PretrainedVQ, PretrainedVQConfig
from maskworld.tokenizers.token_grid import TokenGrid
from maskworld.training.config import Stage, shortened
from maskworld.training.distributed import derive_seed, processes_from_environment
from maskworld.types import Batch

FIT_FRAMES = 600
"""Frames that codes are fitted on: more patches than the fit takes."""


def run_worlddreamer_training(options: TrainOptions, recipe: WorldDreamerRecipe) -> None:
    """Everything that can be wrong with the settings and the data is found before the run folder
    is made; a run that fails before its first checkpoint leaves none."""
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


# ----------------------------------------------------------------------------------------- system


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


# ------------------------------------------------------------------------------------------- data


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


# ----------------------------------------------------------------------------------------- stages


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
