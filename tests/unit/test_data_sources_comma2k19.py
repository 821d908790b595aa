"""A real minute of driving: poses, plan samples, and how comfortable it was."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from maskworld.data.sources.comma2k19 import read_drive
from maskworld.data.trajectories import UNKNOWN, plan_sample, plan_samples

RECORDING = Path(__file__).parents[3] / "shared/data/driving_kinematics"
needs_recording = pytest.mark.skipif(not RECORDING.is_dir(), reason=f"needs {RECORDING.name}")


@needs_recording
def test_the_car_drives_where_it_faces_and_as_fast_as_its_wheels_say() -> None:
    drive = read_drive(RECORDING)
    poses = drive.poses
    assert poses.velocity is not None
    assert len(poses) == 1200
    # 0.8 degrees: the device was not glued on straight
    assert abs(drive.mount_yaw) < np.radians(1.5)
    np.testing.assert_allclose(np.median(poses.velocity[:, 1]), 0, atol=0.02)
    wheels = np.interp(poses.time, drive.can_time, drive.can_speed)
    np.testing.assert_allclose(poses.velocity[:, 0], wheels, rtol=0.025, atol=0.1)
    travelled = np.hypot(*np.diff(poses.pose[:, :2], axis=0).T).sum()
    np.testing.assert_allclose(travelled, np.trapezoid(wheels, poses.time), rtol=0.02)


@needs_recording
def test_a_real_drive_becomes_plan_samples_in_the_frame_of_the_car() -> None:
    poses = read_drive(RECORDING).poses
    cut = plan_samples(poses, poses.time[::10], skip=True)
    assert cut.skipped["future too short"] == 8  # starts every half second: the last 4 s
    assert set(cut.skipped) <= {"future too short", "too little past"}
    assert len(cut.samples) + sum(cut.skipped.values()) == 120
    for sample in cut.samples:
        assert sample.trajectory is not None
        assert sample.command == UNKNOWN
        speed = sample.ego[0].item()
        assert sample.trajectory.shape == (8, 3)
        # It keeps on: half a second ahead by its own speed, hardly to the side.
        np.testing.assert_allclose(sample.trajectory[0, 0], speed / 2, atol=0.5)
        assert sample.trajectory[:, 1].abs().max() < 3
        assert sample.ego[2].abs() < 4  # m/s^2


@needs_recording
def test_the_rear_axle_follows_behind_the_camera() -> None:
    camera, axle = read_drive(RECORDING), read_drive(RECORDING, rear_axle_offset=2.0)
    apart = camera.poses.pose[:, :2] - axle.poses.pose[:, :2]
    np.testing.assert_allclose(np.hypot(*apart.T), 2.0)
    heading = camera.poses.pose[:, 2]
    np.testing.assert_allclose(np.arctan2(apart[:, 1], apart[:, 0]), heading)


def make_segment(folder: Path, *, yaw: float = 0.0, speed: float = 10.0) -> Path:
    """A drive to the north-east at the equator, with a device turned by `yaw` to the left; there
    the ECEF axes are x up, y east, z north."""
    time = 100 + np.arange(200) / 20
    course = np.radians(45)
    north_east = np.array([0.0, np.cos(course), np.sin(course)])
    faced = course + yaw
    forward = np.array([0.0, np.cos(faced), np.sin(faced)])
    down = np.array([-1.0, 0.0, 0.0])
    rotation = np.stack([forward, np.cross(down, forward), down], axis=1)
    arrays = {
        "global_pose/frame_times": time,
        "global_pose/frame_positions": np.array([6378137.0, 0, 0])
        + speed * (time - 100)[:, None] * north_east,
        "global_pose/frame_orientations": np.tile(quaternion(rotation), (200, 1)),
        "global_pose/frame_velocities": np.tile(speed * north_east, (200, 1)),
        "processed_log/CAN/speed/t": time,
        "processed_log/CAN/speed/value": np.full((200, 1), speed),
    }
    for name, rows in arrays.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("wb") as file:  # the data set's files have no suffix
            np.save(file, rows)
    return folder


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """(w, x, y, z) of a rotation matrix: the eigenvector of Bar-Itzhack's matrix."""
    r = rotation
    k = np.array(
        [
            [r[0, 0] - r[1, 1] - r[2, 2], 0, 0, 0],
            [r[0, 1] + r[1, 0], r[1, 1] - r[0, 0] - r[2, 2], 0, 0],
            [r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], r[2, 2] - r[0, 0] - r[1, 1], 0],
            [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], np.trace(r)],
        ]
    )
    x, y, z, w = np.linalg.eigh(k)[1][:, -1]
    return np.array([w, x, y, z])


def test_a_device_glued_on_askew_does_not_turn_the_car(tmp_path: Path) -> None:
    drive = read_drive(make_segment(tmp_path, yaw=0.1))
    np.testing.assert_allclose(drive.mount_yaw, -0.1, atol=1e-9)
    sample = plan_sample(drive.poses, 105.0)
    assert sample.trajectory is not None
    expected = np.stack([10 * np.arange(1, 9) / 2, np.zeros(8), np.zeros(8)], axis=1)
    np.testing.assert_allclose(sample.trajectory, expected, atol=1e-4)
    np.testing.assert_allclose(sample.ego, [10, 0, 0, 0], atol=1e-4)
    np.testing.assert_allclose(drive.poses.pose[0, 2], np.radians(45), atol=1e-9)


def test_a_damaged_segment_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="folder of one segment"):
        read_drive(tmp_path)
    segment = make_segment(tmp_path / "a")
    (segment / "global_pose/frame_velocities").write_bytes(b"no array")
    with pytest.raises(ValueError, match="frame_velocities is no NumPy array"):
        read_drive(segment)
    shutil.rmtree(segment)
    with pytest.raises(ValueError, match="faster than"):
        read_drive(make_segment(segment, speed=1.0))
