"""A recorded world: the log of all traffic and of the expert, on its stage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from maskworld.types import EgoState
from maskworld.worlds.drive import ego
from maskworld.worlds.drive.cameras import Camera
from maskworld.worlds.drive.expert import Expert
from maskworld.worlds.drive.route import Command
from maskworld.worlds.drive.stage import Stage, build_stage
from maskworld.worlds.drive.weather import Appearance, Style


@dataclass(frozen=True, eq=False)
class Scene:
    """`num_steps` moments of one world. Step 0 is the start; row t of `actions` leads to step t."""

    stage: Stage
    fps: float
    agents: Float[np.ndarray, "t n 6"]
    """Rows of x, y, heading (centre of the box), length, width (metres), speed (m/s)."""
    kinds: list[str]
    """Of the agents: car, van or truck."""
    poses: Float[np.ndarray, "t 3"]
    """The expert's rear axle: x, y, heading."""
    actions: Float[np.ndarray, "t 2"]
    """The expert's speed (m/s) and yaw rate (rad/s) in the step into each moment."""

    @property
    def scenario(self) -> str:
        return self.stage.scenario

    @property
    def seed(self) -> int:
        return self.stage.seed

    @property
    def num_steps(self) -> int:
        return len(self.poses)

    def ego_state(self, step: int) -> EgoState:
        """The expert at a step; the acceleration is that of the step into it."""
        x, y, heading = self.poses[step].tolist()
        speed, yaw_rate = self.actions[step].tolist()
        before = float(self.actions[max(step - 1, 0), 0])
        return EgoState(x, y, heading, speed, (speed - before) * self.fps, yaw_rate)

    def command(self, pose: Float[np.ndarray, " 3"]) -> Command:
        """What the route asks for at a pose."""
        return self.stage.route.command(float(pose[0]), float(pose[1]))

    def appearance(self, style: Style | str, seed: int | None = None) -> Appearance:
        """A style with its details drawn from `seed` (the world's own when None)."""
        return self.stage.appearance(style, seed)

    def render(
        self,
        pose: Float[np.ndarray, " 3"],
        step: int,
        *,
        style: Appearance | Style | str = "summer",
        size: tuple[int, int] = (96, 160),
        cameras: tuple[Camera, ...] | None = None,
    ) -> tuple[UInt8[np.ndarray, "v h w 3"], UInt8[np.ndarray, "v h w"]]:
        """RGB and labels (`CLASSES`) seen from `pose` among the traffic of `step`."""
        agents = self.agents[step]
        return self.stage.render(pose, agents, style=style, size=size, cameras=cameras)


def record_scene(
    scenario: str, seed: int, *, num_steps: int = 120, fps: float | int = 10, num_agents: int = 12
) -> Scene:
    """Drives the expert through fresh traffic for `num_steps` moments, `fps` per second.

    Raises:
        ValueError: an unknown scenario, or fewer than two steps.
    """
    if num_steps < 2:
        raise ValueError(f"Expected at least 2 steps, found {num_steps}: pass num_steps=120.")
    stage, traffic = build_stage(scenario, seed, duration=num_steps / fps, num_agents=num_agents)
    expert = Expert(stage.route)
    pose = stage.start_pose
    speed = expert.initial_speed(pose, traffic.agents)
    traffic.set_ego(pose, speed)
    poses, actions, agents = [pose], [np.array([speed, 0.0])], [traffic.agents]
    for _ in range(num_steps - 1):
        action = expert.act(pose, speed, agents[-1], 1.0 / fps)
        pose, speed = ego.step_pose(pose, action, 1.0 / fps), float(action[0])
        traffic.step(1.0 / fps)
        traffic.set_ego(pose, speed)
        poses.append(pose)
        actions.append(action)
        agents.append(traffic.agents)
    return Scene(
        stage, float(fps), np.stack(agents), traffic.kinds, np.stack(poses), np.stack(actions)
    )
