"""Comfort: six bounds on smoothed accelerations, jerks and yaw motion.

All filters have a fixed length, so each is one fixed 41 x 41 matrix.
Reference: NAVSIM v1.1's comfort metrics (Savitzky-Golay filters as in SciPy, `mode="interp"`).
"""

from __future__ import annotations

import functools
import math

import numpy as np
from jaxtyping import Bool, Float

from maskworld.metrics.pdms.simulator import DT, NUM_TICKS, States, unwrap

COMFORT_TERMS = (
    "longitudinal acceleration",
    "lateral acceleration",
    "jerk",
    "longitudinal jerk",
    "yaw acceleration",
    "yaw rate",
)
# Bounds of NAVSIM (from nuPlan), m/s^2, m/s^3, rad/s^2, rad/s; all strict.
MIN_LON_ACCELERATION, MAX_LON_ACCELERATION = -4.05, 2.40
MAX_LAT_ACCELERATION = 4.89
MAX_JERK = 8.37
MAX_LON_JERK = 4.13
MAX_YAW_ACCELERATION = 1.93
MAX_YAW_RATE = 0.95
DECIMALS = 8
"""Filtered values are rounded to so many before they are compared, or filtered again."""


def comfort_terms(states: States) -> Bool[np.ndarray, "p 6"]:
    """Which of `COMFORT_TERMS` stay within their bounds at every tick."""
    ax, ay = states[..., 5], states[..., 6]
    acceleration = np.hypot(ax, ay)
    lon, lat = _filter(ax, 41, 2), _filter(ay, 41, 2)
    jerk = _filter(_filter(acceleration, 8, 2), 41, 2, 1)
    lon_jerk = _filter(_filter(ax, 8, 2), 41, 2, 1)
    heading = unwrap(states[..., 2])
    yaw_rate, yaw_acceleration = _filter(heading, 5, 2, 1), _filter(heading, 5, 3, 2)
    terms = [(lon > MIN_LON_ACCELERATION) & (lon < MAX_LON_ACCELERATION)]
    terms += [
        np.abs(value) < bound
        for value, bound in (
            (lat, MAX_LAT_ACCELERATION),
            (jerk, MAX_JERK),
            (lon_jerk, MAX_LON_JERK),
            (yaw_acceleration, MAX_YAW_ACCELERATION),
            (yaw_rate, MAX_YAW_RATE),
        )
    ]
    return np.stack([term.all(axis=1) for term in terms], axis=1)


def _filter(
    values: Float[np.ndarray, "p 41"], window: int, degree: int, derivative: int = 0
) -> Float[np.ndarray, "p 41"]:
    return np.round(values @ filter_matrix(window, degree, derivative).T, DECIMALS)


@functools.cache
def filter_matrix(window: int, degree: int, derivative: int) -> Float[np.ndarray, "41 41"]:
    """Each tick's value of the polynomial fitted to a window of ticks, or its derivative in 1/s.

    Windows are centred; an even one leans ahead and is read half a tick after its tick (n - 3 .. n
    + 4, read at n + 0.5, for a window of 8). Ticks without a full window take the fit of the first
    or last one.
    """
    matrix = np.zeros((NUM_TICKS, NUM_TICKS))
    half = window // 2
    middle = (window - 1) / 2
    last = NUM_TICKS - window
    for tick in range(NUM_TICKS):
        if tick < half:
            start, place = 0, float(tick)
        elif tick >= NUM_TICKS - half:
            start, place = last, float(tick - last)
        else:
            start, place = tick - half + (window % 2 == 0), middle
        # Powers about the window's middle: well conditioned, and the wanted place is near 0.
        powers = np.vander(np.arange(window) - middle, degree + 1, increasing=True)
        fit = np.linalg.pinv(powers)  # coefficients of samples
        x = place - middle
        row = [
            math.perm(k, derivative) * x ** (k - derivative) if k >= derivative else 0.0
            for k in range(degree + 1)
        ]
        matrix[tick, start : start + window] = np.array(row) @ fit / DT**derivative
    matrix.flags.writeable = False
    return matrix
