"""`metrics.json`: one schema for every system, checked when it is built and when it is read.

    {"system": str, "protocol": {str: JSON value},
     "metrics": {NAME: {"model": x, BASELINE: y, ..., "interval": [lo, hi], "n": N,
                        "better": "higher" | "lower",
                        "per_horizon": {"model": [...], BASELINE: [...]}}}}

`per_horizon` stands only where a metric has steps; a value there is null where it is undefined (no
token changed). Every other value is a finite number. `interval` is that of the model's value;
`[x, x]` says that no sampling error is claimed (a count over everything there is).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskworld.data.storage import write_json

RESERVED = ("model", "interval", "n", "better", "per_horizon")
"""Keys of a metric that are not names of baselines."""
Scalar = Any
"""A Python, NumPy or torch number; `Results.add` refuses anything else by name."""
_NAME = re.compile(r"[a-z0-9_.]+(/[a-z0-9_.-]+)*")


@dataclass
class Results:
    """Collects the metrics of one evaluation.

    Args:
        system: "worlddreamer", ...
        protocol: what the numbers mean: data, split, number of clips, seeds, context, decoding.
    """

    system: str
    protocol: dict[str, Any]
    _metrics: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(
        self,
        name: str,
        *,
        model: Scalar,
        interval: Sequence[Scalar],
        n: Scalar,
        better: str,
        baselines: Mapping[str, Scalar] | None = None,
        per_horizon: Mapping[str, Sequence[Scalar | None]] | None = None,
    ) -> None:
        """Adds one metric.

        Args:
            name: e.g. "psnr", "action_sensitivity/shuffled", "style/autumn".
            model: the model's value.
            interval: of the model's value, low and high.
            n: clips, pairs or episodes behind it.
            better: "higher" or "lower".
            baselines: name -> value, e.g. "copy_last".
            per_horizon: "model" and baselines -> one value per step.

        Raises:
            ValueError: a name given twice, or anything that the schema forbids.
        """
        if name in self._metrics:
            raise ValueError(f"Expected each metric once, found {name!r} again.")
        taken = [key for key in baselines or {} if key in RESERVED]
        if taken:
            raise ValueError(f"Expected other names for baselines than {taken}.")
        entry: dict[str, Any] = {"model": _number(model)}
        entry |= {key: _number(value) for key, value in (baselines or {}).items()}
        entry |= {
            "interval": [_number(end) for end in interval],
            "n": _number(n),
            "better": better,
        }
        if per_horizon is not None:
            entry["per_horizon"] = {
                key: [None if x is None else _number(x) for x in curve]
                for key, curve in per_horizon.items()
            }
        _check_metric(name, entry)
        self._metrics[name] = entry

    def take(self, other: Results) -> None:
        """Adds the metrics that another part of the same evaluation found, in their order.

        Raises:
            ValueError: a name that is here already.
        """
        taken = sorted(self._metrics.keys() & other._metrics.keys())
        if taken:
            raise ValueError(f"Expected each metric once, found {taken} again.")
        self._metrics |= other._metrics

    def to_dict(self) -> dict[str, Any]:
        """The content of `metrics.json`, checked.

        Raises:
            ValueError: the schema is violated.
        """
        content = {
            "system": self.system,
            "protocol": dict(self.protocol),
            "metrics": {name: dict(entry) for name, entry in self._metrics.items()},
        }
        check_results(content)
        return content

    def write(self, path: Path | str) -> None:
        """Writes `metrics.json` whole or not at all.

        Raises:
            ValueError: the schema is violated.
            OSError: the disk is full.
        """
        write_json(path, self.to_dict())


def read_results(path: Path | str) -> dict[str, Any]:
    """Reads and checks a `metrics.json`.

    Raises:
        ValueError: not strict JSON (NaN, a key given twice), or the schema is violated; names the
            file.
    """
    try:
        content = json.loads(
            Path(path).read_text(encoding="utf-8"),
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique_keys,
        )
        check_results(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return content


def check_results(content: Any) -> None:
    """Raises ValueError with the offending key and value unless `content` fits the schema."""
    _check_keys("metrics.json", content, {"system", "protocol", "metrics"})
    system, protocol, metrics = content["system"], content["protocol"], content["metrics"]
    if not isinstance(system, str) or not system:
        raise ValueError(f"system: expected a name, found {system!r}.")
    if not isinstance(protocol, dict):
        raise ValueError(f"protocol: expected an object, found {protocol!r}.")
    _check_json("protocol", protocol)
    if not isinstance(metrics, dict) or not metrics:
        raise ValueError(f"metrics: expected at least one metric, found {metrics!r}.")
    for name, entry in metrics.items():
        _check_metric(name, entry)


def baseline_names(entry: Mapping[str, Any]) -> list[str]:
    """The baselines of one metric, in the order of the file."""
    return [key for key in entry if key not in RESERVED]


def _check_metric(name: Any, entry: Any) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"metrics: expected a name like style/autumn, found {name!r}.")
    where = f"metrics/{name}"
    required = {"model", "interval", "n", "better"}
    if not isinstance(entry, dict) or not required <= entry.keys():
        found = sorted(entry) if isinstance(entry, dict) else entry
        raise ValueError(f"{where}: expected the keys {sorted(required)}, found {found!r}.")
    if entry["better"] not in ("higher", "lower"):
        raise ValueError(
            f'{where}/better: expected "higher" or "lower", found {entry["better"]!r}.'
        )
    if not isinstance(entry["n"], int) or isinstance(entry["n"], bool) or entry["n"] < 1:
        raise ValueError(f"{where}/n: expected an integer of at least 1, found {entry['n']!r}.")
    for key in ("model", *baseline_names(entry)):
        _check_finite(f"{where}/{key}", entry[key])
    interval = entry["interval"]
    if not isinstance(interval, list) or len(interval) != 2:
        raise ValueError(f"{where}/interval: expected [low, high], found {interval!r}.")
    for end in interval:
        _check_finite(f"{where}/interval", end)
    if interval[0] > interval[1]:
        raise ValueError(f"{where}/interval: expected low <= high, found {interval}.")
    if "per_horizon" in entry:
        _check_horizon(f"{where}/per_horizon", entry["per_horizon"])


def _check_horizon(where: str, curves: Any) -> None:
    if not isinstance(curves, dict) or "model" not in curves:
        raise ValueError(f'{where}: expected an object with "model", found {curves!r}.')
    for key, curve in curves.items():
        if not isinstance(curve, list) or not curve:
            raise ValueError(f"{where}/{key}: expected a list of numbers, found {curve!r}.")
        for value in curve:
            if value is not None:
                _check_finite(f"{where}/{key}", value)
    lengths = {key: len(curve) for key, curve in curves.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{where}: expected curves of one number of steps, found {lengths}.")


def _check_keys(where: str, content: Any, keys: set[str]) -> None:
    if not isinstance(content, dict) or content.keys() != keys:
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{where}: expected exactly the keys {sorted(keys)}, found {found}.")


def _check_finite(where: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{where}: expected a finite number, found {value!r}.")


def _check_json(where: str, value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{where}: expected text as keys, found {key!r}.")
            _check_json(f"{where}/{key}", item)
    elif isinstance(value, list):
        for item in value:
            _check_json(where, item)
    elif not (value is None or isinstance(value, str | bool)):
        _check_finite(where, value)


def _number(value: Any) -> Any:
    """NumPy and torch scalars as Python numbers; anything else unchanged, for the check to name."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"Expected strict JSON, found {constant}, which JSON does not have.")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"Expected each key once, found {names} in one object.")
    return content
