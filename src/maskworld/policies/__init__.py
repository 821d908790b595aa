"""Planners: from what the ego sees, or from less, to waypoints (`interfaces.Planner`)."""

from maskworld.policies.baselines import (
    ConstantTurnRate,
    ConstantVelocity,
    KnownPlans,
    RandomPlans,
    StandStill,
)
from maskworld.policies.ego_status import EgoStatusConfig, EgoStatusPlanner, fit_ego_status
from maskworld.policies.frame_planner import FramePlanner, FramePlannerConfig
from maskworld.policies.plan_statistics import PlanStatistics

__all__ = [
    "ConstantTurnRate",
    "ConstantVelocity",
    "EgoStatusConfig",
    "EgoStatusPlanner",
    "FramePlanner",
    "FramePlannerConfig",
    "KnownPlans",
    "PlanStatistics",
    "RandomPlans",
    "StandStill",
    "fit_ego_status",
]
