"""The work of `maskworld train mask-world-model-...`: its stages in turn on the user's data."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from maskworld.cli.robot_data import (
    STATISTICS_FILE,
    RobotRecordings,
    check_fits_model,
    check_usable,
    demonstrated_chunks,
    fit_robot_config,
    is_policy,
    measure_control,
    open_recordings,
    open_robot_data,
    with_widths,
)
from maskworld.cli.stage_choice import (
    asked_stages,
    refuse_beside_init,
    rows_asked_for,
    split_tokenizer,
    tokenizer_asked_for,
)
from maskworld.cli.stage_data import StageData
from maskworld.cli.train import TrainOptions
from maskworld.cli.training import (
    check_run,
    reached_stage,
    train_and_release,
    with_settings,
    write_sample,
)
from maskworld.data.control_statistics import ControlStatistics
from maskworld.nn.config_io import config_to_json
from maskworld.nn.weights_io import load_state_tensors, state_tensors
from maskworld.recipes.open import load_mask_world_model
from maskworld.recipes.recipe import MaskWorldModelRecipe
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.mask_world_model import MaskWorldModel, MaskWorldModelConfig
from maskworld.tokenizers.causal_patch import CausalPatchTokenizer
from maskworld.tokenizers.causal_vae import CausalVAE
from maskworld.tokenizers.latent import PretrainedVideoVAEConfig
from maskworld.training.config import Stage, shortened
from maskworld.training.distributed import derive_seed
from maskworld.types import Batch

ACTS = ("action.", "action_prior.", "inverse_dynamics.", "normaliser.")
"""Beginnings of the names of what depends on the robot's numbers."""
FIT_CLIPS = 160
"""Clips that patch latents and statistics of latents are fitted on."""
NOT_OF_ROBOTS = ("no_world_model", "pool", "mine_online", "num_frames", "fps")
"""Of `TrainOptions`."""


@dataclass(frozen=True)
class Plan:
    """What a run starts from."""

    config: MaskWorldModelConfig
    initial: MaskWorldModel | None
    sampling: FlowSampling
    statistics: ControlStatistics | None
    """None for a model that has not learnt to act."""


def run_robot_training(options: TrainOptions, recipe: MaskWorldModelRecipe) -> None:
    """Everything that can be wrong with the settings and the data is found before the run folder
    is made; a run that fails before its first checkpoint leaves none."""
    _refuse(options)
    has_checkpoint = check_run(options)
    chosen = choose_robot_stages(options, recipe)
    recordings = open_recordings(options.data)
    plan = _plan(options, recipe, recordings, chosen)
    config = plan.config
    stages = _with_settings(options, chosen, config)
    stride = recipe.clip_stride if options.clip_stride is None else options.clip_stride
    data = open_robot_data(options, recordings, config, plan.statistics, stride)
    for stage in stages:
        data.datasets_of(stage)
    system = _build_system(options, plan, is_resumed=has_checkpoint)
    is_new, model = plan.initial is None, options.out / "model"

    def save_statistics(folder: Path) -> None:
        if plan.statistics is not None:
            plan.statistics.save(folder / STATISTICS_FILE)

    hints = []
    if config.target == "mask":
        hints.append(f"Score it:  maskworld evaluate {model} --data HELD_OUT")
    if any(is_policy(stage) for stage in stages):
        hints.append(f"Try it:    maskworld evaluate {model} --world metaworld --tasks TASK ...")
        hints.append(f"Serve it:  maskworld serve {model}")
    train_and_release(
        options,
        system,
        stages,
        data,
        plan.sampling,
        fit=lambda: _fit(system, data, recordings, options.seed, is_new=is_new),
        batches=_Batches(system, data, options, is_new=is_new),
        record=_record(options, recipe, plan, stride),
        on_sample=_Sampler(options, data, plan.sampling),
        also_save=save_statistics,
        hints=hints,
    )


def _refuse(options: TrainOptions) -> None:
    given = [name for name in NOT_OF_ROBOTS if getattr(options, name) not in (None, (), False)]
    if given:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(
            f"Expected no {flags} with {options.recipe}: its recipe says how many frames it "
            "remembers and predicts, in steps of the robot; pools and mining are ReWorld's."
        )


# ---------------------------------------------------------------------------------------- stages


