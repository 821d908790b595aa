"""How the cameras of the user's recordings see, for scores that compare them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maskworld.cli.maskgwm_data import Recordings
from maskworld.data.cameras import Calibration, plain_name
from maskworld.evaluation.camera_overlap import calibration_of
from maskworld.worlds.drive.cameras import camera_rig

OWN_WORLD = "maskworld-drive"
"""`robot_type` of datasets of the driving world, whose rig is known."""


def calibration_of_views(
    recordings: Sequence[Recordings], cameras: Sequence[str], size: tuple[int, int]
) -> list[Calibration] | str:
    """How the views see after their pictures were cut to `size`; a reason where that is unknown."""
    if len(cameras) < 2:
        return "it takes two cameras or more"
    found: list[list[Calibration]] = []
    for each in recordings:
        source = each.source
        if getattr(source, "info", {}).get("robot_type") == OWN_WORLD:
            rig = {camera.name: camera for camera in camera_rig(6)}
            recorded: tuple[int, int] = source.size
            found.append([calibration_of(rig[name], recorded) for name in cameras])
            continue
        if not hasattr(source, "calibration"):
            return f"expected the calibration of the cameras in {each.path}, found none"
        try:
            for index in range(len(source)):
                told = {plain_name(k): v for k, v in source.calibration(index).items()}
                found.append([told[name] for name in cameras])
        except ValueError as error:
            return str(error)
    for one in found:
        pairs = zip(one, found[0], strict=True)
        if any(not _is_alike(a, b) for a, b in pairs):
            return "expected one calibration in all recordings, found several: score them apart"
    return [fitted_calibration(one, size) for one in found[0]]


def _is_alike(one: Calibration, other: Calibration) -> bool:
    """Within 2 cm, 1 degree and 1 % of the focal length. Ours."""
    near = bool(np.abs(one.pose[:3, 3] - other.pose[:3, 3]).max() < 0.02)
    turned = bool(np.abs(one.pose[:3, :3] - other.pose[:3, :3]).max() < np.deg2rad(1))
    return (
        near and turned and bool(np.allclose(one.intrinsics, other.intrinsics, rtol=0.01, atol=1))
    )


def fitted_calibration(one: Calibration, size: tuple[int, int]) -> Calibration:
    """The calibration of pictures that `ResizeCrop` cut in the middle and scaled to `size`."""
    (height, width), (h, w) = one.size, size
    scale = max(h / height, w / width)
    crop_h, crop_w = h / scale, w / scale
    shift = np.eye(3)
    shift[0, 2], shift[1, 2] = -(width - crop_w) / 2, -(height - crop_h) / 2
    scaled = np.diag([w / crop_w, h / crop_h, 1.0]) @ shift @ one.intrinsics
    return Calibration(scaled, one.pose, size)
