"""Named driving signals per frame to one vector per frame, each of them droppable.

Every number becomes sinusoids of its own, all of them side by side one projection, as in Vista. A
signal that is not known, or dropped for guidance, is replaced by a learned vector.

Reference: MaskGWM, section 3.1 ("following Vista"): command 1, waypoints 8, speed 4, steering 4,
goal point 2 numbers, 128 sinusoids each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from maskworld.nn.adaln import sinusoids

NUM_SINUSOIDS = 128


@dataclass(frozen=True)
class Signal:
    """Some neighbouring columns of `Batch.actions`."""

    name: str
    size: int
    scale: float = 1.0
    """What the numbers are divided by; the sinusoids tell apart changes of about 1 / 100."""


VISTA_SIGNALS = (
    Signal("command", 1),
    Signal("waypoints", 8, 10.0),
    Signal("speed", 4, 10.0),
    Signal("steering", 4, 1.0),
    Signal("goal", 2, 1.0),
)
"""Sizes of MaskGWM; the scales are ours."""


class SignalEncoder(nn.Module):
    """Rows of numbers to vectors. The projection's output enters where its reader says; readers
    that must start silent start with weights of zero themselves."""

    def __init__(self, signals: tuple[Signal, ...], dim: int) -> None:
        super().__init__()
        names = [signal.name for signal in signals]
        if not signals or len(set(names)) < len(names):
            raise ValueError(f"Expected signals of different names, found {names or 'none'}.")
        self.signals, self.width = signals, sum(signal.size for signal in signals)
        self.null = nn.Parameter(torch.zeros(len(signals), NUM_SINUSOIDS))
        self.project = nn.Linear(self.width * NUM_SINUSOIDS, dim)
        self.scale: Tensor
        scales = [signal.scale for signal in signals for _ in range(signal.size)]
        self.register_buffer("scale", torch.tensor(scales), persistent=False)

    def forward(
        self,
        rows: Float[Tensor, "b t a"],
        dropped: Bool[Tensor, "b s"] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Args:
            rows: the signals' columns in their order; NaN = not known.
            dropped: which signals of which sample are kept from the network.

        Raises:
            ValueError: another number of columns, or infinity.
        """
        if rows.shape[-1] != self.width or bool(rows.isinf().any()):
            told = ", ".join(f"{s.name} ({s.size})" for s in self.signals)
            raise ValueError(
                f"Expected {self.width} finite numbers per frame ({told}), found "
                f"{rows.shape[-1]}{' with infinity' if bool(rows.isinf().any()) else ''}: order "
                "the columns like that, and write NaN where a signal is not known."
            )
        unknown = rows.isnan()
        waves = sinusoids(rows.nan_to_num() / self.scale * 100, NUM_SINUSOIDS).to(self.null)
        sizes = torch.tensor([signal.size for signal in self.signals], device=rows.device)
        if dropped is not None:
            unknown = unknown | dropped.to(rows.device).repeat_interleave(sizes, dim=1)[:, None]
        null = self.null.repeat_interleave(sizes, dim=0)
        return self.project(torch.where(unknown[..., None], null, waves).flatten(2))
