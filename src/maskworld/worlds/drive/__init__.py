"""The driving world: traffic and roads from highway-env, filmed from the ego's own cameras."""

from maskworld.worlds.drive.boxes import box_corners, ego_box, overlaps
from maskworld.worlds.drive.cameras import Camera, camera_rig
from maskworld.worlds.drive.captions import caption
from maskworld.worlds.drive.classes import CLASSES
from maskworld.worlds.drive.ego import actions_of, rollout_poses
from maskworld.worlds.drive.env import DriveWorld
from maskworld.worlds.drive.ghosts import counterfactual_actions, ghost_actions
from maskworld.worlds.drive.roads import SCENARIOS
from maskworld.worlds.drive.route import Command
from maskworld.worlds.drive.scene import Scene, record_scene
from maskworld.worlds.drive.weather import STYLES, Style, parse_style

__all__ = [
    "CLASSES",
    "SCENARIOS",
    "STYLES",
    "Camera",
    "Command",
    "DriveWorld",
    "Scene",
    "Style",
    "actions_of",
    "box_corners",
    "camera_rig",
    "caption",
    "counterfactual_actions",
    "ego_box",
    "ghost_actions",
    "overlaps",
    "parse_style",
    "record_scene",
    "rollout_poses",
]
