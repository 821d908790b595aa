"""The work of `maskworld generate` for MaskGWM: first frames in, a video of any length out, round
by round."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from maskworld import __version__
from maskworld.cli import inputs
from maskworld.cli.dreaming import refuse
from maskworld.cli.generate import GenerateOptions
from maskworld.cli.maskgwm_data import read_cameras
from maskworld.cli.maskgwm_signals import as_prompt, signal_columns
from maskworld.cli.reworld_dreaming import NOT_MASKED, with_guidance
from maskworld.cli.rollout_folder import RolloutFolder, Round
from maskworld.data.cameras import plain_name
from maskworld.data.sources.video_folder import SUFFIXES
from maskworld.data.transforms import ResizeCrop
from maskworld.data.video_files import VideoEncoder, VideoReader, stream_video
from maskworld.nn.config_io import config_to_json
from maskworld.nn.release import WEIGHTS_FILE, find_release
from maskworld.recipes.open import load_maskgwm
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.maskgwm import MaskGWM
from maskworld.training.distributed import Processes, choose_device
from maskworld.types import Clip, Prompt

REASONS = {
    "task": "it has one task, to dream what follows the first frames",
    "box": NOT_MASKED,
    "mask": NOT_MASKED,
    "keep": NOT_MASKED,
    "order": "it decodes no tokens",
    "scope": "it decodes no tokens",
    "temperature": "it decodes no tokens",
    "guidance_scale": "its guidance is --cfg-scale",
    "gamma": "it has no intermediate heads to guide itself with: use --cfg-scale",
}
"""Why options of `maskworld generate` mean nothing to MaskGWM."""


def roll_out_video(options: GenerateOptions) -> None:
    """Reads and checks all inputs, dreams round by round, writes one video. Rounds are kept beside
    it until it is whole, so that a stopped dream goes on."""
    refuse(options, REASONS, "MaskGWM")
    inputs.check_output(options.out, (".mp4",))
    release = load_maskgwm(options.model)
    config = release.system.config
    cameras = read_cameras(find_release(options.model), config.num_views)
    given = read_given(options, release.system, cameras)
    num_given = given.shape[1]
    num_frames = config.num_frames if options.num_frames is None else options.num_frames
    if num_frames <= num_given:
        raise ValueError(
            f"Expected --num-frames above the {num_given} given frames, found {num_frames}."
        )
    sampling = with_guidance(release.decoding, None, options.cfg_scale, options.steps)
    actions = read_signals(options.actions, release.system, num_given, num_frames)
    if options.prompt and config.text is None:
        warnings.warn("--prompt has no effect: this model was trained without text", stacklevel=2)
    prompt = Prompt([options.prompt] if config.text is not None else None, actions)
    command = _command(options, given, actions, sampling, num_frames)
    folder = RolloutFolder(options.out, command)
    system = release.system.to(choose_device(options.device, Processes()))
    before, started = folder.num_done, time.perf_counter()
    if before:
        print(f"going on after {before} of {num_frames} frames in {folder.folder}", flush=True)
    height, width = config.frame_size
    try:
        size = (height, len(given) * width)
        what = f"a video of {num_frames} frames"
        with stream_video(options.out, fps=config.fps, size=size, what=what) as encoder:
            _write_rounds(encoder, folder, system, given, prompt, sampling, options, num_frames)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"Stopped after {folder.num_done} of {num_frames} frames, kept in {folder.folder}: the "
            "same command goes on."
        ) from error
    folder.clear()
    seconds = time.perf_counter() - started
    views = f" of {', '.join(cameras[: len(given)])}" if len(given) > 1 else ""
    print(
        f"{num_frames - num_given} frames{views} after {num_given} given, "
        f"{len(sampling.video.sigmas()) - 1} steps, cfg scale {sampling.guidance.cfg_scale:g}, in "
        f"{seconds:.1f} s -> {options.out}"
    )


def _write_rounds(
    encoder: VideoEncoder,
    folder: RolloutFolder,
    system: MaskGWM,
    given: UInt8[Tensor, "v p c h w"],
    prompt: Prompt,
    sampling: FlowSampling,
    options: GenerateOptions,
    num_frames: int,
) -> None:
    """The rounds that are there, then those that are still to dream; each is kept as it comes."""
    last = None
    for last in folder.rounds():
        encoder.write(side_by_side(last.frames))
    for one in _new_rounds(system, given, prompt, sampling, options.seed, num_frames, last):
        folder.add(one)
        encoder.write(side_by_side(one.frames))
        print(f"{one.num_done} of {num_frames} frames", flush=True)


def _new_rounds(
    system: MaskGWM,
    given: UInt8[Tensor, "v p c h w"],
    prompt: Prompt,
    sampling: FlowSampling,
    seed: int,
    num_frames: int,
    last: Round | None,
) -> Iterator[Round]:
    """Rounds after the last one that is there. The generator stays on the CPU, so that a seed means
    the same everywhere."""
    generator = torch.Generator().manual_seed(seed)
    start: Tensor = given[None].to(system.device)
    first, done = 0, 0
    if last is not None:
        generator.set_state(last.generator)
        start, done = last.latents.to(system.device), last.num_done
        first = done - start.shape[2]
        if prompt.actions is not None:
            prompt = replace(prompt, actions=prompt.actions[:, first:])
    tail = start[:, :, :0]
    overlap = system.config.max_given
    parts = system.roll_out(start, prompt, sampling, generator, num_frames - first, overlap)
    for number, part in enumerate(parts):
        tail = part if number == 0 else torch.cat([tail, part], dim=2)
        tail = tail[:, :, -overlap:]
        if last is not None and number == 0:
            continue  # what it was given
        done += part.shape[2]
        frames = system.decode(part)[0].cpu()
        yield Round(frames, tail.float().cpu(), done, generator.get_state())


def side_by_side(frames: UInt8[Tensor, "v t c h w"]) -> UInt8[np.ndarray, "t h w2 c"]:
    """The cameras of every moment in one picture, from left to right in the model's order."""
    return rearrange(frames, "v t c h w -> t h (v w) c").contiguous().numpy()


