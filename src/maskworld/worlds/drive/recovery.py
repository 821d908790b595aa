"""Drives that stray from the route, and the expert's way back: what a log of good driving lacks.

A planner that has only seen an expert keep to its lane does not know how to return to it. So the
expert is sent along a route that swings from side to side, faster or slower than it would drive,
through the recorded traffic, which does not react; and from any moment of that drive it can be
asked for the way back. All numbers are ours.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from maskworld.worlds.drive import ego
from maskworld.worlds.drive.boxes import box_corners, ego_box, overlaps
from maskworld.worlds.drive.expert import Expert
from maskworld.worlds.drive.route import SPACING, Route
from maskworld.worlds.drive.scene import Scene

STRAY = 1.5
"""Most metres that the route is moved to either side."""
SWING = (1.5, 2.5)
"""Seconds, at the speed limit, from one side to the next."""
PACE = (0.8, 1.25)
"""What the expert's speed is multiplied by."""
BODY = (5.176, 0.3)
"""Length and width of the box that must stay on the asphalt, metres. The PDM score's car is 2.3 m
wide and may use a shoulder of 1 m on both sides."""
TRAFFIC_EVERY = 4
"""Steps between two looks at the traffic."""


def straying_drive(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with another log: the expert's on a route that strays, at another pace."""
    route = astray(scene.stage.route, rng)
    return _driven(scene, Expert(route))


def astray(route: Route, rng: np.random.Generator) -> Route:
    """The route moved sideways, smoothly, by up to `STRAY`; its speeds multiplied by one number."""
    apart = rng.uniform(*SWING) * route.speed_limit
    place = np.arange(len(route.points)) * SPACING / apart + rng.uniform()
    before = np.floor(place).astype(int)
    sides = rng.uniform(-STRAY, STRAY, before[-1] + 2)
    share = place - before
    share = share**2 * (3 - 2 * share)
    offset = sides[before] * (1 - share) + sides[before + 1] * share
    left = np.stack([-np.sin(route.heading), np.cos(route.heading)], axis=1)
    pace = rng.uniform(*PACE)
    return replace(
        route,
        points=route.points + offset[:, None] * left,
        curvature=route.curvature / pace**2,  # speeds in curves go with its square root
        speed_limit=route.speed_limit * pace,
    )


def way_back(drive: Scene, step: int, num_steps: int) -> Float[np.ndarray, "m 3"]:
    """The `num_steps` + 1 poses from `step` on if the expert took the wheel there, on the true
    route, among the traffic of the recording.

    Raises:
        ValueError: the recording ends before.
    """
    if step + num_steps >= drive.num_steps:
        raise ValueError(
            f"Expected a recording of more than {step + num_steps} steps for a way back of "
            f"{num_steps} from step {step}, found {drive.num_steps}: record more steps."
        )
    state = drive.ego_state(step)
    expert = Expert(drive.stage.route)
    expert.take_over(drive.poses[step], state.acceleration, state.yaw_rate)
    pose, speed = drive.poses[step], state.speed
    poses = [pose]
    for agents in drive.agents[step : step + num_steps]:
        action = expert.act(pose, speed, agents, 1.0 / drive.fps)
        pose, speed = ego.step_pose(pose, action, 1.0 / drive.fps), float(action[0])
        poses.append(pose)
    return np.stack(poses)


def is_safe(drive: Scene, step: int, poses: Float[np.ndarray, "m 3"]) -> bool:
    """Whether poses from `step` on keep to the road and touch nobody.

    Much quicker than a PDM score: of the ways back that pass, 99.5 % have its NC and DAC
    (docs/log.md).
    """
    if not on_road(drive, poses).all():
        return False
    moments = range(0, len(poses), TRAFFIC_EVERY)
    return not any(overlaps(ego_box(poses[i]), drive.agents[step + i]).any() for i in moments)


def on_road(drive: Scene, poses: Float[np.ndarray, "m 3"]) -> Bool[np.ndarray, " m"]:
    """Whether the corners of `BODY` are on the asphalt."""
    ahead = ego.LENGTH / 2 - ego.REAR_OVERHANG
    heading = poses[:, 2]
    centres = poses[:, :2] + ahead * np.stack([np.cos(heading), np.sin(heading)], axis=1)
    size = np.tile(BODY, (len(poses), 1))
    corners = box_corners(np.concatenate([centres, heading[:, None], size], axis=1))
    raster = drive.stage.surroundings.raster
    return np.asarray(raster.is_road(corners.reshape(-1, 2)).reshape(-1, 4).all(axis=1))


def _driven(scene: Scene, expert: Expert) -> Scene:
    pose, speed = scene.poses[0], float(scene.actions[0, 0])
    poses, actions = [pose], [scene.actions[0]]
    for agents in scene.agents[:-1]:
        action = expert.act(pose, speed, agents, 1.0 / scene.fps)
        pose, speed = ego.step_pose(pose, action, 1.0 / scene.fps), float(action[0])
        poses.append(pose)
        actions.append(action)
    return replace(scene, poses=np.stack(poses), actions=np.stack(actions))
