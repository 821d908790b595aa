"""The driving world as a gymnasium environment, with live traffic that reacts to the ego."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float, UInt8

from maskworld.types import EgoState
from maskworld.worlds.drive import ego
from maskworld.worlds.drive.boxes import ego_box, overlaps
from maskworld.worlds.drive.cameras import camera_rig
from maskworld.worlds.drive.classes import CLASSES
from maskworld.worlds.drive.expert import Expert
from maskworld.worlds.drive.roads import SCENARIOS, check_scenario
from maskworld.worlds.drive.route import SPACING, Command
from maskworld.worlds.drive.stage import Stage, build_stage
from maskworld.worlds.drive.traffic import Traffic
from maskworld.worlds.drive.weather import STYLES, parse_style

OPTIONS = ("scenario", "style", "world")


class DriveWorld(gymnasium.Env[dict[str, Any], Float[np.ndarray, " 2"]]):
    """Drive by (speed in m/s, yaw rate in rad/s), each held for one step.

    The reward is the progress along the route in metres; a collision ends the episode. `reset`
    takes the options "scenario", "style" and "world" (the seed of the world); what is not given
    is drawn from the environment's own generator, so one `seed` fixes everything, bit for bit.

    Args:
        size: height and width of the pictures.
        num_cameras: 1 to 6.
        fps: steps per second.
        max_steps: after which the episode is truncated.
        num_agents: vehicles beside the ego, at most.
        has_plan: whether `info` holds the expert's plan, which costs some milliseconds a step.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        *,
        size: tuple[int, int] = (96, 160),
        num_cameras: int = 1,
        fps: float | int = 10,
        max_steps: int = 120,
        num_agents: int = 12,
        has_plan: bool = True,
        render_mode: str | None = "rgb_array",
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"Expected render_mode 'rgb_array' or None, found {render_mode!r}.")
        self.size, self.fps, self.max_steps = size, float(fps), max_steps
        self.num_agents, self.has_plan, self.render_mode = num_agents, has_plan, render_mode
        self.cameras = camera_rig(num_cameras)
        space = gymnasium.spaces
        shape = (num_cameras, *size)
        low = np.array([0.0, -ego.MAX_YAW_RATE], np.float32)
        high = np.array([ego.MAX_SPEED, ego.MAX_YAW_RATE], np.float32)
        self.action_space = space.Box(low, high)
        self.observation_space = space.Dict(
            {
                "rgb": space.Box(0, 255, (*shape, 3), np.uint8),
                "labels": space.Box(0, len(CLASSES) - 1, shape, np.uint8),
                "ego": space.Box(-1e5, 1e5, (6,), np.float32),
                "command": space.Discrete(len(Command)),
            }
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts a new world.

        Raises:
            ValueError: an unknown option, scenario or style.
        """
        super().reset(seed=seed)
        options = options or {}
        unknown = sorted(set(options) - set(OPTIONS))
        if unknown:
            raise ValueError(f"Expected options of {OPTIONS}, found {unknown}.")
        # All three are drawn in any case, so that giving one does not change the others.
        world = int(self.np_random.integers(2**31))
        scenario = SCENARIOS[int(self.np_random.integers(len(SCENARIOS)))]
        style = STYLES[int(self.np_random.integers(len(STYLES)))]
        world = int(options.get("world", world))
        scenario, style = options.get("scenario", scenario), options.get("style", style)
        check_scenario(scenario)
        self.stage: Stage
        self.traffic: Traffic
        self.stage, self.traffic = build_stage(
            scenario, world, duration=self.max_steps / self.fps, num_agents=self.num_agents
        )
        self.appearance = self.stage.appearance(parse_style(style))
        self.expert = Expert(self.stage.route)
        pose = self.stage.start_pose
        speed = self.expert.initial_speed(pose, self.traffic.agents)
        self.traffic.set_ego(pose, speed)
        self.ego = _ego_state(pose, speed)
        self._station = self.stage.route.start
        self._num_steps = 0
        return self._observe(), self._info()

    def step(
        self, action: Float[np.ndarray, " 2"]
    ) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Drives one step; actions are clipped to the action space.

        Raises:
            ValueError: a NaN or infinite action.
        """
        action = np.asarray(action, dtype=np.float64)
        if action.shape != (2,) or not np.isfinite(action).all():
            raise ValueError(f"Expected two finite numbers (m/s, rad/s), found {action}.")
        bounds: Any = self.action_space
        speed, yaw_rate = np.clip(action, bounds.low, bounds.high).tolist()
        duration = 1.0 / self.fps
        pose = ego.step_pose(self.pose, np.array([speed, yaw_rate]), duration)
        acceleration = (speed - self.ego.speed) / duration
        self.ego = _ego_state(pose, speed, acceleration, yaw_rate)
        self.traffic.step(duration)
        self.traffic.set_ego(pose, speed)
        self._num_steps += 1
        route = self.stage.route
        before = self._station
        self._station = route.nearest(pose[0], pose[1], before)
        progress = (self._station - before) * SPACING
        has_collided = bool(overlaps(ego_box(pose), self.traffic.agents).any())
        is_over = self._num_steps >= self.max_steps or self._station >= len(route.points) - 1
        info = self._info() | {"has_collided": has_collided}
        return self._observe(), progress, has_collided, is_over, info

    def render(self) -> UInt8[np.ndarray, "h w 3"] | None:
        """The views of the last observation side by side."""
        if self.render_mode is None:
            return None
        return np.concatenate(list(self._rgb), axis=1)

    @property
    def pose(self) -> Float[np.ndarray, " 3"]:
        """The ego's rear axle: x, y, heading."""
        return np.array([self.ego.x, self.ego.y, self.ego.heading])

    def expert_action(self) -> Float[np.ndarray, " 2"]:
        """What the expert would do now."""
        self.expert.sync(self.ego.acceleration, self.ego.yaw_rate)
        return self.expert.act(self.pose, self.ego.speed, self.traffic.agents, 1.0 / self.fps)

    def _observe(self) -> dict[str, Any]:
        self._rgb, labels = self.stage.render(
            self.pose,
            self.traffic.agents,
            style=self.appearance,
            size=self.size,
            cameras=self.cameras,
        )
        state = self.ego
        row = (state.x, state.y, state.heading, state.speed, state.acceleration, state.yaw_rate)
        return {
            "rgb": self._rgb,
            "labels": labels,
            "ego": np.array(row, np.float32),
            "command": np.int64(self.stage.route.command(state.x, state.y, self._station)),
        }

    def _info(self) -> dict[str, Any]:
        """Everything exact, in world metres, y left; copies, which the caller may keep."""
        stage, agents = self.stage, self.traffic.agents
        info = {
            "ego": self.ego,
            "command": stage.route.command(self.ego.x, self.ego.y, self._station),
            "scenario": stage.scenario,
            "style": self.appearance.style.words,
            "world": stage.seed,
            "agents": agents,
            "agent_kinds": list(self.traffic.kinds),
            "lanes": {i: line.copy() for i, line in stage.road_map.centrelines.items()},
            "drivable": [outline.copy() for outline in stage.road_map.polygons],
            "centreline": stage.route.points[self._station :].copy(),
            "is_on_road": bool(stage.surroundings.raster.is_road(self.pose[None, :2])[0]),
        }
        if self.has_plan:
            self.expert.sync(self.ego.acceleration, self.ego.yaw_rate)
            info["expert_future"] = self.expert.plan(self.pose, self.ego.speed, agents)
        return info


def _ego_state(
    pose: Float[np.ndarray, " 3"], speed: float, acceleration: float = 0.0, yaw_rate: float = 0.0
) -> EgoState:
    x, y, heading = pose.tolist()
    return EgoState(x, y, heading, speed, acceleration, yaw_rate)
