"""Dreamt masks against those that came, step by step, beside the mask of now copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import repeat
from jaxtyping import Int, Integer, UInt8
from torch import Tensor

from maskworld.data.control import ControlClips
from maskworld.data.transforms import apply_transforms
from maskworld.evaluation.results import Results
from maskworld.metrics.intervals import bootstrap_interval
from maskworld.metrics.masks import MEAN, BoundaryF, MaskIoU, MaskScores
from maskworld.metrics.scores import ClipScores
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.mask_world_model import SAMPLING, MaskWorldModel
from maskworld.types import Clip, collate

COPY = "copy_last"


@dataclass(frozen=True)
class DreamtMasks:
    """Futures of several clips in the groups of a palette."""

    real: UInt8[Tensor, "b v f h w"]
    model: UInt8[Tensor, "b v f h w"]
    reconstruction: UInt8[Tensor, "b v f h w"]
    """The real ones through tokenizer and palette: the best that a dream can look like."""
    now: UInt8[Tensor, "b v h w"]
    names: tuple[str, ...]
    episodes: Int[np.ndarray, " b"]


@torch.no_grad()
def dream_masks(
    system: MaskWorldModel,
    clips: ControlClips,
    indices: Sequence[int],
    seed: int,
    *,
    sampling: FlowSampling = SAMPLING,
    batch_size: int = 8,
) -> DreamtMasks:
    """Dreams the future of held-out clips; the masks of now are read for the copy alone.

    Args:
        clips: with labels; their colour transforms do not matter, geometry is shared by all maps.
        indices: which clips.

    Raises:
        ValueError: clips without labels, or a system that predicts RGB.
    """
    if not clips.reads_labels or system.config.target != "mask":
        raise ValueError(
            "Expected clips with reads_labels and a system with target mask, found "
            f"{clips.reads_labels} and {system.config.target!r}: an RGB target has no masks to "
            "score."
        )
    generator = torch.Generator(system.device).manual_seed(seed)
    real, model, again = [], [], []
    for start in range(0, len(indices), batch_size):
        batch = collate([clips.get(i, seed=i) for i in indices[start : start + batch_size]])
        batch = batch.to(system.device)
        dreamt = system.rollout(batch, generator, sampling).labels
        latents = system.clips.encode(batch, with_future=True)
        _, kept = system.clips.decode(latents[:, :, system.config.num_memory :])
        assert batch.labels is not None
        assert dreamt is not None
        assert kept is not None
        real.append(system.palette.group(batch.labels).cpu())
        model.append(dreamt.cpu())
        again.append(kept.cpu())
    return DreamtMasks(
        torch.cat(real),
        torch.cat(model),
        torch.cat(again),
        system.palette.group(torch.stack([_mask_of_now(clips, i) for i in indices])),
        system.palette.config.names,
        np.array([clips.moment(i).episode for i in indices]),
    )


def _mask_of_now(clips: ControlClips, index: int) -> UInt8[Tensor, "v h w"]:
    """The class map of a clip's last remembered frame, cut as the clip is."""
    moment = clips.moment(index)
    episode = clips.source.episode(moment.episode)
    labels = episode.read_labels([moment.start])
    assert labels is not None
    frames = torch.from_numpy(np.ascontiguousarray(episode.read([moment.start])))
    shown = Clip(frames=frames, labels=torch.from_numpy(np.ascontiguousarray(labels)))
    cut = apply_transforms(shown, clips.transforms, index).labels
    assert cut is not None
    return cut[:, 0]


def copy_last_mask(
    now: Integer[Tensor, "b v h w"], num_frames: int
) -> Integer[Tensor, "b v f h w"]:
    """The mask of now again and again: what a prediction has to beat once things move."""
    return repeat(now, "b v h w -> b v f h w", f=num_frames)