# ----------------------------------------------------------------------------------------- inputs


def read_given(
    options: GenerateOptions, system: MaskGWM, cameras: Sequence[str]
) -> UInt8[Tensor, "v p c h w"]:
    """The first frames of every camera: images, the last frames of a video, or those of a folder
    with a video per camera, as large as the model was trained with.

    Raises:
        ValueError: nothing given or both, a camera is missing, too few or too many frames.
    """
    config = system.config
    if bool(options.image) == (options.video is not None):
        raise ValueError(
            "Expected --image or --video with the first frames for a model of MaskGWM, one: see "
            "`maskworld generate --help`."
        )
    if options.image:
        if options.num_context not in (None, 1):
            raise ValueError("Expected --num-context with --video, found it with --image.")
        files = by_camera(options.image, cameras)
        pictures = [inputs.read_image(path)[None] for path in files]
        return torch.cat([_fitted(picture, config.frame_size) for picture in pictures])
    assert options.video is not None
    default = max(1, config.min_given)
    count = default if options.num_context is None else options.num_context
    if not 1 <= count <= config.max_given:
        raise ValueError(
            f"Expected --num-context of 1 to {config.max_given}, as the model was trained, found "
            f"{count}."
        )
    if options.video.is_dir():
        suffixes = set(SUFFIXES)
        found = sorted(p for p in options.video.iterdir() if p.suffix.lower() in suffixes)
        files = by_camera(found, cameras)
        _check_alike(files)
        return torch.cat(
            [_fitted(_last_frames(path, count, config.fps), config.frame_size) for path in files]
        )
    frames = _last_frames(options.video, count, config.fps)
    num_views = _views_in(frames.shape[1:3], config.frame_size, len(cameras), options.video)
    parts = np.split(frames, num_views, axis=2)
    return torch.cat([_fitted(part, config.frame_size) for part in parts])


def by_camera(files: Sequence[Path], cameras: Sequence[str]) -> list[Path]:
    """One file per camera, in the model's order: by the cameras' names where the files have them,
    else as they come. One file alone is of the first camera.

    Raises:
        ValueError: a camera is missing, or files that are of none; says which.
    """
    if len(files) == 1:
        return list(files)
    named = {plain_name(path.stem): path for path in files}
    expected = ", ".join(cameras)
    found = ", ".join(path.name for path in files) or "nothing"
    missing = [camera for camera in cameras if camera not in named]
    if len(missing) < len(cameras):
        if missing or len(files) != len(cameras):
            what = f"no {' and no '.join(missing)}" if missing else "files of other cameras too"
            raise ValueError(
                f"Expected a file for each of the model's cameras ({expected}), found {what} "
                f"({found}): name the files after the cameras."
            )
        return [named[camera] for camera in cameras]
    if len(files) != len(cameras):
        raise ValueError(
            f"Expected {len(cameras)} files, one for each of the model's cameras ({expected}), "
            f"found {len(files)} ({found}): give all, or one of the first camera alone."
        )
    return list(files)


