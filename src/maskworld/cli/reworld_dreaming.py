"""The work of `maskworld generate` for ReWorld: past frames in, the future after them out."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from maskworld.cli import inputs
from maskworld.cli.dreaming import refuse
from maskworld.cli.generate import GenerateOptions
from maskworld.data.transforms import ResizeCrop
from maskworld.data.video_files import VideoReader, write_video
from maskworld.recipes.open import load_reworld
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.reworld import ReWorld
from maskworld.training.distributed import Processes, choose_device
from maskworld.types import Clip, Prompt

NOT_MASKED = "it is a flow model, and fills in no masks"
REASONS = {
    "task": "it has one task, to dream what follows past frames",
    "image": "it needs several past frames, which show how fast things move: give --video",
    "num_context": "it is given as many past frames as it was trained with",
    "box": NOT_MASKED,
    "mask": NOT_MASKED,
    "keep": NOT_MASKED,
    "order": "it decodes no tokens",
    "scope": "it decodes no tokens",
    "temperature": "it decodes no tokens",
    "guidance_scale": "its guidance is --gamma and --cfg-scale",
}
"""Why options of `maskworld generate` mean nothing to ReWorld."""


def dream_on(options: GenerateOptions) -> None:
    """Reads and checks all inputs, dreams, writes one video: the past, then the dream."""
    refuse(options, REASONS, "ReWorld")
    inputs.check_output(options.out, (".mp4",))
    if options.video is None:
        raise ValueError(
            "Expected --video with past frames for a model of ReWorld: see `maskworld generate "
            "--help`."
        )
    release = load_reworld(options.model)
    config = release.system.config
    num_frames = config.num_frames if options.num_frames is None else options.num_frames
    check_num_frames(release.system, num_frames)
    past = read_past(options.video, release.system)
    sampling = with_guidance(release.decoding, options.gamma, options.cfg_scale, options.steps)
    actions = read_future_actions(options.actions, release.system, num_frames)
    if options.prompt and config.text is None:
        warnings.warn("--prompt has no effect: this model was trained without text", stacklevel=2)
    system = release.system.to(choose_device(options.device, Processes()))
    started = time.perf_counter()
    words = [options.prompt] if config.text is not None else None
    dream = system.generate(
        past[None].to(system.device),
        Prompt(words, actions, fps=torch.tensor([config.fps])),
        sampling,
        torch.Generator(system.device).manual_seed(options.seed),
        num_frames,
    )
    write_dream(options.out, dream.frames, config.fps)
    seconds = time.perf_counter() - started
    guidance = sampling.guidance
    print(
        f"{num_frames - config.num_past} frames after {config.num_past} given ones, "
        f"{len(sampling.video.sigmas()) - 1} steps, gamma {guidance.gamma:g}, "
        f"cfg scale {guidance.cfg_scale:g}, in {seconds:.1f} s -> {options.out}"
    )


def read_past(video: Path, system: ReWorld) -> UInt8[Tensor, "1 p c h w"]:
    """The last frames of a video, as many and as large as the model was trained with.

    Raises:
        ValueError: no video, a damaged one, or too few frames.
    """
    needed = system.config.num_past
    with VideoReader(video) as reader:
        if len(reader) < needed:
            raise ValueError(
                f"Expected at least {needed} past frames (about "
                f"{(needed - 1) / system.config.fps:.1f} s at {system.config.fps:g} Hz), found "
                f"{len(reader)} in {video}: give a longer recording."
            )
        frames = reader.read(range(len(reader) - needed, len(reader)))
        recorded = reader.index.fps
    if not np.isclose(recorded, system.config.fps, rtol=0.1):
        warnings.warn(
            f"{video} has {recorded:g} frames per second, the model was trained at "
            f"{system.config.fps:g}: its dream will run at another speed",
            stacklevel=2,
        )
    return fitted(frames, system)


def fitted(frames: UInt8[np.ndarray, "t h w 3"], system: ReWorld) -> UInt8[Tensor, "1 t c h2 w2"]:
    """Frames cut and scaled to the model's size."""
    pixels = torch.from_numpy(rearrange(frames, "t h w c -> 1 t c h w").copy())
    clip = ResizeCrop(system.config.frame_size)(Clip(frames=pixels), torch.Generator())
    assert clip.frames is not None
    return clip.frames


def check_num_frames(system: ReWorld, num_frames: int) -> None:
    """Raises ValueError for a length that the model cannot dream."""
    config, stride = system.config, system.tokenizer.temporal_stride
    fits = num_frames % stride == 1 % stride
    if not fits or not config.num_past < num_frames <= config.num_frames:
        lengths = range(config.num_past + stride, config.num_frames + 1, stride)
        raise ValueError(
            f"Expected --num-frames of {' or '.join(map(str, lengths))}, given frames included, "
            f"found {num_frames}."
        )


def with_guidance(
    sampling: FlowSampling,
    gamma: float | None = None,
    cfg_scale: float | None = None,
    steps: int | None = None,
) -> FlowSampling:
    """The released sampling with what the user asks for.

    Raises:
        ValueError: a scale that is not finite, or no steps.
    """
    for flag, value in (("--gamma", gamma), ("--cfg-scale", cfg_scale)):
        if value is not None and not math.isfinite(value):
            raise ValueError(f"Expected a finite {flag}, found {value}: 1 is no guidance.")
    guidance = sampling.guidance
    if gamma is not None:
        guidance = replace(guidance, gamma=gamma)
    if cfg_scale is not None:
        guidance = replace(guidance, cfg_scale=cfg_scale)
    video = sampling.video
    if steps is not None:
        if video.kind == "explicit":
            raise ValueError("Expected no --steps: this model was released with a list of times.")
        video = replace(video, num_steps=steps)
    return replace(sampling, video=video, guidance=guidance)


def read_future_actions(
    path: Path | None, system: ReWorld, num_frames: int
) -> Float[Tensor, "1 t a"] | None:
    """Actions of a whole window, zeros in the past, from a file of future or of all rows.

    Raises:
        ValueError: a model without actions, or a file that does not fit.
    """
    if path is None:
        return None
    config = system.config
    if not config.future_actions:
        raise ValueError("Expected no --actions: this model was trained without future actions.")
    future = num_frames - config.num_past
    try:
        rows = inputs.read_action_file(path, future, config.future_actions)
    except ValueError as error:
        try:
            rows = inputs.read_action_file(path, num_frames, config.future_actions)[-future:]
        except ValueError as other:
            raise ValueError(f"{error} Read as a whole window: {other}") from other
    return after_past(rows, config.num_past)


def after_past(rows: Sequence[Sequence[float]] | np.ndarray, num_past: int) -> Tensor:
    """Future actions as the model takes them: a row per frame, past ones zero, as it reads none."""
    future = torch.as_tensor(np.asarray(rows, dtype=np.float32))
    return torch.cat([future.new_zeros(num_past, future.shape[1]), future])[None]


def write_dream(out: Path, frames: UInt8[Tensor, "1 v t c h w"], fps: float) -> None:
    """A video, views side by side."""
    video = rearrange(frames.cpu(), "1 v t c h w -> t h (v w) c").contiguous().numpy()
    write_video(out, video, fps)
