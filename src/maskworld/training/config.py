"""What a recipe says about training: one `Stage` per phase of a paper's protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

Schedule = Literal["cosine", "constant", "linear"]
Precision = Literal["fp32", "bf16"]
Strategy = Literal["ddp", "fsdp2"]


@dataclass(frozen=True)
class Stage:
    """One phase of training. The system says by the stage's name what trains and on which terms.

    Raises:
        ValueError: a setting out of its range.
    """

    name: str
    num_steps: int
    """Optimizer steps."""
    batch_size: int
    """Clips per process and forward pass; a step sees `batch_size * accumulate * processes`."""
    learning_rate: float
    """At the end of the warm-up. A parameter group that brings its own "lr" keeps that instead."""
    schedule: Schedule = "cosine"
    warmup_steps: int = 0
    final_lr_ratio: float = 0.0
    """Learning rate of the last step over `learning_rate`; "constant" does not read it."""
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    grad_clip: float = 1.0
    """Largest norm of the whole gradient; 0 = no clipping."""
    accumulate: int = 1
    """Forward passes per step; equal to one batch that many times larger."""
    ema_decay: float = 0.0
    """Decay of the averaged weights; 0 = none. A stage that averages *ends* with the averaged
    weights in the system, so the next stage and the release stand on them."""
    precision: Precision = "fp32"
    compile: bool = False
    """Run `torch.compile` on the system's networks."""
    log_every: int = 20
    save_every: int = 500
    """Steps between checkpoints; 0 = only at the end of the stage."""
    sample_every: int = 0
    """Steps between samples; 0 = none."""
    num_frames: int | None = None
    """Frames of this stage's windows, for a curriculum; None: the system's. Read by whoever makes
    the stage's batches."""
    frame_size: tuple[int, int] | None = None
    """Height and width of this stage's frames; None: the system's."""

    def __post_init__(self) -> None:
        def check(holds: bool, name: str, expected: str) -> None:
            if not holds:
                raise ValueError(
                    f"Stage {self.name!r}: expected {name} {expected}, "
                    f"found {getattr(self, name)!r}."
                )

        check(bool(self.name.strip()), "name", "not empty")
        for name in ("num_steps", "batch_size", "accumulate", "log_every"):
            check(getattr(self, name) >= 1, name, "to be at least 1")
        for name in ("save_every", "sample_every", "warmup_steps"):
            check(getattr(self, name) >= 0, name, "to be at least 0")
        size = self.frame_size or (1, 1)
        check(self.num_frames is None or self.num_frames >= 1, "num_frames", "to be at least 1")
        check(len(size) == 2 and min(size) >= 1, "frame_size", "height and width in pixels")
        check(self.warmup_steps <= self.num_steps, "warmup_steps", f"<= {self.num_steps} steps")
        check(0 < self.learning_rate < math.inf, "learning_rate", "above 0 and finite")
        check(0 <= self.final_lr_ratio <= 1, "final_lr_ratio", "in [0, 1]")
        check(0 <= self.weight_decay < math.inf, "weight_decay", "at least 0 and finite")
        check(0 <= self.grad_clip < math.inf, "grad_clip", "at least 0 (0 = off) and finite")
        check(0 <= self.ema_decay < 1, "ema_decay", "in [0, 1) (0 = off)")
        check(len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "betas", "in [0, 1)")
        check(self.schedule in get_args(Schedule), "schedule", f"in {get_args(Schedule)}")
        check(self.precision in get_args(Precision), "precision", f"in {get_args(Precision)}")


def shortened(stage: Stage, num_steps: int | None) -> Stage:
    """The stage with another number of steps, where one is given."""
    if num_steps is None:
        return stage
    return replace(stage, num_steps=num_steps, warmup_steps=min(stage.warmup_steps, num_steps))


def lr_factor(stage: Stage, step: int) -> float:
    """The learning rate of the update at `step` (0-based within the stage) over its peak.

    Linear warm-up to 1 over `warmup_steps`, then the schedule down to `final_lr_ratio`. A function
    of the step alone, so there is no scheduler state to resume.
    """
    if step < stage.warmup_steps:
        return (step + 1) / stage.warmup_steps
    if stage.schedule == "constant":
        return 1.0
    progress = (step - stage.warmup_steps) / max(1, stage.num_steps - 1 - stage.warmup_steps)
    progress = min(progress, 1.0)
    if stage.schedule == "cosine":
        progress = 0.5 * (1 - math.cos(math.pi * progress))
    return 1.0 - (1.0 - stage.final_lr_ratio) * progress


def check_stages(stages: Sequence[Stage]) -> None:
    """Checks what only the list shows.

    Raises:
        ValueError: no stage, or two of one name.
    """
    names = [stage.name for stage in stages]
    if not names:
        raise ValueError("Expected at least one training stage, found none.")
    if len(set(names)) < len(names):
        raise ValueError(f"Expected stages of different names, found {names}: rename one.")
