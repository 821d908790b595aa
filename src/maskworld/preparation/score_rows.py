"""Facts about recordings, such as watermark and NSFW scores, from tables and files beside them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE_COLUMNS = ("file_name", "filename", "file", "path", "videoid")
TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""As in Hugging Face's video and image folders."""


def read_rows(path: Path | str) -> dict[str, dict[str, Any]]:
    """The rows of a table by the name of their file, without folders.

    Args:
        path: a .csv, .jsonl or .parquet file, or a folder that may hold one as `metadata`.

    Raises:
        ValueError: no such file, damaged, or without a column of file names.
    """
    path = Path(path)
    if path.is_dir():
        path = next((path / name for name in TABLES if (path / name).is_file()), path)
        if path.is_dir():
            return {}
    if not path.is_file():
        raise ValueError(f"Expected a table (.csv, .jsonl, .parquet) at {path}, found nothing.")
    rows = _read_table(path)
    if not rows:
        return {}
    column = next((c for c in FILE_COLUMNS if c in rows[0]), None)
    if column is None:
        raise ValueError(
            f"{path} has columns {list(rows[0])}: expected one of {', '.join(FILE_COLUMNS)} with "
            "the name of each recording."
        )
    return {Path(str(row[column])).name: row for row in rows}


def row_of(name: str, episode: Any, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All that is known of a recording: its attributes, its `<stem>.json`, its row of the table.

    Raises:
        ValueError: the JSON file is none.
    """
    row = dict(getattr(episode, "attributes", {}))
    path = getattr(episode, "path", None)
    if path is not None and Path(path).with_suffix(".json").is_file():
        sidecar = Path(path).with_suffix(".json")
        try:
            found = json.loads(sidecar.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{sidecar} is no JSON ({error}): mend or remove it.") from error
        row |= found if isinstance(found, dict) else {}
    return row | dict(rows.get(Path(name).name, {}))


def _read_table(path: Path) -> list[dict[str, Any]]:
    try:
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as file:
                return [{k: _number(v) for k, v in row.items()} for row in csv.DictReader(file)]
        if path.suffix == ".jsonl":
            lines = path.read_text(encoding="utf-8").splitlines()
            return [json.loads(line) for line in lines if line.strip()]
        if path.suffix == ".parquet":
            from maskworld.data.lerobot_reader import open_parquet

            return open_parquet(path).read(use_threads=False).to_pylist()
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read ({error}): export it again.") from error
    raise ValueError(f"{path}: expected .csv, .jsonl or .parquet.")


def _number(text: Any) -> Any:
    try:
        return float(text)
    except (TypeError, ValueError):
        return text
