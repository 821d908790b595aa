"""Small recordings of a robot, drawn, as LeRobot datasets: a block that the action pushes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from maskworld.data.lerobot import LeRobotWriter

SIZE, VIEWS, CLASSES = (32, 32), ("front", "wrist"), ("background", "robot", "object")


def write_robot(
    folder: Path,
    num_episodes: int = 3,
    length: int = 26,
    *,
    views: tuple[str, ...] = VIEWS,
    has_masks: bool = True,
    has_control: bool = True,
    num_actions: int = 2,
    failed: tuple[int, ...] = (),
    fps: int = 20,
) -> Path:
    """Episodes of `length` frames; the action says how far the block goes in the next step."""
    names = [f"a{i}" for i in range(num_actions)] if has_control else None
    draws = np.random.default_rng(0)
    with LeRobotWriter(
        folder,
        fps=fps,
        size=SIZE,
        views=views,
        action_names=names,
        label_names=CLASSES if has_masks else None,
        timing="from_frame",
    ) as writer:
        for number in range(num_episodes):
            pushes = draws.uniform(0.2, 0.9, length)
            places = 2 + np.cumsum(pushes) - pushes[0]
            labels = np.zeros((len(views), length, *SIZE), np.uint8)
            for row, place in enumerate(places):
                left = min(26, int(place))
                labels[:, row, 10:16, left : left + 6] = 2
                labels[:, row, 18:28, left : left + 3] = 1
            colours = np.array([[60, 80, 60], [200, 200, 210], [210, 60, 40]], np.uint8)
            frames = np.moveaxis(colours[labels], -1, 2)
            frames = frames + draws.integers(0, 20, frames.shape, dtype=np.uint8)
            writer.add_episode(
                frames=frames,
                labels=labels if has_masks else None,
                actions=np.repeat(pushes[:, None], num_actions, 1).astype(np.float32)
                if has_control
                else None,
                caption="push the block",
                extra={"observation.state": np.stack([places] * 3, 1).astype(np.float32)}
                if has_control
                else None,
                attributes={"success": number not in failed},
            )
    return folder
