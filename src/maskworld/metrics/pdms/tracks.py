"""The boxes of everything that can be hit, tick by tick."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from maskworld.metrics.pdms.geometry import Boxes

NUM_STATES = 51
"""Ticks of a track, every 0.1 s from t = 0 to 5 s (NAVSIM)."""


@dataclass(frozen=True, eq=False)
class Tracks:
    """Other road users and objects over 5 s, as recorded or as forecast.

    Attributes:
        poses: x, y, heading of the box's centre every 0.1 s; NaN where it is absent.
        half_sizes: half length and half width, m.
        speeds: m/s, one per track; counts for moving classes only.
        is_moving_class: vehicle, pedestrian or bicycle. Others count as standing, and a collision
            with one costs half.
        is_ignored: collisions with it do not count (PDM-Closed: in contact at t = 0).
    """

    poses: Float[np.ndarray, "m 51 3"]
    half_sizes: Float[np.ndarray, "m 2"]
    speeds: Float[np.ndarray, " m"]
    is_moving_class: Bool[np.ndarray, " m"]
    is_ignored: Bool[np.ndarray, " m"]

    def boxes(self, track: Int[np.ndarray, "*#e"], tick: Int[np.ndarray, "*#e"]) -> Boxes:
        """The boxes of tracks at ticks, of shapes that broadcast."""
        moment = track * NUM_STATES + tick
        x, y, cos, sin = (column.take(moment) for column in self._columns)
        half_length, half_width = self.half_sizes.T
        return Boxes(x, y, cos, sin, half_length.take(track), half_width.take(track))

    @cached_property
    def _columns(self) -> tuple[Float[np.ndarray, "m 51"], ...]:
        x, y, heading = np.moveaxis(self.poses, -1, 0).copy()
        return x, y, np.cos(heading), np.sin(heading)
