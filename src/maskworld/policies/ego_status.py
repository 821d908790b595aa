"""A planner that sees no picture: ego state and command, through a small network.

What it reaches is what a world model must exceed: much of a plan follows from the speed alone.

Reference: Li et al., Is Ego Status All You Need (2024); NAVSIM's EgoStatusMLP agent.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from maskworld.policies.baselines import plans_of
from maskworld.types import Batch, LossOutput, PlanBatch

NUM_COMMANDS = 4


@dataclass(frozen=True)
class EgoStatusConfig:
    """Numbers are ours, but for the plan's form (NAVSIM)."""

    ego_dim: int = 4
    num_waypoints: int = 8
    dim: int = 128
    num_hidden: int = 2
    """Hidden layers."""


class EgoStatusPlanner(nn.Module):
    """An MLP from standardised ego state and one-hot command to standardised waypoints.

    Call `fit_statistics` before training; the statistics are buffers, saved with the weights.
    """

    def __init__(self, config: EgoStatusConfig) -> None:
        super().__init__()
        self.config = config
        sizes = [config.ego_dim + NUM_COMMANDS, *[config.dim] * config.num_hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.GELU()]
        self.network = nn.Sequential(*layers, nn.Linear(sizes[-1], 3 * config.num_waypoints))
        self.ego_mean: Tensor
        self.ego_std: Tensor
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("ego_mean", torch.zeros(config.ego_dim))
        self.register_buffer("ego_std", torch.ones(config.ego_dim))
        self.register_buffer("mean", torch.zeros(config.num_waypoints, 3))
        self.register_buffer("std", torch.ones(config.num_waypoints, 3))

    def fit_statistics(self, plans: PlanBatch) -> None:
        """Mean and spread of ego states and trajectories, of the rows that have a trajectory."""
        rows = _expert_rows(plans)
        targets = _trajectories(plans)[rows]
        self.ego_mean.copy_(plans.ego[rows].mean(0))
        self.ego_std.copy_(plans.ego[rows].std(0, correction=0).clamp(min=1e-3))
        self.mean.copy_(targets.mean(0))
        self.std.copy_(targets.std(0, correction=0).clamp(min=1e-2))

    def forward(self, plans: PlanBatch) -> Float[Tensor, "b l 3"]:
        """Standardised waypoints."""
        command = F.one_hot(plans.command.long(), NUM_COMMANDS).to(plans.ego.dtype)
        ego = (plans.ego - self.ego_mean) / self.ego_std
        flat = self.network(torch.cat([ego, command], dim=-1))
        return flat.view(-1, self.config.num_waypoints, 3)

    def plan(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "b l 3"]:
        """Waypoints in metres and radians; nothing is drawn."""
        del generator
        with torch.no_grad():
            return self(plans_of(batch)) * self.std + self.mean

    def training_loss(self, batch: Batch, stage: str, generator: torch.Generator) -> LossOutput:
        """Mean absolute error of the standardised waypoints, over rows with a trajectory.

        A batch without any costs nothing.
        """
        del stage, generator
        return self._loss(plans_of(batch))

    def parameter_groups(self, stage: str) -> list[dict[str, Any]]:
        """Everything trains; no decay on vectors."""
        del stage
        parameters = list(self.parameters())
        return [
            {"params": [p for p in parameters if p.ndim >= 2]},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]

    def _loss(self, plans: PlanBatch) -> LossOutput:
        predicted = self(plans)
        if plans.trajectory is None:
            total = predicted.sum() * 0.0
        else:
            rows = _expert_rows(plans).to(predicted.dtype)
            target = (plans.trajectory - self.mean) / self.std
            error = (predicted - target).abs().mean(dim=(1, 2))
            total = (error * rows).sum() / rows.sum().clamp(min=1.0)
        return LossOutput(total, {"plan": total.detach()})


def fit_ego_status(
    plans: PlanBatch,
    generator: torch.Generator,
    *,
    config: EgoStatusConfig | None = None,
    num_steps: int = 1500,
    batch_size: int = 256,
    learning_rate: float = 2e-3,
) -> EgoStatusPlanner:
    """Trains an ego-status planner in memory (seconds): AdamW with a cosine. Numbers are ours.

    Args:
        plans: rows without a trajectory are left out.
        generator: draws the first weights and the batches, so that one seed gives one planner.

    Raises:
        ValueError: no row has a trajectory.
    """
    planner = EgoStatusPlanner(config or EgoStatusConfig())
    for name, parameter in planner.named_parameters():
        if name.endswith("weight"):
            bound = (6.0 / parameter.shape[1]) ** 0.5  # He, uniform
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
        else:
            nn.init.zeros_(parameter)
    rows = _expert_rows(plans).nonzero()[:, 0]
    targets = _trajectories(plans)[rows]
    known = PlanBatch(plans.ego[rows], plans.command[rows], targets)
    planner.fit_statistics(known)
    optimizer = torch.optim.AdamW(planner.parameter_groups("planner"), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(num_steps):
        drawn = torch.randint(len(rows), (min(batch_size, len(rows)),), generator=generator)
        part = PlanBatch(known.ego[drawn], known.command[drawn], targets[drawn])
        optimizer.zero_grad()
        planner._loss(part).total.backward()
        optimizer.step()
        schedule.step()
    return planner.eval()


def _expert_rows(plans: PlanBatch) -> Tensor:
    """True where a trajectory stands."""
    if plans.trajectory is None:
        return torch.zeros(len(plans.ego), dtype=torch.bool, device=plans.ego.device)
    if plans.has_trajectory is None:
        return torch.ones(len(plans.ego), dtype=torch.bool, device=plans.ego.device)
    return plans.has_trajectory


def _trajectories(plans: PlanBatch) -> Tensor:
    if plans.trajectory is None or not bool(_expert_rows(plans).any()):
        raise ValueError(
            "Expected at least one plan sample with a trajectory, found none: ghosts have none, "
            "collect expert clips too."
        )
    return plans.trajectory
