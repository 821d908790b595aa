"""`maskworld plan`: where to drive next, and the dream behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

_QUIET = tyro.conf.arg(help_behavior_hint="")
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
Number = Annotated[float | None, tyro.conf.arg(metavar="X", help_behavior_hint="")]
Count = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")]
Ego = tuple[float, float, float, float]


@dataclass(frozen=True)
class PlanOptions:
    """Plan with a trained ReWorld: 8 waypoints over 4 s, from past frames, the ego's motion and
    the way it is told to go. A scene gives the motion, and the plan its PDM score.

    Examples:
      maskworld plan run/model --scene scene.json --video past.mp4
      maskworld plan run/model --frames frames/ --ego 8.2 0 0.3 0 --command left --num-plans 4
      maskworld plan run/model --scene scene.json --video past.mp4 --video-out dream.mp4
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """Folder of a trained model (RUN/model), or its name on the Hugging Face Hub."""
    scene: File = None
    """A scene as JSON (docs/pdms.md): ego, map, agents. Plans are scored in it."""
    video: File = None
    """A video that ends now; its last frames are what the planner sees."""
    frames: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """A folder of images instead, in the order of their names, the last one now."""
    ego: Annotated[Ego | None, tyro.conf.arg(metavar="VX VY AX AY"), _QUIET] = None
    """Velocity (m/s) and acceleration (m/s^2), forward and to the left; with --scene its ego's."""
    command: Annotated[Literal["left", "straight", "right", "unknown"] | None, _QUIET] = None
    """Where the route goes; default: along the scene's centreline, unknown without a scene."""
    prompt: str = ""
    """What is seen, in words, for models with text."""
    num_plans: int = 1
    """Plans to draw."""
    steps: Count = None
    """Sampling steps of a plan; default: as the model was released."""
    gamma: Number = None
    """Self-guidance of the dream, 1 = none; default: as the model was released."""
    seed: int = 0
    """The same seed gives the same plans."""
    device: str = "auto"
    """cpu, cuda, mps; auto: a GPU where there is one."""
    out: File = None
    """A .json file for the plans and their scores."""
    video_out: File = None
    """A video for the dream behind the first plan: what the model sees coming if it is driven."""


def plan(options: PlanOptions) -> None:
    """Reads and checks all inputs, plans, prints; writes what is asked for."""
    from maskworld.cli.planning import make_plans

    make_plans(options)
