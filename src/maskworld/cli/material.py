"""What a quickstart trains on and is scored on: the driving world, or the user's own recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskworld.recipes.recipe import WorldDreamerRecipe
from maskworld.types import Batch, Clip, collate

FRAMES_PER_SECOND = 5.0
"""Rate to which a user's video is thinned out, as near as its own rate allows."""

FRAMES_AT_ONCE = 64
"""Of a user's video, held at full size."""


@dataclass(frozen=True)
class Material:
    """Clips to train on, clips held out, and what can be asked of a model of them."""

    train: list[Clip]
    held_out: Batch
    groups: np.ndarray
    """A number per held-out clip: clips of one world or recording are drawn together."""
    split: str
    """How the held-out clips were kept apart, for the protocol."""
    restyled: tuple[list[Clip], list[Clip]] = ([], [])
    """Training drives filmed in two styles."""
    pairs: tuple[Batch, Batch] | None = None
    """Counterfactual left and right turns, where the world can be driven twice."""
    styles: tuple[str, ...] = ()
    """Styles that captions name, where they do."""
    action_names: tuple[str, ...] = ()
    description: dict[str, Any] = field(default_factory=dict)


def drive_material(recipe: WorldDreamerRecipe, seed: int, num_workers: int) -> Material:
    """Training worlds, other worlds held out, and counterfactual pairs in those."""
    from maskworld.preparation.collect import ClipPlan, clips_of_world
    from maskworld.preparation.counterfactuals import pairs_of_world, restyled_of_world
    from maskworld.worlds.drive import STYLES

    system, drive = recipe.system, recipe.drive
    plan = ClipPlan(num_frames=system.num_frames, size=system.frame_size, fps=system.fps, seed=seed)
    first = drive.seed + 1_000_000 * seed
    worlds = range(first, first + drive.num_worlds)
    held_out_worlds = range(first + 500_000, first + 500_000 + drive.num_held_out_worlds)
    wanted = [
        Filming(clips_of_world, worlds, drive.num_worlds * drive.clips_per_world, plan),
        Filming(restyled_of_world, worlds[::3], drive.num_restyled, plan),
        Filming(
            clips_of_world,
            held_out_worlds,
            drive.num_held_out_worlds * drive.held_out_clips_per_world,
            plan,
        ),
        Filming(pairs_of_world, held_out_worlds, drive.num_pairs, plan),
    ]
    train, restyled, held_out, pairs = film_worlds(wanted, num_workers)
    return Material(
        train=train,
        restyled=([pair[0] for pair in restyled], [pair[1] for pair in restyled]),
        held_out=collate(held_out),
        groups=np.array([clip.episode for clip in held_out]),
        split="whole worlds",
        pairs=(collate([pair[0] for pair in pairs]), collate([pair[1] for pair in pairs])),
        styles=STYLES,
        action_names=("speed", "yaw_rate"),
        description={
            "source": "driving world",
            "train_worlds": len(worlds),
            "held_out_worlds": len(held_out_worlds),
            "train_clips": len(train),
            "restyled_pairs": len(restyled),
            "held_out_clips": len(held_out),
        },
    )


@dataclass(frozen=True)
class Filming:
    """One kind of clips to film."""

    of_world: Any
    """From (world, plan) to what was filmed there: `clips_of_world`, `pairs_of_world`, ..."""
    worlds: range
    count: int
    """In all; spread evenly over the worlds, what is too much is left out at the end."""
    plan: Any
    """A `ClipPlan`; its number of clips is set here."""


