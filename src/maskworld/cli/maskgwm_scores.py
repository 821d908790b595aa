"""What the MaskGWM quickstart scores and shows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from maskworld.cli.maskgwm_material import FilmMaterial
from maskworld.cli.maskgwm_report import long_section, rig_section
from maskworld.cli.quickstart_parts import as_video, frame_rate, spread, steering_rows
from maskworld.evaluation.baselines import TrivialFutures
from maskworld.evaluation.camera_overlap import drive_calibrations, score_camera_overlap
from maskworld.evaluation.flow_prediction import POSTERIOR_MEAN, rows_of, score_dream_speed
from maskworld.evaluation.frame_prediction import (
    dream,
    dream_in_rounds,
    reconstruct,
    score_frame_sensitivity,
    with_latents,
)
from maskworld.evaluation.futures import score_futures
from maskworld.evaluation.long_horizon import score_long_horizon
from maskworld.evaluation.results import Results
from maskworld.evaluation.steering import score_steering
from maskworld.evaluation.stylization import style_of
from maskworld.nn.config_io import config_to_json
from maskworld.recipes.recipe import MaskGWMRecipe
from maskworld.report import VideoRow
from maskworld.report.sections import Section
from maskworld.systems.maskgwm import MaskGWM
from maskworld.types import collate

NUM_GIVEN = 1
"""First frames that every dream is given."""
NUM_SAMPLED = 96
"""Held-out clips that are also sampled step by step."""
SSIM_EVERY = 3
"""The SSIM is of every third held-out clip: of all it would take a minute."""
NUM_FITTED = 600
"""Training clips on which the trivial futures are fitted."""
NUM_GALLERY, NUM_SHOWN_PAIRS, NUM_SHOWN_LONG, NUM_SHOWN_RIG = 5, 4, 3, 3
NUM_LAST = 50
"""Last frames of a long dream that are judged."""


@dataclass(frozen=True)
class Evaluation:
    """All scores, and what to show."""

    results: Results
    rows: list[VideoRow] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)


def protocol_of(
    model: MaskGWM, rig_model: MaskGWM, recipe: MaskGWMRecipe, material: FilmMaterial, seed: int
) -> dict[str, Any]:
    """How everything was made."""
    system = recipe.system
    return {
        "recipe": recipe.name,
        "seed": seed,
        "split": "whole worlds",
        **material.description,
        "frames": system.num_frames,
        "given_frames": NUM_GIVEN,
        "frame_size": list(system.frame_size),
        "fps": system.fps,
        "sampling": config_to_json(recipe.sampling),
        "training_steps": {stage.name: stage.num_steps for stage in recipe.stages},
        "mask_ratio": 0.0 if system.reconstruction is None else system.reconstruction.ratio,
        "parameters": sum(p.numel() for p in model.parameters()),
        "parameters_of_all_cameras": sum(p.numel() for p in rig_model.parameters()),
        "torch_threads": torch.get_num_threads(),
    }


def evaluate(
    evaluation: Evaluation, model: MaskGWM, recipe: MaskGWMRecipe, material: FilmMaterial, seed: int
) -> None:
    """Dreams of one camera: horizon curves, actions, steering, long dreams."""
    model.eval()
    evaluate_dreams(evaluation, model, recipe, material, seed)
    evaluate_steering(evaluation, model, material, seed)
    evaluate_long(evaluation, model, recipe, material, seed)


def trivial_futures(material: FilmMaterial, *, with_kinds: bool) -> TrivialFutures:
    """What knows nothing of the held-out futures, fitted on training clips."""
    shown = collate([material.train[i] for i in spread(len(material.train), NUM_FITTED)])
    assert shown.frames is not None
    kinds = [style_of(caption, material.plan.styles) for caption in shown.captions]
    return TrivialFutures.fit(shown.frames, NUM_GIVEN, kinds if with_kinds else ())


def evaluate_dreams(
    evaluation: Evaluation, model: MaskGWM, recipe: MaskGWMRecipe, material: FilmMaterial, seed: int
) -> None:
    """Horizon curves, speed and action sensitivity of the held-out clips; a gallery."""
    results, groups = evaluation.results, material.groups
    batch = with_latents(model, material.held_out)
    assert batch.frames is not None
    mean = dream(model, batch, POSTERIOR_MEAN, torch.Generator().manual_seed(seed), NUM_GIVEN)
    trivial = trivial_futures(material, with_kinds=True).predict(
        batch.frames[:, :, :NUM_GIVEN],
        batch.frames.shape[2] - NUM_GIVEN,
        [style_of(caption, material.plan.styles) for caption in batch.captions],
    )
    reconstructed = reconstruct(model, batch)
    score_futures(
        results,
        batch.frames[:, :, NUM_GIVEN:],
        mean.frames[:, :, NUM_GIVEN:],
        {"reconstruction": reconstructed[:, :, NUM_GIVEN:]},
        trivial,
        groups,
        seed,
        ssim_every=SSIM_EVERY,
    )
    score_frame_sensitivity(results, model, batch, groups, seed, num_given=NUM_GIVEN)
    shown = torch.tensor(spread(len(batch), NUM_SAMPLED))
    part = rows_of(batch, shown)
    generator = torch.Generator().manual_seed(seed)
    sampled = dream(model, part, recipe.sampling, generator, NUM_GIVEN)
    score_dream_speed(results, "dream_mean", mean.seconds, len(batch))
    score_dream_speed(results, "dream_sampled", sampled.seconds, len(part))
    assert part.frames is not None
    evaluation.rows.extend(
        VideoRow(
            name=f"clip {i}",
            panels={
                "real": as_video(part.frames[i]),
                "reconstructed": as_video(reconstructed[shown[i]]),
                "dreamt, mean": as_video(mean.frames[shown[i]]),
                "dreamt, sampled": as_video(sampled.frames[i]),
            },
            caption=part.captions[i],
            num_context=NUM_GIVEN,
            fps=frame_rate(batch),
        )
        for i in spread(len(part), NUM_GALLERY)
    )


def evaluate_steering(
    evaluation: Evaluation, model: MaskGWM, material: FilmMaterial, seed: int
) -> None:
    """Left and right from one frame."""
    sides = [replace(side, captions=[""] * len(side)) for side in material.pairs]
    dreams = [
        dream(model, side, POSTERIOR_MEAN, torch.Generator().manual_seed(seed), NUM_GIVEN).frames
        for side in sides
    ]
    score_steering(evaluation.results, sides[0], sides[1], dreams[0], dreams[1], seed=seed)
    told = "one frame, two futures to be told: left and right"
    evaluation.rows.extend(steering_rows(sides, dreams, NUM_GIVEN, NUM_SHOWN_PAIRS, told))


def evaluate_long(
    evaluation: Evaluation, model: MaskGWM, recipe: MaskGWMRecipe, material: FilmMaterial, seed: int
) -> None:
    """Long drives dreamt in rounds under the real actions: do they stay alive?"""
    batch = collate(material.long)
    assert batch.frames is not None
    parts = dream_in_rounds(
        model,
        batch,
        recipe.sampling,
        torch.Generator().manual_seed(seed),
        num_given=NUM_GIVEN,
        overlap=recipe.film.overlap,
    )
    dreamt = torch.cat(list(parts), dim=2)
    groups = np.array([clip.episode for clip in material.long])
    found = score_long_horizon(
        evaluation.results,
        batch.frames,
        dreamt,
        trivial_futures(material, with_kinds=False),
        groups,
        num_given=NUM_GIVEN,
        fps=frame_rate(batch),
        num_last=min(NUM_LAST, batch.frames.shape[2] - NUM_GIVEN),
        proxy_window=None,  # a handful of drives are too few for it
        seed=seed,
    )
    told = evaluation.results.protocol["long_horizon"]
    told["overlap"] = recipe.film.overlap
    told["anchored_channels"] = recipe.system.anchored_channels
    evaluation.sections.append(long_section(found, evaluation.results))
    evaluation.rows.extend(
        VideoRow(
            name=f"drive {i}",
            panels={"real": as_video(batch.frames[i]), "dreamt": as_video(dreamt[i])},
            caption=f"{batch.captions[i]}; {batch.frames.shape[2] / frame_rate(batch):.0f} s, in "
            f"rounds of {recipe.system.num_frames - recipe.film.overlap} new frames, under the "
            "real actions",
            num_context=NUM_GIVEN,
            fps=2 * frame_rate(batch),
            section="Long dreams (twice as fast)",
        )
        for i in spread(len(dreamt), NUM_SHOWN_LONG)
    )


def evaluate_rig(
    evaluation: Evaluation, model: MaskGWM, recipe: MaskGWMRecipe, material: FilmMaterial, seed: int
) -> None:
    """Dreams of all cameras: PSNR of each, and whether they agree where they overlap."""
    model.eval()
    results, batch = evaluation.results, with_latents(model, material.held_out_rig)
    assert batch.frames is not None
    generator = torch.Generator().manual_seed(seed)
    dreamt = dream(model, batch, recipe.sampling, generator, NUM_GIVEN).frames
    cameras = drive_calibrations(recipe.system.num_views, recipe.system.frame_size)
    groups = material.rig_groups
    score_camera_overlap(
        results, batch.frames, dreamt, cameras, groups, num_given=NUM_GIVEN, seed=seed
    )
    mean = dream(model, batch, POSTERIOR_MEAN, torch.Generator().manual_seed(seed), NUM_GIVEN)
    reconstructed = reconstruct(model, batch)
    shown = collate(material.train_rig)
    assert shown.frames is not None
    score_futures(
        results,
        batch.frames[:, :, NUM_GIVEN:],
        mean.frames[:, :, NUM_GIVEN:],
        {"reconstruction": reconstructed[:, :, NUM_GIVEN:]},
        TrivialFutures.fit(shown.frames, NUM_GIVEN).predict(
            batch.frames[:, :, :NUM_GIVEN], batch.frames.shape[2] - NUM_GIVEN
        ),
        groups,
        seed,
        ssim_every=SSIM_EVERY,
        suffix="/all_cameras",
    )
    evaluation.sections.append(rig_section(results))
    evaluation.rows.extend(
        VideoRow(
            name=f"rig {i}",
            panels={
                "real": as_video(batch.frames[i]),
                "reconstructed": as_video(reconstructed[i]),
                "dreamt, mean": as_video(mean.frames[i]),
                "dreamt, sampled": as_video(dreamt[i]),
            },
            caption=f"{batch.captions[i]}; front, and 60 degrees to the left of it",
            num_context=NUM_GIVEN,
            fps=frame_rate(batch),
            section="Two cameras",
        )
        for i in spread(len(batch), NUM_SHOWN_RIG)
    )
