"""The PDM score of NAVSIM v1: how safe, permitted, brisk and comfortable a planned trajectory is.

NumPy only, no model and no data set. NAVSIM v2's extended score (EPDMS) is another one.
Reference: Dauner et al., NAVSIM (2024), and its version 1.1; formulas and agreement: docs/pdms.md.
"""

from maskworld.metrics.pdms.roads import DRIVABLE_TYPES, LANE_TYPES
from maskworld.metrics.pdms.scene import (
    AGENT_TYPES,
    NUM_PLAN_POSES,
    NUM_STATES,
    Agent,
    EgoState,
    MapPolygon,
    PDMScene,
    read_scene,
    write_scene,
)

__all__ = [
    "AGENT_TYPES",
    "DRIVABLE_TYPES",
    "LANE_TYPES",
    "NUM_PLAN_POSES",
    "NUM_STATES",
    "Agent",
    "EgoState",
    "MapPolygon",
    "PDMScene",
    "read_scene",
    "write_scene",
]
