"""Files that a user hands to a verb, read and checked before any work is done."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from maskworld.data.sources.sidecars import read_actions
from maskworld.data.sources.tokens import TokenSource
from maskworld.data.video_files import VideoReader


def check_output(path: Path, suffixes: Sequence[str]) -> None:
    """Checks that a file can be written at `path` before hours are spent on its content.

    Raises:
        ValueError: another suffix, a folder, or a place where nothing can be written.
    """
    if path.suffix.lower() not in suffixes:
        raise ValueError(
            f"Expected --out to end in {' or '.join(suffixes)}, found {path.name!r}: rename it."
        )
    if path.is_dir():
        raise ValueError(f"Expected a file to write at {path}, found a folder: name a file in it.")
    check_writable(path.parent)


def check_writable(folder: Path) -> None:
    """Checks that `folder` exists or can be made, and can be written; makes nothing.

    Raises:
        ValueError: a file stands in the way, or the right to write is missing.
    """
    absolute = Path(os.path.abspath(folder))
    existing = next(path for path in (absolute, *absolute.parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"Expected a folder at {existing}, found a file: choose another --out.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"Expected to be allowed to write in {existing}: choose another --out.")


def read_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """RGB pixels of an image file.

    Raises:
        ValueError: nothing there, or no image.
    """
    import cv2

    if not path.is_file():
        raise ValueError(f"Expected an image at {path}, found nothing.")
    encoded = np.frombuffer(path.read_bytes(), np.uint8)
    image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    if image is None:
        raise ValueError(
            f"Expected an image at {path}, found something else or a damaged one: "
            "give a PNG or JPEG file."
        )
    return np.ascontiguousarray(image[..., ::-1])


def read_frames(path: Path, places: Sequence[int], purpose: str) -> UInt8[np.ndarray, "t h w 3"]:
    """The frames of a video at `places`, -1 being its last.

    Args:
        purpose: what needs them, for the message of a video that is too short.

    Raises:
        ValueError: no video, a damaged one, or too few frames.
    """
    with VideoReader(path) as reader:
        check_length(path, len(reader), len(places), purpose)
        return reader.read([place % len(reader) for place in places])


def check_length(path: Path, found: int, needed: int, why: str) -> None:
    """Raises ValueError for a recording of fewer than `needed` frames."""
    if found < needed:
        fix = f"give a longer one, or pass --num-frames {found}" if found > 1 else "record a longer"
        raise ValueError(
            f"Expected at least {needed} frames for {why}, found {found} in {path}: {fix}."
        )


def read_codes(
    path: Path, places: Sequence[int], purpose: str, vocab_size: int
) -> Int[np.ndarray, "t gh gw"]:
    """The frames of an array of codes at `places`, -1 being its last."""
    episode = TokenSource(path, vocab_size=vocab_size).episode(0)
    check_length(path, episode.num_frames, len(places), purpose)
    return episode.read_tokens([place % episode.num_frames for place in places])[0]


def read_action_file(
    path: Path, num_frames: int, action_dim: int, *, unknown: bool = False
) -> Float[np.ndarray, "{num_frames} {action_dim}"]:
    """One row of actions per frame from a .npy, .csv or .json file.

    Args:
        unknown: NaN may stand for what is not known.

    Raises:
        ValueError: no such file, another format, NaN, or another number of rows or columns.
    """
    if not path.is_file():
        raise ValueError(f"Expected actions at {path}, found nothing.")
    if path.suffix == ".json":
        actions = _read_json(path, num_frames, unknown)
    elif path.suffix in (".npy", ".csv"):
        actions, _ = read_actions(path, num_frames, unknown=unknown)
    else:
        raise ValueError(f"Expected actions as .npy, .csv or .json, found {path.name}.")
    if actions.shape[1] != action_dim:
        raise ValueError(
            f"Expected {action_dim} numbers per row of actions, as the model was trained, "
            f"found {actions.shape[1]} in {path}."
        )
    return actions


def _read_json(path: Path, num_frames: int, unknown: bool) -> np.ndarray:
    try:
        values = np.array(json.loads(path.read_text(encoding="utf-8")), dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"Expected a JSON list of rows of numbers in {path}, found another ({error})."
        ) from error
    is_finite = bool((np.isfinite(values) | (np.isnan(values) & unknown)).all())
    if values.ndim != 2 or len(values) != num_frames or not is_finite:
        raise ValueError(
            f"Expected {num_frames} rows of finite actions in {path}, one per frame, found shape "
            f"{values.shape}{'' if is_finite else ' with NaN or infinity'}."
        )
    return values


def region_to_fill(
    box: tuple[int, int, int, int] | None, mask: Path | None, size: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """Pixels of a video of `size` (height, width) that inpainting fills in.

    Args:
        box: x, y, width, height.
        mask: an image of that size, white where to fill.

    Raises:
        ValueError: both or neither, a box outside, a mask of another size, nothing to fill.
    """
    height, width = size
    if (box is None) == (mask is None):
        raise ValueError("Expected --box X Y WIDTH HEIGHT or --mask FILE for inpainting, one.")
    if mask is not None:
        image = read_image(mask)
        if image.shape[:2] != size:
            raise ValueError(
                f"Expected a mask of {width}x{height} pixels, the size of the video, found "
                f"{image.shape[1]}x{image.shape[0]} in {mask}: scale it."
            )
        region = image.max(axis=-1) >= 128
    else:
        assert box is not None
        x, y, w, h = box
        if w < 1 or h < 1 or x < 0 or y < 0 or x + w > width or y + h > height:
            raise ValueError(
                f"Expected a box within the {width}x{height} pixels of the video, found x {x}, "
                f"y {y}, width {w}, height {h}."
            )
        region = np.zeros(size, dtype=bool)
        region[y : y + h, x : x + w] = True
    if not region.any():
        raise ValueError(f"Expected white pixels to fill in {mask}, found none.")
    return region
