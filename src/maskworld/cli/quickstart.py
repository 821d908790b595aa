"""`maskworld quickstart`: material, tokenizer, training, dreams, scores, report; one command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class QuickstartOptions:
    """Record or read clips, train a small world model, dream, score, and write a report.

    Without --data it drives through a simulated world and holds out whole worlds. With --data,
    worlddreamer trains on your video (or a folder of them, or a .npy of tokens) and holds out the
    last quarter. reworld also plans, and is scored against traffic and map of the simulated world.
    mask-world-model records robot tasks in Meta-World, and is scored by how often it succeeds.
    maskgwm dreams long drives, and those of two cameras at once.

    Examples:

      maskworld quickstart
      maskworld quickstart worlddreamer --data drive.mp4 --out my-drive
      maskworld quickstart reworld --out planner
      maskworld quickstart mask-world-model --out robot
      maskworld quickstart maskgwm --out long-drives
      open quickstart/report.html
    """

    system: Annotated[str, tyro.conf.Positional] = "worlddreamer"
    """Which world model: worlddreamer, reworld, mask-world-model or maskgwm."""
    data: Path | None = None
    """A video, a folder of videos, or a .npy array of tokens."""
    out: Path = Path("quickstart")
    """Gets report.html, metrics.json, videos/ and model/."""
    seed: int = 0
    """Of everything: worlds, weights, batches, dreams."""
    steps: int | None = None
    """Training steps of the world model; the recipe's when not given."""
    workers: int = 2
    """Processes that record the simulated world, and try policies in it."""
    resume: bool = False
    """Continue an interrupted quickstart in the same folder."""
    overwrite: bool = False
    """Replace an earlier quickstart in the same folder."""


def quickstart(options: QuickstartOptions) -> None:
    """Runs the quickstart of a system.

    Raises:
        ValueError: an unknown system, data that cannot be used, an output folder in use.
    """
    systems = ("worlddreamer", "reworld", "mask-world-model", "maskgwm")
    if options.system not in systems:
        from maskworld.cli.errors import nearest

        raise ValueError(
            f"Expected a system of {', '.join(systems)}, found {options.system!r}."
            f"{nearest(options.system, systems)}"
        )
    if options.system == "reworld":
        from maskworld.cli import quickstart_reworld

        quickstart_reworld.run(options)
    elif options.system == "mask-world-model":
        from maskworld.cli import quickstart_mask_world_model

        quickstart_mask_world_model.run(options)
    elif options.system == "maskgwm":
        from maskworld.cli import quickstart_maskgwm

        quickstart_maskgwm.run(options)
    else:
        from maskworld.cli import quickstart_worlddreamer

        quickstart_worlddreamer.run(options)
