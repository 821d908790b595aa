"""Videos that are stored as codes of a tokenizer, for instance commaVQ, as a Source.

A file is an integer array `(frames, tokens)` or `(frames, h, w)`; a folder holds several, and
`meta.json` says what the arrays do not:

    {"format": "maskworld-tokens", "version": 1, "grid": [8, 16], "vocab_size": 1024, "fps": 20.0}

Reference: https://github.com/commaai/commavq (one minute per file: 1200 frames x 128 codes).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int

from maskworld.data.episodes import Recent
from maskworld.data.sources.sidecars import load_array, read_actions, read_caption

FORMAT, VERSION = "maskworld-tokens", 1
ACTIONS_SUFFIX = ".actions.npy"


@dataclass(frozen=True)
class TokenLayout:
    """How codes are arranged: rows and columns per frame, number of codes, frames per second."""

    grid: tuple[int, int]
    vocab_size: int
    fps: float

    def __post_init__(self) -> None:
        if min(self.grid) < 1 or self.vocab_size < 1 or not self.fps > 0:
            raise ValueError(
                f"Expected a grid, a vocab_size and an fps above 0, got {self.grid}, "
                f"{self.vocab_size} and {self.fps}."
            )


COMMAVQ = TokenLayout((8, 16), 1024, 20.0)
"""What arrays `(frames, 128)` are taken for unless something else is said."""


class TokenSource:
    """Every array at `path` is one episode, ordered by name. Arrays of .npy files stay on disk.

    Args:
        path: a .npy or .npz file, or a folder of .npy files (with `meta.json` or without).
        grid: rows and columns of codes per frame; needed for `(frames, tokens)` arrays other than
            commaVQ's 128 = 8 x 16.
        vocab_size: number of codes; None = of `meta.json`, 1024 for commaVQ, else the largest
            code plus one, which reads all files.
        fps: frames per second; None = of `meta.json`, 20 for commaVQ.

    Raises:
        ValueError: nothing there, no integers, codes outside the range (named when a file is first
            opened), a grid that does not fit, or an fps that nothing tells.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        grid: tuple[int, int] | None = None,
        vocab_size: int | None = None,
        fps: float | int | None = None,
    ) -> None:
        self.path = Path(path)
        self.name = self.path.stem if self.path.is_file() else self.path.resolve().name
        self._parts = _find_arrays(self.path)
        self._open: Recent[int, np.ndarray] = Recent(64)
        meta = read_meta(self.path) if self.path.is_dir() else {}
        shapes = [_shape(part) for part in self._parts]
        if not meta and all(shape[1:] == (128,) for shape in shapes):
            meta = asdict(COMMAVQ)
        self.grid = _grid(self.path, shapes, grid or meta.get("grid"))
        found_fps = fps or meta.get("fps")
        if found_fps is None:
            raise ValueError(f"{self.path} does not tell its frames per second: pass fps.")
        self.fps = float(found_fps)
        self._lengths = [shape[0] for shape in shapes]
        self.vocab_size = int(vocab_size or meta.get("vocab_size") or self._largest())

    @property
    def layout(self) -> TokenLayout:
        return TokenLayout(self.grid, self.vocab_size, self.fps)

    @property
    def views(self) -> list[str]:
        return ["front"]

    def __len__(self) -> int:
        return len(self._parts)

    def episode(self, index: int) -> TokenEpisode:
        if not 0 <= index < len(self):
            raise ValueError(f"{self.name} has {len(self)} episodes, asked for number {index}.")
        return TokenEpisode(self, index)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open = Recent(64)

    def _array(self, index: int) -> np.ndarray:
        return self._open.get(index, lambda: self._checked(index))

    def _checked(self, index: int) -> np.ndarray:
        part = self._parts[index]
        codes = _load(part)
        low, high = int(codes.min()), int(codes.max())
        if low < 0 or high >= self.vocab_size:
            flat = codes.reshape(len(codes), -1)
            frame = int(np.flatnonzero(((flat < 0) | (flat >= self.vocab_size)).any(axis=1))[0])
            raise ValueError(
                f"{_named(part)}: expected codes 0..{self.vocab_size - 1}, found {low}..{high}, "
                f"first in frame {frame}. Pass the vocab_size of their tokenizer, or mend the file."
            )
        return codes

    def _largest(self) -> int:
        return 1 + max(int(_load(part).max()) for part in self._parts)


