"""The work of `maskworld generate`: from the user's files to tokens, and from tokens to a video."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from maskworld.cli import inputs
from maskworld.cli.errors import nearest
from maskworld.cli.generate import GenerateOptions
from maskworld.data.storage import atomic_path
from maskworld.data.transforms import ResizeCrop
from maskworld.data.video_files import write_video
from maskworld.recipes.open import load_worlddreamer, system_name
from maskworld.samplers.parallel import ParallelDecoding
from maskworld.systems.maskgwm import MaskGWM
from maskworld.systems.reworld import ReWorld
from maskworld.systems.worlddreamer import (
    TASKS,
    Task,
    WorldDreamer,
    region_of_pixels,
    task_mask,
)
from maskworld.tokenizers.token_grid import TokenGrid
from maskworld.training.distributed import Processes, choose_device
from maskworld.types import Clip, Prompt

GUIDED_BY_TEXT = "it is guided by --guidance-scale"
PAPER_KEEP = 0.25
"""Share of tokens that stylization keeps in models that read no reference. Ours; the paper gives
none."""


def generate_video(options: GenerateOptions) -> None:
    """Reads and checks all inputs, dreams, writes one file."""
    inputs.check_output(options.out, (".mp4", ".npy"))
    name = system_name(options.model)
    if name == ReWorld.name:
        from maskworld.cli.reworld_dreaming import dream_on

        dream_on(options)
        return
    if name == MaskGWM.name:
        from maskworld.cli.maskgwm_dreaming import roll_out_video

        roll_out_video(options)
        return
    refuse(
        options,
        {"gamma": GUIDED_BY_TEXT, "cfg_scale": GUIDED_BY_TEXT},
        "WorldDreamer",
    )
    options = replace(options, num_context=options.num_context or 1)
    task = choose_task(options)
    release = load_worlddreamer(options.model)
    system = release.system.to(choose_device(options.device, Processes()))
    if isinstance(system.tokenizer, TokenGrid) and options.out.suffix != ".npy":
        raise ValueError(
            f"Expected --out to end in .npy, found {options.out.name!r}: this model "
            f"dreams codes of {system.tokenizer.config.name!r} and has no decoder to draw them."
        )
    decoding = _decoding(options, release.decoding)
    generator = torch.Generator().manual_seed(options.seed)
    num_frames = _num_frames(options, task, system)
    tokens, hidden = _given(options, task, system, num_frames, generator)
    prompt = _prompt(options, system, num_frames)
    started = time.perf_counter()
    with torch.no_grad():
        if task == "stylization":
            keep = options.keep
            if keep is None and not system.config.backbone.reference:
                keep = PAPER_KEEP
            tokens = system.stylize(prompt, tokens, decoding, generator, keep).tokens
        else:
            tokens = dream(system, prompt, tokens, hidden, decoding, generator)
        _write(options.out, system, tokens)
    seconds = time.perf_counter() - started
    print(f"{task}: {num_frames} frames in {seconds:.1f} s -> {options.out}")


def refuse(options: GenerateOptions, reasons: Mapping[str, str], system: str) -> None:
    """Raises ValueError for an option that means nothing to a system, with the reason.

    Args:
        reasons: by the name of the option.
    """
    defaults = {field.name: field.default for field in fields(GenerateOptions)}
    for name, reason in reasons.items():
        if getattr(options, name) != defaults[name]:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"Expected no {flag} for a model of {system}: {reason}.")


def choose_task(options: GenerateOptions) -> Task:
    """The task asked for, or the one that the inputs suggest, with the inputs that it needs.

    Raises:
        ValueError: an unknown task, or inputs that are missing or have no place in it.
    """
    name = options.task
    if name == "auto":
        if options.box or options.mask:
            name = "inpainting"
        elif len(options.image) == 2:
            name = "interpolation"
        elif options.image or options.video:
            name = "action-to-video" if options.actions else "image-to-video"
        else:
            name = "text-to-video"
    task = next((task for task in TASKS if task == name), None)
    if task is None:
        raise ValueError(
            f"Expected a task of {', '.join(TASKS)}, found {name!r}.{nearest(name, TASKS)}"
        )
    _check_inputs(options, task)
    return task


def _check_inputs(options: GenerateOptions, task: Task) -> None:
    num_images, has_video = len(options.image), options.video is not None
    needs, holds = {
        "text-to-video": ("--prompt, and no --image or --video", not num_images and not has_video),
        "image-to-video": ("one --image, or a --video to continue", num_images + has_video == 1),
        "action-to-video": (
            "--actions, and one --image or a --video to continue",
            num_images + has_video == 1 and options.actions is not None,
        ),
        "inpainting": ("--video, and --box or --mask", has_video and not num_images),
        "stylization": ("--video and --prompt", has_video and not num_images and options.prompt),
        "interpolation": (
            "two of --image (first, last), or a --video whose ends to join",
            (num_images, has_video) in ((2, False), (0, True)),
        ),
    }[task]
    if not holds or (task == "text-to-video" and not options.prompt):
        raise ValueError(f"Expected {needs} for {task}: see `maskworld generate --help`.")
    if task != "inpainting" and (options.box or options.mask):
        raise ValueError(f"Expected --box or --mask with the task inpainting only, found {task}.")
    if options.keep is not None and not 0 < options.keep < 1:
        raise ValueError(f"Expected --keep above 0 and below 1, found {options.keep}.")


def dream(
    system: WorldDreamer,
    prompt: Prompt,
    tokens: Int[Tensor, "1 t gh gw"],
    hidden: Bool[Tensor, "1 t gh gw"],
    decoding: ParallelDecoding,
    generator: torch.Generator,
) -> Int[Tensor, "1 t gh gw"]:
    """Fills in the hidden tokens, window by window where the video is longer than one.

    Beyond one window only the end may be hidden: text, image and action to video.
    """
    window, num_frames = system.config.num_frames, tokens.shape[1]
    if num_frames <= window:
        return system.generate(prompt, tokens, hidden, decoding, generator).tokens
    num_given = int((~hidden).all(dim=(-1, -2)).sum())
    context = tokens[:, :num_given]
    if num_given == 0:
        actions = None if prompt.actions is None else prompt.actions[:, :window]
        first = replace(prompt, actions=actions)
        context = system.generate(
            first, tokens[:, :window], hidden[:, :window], decoding, generator
        ).tokens
    return system.extend(prompt, context, num_frames, decoding, generator)


def _decoding(options: GenerateOptions, released: ParallelDecoding) -> ParallelDecoding:
    asked: dict[str, Any] = {
        "num_steps": options.steps,
        "order": options.order,
        "scope": options.scope,
        "temperature": options.temperature,
        "guidance_scale": options.guidance_scale,
    }
    return replace(released, **{k: v for k, v in asked.items() if v is not None})


def _num_frames(options: GenerateOptions, task: Task, system: WorldDreamer) -> int:
    window = system.config.num_frames
    num_frames = window if options.num_frames is None else options.num_frames
    fewest = 1 if task == "text-to-video" else 2
    if num_frames < fewest:
        raise ValueError(f"Expected --num-frames of at least {fewest}, found {num_frames}.")
    if task in ("inpainting", "stylization", "interpolation") and num_frames > window:
        raise ValueError(
            f"Expected at most {window} frames for {task}, the window of this model, found "
            f"--num-frames {num_frames}: only the future can be dreamt beyond one window."
        )
    assert options.num_context is not None
    if options.video and not 1 <= options.num_context < num_frames:
        raise ValueError(
            f"Expected --num-context of 1 to {num_frames - 1} of {num_frames} frames, found "
            f"{options.num_context}."
        )
    return num_frames


def _given(
    options: GenerateOptions,
    task: Task,
    system: WorldDreamer,
    num_frames: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Tokens `1 t gh gw` and which of them are hidden."""
    size, stride = system.config.frame_size, system.tokenizer.stride
    tokens = torch.zeros(1, num_frames, size[0] // stride, size[1] // stride, dtype=torch.long)
    given = options.num_context if options.video and options.num_context is not None else 1
    places: list[int] = {
        "text-to-video": [],
        "image-to-video": list(range(given)),
        "action-to-video": list(range(given)),
        "interpolation": [0, -1],
    }.get(task, list(range(num_frames)))
    region = None
    if places:
        codes, fill = _read_given(options, task, system, places)
        if codes.shape[1:] != tokens.shape[2:]:
            raise ValueError(
                f"Expected codes on a grid of {tuple(tokens.shape[2:])}, as the model was trained, "
                f"found {tuple(codes.shape[1:])} in {options.video}."
            )
        tokens[0, places] = codes.cpu()
        if fill is not None:
            region = region_of_pixels(fill[None, None], stride).expand(tokens.shape)
    b, t, gh, gw = tokens.shape
    hidden = task_mask(task, (b, t, gh, gw), generator, region)
    if task in ("image-to-video", "action-to-video"):
        hidden[:, places] = False
    return tokens, hidden


def _read_given(
    options: GenerateOptions, task: Task, system: WorldDreamer, places: list[int]
) -> tuple[Int[Tensor, "n gh gw"], Bool[Tensor, "h w"] | None]:
    """Tokens of the given frames, and for inpainting the pixels to fill in."""
    if options.video is not None and options.video.suffix in (".npy", ".npz"):
        codes = inputs.read_codes(options.video, places, task, system.tokenizer.vocab_size)
        return torch.from_numpy(codes), _region(options, task, codes.shape[1:])
    if options.video is not None:
        sources = [inputs.read_frames(options.video, places, task)]
    else:
        sources = [inputs.read_image(path)[None] for path in options.image]
    region = _region(options, task, sources[0].shape[1:3])
    fit, clips = ResizeCrop(system.config.frame_size), []
    for frames in sources:  # the region goes the way of the pixels
        labels = None if region is None else repeat(region, "h w -> 1 t h w", t=len(frames))
        pixels = torch.from_numpy(rearrange(frames, "t h w c -> 1 t c h w").copy())
        clips.append(fit(Clip(frames=pixels, labels=labels), torch.Generator()))
    pixels = torch.cat([clip.frames for clip in clips if clip.frames is not None], dim=1)
    labels = clips[0].labels
    tokens = system.tokenize(pixels[None].to(system.null_text.device))
    return tokens[0, 0], None if labels is None else labels[0, 0].bool()


def _region(
    options: GenerateOptions, task: Task, size: tuple[int, ...]
) -> UInt8[Tensor, "h w"] | None:
    if task != "inpainting":
        return None
    region = inputs.region_to_fill(options.box, options.mask, (size[0], size[1]))
    return torch.from_numpy(region.astype(np.uint8))


def _prompt(options: GenerateOptions, system: WorldDreamer, num_frames: int) -> Prompt:
    """Words and actions; a warning where the model has no use for them."""
    if options.prompt and system.text_encoder is None:
        warnings.warn("--prompt has no effect: this model was trained without text", stacklevel=2)
    actions = None
    if options.actions is not None:
        if system.action_encoder is None:
            raise ValueError("Expected no --actions: this model was trained without actions.")
        rows = inputs.read_action_file(options.actions, num_frames, system.config.action_dim)
        actions = torch.from_numpy(rows)[None]
    return Prompt([options.prompt], actions, fps=torch.tensor([system.config.fps]))


def _write(out: Path, system: WorldDreamer, tokens: Tensor) -> None:
    if out.suffix == ".npy":
        with atomic_path(out, what="the tokens of a dream") as temporary:
            np.save(temporary, tokens[0].cpu().numpy())
        return
    frames = rearrange(system.draw(tokens).cpu().numpy(), "1 1 t c h w -> t h w c")
    write_video(out, frames, system.config.fps)
