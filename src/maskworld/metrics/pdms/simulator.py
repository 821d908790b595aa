"""From a plan to what the car would do: interpolation, LQR tracking, kinematic bicycle.

Everything is vectorised over plans, which may belong to different scenes. The tracker's
recursions are rearranged, not approximated: the speed does not depend on the steering, so it is
rolled out first; of the ten-step lateral prediction only sums remain (`_steering_gains`).

Reference: NAVSIM v1.1's simulator (nuPlan's LQRTracker and KinematicBicycleModel).
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from maskworld.metrics.pdms.scene import NUM_PLAN_POSES, EgoState
from maskworld.metrics.pdms.vehicle import WHEEL_BASE

DT = 0.1
"""Seconds per tick."""
NUM_TICKS = 41
"""t = 0 to 4 s, both included."""
PLAN_STRIDE = 5
"""Ticks per pose of a plan: 0.5 s."""
HORIZON = 10
"""Steps the tracker looks ahead."""
# Weights of nuPlan's tracker.
ACCELERATION_PENALTY = 1e-4
CURVATURE_RATE_PENALTY = 1e-2
CURVATURE_PENALTY = 1e-10
Q_SPEED, R_ACCELERATION = 10.0, 1.0
Q_LATERAL, Q_HEADING, R_STEERING_RATE = 1.0, 10.0, 1.0
STOPPING_SPEED, STOPPING_GAIN = 0.2, 0.5
# Lags of nuPlan's bicycle, seconds, and its steering limit.
ACCELERATION_LAG, STEERING_LAG = 0.2, 0.05
MAX_STEERING = math.pi / 3

Plans = Float[np.ndarray, "p 8 3"]
Poses = Float[np.ndarray, "p 41 3"]
States = Float[np.ndarray, "p 41 11"]
"""Columns: x, y, heading, vx, vy, ax, ay, steering, steering rate, yaw rate, yaw acceleration."""
PerStep = Float[np.ndarray, "40 p"]


def wrap(angle: Float[np.ndarray, "*b"]) -> Float[np.ndarray, "*b"]:
    """The angle in [-pi, pi)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


def unwrap(angles: Float[np.ndarray, "p t"]) -> Float[np.ndarray, "p t"]:
    """The same angles, each within half a turn of the one before."""
    turns = np.diff(angles, axis=1)
    turns -= 2 * math.pi * np.round(turns / (2 * math.pi))
    return np.cumsum(np.concatenate([angles[:, :1], turns], axis=1), axis=1)


def track(plans: Plans, ego: EgoState) -> Poses:
    """The global poses every 0.1 s of plans in the ego's frame, the ego's own pose first.

    Plans are rounded to float32, as NAVSIM keeps them. Headings are interpolated the shorter way
    and lie in [-pi, pi).
    """
    plans = plans.astype(np.float32).astype(np.float64)
    cos, sin = math.cos(ego.heading), math.sin(ego.heading)
    knots = np.empty((len(plans), NUM_PLAN_POSES + 1, 3))
    knots[:, 0] = ego.x, ego.y, ego.heading
    knots[:, 1:, 0] = ego.x + plans[..., 0] * cos - plans[..., 1] * sin
    knots[:, 1:, 1] = ego.y + plans[..., 0] * sin + plans[..., 1] * cos
    knots[:, 1:, 2] = ego.heading + plans[..., 2]
    knots[..., 2] = np.unwrap(knots[..., 2], axis=1)
    share = np.arange(PLAN_STRIDE)[:, None] / PLAN_STRIDE
    between = knots[:, :-1, None] * (1 - share) + knots[:, 1:, None] * share  # p 8 5 3
    poses = np.concatenate([between.reshape(len(plans), NUM_TICKS - 1, 3), knots[:, -1:]], axis=1)
    poses[..., 2] = wrap(poses[..., 2])
    return poses