class TokenEpisode:
    """One recording of codes."""

    def __init__(self, source: TokenSource, index: int) -> None:
        self._source, self._index = source, index
        self.path = source._parts[index][0]
        self.num_frames = source._lengths[index]
        self.fps = source.fps
        self.caption = read_caption(self.path)
        self.segments: Sequence[tuple[int, int]] = [(0, self.num_frames)]
        self.attributes = {"file": _named(source._parts[index], short=True)}

    @property
    def actions(self) -> Float[np.ndarray, "t a"] | None:
        """Rows of `<stem>.actions.npy`; None where there is none."""
        path = self.path.with_name(self.path.stem + ACTIONS_SUFFIX)
        return read_actions(path, self.num_frames)[0] if path.is_file() else None

    def read_tokens(self, indices: Sequence[int]) -> Int[np.ndarray, "1 n gh gw"]:
        """Codes of the frames at `indices`, int64; the one view comes first."""
        wrong = [i for i in indices if not 0 <= i < self.num_frames]
        if wrong:
            raise ValueError(
                f"{self.path} has {self.num_frames} frames, asked for frame {wrong[0]}."
            )
        codes = self._source._array(self._index)[list(indices)].astype(np.int64)
        if codes.ndim == 2:
            codes = rearrange(codes, "n (gh gw) -> n gh gw", gh=self._source.grid[0])
        return codes[None]

    def read(self, indices: Sequence[int]) -> np.ndarray:
        raise ValueError(
            f"{self.path} holds codes of a tokenizer, no pixels: read them with read_tokens, "
            "and decode them with the tokenizer that made them."
        )

    def read_labels(self, indices: Sequence[int]) -> None:
        return None


def read_meta(folder: Path) -> dict[str, Any]:
    """`meta.json` of a token folder; empty where there is none.

    Raises:
        ValueError: it is no JSON, of another format, or lacks a field.
    """
    path = folder / "meta.json"
    if not path.is_file():
        return {}
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): write it again.") from error
    if (meta.get("format"), meta.get("version")) != (FORMAT, VERSION):
        raise ValueError(
            f"{path}: expected format {FORMAT!r} version {VERSION}, found "
            f"{meta.get('format')!r} version {meta.get('version')!r}."
        )
    missing = {"grid", "vocab_size", "fps"} - set(meta)
    if missing:
        raise ValueError(f"{path} lacks {sorted(missing)}: import the tokens again.")
    return meta | {"grid": tuple(meta["grid"])}


_Part = tuple[Path, str | None]
"""A file, and the name of the array within it where it holds several."""


def _find_arrays(path: Path) -> list[_Part]:
    if path.is_dir():
        files = [
            p
            for p in sorted(path.rglob("*.npy"))
            if not p.name.endswith(ACTIONS_SUFFIX) and not p.name.startswith(".")
        ]
        if not files:
            raise ValueError(f"{path} holds no .npy file: expected arrays of codes.")
        return [(p, None) for p in files]
    if not path.is_file():
        raise ValueError(f"Expected a .npy or .npz file or a folder at {path}, found nothing.")
    if path.suffix == ".npz":
        with _open_npz(path) as archive:
            names = sorted(archive.files)
        if not names:
            raise ValueError(f"{path} holds no array: expected arrays of codes.")
        return [(path, name) for name in names]
    if path.suffix != ".npy":
        raise ValueError(f"Expected tokens as .npy or .npz, found {path.name}.")
    return [(path, None)]


def _load(part: _Part) -> np.ndarray:
    path, name = part
    if name is None:
        codes = load_array(path, memory_map=True)
    else:
        with _open_npz(path) as archive:
            codes = archive[name]
    if codes.dtype.kind not in "iu":
        raise ValueError(f"{_named(part)} holds {codes.dtype}: expected integers, the codes.")
    if codes.ndim not in (2, 3) or 0 in codes.shape:
        raise ValueError(
            f"{_named(part)} has shape {codes.shape}: expected (frames, tokens) or (frames, h, w), "
            "none of them 0."
        )
    return codes


def _open_npz(path: Path) -> Any:
    from zipfile import BadZipFile

    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} is no readable .npz archive ({error}).") from error


def _shape(part: _Part) -> tuple[int, ...]:
    return _load(part).shape


def _named(part: _Part, short: bool = False) -> str:
    path, name = part
    text = path.name if short else str(path)
    return text if name is None else f"{text}[{name}]"


def _grid(path: Path, shapes: list[tuple[int, ...]], grid: Any) -> tuple[int, int]:
    found = {shape[1:] for shape in shapes}
    if len(found) > 1:
        raise ValueError(f"{path}: expected arrays of one layout, found {sorted(found)} per frame.")
    layout = found.pop()
    if grid is None and len(layout) == 2:
        return layout[0], layout[1]
    if grid is None:
        raise ValueError(
            f"{path}: {layout[0]} codes per frame, in rows and columns that nothing tells: "
            "pass grid, for instance --grid 8 16."
        )
    grid = (int(grid[0]), int(grid[1]))
    fits = layout == grid if len(layout) == 2 else layout[0] == grid[0] * grid[1]
    if not fits:
        raise ValueError(f"{path}: a grid of {grid} does not fit its {layout} codes per frame.")
    return grid
