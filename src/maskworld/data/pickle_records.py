"""Reads pickles as plain data, executing nothing: classes become records, never objects.

`pickletools` splits a pickle into its opcodes; a small stack machine puts together numbers, texts,
lists, dicts and NumPy arrays of numbers. Whatever else a pickle names (a class, a function) is
kept as a `Record` of its name, arguments and state. Nothing is imported and nothing is called, so
a hostile pickle is only an odd record.
"""

from __future__ import annotations

import pickletools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(eq=False)
class Record:
    """Something a pickle would have built: the full name of its class or function, what it would
    have been called with, and its state (most often a dict of attributes)."""

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)
    """What a pickle would have appended, or set as (key, value)."""


@dataclass(frozen=True)
class _Global:
    name: str


class _Mark:
    pass


_MARK = _Mark()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("BYTEARRAY8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_PLAIN: dict[str, Any] = {
    "collections.OrderedDict": dict,
    **{f"{place}.set": set for place in ("builtins", "__builtin__")},
    **{f"{place}.frozenset": frozenset for place in ("builtins", "__builtin__")},
    **{f"{place}.bytes": bytes for place in ("builtins", "__builtin__")},
    **{f"{place}.bytearray": bytearray for place in ("builtins", "__builtin__")},
}
"""Containers that older protocols make by a call."""
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_DTYPE = re.compile(r"[biufc][0-9]{1,2}|\?")
_ARRAY_MODULES = re.compile(r"numpy\.(_core|core)\.(multiarray|numeric)\.(\w+)")


def read_records(path: Path) -> Any:
    """What the pickle file at `path` holds.

    Raises:
        ValueError: missing, truncated, no pickle, or one that needs more than data.
    """
    if not path.is_file():
        raise ValueError(f"Expected a pickle at {path}, found nothing: copy the recording again.")
    try:
        return _Machine().run(path.read_bytes())
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} cannot be read as data ({type(error).__name__}: {error}): it is truncated, or "
            "holds more than numbers, texts and NumPy arrays. Copy or export it again."
        ) from error


class _Machine:
    """The stack, and what was put aside by number."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.keys: dict[int, list[int]] = {}  # of a record, by identity: where it is put aside

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return self.stack.pop()
            self.step(opcode.name, argument)
        raise ValueError("the pickle does not end")

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self.to_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.put(len(self.memo) if name == "MEMOIZE" else argument)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name.startswith("TUPLE") or name == "EMPTY_TUPLE":
            self.make_tuple(name)
        elif name in ("LIST", "DICT", "FROZENSET"):
            self.make_container(name)
        elif name in ("APPEND", "APPENDS", "ADDITEMS", "SETITEM", "SETITEMS"):
            self.fill(name)
        else:
            self.make_record(name, argument)

    def to_mark(self) -> list[Any]:
        """Takes everything above the last mark."""
        start = max(i for i, value in enumerate(self.stack) if value is _MARK)
        taken = self.stack[start + 1 :]
        del self.stack[start:]
        return taken

    def put(self, key: int) -> None:
        self.memo[key] = self.stack[-1]
        self.keys.setdefault(id(self.stack[-1]), []).append(key)

    def make_tuple(self, name: str) -> None:
        if name == "TUPLE":
            self.stack.append(tuple(self.to_mark()))
            return
        count = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}[name]
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        self.stack.append(tuple(taken))

    def make_container(self, name: str) -> None:
        taken = self.to_mark()
        if name == "DICT":
            self.stack.append(dict(zip(taken[::2], taken[1::2])))
        else:
            self.stack.append(taken if name == "LIST" else frozenset(taken))

    def fill(self, name: str) -> None:
        """Puts what is on top into the container below it."""
        if name.endswith("S"):
            taken = self.to_mark()
        else:
            count = 2 if name == "SETITEM" else 1
            taken = self.stack[-count:]
            del self.stack[-count:]
        target = self.stack[-1]
        pairs = list(zip(taken[::2], taken[1::2])) if name.startswith("SET") else taken
        if isinstance(target, Record):
            target.items += pairs
        elif isinstance(target, dict):
            target.update(pairs)
        elif isinstance(target, set):
            target.update(taken)
        else:
            target.extend(taken)

    def make_record(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name == "GLOBAL":
            stack.append(_Global(argument.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_Global(f"{module}.{attribute}"))
        elif name in ("REDUCE", "NEWOBJ"):
            args, made = stack.pop(), stack.pop()
            stack.append(_reduced(made, args))
        elif name == "NEWOBJ_EX":
            kwargs, args, made = stack.pop(), stack.pop(), stack.pop()
            stack.append(_reduced(made, (*args, kwargs)))
        elif name == "OBJ":
            made, *args = self.to_mark()
            stack.append(_reduced(made, tuple(args)))
        elif name == "INST":
            stack.append(Record(argument.replace(" ", "."), tuple(self.to_mark())))
        elif name == "BUILD":
            self.build(stack.pop())
        else:
            raise ValueError(f"the opcode {name} is not read")

    def build(self, state: Any) -> None:
        """Gives the record on top its state; arrays take the place of theirs."""
        record = self.stack[-1]
        if not isinstance(record, Record):
            raise ValueError(f"a state for {type(record).__name__}")
        if record.name == "numpy.dtype":
            order: Any = state[1] if state[1] in "<>" else "="
            built: Any = np.dtype(_kind(record)).newbyteorder(order)
        elif _array_function(record.name) == "_reconstruct":
            _, shape, kind, is_fortran, data = state
            built = _array(data, kind, shape, "F" if is_fortran else "C")
        else:
            record.state = state
            return
        self.stack[-1] = built
        for key in self.keys.pop(id(record), []):
            if self.memo[key] is record:  # another object may have had this identity before
                self.memo[key] = built


def _reduced(made: Any, args: Any) -> Any:
    if isinstance(made, Record):
        made = _Global(made.name)
    if not isinstance(made, _Global) or not isinstance(args, tuple):
        raise ValueError("a call of what is no name")
    if made.name == "_codecs.encode":  # bytes, as protocols up to 2 write them
        return args[0].encode("latin-1")
    if made.name in ("copyreg._reconstructor", "copy_reg._reconstructor"):
        return Record(args[0].name)
    if made.name in _PLAIN:
        if any(isinstance(arg, int) for arg in args):  # bytes(n) asks for n bytes
            raise ValueError(f"{made.name} of a number")
        return _PLAIN[made.name](*args)
    function = _array_function(made.name)
    if function == "scalar":
        return _array(args[1], args[0], (), "C")[()].item()
    if function == "_frombuffer":
        return _array(args[0], args[1], args[2], args[3])
    return Record(made.name, args)


def _array_function(name: str) -> str | None:
    found = _ARRAY_MODULES.fullmatch(name)
    return found[3] if found else None


def _kind(record: Record) -> str:
    kind = str(record.args[0])
    if not _DTYPE.fullmatch(kind):
        raise ValueError(f"an array of {kind}, expected numbers")
    return kind


def _array(data: Any, kind: Any, shape: tuple[int, ...], order: Any) -> np.ndarray:
    if isinstance(kind, Record):  # a dtype that needed no state
        kind = np.dtype(_kind(kind))
    if not isinstance(data, (bytes, bytearray)):
        raise ValueError("an array of objects, expected numbers")
    return np.frombuffer(data, dtype=kind).reshape(shape, order=order)
