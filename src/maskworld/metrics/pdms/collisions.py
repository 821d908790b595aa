"""Collisions: whose fault the first contact with a track is, and time to collision.

Tracks do not affect each other, so only the first contact of each pair of plan and track counts:
after it the track is either the plan's fault or ignored. Both metrics look at the same boxes, the
car's at a tick, moved on by 0, 0.3, 0.6 and 0.9 s, against the track's at that later tick.

Reference: NAVSIM v1.1's no-at-fault-collision and time-to-collision metrics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

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
PerTick = Float[np.ndarray, "p 41"]


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


class _Cars(NamedTuple):
    """The car's box of every plan at every tick, and the area it sweeps when it is moved on."""

    x: PerTick
    y: PerTick
    cos: PerTick
    sin: PerTick
    speed: PerTick
    half_sweep: PerTick
    """Half the way it is moved on by."""

    @classmethod
    def of(cls, states: States) -> _Cars:
        cos, sin = np.cos(states[..., 2]), np.sin(states[..., 2])
        x, y = states[..., 0] + CENTRE * cos, states[..., 1] + CENTRE * sin
        speed = np.hypot(states[..., 3], states[..., 4])
        return cls(x, y, cos, sin, speed, speed * (DT * LOOK_AHEAD[-1] / 2))

    def sweep_centres(self) -> tuple[PerTick, PerTick]:
        """The middle of the area that is swept."""
        return self.x + self.half_sweep * self.cos, self.y + self.half_sweep * self.sin


def _first_contacts(states: States, tracks: Tracks) -> tuple[_Events, _Events]:
    """The first contact of each pair of plan and track, and the first with the car moved on."""
    cars = _Cars.of(states)
    plan, track, tick = _candidates(cars, tracks)
    moment = plan * NUM_TICKS + tick
    ahead = cars.speed.take(moment)[:, None] * (DT * LOOK_AHEAD)  # c 4
    cos, sin = (each.take(moment)[:, None] for each in (cars.cos, cars.sin))
    x, y = (each.take(moment)[:, None] for each in (cars.x, cars.y))
    car = Boxes(x + ahead * cos, y + ahead * sin, cos, sin, LENGTH / 2, WIDTH / 2)
    touch, look = np.nonzero(
        boxes_touch(car, tracks.boxes(track[:, None], tick[:, None] + LOOK_AHEAD))
    )
    plan, track, tick = plan[touch], track[touch], tick[touch]
    now, moves = look == 0, cars.speed[plan, tick] >= MIN_TTC_SPEED
    pair = plan * len(tracks.poses) + track

    def first(chosen: Bool[np.ndarray, " e"]) -> _Events:
        # Sorted by pair, then tick, then look-ahead: the first of each pair is what counts.
        index = np.flatnonzero(chosen)[np.unique(pair[chosen], return_index=True)[1]]
        return _Events(plan[index], track[index], tick[index], LOOK_AHEAD[look[index]])

    return first(now), first(moves)


def _candidates(
    cars: _Cars, tracks: Tracks
) -> tuple[Int[np.ndarray, " c"], Int[np.ndarray, " c"], Int[np.ndarray, " c"]]:
    """Plans, tracks and ticks at which the two may touch: first whole drives by bounding boxes,
    then ticks by circles, then by the strip that the car sweeps in the coming 0.9 s."""
    # A circle around each track's boxes at the four ticks.
    ahead = np.arange(NUM_TICKS)[:, None] + LOOK_AHEAD  # 41 4
    seen = tracks.poses[:, ahead, :2]  # m 41 4 2
    low, high = np.fmin.reduce(seen, axis=2), np.fmax.reduce(seen, axis=2)
    middle, spread = (low + high) / 2, (high - low) / 2
    radius = np.hypot(spread[..., 0], spread[..., 1]) + np.hypot(*tracks.half_sizes.T)[:, None]
    x, y = cars.sweep_centres()
    reach = np.hypot(LENGTH / 2 + cars.half_sweep, WIDTH / 2).max(axis=1, initial=0.0)
    limit = reach[:, None] + np.fmax.reduce(radius, axis=1)  # p m
    meets = ~tracks.is_ignored & np.ones_like(limit, dtype=bool)
    for i, centres in enumerate((x, y)):
        own_low, own_high = centres.min(axis=1)[:, None], centres.max(axis=1)[:, None]
        meets &= np.fmin.reduce(middle[..., i], axis=1) - own_high <= limit
        meets &= own_low - np.fmax.reduce(middle[..., i], axis=1) <= limit
    plan, track = np.nonzero(meets)
    dx, dy = middle[track, :, 0] - x[plan], middle[track, :, 1] - y[plan]
    pair, tick = np.nonzero(dx**2 + dy**2 <= limit[plan, track, None] ** 2)
    plan, track, dx, dy = plan[pair], track[pair], dx[pair, tick], dy[pair, tick]
    moment = plan * NUM_TICKS + tick
    cos, sin, sweep = (e.take(moment) for e in (cars.cos, cars.sin, cars.half_sweep))
    room = radius.take(track * NUM_TICKS + tick)
    near = np.abs(dx * cos + dy * sin) <= LENGTH / 2 + sweep + room
    near &= np.abs(dy * cos - dx * sin) <= WIDTH / 2 + room
    return plan[near], track[near], tick[near]


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
    is_standing = ~tracks.is_moving_class | (tracks.speeds <= STOPPED_SPEED)
    hits_standing = is_moving & is_standing[events.track]
    may_be_at_fault = is_moving & ~hits_standing & (_bearing(poses, boxes) <= BEHIND)
    cos, sin = np.cos(poses[:, 2]), np.sin(poses[:, 2])
    x, y = poses[:, 0] + FRONT * cos, poses[:, 1] + FRONT * sin
    hits_with_front = may_be_at_fault & boxes_touch(Boxes(x, y, cos, sin, 0.0, WIDTH / 2), boxes)
    at_fault = np.logical_or(hits_standing, hits_with_front)
    from_side = np.flatnonzero(may_be_at_fault & ~hits_with_front)
    at_fault[from_side] = road.in_multiple_lanes(box_corners(poses[from_side]))
    at_fault[from_side] |= is_off_road[events.plan, events.tick][from_side]
    return at_fault


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
    violates = bearing < AHEAD
    beside = np.flatnonzero(~violates & (bearing <= BEHIND))
    violates[beside] = road.in_multiple_lanes(box_corners(poses[beside]))
    violates[beside] |= is_off_road[events.plan, events.tick][beside]
    violates[beside] |= road.in_intersection(poses[beside, :2])
    return violates


def _bearing(poses: Float[np.ndarray, "e 11"], boxes: Boxes) -> Float[np.ndarray, " e"]:
    """The angle, 0 to pi, between the car's heading and the way from its rear axle to a box."""
    dx, dy = boxes.x - poses[:, 0], boxes.y - poses[:, 1]
    cos, sin = np.cos(poses[:, 2]), np.sin(poses[:, 2])
    return np.abs(np.arctan2(dy * cos - dx * sin, dx * cos + dy * sin))
