"""nuPlan's SQLite logs: the right pose at the right time, pictures where they are."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskworld.data.resampling import ResampledSource
from maskworld.data.sources.nuplan import NuPlanSource
from maskworld.data.trajectories import UNKNOWN, UncutMoment, plan_samples

SPEED, YAW_RATE = 8.0, 0.2
START = 1_630_000_000_000_000
SCHEMA = """
CREATE TABLE log (token BLOB NOT NULL, vehicle_name VARCHAR(64), date VARCHAR(64),
    timestamp INTEGER, logfile VARCHAR(64), location VARCHAR(64), map_version VARCHAR(64),
    PRIMARY KEY (token));
CREATE TABLE lidar (token BLOB NOT NULL, log_token BLOB NOT NULL, channel VARCHAR(64),
    model VARCHAR(64), translation BLOB, rotation BLOB, PRIMARY KEY (token));
CREATE TABLE lidar_pc (token BLOB NOT NULL, next_token BLOB, prev_token BLOB,
    ego_pose_token BLOB NOT NULL, lidar_token BLOB NOT NULL, scene_token BLOB,
    filename VARCHAR(128), timestamp INTEGER, PRIMARY KEY (token));
CREATE TABLE ego_pose (token BLOB NOT NULL, timestamp INTEGER, x FLOAT, y FLOAT, z FLOAT,
    qw FLOAT, qx FLOAT, qy FLOAT, qz FLOAT, vx FLOAT, vy FLOAT, vz FLOAT,
    acceleration_x FLOAT, acceleration_y FLOAT, acceleration_z FLOAT,
    angular_rate_x FLOAT, angular_rate_y FLOAT, angular_rate_z FLOAT, epsg INTEGER,
    log_token BLOB NOT NULL, PRIMARY KEY (token));
CREATE TABLE camera (token BLOB NOT NULL, log_token BLOB NOT NULL, channel VARCHAR(64),
    model VARCHAR(64), translation BLOB, rotation BLOB, intrinsic BLOB, distortion BLOB,
    width FLOAT, height FLOAT, PRIMARY KEY (token));
CREATE TABLE image (token BLOB NOT NULL, next_token BLOB, prev_token BLOB,
    ego_pose_token BLOB NOT NULL, camera_token BLOB NOT NULL, filename_jpg VARCHAR(128),
    timestamp INTEGER, PRIMARY KEY (token));