def simulate(poses: Poses, initial: Float[np.ndarray, "p 11"]) -> States:
    """Drives after `poses` for 4 s, from a state that may be another than the first pose.

    Args:
        poses: global, every 0.1 s, as from `track` or from a planner.
        initial: the state at t = 0 of every plan; becomes row 0.
    """
    states = np.zeros((len(poses), NUM_TICKS, 11))
    if not len(poses):
        return states
    states[:, 0] = initial
    v_profile, curvature = reference_profiles(poses)
    command, is_stopping = _roll_out_speed(v_profile, states)
    gains = _steering_gains(curvature, states[:, :-1, 3].T, command, is_stopping)
    _roll_out_steering(poses, gains, states)
    return states


def reference_profiles(
    poses: Poses,
) -> tuple[Float[np.ndarray, "p 40"], Float[np.ndarray, "p 40"]]:
    """Speed (m/s) and curvature (1/m) that explain the steps between poses by regularised least
    squares."""
    steps = np.diff(poses[..., :2], axis=1)
    heading = poses[:, :-1, 2]
    along = steps[..., 0] * np.cos(heading) + steps[..., 1] * np.sin(heading)
    speed = along @ _speed_matrix().T
    turns = wrap(np.diff(poses[..., 2], axis=1))
    return speed, _curvature_profile(speed, turns)


@functools.cache
def _speed_matrix() -> Float[np.ndarray, "40 40"]:
    """Projected steps -> speed profile. The step is dt (v0 + dt sum of the accelerations before),
    so with headings of unit length the fit in the plane is one along the heading."""
    n = NUM_TICKS - 1
    profile = np.concatenate([np.ones((n, 1)), DT * np.tri(n, n - 1, -1)], axis=1)  # v of unknowns
    # The released difference matrix is the identity but for its last row.
    difference = np.zeros((n - 2, n))
    difference[: n - 3, 1 : n - 2] = np.eye(n - 3)
    difference[-1, -2:] = -1, 1
    design = DT * profile
    normal = design.T @ design + ACCELERATION_PENALTY * difference.T @ difference
    matrix = profile @ np.linalg.pinv(normal) @ design.T
    matrix.flags.writeable = False
    return matrix


def _curvature_profile(
    speed: Float[np.ndarray, "p 40"], turns: Float[np.ndarray, "p 40"]
) -> Float[np.ndarray, "p 40"]:
    """Minimises sum (dt v_i k_i - turn_i)^2 + 1e-10 k_0^2 + 1e-2 sum ((k_i+1 - k_i) / dt)^2.

    A tridiagonal system, eliminated without cancellation: of every pivot only its excess over the
    next row's coupling is kept, which is a sum of positive terms.
    """
    n = speed.shape[1]
    coupling = CURVATURE_RATE_PENALTY / DT**2
    gain = DT * speed.T  # n p
    system = np.stack([gain**2, gain * turns.T], axis=1)  # n 2 p: excess of the pivot, right side
    system[0, 0] += CURVATURE_PENALTY
    kept = np.empty_like(gain)
    for i in range(n - 1):
        np.divide(coupling, coupling + system[i, 0], out=kept[i])
        system[i + 1] += system[i] * kept[i]
    curvature = np.empty_like(gain)
    curvature[-1] = system[-1, 1] / system[-1, 0]
    known = system[:-1, 1] * kept[:-1] / coupling
    for i in range(n - 2, -1, -1):
        curvature[i] = known[i] + kept[i] * curvature[i + 1]
    return curvature.T


class _Gains(NamedTuple):
    """The steering command of every step as a function of the errors then: rate = -(lateral * e_y
    + heading * e_psi + steering * delta - offset + turned_heading * wrap(e_psi + turned_steering *
    delta - turned_offset)), the errors being predicted over the horizon before they are weighed."""

    lateral: PerStep
    heading: PerStep
    steering: PerStep
    offset: PerStep
    turned_heading: PerStep
    turned_steering: PerStep
    turned_offset: PerStep


