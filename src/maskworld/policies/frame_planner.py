"""A planner without a world model: past frames, ego state and command, straight to waypoints.

It learns from the same clips as a world model's planner but never to predict a frame, so the
difference between the two is what dreaming is worth. Choose `dim` so that they are of one size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from maskworld.nn.pixels import to_unit
from maskworld.policies.baselines import plans_of
from maskworld.policies.ego_status import decayed_groups
from maskworld.policies.plan_statistics import PlanStatistics
from maskworld.types import Batch, LossOutput


@dataclass(frozen=True)
class FramePlannerConfig:
    """Numbers are ours, but for the plan's form (NAVSIM)."""

    frame_size: tuple[int, int] = (64, 96)
    """Height, width; multiples of 16."""
    num_views: int = 1
    num_past: int = 9
    seen: tuple[int, ...] = (0, 2, 4)
    """Which past frames are read, counted back from now."""
    dim: int = 32
    """Channels after the first layer; 4 dim after the last."""
    ego_dim: int = 4
    num_waypoints: int = 8

    def __post_init__(self) -> None:
        if any(side % 16 for side in self.frame_size):
            raise ValueError(f"Expected sides that are multiples of 16, found {self.frame_size}.")
        if not self.seen or not all(0 <= back < self.num_past for back in self.seen):
            raise ValueError(
                f"Expected frames of 0 to {self.num_past - 1} before now, found {self.seen}."
            )


class FramePlanner(nn.Module):
    """Convolutions over the stacked past frames, then an MLP that also reads ego and command.

    Call `statistics.fit` before training.
    """

    def __init__(self, config: FramePlannerConfig) -> None:
        super().__init__()
        self.config = config
        self.statistics = PlanStatistics(config.ego_dim, config.num_waypoints)
        d = config.dim
        channels = 3 * config.num_views * len(config.seen)
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, d, 5, stride=2, padding=2),
            nn.GELU(),
            *_halving(d, 2 * d),
            *_halving(2 * d, 4 * d),
            *_halving(4 * d, 4 * d),
        )
        cells = (config.frame_size[0] // 16) * (config.frame_size[1] // 16)
        self.squeeze = nn.Linear(4 * d * cells, 4 * d)
        self.head = nn.Sequential(
            nn.Linear(4 * d + self.statistics.num_inputs, 8 * d),
            nn.GELU(),
            nn.Linear(8 * d, 8 * d),
            nn.GELU(),
            nn.Linear(8 * d, 3 * config.num_waypoints),
        )

    def forward(self, batch: Batch) -> Float[Tensor, "b k"]:
        """Standardised waypoints, flat; frames after the past are not read.

        Raises:
            ValueError: no frames, of another size, or too few.
        """
        config = self.config
        if batch.frames is None:
            raise ValueError("Expected a batch with frames, found none.")
        _, views, time, _, *size = batch.frames.shape
        if (views, *size) != (config.num_views, *config.frame_size) or time < config.num_past:
            raise ValueError(
                f"Expected {config.num_views} views of {config.frame_size} and at least "
                f"{config.num_past} frames, found {views} of {tuple(size)} and {time}."
            )
        now = config.num_past - 1
        frames = to_unit(batch.frames[:, :, [now - back for back in config.seen]])
        grid = self.encoder(rearrange(frames, "b v t c h w -> b (v t c) h w"))
        picture = self.squeeze(grid.flatten(1))
        return self.head(torch.cat([picture, self.statistics.inputs(plans_of(batch))], dim=-1))

    def plan(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "b l 3"]:
        """Waypoints in metres and radians; nothing is drawn."""
        del generator
        with torch.no_grad():
            return self.statistics.waypoints(self(batch))

    def training_loss(self, batch: Batch, stage: str, generator: torch.Generator) -> LossOutput:
        """See `PlanStatistics.loss`."""
        del stage, generator
        return self.statistics.loss(self(batch), plans_of(batch))

    def parameter_groups(self, stage: str) -> list[dict[str, Any]]:
        """Everything trains; no decay on vectors."""
        del stage
        return decayed_groups(self)


def _halving(before: int, after: int) -> list[nn.Module]:
    """Half the height and width."""
    return [
        nn.Conv2d(before, after, 3, stride=2, padding=1),
        nn.GroupNorm(8, after),
        nn.GELU(),
    ]
