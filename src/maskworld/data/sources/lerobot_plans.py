"""LeRobot datasets of drives that say where the car was: plan samples beside frames and actions.

What is read, per frame: a column `ego` (or `observation.ego`) that begins with x, y (m, any fixed
frame), heading (rad, counter-clockwise) and, if it has a fourth number, speed (m/s); and, where
there is one, a column `command` (0 left, 1 straight, 2 right, 3 unknown). `maskworld data collect`
writes both. Accelerations are fitted to past speeds: a recorded one may have seen the future.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from maskworld.data.episodes import Recent
from maskworld.data.lerobot_reader import LeRobotEpisode, LeRobotSource
from maskworld.data.trajectories import (
    POSE_GAP,
    STATUS_WINDOW,
    UNKNOWN,
    TimedPoses,
    plan_sample,
)
from maskworld.types import PlanSample

EGO_COLUMNS = ("ego", "observation.ego")
COMMAND_COLUMN = "command"
NOT_TO_IMITATE = "ghost"
"""`kind` of an episode whose drive leaves the expert's: its plans have no trajectory."""


def knows_plans(source: LeRobotSource) -> bool:
    """Whether a dataset has the pose of the car in every frame."""
    return _ego_column(source) is not None


class LeRobotDrives:
    """A LeRobot dataset whose episodes have plan samples.

    Raises:
        ValueError: no column with the pose of the car.
    """

    def __init__(self, source: LeRobotSource) -> None:
        column = _ego_column(source)
        if column is None:
            raise ValueError(
                f"Expected a column {' or '.join(EGO_COLUMNS)} with x, y, heading in "
                f"{source.name}, found {sorted(source.features)}."
            )
        self.source, self.name, self.fps = source, source.name, source.fps
        self.action_names, self._column = source.action_names, column
        self._recent: Recent[int, LeRobotDrive] = Recent(size=16)

    def __len__(self) -> int:
        return len(self.source)

    def episode(self, index: int) -> LeRobotDrive:
        return self._recent.get(
            index,
            lambda: LeRobotDrive(
                self.source.episode(index),
                self._column,
                f"{self.name}, episode {index}",
                has_commands=COMMAND_COLUMN in self.source.features,
            ),
        )


class LeRobotDrive:
    """An episode and where its car was.

    Raises:
        ValueError: poses that are not finite; names the episode and the frame.
    """

    def __init__(
        self, episode: LeRobotEpisode, column: str, where: str, *, has_commands: bool
    ) -> None:
        self._episode = episode
        self.num_frames, self.fps = episode.num_frames, float(episode.fps)
        self.caption, self.segments = episode.caption, episode.segments
        self.attributes = episode.attributes
        self._where = where
        ego = np.asarray(episode.extra(column), dtype=np.float64).reshape(self.num_frames, -1)
        speed = np.column_stack([ego[:, 3], np.zeros(len(ego))]) if ego.shape[1] > 3 else None
        self.poses = TimedPoses(
            time=np.arange(self.num_frames) / self.fps,
            pose=ego[:, :3],
            velocity=speed,
            name=self._where,
        )
        self._commands: np.ndarray | None = None
        if has_commands:
            self._commands = np.asarray(episode.extra(COMMAND_COLUMN)).reshape(-1)

    @property
    def actions(self) -> Any:
        return self._episode.actions

    def read(self, indices: Any) -> np.ndarray:
        return self._episode.read(indices)

    def read_labels(self, indices: Any) -> np.ndarray | None:
        return self._episode.read_labels(indices)

    def plan_at(self, frame: int) -> PlanSample:
        """The plan sample at frame `frame`, named by dataset, episode and frame.

        Raises:
            UncutMoment: the drive ends before the last waypoint, or has too little past.
            ValueError: a command that is none.
        """
        command = UNKNOWN if self._commands is None else int(self._commands[frame])
        if not 0 <= command <= UNKNOWN:
            raise ValueError(
                f"{self._where}: expected commands 0 left, 1 straight, 2 right or 3 unknown, found "
                f"{command} in frame {frame}."
            )
        sample = plan_sample(
            self.poses,
            float(self.poses.time[frame]),
            max_gap=max(POSE_GAP, 1.5 / self.fps),
            window=max(STATUS_WINDOW, 2 / self.fps),
            command=command,
            token=f"{self._where}, frame {frame}",
        )
        if self.attributes.get("kind") == NOT_TO_IMITATE:
            return PlanSample(sample.ego, sample.command, token=sample.token)
        return sample


def _ego_column(source: LeRobotSource) -> str | None:
    for name in EGO_COLUMNS:
        feature = source.features.get(name)
        if feature is not None and feature["dtype"].startswith("float"):
            shape = feature["shape"]
            if len(shape) == 1 and shape[0] >= 3:
                return name
    return None