def score_mask_rollouts(
    results: Results,
    real: Integer[Tensor, "b v f h w"],
    model: Integer[Tensor, "b v f h w"],
    now: Integer[Tensor, "b v h w"],
    names: Sequence[str],
    groups: Int[np.ndarray, " b"],
    seed: int,
    *,
    others: Mapping[str, Integer[Tensor, "b v f h w"]] | None = None,
    background: Sequence[str] = ("background",),
    tolerance: int = 1,
) -> None:
    """Adds "mask_iou", "mask_iou/<class>", "mask_iou_gain/copy_last" and "mask_boundary_f", each
    with its curve over the future frames.

    A class that is nowhere, neither in labels nor in predictions, has no IoU: it is left out of
    the means and named in the protocol. Where a class is nowhere in the labels but predicted, its
    IoU is 0 for whoever predicts it.

    Args:
        real: class maps that came; 255 counts nowhere.
        model: those that the model dreamt, in the same classes: grouped like its palette.
        now: the class map of the last remembered frame, for the copy.
        names: of the classes, in the order of their numbers.
        groups: a number per clip (its episode): intervals draw groups.
        others: the same model in another way, ceilings: "reconstruction".
        background: classes whose outlines are not scored.
        tolerance: of the outlines, pixels.

    Raises:
        ValueError: maps of other shapes, or a class without a name.
    """
    guesses = {"model": model, **(others or {}), COPY: copy_last_mask(now, real.shape[2])}
    ious: dict[str, MaskScores] = {}
    outlines: dict[str, ClipScores] = {}
    outlined = [name for name in names if name not in background]
    for label, guess in guesses.items():
        iou, boundary = MaskIoU(names), BoundaryF(names, tolerance, outlined)
        iou.update(guess, real)
        boundary.update(guess, real)
        ious[label], outlines[label] = iou.compute(), boundary.compute()
    _add_iou(results, ious, groups, seed)
    _add_gain(results, ious, groups, seed)
    results.add(
        "mask_boundary_f",
        model=outlines["model"].mean,
        interval=bootstrap_interval(outlines["model"], np.random.default_rng(seed), groups=groups),
        n=len(outlines["model"]),
        better="higher",
        baselines={key: scores.mean for key, scores in outlines.items() if key != "model"},
        per_horizon={key: scores.per_horizon for key, scores in outlines.items()},
    )
    results.protocol["mask_rollouts"] = {
        "classes": list(names),
        "absent": ious["model"].absent,
        "boundary_tolerance_pixels": tolerance,
        "boundary_classes": outlined,
        "size": list(real.shape[-2:]),
        "num_future": real.shape[2],
        "steps_better_than_copy": steps_won(ious["model"], ious[COPY]),
    }


def steps_won(model: MaskScores, other: MaskScores) -> list[int]:
    """Future frames, from 1, at which the model's mIoU is the higher."""
    pairs = zip(model.per_horizon[MEAN], other.per_horizon[MEAN])
    return [
        step
        for step, (a, b) in enumerate(pairs, start=1)
        if a is not None and b is not None and a > b
    ]


def _add_iou(
    results: Results, ious: Mapping[str, MaskScores], groups: np.ndarray, seed: int
) -> None:
    """The mean and every class that is there."""
    model = ious["model"]
    results.add(
        "mask_iou",
        model=model.mean,
        interval=model.interval(np.random.default_rng(seed), groups=groups),
        n=len(model),
        better="higher",
        baselines={key: scores.mean for key, scores in ious.items() if key != "model"},
        per_horizon={key: scores.per_horizon[MEAN] for key, scores in ious.items()},
    )
    for name in model.names:
        of_class = {key: scores.scores_of(name) for key, scores in ious.items()}
        if any(scores.weight.sum() == 0 for scores in of_class.values()):
            continue
        results.add(
            f"mask_iou/{name}",
            model=of_class["model"].mean,
            interval=bootstrap_interval(
                of_class["model"], np.random.default_rng(seed), groups=groups
            ),
            n=len(model),
            better="higher",
            baselines={k: scores.mean for k, scores in of_class.items() if k != "model"},
            per_horizon={k: scores.per_horizon for k, scores in of_class.items()},
        )


def _add_gain(
    results: Results, ious: Mapping[str, MaskScores], groups: np.ndarray, seed: int
) -> None:
    """The model's mIoU minus that of copying, over the same clips."""
    model, copy = ious["model"], ious[COPY]
    gaps = [
        None if a is None or b is None else a - b
        for a, b in zip(model.per_horizon[MEAN], copy.per_horizon[MEAN])
    ]
    results.add(
        f"mask_iou_gain/{COPY}",
        model=model.mean - copy.mean,
        interval=model.interval(np.random.default_rng(seed), minus=copy, groups=groups),
        n=len(model),
        better="higher",
        baselines={"no_difference": 0.0},
        per_horizon={"model": gaps, "no_difference": [0.0] * len(gaps)},
    )
