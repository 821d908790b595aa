"""The folder of a run: its config.json, and whether it may be trained into."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from maskworld import __version__
from maskworld.data.storage import write_json
from maskworld.training.checkpoint import list_checkpoints
from maskworld.training.config import Stage

# May change between the parts of a run; everything else must stay for it to be the same run.
_FREE_STAGE_FIELDS = {"num_steps", "compile", "log_every", "save_every", "sample_every"}
_FREE_FIELDS = {"version", "torch"}


def describe_run(
    system: str, stages: Sequence[Stage], seed: int, num_processes: int, recipe: Mapping[str, Any]
) -> dict[str, Any]:
    """What config.json says.

    Raises:
        ValueError: `recipe` is not made of JSON values.
    """
    document = {
        "version": __version__,
        "torch": torch.__version__,
        "system": system,
        "seed": seed,
        "num_processes": num_processes,
        # A curriculum's fields only where a stage has them, so that older runs can be resumed.
        "stages": [
            {name: value for name, value in asdict(stage).items() if value is not None}
            for stage in stages
        ],
        "recipe": dict(recipe),
    }
    try:
        return json.loads(json.dumps(document, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected a config made of JSON values, found another: {error}."
        ) from error


def open_run(run_dir: Path, description: Mapping[str, Any], resume: bool) -> list[str]:
    """Writes `run_dir/config.json`, after checking that the folder is free or holds this run.

    Returns:
        What differs from the run so far and may, for the log.

    Raises:
        ValueError: another run is there, or this one and `resume` is False.
    """
    path = run_dir / "config.json"
    if not path.exists():
        if list_checkpoints(run_dir / "checkpoints"):
            raise ValueError(
                f"Expected {path} beside the checkpoints of a run, found none: "
                "restore it or choose another folder."
            )
        write_json(path, description)
        return []
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"Expected the config of a run in {path}, found no JSON ({error}): "
            "choose another folder."
        ) from error
    differences = _differences(before, description)
    fixed = [text for text, is_free in differences if not is_free]
    if fixed:
        raise ValueError(
            f"Expected a free folder or this run at {run_dir}, found a different run "
            f"({'; '.join(fixed[:5])}): choose another folder, or give its settings to resume it."
        )
    checkpoints = list_checkpoints(run_dir / "checkpoints")
    if checkpoints and not resume:
        raise ValueError(
            f"Expected a free folder at {run_dir}, found this run at step {checkpoints[-1][0]}: "
            "pass --resume to continue it, or choose another folder."
        )
    write_json(path, description)
    return [text for text, _ in differences]


def _differences(before: Any, now: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """("seed: 0 -> 1", whether it may differ) for every setting that does."""
    old, new = dict(_flatten(before)), dict(_flatten(now))
    found = []
    for name in sorted(old.keys() | new.keys()):
        if name in old and name in new and old[name] == new[name]:
            continue
        parts = name.split(".")
        in_stage = "stages" in parts and parts[-1] in _FREE_STAGE_FIELDS
        both = name in old and name in new
        is_free = name in _FREE_FIELDS or (in_stage and both)
        missing = "(none)"
        found.append((f"{name}: {old.get(name, missing)} -> {new.get(name, missing)}", is_free))
    return found


def _flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        pairs = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list):
        pairs = [(str(index), item) for index, item in enumerate(value)]
    else:
        return [(prefix, value)]
    joined = [(f"{prefix}.{key}" if prefix else key, item) for key, item in pairs]
    return [leaf for name, item in joined for leaf in _flatten(item, name)]