def _check_alike(files: Sequence[Path]) -> None:
    """Raises ValueError for videos of cameras that do not belong together."""
    rates, lengths = {}, {}
    for path in files:
        with VideoReader(path) as reader:
            rates[path.name], lengths[path.name] = reader.index.fps, len(reader)
    if max(rates.values()) > 1.01 * min(rates.values()):
        told = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
        raise ValueError(
            f"Expected the videos of all cameras at one frame rate, found {told} per second: bring "
            "them to one."
        )
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(
            f"Expected the videos of all cameras to end at one moment, found {told} frames: cut "
            "them to one length."
        )


def _last_frames(video: Path, count: int, fps: float) -> UInt8[np.ndarray, "t h w 3"]:
    """The last frames of a video.

    Raises:
        ValueError: no video, a damaged one, or too few frames.
    """
    with VideoReader(video) as reader:
        recorded, length = reader.index.fps, len(reader)
        if length < count:
            raise ValueError(
                f"Expected at least {count} frames to begin with, found {length} in {video}: give "
                f"a longer recording, or --num-context {length}."
            )
        frames = reader.read(range(length - count, length))
    if count > 1 and not np.isclose(recorded, fps, rtol=0.1):
        warnings.warn(
            f"{video} has {recorded:g} frames per second, the model was trained at {fps:g}: its "
            "dream will run at another speed",
            stacklevel=2,
        )
    return frames


def _views_in(
    size: tuple[int, ...], frame_size: tuple[int, int], num_views: int, video: Path
) -> int:
    """How many cameras stand side by side in a video: all of the model's where it is as wide, else
    the first alone."""
    height, width = size[:2]
    model = frame_size[1] / frame_size[0]
    is_wide = abs(width / height - num_views * model) < 0.1 * num_views * model
    if num_views > 1 and is_wide and width % num_views == 0:
        return num_views
    return 1


def _fitted(
    frames: UInt8[np.ndarray, "t h w 3"], size: tuple[int, int]
) -> UInt8[Tensor, "1 t c h2 w2"]:
    """Frames cut and scaled to the model's size."""
    pixels = torch.from_numpy(rearrange(frames, "t h w c -> 1 t c h w").copy())
    clip = ResizeCrop(size)(Clip(frames=pixels), torch.Generator())
    assert clip.frames is not None
    return clip.frames


def read_signals(
    path: Path | None, system: MaskGWM, num_given: int, num_frames: int
) -> Float[Tensor, "1 n a"] | None:
    """A row of signals per frame of the video, from a file of all rows or of the future ones.

    Raises:
        ValueError: a model without actions, or a file that does not fit; names the columns.
    """
    if path is None:
        return None
    signals = system.config.signals
    if not signals:
        raise ValueError("Expected no --actions: this model was trained without actions.")
    columns = signal_columns(signals)
    told = f"The columns are {', '.join(columns)}; nan = not known."
    try:
        rows = inputs.read_action_file(path, num_frames, len(columns), unknown=True)
    except ValueError as error:
        try:
            future = num_frames - num_given
            rows = inputs.read_action_file(path, future, len(columns), unknown=True)
        except ValueError as other:
            raise ValueError(f"{error} Read as the future alone: {other} {told}") from other
    return as_prompt(rows, num_given, num_frames)


def _command(
    options: GenerateOptions,
    given: Tensor,
    actions: Tensor | None,
    sampling: FlowSampling,
    num_frames: int,
) -> dict[str, object]:
    """What the dream depends on, in words and hashes."""
    digest = hashlib.sha256()
    with (find_release(options.model) / WEIGHTS_FILE).open("rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    rows = b"" if actions is None else actions.numpy().tobytes()
    return {
        "version": __version__,
        "model": digest.hexdigest()[:16],
        "given frames": hashlib.sha256(given.numpy().tobytes()).hexdigest()[:16],
        "actions": hashlib.sha256(rows).hexdigest()[:16],
        "prompt": options.prompt,
        "num_frames": num_frames,
        "sampling": config_to_json(sampling),
        "seed": options.seed,
    }
