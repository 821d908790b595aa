"""What ReWorld's quickstart trains on and is scored on: clips, pairs and scenes of the driving
world, filmed anew in every run from the seeds alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from maskworld.cli.material import mirrored, run_job
from maskworld.data.transforms import mirror_plan
from maskworld.preparation.collect import map_worlds
from maskworld.preparation.planner_windows import TrainingJob, training_clips_of_world
from maskworld.preparation.planning_clips import (
    MomentPlan,
    planning_clips_of_world,
    planning_pairs_of_world,
)
from maskworld.preparation.planning_scenes import PlanningScene, planning_scenes_of_world
from maskworld.recipes.recipe import ReWorldRecipe
from maskworld.systems.reworld import ReWorld
from maskworld.tokenizers.latent import encode_views
from maskworld.types import Batch, Clip, Prompt, collate

ACTION_NAMES = ("speed", "yaw_rate")
HELD_OUT_FROM = 500_000
"""Held-out worlds are numbered from here on, training worlds from 0 (plus a million per seed)."""
CLIPS_AT_ONCE = 64


@dataclass(frozen=True)
class PlanningMaterial:
    """Clips to train on, and what is scored: all of it of worlds that were never trained on."""

    train: list[Clip]
    """Experts and ghosts, in pixels; the mirror images come when they are encoded."""
    held_out: Batch
    groups: Int[np.ndarray, " n"]
    """The world of each held-out clip: clips of one world are drawn together."""
    pairs: tuple[Batch, Batch]
    """Left and right turns that share their past."""
    scenes: list[PlanningScene]
    worlds: range
    """Of the held-out clips, pairs and scenes."""
    plan: MomentPlan
    """How moments are filmed."""
    windows: list[Clip] = field(default_factory=list)
    """Past frames and plans of more training moments, for the planner alone: of the experts' logs,
    and of drives that strayed, with the way back."""
    description: dict[str, Any] = field(default_factory=dict)

    @property
    def experts(self) -> list[Clip]:
        """Training clips in which an expert drives, and a planner has something to imitate."""
        return [clip for clip in self.train if is_expert(clip)]


def planning_material(recipe: ReWorldRecipe, seed: int, num_workers: int) -> PlanningMaterial:
    """Training worlds, other worlds held out, counterfactual pairs and planning scenes in those.

    All worlds go through one pool of workers, because starting one takes seconds.
    """
    system, drive = recipe.system, recipe.drive
    plan = MomentPlan(
        num_past=system.num_past,
        num_future=system.num_frames - system.num_past,
        size=system.frame_size,
        fps=system.fps,
        seed=seed,
    )
    first = 1_000_000 * seed
    worlds = range(first, first + drive.num_worlds)
    others = range(first + HELD_OUT_FROM, first + HELD_OUT_FROM + drive.num_held_out_worlds)
    training = [
        TrainingJob(
            world,
            replace(plan, clips_per_world=drive.clips_per_world),
            drive.log_windows_per_world,
            drive.recovery_windows_per_world,
        )
        for world in worlds
    ]
    wanted: list[tuple[Any, range, int]] = [
        (planning_clips_of_world, others, drive.held_out_clips_per_world),
        (planning_pairs_of_world, others, -(-drive.num_pairs // len(others))),
        (planning_scenes_of_world, others, -(-drive.num_scenes // len(others))),
    ]
    jobs: list[tuple[Any, Any]] = [(training_clips_of_world, job) for job in training]
    jobs += [
        (function, (world, replace(plan, clips_per_world=share)))
        for function, part, share in wanted
        for world in part
    ]
    results = map_worlds(run_job, jobs, num_workers)
    train: list[Clip] = []
    windows: list[Clip] = []
    for _ in worlds:
        found = next(results)
        train += found[: drive.clips_per_world]
        windows += found[drive.clips_per_world :]
    held_out, pairs, scenes = (
        [item for _ in part for item in next(results)] for _, part, _ in wanted
    )
    # World after world in turn, so that the first clips are of all worlds.
    share = -(-len(held_out) // len(others))
    held_out = [clip for turn in range(share) for clip in held_out[turn::share]]
    return PlanningMaterial(
        train=train,
        held_out=collate(held_out),
        groups=np.array([clip.episode for clip in held_out]),
        pairs=(
            collate([left for left, _ in pairs[: drive.num_pairs]]),
            collate([right for _, right in pairs[: drive.num_pairs]]),
        ),
        scenes=scenes,
        worlds=others,
        plan=plan,
        windows=windows,
        description={
            "source": "driving world",
            "train_worlds": len(worlds),
            "held_out_worlds": len(others),
            "train_clips": len(train),
            "train_clips_of_experts": sum(map(is_expert, train)),
            "train_windows": len(windows),
            "held_out_clips": len(held_out),
            "held_out_scenes": len(scenes),
            "styles": list(plan.styles),
        },
    )


def is_expert(clip: Clip) -> bool:
    """Whether a planner may imitate what was driven."""
    return clip.plan is not None and clip.plan.trajectory is not None


@dataclass(frozen=True)
class EncodedClips:
    """Training clips as latents, each beside its mirror image."""

    plain: list[Clip]
    mirrored: list[Clip]
    windows: list[Clip] = field(default_factory=list)
    """Of the past alone, mirror images included; for the planner."""

    @property
    def all(self) -> list[Clip]:
        """For the video."""
        return [*self.plain, *self.mirrored]

    def experts(self, negatives: Sequence[Clip] = ()) -> list[Clip]:
        """For the planner: the clips that an expert drove.

        Args:
            negatives: the training clips again, with hard negatives; their plans are taken. The
                mirror image of a negative is the negative of the mirror image.
        """
        plans = [clip.plan for clip in negatives or self.plain]
        found = []
        for clip, image, plan in zip(self.plain, self.mirrored, plans, strict=True):
            if plan is not None and is_expert(clip):
                found += [replace(clip, plan=plan), replace(image, plan=mirror_plan(plan))]
        return found

    def planning(self, negatives: Sequence[Clip] = ()) -> list[Clip]:
        """`experts`, and the windows: the past alone of both."""
        clips = [*self.experts(negatives), *self.windows]
        if not self.windows or self.windows[0].latents is None:
            return clips
        length = self.windows[0].latents.shape[1]
        return [
            replace(clip, latents=None if z is None else z[:, :length], actions=None)
            for clip, z in ((clip, clip.latents) for clip in clips)
        ]


def encode_clips(
    system: ReWorld, clips: Sequence[Clip], windows: Sequence[Clip] = ()
) -> EncodedClips:
    """Every clip and window and its mirror image as latents, without pixels."""
    plain, images = _encode_both(system, clips)
    both = _encode_both(system, windows)
    return EncodedClips(plain, images, both[0] + both[1])


@torch.no_grad()
def with_features(system: ReWorld, clips: Sequence[Clip], seed: int) -> list[Clip]:
    """The clips with their feature banks, for a stage that leaves the video network as it is.

    The noise of each clip's future is drawn once instead of in every step. Half precision: there
    are thousands of clips, 200 kB each.
    """
    generator = torch.Generator().manual_seed(seed)
    was_training = system.training
    system.eval()
    found = []
    for start in range(0, len(clips), CLIPS_AT_ONCE):
        part = clips[start : start + CLIPS_AT_ONCE]
        batch = collate(list(part))
        assert batch.latents is not None
        past = batch.latents[:, :, : system.num_past_latents]
        prompt = Prompt(batch.captions or None, plan=batch.plan)
        states = torch.stack(system.feature_bank(past, prompt, generator).states, dim=1).half()
        found += [replace(c, features=f) for c, f in zip(part, states, strict=True)]
    system.train(was_training)
    return found


def fit_system(system: ReWorld, clips: Iterable[Clip], seed: int) -> None:
    """Fits the tokenizer's projections on the clips' frames.

    Raises:
        ValueError: a tokenizer that is not fitted in seconds but trained.
    """
    from maskworld.tokenizers.causal_patch import CausalPatchTokenizer

    if not isinstance(system.tokenizer, CausalPatchTokenizer):
        raise ValueError(
            "Expected a recipe with patch latents, which never change once they are fitted, found "
            f"{type(system.tokenizer).__name__}: use maskworld train."
        )
    # Every third: a few thousand patches are drawn of them anyway.
    frames = torch.cat([clip.frames for clip in list(clips)[::3] if clip.frames is not None])
    system.tokenizer.fit(frames, torch.Generator().manual_seed(seed))


def _encode_both(system: ReWorld, clips: Sequence[Clip]) -> tuple[list[Clip], list[Clip]]:
    plain: list[Clip] = []
    images: list[Clip] = []
    for start in range(0, len(clips), CLIPS_AT_ONCE):
        part = list(clips[start : start + CLIPS_AT_ONCE])
        plain += _encoded(system, part)
        images += _encoded(system, mirrored(part, ACTION_NAMES))
    return plain, images


def _encoded(system: ReWorld, clips: list[Clip]) -> list[Clip]:
    batch = collate(clips)
    assert batch.frames is not None
    latents = encode_views(system.tokenizer, batch.frames)
    return [
        replace(clip, frames=None, latents=each) for clip, each in zip(clips, latents, strict=True)
    ]
