"""What a clip shows, in a sentence: weather, what the ego does, the road, the traffic ahead."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from maskworld.worlds.drive import ego
from maskworld.worlds.drive.scene import Scene
from maskworld.worlds.drive.weather import Style, parse_style

PLACES = {
    "highway": "on a highway",
    "merge": "at a highway merge",
    "intersection": "at an intersection",
    "roundabout": "at a roundabout",
    "racetrack": "on a winding road",
}
TURN = 0.2
"""Change of heading over a clip that counts as turning, radians. Ours."""
STANDING = 0.5
"""Mean speed below which the ego is waiting, m/s. Ours."""


def caption(
    scene: Scene,
    poses: Float[np.ndarray, "t 3"],
    start: int,
    style: Style | str,
    *,
    fps: float | int | None = None,
) -> str:
    """For example "autumn dusk, turning left at an intersection, a car ahead".

    `poses` are those of the clip, `fps` its frame rate (the scene's when None); traffic is judged
    at its first frame, step `start` of the scene.
    """
    words = parse_style(style).words if isinstance(style, str) else style.words
    motion = describe_motion(poses, scene.fps if fps is None else fps)
    return f"{words}, {motion} {PLACES[scene.scenario]}, {describe_traffic(scene, poses[0], start)}"


def describe_motion(poses: Float[np.ndarray, "t 3"], fps: float | int) -> str:
    """Waiting, turning, slowing down, speeding up or driving straight."""
    actions = ego.actions_of(poses, fps)
    turn = float(poses[-1, 2] - poses[0, 2])
    if actions[:, 0].mean() < STANDING:
        return "waiting"
    if abs(turn) > TURN:
        return "turning left" if turn > 0 else "turning right"
    change = float(actions[-1, 0] - actions[0, 0])
    if abs(change) > 0.25 * float(actions[:, 0].max()):
        return "speeding up" if change > 0 else "slowing down"
    return "driving straight"


def describe_traffic(scene: Scene, pose: Float[np.ndarray, " 3"], step: int) -> str:
    """The vehicles within 40 m and 35 degrees of straight ahead."""
    delta = scene.agents[step][:, :2] - pose[:2]
    c, s = np.cos(pose[2]), np.sin(pose[2])
    forward = c * delta[:, 0] + s * delta[:, 1]
    left = -s * delta[:, 0] + c * delta[:, 1]
    ahead = np.flatnonzero((forward > 2) & (forward < 40) & (np.abs(left) < 0.7 * forward))
    if len(ahead) == 0:
        return "no traffic ahead"
    if len(ahead) == 1:
        return f"a {scene.kinds[ahead[0]]} ahead"
    return "two vehicles ahead" if len(ahead) == 2 else "several vehicles ahead"
