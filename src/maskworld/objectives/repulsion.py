"""Pushes plans away from near misses: hard negatives and the repulsive distance (ReWorld, stage 3).

The loss is the negative of a distance, so it has no lower bound and its weight matters: in the
paper 0.04 helps and 0.10 breaks the planner. `TrajectoryNormaliser.denormalise(clamp=True)` bounds
it.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def select_hard_negative(
    candidates: Float[Tensor, "b n l 3"],
    scores: Float[Tensor, "b n"],
    expert: Float[Tensor, "b l 3"],
    threshold: float | int = 0.6,
    wrap_heading: bool = False,
) -> tuple[Float[Tensor, "b l 3"], Bool[Tensor, " b"]]:
    """The unsafe candidate nearest to the expert, and whether there is one; zeros where not.

    Args:
        candidates: x, y (m), heading (rad); the paper has 64 per scene. All three count alike.
        scores: higher is safer; the paper takes the whole PDM score. A pool shorter than `n` is
            padded with a score of infinity.
        threshold: delta of the paper; a score of exactly delta is safe.
        wrap_heading: headings the short way round. Off as in the paper, which squares the plain
            difference.

    Reference: ReWorld, Eq. 13 to 15.

    Raises:
        ValueError: a NaN score, or NaN in an unsafe candidate or an expert.
    """
    if bool(scores.isnan().any()):
        raise ValueError("Expected a score per candidate, found NaN: score the pool again.")
    is_unsafe = scores < threshold  # Eq. 13
    difference = candidates - expert[:, None]
    if wrap_heading:
        turn = difference[..., 2:]
        difference = torch.cat([difference[..., :2], torch.atan2(turn.sin(), turn.cos())], dim=-1)
    distance = difference.square().sum(dim=-1).mean(dim=-1)  # b n
    if not bool(distance[is_unsafe].isfinite().all()):
        raise ValueError("Expected finite waypoints, found NaN or infinity among the unsafe ones.")
    nearest = distance.masked_fill(~is_unsafe, torch.inf).argmin(dim=1)  # Eq. 14
    negative = candidates[torch.arange(len(candidates), device=nearest.device), nearest]  # Eq. 15
    has_negative = is_unsafe.any(dim=1)
    return torch.where(has_negative[:, None, None], negative, 0.0), has_negative


def repulsion_loss(
    delta: Float[Tensor, "b l 4"],
    negative_delta: Float[Tensor, "b l 4"],
    has_negative: Bool[Tensor, " b"],
) -> Float[Tensor, ""]:
    """Minus the mean absolute difference of delta maps, over the scenes that have a negative.

    Without any such scene in the batch it is 0, with a graph. Nothing weighs by t, as in the paper,
    though the estimate of a plan is poor at t near 1.

    Args:
        delta: `DeltaMap` of the denormalised `flow.clean_estimate` (Eq. 16, 17).
        negative_delta: of the negative; no gradient flows into it.

    Reference: ReWorld, Eq. 18.
    """
    dtype = torch.promote_types(delta.dtype, torch.float32)
    difference = delta.to(dtype) - negative_delta.detach().to(dtype)
    # Hidden before the absolute value: a NaN there would come back through its gradient.
    distance = difference.masked_fill(~has_negative[:, None, None], 0.0).abs().mean(dim=(1, 2))
    return -distance.sum() / has_negative.sum().clamp(min=1)  # Eq. 18
