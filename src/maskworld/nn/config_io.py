"""Frozen dataclass configs to JSON and back, checked against their annotations.

Every dataclass is an object with a "type" entry, so that a union of configs knows which it was.
Only the types that the annotations name are ever built: nothing is imported or evaluated.
"""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def config_to_json(config: Any, place: str = "config") -> Any:
    """JSON values of a config: dataclasses, tuples, lists, dicts, numbers, strings, None.

    Raises:
        ValueError: a value of another kind, or one that JSON lacks (NaN, infinity).
    """
    if config is None or isinstance(config, bool | int | str):
        return config
    if isinstance(config, float):
        if not math.isfinite(config):
            raise ValueError(f"Expected finite numbers in a config, found {config} at {place}.")
        return config
    if is_dataclass(config) and not isinstance(config, type):
        values = {
            f.name: config_to_json(getattr(config, f.name), f"{place}.{f.name}")
            for f in fields(config)
            if f.init
        }
        return {"type": type(config).__name__, **values}
    if isinstance(config, list | tuple):
        return [config_to_json(v, f"{place}[{i}]") for i, v in enumerate(config)]
    if isinstance(config, Mapping) and all(isinstance(key, str) for key in config):
        return {key: config_to_json(v, f"{place}.{key}") for key, v in config.items()}
    raise ValueError(
        f"Expected a config of dataclasses, lists, numbers and strings, found "
        f"{type(config).__name__} at {place}."
    )


def config_from_json(kind: type[T], data: Any, place: str = "config") -> T:
    """The config of dataclass `kind` that `config_to_json` wrote.

    A field that is absent takes its default, so that old files stay readable.

    Raises:
        ValueError: an unknown or missing field, a value of another type; says where.
    """
    return _build(kind, data, place)


def _build(kind: Any, data: Any, place: str) -> Any:
    if kind is Any:
        return data
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _build_union(get_args(kind), data, place)
    if origin is Literal:
        if data not in get_args(kind) or isinstance(data, bool) != any(
            data is option for option in get_args(kind) if isinstance(option, bool)
        ):
            near = _nearest(data, [str(option) for option in get_args(kind)])
            raise _mismatch(f"one of {list(get_args(kind))}", data, place, near)
        return data
    if origin is typing.Annotated:
        return _build(get_args(kind)[0], data, place)
    if isinstance(kind, type) and is_dataclass(kind):
        return _build_dataclass(kind, data, place)
    if origin in (tuple, list) or kind in (tuple, list):
        return _build_sequence(kind, origin or kind, data, place)
    if origin is dict or kind is dict:
        if not isinstance(data, dict):
            raise _mismatch("an object", data, place)
        value_kind = get_args(kind)[1] if get_args(kind) else Any
        return {key: _build(value_kind, v, f"{place}.{key}") for key, v in data.items()}
    if kind is None or kind is types.NoneType:
        if data is not None:
            raise _mismatch("null", data, place)
        return None
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if kind in (bool, int, float, str):
        if type(data) is not kind:
            raise _mismatch(kind.__name__, data, place)
        return data
    raise ValueError(f"Expected an annotation that JSON can hold at {place}, found {kind}.")


def _build_dataclass(kind: type, data: Any, place: str) -> Any:
    if not isinstance(data, dict):
        raise _mismatch(f"an object of type {kind.__name__}", data, place)
    found = data.get("type", kind.__name__)
    if found != kind.__name__:
        raise _mismatch(f"type {kind.__name__!r}", found, place)
    hints = get_type_hints(kind)
    known = {f.name: f for f in fields(kind) if f.init}
    values = {}
    for name, value in data.items():
        if name == "type":
            continue
        if name not in known:
            raise ValueError(
                f"Expected fields of {kind.__name__} at {place}, found {name!r}"
                f"{_nearest(name, list(known))}. Fields: {', '.join(known)}."
            )
        values[name] = _build(hints[name], value, f"{place}.{name}")
    missing = [
        name
        for name, f in known.items()
        if name not in values and f.default is MISSING and f.default_factory is MISSING
    ]
    if missing:
        raise ValueError(f"Expected {kind.__name__}.{missing[0]} at {place}, found it missing.")
    return kind(**values)


def _build_union(options: tuple[Any, ...], data: Any, place: str) -> Any:
    if isinstance(data, dict) and "type" in data:
        classes = {o.__name__: o for o in options if isinstance(o, type) and is_dataclass(o)}
        if data["type"] in classes:
            return _build(classes[data["type"]], data, place)
        near = _nearest(data["type"], list(classes))
        raise _mismatch(f"a type among {sorted(classes)}", data["type"], place, near)
    if data is None and types.NoneType in options:
        return None
    for option in options:
        try:
            return _build(option, data, place)
        except ValueError:
            continue
    names = " | ".join(getattr(option, "__name__", str(option)) for option in options)
    raise _mismatch(names, data, place)


def _build_sequence(kind: Any, origin: type, data: Any, place: str) -> Any:
    if not isinstance(data, list):
        raise _mismatch("a list", data, place)
    items = get_args(kind)
    if origin is tuple and items and items[-1] is not Ellipsis:
        if len(data) != len(items):
            raise _mismatch(f"{len(items)} values", data, place)
        kinds = list(items)
    else:
        kinds = [items[0] if items else Any] * len(data)
    return origin(_build(k, v, f"{place}[{i}]") for i, (k, v) in enumerate(zip(kinds, data)))


def _nearest(name: Any, known: list[str]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _mismatch(expected: str, found: Any, place: str, hint: str = "") -> ValueError:
    return ValueError(f"Expected {expected} at {place}, found {found!r}{hint}.")
