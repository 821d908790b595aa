"""What regressing planners share: ego states and waypoints in units of their spread, and a loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from maskworld.types import LossOutput, PlanBatch

NUM_COMMANDS = 4


class PlanStatistics(nn.Module):
    """Means and spreads of ego states and trajectories; buffers, saved with a planner's weights."""

    def __init__(self, ego_dim: int, num_waypoints: int) -> None:
        super().__init__()
        self.num_inputs = ego_dim + NUM_COMMANDS
        self.ego_mean: Tensor
        self.ego_std: Tensor
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("ego_mean", torch.zeros(ego_dim))
        self.register_buffer("ego_std", torch.ones(ego_dim))
        self.register_buffer("mean", torch.zeros(num_waypoints, 3))
        self.register_buffer("std", torch.ones(num_waypoints, 3))

    def fit(self, plans: PlanBatch) -> None:
        """Measures the rows that have a trajectory.

        Raises:
            ValueError: none has.
        """
        known = expert_plans(plans)
        assert known.trajectory is not None
        self.ego_mean.copy_(known.ego.mean(0))
        self.ego_std.copy_(known.ego.std(0, correction=0).clamp(min=1e-3))
        self.mean.copy_(known.trajectory.mean(0))
        self.std.copy_(known.trajectory.std(0, correction=0).clamp(min=1e-2))

    def inputs(self, plans: PlanBatch) -> Float[Tensor, "b i"]:
        """Standardised ego state and one-hot command."""
        command = F.one_hot(plans.command.long(), NUM_COMMANDS).to(plans.ego.dtype)
        return torch.cat([(plans.ego - self.ego_mean) / self.ego_std, command], dim=-1)

    def waypoints(self, standardised: Float[Tensor, "b k"]) -> Float[Tensor, "b l 3"]:
        """Flat outputs of a network as metres and radians."""
        return standardised.view(-1, *self.mean.shape) * self.std + self.mean

    def loss(self, standardised: Float[Tensor, "b k"], plans: PlanBatch) -> LossOutput:
        """Mean absolute error of standardised waypoints, over the rows with a trajectory.

        A batch without any costs nothing.
        """
        if plans.trajectory is None:
            total = standardised.sum() * 0.0
        else:
            rows = has_expert(plans).to(standardised.dtype)
            target = ((plans.trajectory - self.mean) / self.std).flatten(1)
            error = (standardised - target).abs().mean(dim=1)
            total = (error * rows).sum() / rows.sum().clamp(min=1.0)
        return LossOutput(total, {"plan": total.detach()})


def has_expert(plans: PlanBatch) -> Bool[Tensor, " b"]:
    """True where a trajectory stands."""
    if plans.trajectory is None:
        return torch.zeros(len(plans.ego), dtype=torch.bool, device=plans.ego.device)
    if plans.has_trajectory is None:
        return torch.ones(len(plans.ego), dtype=torch.bool, device=plans.ego.device)
    return plans.has_trajectory


def expert_plans(plans: PlanBatch) -> PlanBatch:
    """The rows that have a trajectory.

    Raises:
        ValueError: none has.
    """
    rows = has_expert(plans)
    if not bool(rows.any()):
        raise ValueError(
            "Expected at least one plan sample with a trajectory, found none: ghosts have none, "
            "collect expert clips too."
        )
    return plans.rows(rows)
