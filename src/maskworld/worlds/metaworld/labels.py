"""The seven classes of the label maps, from the names and joints of a model's bodies."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import UInt8

CLASSES = ("background", "robot", "gripper", "object", "fixture", "table", "goal")
BACKGROUND, ROBOT, GRIPPER, OBJECT, FIXTURE, TABLE, GOAL = range(len(CLASSES))

# Exact names: "handle_link" is no hand.
GRIPPER_BODIES = {"hand", "rightclaw", "leftclaw", "rightpad", "leftpad"}
TABLE_BODIES = {"tablelink", "RetainingWall"}  # the second is the rim of the table
ROBOT_ROOT = "base"


def body_class(model: Any, body: int) -> int:
    """The class of a body: what can be moved is object, what stands there is fixture.

    The floor (the world's own geoms) and the transparent `mocap` body are background.
    """
    chain = []
    while body:
        chain.append(body)
        body = int(model.body_parentid[body])
    names = [model.body(link).name for link in chain]
    if not chain or names[-1] == "mocap":
        return BACKGROUND
    if names[0] in GRIPPER_BODIES:
        return GRIPPER
    if ROBOT_ROOT in names:
        return ROBOT
    if TABLE_BODIES & set(names):
        return TABLE
    return OBJECT if any(model.body_jntnum[link] > 0 for link in chain) else FIXTURE


def geom_classes(model: Any) -> UInt8[np.ndarray, " g"]:
    """The class of every geom of a model."""
    bodies = [body_class(model, body) for body in range(model.nbody)]
    return np.array([bodies[body] for body in model.geom_bodyid], np.uint8)


def site_classes(model: Any) -> UInt8[np.ndarray, " s"]:
    """The class of every site: dots on the robot and on what moves belong to it, those on the
    world and on fixtures mark a goal."""
    found = []
    for body in model.site_bodyid:
        own = body_class(model, int(body))
        found.append(own if own in (ROBOT, GRIPPER, OBJECT) else GOAL)
    return np.array(found, np.uint8)
