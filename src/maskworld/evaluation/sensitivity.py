"""Does a model read its actions? How much worse it is when it is told others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from maskworld.evaluation.results import Results
from maskworld.metrics.intervals import bootstrap_interval
from maskworld.metrics.scores import ClipScores
from maskworld.types import Batch


def another_clip(num_clips: int, generator: torch.Generator) -> Int[Tensor, " n"]:
    """A permutation without fixed points: clip i gets the next clip of a random cycle."""
    if num_clips < 2:
        raise ValueError(f"Expected at least 2 clips to swap actions between, found {num_clips}.")
    cycle = torch.randperm(num_clips, generator=generator)
    order = torch.empty_like(cycle)
    order[cycle] = cycle.roll(1)
    return order


def disturbed_actions(
    actions: Float[Tensor, "n t a"], num_given: int, seed: int
) -> dict[str, Float[Tensor, "n t a"]]:
    """ "true"; "shuffled": after the given frames, another clip's; "mirrored": after them, the yaw
    rate (column 1) with its sign flipped."""
    order = another_clip(len(actions), torch.Generator().manual_seed(seed))
    shuffled, mirrored = actions.clone(), actions.clone()
    shuffled[:, num_given:] = actions[order, num_given:]
    mirrored[:, num_given:, 1] *= -1
    return {"true": actions, "shuffled": shuffled, "mirrored": mirrored}


def add_action_sensitivity(
    results: Results,
    loss: Mapping[str, ClipScores],
    groups: Int[np.ndarray, " n"],
    seed: int,
) -> None:
    """Adds "action_sensitivity/<how>": how much the loss of the same clips grows when the actions
    are disturbed. A model that ignores its actions scores 0.

    Args:
        loss: "true", and one for every way to disturb the actions.
    """
    for name, disturbed in loss.items():
        if name == "true":
            continue
        gap = disturbed.minus(loss["true"])
        results.add(
            f"action_sensitivity/{name}",
            model=gap.mean,
            interval=bootstrap_interval(gap, np.random.default_rng(seed), groups=groups),
            n=len(gap),
            better="higher",
            baselines={"ignores_actions": 0.0},
            per_horizon={"model": gap.per_horizon, "ignores_actions": [0.0] * gap.total.shape[1]},
        )


def score_velocity_sensitivity(
    results: Results,
    batch: Batch,
    errors_of: Callable[[Batch], ClipScores],
    groups: Int[np.ndarray, " n"],
    seed: int,
    *,
    num_given: int,
    drawn: Mapping[str, Any],
) -> None:
    """Adds "action_sensitivity/shuffled" and "/mirrored": how much larger the velocity loss is when
    the model is told another clip's actions after the given frames, or its own with the yaw rate's
    sign flipped. Given frames, noise and times stay.

    Args:
        errors_of: the velocity's squared error on a batch, from the same noise at every call.
        drawn: how noise and times are drawn, kept with the protocol.

    Raises:
        ValueError: no actions to disturb.
    """
    if batch.actions is None:
        raise ValueError("Expected actions to disturb, found a batch without.")
    told = disturbed_actions(batch.actions, num_given, seed)
    errors = {name: errors_of(replace(batch, actions=rows)) for name, rows in told.items()}
    add_action_sensitivity(results, errors, groups, seed)
    results.protocol["action_sensitivity"] = {
        "unit": "mean squared error of the velocity",
        "true_actions": errors["true"].mean,
        **drawn,
    }