def film_worlds(wanted: Sequence[Filming], num_workers: int) -> list[list[Any]]:
    """What was filmed of each kind, world by world.

    All go through one pool of workers, because starting one takes seconds.
    """
    from maskworld.preparation.collect import map_worlds

    jobs, parts = [], []
    for part, filming in enumerate(wanted):
        share = replace(filming.plan, clips_per_world=-(-filming.count // len(filming.worlds)))
        jobs += [(filming.of_world, (world, share)) for world in filming.worlds]
        parts += [part] * len(filming.worlds)
    found: list[list[Any]] = [[] for _ in wanted]
    for part, clips in zip(parts, map_worlds(run_job, jobs, num_workers), strict=True):
        found[part] += clips
    return [clips[: filming.count] for clips, filming in zip(found, wanted, strict=True)]


def run_job(job: tuple[Any, Any]) -> list[Any]:
    """Calls a job's function in a worker."""
    function, argument = job
    clips: list[Any] = function(argument)
    return clips


def user_material(recipe: WorldDreamerRecipe, path: Path) -> Material:
    """Windows of the user's videos or tokens; the last quarter of every recording is held out.

    Raises:
        ValueError: nothing readable there, or too short for one window in either part.
    """
    from maskworld.data.dataset import ClipDataset
    from maskworld.data.sources.tokens import TokenSource
    from maskworld.data.windows import ClipIndex, split_by_time
    from maskworld.recipes.open import open_source, stride_to

    source: Any = open_source(path)
    if isinstance(source, list):
        raise ValueError(
            f"Expected videos or tokens to hold a part of out in time, found tar shards in {path}: "
            "use maskworld train, which streams them."
        )
    is_tokens = isinstance(source, TokenSource)
    stride = 1 if is_tokens else stride_to(FRAMES_PER_SECOND, source)
    fraction = 1 / 6 if is_tokens else 0.25
    if not is_tokens:
        source = _in_memory(source, recipe.system.frame_size)
    parts: list[list[Clip]] = []
    for ranges in split_by_time(source, fraction):
        index = ClipIndex(source, recipe.system.num_frames, stride, 1, ranges)
        dataset = ClipDataset(source, index)
        parts.append([dataset[i] for i in range(len(dataset))])
    train, held_out = parts
    span = (recipe.system.num_frames - 1) * stride + 1
    groups = np.array([clip.episode * 1_000_000 + clip.start // span for clip in held_out])
    if len(np.unique(groups)) < 2:
        groups = np.arange(len(held_out))
    return Material(
        train=train,
        held_out=collate(held_out),
        groups=groups,
        split=f"last {fraction:.0%} of every recording in time, no window across the cut",
        description={
            "source": path.name,
            "frame_stride": stride,
            "train_clips": len(train),
            "held_out_clips": len(held_out),
            "intervals": "over stretches as long as a clip, of which there are few",
        },
    )


def _in_memory(source: Any, size: tuple[int, int]) -> Any:
    """The same episodes, every frame read and resized once: windows overlap."""
    from maskworld.data.episodes import ArrayEpisode, ListSource
    from maskworld.data.transforms import ResizeCrop

    fit, episodes = ResizeCrop(size), []
    for number in range(len(source)):
        episode: Any = source.episode(number)
        parts = []
        for start in range(0, episode.num_frames, FRAMES_AT_ONCE):
            chunk = range(start, min(start + FRAMES_AT_ONCE, episode.num_frames))
            clip = Clip(frames=torch.from_numpy(np.ascontiguousarray(episode.read(chunk))))
            parts.append(fit(clip, torch.Generator()).frames)
        frames = torch.cat([part for part in parts if part is not None], dim=1)
        episodes.append(
            ArrayEpisode(
                frames.numpy(),
                episode.fps,
                episode.caption,
                episode.actions,
                segments=episode.segments,
            )
        )
    return ListSource(episodes, source.name)


def mirrored(clips: Sequence[Clip], action_names: tuple[str, ...]) -> list[Clip]:
    """Every clip flipped left to right, actions and captions too."""
    from maskworld.data.transforms import HorizontalFlip

    flip = HorizontalFlip(p=1.0, action_names=action_names or None)
    generator = torch.Generator().manual_seed(0)
    return [flip(clip, generator) for clip in clips]
