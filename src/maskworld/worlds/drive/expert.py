"""A comfortable driver: jerk-limited IDM along the route, pure pursuit across it.

Reference: Treiber et al. 2000 (IDM), Coulter 1992 (pure pursuit).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from maskworld.worlds.drive import ego
from maskworld.worlds.drive.route import SPACING, Route

THIN = 3
"""Traffic is compared with every third point of the route."""


@dataclass(frozen=True)
class ExpertConfig:
    """Comfort limits; all numbers are ours."""

    max_acceleration: float = 1.6
    comfortable_braking: float = 2.0
    max_braking: float = 4.0
    max_jerk: float = 2.5
    max_braking_jerk: float = 4.0
    """For braking harder than is comfortable, and for letting go of the brake."""
    max_lateral_acceleration: float = 2.1
    max_lateral_jerk: float = 5.0
    max_yaw_acceleration: float = 1.2
    time_gap: float = 1.3
    standstill_gap: float = 3.0
    stopping_rate: float = 1.5
    """Close to standstill the braking fades with the speed, at this rate per second."""
    horizon: float = 4.0
    """How far ahead crossing traffic is predicted, seconds."""


class Expert:
    """Keeps the acceleration and yaw rate between calls; call `act` once per step."""

    def __init__(self, route: Route, config: ExpertConfig | None = None) -> None:
        self.route = route
        self.config = config or ExpertConfig()
        self.acceleration = 0.0
        self.yaw_rate = 0.0
        self._index = route.start

    def sync(self, acceleration: float, yaw_rate: float) -> None:
        """Continues from what the ego last did, where someone else drove it."""
        self.acceleration, self.yaw_rate = acceleration, yaw_rate

    def take_over(
        self, pose: Float[np.ndarray, " 3"], acceleration: float, yaw_rate: float
    ) -> None:
        """As `sync`, anywhere along the route."""
        self.sync(acceleration, yaw_rate)
        self._index = self.route.nearest(pose[0], pose[1])

    def plan(
        self,
        pose: Float[np.ndarray, " 3"],
        speed: float,
        agents: Float[np.ndarray, "n 6"],
        *,
        num_poses: int = 8,
        interval: float = 0.5,
    ) -> Float[np.ndarray, "{num_poses} 3"]:
        """The poses that it would drive, one per `interval` seconds, if all others went straight.

        The expert itself is left as it was.
        """
        saved = self.acceleration, self.yaw_rate, self._index
        agents = agents.copy()
        direction = np.stack([np.cos(agents[:, 2]), np.sin(agents[:, 2])], axis=1)
        poses = []
        for _ in range(2 * num_poses):
            action = self.act(pose, speed, agents, interval / 2)
            pose, speed = ego.step_pose(pose, action, interval / 2), float(action[0])
            agents[:, :2] += direction * agents[:, 5:] * interval / 2
            poses.append(pose)
        self.acceleration, self.yaw_rate, self._index = saved
        return np.stack(poses[1::2])

    def initial_speed(
        self, pose: Float[np.ndarray, " 3"], agents: Float[np.ndarray, "n 6"]
    ) -> float:
        """A speed to start with, m/s: what the route and the traffic ahead allow at ease."""
        speed = 0.95 * self._speed_limit(self.route.speed_limit)
        while speed > 1.0 and self._longitudinal(pose, speed, agents) < -0.5:
            speed *= 0.9
        return speed

    def act(
        self,
        pose: Float[np.ndarray, " 3"],
        speed: float,
        agents: Float[np.ndarray, "n 6"],
        duration: float,
    ) -> Float[np.ndarray, " 2"]:
        """The action for the next `duration` seconds.

        `agents` rows: x, y, heading, length, width, speed.
        """
        self._index = self.route.nearest(pose[0], pose[1], self._index)
        wanted = self._longitudinal(pose, speed, agents)
        c = self.config
        if wanted < 0.0:
            wanted = max(wanted, -c.stopping_rate * speed - 0.3)
        hard = min(wanted, self.acceleration) < -c.comfortable_braking
        jerk = (c.max_braking_jerk if hard else c.max_jerk) * duration
        self.acceleration += float(np.clip(wanted - self.acceleration, -jerk, jerk))
        next_speed = speed + self.acceleration * duration
        if next_speed <= 0.0:
            next_speed, self.acceleration = 0.0, max(0.0, self.acceleration)
        wanted_yaw = self._pure_pursuit(pose, next_speed)
        limit = min(c.max_yaw_acceleration, c.max_lateral_jerk / max(next_speed, 1.0)) * duration
        self.yaw_rate += float(np.clip(wanted_yaw - self.yaw_rate, -limit, limit))
        # A standing car does not turn.
        self.yaw_rate = float(np.clip(self.yaw_rate, -0.4 * next_speed, 0.4 * next_speed))
        return np.array([next_speed, self.yaw_rate])

    def _pure_pursuit(self, pose: Float[np.ndarray, " 3"], speed: float) -> float:
        lookahead = float(np.clip(0.7 * speed, 3.0, 18.0))
        target = min(self._index + int(lookahead / SPACING), len(self.route.points) - 1)
        delta = self.route.points[target] - pose[:2]
        across = -np.sin(pose[2]) * delta[0] + np.cos(pose[2]) * delta[1]
        return float(2.0 * speed * across / max(float(delta @ delta), 1.0))

    def _longitudinal(
        self, pose: Float[np.ndarray, " 3"], speed: float, agents: Float[np.ndarray, "n 6"]
    ) -> float:
        c = self.config
        wanted_speed = self._speed_limit(speed)
        free = c.max_acceleration * (1.0 - (speed / max(wanted_speed, 0.1)) ** 4)
        acceleration = max(free, -c.comfortable_braking)
        leaders, stops = self._obstacles(pose, speed, agents)
        for gap in stops:
            # Brake evenly to a stop before a crossing path, once that takes some braking. What
            # can no longer be stopped for is passed.
            needed = speed**2 / (2 * gap)
            if 0.6 * c.comfortable_braking < needed < 1.1 * c.max_braking:
                acceleration = min(acceleration, -needed)
        for gap, leader_speed in leaders:
            closing = (
                speed
                * (speed - leader_speed)
                / (2 * np.sqrt(c.max_acceleration * c.comfortable_braking))
            )
            wanted_gap = c.standstill_gap + max(0.0, speed * c.time_gap + closing)
            pull = c.max_acceleration * (wanted_gap / max(gap, 0.5)) ** 2
            acceleration = min(acceleration, max(free, 0.0) - pull)
        return float(np.clip(acceleration, -c.max_braking, c.max_acceleration))

    def _speed_limit(self, speed: float) -> float:
        """The speed now that allows every curve ahead at comfortable braking."""
        c = self.config
        reach = int((speed**2 / (2 * 1.2) + 10.0) / SPACING)
        curvature = np.abs(self.route.curvature[self._index : self._index + reach])
        if len(curvature) == 0:
            return 0.1
        in_curve = np.sqrt(c.max_lateral_acceleration / np.maximum(curvature, 1e-3))
        distance = np.arange(len(curvature)) * SPACING
        # Brake for a curve early and gently (1.2 m/s^2).
        allowed = np.sqrt(in_curve**2 + 2 * 1.2 * np.maximum(distance - 1.0, 0.0))
        return float(min(self.route.speed_limit, allowed.min()))

    def _obstacles(
        self, pose: Float[np.ndarray, " 3"], speed: float, agents: Float[np.ndarray, "n 6"]
    ) -> tuple[list[tuple[float, float]], list[float]]:
        """Gap (m) and speed (m/s) of each leader, and the gaps to where others will cross."""
        leaders: list[tuple[float, float]] = []
        stops: list[float] = []
        route, c = self.route, self.config
        reach = min(70.0, 20.0 + 4.0 * speed)
        ahead = slice(self._index, self._index + int(reach / SPACING))
        points, headings = route.points[ahead], route.heading[ahead]
        front = ego.LENGTH - ego.REAR_OVERHANG
        if route.is_dead_end and len(points) < int(reach / SPACING):
            leaders.append((max(len(points) * SPACING - front, 0.5), 0.0))
        near = np.hypot(*(agents[:, :2] - pose[:2]).T) < reach + 5.0
        if not near.any() or len(points) == 0:
            return leaders, stops
        agents = agents[near]
        times = np.arange(0.0, c.horizon, 0.5)
        step = agents[:, 5, None] * times
        # Positions at constant velocity: agents x times.
        where = np.stack(
            [
                agents[:, 0, None] + np.cos(agents[:, 2, None]) * step,
                agents[:, 1, None] + np.sin(agents[:, 2, None]) * step,
            ],
            axis=-1,
        )
        distance = np.hypot(
            where[:, :, None, 0] - points[::THIN, 0], where[:, :, None, 1] - points[::THIN, 1]
        )  # agents x times x route
        closest = distance.argmin(axis=2)
        lateral = np.take_along_axis(distance, closest[..., None], axis=2)[..., 0]
        along = closest * (THIN * SPACING)
        for i, agent in enumerate(agents):
            relative = agent[2] - headings[::THIN][closest[i]]
            across, half_length = np.abs(np.sin(relative)), agent[3] / 2
            half_width = ego.WIDTH / 2 + agent[4] / 2 + 0.3
            # How far the agent reaches across our path, given how it stands to it.
            extent = half_width + (half_length - agent[4] / 2) * across
            inside = lateral[i] < np.where(agent[5] < 0.5, extent + 0.3, half_width)
            # Who is on our path, or drifts onto it from the side within two seconds.
            drifts = (across[0] < 0.3) & inside[times <= 2.0].any()
            if (inside[0] or drifts) and along[i, 0] > 0:
                along_speed = max(0.0, agent[5] * np.cos(relative[0]))
                gap = along[i, 0] - half_length - front
                leaders.append((max(gap, 0.5), along_speed))
                continue
            # Crossing traffic: it will be on our path at about the time when we are.
            arrival = along[i] / max(speed, 2.0)
            conflict = (lateral[i] < extent) & (np.abs(arrival - times) < 1.6) & (along[i] > 3.0)
            conflict &= across > 0.3
            if conflict.any():
                first = along[i][conflict].min()
                stops.append(max(first - half_width - front - 1.0, 0.5))
        return leaders, stops
