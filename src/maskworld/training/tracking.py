"""Where a run's numbers go: metrics.jsonl and TensorBoard always, wandb or trackio if asked."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from maskworld.data.storage import write_text

TrackerName = Literal["none", "wandb", "trackio"]


@runtime_checkable
class Tracker(Protocol):
    """Takes scalars by name, at a step."""

    def log(self, step: int, stage: str, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonlTracker:
    """One JSON object per line. On resume the lines after the checkpoint's step are dropped."""

    def __init__(self, path: Path, start_step: int = 0) -> None:
        if path.exists():
            write_text(path, "".join(_lines_until(path, start_step)))
        self._file = path.open("a", encoding="utf-8")

    def log(self, step: int, stage: str, values: Mapping[str, float]) -> None:
        row = {k: v if math.isfinite(v) else None for k, v in values.items()}  # JSON has no NaN
        self._file.write(json.dumps({"step": step, "stage": stage, **row}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _lines_until(path: Path, last_step: int) -> list[str]:
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            step = json.loads(line)["step"]
        except (json.JSONDecodeError, KeyError, TypeError):
            continue  # the last line of a process that was killed while writing it
        if step <= last_step:
            kept.append(line + "\n")
    return kept


class TensorBoardTracker:
    """Event files under `folder`."""

    def __init__(self, folder: Path, start_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = start_step + 1 if start_step else None
        self._writer = SummaryWriter(str(folder), purge_step=purge)

    def log(self, step: int, stage: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{stage}/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


class ServiceTracker:
    """wandb or trackio, whichever module is given; both have `init`, `log` and `finish`."""

    def __init__(self, module: Any, run_dir: Path, config: Mapping[str, Any]) -> None:
        self._module = module
        module.init(project="maskworld", name=run_dir.name, config=dict(config))

    def log(self, step: int, stage: str, values: Mapping[str, float]) -> None:
        self._module.log({f"{stage}/{k}": v for k, v in values.items()}, step=step)

    def close(self) -> None:
        self._module.finish()


class Trackers:
    """Several trackers as one."""

    def __init__(self, trackers: list[Tracker]) -> None:
        self._trackers = trackers

    def log(self, step: int, stage: str, values: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(step, stage, values)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()


def check_tracker(name: TrackerName) -> None:
    """Checks that a named service can be used, before any work is done.

    Raises:
        ValueError: unknown, or not installed.
    """
    if name not in ("none", "wandb", "trackio"):
        raise ValueError(f"Expected tracker none, wandb or trackio, found {name!r}.")
    if name != "none" and importlib.util.find_spec(name) is None:
        raise ValueError(
            f"Expected the package {name} for tracker {name!r}, found it not installed: "
            f"pip install {name}, or use --tracker none (TensorBoard is always written)."
        )


def open_trackers(
    run_dir: Path, start_step: int, name: TrackerName, config: Mapping[str, Any]
) -> Trackers:
    """metrics.jsonl and TensorBoard in `run_dir`, and the named service."""
    check_tracker(name)
    trackers: list[Tracker] = [
        JsonlTracker(run_dir / "metrics.jsonl", start_step),
        TensorBoardTracker(run_dir / "tensorboard", start_step),
    ]
    if name != "none":
        trackers.append(ServiceTracker(importlib.import_module(name), run_dir, config))
    return Trackers(trackers)
