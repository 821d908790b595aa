"""Planners that know next to nothing, and one that is told: what a planner is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from maskworld.types import Batch, PlanBatch

NUM_WAYPOINTS = 8
INTERVAL = 0.5
"""A plan is 8 poses at 2 Hz (NAVSIM)."""
SLOWEST = 0.5
"""Below this speed a turn rate cannot be told from the lateral acceleration, m/s. Ours."""


@dataclass(frozen=True)
class ConstantVelocity:
    """Straight on at the speed of now."""

    num_waypoints: int = NUM_WAYPOINTS
    interval: float = INTERVAL

    def plan(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "b l 3"]:
        """Reads the ego's vx alone."""
        del generator
        speed = plans_of(batch).ego[:, :1]
        return _arcs(speed, torch.zeros_like(speed), self.num_waypoints, self.interval)


@dataclass(frozen=True)
class ConstantTurnRate:
    """On at the speed and turn rate of now, an arc; the turn rate is ay / vx."""

    num_waypoints: int = NUM_WAYPOINTS
    interval: float = INTERVAL

    def plan(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "b l 3"]:
        """Reads the ego's vx and ay."""
        del generator
        ego = plans_of(batch).ego
        speed, lateral = ego[:, :1], ego[:, 3:4]
        rate = torch.where(speed > SLOWEST, lateral / speed.clamp(min=SLOWEST), 0.0)
        return _arcs(speed, rate, self.num_waypoints, self.interval)


@dataclass(frozen=True)
class StandStill:
    """Asks to be where it is now at once; how hard the car then brakes is the tracker's affair."""

    num_waypoints: int = NUM_WAYPOINTS

    def plan(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "b l 3"]:
        """Zeros."""
        del generator
        ego = plans_of(batch).ego
        return ego.new_zeros(len(ego), self.num_waypoints, 3)


@dataclass(frozen=True)
class RandomPlans:
    """Draws one of the trajectories that were trained on, whatever the moment."""

    trajectories: Float[Tensor, "n l 3"]

    def __post_init__(self) -> None:
        if len(self.trajectories) == 0:
            raise ValueError("Expected at least one trajectory to draw from, found none.")

    def plan(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "b l 3"]:
        """Rows of `trajectories`; one drawn number per row of the batch."""
        count = len(plans_of(batch).ego)
        rows = torch.randint(len(self.trajectories), (count,), generator=generator)
        return self.trajectories[rows]


@dataclass(frozen=True)
class KnownPlans:
    """Plans looked up by the token of the moment: the expert's, or those another run has made."""

    plans: Mapping[str, Float[Tensor, "l 3"]]

    def plan(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "b l 3"]:
        """Raises a ValueError for a token without a plan."""
        del generator
        tokens = plans_of(batch).tokens
        missing = [token for token in tokens if token not in self.plans]
        if missing:
            raise ValueError(
                f"Expected a plan for every token, found none for {missing[0]!r} and "
                f"{len(missing) - 1} others: make the plans from the same scenes."
            )
        return torch.stack([self.plans[token] for token in tokens])


def plans_of(batch: Batch) -> PlanBatch:
    """The plan samples of a batch.

    Raises:
        ValueError: it has none.
    """
    if batch.plan is None:
        raise ValueError(
            "Expected a batch with plan samples (ego state and command), found none: "
            "make its clips with preparation.planning_clips."
        )
    return batch.plan


def _arcs(
    speed: Float[Tensor, "b 1"], rate: Float[Tensor, "b 1"], num_waypoints: int, interval: float
) -> Float[Tensor, "b l 3"]:
    """Poses along an arc from the origin."""
    time = interval * torch.arange(1, num_waypoints + 1, dtype=speed.dtype, device=speed.device)
    turn = rate * time
    # The chord of an arc of angle a points along a / 2 and is sinc(a / 2) of the arc long.
    chord = speed * time * torch.sinc(turn / (2 * torch.pi))
    return torch.stack([chord * torch.cos(turn / 2), chord * torch.sin(turn / 2), turn], dim=-1)
