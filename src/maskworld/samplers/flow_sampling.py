"""How a flow model is sampled, in one place, so that every report can say it."""

from __future__ import annotations

from dataclasses import dataclass, field

from maskworld.flow import SigmaSchedule
from maskworld.guidance import Guidance


@dataclass(frozen=True)
class FlowSampling:
    """Times and guidance of the video, times of the actions. Defaults: ReWorld, section 4.1."""

    video: SigmaSchedule = field(default_factory=lambda: SigmaSchedule("uniform", 30))
    actions: SigmaSchedule = field(default_factory=lambda: SigmaSchedule("linear_quadratic", 5))
    guidance: Guidance = field(default_factory=lambda: Guidance(gamma=1.4))
    num_averaged: int = 1
    """Plans that are drawn and averaged into one; 1, the paper's, is a single draw. Ours: draws of
    a small planner are jagged, and their mean is the better plan."""

    def __post_init__(self) -> None:
        if self.num_averaged < 1:
            raise ValueError(f"Expected num_averaged >= 1, found {self.num_averaged}.")
