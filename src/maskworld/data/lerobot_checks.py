"""What an episode must fulfil before any of it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maskworld.data.lerobot_schema import INDEX_FEATURES


def check_frames(
    where: str,
    frames: np.ndarray,
    labels: np.ndarray | None,
    segments: Sequence[tuple[int, int]] | None,
    num_views: int,
    size: tuple[int, int],
) -> None:
    """Frames, label maps and scene segments fit the dataset and each other."""
    length = frames.shape[1]
    expected = (num_views, length, 3, *size)
    if length == 0:
        raise ValueError(f"{where} is empty: expected at least one frame. Leave it out.")
    if frames.shape != expected:
        raise ValueError(
            f"{where}: expected frames v t c h w = {expected}, found {frames.shape}. "
            "Resize the frames, or write another dataset."
        )
    if labels is not None and labels.shape != (num_views, length, *size):
        raise ValueError(
            f"{where}: expected labels v t h w = {(num_views, length, *size)}, "
            f"found {labels.shape}. Labels need the size of their frames."
        )
    for start, stop in segments or []:
        if not 0 <= start < stop <= length:
            raise ValueError(
                f"{where}: segment {(start, stop)} lies outside frames 0..{length}: "
                "expected half-open ranges, start < stop."
            )


def check_presence(
    where: str, what: str, values: np.ndarray | None, names: Sequence[str] | None
) -> None:
    """Every episode has what the dataset declares, and nothing else."""
    if values is None and names is not None:
        raise ValueError(f"{where} has no {what}, the dataset declares {list(names)}.")
    if values is not None and names is None:
        raise ValueError(
            f"{where} has {what}, the dataset declares none: open the writer with their names."
        )


def check_numbers(
    where: str,
    length: int,
    actions: np.ndarray | None,
    action_names: Sequence[str] | None,
    extra: Mapping[str, np.ndarray],
) -> None:
    """One row per frame, all finite."""
    if actions is not None and actions.shape != (length, len(action_names or [])):
        raise ValueError(
            f"{where}: expected actions t a = {(length, len(action_names or []))} "
            f"({action_names}), found {actions.shape}."
        )
    numbers = dict(extra) if actions is None else {"actions": actions, **extra}
    for name, values in numbers.items():
        if len(values) != length:
            raise ValueError(f"{where}: {name} has {len(values)} rows for {length} frames.")
        finite = np.isfinite(values.reshape(length, -1).astype(np.float64)).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"{where}: {name} of frame {int(np.flatnonzero(~finite)[0])} holds NaN or infinity "
                f"({int((~finite).sum())} such frames): drop the episode or mend its recording."
            )


def check_columns(
    where: str, extra: Mapping[str, np.ndarray], declared: dict[str, dict[str, Any]] | None
) -> dict[str, dict[str, Any]]:
    """The features of the extra columns, the same in every episode."""
    found: dict[str, dict[str, Any]] = {}
    for name, values in extra.items():
        if name in INDEX_FEATURES or name == "action" or "/" in name:
            raise ValueError(f"{where}: the column name {name!r} is taken, choose another.")
        shape = list(values.shape[1:]) or [1]
        found[name] = {"dtype": values.dtype.name, "shape": shape, "names": None}
    if declared is not None and declared != found:
        raise ValueError(
            f"{where}: expected the extra columns {declared}, found {found}. "
            "All episodes need the same names, dtypes and shapes: pad to one shape."
        )
    return found
