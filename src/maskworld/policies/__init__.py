"""Planners: from what the ego sees, or from less, to waypoints (`interfaces.Planner`)."""

from maskworld.policies.baselines import (
    ConstantTurnRate,
    ConstantVelocity,
    KnownPlans,
    RandomPlans,
    StandStill,
)
from maskworld.policies.ego_status import EgoStatusConfig, EgoStatusPlanner, fit_ego_status

__all__ = [
    "ConstantTurnRate",
    "ConstantVelocity",
    "EgoStatusConfig",
    "EgoStatusPlanner",
    "KnownPlans",
    "RandomPlans",
    "StandStill",
    "fit_ego_status",
]
