"""Checks of a scene's fields: every message names the field, what was expected and found."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float


def as_array(
    value: Any, where: str, shape: tuple[int | None, ...], *, hint: str = ""
) -> Float[np.ndarray, ...]:
    """A float64 copy of `value` with `shape` (None = any size), not writeable.

    Raises:
        ValueError: not numbers, or of another shape.
    """
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{where}: expected {_shape_words(shape)}, found what is not: {error}. {hint}".strip()
        ) from error
    fits = array.ndim == len(shape) and all(
        wanted in (None, size) for wanted, size in zip(shape, array.shape)
    )
    if not fits:
        after = f": {hint}." if hint else "."
        raise ValueError(
            f"{where}: expected {_shape_words(shape)}, found shape {tuple(array.shape)}{after}"
        )
    array.flags.writeable = False
    return array


def check_finite(array: Float[np.ndarray, ...], where: str) -> None:
    """Raises a ValueError that says where the first value that is not finite stands."""
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        place = "".join(f"[{i}]" for i in bad[0])
        value = array[tuple(bad[0])]
        raise ValueError(f"{where}{place}: expected a finite number, found {value}.")


def check_choice(value: Any, choices: Sequence[str], where: str) -> None:
    """Raises a ValueError unless `value` is one of `choices`; suggests the nearest."""
    if value in choices:
        return
    near = difflib.get_close_matches(str(value).lower(), choices, n=1, cutoff=0.4)
    also = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{where}: expected one of {', '.join(choices)}, found {value!r}.{also}")


def check_keys(data: Any, required: Sequence[str], optional: Sequence[str], where: str) -> None:
    """Raises a ValueError unless `data` is a mapping with these keys."""
    if not isinstance(data, Mapping):
        raise ValueError(
            f"{where}: expected a mapping with {', '.join(required)}, found {type(data).__name__}."
        )
    missing = [key for key in required if key not in data]
    if missing:
        raise ValueError(
            f"{where}: expected the keys {', '.join(required)}, found no {', '.join(missing)}."
        )
    for key in data:
        if key not in required and key not in optional:
            check_choice(key, [*required, *optional], f"{where}: key")


def check_simple_polygon(xy: Float[np.ndarray, "n 2"], where: str) -> None:
    """Raises a ValueError unless the outline has an area and does not cross itself."""
    if len(xy) < 3:
        raise ValueError(f"{where}: expected at least 3 corners, found {len(xy)}.")
    from shapely import is_valid_reason, polygons

    reason = str(is_valid_reason(polygons(xy)))
    if reason != "Valid Geometry":
        raise ValueError(
            f"{where}: expected an outline that does not cross or touch itself, found {reason}: "
            "split it into several polygons, or repair it (shapely.make_valid)."
        )


def _shape_words(shape: tuple[int | None, ...]) -> str:
    if not shape:
        return "a number"
    return "numbers of shape (" + ", ".join("n" if s is None else str(s) for s in shape) + ")"
