"""Do the cameras of a dream show one world? Where two of them see the same wedge, they must agree.

Every pixel of one camera is looked up in the other: pixels that look up or far away by their
direction alone (the homography of a plane at infinity), pixels that look down where their ray meets
the road, z = 0 of the ego frame, seen from where the other camera stands. What stands on the road
near the car is therefore misplaced, in real pictures too: so the error of dreamt pairs stands
beside that of real pairs, of a picture of the other camera that has grown stale, and of pairs of
different clips. A blurred dream agrees with itself easily; the error relative to that of shuffled
dreams counts that out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from maskworld.data.cameras import Calibration
from maskworld.evaluation.results import Results
from maskworld.metrics.image import check_pixels
from maskworld.metrics.intervals import bootstrap_interval
from maskworld.metrics.scores import ClipScores
from maskworld.worlds.drive.cameras import Camera, camera_rig

MIN_SHARE = 0.02
"""Of the pixels: cameras with less in common are no pair."""


@dataclass(frozen=True)
class Overlap:
    """Where one camera's pixels lie in another's picture."""

    one: int
    other: int
    grid: Float[Tensor, "h w 2"]
    """Places in the other picture as `grid_sample` takes them: -1 to 1, x first."""
    mask: Bool[Tensor, "h w"]
    """Pixels of the one that the other sees too. (Not a hiding mask.)"""


def drive_calibrations(num_cameras: int, size: tuple[int, int]) -> list[Calibration]:
    """The driving world's rig for pictures of `size` (height, width)."""
    return [calibration_of(camera, size) for camera in camera_rig(num_cameras)]


def calibration_of(camera: Camera, size: tuple[int, int]) -> Calibration:
    """A camera of the driving world in plain numbers."""
    h, w = size
    focal = w / 2 / float(np.tan(camera.fov / 2))
    c, s = np.cos(camera.pitch), np.sin(camera.pitch)
    level = np.array([[0, s, c], [-1, 0, 0], [0, -c, s]])  # columns: right, down, into the picture
    cy, sy = np.cos(camera.yaw), np.sin(camera.yaw)
    pose = np.eye(4)
    pose[:3, :3] = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]]) @ level
    pose[:3, 3] = camera.forward, camera.left, camera.height
    intrinsics = np.array([[focal, 0, w / 2], [0, focal, h / 2], [0, 0, 1]])
    return Calibration(intrinsics, pose, (h, w))


def overlaps(cameras: Sequence[Calibration], size: tuple[int, int]) -> list[Overlap]:
    """All ordered pairs of cameras with a common wedge, for pictures of `size` (height, width).

    Raises:
        ValueError: no two cameras see a common part.
    """
    found = [
        overlap
        for one, other in permutations(range(len(cameras)), 2)
        if (overlap := _overlap(cameras, one, other, size)).mask.float().mean() >= MIN_SHARE
    ]
    if not found:
        raise ValueError(
            f"Expected two cameras with a common part of their pictures, found none among "
            f"{len(cameras)}: check their order and calibration."
        )
    return found


def _overlap(
    cameras: Sequence[Calibration], one: int, other: int, size: tuple[int, int]
) -> Overlap:
    h, w = size
    first, second = cameras[one], cameras[other]
    x, y = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    pixels = np.stack([x, y, np.ones_like(x)], axis=-1)
    rays = pixels @ np.linalg.inv(_scaled(first, size)).T @ first.pose[:3, :3].T  # ego frame
    seen_from = first.pose[:3, 3] - second.pose[:3, 3]
    down = -rays[..., 2:]
    is_ground = down > 1e-3 * np.linalg.norm(rays, axis=-1, keepdims=True)
    reach = first.pose[2, 3] / np.where(is_ground, down, 1.0)
    direction = np.where(is_ground, seen_from + reach * rays, rays)
    found = direction @ second.pose[:3, :3] @ _scaled(second, size).T
    depth = found[..., 2:]
    is_ahead = depth > 1e-6
    places = found[..., :2] / np.where(is_ahead, depth, 1.0)
    u, v = places[..., 0], places[..., 1]
    # Half a pixel from the border every place has four neighbours.
    inside = (u >= 0.5) & (u <= w - 0.5) & (v >= 0.5) & (v <= h - 0.5)
    grid = 2 * places / np.array([w, h]) - 1
    return Overlap(
        one,
        other,
        torch.from_numpy(grid).float(),
        torch.from_numpy(inside & is_ahead[..., 0]),
    )


def _scaled(camera: Calibration, size: tuple[int, int]) -> Float[np.ndarray, "3 3"]:
    """The intrinsics for a resized picture."""
    (h, w), (height, width) = size, camera.size
    return np.diag([w / width, h / height, 1.0]) @ camera.intrinsics


