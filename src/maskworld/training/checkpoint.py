"""Checkpoints without pickle: tensors in safetensors, the rest in JSON (ADR 0003).

A checkpoint is a folder `checkpoints/step-00001234/` that appears whole or not at all:

    state.json                 step, stage, system, size and CRC-32 of every other file
    model.safetensors          weights and buffers; optimizer.safetensors, ema.safetensors beside it
    process-00000.safetensors  what each process owns: RNG states, loader position
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from maskworld.data.storage import atomic_path
from maskworld.nn.weights_io import read_safetensors

FORMAT = 1
_FOLDER = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """What one process reads back."""

    folder: Path
    step: int
    """Optimizer steps since the start of the run."""
    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]
    """By file: "model", "optimizer", "ema"."""
    process: Any
    """What this process gave to `pack`."""


def pack(value: Any) -> bytes:
    """Nested dicts, lists, tuples, numbers, strings, bytes, arrays and tensors as one safetensors
    blob whose header holds the structure as JSON.

    Raises:
        ValueError: any other type, with the place where it stands.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}

    def plain(value: Any, place: str) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, np.generic):
            return {"%numpy": value.dtype.str, "value": plain(value.item(), place)}
        if isinstance(value, Tensor):
            tensors[str(len(tensors))] = value.detach().cpu().contiguous().clone()
            return {"%tensor": str(len(tensors) - 1)}
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                raise ValueError(f"Expected an array of numbers at {place}, found objects.")
            data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
            return {"%array": data, "dtype": value.dtype.str, "shape": list(value.shape)}
        if isinstance(value, bytes):
            return {"%bytes": base64.b64encode(value).decode()}
        if isinstance(value, Mapping):
            if all(isinstance(k, str) and not k.startswith("%") for k in value):
                return {k: plain(v, f"{place}.{k}") for k, v in value.items()}
            items = [[plain(k, place), plain(v, f"{place}.{k}")] for k, v in value.items()]
            return {"%items": items}
        if isinstance(value, list | tuple):
            items = [plain(v, f"{place}[{i}]") for i, v in enumerate(value)]
            return {"%tuple": items} if isinstance(value, tuple) else items
        raise ValueError(
            f"Expected numbers, strings, lists, dicts, arrays or tensors in the state at {place}, "
            f"found {type(value).__name__}: checkpoints hold no pickled objects."
        )

    structure = json.dumps(plain(value, "state"))
    return save(tensors, metadata={"state": structure})


def unpack(path: Path) -> Any:
    """The value that `pack` wrote into the file `path`."""
    from safetensors import safe_open

    tensors = read_safetensors(path)
    with safe_open(path, framework="pt") as file:
        structure = json.loads((file.metadata() or {}).get("state", "null"))

    def rich(value: Any) -> Any:
        if isinstance(value, list):
            return [rich(v) for v in value]
        if not isinstance(value, dict):
            return value
        if "%numpy" in value:
            return np.dtype(value["%numpy"]).type(value["value"])
        if "%tensor" in value:
            return tensors[value["%tensor"]].clone()
        if "%array" in value:
            array = np.frombuffer(base64.b64decode(value["%array"]), np.dtype(value["dtype"]))
            return array.reshape(value["shape"]).copy()
        if "%bytes" in value:
            return base64.b64decode(value["%bytes"])
        if "%items" in value:
            return {rich(k): rich(v) for k, v in value["%items"]}
        if "%tuple" in value:
            return tuple(rich(v) for v in value["%tuple"])
        return {k: rich(v) for k, v in value.items()}

    return rich(structure)