def _roll_out_speed(
    v_profile: Float[np.ndarray, "p 40"], states: States
) -> tuple[PerStep, Bool[np.ndarray, "40 p"]]:
    """Fills vx and ax of `states`; returns the acceleration commands, and when the tracker only
    stops the car (and does not steer)."""
    n = NUM_TICKS - 1
    ahead = np.minimum(np.arange(n) + HORIZON, n - 1)
    v_ref = v_profile.T[ahead]
    # One acceleration held for the horizon changes the speed by B = N dt.
    b = HORIZON * DT
    gain = Q_SPEED * b / (Q_SPEED * b**2 + R_ACCELERATION)
    wants_to_stop = v_ref <= STOPPING_SPEED
    somebody_does = np.flatnonzero(wants_to_stop.any(axis=1)).tolist()
    is_stopping = np.zeros_like(wants_to_stop)
    command = np.empty_like(v_ref)
    speed, acceleration = (np.empty((n + 1, len(states))) for _ in range(2))
    v, a = states[:, 0, 3], states[:, 0, 5]
    lag = DT / (DT + ACCELERATION_LAG)
    for k in range(n):
        command[k] = gain * (v_ref[k] - v)
        if k in somebody_does:
            is_stopping[k] = wants_to_stop[k] & (v <= STOPPING_SPEED)
            stopping = STOPPING_GAIN * (v_ref[k] - v)
            np.copyto(command[k], stopping, where=is_stopping[k])
        a = acceleration[k + 1] = a + lag * (command[k] - a)
        v = speed[k + 1] = v + DT * a
    states[:, 1:, 3], states[:, 1:, 5] = speed[1:].T, acceleration[1:].T
    return command, is_stopping


