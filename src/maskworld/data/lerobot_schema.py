"""The LeRobotDataset v3.0 layout: paths, feature types, PNG cells.

Reference: https://huggingface.co/docs/lerobot/lerobot-dataset-v3
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from jaxtyping import UInt8

CHUNKS_SIZE = 1000
DATA_FILE_MB = 100
VIDEO_FILE_MB = 200
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
CAMERA_PREFIX = "observation.images."
LABELS_PREFIX = "observation.labels."
# Columns of ours in the episode table; other readers pass over them.
SEGMENTS = "maskworld.segments"
ATTRIBUTES = "maskworld.attributes"
CALIBRATION = "calibration"  # in a camera's `info`
STEP_INTO_FRAME = "into_frame"  # LeRobot's own action rows are steps *from* their frame

INDEX_FEATURES: dict[str, dict[str, Any]] = {
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    "index": {"dtype": "int64", "shape": [1], "names": None},
    "task_index": {"dtype": "int64", "shape": [1], "names": None},
}


def next_file(chunk: int, file: int) -> tuple[int, int]:
    """The chunk and file number after these."""
    return (chunk, file + 1) if file + 1 < CHUNKS_SIZE else (chunk + 1, 0)


def arrow_schema(features: dict[str, dict[str, Any]]) -> Any:
    """The parquet schema of the frame table, with the metadata that `datasets` looks for."""
    import pyarrow as pa

    columns, described = [], {}
    for name, feature in features.items():
        if feature["dtype"] == "video":
            continue
        columns.append(pa.field(name, _arrow_type(feature)))
        described[name] = _hub_type(feature)
    metadata = {"huggingface": json.dumps({"info": {"features": described}})}
    return pa.schema(columns, metadata=metadata)


def _arrow_type(feature: dict[str, Any]) -> Any:
    import pyarrow as pa

    if feature["dtype"] == "image":
        return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    kind = pa.from_numpy_dtype(np.dtype(feature["dtype"]))
    shape = feature["shape"]
    if shape == [1]:
        return kind
    if len(shape) == 1:
        return pa.list_(kind, shape[0])
    for _ in shape:
        kind = pa.list_(kind)
    return kind


def _hub_type(feature: dict[str, Any]) -> dict[str, Any]:
    shape, dtype = feature["shape"], feature["dtype"]
    if dtype == "image":
        return {"_type": "Image"}
    value = {"dtype": dtype, "_type": "Value"}
    if shape == [1]:
        return value
    if len(shape) == 1:
        return {"feature": value, "length": shape[0], "_type": "Sequence"}
    return {"shape": shape, "dtype": dtype, "_type": f"Array{len(shape)}D"}


def to_column(values: np.ndarray, feature: dict[str, Any]) -> Any:
    """`t ...` numbers as one parquet column of `t` rows."""
    import pyarrow as pa

    kind = _arrow_type(feature)
    flat = pa.array(np.ascontiguousarray(values, dtype=feature["dtype"]).reshape(-1))
    shape = feature["shape"]
    if shape == [1]:
        return flat
    if len(shape) == 1:
        return pa.FixedSizeListArray.from_arrays(flat, type=kind)
    for width in reversed(shape):
        offsets = np.arange(0, len(flat) + 1, width, dtype=np.int32)
        flat = pa.ListArray.from_arrays(offsets, flat)
    return flat


def from_column(column: Any, shape: list[int] | None = None) -> np.ndarray:
    """The numbers of a parquet column: `t`, `t n` or deeper, whatever list type holds them."""
    import pyarrow as pa

    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    length, lists = len(column), 0
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    while pa.types.is_nested(column.type):
        column, lists = column.flatten(), lists + 1
    values = column.to_numpy(zero_copy_only=False)
    if shape and (lists or tuple(shape) != (1,)):
        return values.reshape(length, *shape)
    return values.reshape(length, -1) if lists else values


def encode_png(image: UInt8[np.ndarray, "h w *c"]) -> bytes:
    """RGB `h w 3` or labels `h w` to PNG bytes, without loss."""
    import cv2

    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    # OpenCV's defaults (runs only) take half the time of level 3 and a tenth more room.
    done, data = cv2.imencode(".png", np.ascontiguousarray(bgr))
    if not done:
        raise ValueError(f"An image of shape {image.shape} could not be written as PNG.")
    return data.tobytes()


def decode_image(data: Any, is_label: bool, where: str) -> np.ndarray:
    """PNG or JPEG bytes, or a buffer of them, to RGB `h w 3` or labels `h w`; `where` they are
    is named in errors."""
    import cv2

    flag = cv2.IMREAD_UNCHANGED if is_label else cv2.IMREAD_COLOR_RGB
    image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flag) if data else None
    if image is None:
        raise ValueError(f"{where}: the image cannot be decoded, export the dataset again.")
    if is_label and (image.ndim != 2 or image.dtype != np.uint8):
        raise ValueError(
            f"{where}: expected labels with one 8-bit channel, found shape {image.shape} of "
            f"{image.dtype}. Store label maps as single-channel PNG."
        )
    return image
