"""Opens Meta-World for closed-loop evaluation, and says which world it was."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from maskworld.evaluation.robot_episodes import RobotWorld

METAWORLD_LIMIT = 200
"""Steps of an episode; the scripted experts need 31 to 211 on average, by task. Ours: Meta-World's
own limit is 500."""


@dataclass(frozen=True)
class MetaWorldMaker:
    """Makes `worlds.metaworld.MetaWorld` of a task and a perturbation
    (`robot_episodes.WorldMaker`)."""

    size: tuple[int, int]
    """Height, width of the frames: those of the training data."""
    cameras: tuple[str, ...] = ("corner4", "gripperPOV")
    split: str = "eval"
    """Initial states that are never recorded; "train" for those of demonstrations."""

    @property
    def max_batch(self) -> int:
        """Worlds whose pictures can be drawn side by side in a process."""
        from maskworld.worlds.metaworld import find_backend

        return 1 if find_backend() == "osmesa" else 6

    def __call__(self, task: str, perturbation: str) -> RobotWorld:
        """`perturbation`: "" for none, "light=0.5", or several joined by "+".

        Raises:
            ValueError: an unknown task, camera or perturbation, or Meta-World is not installed.
        """
        from maskworld.worlds.metaworld import MetaWorld, parse_perturbations

        return MetaWorld(
            task,
            cameras=self.cameras,
            size=self.size,
            split="train" if self.split == "train" else "eval",
            perturbations=parse_perturbations(perturbation),
        )

    def describe(self) -> dict[str, Any]:
        """For the protocol.

        Raises:
            MissingGL: this machine cannot draw.
        """
        from maskworld.worlds.metaworld import find_backend

        return {
            "name": "metaworld",
            "opengl": find_backend(),
            "versions": {name: version(name) for name in ("metaworld", "mujoco")},
            **asdict(self),
        }