def _steering_gains(
    curvature: Float[np.ndarray, "p 40"],
    speed: PerStep,
    command: PerStep,
    is_stopping: Bool[np.ndarray, "40 p"],
) -> _Gains:
    """Ten steps of the lateral model, summed.

    With w_n = dt (v + a n dt) the way in step n, one step is e_y += w_n e_psi, delta += dt u,
    e_psi += w_n (delta / L - k_n): e_psi then holds sums of w_n, e_y sums of w_n w_m over m < n.
    """
    n = np.arange(HORIZON)[:, None, None]
    steps = np.minimum(np.arange(HORIZON)[:, None] + np.arange(len(speed)), len(speed) - 1)
    k = curvature.T[steps]  # 10 40 p: the curvature window of every step
    gained = command * DT
    way = DT * (speed + gained * n)
    way_after = DT * (speed * (9 - n) + gained * (45 - n * (n + 1) // 2))  # sum over later steps
    both = way * way_after
    total, weighted = way.sum(0), (n * way).sum(0)
    # B: what one steering rate, held for the horizon, adds to e_y and e_psi.
    b_y, b_psi = (DT / WHEEL_BASE) * (n * both).sum(0), (DT / WHEEL_BASE) * weighted
    inverse = np.where(
        is_stopping, 0.0, 1 / (Q_LATERAL * b_y**2 + Q_HEADING * b_psi**2 + R_STEERING_RATE)
    )
    lateral = Q_LATERAL * b_y * inverse
    return _Gains(
        lateral=lateral,
        heading=lateral * total,
        steering=lateral * both.sum(0) / WHEEL_BASE,
        offset=lateral * (both * k).sum(0),
        turned_heading=Q_HEADING * b_psi * inverse,
        turned_steering=total / WHEEL_BASE,
        turned_offset=(way * k).sum(0),
    )


def _roll_out_steering(poses: Poses, gains: _Gains, states: States) -> None:
    """Fills the remaining columns of `states`; speed and acceleration are there.

    As long as no heading error leaves (-pi, pi), the steering command is one linear function of x,
    y, heading and steering. Only plans where one does are rolled out again, with turns taken off.
    """
    start = states[:, 0]
    heading = unwrap(np.concatenate([start[:, None, 2], poses[..., 2]], axis=1))[:, 1:].T
    command = _linear_command(poses, heading, gains, start)
    way = DT * states[:, :-1, 3].T
    motion = np.stack([way, way, way / WHEEL_BASE], axis=1)  # 40 3 p
    first = np.stack([np.zeros(len(states)), np.zeros(len(states)), start[:, 2], start[:, 7]])
    columns, change = _steer(first, motion, command)
    wraps = _leaves_half_turn(columns, heading, gains)
    if wraps.any():
        wrapping = _Gains(*(gain[..., wraps] for gain in gains))
        columns[..., wraps], change[..., wraps] = _steer(
            first[:, wraps], motion[..., wraps], command[..., wraps], wrapping, heading[:, wraps]
        )
    states[:, 1:, 0] = start[:, None, 0] + columns[1:, 0].T
    states[:, 1:, 1] = start[:, None, 1] + columns[1:, 1].T
    states[:, 1:, 2] = wrap(columns[1:, 2].T)
    states[:, 1:, 7] = columns[1:, 3].T
    states[:, 1:, 8] = change.T / DT
    states[:, 1:, 9] = states[:, 1:, 3] * np.tan(states[:, 1:, 7]) / WHEEL_BASE
    states[:, 1:, 10] = np.diff(states[..., 9], axis=1) / DT


def _linear_command(
    poses: Poses,
    heading: Float[np.ndarray, "41 p"],
    gains: _Gains,
    start: Float[np.ndarray, "p 11"],
) -> Float[np.ndarray, "40 5 p"]:
    """Factors of x, y (from the start), heading, steering and 1 in the change of the steering."""
    x_ref, y_ref = (poses[:, :-1, i].T - start[:, i] for i in range(2))
    heading = heading[:-1]
    across_x, across_y = -np.sin(heading) * gains.lateral, np.cos(heading) * gains.lateral
    turn = gains.heading + gains.turned_heading
    rest = gains.offset + gains.turned_heading * gains.turned_offset
    rest += across_x * x_ref + across_y * y_ref + turn * heading
    steering = gains.steering + gains.turned_heading * gains.turned_steering
    lag = DT / (DT + STEERING_LAG)
    return (lag * DT) * np.stack([-across_x, -across_y, -turn, -steering, rest], axis=1)


def _steer(
    first: Float[np.ndarray, "4 p"],
    motion: Float[np.ndarray, "40 3 p"],
    command: Float[np.ndarray, "40 5 p"],
    gains: _Gains | None = None,
    heading: Float[np.ndarray, "41 p"] | None = None,
) -> tuple[Float[np.ndarray, "41 5 p"], PerStep]:
    """x, y, heading, steering (and 1) at every tick, and how the steering wants to change.

    With `gains` and the plans' `heading`, heading errors are wrapped.
    """
    columns = np.empty((NUM_TICKS, 5, first.shape[1]))
    columns[0, :4], columns[:, 4] = first, 1.0
    change = np.empty((NUM_TICKS - 1, first.shape[1]))
    for k in range(NUM_TICKS - 1):
        now, after = columns[k], columns[k + 1]
        np.add.reduce(command[k] * now, axis=0, out=change[k])
        if gains is not None and heading is not None:
            change[k] += _taken_off(k, now, gains, heading)
        # The bicycle: poses move with the speed and the steering of before.
        np.cos(now[2], out=after[0])
        np.sin(now[2], out=after[1])
        np.tan(now[3], out=after[2])
        after[:3] *= motion[k]
        after[:3] += now[:3]
        np.minimum(np.maximum(now[3] + change[k], -MAX_STEERING), MAX_STEERING, out=after[3])
    return columns, change


def _taken_off(
    k: int, now: Float[np.ndarray, "5 p"], gains: _Gains, heading: Float[np.ndarray, "41 p"]
) -> Float[np.ndarray, " p"]:
    """What full turns in the heading errors had added to the linear command."""
    error = now[2] - heading[k]
    turned = error + gains.turned_steering[k] * now[3] - gains.turned_offset[k]
    extra = gains.heading[k] * (error - wrap(error))
    extra += gains.turned_heading[k] * (turned - wrap(turned))
    return (DT / (DT + STEERING_LAG) * DT) * extra


def _leaves_half_turn(
    columns: Float[np.ndarray, "41 5 p"], heading: Float[np.ndarray, "41 p"], gains: _Gains
) -> Bool[np.ndarray, " p"]:
    """Whether a heading error, or the one predicted for the horizon's end, needs wrapping."""
    error = columns[:-1, 2] - heading[:-1]
    turned = error + gains.turned_steering * columns[:-1, 3] - gains.turned_offset
    half = math.pi - 1e-9  # at half a turn rounding decides: leave it to the exact way
    return np.logical_or(np.abs(error) > half, np.abs(turned) > half).any(axis=0)