def overlap_errors(
    ones: UInt8[Tensor, "b v t c h w"],
    others: UInt8[Tensor, "b v t c h w"],
    pairs: Sequence[Overlap],
) -> Float[np.ndarray, "b t"]:
    """Mean absolute difference, grey levels, between views of `ones` and the views of `others` that
    see the same; over the common parts, then over the pairs."""
    check_pixels(ones, others)
    rows = []
    for one_clip, other_clip in zip(ones, others):
        errors = []
        for pair in pairs:
            target = one_clip[pair.one].float()
            looked_up = F.grid_sample(
                other_clip[pair.other].float(),
                pair.grid.to(target).expand(len(target), -1, -1, -1),
                align_corners=False,
                padding_mode="border",
            )
            difference = (looked_up - target).abs()[..., pair.mask.to(target.device)]
            errors.append(rearrange(difference, "t c n -> t (c n)").mean(1))
        rows.append(torch.stack(errors).mean(0))
    return torch.stack(rows).double().cpu().numpy()


def of_another_group(groups: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """For every clip one of another world or recording, each used once.

    Raises:
        ValueError: one group has more than half of the clips.
    """
    _, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if 2 * sizes.max() > len(groups):
        raise ValueError(
            f"Expected groups of at most half of the {len(groups)} clips, found one of "
            f"{sizes.max()}: evaluate on more worlds or recordings."
        )
    sequence = np.argsort(member, kind="stable")
    order = np.empty_like(sequence)
    order[sequence] = np.roll(sequence, -int(sizes.max()))
    return order


def score_camera_overlap(
    results: Results,
    real: UInt8[Tensor, "b v t c h w"],
    dreamt: UInt8[Tensor, "b v t c h w"],
    cameras: Sequence[Calibration],
    groups: Int[np.ndarray, " b"],
    *,
    num_given: int,
    seed: int = 0,
) -> dict[str, ClipScores]:
    """Adds "overlap/error" and "overlap/relative_error", per horizon step.

    error: mean absolute difference in the common parts, grey levels; beside it "real", "stale" (the
        other camera's last given frame) and "shuffled" (the other camera of another world's dream);
    relative_error: the dream's error over that of shuffled dreams, beside the same of real clips.

    Args:
        real: the given frames first.
        dreamt: the same moments.
        cameras: one calibration per view.
        groups: world or recording of each row.

    Returns the errors by name.

    Raises:
        ValueError: other shapes, views without calibration, no common part, one group only.
    """
    if real.shape != dreamt.shape or len(cameras) != real.shape[1]:
        raise ValueError(
            f"Expected real and dreamt clips of one shape and a calibration per view, found "
            f"{tuple(real.shape)}, {tuple(dreamt.shape)} and {len(cameras)} calibrations."
        )
    if not 1 <= num_given < real.shape[2]:
        raise ValueError(f"Expected 1 to {real.shape[2] - 1} given frames, found {num_given}.")
    pairs = overlaps(cameras, (real.shape[-2], real.shape[-1]))
    order = torch.from_numpy(of_another_group(groups))
    came, dream = real[:, :, num_given:], dreamt[:, :, num_given:]
    stale = real[:, :, num_given - 1 : num_given].expand_as(came)
    errors = {
        "model": overlap_errors(dream, dream, pairs),
        "real": overlap_errors(came, came, pairs),
        "stale": overlap_errors(dream, stale, pairs),
        "shuffled": overlap_errors(dream, dream[order], pairs),
        "real_shuffled": overlap_errors(came, came[order], pairs),
    }
    scores = {name: ClipScores(values, np.ones_like(values)) for name, values in errors.items()}
    relative = {
        "model": ClipScores(errors["model"], errors["shuffled"]),
        "real": ClipScores(errors["real"], errors["real_shuffled"]),
    }
    for name, found in (("error", scores), ("relative_error", relative)):
        results.add(
            f"overlap/{name}",
            model=found["model"].mean,
            interval=bootstrap_interval(found["model"], np.random.default_rng(seed), groups=groups),
            n=len(groups),
            better="lower",
            baselines={key: each.mean for key, each in found.items() if key != "model"},
            per_horizon={key: each.per_horizon for key, each in found.items()},
        )
    results.protocol["overlap"] = {
        "pairs": [[pair.one, pair.other] for pair in pairs],
        "share_of_pixels": [float(pair.mask.float().mean()) for pair in pairs],
        "warp": "road plane below the horizon, plane at infinity above",
        "given_frames": "left out",
    }
    return scores
