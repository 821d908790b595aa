"""What Mask World Model's quickstart learns from: recorded episodes, in memory, and as latents."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from maskworld.cli.quickstart_parts import spread
from maskworld.data.control import ControlClips, ControlWindow, MemoryPick
from maskworld.data.control_statistics import ControlStatistics, control_statistics
from maskworld.data.episodes import ArrayEpisode, ListSource
from maskworld.data.lerobot import LeRobotSource
from maskworld.data.transforms import RecolorRegions
from maskworld.preparation.collect_metaworld import MetaWorldPlan, collect_metaworld
from maskworld.recipes.recipe import MaskWorldModelRecipe
from maskworld.systems.mask_world_model import MaskWorldModel, MaskWorldModelConfig
from maskworld.types import Clip, collate

FIT_CLIPS = 240
"""Clips that patch latents are fitted on."""
ENCODED_AT_ONCE = 32


@dataclass(frozen=True)
class RobotMaterial:
    """Recorded episodes of several tasks."""

    train: ListSource
    held_out: ListSource
    """On which dreamt masks are scored; recorded like the others, never trained on."""
    statistics: ControlStatistics
    """Of the training episodes."""
    tasks: tuple[str, ...]


def robot_material(
    recipe: MaskWorldModelRecipe, folder: Path, seed: int, num_workers: int
) -> RobotMaterial:
    """Records the recipe's tasks into `folder`, or reads what is there.

    Raises:
        ValueError: a folder with another recording.
        MissingGL: this machine has no off-screen OpenGL.
    """
    robot = recipe.robot
    if not folder.is_dir():
        plan = MetaWorldPlan(
            robot.tasks,
            robot.episodes_per_task,
            size=recipe.system.frame_size,
            seed=seed * 100_000,
            action_noise=robot.action_noise,
        )
        print(collect_metaworld(folder, plan, num_workers=num_workers))
    source = LeRobotSource(folder)
    found = {str(source.episode(i).attributes["task"]) for i in range(len(source))}
    if found != set(robot.tasks):
        raise ValueError(
            f"Expected recordings of {sorted(robot.tasks)} in {folder}, found {sorted(found)}: "
            "remove the folder, or pass another --out."
        )
    held_out: list[int] = []
    for task in robot.tasks:
        own = [i for i in range(len(source)) if source.episode(i).attributes["task"] == task]
        held_out += own[-robot.held_out_per_task :]
    train = [i for i in range(len(source)) if i not in held_out]
    statistics = control_statistics(source, {i: [(0, source.episode(i).num_frames)] for i in train})
    return RobotMaterial(_loaded(source, train), _loaded(source, held_out), statistics, robot.tasks)


def _loaded(source: LeRobotSource, chosen: Sequence[int]) -> ListSource:
    """Episodes in memory, read one after the other; the cameras of one at the same time."""
    episodes: list[Any] = []
    for number in chosen:
        episode: Any = source.episode(number)
        rows = list(range(episode.num_frames))
        with ThreadPoolExecutor(2) as pool:
            frames, labels = (pool.submit(f, rows) for f in (episode.read, episode.read_labels))
        episodes.append(
            ArrayEpisode(
                frames.result(),
                fps=episode.fps,
                caption=episode.caption,
                actions=episode.actions,
                labels=labels.result(),
                attributes=dict(episode.attributes),
                state=episode.state,
            )
        )
    return ListSource(episodes, source.name)


def control_window(config: MaskWorldModelConfig) -> ControlWindow:
    """What clips show and ask, as the model was made for."""
    memory = MemoryPick(config.num_memory, config.memory_pick, stride=config.memory_stride)
    return ControlWindow(memory, config.future_frames, config.frame_stride, config.chunk)


def control_clips(
    config: MaskWorldModelConfig,
    source: ListSource,
    clip_stride: int,
    *,
    reads_future: bool = True,
    recolor: RecolorRegions | None = None,
) -> ControlClips:
    """Clips for the first stage and for scores; without `reads_future`, those of the second, in
    which no mask and no future frame is ever read, but by `recolor`, which keeps masks to itself.
    """
    return ControlClips(
        source,
        control_window(config),
        clip_stride=clip_stride,
        reads_labels=reads_future and config.target == "mask",
        reads_future=reads_future and config.target == "rgb",
        recolor=recolor,
    )


def fit_robot_system(model: MaskWorldModel, material: RobotMaterial, seed: int) -> None:
    """Fits what is measured rather than trained: patch latents, ranges of actions and states."""
    clips = control_clips(model.config, material.train, 1)
    chosen = collate([clips[i] for i in spread(len(clips), FIT_CLIPS)])
    model.fit_tokenizer(chosen, torch.Generator().manual_seed(seed))
    every = control_clips(model.config, material.train, 4, reads_future=False)
    control = collate([every[i] for i in range(len(every))]).control
    assert control is not None
    model.fit_control(control)


@dataclass(frozen=True)
class EncodedEpisodes:
    """Clips as latents, for the second stage without those of the future."""

    dynamics: list[Clip]
    policy: list[Clip]


def encode_episodes(
    model: MaskWorldModel,
    material: RobotMaterial,
    clip_stride: int,
    recolor: RecolorRegions | None = None,
) -> EncodedEpisodes:
    """Latents of all training clips, made once: the tokenizer is frozen by now. What `recolor`
    draws for a clip stays."""
    clips = control_clips(model.config, material.train, clip_stride, recolor=recolor)
    count = model.config.num_memory
    dynamics: list[Clip] = []
    for start in range(0, len(clips), ENCODED_AT_ONCE):
        part = [clips[i] for i in range(start, min(start + ENCODED_AT_ONCE, len(clips)))]
        latents = model.clips.encode(collate(part), with_future=True)
        dynamics += [
            replace(clip, frames=None, labels=None, latents=own.clone())
            for clip, own in zip(part, latents)
        ]
    policy = [replace(c, latents=c.latents[:, :count]) for c in dynamics if c.latents is not None]
    model.fit_latents(torch.stack([c.latents for c in dynamics if c.latents is not None]))
    keeps_future = model.config.world_loss_weight > 0
    return EncodedEpisodes(dynamics, dynamics if keeps_future else policy)


def with_bank(model: MaskWorldModel, clips: Sequence[Clip], seed: int) -> list[Clip]:
    """The clips with the feature bank of a video tower that will not move again, in half
    precision."""
    generator = torch.Generator().manual_seed(seed)
    made: list[Clip] = []
    for start in range(0, len(clips), ENCODED_AT_ONCE):
        part = list(clips[start : start + ENCODED_AT_ONCE])
        bank = model.encode_once(collate(part), generator)
        if bank is None:
            return list(clips)
        features = torch.stack(bank.states, dim=1)
        made += [replace(clip, features=own.clone()) for clip, own in zip(part, features)]
    return made
