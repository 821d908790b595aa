"""Collisions: whose fault the first contact with a track is, and time to collision.

Tracks do not affect each other, so only the first contact of each pair of plan and track counts:
after it the track is either the plan's fault or ignored. Both metrics look at the same boxes, the
car's at a tick, moved on by 0, 0.3, 0.6 and 0.9 s, against the track's at that later tick.

Reference: NAVSIM v1.1's no-at-fault-collision and time-to-collision metrics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from maskworld.metrics.pdms.geometry import Boxes, boxes_touch
from maskworld.metrics.pdms.roads import RoadMap
from maskworld.metrics.pdms.simulator import DT, NUM_TICKS, States
from maskworld.metrics.pdms.tracks import Tracks
from maskworld.metrics.pdms.vehicle import CENTRE, FRONT, LENGTH, WIDTH, box_corners

# Of NAVSIM.
STOPPED_SPEED = 0.05
"""m/s; a contact of a car that stands is not its fault, running into what stands is."""
MIN_TTC_SPEED = 5e-3
"""m/s; below it there is no time to collision."""
LOOK_AHEAD = np.array([0, 3, 6, 9])
"""Ticks the car is moved on by, at constant velocity, for its time to collision."""
AHEAD, BEHIND = math.radians(30), math.radians(150)
"""Bearings from the rear axle, either side, within and beyond which a track is ahead, behind."""
MOVING_PENALTY, STATIC_PENALTY = 0.0, 0.5
"""Score after a collision at fault with a vehicle, pedestrian or bicycle; with something else."""

NO_TICK = -1
RADIUS = math.hypot(LENGTH, WIDTH) / 2


@dataclass(frozen=True)
class CollisionScores:
    """No collisions at fault (0, 0.5, 1), time to collision (0, 1), and the tick of the first
    contact at fault (-1: none)."""

    nc: Float[np.ndarray, " p"]
    ttc: Float[np.ndarray, " p"]
    time_to_collision_tick: Int[np.ndarray, " p"]


@dataclass(frozen=True)
class _Events:
    """Contacts: of which plan with which track, at which tick, the car moved on by how many."""

    plan: Int[np.ndarray, " e"]
    track: Int[np.ndarray, " e"]
    tick: Int[np.ndarray, " e"]
    later: Int[np.ndarray, " e"]


def collision_scores(
    states: States, tracks: Tracks, road: RoadMap, is_off_road: Bool[np.ndarray, "p 41"]
) -> CollisionScores:
    """The collision scores of plans; `is_off_road` says when a corner is in no drivable area."""
    contacts, near_contacts = _first_contacts(states, tracks)
    at_fault = _is_at_fault(contacts, states, tracks, road, is_off_road)
    plan, track = contacts.plan[at_fault], contacts.track[at_fault]
    nc, ttc = np.ones(len(states)), np.ones(len(states))
    penalty = np.where(tracks.is_moving_class[track], MOVING_PENALTY, STATIC_PENALTY)
    np.minimum.at(nc, plan, penalty)
    time_to_collision_tick = np.full(len(states), NUM_TICKS)
    np.minimum.at(time_to_collision_tick, plan, contacts.tick[at_fault])
    violates = _violates_ttc(near_contacts, states, tracks, road, is_off_road)
    ttc[near_contacts.plan[violates]] = 0.0
    return CollisionScores(
        nc, ttc, np.where(time_to_collision_tick < NUM_TICKS, time_to_collision_tick, NO_TICK)
    )


def _first_contacts(states: States, tracks: Tracks) -> tuple[_Events, _Events]:
    """The first contact of each pair of plan and track, and the first with the car moved on."""
    heading = states[..., 2]
    speed = np.hypot(states[..., 3], states[..., 4])
    cos, sin = np.cos(heading), np.sin(heading)
    x, y = states[..., 0] + CENTRE * cos, states[..., 1] + CENTRE * sin
    ahead = speed[..., None] * DT * LOOK_AHEAD  # p 41 4
    x, y = x[..., None] + ahead * cos[..., None], y[..., None] + ahead * sin[..., None]
    plan, track = _pairs_in_reach(x, y, tracks)
    # By circles first: what is left are few boxes.
    ticks = np.arange(NUM_TICKS)[:, None] + LOOK_AHEAD  # 41 4
    reach = RADIUS + np.hypot(*tracks.half_sizes.T)
    dx = tracks.poses[:, ticks, 0][track] - x[plan]
    dy = tracks.poses[:, ticks, 1][track] - y[plan]
    pair, tick, look = np.nonzero(dx**2 + dy**2 <= (reach[track] ** 2)[:, None, None])
    one = plan[pair]
    car = Boxes(x[one, tick, look], y[one, tick, look], heading[one, tick], LENGTH / 2, WIDTH / 2)
    touch = boxes_touch(car, tracks.boxes(track[pair], tick + LOOK_AHEAD[look]))
    pair, tick, look = pair[touch], tick[touch], look[touch]
    now, moves = look == 0, speed[plan[pair], tick] >= MIN_TTC_SPEED

    def first(chosen: Bool[np.ndarray, " e"]) -> _Events:
        # Sorted by pair, then tick, then look-ahead: the first of each pair is what counts.
        kept, index = np.unique(pair[chosen], return_index=True)
        later = LOOK_AHEAD[look[chosen][index]]
        return _Events(plan[kept], track[kept], tick[chosen][index], later)

    return first(now), first(moves)


def _pairs_in_reach(
    x: Float[np.ndarray, "p 41 4"], y: Float[np.ndarray, "p 41 4"], tracks: Tracks
) -> tuple[Int[np.ndarray, " q"], Int[np.ndarray, " q"]]:
    """Pairs of plan and track whose bounding boxes over all ticks meet."""
    meets = ~tracks.is_ignored[None]
    reach = RADIUS + np.hypot(*tracks.half_sizes.T)
    for i, centres in enumerate((x, y)):
        others = tracks.poses[..., i]
        low, high = np.fmin.reduce(others, axis=1) - reach, np.fmax.reduce(others, axis=1) + reach
        meets = meets & (centres.max(axis=(1, 2))[:, None] >= low)
        meets = meets & (centres.min(axis=(1, 2))[:, None] <= high)
    plan, track = np.nonzero(meets)
    return plan, track


def _is_at_fault(
    events: _Events,
    states: States,
    tracks: Tracks,
    road: RoadMap,
    is_off_road: Bool[np.ndarray, "p 41"],
) -> Bool[np.ndarray, " e"]:
    """At fault is who, moving, hits what stands or what its front edge meets, or is hit from the
    side while between lanes or off the road."""
    poses = states[events.plan, events.tick]
    boxes = tracks.boxes(events.track, events.tick)
    is_moving = np.hypot(poses[:, 3], poses[:, 4]) > STOPPED_SPEED
    hits_standing = ~tracks.is_moving_class | (tracks.speeds <= STOPPED_SPEED)
    is_behind = _bearing(poses, boxes) > BEHIND
    cos, sin = np.cos(poses[:, 2]), np.sin(poses[:, 2])
    front = Boxes(poses[:, 0] + FRONT * cos, poses[:, 1] + FRONT * sin, poses[:, 2], 0.0, WIDTH / 2)
    hits_with_front = boxes_touch(front, boxes)
    misplaced = is_off_road[events.plan, events.tick] | road.in_multiple_lanes(box_corners(poses))
    from_front_or_side = ~is_behind & (hits_with_front | misplaced)
    return is_moving & (hits_standing[events.track] | from_front_or_side)


def _violates_ttc(
    events: _Events,
    states: States,
    tracks: Tracks,
    road: RoadMap,
    is_off_road: Bool[np.ndarray, "p 41"],
) -> Bool[np.ndarray, " e"]:
    """What lies ahead counts; beside, only between lanes, off the road or in an intersection."""
    poses = states[events.plan, events.tick]
    bearing = _bearing(poses, tracks.boxes(events.track, events.tick + events.later))
    misplaced = is_off_road[events.plan, events.tick] | road.in_multiple_lanes(box_corners(poses))
    misplaced |= road.in_intersection(poses[:, :2])
    return (bearing < AHEAD) | (misplaced & (bearing <= BEHIND))


def _bearing(poses: Float[np.ndarray, "e 11"], boxes: Boxes) -> Float[np.ndarray, " e"]:
    """The angle, 0 to pi, between the car's heading and the way from its rear axle to a box."""
    dx, dy = boxes.x - poses[:, 0], boxes.y - poses[:, 1]
    cos, sin = np.cos(poses[:, 2]), np.sin(poses[:, 2])
    return np.abs(np.arctan2(dy * cos - dx * sin, dx * cos + dy * sin))
