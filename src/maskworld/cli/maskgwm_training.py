"""The work of `maskworld train maskgwm-...`: its stages in turn on the user's data."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from maskworld.cli.maskgwm_data import (
    open_maskgwm_data,
    say_what_is_read,
    write_cameras,
)
from maskworld.cli.maskgwm_plan import Plan, plan_run
from maskworld.cli.stage_choice import (
    asked_stages,
    kind_of,
    rows_asked_for,
    split_tokenizer,
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
from maskworld.nn.config_io import config_to_json
from maskworld.nn.weights_io import load_state_tensors, state_tensors
from maskworld.recipes.recipe import MaskGWMRecipe
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.maskgwm import MaskGWM, MaskGWMConfig
from maskworld.tokenizers.causal_patch import CausalPatchTokenizer
from maskworld.tokenizers.causal_vae import CausalVAE
from maskworld.tokenizers.image_latents import encode_images
from maskworld.tokenizers.latent import PretrainedImageVAEConfig
from maskworld.training.config import Stage, shortened
from maskworld.training.distributed import derive_seed, processes_from_environment
from maskworld.types import Batch, Prompt

FIT_FRAMES = 640
"""Frames that patch latents and statistics of latents are fitted on."""
ADDED = (".temporal.", ".views.", "signals.", "modulation.", "mask_tokens.", "branch.")
"""Parts of names of what later stages put into a network: it starts fresh where a model of --init
has none of it."""
LEFT_OUT = ("mask_tokens.", "branch.")
"""Beginnings of the names of what --no-reconstruction takes out of such a model."""


def run_maskgwm_training(options: TrainOptions, recipe: MaskGWMRecipe) -> None:
    """Everything that can be wrong with the settings and the data is found before the run folder
    is made; a run that fails before its first checkpoint leaves none."""
    has_checkpoint = check_run(options)
    chosen = choose_maskgwm_stages(options, recipe)
    recordings, plan = plan_run(options, recipe)
    stages = _with_settings(options, chosen, plan)
    _check_sizes(stages, plan.config)
    stride = recipe.clip_stride if options.clip_stride is None else options.clip_stride
    data = open_maskgwm_data(options, recordings, plan.config, stride)
    _check_stages(stages, data)
    system = _build_system(options, plan, is_resumed=has_checkpoint)
    if processes_from_environment().is_main:
        say_what_is_read(recordings, plan.cameras, plan.config)
    is_new, model = plan.initial is None, options.out / "model"
    train_and_release(
        options,
        system,
        stages,
        data,
        plan.sampling,
        fit=lambda: _fit(system, data, options.seed) if is_new else None,
        batches=_Batches(system, data, options, is_new=is_new),
        record=_record(options, recipe, plan, stride),
        on_sample=_Sampler(options, data, plan.sampling),
        also_save=lambda folder: write_cameras(folder, plan.cameras),
        hints=[
            f"Score it:  maskworld evaluate {model} --data HELD_OUT",
            f"Dream:     maskworld generate {model} --video PAST --num-frames 200 --out dream.mp4",
        ],
    )


# ---------------------------------------------------------------------------------------- stages


def choose_maskgwm_stages(options: TrainOptions, recipe: MaskGWMRecipe) -> list[Stage]:
    """The recipe's stages that the user asks for, all by default. The tokenizer's own is left out
    with --init.

    Raises:
        ValueError: unknown names, both ways of asking, or a stage whose forerunners nobody trains.
    """
    tokenizer, rows = split_tokenizer(options, recipe.stages)
    asked_stages(options, recipe.name, rows)
    return [*tokenizer, *rows_asked_for(options, rows)]


def _with_settings(options: TrainOptions, stages: Sequence[Stage], plan: Plan) -> list[Stage]:
    """The stages with the user's settings; single frames have no future to draw."""
    if options.tokenizer_steps is not None and all(s.name != "tokenizer" for s in stages):
        warnings.warn("--tokenizer-steps has no effect: no tokenizer is trained", stacklevel=3)
    one = replace(options, num_frames=options.num_frames[:1])
    found = []
    for stage in stages:
        if stage.name == "tokenizer":
            found.append(shortened(stage, options.tokenizer_steps))
            continue
        row = with_settings(one, stage)
        found.append(replace(row, sample_every=0) if kind_of(stage) == "image" else row)
    return found


