"""Claims about maskworld.evaluation.camera_overlap."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from maskworld.data.cameras import Calibration
from maskworld.evaluation.camera_overlap import (
    calibration_of,
    drive_calibrations,
    of_another_group,
    overlap_errors,
    overlaps,
    score_camera_overlap,
)
from maskworld.evaluation.results import Results
from maskworld.preparation.collect import collect_clips
from maskworld.worlds.drive.cameras import Camera, camera_rig, rays

SIZE = (48, 80)


@pytest.fixture(scope="module")
def drives() -> tuple[Tensor, np.ndarray]:
    """Ten clips of five worlds, three cameras."""
    clips = collect_clips(range(900, 905), 2, num_frames=3, size=SIZE, num_cameras=3, num_steps=40)
    return torch.stack([c.frames for c in clips]), np.array([c.episode for c in clips])


def painted(cameras: tuple[Camera, ...]) -> Tensor:
    """A flat world: smooth colours of the road by place and of the sky by direction."""
    views = []
    for camera in cameras:
        height, calibration = camera.height, calibration_of(camera, SIZE)
        y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
        pixels = np.stack([x, y, np.ones_like(x)], -1)
        ray = pixels @ np.linalg.inv(calibration.intrinsics).T @ calibration.pose[:3, :3].T
        ray = ray / np.linalg.norm(ray, axis=-1, keepdims=True)
        is_road = -ray[..., 2] > 1e-3
        reach = height / np.where(is_road, -ray[..., 2], 1)
        place = calibration.pose[:3, 3] + reach[..., None] * ray
        near = np.clip(np.hypot(place[..., 0], place[..., 1]), 0, 40)
        road = 100 + 1.5 * near + 40 * np.sin(np.arctan2(place[..., 1], place[..., 0]) * 3)
        sky = 128 + 60 * np.sin(3 * np.arctan2(ray[..., 1], ray[..., 0])) + 60 * ray[..., 2]
        views.append(np.where(is_road, road, sky))
    frames = torch.from_numpy(np.stack(views)).clamp(0, 255).round().to(torch.uint8)
    return frames[None, :, None, None].expand(1, len(cameras), 1, 3, *SIZE).contiguous()


def test_our_calibration_sees_the_road_where_the_renderer_does() -> None:
    for camera in camera_rig(6):
        beam = rays(camera, SIZE)
        calibration = calibration_of(camera, (2 * SIZE[0], 2 * SIZE[1]))
        points = np.stack([beam.ground_x, beam.ground_y, np.zeros_like(beam.ground_x)], -1).astype(
            float
        )
        seen = (points - calibration.pose[:3, 3]) @ calibration.pose[:3, :3]
        pixels = seen @ calibration.intrinsics.T
        pixels = pixels[..., :2] / pixels[..., 2:]
        rows = np.arange(beam.horizon, 2 * SIZE[0]) + 0.5
        assert np.abs(pixels[5:, :, 1] - rows[5:, None]).max() < 0.02
        assert np.abs(pixels[5:, :, 0] - np.arange(2 * SIZE[1]) - 0.5).max() < 0.02


def test_cameras_of_a_flat_world_agree_and_moved_ones_do_not() -> None:
    rig = camera_rig(3)
    flat, pairs = painted(rig), overlaps([calibration_of(c, SIZE) for c in rig], SIZE)
    assert [(pair.one, pair.other) for pair in pairs] == [(0, 1), (0, 2), (1, 0), (2, 0)]
    wedge = (np.tan(np.pi / 4) - np.tan(np.pi / 12)) / 2  # 15 to 45 of -45 to 45 degrees
    assert float(pairs[0].mask[:24].float().mean()) == pytest.approx(wedge, abs=0.06)
    agreed = overlap_errors(flat, flat, pairs)[0, 0]
    assert agreed < 0.5
    for change in ({"yaw": rig[1].yaw + 0.1}, {"pitch": 0.0}, {"height": 2.2}):
        moved = painted((rig[0], replace(rig[1], **change), rig[2]))
        assert overlap_errors(moved, moved, pairs)[0, 0] > 3 * agreed


def test_a_calibration_of_larger_pictures_serves_resized_ones() -> None:
    large = [calibration_of(c, (96, 160)) for c in camera_rig(2)]
    small = overlaps(drive_calibrations(2, SIZE), SIZE)
    for one, other in zip(overlaps(large, SIZE), small):
        assert torch.allclose(one.grid, other.grid, atol=1e-4)


def test_real_pairs_agree_better_than_stale_shuffled_and_swapped_ones(
    drives: tuple[Tensor, np.ndarray],
) -> None:
    frames, groups = drives
    cameras, results = drive_calibrations(3, SIZE), Results("maskgwm", {})
    score_camera_overlap(results, frames, frames, cameras, groups, num_given=1)
    entry = results.to_dict()["metrics"]["overlap/error"]
    assert entry["model"] == entry["real"]
    assert entry["real"] < entry["stale"]
    assert entry["real"] < 0.5 * entry["shuffled"]
    pairs = overlaps(cameras, SIZE)
    swapped = frames[:, [0, 2, 1]]
    assert overlap_errors(swapped, swapped, pairs).mean() > 2 * entry["real"]


def test_views_that_dream_alone_are_told_from_those_that_dream_together(
    drives: tuple[Tensor, np.ndarray],
) -> None:
    frames, groups = drives
    order = torch.from_numpy(of_another_group(groups))
    assert (groups[order.numpy()] != groups).all()
    alone = torch.cat([frames[:, :1], frames[order][:, 1:]], dim=1)
    scored = {}
    for name, dream in (("together", frames), ("alone", alone)):
        results = Results("maskgwm", {})
        cameras = drive_calibrations(3, SIZE)
        score_camera_overlap(results, frames, dream, cameras, groups, num_given=1)
        scored[name] = results.to_dict()["metrics"]["overlap/relative_error"]
    assert scored["together"]["interval"][1] < scored["alone"]["interval"][0]
    assert scored["together"]["model"] == scored["together"]["real"]


def test_cameras_without_a_common_part_and_a_missing_calibration_are_refused(
    drives: tuple[Tensor, np.ndarray],
) -> None:
    frames, groups = drives
    six = drive_calibrations(6, SIZE)
    with pytest.raises(ValueError, match="common part"):
        overlaps([six[0], six[3]], SIZE)
    with pytest.raises(ValueError, match="calibration per view"):
        score_camera_overlap(Results("m", {}), frames, frames, six[:2], groups, num_given=1)
    with pytest.raises(ValueError, match="at most half"):
        of_another_group(np.array([1, 1, 1, 2]))
    assert isinstance(six[0], Calibration)
