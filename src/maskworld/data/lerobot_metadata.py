"""The metadata files of a LeRobotDataset, v2.0, v2.1 and v3.0, and errors that name them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskworld.data.lerobot_schema import CHUNKS_SIZE

VERSIONS = ("v2.0", "v2.1", "v3.0")


def open_parquet(path: Path) -> Any:
    """Opens a parquet file. Raises ValueError where it is missing or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise ValueError(f"{path} is missing: copy the dataset again, all of it.")
    try:
        # Reading ahead gains nothing of a mapped file, and Arrow's threads for it have hung.
        return pq.ParquetFile(path, memory_map=True, pre_buffer=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(damaged(path, error)) from error


def damaged(path: Path, error: Exception) -> str:
    """What to say of a parquet file that cannot be read."""
    return f"{path} is damaged or truncated ({error}): copy the dataset again."


def read_info(root: Path) -> dict[str, Any]:
    """`meta/info.json`, with the keys that reading needs.

    Raises:
        ValueError: missing, no JSON, incomplete, or of another version.
    """
    path = root / "meta/info.json"
    if not path.is_file():
        raise ValueError(
            f"{root} is no LeRobotDataset: {path} is missing. Name the folder that holds `meta`, "
            "or make a dataset with `maskworld data import` or `maskworld data collect`."
        )
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): copy the dataset again.") from error
    missing = {"codebase_version", "fps", "features", "data_path"} - set(info)
    if missing:
        raise ValueError(f"{path} lacks {sorted(missing)}: expected the metadata of LeRobot.")
    if info["codebase_version"] not in VERSIONS:
        raise ValueError(
            f"{path}: version {info['codebase_version']!r}, expected one of {VERSIONS}. Convert "
            "older datasets with LeRobot's own scripts."
        )
    return {"chunks_size": CHUNKS_SIZE} | info


def read_tables(root: Path, info: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """One dict per episode in order (without statistics), and the tasks by their index."""
    if info["codebase_version"] != "v3.0":
        rows = read_lines(root / "meta/episodes.jsonl")
        tasks = {r["task_index"]: r["task"] for r in read_lines(root / "meta/tasks.jsonl")}
        return sorted(rows, key=lambda row: row["episode_index"]), tasks
    rows = []
    files = sorted((root / "meta/episodes").rglob("*.parquet"))
    if not files:
        raise ValueError(
            f"{root / 'meta/episodes'} holds no episode table: copy the dataset again."
        )
    for path in files:
        file = open_parquet(path)
        names = [n for n in file.schema_arrow.names if not n.startswith("stats/")]
        rows += file.read(columns=names, use_threads=False).to_pylist()
    table = open_parquet(root / "meta/tasks.parquet").read(use_threads=False)
    text = next(name for name in table.column_names if name != "task_index")
    tasks = dict(zip(table["task_index"].to_pylist(), table[text].to_pylist()))
    return sorted(rows, key=lambda row: row["episode_index"]), tasks


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: copy the dataset again, all of it.")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number} is no JSON ({error}): copy it again."
            ) from error
    return rows
