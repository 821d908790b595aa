"""A robot's actions and states as a policy sees them: normalised, side by side, state first.

The target of a step is u = [action, state after it] (Mask World Model: 7 + 8 numbers).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from maskworld.conditioning.trajectory import TrajectoryNormaliser
from maskworld.types import ControlBatch

QUANTILE = 0.01
"""GE-ACT and Mask World Model: the range from q01 to q99 becomes [-1, 1]."""


@dataclass(frozen=True)
class StageConditions:
    """What a training stage hides of its conditions."""

    p_drop_caption: float
    """Share of samples trained with the empty caption."""
    memory_noise: float
    """Largest share of noise in the remembered frames, whose time stays 0."""


@dataclass(frozen=True)
class ControlChunk:
    """What a policy decides, in the data's units."""

    actions: Float[Tensor, "b l a"]
    states: Float[Tensor, "b l s"]
    """Where it expects the actions to lead."""


class ControlNormaliser(nn.Module):
    """Maps actions and states by their q01 and q99 to [-1, 1] and back; saved with the model.

    A number whose quantiles are equal, such as a gripper that hardly ever moves, is mapped by its
    smallest and largest value; one that never changes is only shifted to 0.
    """

    def __init__(self, action_dim: int, state_dim: int) -> None:
        super().__init__()
        self.actions = TrajectoryNormaliser("dataset", action_dim, QUANTILE)
        self.states = TrajectoryNormaliser("dataset", state_dim, QUANTILE)

    @property
    def is_fitted(self) -> bool:
        return bool(self.actions.statistics.is_fitted) and bool(self.states.statistics.is_fitted)

    def fit(self, control: ControlBatch) -> None:
        """Estimates the ranges from demonstrations, the repeats after an episode's end left out.

        Raises:
            ValueError: no demonstrations, NaN, or another width.
        """
        actions, states, is_real = demonstrated(control)
        rows = torch.cat([control.state, states[is_real]])
        for part, values in ((self.actions, actions[is_real]), (self.states, rows)):
            part.statistics.check(values)
            found = values.double().cpu().numpy()
            low, high = np.quantile(found, (QUANTILE, 1 - QUANTILE), axis=0)
            bounds = (low, high, found.min(axis=0), found.max(axis=0))
            self._set(part, *map(torch.from_numpy, bounds))

    def set_ranges(
        self,
        actions: tuple[Float[Tensor, " a"], Float[Tensor, " a"]],
        states: tuple[Float[Tensor, " s"], Float[Tensor, " s"]],
    ) -> None:
        """What becomes -1 and 1, for statistics that are known already."""
        self._set(self.actions, *actions, *actions)
        self._set(self.states, *states, *states)

    def normalise(
        self, actions: Float[Tensor, "b l a"], states: Float[Tensor, "b l s"]
    ) -> Float[Tensor, "b l u"]:
        """u = [action, state], not clamped."""
        return torch.cat([self.actions.normalise(actions), self.states.normalise(states)], dim=-1)

    def denormalise(
        self, u: Float[Tensor, "b l u"]
    ) -> tuple[Float[Tensor, "b l a"], Float[Tensor, "b l s"]]:
        """Actions and states in the data's units."""
        split = len(self.actions.statistics.offset)
        return (
            self.actions.denormalise(u[..., :split], clamp=False),
            self.states.denormalise(u[..., split:], clamp=False),
        )

    def state_token(self, state: Float[Tensor, "b s"]) -> Float[Tensor, "b 1 u"]:
        """[0, state now]: the token before a chunk."""
        normalised = self.states.normalise(state)
        zeros = normalised.new_zeros(len(state), len(self.actions.statistics.offset))
        return torch.cat([zeros, normalised], dim=-1)[:, None]

    @staticmethod
    def _set(
        part: TrajectoryNormaliser, low: Tensor, high: Tensor, lowest: Tensor, highest: Tensor
    ) -> None:
        is_flat = high <= low
        low, high = torch.where(is_flat, lowest, low), torch.where(is_flat, highest, high)
        is_constant = high <= low
        part.set_range(
            torch.where(is_constant, low - 1, low), torch.where(is_constant, high + 1, high)
        )


def demonstrated(
    control: ControlBatch,
) -> tuple[Float[Tensor, "b l a"], Float[Tensor, "b l s"], Bool[Tensor, "b l"]]:
    """Actions, the states they led to, and which of them are real.

    Raises:
        ValueError: a running policy's batch, which has none.
    """
    if control.actions is None or control.states is None or control.is_real is None:
        raise ValueError("Expected demonstrated actions to train on, found the state alone.")
    return control.actions, control.states, control.is_real