def choose_robot_stages(options: TrainOptions, recipe: MaskWorldModelRecipe) -> list[Stage]:
    """The recipe's stages that the user asks for, all by default. The tokenizer's own is left out
    with --init.

    Raises:
        ValueError: unknown names, both ways of asking, or a policy whose world nobody trains.
    """
    tokenizer, rows = split_tokenizer(options, recipe.stages)
    asked_stages(options, recipe.name, rows)
    return [*tokenizer, *rows_asked_for(options, rows)]


def _with_settings(
    options: TrainOptions, stages: Sequence[Stage], config: MaskWorldModelConfig
) -> list[Stage]:
    """The stages with the user's settings. The policy's draws no samples where it reads no
    futures."""
    if options.tokenizer_steps is not None and all(s.name != "tokenizer" for s in stages):
        warnings.warn("--tokenizer-steps has no effect: no tokenizer is trained", stacklevel=3)
    found = []
    for stage in stages:
        if stage.name == "tokenizer":
            found.append(shortened(stage, options.tokenizer_steps))
            continue
        stage = with_settings(options, stage)
        if is_policy(stage) and not config.world_loss_weight:
            stage = replace(stage, sample_every=0)
        found.append(stage)
    return found


# ---------------------------------------------------------------------------------------- system


def _plan(
    options: TrainOptions,
    recipe: MaskWorldModelRecipe,
    recordings: Sequence[RobotRecordings],
    stages: Sequence[Stage],
) -> Plan:
    """What the recipe or the model, the options and the data ask for."""
    plan = (
        _new(options, recipe, recordings)
        if options.init is None
        else _continued(options, options.init, recordings)
    )
    config = plan.config
    check_usable(recordings, stages, config.target)
    imitated = [each for each in recordings if each.has_control]
    lacks_masks = [each.path for each in imitated if not each.has_masks]
    if config.world_loss_weight and config.target == "mask" and lacks_masks:
        warnings.warn(
            f"{', '.join(lacks_masks)} has no masks: stage policy leaves out its share of the "
            "world's loss (world_loss_weight)",
            stacklevel=3,
        )
        config = replace(config, world_loss_weight=0.0)
    return replace(plan, config=config)


def _new(
    options: TrainOptions, recipe: MaskWorldModelRecipe, recordings: Sequence[RobotRecordings]
) -> Plan:
    statistics = measure_control(recordings)
    config = replace(recipe.system, target=options.target or recipe.system.target)
    config = fit_robot_config(config, recordings, statistics, options.frame_size)
    tokenizer = tokenizer_asked_for(
        options, config.tokenizer, recipe.name, "mask-world-model-paper"
    )
    config = replace(config, tokenizer=tokenizer)
    return Plan(config, None, recipe.sampling, statistics)


def _continued(options: TrainOptions, model: str, recordings: Sequence[RobotRecordings]) -> Plan:
    """A model that never acted learns it from data of any robot; another stays with its own."""
    refuse_beside_init(options, ("tokenizer", "video_weights", "frame_size", "target"))
    release = load_mask_world_model(model)
    system = release.system
    if system.normaliser.is_fitted:
        statistics: ControlStatistics | None = ControlStatistics.load(Path(model) / STATISTICS_FILE)
        check_fits_model(system.config, recordings, statistics)
        return Plan(system.config, system, release.decoding, statistics)
    check_fits_model(system.config, recordings, None)
    statistics = measure_control(recordings)
    config = system.config if statistics is None else with_widths(system.config, statistics)
    return Plan(config, system, release.decoding, statistics)


def _build_system(options: TrainOptions, plan: Plan, *, is_resumed: bool) -> MaskWorldModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(options.seed, 0, "weights"))
        system = MaskWorldModel(plan.config)
    if plan.initial is not None:
        tensors = state_tensors(plan.initial)
        if not plan.initial.normaliser.is_fitted:  # this robot may have other numbers
            fresh = state_tensors(system)
            tensors = {k: v for k, v in tensors.items() if not k.startswith(ACTS)}
            tensors |= {k: v for k, v in fresh.items() if k.startswith(ACTS)}
        load_state_tensors(system, tensors, str(options.init))
    elif options.video_weights is not None:
        from maskworld.weights.ltx import load_ltx_into

        if not is_resumed:
            load_ltx_into(system.video, options.video_weights)
    elif isinstance(plan.config.tokenizer, PretrainedVideoVAEConfig):
        warnings.warn(
            f"{options.recipe} starts from LTX-Video's weights in the paper; without "
            "--video-weights the video tower is trained from scratch",
            stacklevel=3,
        )
    return system


