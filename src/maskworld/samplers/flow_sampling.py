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
