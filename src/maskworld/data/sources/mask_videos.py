"""A robot's videos with mask videos beside them: stage 1 of Mask World Model needs no more.

    robot/video.mp4, mask_robot.mp4, mask_objects.mp4        one recording, white = the class

No actions are needed: `ControlClips(..., reads_control=False)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from maskworld.data.sources.video_folder import VideoFolderSource

ROBOT_MASKS = {"robot": "mask_robot.mp4", "object": "mask_objects.mp4"}
"""Class -> file beside the video, as RoboEngine's example names them; objects cover the robot."""


def robot_videos(path: Path | str, masks: Mapping[str, str] = ROBOT_MASKS) -> VideoFolderSource:
    """The videos at `path` with classes background, robot, object (threshold 128 of 255).

    Args:
        masks: class -> its mask video relative to the video, "{stem}" for the video's name.

    Raises:
        ValueError: as VideoFolderSource, or a video without one of its masks.
    """
    source = VideoFolderSource(path, masks=masks)
    for number in range(len(source)):
        video = source.episode(number).path
        wanted = [video.parent / rule.format(stem=video.stem) for rule in masks.values()]
        if missing := [file for file in wanted if not file.is_file()]:
            raise ValueError(
                f"{video}: expected mask videos beside it, {[file.name for file in missing]} are "
                "missing. Name yours with masks={class: file}, or make masks with `maskworld data "
                "segment`."
            )
    return source
