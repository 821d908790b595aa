"""A small nuScenes: tables and pictures of the true schema, of a car on a circle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

TABLES = ("scene", "sample", "sample_data", "ego_pose", "calibrated_sensor")
SPEED, YAW_RATE = 8.0, 0.2
PERIOD = 83_333  # microseconds: 12 Hz


def make_nuscenes(
    root: Path,
    *,
    num_scenes: int = 2,
    num_keyframes: int = 5,
    cameras: tuple[str, ...] = ("CAM_FRONT", "CAM_BACK"),
    version: str = "v1.0-mini",
) -> Path:
    """Key frames every 6 pictures, sweeps between them, as nuScenes has them; camera k fires 10 k
    milliseconds later. A picture's grey value is 10 * scene + its number, its blue 40 * camera."""
    tables: dict[str, list[dict[str, Any]]] = {
        name: []
        for name in [
            "scene",
            "sample",
            "sample_data",
            "ego_pose",
            "calibrated_sensor",
            "sensor",
            "log",
        ]
    }
    channels = (*cameras, "LIDAR_TOP")
    for channel in channels:
        modality = "camera" if channel.startswith("CAM") else "lidar"
        tables["sensor"].append({"token": f"s-{channel}", "channel": channel, "modality": modality})
    tables["log"].append({"token": "log", "location": "singapore-onenorth", "vehicle": "n015"})
    for number in range(num_scenes):
        _add_scene(root, tables, number, num_keyframes, channels)
    # The tables are in no order: readers must follow the tokens.
    rng = np.random.default_rng(0)
    (root / version).mkdir(parents=True)
    for name, rows in tables.items():
        shuffled = [rows[i] for i in rng.permutation(len(rows))]
        (root / version / f"{name}.json").write_text(json.dumps(shuffled))
    return root


def _add_scene(
    root: Path,
    tables: dict[str, list[dict[str, Any]]],
    number: int,
    num_keyframes: int,
    channels: tuple[str, ...],
) -> None:
    samples = [f"sample-{number}-{k}" for k in range(num_keyframes)]
    tables["scene"].append(
        {
            "token": f"scene-token-{number}",
            "log_token": "log",
            "nbr_samples": num_keyframes,
            "first_sample_token": samples[0],
            "last_sample_token": samples[-1],
            "name": f"scene-{number + 1:04d}",
            "description": f"Night, scene {number}, turn left",
        }
    )
    for k, token in enumerate(samples):
        tables["sample"].append(
            {
                "token": token,
                "timestamp": (6 * k + 1000 * number) * PERIOD,
                "scene_token": f"scene-token-{number}",
                "prev": samples[k - 1] if k else "",
                "next": samples[k + 1] if k + 1 < num_keyframes else "",
            }
        )
    for offset, channel in enumerate(channels):
        _add_pictures(root, tables, number, num_keyframes, channel, offset)


def _add_pictures(
    root: Path,
    tables: dict[str, list[dict[str, Any]]],
    number: int,
    num_keyframes: int,
    channel: str,
    offset: int,
) -> None:
    """Each scene has a calibration of its own, as each log in nuScenes has."""
    sensor = f"c-{number}-{channel}"
    tables["calibrated_sensor"].append(
        {"token": sensor, "sensor_token": f"s-{channel}", "translation": [1.7, 0, 1.5]}
    )
    count = 6 * (num_keyframes - 1) + 1
    for i in range(count):
        token, is_key = f"d-{number}-{channel}-{i}", i % 6 == 0
        timestamp = (i + 1000 * number) * PERIOD + 10_000 * offset
        folder = "samples" if is_key else "sweeps"
        suffix = "jpg" if channel.startswith("CAM") else "pcd.bin"
        filename = f"{folder}/{channel}/n015-2018__{channel}__{timestamp}.{suffix}"
        tables["sample_data"].append(
            {
                "token": token,
                "sample_token": f"sample-{number}-{round(i / 6)}",
                "ego_pose_token": f"p-{token}",
                "calibrated_sensor_token": sensor,
                "timestamp": timestamp,
                "fileformat": suffix,
                "is_key_frame": is_key,
                "height": 18 if suffix == "jpg" else 0,
                "width": 32 if suffix == "jpg" else 0,
                "filename": filename,
                "prev": f"d-{number}-{channel}-{i - 1}" if i else "",
                "next": f"d-{number}-{channel}-{i + 1}" if i + 1 < count else "",
            }
        )
        tables["ego_pose"].append(_pose(f"p-{token}", timestamp))
        if suffix == "jpg":
            image = np.full((18, 32, 3), 10 * number + i, dtype=np.uint8)
            image[..., 0] = 40 * offset
            path = root / filename
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 100])


def _pose(token: str, timestamp: int) -> dict[str, Any]:
    """On a circle to the left, through the heading of pi."""
    heading = YAW_RATE * timestamp / 1e6 + 3.0
    radius = SPEED / YAW_RATE
    return {
        "token": token,
        "timestamp": timestamp,
        "translation": [600 + radius * np.sin(heading), 1600 - radius * np.cos(heading), 0.0],
        "rotation": [float(np.cos(heading / 2)), 0.0, 0.0, float(np.sin(heading / 2))],
    }
