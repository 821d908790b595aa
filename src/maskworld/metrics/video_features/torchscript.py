"""The tensors in a TorchScript archive, read without running anything in it.

A TorchScript file is a program: `torch.jit.load` compiles the code inside and may run some of it.
But its tensors lie in the archive as plain bytes, and `data.pkl` says which is which. This reads
`data.pkl` symbol by symbol and understands only what tensors of modules need: names of classes stay
names, calls other than the rebuilding of a tensor stay unknown values. Nothing is imported,
constructed or called.
"""

from __future__ import annotations

import pickletools
import zipfile
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_CONSTANTS = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
}
_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
_IGNORED = {"PROTO", "FRAME", "STOP"}


@dataclass(frozen=True)
class _Name:
    """A class or function that the file names; only its name."""

    text: str


@dataclass
class _Thing:
    """An instance of whatever class, with what its state holds."""

    state: Any = None


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    key: str


@dataclass(frozen=True)
class _View:
    """A tensor in the archive: where it lies and how it is laid out."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Mark:
    """Where a tuple, list or dictionary begins on the stack."""


@dataclass
class _Machine:
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def since_mark(self) -> list[Any]:
        taken: list[Any] = []
        while not isinstance(self.stack[-1], _Mark):
            taken.append(self.stack.pop())
        self.stack.pop()
        return taken[::-1]


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive with code in it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path | str) -> dict[str, Tensor]:
    """Parameters and buffers of the module in a TorchScript file, by their dotted names.

    Raises:
        ValueError: no such archive, a damaged one, an opcode or storage that tensors do not need,
            or a frozen module, whose tensors have no names.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            data = next(name for name in names if name.split("/")[1:] == ["data.pkl"])
            root = data.split("/")[0]
            order = f"{root}/byteorder"
            if order in names and archive.read(order).strip() != b"little":
                raise ValueError(f"Expected little-endian tensors in {path}, found big-endian.")
            found: dict[str, _View] = {}
            _collect(_run(archive.read(data), path), "", found, depth=0)
            tensors = {name: _tensor(archive, root, view) for name, view in found.items()}
    except (zipfile.BadZipFile, StopIteration, KeyError, IndexError, OSError, TypeError) as error:
        raise ValueError(
            f"Expected a whole TorchScript archive at {path}, found none that can be read "
            f"({type(error).__name__}: {error}): copy it again."
        ) from error
    if not tensors:
        raise ValueError(
            f"Expected named tensors in {path}, found none: it was frozen, and only running the "
            "program could use it. Save the state dict of the module instead."
        )
    return tensors


def _run(data: bytes, path: Path) -> Any:
    machine = _Machine()
    try:
        operations = [(opcode.name, argument) for opcode, argument, _ in pickletools.genops(data)]
    except ValueError as error:
        raise ValueError(f"Expected a whole data.pkl in {path}, found {error}.") from error
    for name, argument in operations:
        _step(machine, name, argument, path)
    return machine.stack[-1]


def _step(machine: _Machine, name: str, argument: Any, path: Path) -> None:
    stack = machine.stack
    if name in _IGNORED:
        return
    if name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name in _VALUES:
        stack.append(argument)
    elif name == "GLOBAL":
        stack.append(_Name(str(argument).replace(" ", ".")))
    elif name == "EMPTY_DICT":
        stack.append({})
    elif name == "EMPTY_LIST":
        stack.append([])
    elif name == "MARK":
        stack.append(_Mark())
    elif name in ("BINPUT", "LONG_BINPUT"):
        machine.memo[int(argument)] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(machine.memo[int(argument)])
    elif name == "TUPLE":
        stack.append(tuple(machine.since_mark()))
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        size = int(name[-1])
        taken = tuple(stack[-size:])
        del stack[-size:]
        stack.append(taken)
    elif name in ("APPENDS", "APPEND"):
        items = machine.since_mark() if name == "APPENDS" else [stack.pop()]
        stack[-1].extend(items)
    elif name in ("SETITEMS", "SETITEM"):
        items = machine.since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
        stack[-1].update(zip(items[::2], items[1::2], strict=True))
    elif name == "BINPERSID":
        stack.append(_storage(stack.pop(), path))
    elif name == "NEWOBJ":
        del stack[-2:]
        stack.append(_Thing())
    elif name == "REDUCE":
        arguments, function = stack.pop(), stack.pop()
        stack.append(_reduced(function, arguments))
    elif name == "BUILD":
        state = stack.pop()
        if isinstance(stack[-1], _Thing):
            stack[-1].state = state
    else:
        raise ValueError(
            f"Expected only what tensors need in {path}, found the pickle opcode {name}: the file "
            "is no TorchScript module of weights."
        )


def _storage(description: Any, path: Path) -> _Storage:
    kind, key = description[1], str(description[2])
    name = kind.text.removeprefix("torch.") if isinstance(kind, _Name) else str(kind)
    if name not in STORAGES:
        raise ValueError(f"Expected a storage among {sorted(STORAGES)} in {path}, found {name!r}.")
    return _Storage(STORAGES[name], key)


def _reduced(function: Any, arguments: Any) -> Any:
    """A tensor's description; everything else stays unknown."""
    name = function.text if isinstance(function, _Name) else ""
    if name == "torch._utils._rebuild_tensor_v2" and isinstance(arguments[0], _Storage):
        storage, offset, shape, strides = arguments[:4]
        return _View(storage, int(offset), tuple(shape), tuple(strides))
    return _Thing()


def _collect(value: Any, prefix: str, found: dict[str, _View], depth: int) -> None:
    if isinstance(value, _View):
        found[prefix] = value
    state = value.state if isinstance(value, _Thing) else value
    if isinstance(state, dict) and depth < 64:
        for key, item in state.items():
            _collect(item, f"{prefix}.{key}" if prefix else str(key), found, depth + 1)


def _tensor(archive: zipfile.ZipFile, root: str, view: _View) -> Tensor:
    raw = archive.read(f"{root}/data/{view.storage.key}")
    flat = torch.frombuffer(bytearray(raw), dtype=view.storage.dtype) if raw else torch.empty(0)
    if prod(view.shape) == 0:
        return torch.zeros(view.shape, dtype=view.storage.dtype)
    last = view.offset + sum((n - 1) * step for n, step in zip(view.shape, view.strides))
    if min((view.offset, *view.strides)) < 0 or last >= len(flat):
        raise IndexError(f"a tensor reaches {last + 1} of {len(flat)} numbers of its storage")
    return flat.as_strided(view.shape, view.strides, view.offset).clone()
