"""The PDM score of NAVSIM v1: how safe, permitted, brisk and comfortable a planned trajectory is.

NumPy only, no model and no data set. NAVSIM v2's extended score (EPDMS) is another one.
Reference: Dauner et al., NAVSIM (2024), and its version 1.1; formulas and agreement: docs/pdms.md.
"""

from maskworld.metrics.pdms.planning_scores import (
    SCORE_NAMES,
    PDMScores,
    ReferencePlan,
    reference_plan,
    result_json,
    score_batch,
    score_plans,
)
from maskworld.metrics.pdms.roads import DRIVABLE_TYPES, LANE_TYPES
from maskworld.metrics.pdms.scene import (
    AGENT_TYPES,
    NUM_PLAN_POSES,
    Agent,
    EgoState,
    MapPolygon,
    PDMScene,
    read_scene,
    write_scene,
)
from maskworld.metrics.pdms.scorer import StateScores, score_states
from maskworld.metrics.pdms.simulator import simulate, track
from maskworld.metrics.pdms.tracks import NUM_STATES, Tracks

__all__ = [
    "AGENT_TYPES",
    "DRIVABLE_TYPES",
    "LANE_TYPES",
    "NUM_PLAN_POSES",
    "NUM_STATES",
    "SCORE_NAMES",
    "Agent",
    "EgoState",
    "MapPolygon",
    "PDMScene",
    "PDMScores",
    "ReferencePlan",
    "StateScores",
    "Tracks",
    "read_scene",
    "reference_plan",
    "result_json",
    "score_batch",
    "score_plans",
    "score_states",
    "simulate",
    "track",
    "write_scene",
]
