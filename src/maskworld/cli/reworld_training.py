"""The work of `maskworld train reworld-...`: its stages in turn on the user's data."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange

from maskworld.cli.reworld_data import (
    NEEDS_EXPERTS,
    NeededPlans,
    clips_of,
    expert_plans,
    fit_reworld_config,
    open_reworld_data,
)
from maskworld.cli.reworld_mining import ONLINE_ONLY, OnlineMining, check_mining_options
from maskworld.cli.reworld_stages import choose_stages, stages_with_settings
from maskworld.cli.stage_choice import refuse_beside_init, tokenizer_asked_for
from maskworld.cli.stage_data import StageData
from maskworld.cli.train import TrainOptions
from maskworld.cli.training import (
    check_run,
    reached_stage,
    train_and_release,
    write_sample,
)
from maskworld.data.sources.tokens import TokenSource
from maskworld.nn.config_io import config_to_json
from maskworld.nn.weights_io import load_state_tensors, state_tensors
from maskworld.recipes.open import Source, load_reworld, open_source
from maskworld.recipes.recipe import ReWorldRecipe
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.reworld import ReWorld, ReWorldConfig
from maskworld.tokenizers.causal_patch import CausalPatchTokenizer
from maskworld.tokenizers.causal_vae import CausalVAE
from maskworld.tokenizers.latent import PretrainedVideoVAEConfig, encode_views
from maskworld.training.config import Stage
from maskworld.training.distributed import derive_seed, processes_from_environment
from maskworld.types import Batch, Prompt

LEARNT = ("video.", "heads.", "representation.", "prompter.", "action.", "action_ego.")
"""Beginnings of the names of what the stages train; the rest is tokenizer and ranges."""
FIT_CLIPS = 160
"""Clips that patch latents and statistics of latents are fitted on."""


def run_reworld_training(options: TrainOptions, recipe: ReWorldRecipe) -> None:
    """Everything that can be wrong with the settings and the data is found before the run folder
    is made; a run that fails before its first checkpoint leaves none."""
    has_checkpoint = check_run(options)
    chosen = choose_stages(options, recipe)
    sources = [open_source(path) for path in options.data]
    _check_sources(sources, options.data)
    config, initial, sampling = _config(options, recipe, sources)
    stages = stages_with_settings(options, chosen, config)
    data = open_reworld_data(options, recipe, config, sources)
    is_mining = check_mining_options(options, stages)
    plans = _check_plans(stages, data)
    mining = _mining(options, stages, data, config) if is_mining else None
    system = _build_system(options, config, initial, is_resumed=has_checkpoint)
    model = options.out / "model"
    hints = [
        f"Score it:  maskworld evaluate {model} --data HELD_OUT",
        f"Dream:     maskworld generate {model} --video PAST --out dream.mp4",
    ]
    if any(stage.name in NEEDS_EXPERTS for stage in stages):
        hints.append(f"Plan:      maskworld plan {model} --scene SCENE.json --video PAST")
    train_and_release(
        options,
        system,
        stages,
        data,
        sampling,
        fit=lambda: _fit(system, data, plans, options.seed, is_new=initial is None),
        batches=_Batches(system, data, options, mining),
        record=_record(options, recipe, config, sampling),
        on_sample=_Sampler(options, data, sampling),
        hints=hints,
    )
    if mining is not None and processes_from_environment().is_main:
        print(mining.describe())


# ---------------------------------------------------------------------------------------- system


def _config(
    options: TrainOptions, recipe: ReWorldRecipe, sources: Sequence[Source | list[str]]
) -> tuple[ReWorldConfig, ReWorld | None, FlowSampling]:
    """The config that the recipe, the options and the data ask for."""
    asked: dict[str, Any] = {
        "num_frames": options.window,
        "frame_size": options.frame_size,
        "fps": options.fps,
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    if options.init is not None:
        release = load_reworld(options.init)
        refuse_beside_init(options, ("tokenizer", "video_weights"))
        return replace(release.system.config, **asked), release.system, release.decoding
    config = fit_reworld_config(replace(recipe.system, **asked), sources)
    tokenizer = tokenizer_asked_for(options, config.tokenizer, recipe.name, "reworld-paper")
    config = replace(config, tokenizer=tokenizer)
    return config, None, recipe.sampling


def _build_system(
    options: TrainOptions, config: ReWorldConfig, initial: ReWorld | None, *, is_resumed: bool
) -> ReWorld:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(options.seed, 0, "weights"))
        system = ReWorld(config)
    if initial is not None:
        tensors = state_tensors(initial)
        if options.no_world_model:
            fresh = state_tensors(system)
            tensors |= {name: fresh[name] for name in tensors if name.startswith(LEARNT)}
        load_state_tensors(system, tensors, str(options.init))
    elif options.video_weights is not None:
        from maskworld.weights.ltx import load_ltx_into

        if not is_resumed:
            load_ltx_into(system.video, options.video_weights)
    elif isinstance(config.tokenizer, PretrainedVideoVAEConfig):
        warnings.warn(
            f"{options.recipe} starts from LTX-Video's weights in the paper; without "
            "--video-weights the video tower is trained from scratch",
            stacklevel=3,
        )
    return system


# ------------------------------------------------------------------------------------------ data


def _check_sources(sources: Sequence[Source | list[str]], names: Sequence[str]) -> None:
    for source, name in zip(sources, names, strict=True):
        if isinstance(source, TokenSource) or not hasattr(source, "episode"):
            if isinstance(source, list):
                continue  # tar shards
            raise ValueError(f"Expected recordings in pixels for ReWorld, found others in {name}.")
        if getattr(source.episode(0), "num_frames", 2) < 2:
            raise ValueError(
                f"Expected recordings for ReWorld, found single images in {name}: a future is "
                "learnt from videos."
            )


def _check_plans(stages: Sequence[Stage], data: StageData) -> NeededPlans:
    """Opens the data of all stages; the experts' plans where a stage needs them, with negatives."""
    for stage in stages:
        if not data.datasets_of(stage):
            raise ValueError(
                f"Expected --data with plans for stage {stage.name}, found none that says where "
                "the car was: give nuScenes, nuPlan, OpenScene or a LeRobot dataset with a column "
                "`ego` (x, y, heading), or train the video alone with --stages video."
            )
    return expert_plans(data, stages)


