"""A real minute of driving: poses, plan samples, and how comfortable it was."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from maskworld.conditioning.trajectory import (
    DeltaMap,
    TrajectoryNormaliser,
    resample_trajectory,
)
from maskworld.data.sources.comma2k19 import read_drive
from maskworld.data.trajectories import (
    UNKNOWN,
    PlanSamples,
    ego_status,
    plan_sample,
    plan_samples,
)
from maskworld.metrics.pdms.comfort import COMFORT_TERMS, comfort_terms
from maskworld.metrics.pdms.scene import EgoState
from maskworld.metrics.pdms.simulator import simulate, track

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


# through the rest of the library, as any other trajectory


def real_plans() -> PlanSamples:
    poses = read_drive(RECORDING).poses
    return plan_samples(poses, poses.time[::5], skip=True)


@needs_recording
def test_real_plans_survive_normalisation_where_its_range_holds_them() -> None:
    plans = torch.stack([s.trajectory for s in real_plans().samples if s.trajectory is not None])
    own = TrajectoryNormaliser("dataset")
    own.fit(plans)
    assert own.normalise(plans).abs().max() <= 1 + 1e-5
    torch.testing.assert_close(own.denormalise(own.normalise(plans)), plans)
    delta = DeltaMap()
    torch.testing.assert_close(delta.inverse(delta(plans)), plans, atol=1e-4, rtol=1e-4)
    # NAVSIM's range ends at 65 m in 4 s: three quarters of this highway's plans are longer.
    navsim = TrajectoryNormaliser("navsim")
    torch.testing.assert_close(navsim.denormalise(navsim.normalise(plans), clamp=False), plans)
    is_held = navsim.normalise(plans).abs().amax(dim=(1, 2)) <= 1
    print(f"plans within NAVSIM's range: {is_held.float().mean():.3f} of {len(plans)}")
    assert 0 < is_held.float().mean() < 1
    held = plans[is_held]
    torch.testing.assert_close(navsim.denormalise(navsim.normalise(held)), held)


@needs_recording
def test_both_interpolations_of_the_library_agree_on_a_real_drive() -> None:
    poses = read_drive(RECORDING).poses
    moments = np.linspace(poses.time[0], poses.time[-1], 501)
    other = resample_trajectory(*map(torch.from_numpy, (poses.time, poses.pose, moments)))
    np.testing.assert_allclose(poses.at(moments), other.numpy(), atol=1e-7)


def comfort_of(plans: PlanSamples) -> np.ndarray:
    """The six terms of every plan, driven by the simulator of the PDM score."""
    states = []
    for sample in plans.samples:
        assert sample.trajectory is not None
        ego = EgoState(0.0, 0.0, 0.0, *sample.ego.tolist())
        poses = track(sample.trajectory.double().numpy()[None], ego)
        states.append(simulate(poses, ego.state[None]))
    return comfort_terms(np.concatenate(states))


@needs_recording
def test_human_driving_is_comfortable_in_most_windows() -> None:
    """As NAVSIM scores its human agent: waypoints followed by the tracker and the bicycle."""
    plans = real_plans()
    comfortable = comfort_of(plans)
    for name, share in zip(COMFORT_TERMS, comfortable.mean(axis=0)):
        print(f"{name}: {share:.3f} of {len(comfortable)} windows")
    assert comfortable.all(axis=1).mean() > 0.9
    # The terms can fail: the same windows with every second waypoint 3 m behind.
    step = torch.zeros(8, 3)
    step[::2, 0] = 3.0
    jolted = [
        replace(s, trajectory=s.trajectory - step)
        for s in plans.samples
        if s.trajectory is not None
    ]
    assert comfort_of(replace(plans, samples=jolted)).all(axis=1).mean() < 0.1


@needs_recording
def test_recorded_motion_itself_is_comfortable() -> None:
    """Without a simulator in between: recorded velocities, accelerations fitted to the past."""
    poses = read_drive(RECORDING).poses
    windows = []
    for now in real_plans().moments[::4]:
        ticks = now + 0.1 * np.arange(41)
        states = np.zeros((41, 11))
        states[:, :3] = poses.at(ticks)
        states[:, 3:7] = [ego_status(poses, tick) for tick in ticks]
        windows.append(states)
    comfortable = comfort_terms(np.stack(windows))
    for name, share in zip(COMFORT_TERMS, comfortable.mean(axis=0)):
        print(f"recorded {name}: {share:.3f} of {len(comfortable)} windows")
    assert comfortable.all(axis=1).mean() > 0.9