"""


def token(kind: int, number: int) -> bytes:
    return bytes([kind]) + number.to_bytes(7, "big")


def make_log(path: Path, *, seconds: float = 10.0, without: tuple[int, ...] = ()) -> Path:
    """The tables of nuPlan's schema: a circle to the left at 20 Hz, two lidars of one pose, two
    cameras at 10 Hz. Rows are inserted in no order; the stamp of an ego pose is not that of its
    point cloud, as in the real logs."""
    count = round(20 * seconds)
    poses, clouds, images = [], [], []
    for i in range(count):
        time = i / 20
        heading = 3.0 + YAW_RATE * time
        radius = SPEED / YAW_RATE
        place = (331_000 + radius * np.sin(heading), 4_690_000 - radius * np.cos(heading), 0.6)
        turn = (np.cos(heading / 2), 0.0, 0.0, np.sin(heading / 2))
        stamp = START + 50_000 * i
        motion = (SPEED, 0.0, 0.0, 0.0, SPEED * YAW_RATE, 9.8, 0.0, 0.0, YAW_RATE)
        row = (token(1, i), stamp + 333, *place, *turn, *motion, 32611, token(0, 0))
        poses.append(tuple(float(v) if isinstance(v, np.floating) else v for v in row))
        for lidar in (0, 1):
            if i not in without:
                cloud = (token(2 + lidar, i), None, None, token(1, i), token(9, lidar), None)
                clouds.append((*cloud, f"pc/{i}.pcd", stamp + 7 * lidar))
        for camera in (0, 1) if i % 2 == 0 else ():
            name = f"log/CAM_{'FL'[camera]}0/{i:04d}.jpg"
            picture = (token(5 + camera, i), None, None, token(1, i), token(8, camera), name)
            images.append((*picture, stamp + 10_000 + 3_000 * camera))
    rng = np.random.default_rng(0)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(SCHEMA)
        log = (token(0, 0), "35", "2021-08-26", START, "f", "las_vegas", "us-nv-las-vegas-strip")
        connection.execute(f"INSERT INTO log VALUES ({marks(7)})", log)
        for camera in (0, 1):
            row = (token(8, camera), token(0, 0), f"CAM_{'FL'[camera]}0", "m")
            # nuPlan keeps calibrations as pickles; reading one would fail here.
            blobs = (b"\x80no pickle",) * 4
            connection.execute(f"INSERT INTO camera VALUES ({marks(10)})", (*row, *blobs, 32, 18))
        for table, rows in (("ego_pose", poses), ("lidar_pc", clouds), ("image", images)):
            shuffled = [rows[k] for k in rng.permutation(len(rows))]
            connection.executemany(f"INSERT INTO {table} VALUES ({marks(len(rows[0]))})", shuffled)
    return path


def marks(count: int) -> str:
    return ",".join("?" * count)


def test_poses_are_those_of_one_lidar_at_its_stamps(tmp_path: Path) -> None:
    poses = NuPlanSource(make_log(tmp_path / "a.db")).poses(0)
    assert len(poses) == 200  # not 400: two lidars share them
    np.testing.assert_allclose(poses.time - START / 1e6, np.arange(200) / 20, atol=1e-6)
    assert poses.velocity is not None
    assert poses.acceleration is not None
    np.testing.assert_allclose(poses.velocity, np.tile([SPEED, 0], (200, 1)))
    np.testing.assert_allclose(poses.acceleration, np.tile([0, SPEED * YAW_RATE], (200, 1)))


def test_plans_follow_the_circle_and_know_no_route(tmp_path: Path) -> None:
    poses = NuPlanSource(make_log(tmp_path / "a.db")).poses(0)
    cut = plan_samples(poses, poses.time[::10], skip=True)
    assert (len(cut.samples), cut.skipped) == (12, {"future too short": 8})
    turned = YAW_RATE * 0.5 * np.arange(1, 9)
    expected = np.stack([40 * np.sin(turned), 40 * (1 - np.cos(turned)), turned], axis=1)
    for sample in cut.samples:
        assert sample.trajectory is not None
        np.testing.assert_allclose(sample.trajectory, expected, atol=1e-3)
        assert sample.command == UNKNOWN


def test_lost_poses_are_a_gap(tmp_path: Path) -> None:
    path = make_log(tmp_path / "a.db", without=tuple(range(60, 68)))
    poses = NuPlanSource(path).poses(0)
    cut = plan_samples(poses, poses.time[::20], skip=True)
    assert cut.skipped["gap"] == 3  # at 0, 1 and 2 s: the futures run over it


def test_an_episode_has_pictures_at_ten_hertz_and_plans_at_their_time(tmp_path: Path) -> None:
    source = NuPlanSource(make_log(tmp_path / "a.db"), tmp_path, cameras=("CAM_F0", "CAM_L0"))
    episode = source.episode(0)
    assert (source.fps, source.views, episode.num_frames) == (10.0, ["cam_f0", "cam_l0"], 100)
    assert episode.files[3] == ("log/CAM_F0/0006.jpg", "log/CAM_L0/0006.jpg")
    assert episode.attributes == {"log": "a", "location": "las_vegas"}
    for file, grey in zip(episode.files[3], (50, 90)):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / file), np.full((18, 32, 3), grey, np.uint8))
    np.testing.assert_allclose(episode.read([3])[:, 0, 0, 0, 0], [50, 90], atol=2)
    np.testing.assert_allclose(episode.actions[:, 0], SPEED, rtol=1e-3)
    sample = episode.plan_at(3)
    assert sample.token == token(5, 6).hex()
    assert sample.trajectory is not None
    np.testing.assert_allclose(sample.trajectory[0, 0], 40 * np.sin(0.1), atol=1e-2)
    with pytest.raises(UncutMoment):
        episode.plan_at(70)


def test_a_log_is_resampled_to_eight_hertz(tmp_path: Path) -> None:
    source = ResampledSource(NuPlanSource(make_log(tmp_path / "a.db")), 8.0)
    episode = source.episode(0)
    assert (episode.num_frames, episode.segments) == (80, [(0, 80)])
    assert episode.source_indices[:6].tolist() == [0, 1, 2, 4, 5, 6]
    assert episode.actions is not None
    np.testing.assert_allclose(episode.actions[:, 1], YAW_RATE, rtol=1e-3)
    assert episode.plan_at(3).token == token(5, 8).hex()


def test_logs_are_opened_read_only(tmp_path: Path) -> None:
    path = make_log(tmp_path / "a #1.db")
    before = path.read_bytes()
    path.chmod(0o444)
    NuPlanSource(tmp_path).poses(0)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a #1.db"]


def test_what_is_no_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nuPlan logs \(\*\.db\)"):
        NuPlanSource(tmp_path)
    (tmp_path / "b.db").write_bytes(b"no database, but long enough to be read as one" * 10)
    with pytest.raises(ValueError, match=r"b\.db is no nuPlan log"):
        NuPlanSource(tmp_path).poses(0)
    path = make_log(tmp_path / "c.db")
    with pytest.raises(ValueError, match=r"c\.db has no pictures of \['CAM_B0'\]"):
        NuPlanSource(path, cameras=("CAM_B0",)).episode(0)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE ego_pose SET vx = NULL WHERE token = ?", (token(1, 4),))
    with pytest.raises(ValueError, match=r"c\.db: .* an empty value in pose 4"):
        NuPlanSource(path).poses(0)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE ego_pose")
    with pytest.raises(ValueError, match="no such table: ego_pose"):
        NuPlanSource(path).poses(0)
