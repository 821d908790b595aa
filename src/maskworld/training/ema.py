"""Exponential moving average of the weights that train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Averaged copies of named parameters: `average += (1 - d) * (weight - average)`.

    The decay warms up, d = min(decay, (1 + n) / (10 + n)) after n updates, so that short runs do
    not keep their random start. Averages are fp32 at least: (1 - d) drowns in bf16.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self._parameters = parameters
        self._averages = {
            name: p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True)
            for name, p in parameters.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Moves the averages towards the present weights."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        averages = list(self._averages.values())
        weights = [p.detach().to(a.dtype) for p, a in zip(self._parameters.values(), averages)]
        torch._foreach_lerp_(averages, weights, 1 - decay)

    @torch.no_grad()
    def copy_to_parameters(self) -> None:
        """Overwrites the weights by their averages."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self._averages[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The system runs on the averages inside, and has its own weights back afterwards."""
        own = {name: p.detach().clone() for name, p in self._parameters.items()}
        self.copy_to_parameters()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    parameter.copy_(own[name])

    def tensors(self) -> dict[str, Tensor]:
        """The averages by parameter name."""
        return dict(self._averages)

    def load(self, tensors: dict[str, Tensor], num_updates: int) -> None:
        """Restores averages saved by `tensors`.

        Raises:
            ValueError: other names than the parameters'.
        """
        if tensors.keys() != self._averages.keys():
            differing = sorted(tensors.keys() ^ self._averages.keys())
            raise ValueError(f"Expected averages of the training weights, differing: {differing}.")
        for name, average in self._averages.items():
            average.copy_(tensors[name])
        self.num_updates = num_updates
