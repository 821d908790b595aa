"""Ghost drives: a second ego that starts where the expert is and steers as it likes.

It moves through the recorded traffic, which does not react: two ghosts with one start are true
counterfactuals, both with a real picture of their future.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from maskworld.worlds.drive import ego
from maskworld.worlds.drive.scene import Scene

MAX_YAW_RATE, MAX_YAW_RATE_FAST = 0.6, 0.25
"""Of random ghosts, rad/s; the second on highways."""
COUNTERFACTUAL_YAW_RATE, COUNTERFACTUAL_YAW_RATE_FAST = 0.5, 0.25
CLEARANCE = 1.8
"""Ghosts keep this far from the sides of vehicles, trunks and walls, metres. Ours."""


def ghost_actions(
    rng: np.random.Generator,
    scene: Scene,
    num_frames: int,
    *,
    start_step: int = 0,
    fps: float | int | None = None,
    num_tries: int = 12,
) -> Float[np.ndarray, "t 2"]:
    """Smooth random actions from the expert's pose at `start_step`; row t leads to frame t.

    Row 0 is the expert's own step into the start. Drives that hit something are drawn again, up to
    `num_tries` times, after which the one that came closest to free is taken.
    """
    fps = scene.fps if fps is None else fps
    limit = MAX_YAW_RATE_FAST if scene.stage.is_fast else MAX_YAW_RATE
    best, best_gap = None, -np.inf
    for _ in range(num_tries):
        drive = ego.ghost_profile(
            rng, num_frames - 1, float(scene.actions[start_step, 0]), fps, limit
        )
        gap = clearance(scene, start_step, drive, fps)
        if gap > best_gap:
            best, best_gap = drive, gap
        if gap > CLEARANCE:
            break
    assert best is not None
    return np.concatenate([scene.actions[start_step : start_step + 1], best])


def counterfactual_actions(
    scene: Scene, start_step: int, num_frames: int, *, fps: float | int | None = None
) -> tuple[Float[np.ndarray, "t 2"], Float[np.ndarray, "t 2"]]:
    """A left and a right turn from one start, with the same speeds; row t leads to frame t.

    Row 0, the step into the start, is the same in both, so the first frames are equal.
    """
    del fps  # The yaw rate is constant, so the frame rate does not change the actions.
    rate = COUNTERFACTUAL_YAW_RATE_FAST if scene.stage.is_fast else COUNTERFACTUAL_YAW_RATE
    speed = float(np.clip(scene.actions[start_step, 0], 3.0, 20.0))
    left = np.tile((speed, rate), (num_frames, 1))
    left[0] = scene.actions[start_step]
    right = left * (1.0, -1.0)
    right[0] = scene.actions[start_step]
    return left, right


def clearance(
    scene: Scene, start_step: int, drive: Float[np.ndarray, "n 2"], fps: float | int
) -> float:
    """The smallest gap, in metres, from the ego's middle line to anything solid on the way."""
    poses = ego.rollout_poses(scene.poses[start_step], drive, fps)
    stride = scene.fps / fps
    steps = np.minimum(
        start_step + np.round(np.arange(len(poses)) * stride).astype(int), scene.num_steps - 1
    )
    ahead = np.stack([np.cos(poses[:, 2]), np.sin(poses[:, 2])], axis=1)
    # Three points along the ego: rear axle, middle, front.
    probes = (poses[:, None, :2] + ahead[:, None] * np.array([[0.0], [1.8], [3.7]])).reshape(-1, 2)
    gap = np.inf
    agents = scene.agents[np.repeat(steps, 3)]
    if agents.shape[1]:
        delta = probes[:, None] - agents[..., :2]
        c, s = np.cos(agents[..., 2]), np.sin(agents[..., 2])
        along = np.abs(c * delta[..., 0] + s * delta[..., 1]) - agents[..., 3] / 2
        across = np.abs(-s * delta[..., 0] + c * delta[..., 1]) - agents[..., 4] / 2
        gap = float(np.hypot(np.maximum(along, 0), np.maximum(across, 0)).min())
    for centres, radius in (
        (scene.stage.surroundings.trees.base, 0.4),
        (scene.stage.surroundings.buildings.centre, scene.stage.surroundings.buildings.radius),
    ):
        if len(centres):
            delta = probes[:, None] - centres[None]
            gap = min(gap, float((np.hypot(delta[..., 0], delta[..., 1]) - radius).min()))
    return gap
