"""A small Waymo split of the published schema: a car on a circle, five cameras."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from maskworld.data.sources.waymo import CAMERAS, IMAGE, TRANSFORM

SPEED, YAW_RATE = 8.0, 0.3
START = 1_557_000_000_000_000
SEGMENT = "10023947602400723454_1120_000_1140_000"


def transform(seconds: float) -> list[float]:
    """On a circle to the left, from 50 m east and 20 m north, heading 1 rad."""
    heading = 1.0 + YAW_RATE * seconds
    radius = SPEED / YAW_RATE
    x = 50 + radius * (np.sin(heading) - np.sin(1.0))
    y = 20 - radius * (np.cos(heading) - np.cos(1.0))
    c, s = np.cos(heading), np.sin(heading)
    return [c, -s, 0, x, s, c, 0, y, 0, 0, 1, 3.0, 0, 0, 0, 1]


def write_segment(root: Path, name: str = SEGMENT, frames: int = 12, gap_after: int = 99) -> None:
    """Five cameras; the side ones have fewer rows; rows lie shuffled, as joins leave them."""
    times = [START + 100_000 * i + (900_000 if i > gap_after else 0) for i in range(frames)]
    rows = []
    for i, moment in enumerate(times):
        for camera, number in CAMERAS.items():
            height = 24 if camera.startswith("SIDE") else 32
            picture = np.full((height, 48, 3), (10 * i, 40 * number, 200), np.uint8)  # BGR
            jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
            rows.append((name, moment, number, jpeg))
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    columns = list(zip(*rows, strict=True))
    types = (pa.string(), pa.int64(), pa.int8(), pa.binary())
    names = ("key.segment_context_name", "key.frame_timestamp_micros", "key.camera_name", IMAGE)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
    (root / "camera_image").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(arrays, names), root / "camera_image" / f"{name}.parquet")
    (root / "vehicle_pose").mkdir(exist_ok=True)
    poses = [transform((moment - START) / 1e6) for moment in reversed(times)]
    table = pa.table(
        {
            names[0]: [name] * frames,
            names[1]: pa.array(times[::-1], pa.int64()),
            TRANSFORM: pa.array(poses, pa.list_(pa.float64())),
        }
    )
    pq.write_table(table, root / "vehicle_pose" / f"{name}.parquet")