def save_checkpoint(
    root: Path,
    step: int,
    state: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, Tensor]],
    processes: Sequence[bytes],
    keep: int = 2,
) -> Path:
    """Writes `root/step-XXXXXXXX` and then drops all but the newest `keep` checkpoints.

    Args:
        processes: the packed state of every process, by rank.

    Raises:
        OSError: the disk is full; earlier checkpoints are untouched.
    """
    from safetensors.torch import save_file

    folder = root / f"step-{step:08d}"
    with atomic_path(folder, what=f"the checkpoint of step {step}") as temporary:
        temporary.mkdir()
        for name, named in tensors.items():
            contiguous = {key: value.contiguous() for key, value in named.items()}
            save_file(contiguous, temporary / f"{name}.safetensors")
        for rank, blob in enumerate(processes):
            (temporary / f"process-{rank:05d}.safetensors").write_bytes(blob)
        files = {
            path.name: {"bytes": path.stat().st_size, "crc32": _crc32(path)}
            for path in sorted(temporary.iterdir())
        }
        document = {"format": FORMAT, "step": step, **state, "files": files}
        (temporary / "state.json").write_text(json.dumps(document, indent=2), encoding="utf-8")
    for _, old in list_checkpoints(root)[:-keep]:
        hidden = old.with_name(f".{old.name}.old")
        old.rename(hidden)
        shutil.rmtree(hidden)
    return folder


def list_checkpoints(root: Path) -> list[tuple[int, Path]]:
    """(step, folder) of the checkpoints under `root`, oldest first; unfinished ones never show."""
    if not root.is_dir():
        return []
    matches = [(_FOLDER.fullmatch(path.name), path) for path in root.iterdir()]
    return sorted((int(match[1]), path) for match, path in matches if match)


def load_checkpoint(
    folder: Path, *, system: str | None = None, rank: int = 0, num_processes: int | None = None
) -> Checkpoint:
    """Reads and verifies one checkpoint.

    Args:
        system: class name that must have written it; None: any.
        num_processes: that must have written it; None: any.

    Raises:
        ValueError: a missing or damaged file (named), another system, another number of processes.
    """
    state = read_state(folder)
    for name, facts in state["files"].items():
        _verify(folder / name, facts)
    if system is not None and state["system"] != system:
        raise ValueError(
            f"Expected a checkpoint of {system} at {folder}, found one of {state['system']}: "
            "choose another folder or another recipe."
        )
    if num_processes is not None and state["num_processes"] != num_processes:
        raise ValueError(
            f"Expected a checkpoint of {num_processes} process(es) at {folder}, found one of "
            f"{state['num_processes']}: resume with torchrun --nproc-per-node so that the number "
            f"of processes is {state['num_processes']} again."
        )
    tensors = {
        Path(name).stem: read_safetensors(folder / name)
        for name in state["files"]
        if not name.startswith("process-")
    }
    process = unpack(folder / f"process-{rank:05d}.safetensors")
    return Checkpoint(folder, state["step"], state, tensors, process)


def read_state(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of itself: step, stage, stage_name, system, ...; reads one small file.

    Raises:
        ValueError: missing, damaged, or of another format.
    """
    path = folder / "state.json"
    if not path.is_file():
        raise ValueError(f"Expected a checkpoint with the file {path}, found none.")
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(state, dict) or not {"format", "step", "files", "system"} <= state.keys():
        raise _damaged(path, "entries are missing")
    if state["format"] != FORMAT:
        raise ValueError(
            f"Expected checkpoint format {FORMAT} in {path}, found {state['format']}: "
            "read it with the version of maskworld that wrote it."
        )
    return state


def _verify(path: Path, facts: Mapping[str, int]) -> None:
    if not path.is_file():
        raise _damaged(path, "the file is missing")
    if (size := path.stat().st_size) != facts["bytes"]:
        raise _damaged(path, f"expected {facts['bytes']} bytes, found {size}")
    if _crc32(path) != facts["crc32"]:
        raise _damaged(path, "its checksum differs")


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(
        f"Expected a whole checkpoint file at {path}, found a damaged one ({why}): remove the "
        f"folder {path.parent} or allow falling back to the checkpoint before it."
    )


def _crc32(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum
