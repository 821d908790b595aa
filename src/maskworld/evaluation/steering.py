"""Does the dream obey the wheel? Counterfactual pairs: one first frame, a left and a right turn.

Both futures of a pair are rendered for real."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from maskworld.evaluation.results import Results
from maskworld.metrics.intervals import bootstrap_interval
from maskworld.metrics.motion import horizontal_shift, nearer_to_own_future, turned_right_way
from maskworld.metrics.scores import ClipScores
from maskworld.types import Batch


def score_steering(
    results: Results,
    left: Batch,
    right: Batch,
    dreamt_left: UInt8[Tensor, "b v t c h w"],
    dreamt_right: UInt8[Tensor, "b v t c h w"],
    frames: tuple[int, ...] = (2, 4),
    minimum: float = 3.0,
    seed: int = 0,
) -> None:
    """Adds "steering/frame_i" and "own_future/frame_i" over both sides of every pair.

    Steering: the far field moves the way the turn demands by `minimum` pixels or more, measured
    from the shared first frame; beside it the rate of the real renders, which bounds what the
    measure can show. Own future: the dream is nearer to the real future of its own actions than to
    that of the other side; a dream that ignores its actions scores one half.
    """
    if left.frames is None or right.frames is None or left.actions is None or right.actions is None:
        raise ValueError("Expected frames and actions on both sides of the pairs.")
    real = torch.cat([left.frames, right.frames])
    other = torch.cat([right.frames, left.frames])
    dreamt = torch.cat([dreamt_left, dreamt_right])
    yaw_rate = torch.cat([left.actions, right.actions])[:, 1:, 1].mean(dim=1)
    nearer = nearer_to_own_future(dreamt, real, other)
    for frame in frames:
        if frame >= real.shape[2]:
            continue
        bound = _turned(real, real, frame, yaw_rate, minimum)
        scores = _by_pair(_turned(real, dreamt, frame, yaw_rate, minimum))
        results.add(
            f"steering/frame_{frame}",
            model=scores.mean,
            interval=bootstrap_interval(scores, np.random.default_rng(seed)),
            n=len(left),
            better="higher",
            baselines={"real_renders": float(bound.float().mean()), "copy_last": 0.0},
        )
        scores = _by_pair(nearer[:, frame])
        results.add(
            f"own_future/frame_{frame}",
            model=scores.mean,
            interval=bootstrap_interval(scores, np.random.default_rng(seed)),
            n=len(left),
            better="higher",
            baselines={"ignores_actions": 0.5},
        )


def _by_pair(hits: Bool[Tensor, " b"]) -> ClipScores:
    """Both sides of a pair as one unit, since they share their first frame."""
    sides = hits.view(2, -1).double().numpy()
    return ClipScores(sides.sum(0)[:, None], np.full((sides.shape[1], 1), 2.0))


def _turned(
    real: Tensor, moved: Tensor, frame: int, yaw_rate: Float[Tensor, " b"], minimum: float
) -> Bool[Tensor, " b"]:
    shift = horizontal_shift(real[:, 0, 0], moved[:, 0, frame])
    return turned_right_way(shift, yaw_rate, minimum)
