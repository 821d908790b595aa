"""The work of `maskworld plan`: frames and a scene in, waypoints, scores and a dream out."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from rich.console import Console
from rich.table import Table
from torch import Tensor

from maskworld.cli import inputs
from maskworld.cli.plan import PlanOptions
from maskworld.cli.reworld_dreaming import after_past, fitted, read_past, with_guidance, write_dream
from maskworld.conditioning.ego import COMMANDS
from maskworld.conditioning.trajectory import resample_trajectory
from maskworld.data.dataset import ImageFolderSource
from maskworld.data.storage import write_json
from maskworld.data.trajectories import (
    NUM_WAYPOINTS,
    UNKNOWN,
    WAYPOINT_INTERVAL,
    command_from_route,
    speed_and_yaw_rate,
)
from maskworld.metrics.pdms import (
    SCORE_NAMES,
    PDMScene,
    PDMScores,
    read_scene,
    reference_plan,
    score_plans,
)
from maskworld.nn.config_io import config_to_json
from maskworld.recipes.open import load_reworld
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.reworld import ReWorld
from maskworld.training.distributed import Processes, choose_device
from maskworld.types import Batch, PlanBatch, Prompt

MAX_PLANS = 4096


def make_plans(options: PlanOptions) -> None:
    """Everything is computed before the first file is written."""
    _check(options)
    scene = None if options.scene is None else read_scene(options.scene)
    ego, command = _motion(options, scene)
    release = load_reworld(options.model)
    system = release.system
    _check_planner(system, options.model)
    sampling = _sampling(options, release.decoding)
    past = _past(options, system)[None]
    system = system.to(choose_device(options.device, Processes()))
    words = [options.prompt] if system.config.text is not None else []
    if options.prompt and not words:
        warnings.warn("--prompt has no effect: this model was trained without text", stacklevel=2)
    told = PlanBatch(torch.tensor([ego]), torch.tensor([command]))
    batch = Batch(frames=past, plan=told, captions=words).to(system.device)
    generator = torch.Generator(system.device).manual_seed(options.seed)
    plans = system.plan(batch, generator, sampling, options.num_plans).cpu().double().numpy()
    if not np.isfinite(plans).all():
        raise ValueError(f"Expected finite plans, found NaN or infinity: {options.model} diverged.")
    scores = None
    if scene is not None:
        scores = score_plans(scene, plans, reference_plan(scene).poses)
    frames = None
    if options.video_out is not None:
        frames = _dream_of(system, batch, plans[0], sampling, generator)
    print(f"ego {_numbers(ego)} (vx, vy, ax, ay), command {COMMANDS[command]}")
    _print_plans(plans)
    if scores is not None:
        _print_scores(scores)
    if frames is not None and options.video_out is not None:
        write_dream(options.video_out, frames, system.config.fps)
        print(f"dream behind plan 1, gamma {sampling.guidance.gamma:g} -> {options.video_out}")
    if options.out is not None:
        write_json(options.out, _document(options, ego, command, plans, scores, sampling))
        print(f"written to {options.out}")


def _check(options: PlanOptions) -> None:
    if (options.video is None) == (options.frames is None):
        raise ValueError(
            "Expected --video FILE or --frames DIR with what the ego has seen, one of them."
        )
    if (options.scene is None) == (options.ego is None):
        raise ValueError(
            "Expected --scene FILE or --ego VX VY AX AY, one of them: both say how the ego moves."
        )
    if not 1 <= options.num_plans <= MAX_PLANS:
        raise ValueError(f"Expected --num-plans of 1 to {MAX_PLANS}, found {options.num_plans}.")
    for path, suffix, flag in (
        (options.out, ".json", "--out"),
        (options.video_out, ".mp4", "--video-out"),
    ):
        if path is None:
            continue
        if path.suffix.lower() != suffix:
            raise ValueError(f"Expected {flag} to end in {suffix}, found {path.name!r}: rename it.")
        if path.is_dir():
            raise ValueError(f"Expected a file to write at {path}, found a folder.")
        if options.scene is not None and path.resolve() == options.scene.resolve():
            raise ValueError(f"Expected another file at {flag}, found the scene: it would be lost.")
        inputs.check_writable(path.parent)


def _motion(options: PlanOptions, scene: PDMScene | None) -> tuple[list[float], int]:
    """vx, vy, ax, ay, and the command: the user's, or where the scene's route leads."""
    command = UNKNOWN if options.command is None else COMMANDS.index(options.command)
    if scene is None:
        assert options.ego is not None
        if not np.isfinite(options.ego).all():
            raise ValueError(f"Expected four finite numbers as --ego, found {options.ego}.")
        return list(options.ego), command
    state = scene.ego
    if options.command is None:
        pose = np.array([state.x, state.y, state.heading])
        command = command_from_route(scene.centerline[:, :2], pose)
    return [state.vx, state.vy, state.ax, state.ay], command


def _check_planner(system: ReWorld, model: str) -> None:
    """Raises ValueError for a model that plans nothing, or something else than 4 s at 2 Hz."""
    action = system.config.action
    if (action.num_tokens, action.action_dim) != (NUM_WAYPOINTS, 3):
        raise ValueError(
            f"Expected a planner of {NUM_WAYPOINTS} waypoints x, y, heading, found one of "
            f"{action.num_tokens} rows of {action.action_dim} numbers in {model}."
        )
    if not bool(system.normaliser.statistics.is_fitted):
        raise ValueError(
            f"Expected a trained planner, found a model of the video alone in {model}: train it "
            f"on with `maskworld train RECIPE --start-at action --init {model}`."
        )


def _sampling(options: PlanOptions, released: FlowSampling) -> FlowSampling:
    sampling = with_guidance(released, gamma=options.gamma)
    if options.gamma is not None and options.video_out is None:
        warnings.warn("--gamma has no effect without --video-out", stacklevel=2)
    if options.steps is None:
        return sampling
    if sampling.actions.kind == "explicit":
        raise ValueError("Expected no --steps: this model was released with a list of times.")
    return replace(sampling, actions=replace(sampling.actions, num_steps=options.steps))


def _past(options: PlanOptions, system: ReWorld) -> UInt8[Tensor, "1 p c h w"]:
    """The last frames, as many and as large as the model was trained with."""
    if options.video is not None:
        return read_past(options.video, system)
    assert options.frames is not None
    paths = ImageFolderSource(options.frames).paths
    needed = system.config.num_past
    if len(paths) < needed:
        raise ValueError(
            f"Expected at least {needed} past frames, found {len(paths)} images in "
            f"{options.frames}: record more of the past."
        )
    images = [inputs.read_image(path) for path in paths[-needed:]]
    sizes = sorted({image.shape[:2] for image in images})
    if len(sizes) > 1:
        raise ValueError(f"Expected frames of one size in {options.frames}, found {sizes}.")
    return fitted(np.stack(images), system)


def _dream_of(
    system: ReWorld,
    batch: Batch,
    plan: Float[np.ndarray, "l 3"],
    sampling: FlowSampling,
    generator: torch.Generator,
) -> UInt8[Tensor, "1 v t c h w"]:
    """The future that the model expects if it drives the plan."""
    config = system.config
    actions = None
    if config.future_actions == 2:
        rows = actions_of_plan(plan, config.num_frames - config.num_past, config.fps)
        actions = after_past(rows, config.num_past).to(system.device)
    else:
        warnings.warn(
            "this model was trained without future actions, so its dream knows the ego's motion "
            "and command, and not the plan",
            stacklevel=2,
        )
    fps = torch.tensor([config.fps], device=system.device)
    assert batch.frames is not None
    prompt = Prompt(batch.captions or None, actions, fps=fps, plan=batch.plan)
    return system.generate(batch.frames, prompt, sampling, generator).frames


def actions_of_plan(
    plan: Float[np.ndarray, "l 3"], num_frames: int, fps: float | int
) -> Float[np.ndarray, "t 2"]:
    """Speed and yaw rate into each of the frames after now, for a car that drives the plan.

    Waypoints are 0.5 s apart, the first 0.5 s after now; in between they are interpolated.

    Raises:
        ValueError: frames beyond the last waypoint.
    """
    start = np.concatenate([np.zeros((1, 3)), plan])
    times = WAYPOINT_INTERVAL * torch.arange(len(start), dtype=torch.float64)
    wanted = torch.arange(num_frames + 1, dtype=torch.float64) / fps
    poses = resample_trajectory(times, torch.from_numpy(start), wanted)
    return speed_and_yaw_rate(wanted.numpy(), poses.numpy())[1:]


def _print_plans(plans: Float[np.ndarray, "n l 3"]) -> None:
    for number, waypoints in enumerate(plans, start=1):
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in (f"plan {number}", "x m", "y m", "heading deg"):
            table.add_column(title, justify="right")
        for index, (x, y, heading) in enumerate(waypoints.tolist(), start=1):
            row = (f"{x:.2f}", f"{y:.2f}", f"{np.degrees(heading):.1f}")
            table.add_row(f"{index * WAYPOINT_INTERVAL:.1f} s", *row)
        _show(table)


def _print_scores(scores: PDMScores) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("plan", *SCORE_NAMES):
        table.add_column(title, justify="right")
    columns = scores.named()
    for number in range(len(scores.pdms)):
        row = (f"{float(columns[name][number]):.3f}" for name in SCORE_NAMES)
        table.add_row(str(number + 1), *row)
    _show(table)


def _show(table: Table) -> None:
    # Piped into a file, lines stay whole.
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)


def _numbers(values: list[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)


def _document(
    options: PlanOptions,
    ego: list[float],
    command: int,
    plans: Float[np.ndarray, "n l 3"],
    scores: PDMScores | None,
    sampling: FlowSampling,
) -> dict[str, Any]:
    """What --out holds."""

    def text(path: Path | None) -> str | None:
        return None if path is None else str(path)

    return {
        "model": options.model,
        "scene": text(options.scene),
        "frames": text(options.video or options.frames),
        "ego": ego,
        "command": COMMANDS[command],
        "interval_s": WAYPOINT_INTERVAL,
        "seed": options.seed,
        "sampling": config_to_json(sampling),
        "plans": plans.tolist(),
        "scores": None
        if scores is None
        else {name: values.tolist() for name, values in scores.named().items()},
    }
