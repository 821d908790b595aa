"""Files that stand beside a recording under the same stem: captions, actions, mask videos."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from jaxtyping import Float


def read_caption(recording: Path) -> str:
    """The text of `<stem>.txt` on one line; empty where there is none.

    Raises:
        ValueError: the file is no UTF-8 text.
    """
    path = recording.with_suffix(".txt")
    if not path.is_file():
        return ""
    try:
        return " ".join(path.read_text(encoding="utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no UTF-8 text ({error}): save the caption as UTF-8."
        ) from error


def find_actions(recording: Path) -> Path | None:
    """`<stem>.actions.npy`, `<stem>.npy` or `<stem>.csv`, whichever is there first."""
    suffixes = (".actions.npy", ".actions.csv", ".npy", ".csv")
    candidates = [recording.parent / f"{recording.stem}{suffix}" for suffix in suffixes]
    return next((p for p in candidates if p != recording and p.is_file()), None)


def read_actions(
    path: Path, num_frames: int, *, unknown: bool = False
) -> tuple[Float[np.ndarray, "{num_frames} a"], list[str] | None]:
    """Rows of actions, one per frame, and the names of the columns if a CSV file has a header.

    Args:
        unknown: NaN may stand for what is not known.

    Raises:
        ValueError: not numbers, NaN or infinity, or another number of rows than frames.
    """
    values, names = _read_csv(path) if path.suffix == ".csv" else (_read_npy(path), None)
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(
            f"{path} has shape {values.shape}: expected one row of actions per frame, (frames, a)."
        )
    if len(values) != num_frames:
        raise ValueError(
            f"{path} has {len(values)} rows of actions for {num_frames} frames: expected one row "
            "per frame. Row t is the step into frame t; repeat the first row for frame 0."
        )
    is_finite = (np.isfinite(values) | (np.isnan(values) & unknown)).all(axis=1)
    if not is_finite.all():
        first = int(np.flatnonzero(~is_finite)[0])
        raise ValueError(
            f"{path}: the actions of frame {first} hold NaN or infinity "
            f"({int((~is_finite).sum())} such rows): mend the file or leave the recording out."
        )
    return values.astype(np.float32), names


def load_array(path: Path, *, memory_map: bool = False) -> np.ndarray:
    """A `.npy` file, never executing anything from it.

    Raises:
        ValueError: no such array, truncated, or made of Python objects.
    """
    try:
        return np.load(path, mmap_mode="r" if memory_map else None, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(
            f"{path} is no readable .npy array ({error}): save it with numpy.save, "
            "as plain numbers."
        ) from error


def _read_npy(path: Path) -> np.ndarray:
    values = load_array(path)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"{path} holds {values.dtype}: expected numbers, one row per frame.")
    return values


def _read_csv(path: Path) -> tuple[np.ndarray, list[str] | None]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    names = None
    if rows and not _are_numbers(rows[0]):
        names, rows = [name.strip() for name in rows[0]], rows[1:]
    if len({len(row) for row in rows} | ({len(names)} if names else set())) > 1:
        raise ValueError(f"{path}: expected rows of one length, found several.")
    for number, row in enumerate(rows):
        if not _are_numbers(row):
            raise ValueError(f"{path}: row {number} is {row}, expected numbers.")
    return np.array([[float(cell) for cell in row] for row in rows], dtype=np.float64), names


def _are_numbers(cells: list[str]) -> bool:
    try:
        [float(cell) for cell in cells]
    except ValueError:
        return False
    return True