def _check_sizes(stages: Sequence[Stage], config: MaskGWMConfig) -> None:
    """Checks that every stage's frames make whole tokens, and that masks drop whole ones.

    Raises:
        ValueError: other sizes; names the nearest.
    """
    unit = config.tokenizer.stride * config.network.patch_size
    masks, columns = config.reconstruction, 1
    if masks is not None:  # as many columns as a row needs to lose a whole number
        columns = next(n for n in range(1, 1000) if abs(n * masks.ratio % 1 - 0.5) > 0.499)
    for stage in stages:
        height, width = stage.frame_size or config.frame_size
        step = unit * (columns if stage.name.startswith("masked") else 1)
        if height % unit or width % step:
            nearest = max(1, round(height / unit)) * unit, max(1, round(width / step)) * step
            why = "" if step == unit else f", of which masks drop {masks.ratio:g} of a row"  # type: ignore[union-attr]
            raise ValueError(
                f"Expected frames of a height in multiples of {unit} and a width in multiples of "
                f"{step} (tokens of {unit} pixels{why}), found {height} {width} in stage "
                f"{stage.name}: pass --frame-size {nearest[0]} {nearest[1]}."
            )


def _check_stages(stages: Sequence[Stage], data: StageData) -> None:
    """Opens the data of all stages."""
    for stage in stages:
        if not data.datasets_of(stage):
            raise ValueError(
                f"Expected recordings for stage {stage.name}, found single images only: give "
                "videos too, or train on the images alone with --stages image."
            )


# ---------------------------------------------------------------------------------------- system


def _build_system(options: TrainOptions, plan: Plan, *, is_resumed: bool) -> MaskGWM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(options.seed, 0, "weights"))
        system = MaskGWM(plan.config)
    if plan.initial is not None:
        fresh = state_tensors(system)
        tensors = {
            name: value
            for name, value in state_tensors(plan.initial).items()
            if name in fresh or not (options.no_reconstruction and name.startswith(LEFT_OUT))
        }
        added = {
            name: value
            for name, value in fresh.items()
            if name not in tensors and any(part in name for part in ADDED)
        }
        load_state_tensors(system, tensors | added, str(options.init))
        if added and processes_from_environment().is_main:
            parts = {next(part for part in ADDED if part in name).strip(".") for name in added}
            print(f"new beside --init: {', '.join(sorted(parts))}", file=sys.stderr)
    elif options.video_weights is not None:
        from maskworld.weights.sd3 import load_sd3_into

        if not is_resumed:
            load_sd3_into(system.network, options.video_weights)
    elif isinstance(plan.config.tokenizer, PretrainedImageVAEConfig):
        warnings.warn(
            f"{options.recipe} starts from Stable Diffusion 3's weights in the paper; without "
            "--video-weights the network is trained from scratch",
            stacklevel=3,
        )
    return system


# ------------------------------------------------------------------------------- what is fitted


def _fit(system: MaskGWM, data: StageData, seed: int) -> None:
    """Fits what is measured on data, not learnt: patch latents, how far futures are from a still
    first frame. Alike in all processes."""
    tokenizer = system.tokenizer
    is_patches = isinstance(tokenizer, CausalPatchTokenizer)
    if isinstance(tokenizer, CausalVAE) or not (is_patches or system.config.carries_past):
        return  # a learnt tokenizer is measured after its stage, a published one never
    clips = _some_clips(data)
    if isinstance(tokenizer, CausalPatchTokenizer):
        generator = torch.Generator().manual_seed(derive_seed(seed, 0, "fit"))
        fit_patches(tokenizer, clips, generator)
    _measure_misses(system, clips)


