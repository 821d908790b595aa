"""Upright boxes on the ground: corners, and who touches whom."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from maskworld.worlds.drive import ego


def box_corners(boxes: Float[np.ndarray, "n b"]) -> Float[np.ndarray, "n 4 2"]:
    """Corners of rows x, y, heading, length, width (centre; more columns are ignored)."""
    signs = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)]) / 2
    local = signs * boxes[:, None, 3:5]
    c, s = np.cos(boxes[:, 2, None]), np.sin(boxes[:, 2, None])
    x = boxes[:, 0, None] + c * local[..., 0] - s * local[..., 1]
    y = boxes[:, 1, None] + s * local[..., 0] + c * local[..., 1]
    return np.stack([x, y], axis=-1)


def ego_box(pose: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "1 5"]:
    """The ego's box from the pose of its rear axle."""
    return np.array([[*ego.centre(pose), pose[2], ego.LENGTH, ego.WIDTH]])


def overlaps(
    one: Float[np.ndarray, "1 b"], others: Float[np.ndarray, "n c"]
) -> Bool[np.ndarray, " n"]:
    """Whether one box touches each of the others, by the separating axis theorem."""
    a, b = box_corners(one), box_corners(others)
    headings = [np.broadcast_to(one[:, 2], len(others)), others[:, 2]]
    apart = np.zeros(len(others), bool)
    for heading in (*headings, *(h + np.pi / 2 for h in headings)):
        axis = np.stack([np.cos(heading), np.sin(heading)], axis=-1)
        pa = np.einsum("mkd,nd->nk", a, axis)
        pb = np.einsum("nkd,nd->nk", b, axis)
        apart |= (pa.max(axis=1) < pb.min(axis=1)) | (pb.max(axis=1) < pa.min(axis=1))
    return ~apart
