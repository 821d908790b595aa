"""Dreams beside the very clips that they continue, frame by frame: PSNR, SSIM, LPIPS and motion.

Frames that the model was given are no prediction: give sets that leave them out.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from maskworld.evaluation.results import Results
from maskworld.evaluation.video_sets import ClipSet, check_pair
from maskworld.metrics.image import FrameMeasure, FrameMetric, psnr, ssim
from maskworld.metrics.intervals import bootstrap_interval
from maskworld.metrics.lpips import LPIPS
from maskworld.metrics.motion import horizontal_shift
from maskworld.metrics.scores import ClipScores, concatenate


def score_pairs(
    results: Results,
    real: ClipSet,
    dreamt: ClipSet,
    *,
    lpips: LPIPS | None = None,
    seed: int = 0,
) -> None:
    """Adds "psnr", "ssim", with weights "lpips", and of motion

    shift_error: pixels by which the far field's horizontal shift between neighbouring frames
        differs from the real one; does the dream turn as the drive did?
    frame_change_error: relative difference of the mean absolute change between neighbouring frames;
        does the dream freeze, or flicker?

    each with a copy of the first scored frame as "copy_first" and an interval over clips.

    Raises:
        ValueError: sets of other clips, lengths or sizes.
    """
    check_pair(real, dreamt)
    if list(real.units) != list(dreamt.units) or real.size != dreamt.size:
        raise ValueError(
            f"Expected dreams of the very clips, by the same names and of one size, found "
            f"{list(real.units)[:2]} of {real.size} and {list(dreamt.units)[:2]} of {dreamt.size}: "
            "score the sets without pairing, or name the videos alike."
        )
    if real.num_scored < 2:
        raise ValueError("Expected at least 2 scored frames for motion, found 1.")
    measures: dict[str, FrameMeasure] = {"psnr": psnr, "ssim": ssim}
    if lpips is not None:
        measures["lpips"] = lpips
    names = (*measures, "shift_error", "frame_change_error")
    scores: dict[str, dict[str, list[ClipScores]]] = {
        name: {"model": [], "copy_first": []} for name in names
    }
    for index in range(len(real)):
        target = real.clip(index)
        copy = target[:1].expand_as(target).contiguous()
        for who, frames in (("model", dreamt.clip(index)), ("copy_first", copy)):
            for name, measure in measures.items():
                metric = FrameMetric(measure)
                metric.update(frames[None, None], target[None, None])
                scores[name][who].append(metric.compute())
            for name, values in motion_errors(frames, target).items():
                scores[name][who].append(ClipScores(values, np.ones_like(values)))
    rng = np.random.default_rng(seed)
    groups = np.unique(np.array(real.units), return_inverse=True)[1]
    for name, found in scores.items():
        model, copied = concatenate(found["model"]), concatenate(found["copy_first"])
        results.add(
            name,
            model=model.mean,
            interval=bootstrap_interval(model, rng, groups=groups),
            n=len(real),
            better="higher" if name in ("psnr", "ssim") else "lower",
            baselines={"copy_first": copied.mean},
            per_horizon={"model": model.per_horizon, "copy_first": copied.per_horizon},
        )
    results.protocol["pairs"] = {
        "frames": real.num_scored,
        "size": list(real.size),
        "given_frames": "left out",
        "lpips_weights": "" if lpips is None else lpips.weights_sha256,
        "clips_sha256": real.sha256(),
    }


def motion_errors(
    dreamt: Shaped[Tensor, "t c h w"], real: Shaped[Tensor, "t c h w"]
) -> dict[str, Float[np.ndarray, "1 s"]]:
    """Per pair of neighbouring frames: "shift_error" in pixels, "frame_change_error" as a share."""
    shifts = [horizontal_shift(clip[:-1], clip[1:]) for clip in (dreamt, real)]
    changes = [_changes(clip) for clip in (dreamt, real)]
    share = (changes[0] - changes[1]).abs() / changes[1].clamp(min=0.5)  # grey levels
    return {
        "shift_error": (shifts[0] - shifts[1]).abs().double().numpy()[None],
        "frame_change_error": share.numpy()[None],
    }


def _changes(clip: Shaped[Tensor, "t c h w"]) -> Float[Tensor, " s"]:
    frames = clip.to(torch.float64)
    return (frames[1:] - frames[:-1]).abs().mean(dim=(1, 2, 3))
