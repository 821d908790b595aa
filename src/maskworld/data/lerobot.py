"""LeRobotDataset: the native layout. v3.0 is written; v2.0, v2.1 and v3.0 are read.

Beyond the format: label maps are single-channel PNG features "observation.labels.<view>" (video
would mix classes); action rows are steps *into* their frame and the feature says so
(`"info": {"timing": "into_frame"}`); scene segments and attributes of an episode stand in the
columns "maskworld.segments" and "maskworld.attributes" of the episode table.
"""

from maskworld.data.lerobot_reader import LeRobotEpisode, LeRobotSource
from maskworld.data.lerobot_writer import LeRobotWriter

__all__ = ["LeRobotEpisode", "LeRobotSource", "LeRobotWriter"]