def fit_patches(
    tokenizer: CausalPatchTokenizer,
    clips: Sequence[UInt8[Tensor, "b v t c h w"]],
    generator: torch.Generator,
) -> None:
    """Fits patch latents of single frames: every frame begins a clip that stands still."""
    frames = torch.cat([rearrange(part, "b v t c h w -> (b v t) 1 c h w") for part in clips])
    frames = frames[:: max(1, len(frames) // (FIT_FRAMES // 2))]
    still = frames.expand(-1, 1 + tokenizer.temporal_stride, -1, -1, -1)
    tokenizer.fit(still, generator)


def _some_clips(data: StageData) -> list[UInt8[Tensor, "b v t c h w"]]:
    """Clips of all sources, the same in all processes; their cameras may differ in number."""
    loader = data.first(4, "fit")
    found: list[Any] = []
    while sum(part.shape[:3].numel() for part in found) < FIT_FRAMES:
        found.append(next(loader).frames)
    return found


@torch.no_grad()
def _measure_misses(system: MaskGWM, clips: Sequence[UInt8[Tensor, "b v t c h w"]]) -> None:
    if not system.config.carries_past or clips[0].shape[2] < 2:
        return
    shown = max(clips, key=len)
    alike = [part for part in clips if part.shape[1:] == shown.shape[1:]]
    device = system.device
    system.fit_latents(encode_images(system.tokenizer, torch.cat(alike).to(device)))


class _Batches:
    """Batches of a stage; before the first one after a learnt tokenizer's, its latents' mean and
    deviation are measured."""

    def __init__(
        self, system: MaskGWM, data: StageData, options: TrainOptions, *, is_new: bool
    ) -> None:
        self._system, self._data = system, data
        # A checkpoint of a later stage brings its statistics with the weights.
        is_early = not options.resume or reached_stage(options.out) in (None, "tokenizer")
        self._measures = is_new and is_early and isinstance(system.tokenizer, CausalVAE)

    def __call__(self, stage: Stage) -> Any:
        tokenizer = self._system.tokenizer
        if self._measures and stage.name != "tokenizer" and isinstance(tokenizer, CausalVAE):
            self._measures = False
            clips = [part.to(self._system.device) for part in _some_clips(self._data)]
            frames = [rearrange(part, "b v t c h w -> (b v t) 1 c h w") for part in clips]
            tokenizer.fit_statistics(torch.cat(frames))
            _measure_misses(self._system, clips)
        return self._data.batches(stage)


class _Sampler:
    """Draws and writes samples: what came above, what was dreamt below, cameras side by side."""

    def __init__(self, options: TrainOptions, data: StageData, sampling: FlowSampling) -> None:
        self._options, self._data, self._sampling = options, data, sampling
        self._batch: Batch | None = None

    def __call__(self, system: MaskGWM, step: int) -> None:
        if self._batch is None:
            loader = self._data.first(4, "samples")
            drawn = [next(loader) for _ in range(8)]
            self._batch = max(drawn, key=lambda b: 0 if b.is_image else b.frames.shape[1])
        batch, config = self._batch.to(system.device), system.config
        if batch.is_image:
            return  # only images to train on: there is no future to show
        assert batch.frames is not None
        given = max(1, config.min_given)
        latents = system.generate(
            batch.frames[:, :, :given],
            Prompt(batch.captions or None, batch.actions, batch.has_actions, batch.fps),
            self._sampling,
            torch.Generator().manual_seed(self._options.seed),
            batch.frames.shape[2],
        )
        real, dreamt = (
            rearrange(frames, "b v t c h w -> b 1 t c h (v w)")
            for frames in (batch.frames, system.decode(latents))
        )
        write_sample(self._options.out, step, real, dreamt, config.fps)


def _record(
    options: TrainOptions, recipe: MaskGWMRecipe, plan: Plan, clip_stride: int
) -> dict[str, Any]:
    """What config.json keeps; a resumed run must say the same."""
    return {
        "name": recipe.name,
        "data": [str(Path(path)) if "://" not in path else path for path in options.data],
        "weights": list(options.weights),
        "clip_stride": clip_stride,
        "init": options.init,
        "video_weights": None if options.video_weights is None else str(options.video_weights),
        "cameras": plan.cameras,
        "system_config": config_to_json(plan.config),
        "sampling": config_to_json(plan.sampling),
    }
