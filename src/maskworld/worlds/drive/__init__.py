"""The driving world: traffic and roads from highway-env, filmed from the ego's own cameras."""

from maskworld.worlds.drive.cameras import Camera, camera_rig
from maskworld.worlds.drive.captions import caption
from maskworld.worlds.drive.classes import CLASSES
from maskworld.worlds.drive.ego import actions_of, rollout_poses
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
    "Scene",
    "Style",
    "actions_of",
    "camera_rig",
    "caption",
    "counterfactual_actions",
    "ghost_actions",
    "parse_style",
    "record_scene",
    "rollout_poses",
]
