"""Cameras around a car by one set of names, whatever a data set calls them, and how they see.

The order of views is told by names, never by the order of files or columns: a model that was
trained on (front, front_left) is given them so by data that hold them the other way round.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

AROUND = ("front", "front_left", "front_right", "back", "back_left", "back_right")
"""The order that views have unless the user says another: of the driving world and of nuScenes."""
_OTHER_NAMES = {
    "f0": "front",
    "l0": "front_left",
    "r0": "front_right",
    "b0": "back",
    "l2": "back_left",
    "r2": "back_right",
    "l1": "left",
    "r1": "right",
    "side_left": "left",
    "side_right": "right",
}
"""nuPlan's, OpenScene's and Waymo's."""
_PREFIXES = ("observation.images.", "cam_", "camera_")


@dataclass(frozen=True)
class Calibration:
    """A pinhole on the car, as recorded. Camera axes: x right, y down, z into the picture."""

    intrinsics: Float[np.ndarray, "3 3"]
    """In pixels of `size`."""
    pose: Float[np.ndarray, "4 4"]
    """Camera to ego frame, metres."""
    size: tuple[int, int]
    """Height and width of the recorded picture."""

    def to_json(self) -> dict[str, Any]:
        """Plain lists."""
        return {
            "intrinsics": self.intrinsics.tolist(),
            "pose": self.pose.tolist(),
            "size": list(self.size),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> Calibration:
        """What `to_json` made.

        Raises:
            ValueError: missing or misshapen numbers; names `where`.
        """
        try:
            found = cls(
                np.asarray(values["intrinsics"], dtype=np.float64).reshape(3, 3),
                np.asarray(values["pose"], dtype=np.float64).reshape(4, 4),
                (int(values["size"][0]), int(values["size"][1])),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"Expected intrinsics (3 x 3), pose (4 x 4) and size (height, width) of {where}, "
                f"found others ({error}): write the calibration again."
            ) from error
        if not (np.isfinite(found.intrinsics).all() and np.isfinite(found.pose).all()):
            raise ValueError(f"Expected finite calibration of {where}, found NaN or infinity.")
        return found


def plain_name(view: str) -> str:
    """ "front_left" for CAM_FRONT_LEFT, CAM_L0, observation.images.front_left."""
    name = view.lower()
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return _OTHER_NAMES.get(name, name)


def in_order(names: Iterable[str]) -> list[str]:
    """Plain names in the order of `AROUND`; others after them as they come."""
    given = list(names)
    return [n for n in AROUND if n in given] + [n for n in given if n not in AROUND]


def own_names(known: Sequence[str], wanted: Sequence[str], where: str) -> list[str]:
    """What a data set calls the cameras `wanted`, in their order.

    Args:
        known: its own names; empty for one camera without a name, which stands for any.
        wanted: plain names.

    Raises:
        ValueError: one is missing, or two are called alike; says which and what is there.
    """
    if not known and len(wanted) == 1:
        return []
    by_plain = {plain_name(name): name for name in known}
    if len(by_plain) < len(known):
        raise ValueError(
            f"Expected cameras of different names in {where}, found {', '.join(known)}: name "
            "each after where it looks."
        )
    missing = [name for name in wanted if name not in by_plain]
    if missing:
        there = ", ".join(by_plain) if known else "one without a name"
        raise ValueError(
            f"Expected the cameras {', '.join(wanted)} in {where}, found no "
            f"{' and no '.join(missing)} (it has {there}): give recordings with all of them, or "
            "name those that all recordings have with --cameras."
        )
    return [by_plain[name] for name in wanted]
