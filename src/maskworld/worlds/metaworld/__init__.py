"""Meta-World: 50 robot tasks in MuJoCo, drawn by software GL, with labels and instructions.

Needs the extra `robot`, and off-screen OpenGL for images.
"""

from maskworld.worlds.metaworld.env import (
    ACTION_NAMES,
    CONTROL_FPS,
    MAX_STEPS,
    STATE_NAMES,
    MetaWorld,
    SimulatorError,
    Views,
)
from maskworld.worlds.metaworld.labels import CLASSES
from maskworld.worlds.metaworld.perturbations import (
    PERTURBATIONS,
    Perturbation,
    parse_perturbation,
    parse_perturbations,
)
from maskworld.worlds.metaworld.rendering import CAMERAS
from maskworld.worlds.metaworld.software_gl import MissingGL, find_backend
from maskworld.worlds.metaworld.tasks import TASKS, check_task

__all__ = [
    "ACTION_NAMES",
    "CAMERAS",
    "CLASSES",
    "CONTROL_FPS",
    "MAX_STEPS",
    "PERTURBATIONS",
    "STATE_NAMES",
    "TASKS",
    "MetaWorld",
    "MissingGL",
    "Perturbation",
    "SimulatorError",
    "Views",
    "check_task",
    "find_backend",
    "parse_perturbation",
    "parse_perturbations",
]