# --------------------------------------------------------------------------------- what is fitted


def _fit(
    system: MaskWorldModel,
    data: StageData,
    recordings: Sequence[RobotRecordings],
    seed: int,
    *,
    is_new: bool,
) -> None:
    """Fits what is measured on data, not learnt: patch latents, ranges of control. What came
    fitted stays. Alike in all processes."""
    if isinstance(system.tokenizer, CausalPatchTokenizer) and is_new:
        generator = torch.Generator().manual_seed(derive_seed(seed, 0, "fit"))
        system.fit_tokenizer(_some_clips(data), generator)
    if not system.normaliser.is_fitted and any(each.has_control for each in recordings):
        system.fit_control(demonstrated_chunks(recordings, system.config.chunk))


def _some_clips(data: StageData) -> Batch:
    """Clips with their futures, the same in all processes."""
    loader = data.first(8, "fit")
    found: list[Any] = []
    while sum(len(batch.frames) for batch in found) < FIT_CLIPS:
        found.append(next(loader))
    has_labels = found[0].labels is not None
    return Batch(
        torch.cat([batch.frames for batch in found]),
        labels=torch.cat([batch.labels for batch in found]) if has_labels else None,
        captions=[caption for batch in found for caption in batch.captions],
    )


class _Batches:
    """Batches of a stage; before the first one after the tokenizer's, latents are measured: of a
    learnt tokenizer their mean and deviation, and the average future."""

    def __init__(
        self, system: MaskWorldModel, data: StageData, options: TrainOptions, *, is_new: bool
    ) -> None:
        self._system, self._data = system, data
        # A checkpoint of a later stage brings its statistics with the weights.
        is_early = not options.resume or reached_stage(options.out) in (None, "tokenizer")
        self._measures = is_new and is_early

    def __call__(self, stage: Stage) -> Any:
        if self._measures and stage.name != "tokenizer":
            self._measures = False
            self._measure()
        return self._data.batches(stage)

    @torch.no_grad()
    def _measure(self) -> None:
        system = self._system
        learns = isinstance(system.tokenizer, CausalVAE)
        if not (learns or system.config.carries_mean):
            return
        clips = _some_clips(self._data).to(system.device)
        if isinstance(system.tokenizer, CausalVAE):
            system.tokenizer.fit_statistics(system.clips.tokenizer_clips(clips))
        system.fit_latents(system.clips.encode(clips, with_future=True))


class _Sampler:
    """Draws and writes samples: what came above, what was dreamt below, cameras side by side."""

    def __init__(self, options: TrainOptions, data: StageData, sampling: FlowSampling) -> None:
        self._options, self._data, self._sampling = options, data, sampling
        self._batch: Batch | None = None

    def __call__(self, system: MaskWorldModel, step: int) -> None:
        if self._batch is None:
            self._batch = next(self._data.first(4, "samples"))
        batch = self._batch.to(system.device)
        generator = torch.Generator(system.device).manual_seed(self._options.seed)
        dreamt = system.rollout(batch, generator, self._sampling).frames
        real = system.clips.target_frames(batch)
        last = system.config.num_memory - 1
        now = system.clips.frames(batch)[:, :, last : last + 1]
        fps = float(system.config.fps)
        write_sample(self._options.out, step, _beside(now, real), _beside(now, dreamt), fps)


def _beside(
    now: UInt8[Tensor, "b v one c h w"], future: UInt8[Tensor, "b v f c h w"]
) -> UInt8[Tensor, "b view t c h w2"]:
    """Now and the future, cameras side by side in one view."""
    return rearrange(torch.cat([now, future], dim=2), "b v t c h w -> b 1 t c h (v w)")


def _record(
    options: TrainOptions, recipe: MaskWorldModelRecipe, plan: Plan, clip_stride: int
) -> dict[str, Any]:
    """What config.json keeps; a resumed run must say the same."""
    return {
        "name": recipe.name,
        "data": [str(Path(path)) for path in options.data],
        "weights": list(options.weights),
        "clip_stride": clip_stride,
        "init": options.init,
        "video_weights": None if options.video_weights is None else str(options.video_weights),
        "color_jitter": options.color_jitter,
        "recolor": list(options.recolor),
        "system_config": config_to_json(plan.config),
        "sampling": config_to_json(plan.sampling),
    }
