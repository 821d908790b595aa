"""What MaskGWM's quickstart trains on and is scored on, filmed anew in every run from the seeds
alone; and how clips become latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from maskworld.cli.material import Filming, film_worlds, mirrored
from maskworld.preparation.collect import ACTION_NAMES, ClipPlan, clips_of_world, scene_stride
from maskworld.preparation.counterfactuals import pairs_of_world
from maskworld.preparation.long_drives import long_drive_of_world
from maskworld.recipes.recipe import MaskGWMRecipe
from maskworld.systems.maskgwm import MaskGWM
from maskworld.tokenizers.causal_patch import CausalPatchTokenizer
from maskworld.tokenizers.image_latents import encode_images
from maskworld.types import Batch, Clip, collate

HELD_OUT_FROM = 500_000
"""Held-out worlds are numbered from here on, training worlds from 0 (plus a million per seed)."""
RIG_SEED = 1
"""Added to the seed of clips of several cameras, so that they are other drives."""
CLIPS_AT_ONCE = 64


@dataclass(frozen=True)
class FilmMaterial:
    """Clips to train on, and what is scored: all of it of worlds that were never trained on."""

    train: list[Clip]
    """Of the front camera."""
    train_rig: list[Clip]
    """Other drives in the same worlds, of all cameras."""
    held_out: Batch
    groups: Int[np.ndarray, " n"]
    """The world of each held-out clip: clips of one world are drawn together."""
    held_out_rig: Batch
    rig_groups: Int[np.ndarray, " m"]
    pairs: tuple[Batch, Batch]
    """Left and right turns from one frame."""
    long: list[Clip]
    """Long drives of the expert."""
    plan: ClipPlan
    description: dict[str, Any] = field(default_factory=dict)


def film_material(recipe: MaskGWMRecipe, seed: int, num_workers: int) -> FilmMaterial:
    """Training worlds, other worlds held out, counterfactual pairs and long drives in those.

    Raises:
        ValueError: too few of the held-out worlds have a long drive.
    """
    system, film = recipe.system, recipe.film
    plan = ClipPlan(num_frames=system.num_frames, size=system.frame_size, fps=system.fps, seed=seed)
    rig = replace(plan, num_cameras=system.num_views, seed=seed + RIG_SEED)
    first = 1_000_000 * seed
    worlds = range(first, first + film.num_worlds)
    others = range(first + HELD_OUT_FROM, first + HELD_OUT_FROM + film.num_held_out_worlds)
    long_plan = replace(plan, num_frames=film.long_frames)
    wanted = [
        Filming(clips_of_world, worlds, film.num_worlds * film.clips_per_world, plan),
        Filming(clips_of_world, worlds, film.num_worlds * film.rig_clips_per_world, rig),
        Filming(clips_of_world, others, len(others) * film.held_out_clips_per_world, plan),
        Filming(clips_of_world, others, len(others) * film.held_out_rig_clips_per_world, rig),
        Filming(pairs_of_world, others, film.num_pairs, plan),
        Filming(long_drive_of_world, others, film.num_long, long_plan),
    ]
    train, train_rig, held_out, held_out_rig, pairs, long = film_worlds(wanted, num_workers)
    if len(long) < film.num_long:
        raise ValueError(
            f"Expected {film.num_long} long drives in {len(others)} held-out worlds, found "
            f"{len(long)} whose expert still drives after {film.long_frames} frames: raise "
            "num_held_out_worlds, or lower num_long or long_frames."
        )
    return FilmMaterial(
        train=train,
        train_rig=train_rig,
        held_out=collate(held_out),
        groups=np.array([clip.episode for clip in held_out]),
        held_out_rig=collate(held_out_rig),
        rig_groups=np.array([clip.episode for clip in held_out_rig]),
        pairs=(collate([left for left, _ in pairs]), collate([right for _, right in pairs])),
        long=long,
        plan=plan,
        description={
            "source": "driving world",
            "train_worlds": len(worlds),
            "held_out_worlds": len(others),
            "train_clips": len(train),
            "train_clips_of_all_cameras": len(train_rig),
            "held_out_clips": len(held_out),
            "held_out_clips_of_all_cameras": len(held_out_rig),
            "counterfactual_pairs": len(pairs),
            "long_drives": len(long),
            "scene_stride": scene_stride(plan.fps),
        },
    )


def fit_tokenizer(system: MaskGWM, clips: Sequence[Clip], seed: int) -> None:
    """Fits the tokenizer's projections on the clips' frames.

    Raises:
        ValueError: a tokenizer that is not fitted in seconds but trained.
    """
    if not isinstance(system.tokenizer, CausalPatchTokenizer):
        raise ValueError(
            "Expected a recipe with patch latents, which never change once they are fitted, found "
            f"{type(system.tokenizer).__name__}: use maskworld train."
        )
    frames = torch.cat([clip.frames for clip in clips[::3] if clip.frames is not None])
    system.tokenizer.fit(frames, torch.Generator().manual_seed(seed))


def encoded(system: MaskGWM, clips: Sequence[Clip], *, with_mirrored: bool) -> list[Clip]:
    """Every clip as latents without pixels; then, if asked for, all mirror images.

    A rig that looks to one side has no mirror image.
    """
    found: list[Clip] = []
    for mirror in (False, True) if with_mirrored else (False,):
        for start in range(0, len(clips), CLIPS_AT_ONCE):
            part = list(clips[start : start + CLIPS_AT_ONCE])
            batch = collate(mirrored(part, ACTION_NAMES) if mirror else part)
            assert batch.frames is not None
            assert batch.actions is not None
            latents = encode_images(system.tokenizer, batch.frames)
            found += [
                replace(clip, frames=None, labels=None, latents=z, actions=rows)
                for clip, z, rows in zip(part, latents, batch.actions, strict=True)
            ]
    return found