def _mining(
    options: TrainOptions, stages: Sequence[Stage], data: StageData, config: ReWorldConfig
) -> OnlineMining:
    joint = next(stage for stage in stages if stage.name == "joint")
    experts: list[Any] = data.datasets_of(joint)
    return OnlineMining(options, experts, config.num_past)


def _fit(system: ReWorld, data: StageData, plans: NeededPlans, seed: int, *, is_new: bool) -> None:
    """Fits what is measured on data, not learnt: patch latents, ranges of plans and latents. What
    came fitted stays. Alike in all processes."""
    tokenizer, config = system.tokenizer, system.config
    if isinstance(tokenizer, CausalPatchTokenizer) and is_new:
        frames = clips_of(data, FIT_CLIPS, "fit")
        generator = torch.Generator().manual_seed(derive_seed(seed, 0, "fit"))
        tokenizer.fit(rearrange(frames, "b v t c h w -> (b v) t c h w"), generator)
        if config.carries_past:
            system.fit_latents(encode_views(tokenizer, frames))
    if plans.plans is not None:
        system.fit_plans(plans.plans)


class _Batches:
    """Batches of a stage, with negatives that are mined as they come where asked for; before the
    first stage after a learnt tokenizer, its latents' mean and deviation are measured."""

    def __init__(
        self,
        system: ReWorld,
        data: StageData,
        options: TrainOptions,
        mining: OnlineMining | None,
    ) -> None:
        self._system, self._data, self._mining = system, data, mining
        # A checkpoint of a later stage brings its statistics with the weights.
        self._measures = not options.resume or reached_stage(options.out) in (None, "tokenizer")

    def __call__(self, stage: Stage) -> Any:
        tokenizer = self._system.tokenizer
        if (
            self._measures
            and isinstance(tokenizer, CausalVAE)
            and not bool(tokenizer.is_measured)
            and stage.name != "tokenizer"
        ):
            frames = clips_of(self._data, FIT_CLIPS, "fit")
            tokenizer.fit_statistics(rearrange(frames, "b v t c h w -> (b v) t c h w"))
        plain = self._data.batches(stage)
        if stage.name != "joint" or self._mining is None:
            return plain
        return self._mining.batches(plain, self._system)


class _Sampler:
    """Draws and writes samples."""

    def __init__(self, options: TrainOptions, data: StageData, sampling: FlowSampling) -> None:
        self._options, self._data, self._sampling = options, data, sampling
        self._batch: Batch | None = None

    def __call__(self, system: ReWorld, step: int) -> None:
        if isinstance(system.tokenizer, CausalVAE) and not bool(system.tokenizer.is_measured):
            return
        if self._batch is None:
            self._batch = next(self._data.first(4, "samples"))
        batch, config = self._batch.to(system.device), system.config
        assert batch.frames is not None
        actions = batch.actions if config.future_actions else None
        prompt = Prompt(batch.captions, actions, batch.has_actions, batch.fps, batch.plan)
        dream = system.generate(
            batch.frames[:, :, : config.num_past],
            prompt,
            self._sampling,
            torch.Generator(system.device).manual_seed(self._options.seed),
        )
        write_sample(self._options.out, step, batch.frames, dream.frames, config.fps)


def _record(
    options: TrainOptions, recipe: ReWorldRecipe, config: ReWorldConfig, sampling: FlowSampling
) -> dict[str, Any]:
    """What config.json keeps; a resumed run must say the same."""

    def text(path: Path | None) -> str | None:
        return None if path is None else str(path)

    return {
        "name": recipe.name,
        "data": [str(Path(path)) if "://" not in path else path for path in options.data],
        "weights": list(options.weights),
        "clip_stride": options.clip_stride or recipe.clip_stride,
        "init": options.init,
        **({"no_world_model": True} if options.no_world_model else {}),
        "video_weights": text(options.video_weights),
        "pool": text(options.pool),
        "mining": _mining_record(options),
        "system_config": config_to_json(config),
        "sampling": config_to_json(sampling),
    }


def _mining_record(options: TrainOptions) -> dict[str, Any]:
    """How negatives are found, where the user said so."""
    names = ("mine_online", "threshold", "metric", *ONLINE_ONLY)
    asked = {name: getattr(options, name) for name in names}
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asked.items()
        if value not in (None, False)
    }
