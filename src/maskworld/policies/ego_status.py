"""A planner that sees no picture: ego state and command, through a small network.

What it reaches is what a world model must exceed: much of a plan follows from the speed alone.

Reference: Li et al., Is Ego Status All You Need (2024); NAVSIM's EgoStatusMLP agent.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskworld.policies.baselines import plans_of
from maskworld.policies.plan_statistics import PlanStatistics, expert_plans
from maskworld.types import Batch, LossOutput, PlanBatch


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

    Call `statistics.fit` before training.
    """

    def __init__(self, config: EgoStatusConfig) -> None:
        super().__init__()
        self.config = config
        self.statistics = PlanStatistics(config.ego_dim, config.num_waypoints)
        sizes = [self.statistics.num_inputs, *[config.dim] * config.num_hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.GELU()]
        self.network = nn.Sequential(*layers, nn.Linear(sizes[-1], 3 * config.num_waypoints))

    def forward(self, plans: PlanBatch) -> Float[Tensor, "b k"]:
        """Standardised waypoints, flat."""
        return self.network(self.statistics.inputs(plans))

    def plan(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "b l 3"]:
        """Waypoints in metres and radians; nothing is drawn."""
        del generator
        with torch.no_grad():
            return self.statistics.waypoints(self(plans_of(batch)))

    def training_loss(self, batch: Batch, stage: str, generator: torch.Generator) -> LossOutput:
        """See `PlanStatistics.loss`."""
        del stage, generator
        plans = plans_of(batch)
        return self.statistics.loss(self(plans), plans)

    def parameter_groups(self, stage: str) -> list[dict[str, Any]]:
        """Everything trains; no decay on vectors."""
        del stage
        return decayed_groups(self)


def decayed_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Optimizer groups of all parameters, matrices and kernels with the default weight decay,
    vectors without."""
    parameters = list(module.parameters())
    return [
        {"params": [p for p in parameters if p.ndim >= 2]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


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
    known = expert_plans(plans)
    planner.statistics.fit(known)
    count = len(known.ego)
    optimizer = torch.optim.AdamW(planner.parameter_groups("planner"), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    assert known.trajectory is not None
    for _ in range(num_steps):
        drawn = torch.randint(count, (min(batch_size, count),), generator=generator)
        part = PlanBatch(known.ego[drawn], known.command[drawn], known.trajectory[drawn])
        optimizer.zero_grad()
        planner.statistics.loss(planner(part), part).total.backward()
        optimizer.step()
        schedule.step()
    return planner.eval()
