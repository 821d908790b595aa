"""`maskworld evaluate`: how good is a model, and is it better than doing nothing?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

_QUIET = tyro.conf.arg(help_behavior_hint="")
Count = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")]


@dataclass(frozen=True)
class EvaluateOptions:
    """Score a model's dreams of data it has not seen, beside trivial baselines (copying the last
    frame, a blurred copy, the mean image), and ReWorld's plans in the driving world. Writes
    OUT/metrics.json with intervals and the protocol, OUT/report.html, and OUT/videos/ with real and
    dreamt clips side by side.

    Examples:
      maskworld evaluate run/model --data held_out/ --out scores
      maskworld evaluate run/model --data held_out/ --train-data clips/ --num-clips 500
      maskworld evaluate rw/model --world drive --scenes 200 --out scores          (ReWorld)
      maskworld evaluate rw/model --world drive --reactive --beside plain=plain/model
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """Folder of a trained model (RUN/model), or its name on the Hugging Face Hub."""
    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH ..."), _QUIET] = ()
    """Data to score on, never trained on: videos, a folder of them, a LeRobot dataset, tar shards,
    a .npy of tokens."""
    train_data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH ..."), _QUIET] = ()
    """What the model was trained on: baselines that are fitted (mean image, unigram) use it.
    Without it the mean image is of the scored clips, which flatters that baseline."""
    out: Path = Path("evaluation")
    """Gets metrics.json, report.html and videos/; earlier ones there are replaced."""
    num_clips: int = 200
    """Clips to score, spread evenly over the data."""
    num_context: Count = None
    """Given frames; the rest of the window is predicted; default: 1. ReWorld is always given as
    many as it was trained with."""
    num_frames: Count = None
    """Frames of a clip; default: the model's window."""
    batch_size: int = 16
    """Clips at a time."""
    world: Annotated[Literal["drive"] | None, tyro.conf.arg(metavar="drive"), _QUIET] = None
    """ReWorld: score plans too, in held-out scenes of the driving world, by their PDM score."""
    scenes: int = 200
    """Scenes of --world."""
    reactive: bool = False
    """With --world: let the planner drive as well, among traffic that reacts."""
    drives: int = 8
    """Worlds that are driven in with --reactive."""
    beside: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=MODEL ..."), _QUIET] = ()
    """With --world: other ReWorld models to plan beside this one, for instance the planner without
    a world model (`maskworld train --no-world-model`)."""
    gamma: Annotated[float | None, tyro.conf.arg(metavar="X", help_behavior_hint="")] = None
    """ReWorld: self-guidance of sampled dreams, 1 = none; default: as the model was released."""
    seed: int = 0
    """Of sampling, masks and intervals."""


def evaluate(options: EvaluateOptions) -> None:
    """Scores the model on the CPU and writes the results."""
    from maskworld.cli.scoring import score_model

    score_model(options)
