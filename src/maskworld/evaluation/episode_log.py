"""Results of episodes on disk, a line each, with the protocol they were made under.

A folder holds `protocol.json` and `episodes.jsonl`. A line is written whole as soon as its episode
ends; a later run of the same protocol reads them and only runs what is missing. Lines of another
protocol are never mixed in.
"""

from __future__ import annotations

import fcntl
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from maskworld.data.storage import write_json, write_text
from maskworld.evaluation.robot_episodes import EpisodeKey, EpisodeResult

PROTOCOL, EPISODES, LOCK = "protocol.json", "episodes.jsonl", ".lock"


class EpisodeLog:
    """Opens the log in a folder, or begins it; `close` it, so that another may write there.

    Args:
        protocol: what the results mean. Keys under "policies" may be added later, all else is
            fixed by the first run.

    Raises:
        ValueError: the folder holds results of another protocol, or a line that is none; another
            process writes there.
    """

    def __init__(self, folder: Path | str, protocol: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._open(protocol)
        except BlockingIOError as error:
            self.close()
            raise ValueError(
                f"Another evaluation writes to {self.folder}: wait for it, or choose another."
            ) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> EpisodeLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets others write."""
        self._lock.close()

    def _open(self, protocol: Mapping[str, Any]) -> None:
        given = json.loads(json.dumps(protocol, allow_nan=False))
        path = self.folder / PROTOCOL
        if path.exists():
            kept = json.loads(path.read_text(encoding="utf-8"))
            check_same(kept, given, f"{self.folder} and this run")
            given["policies"] = {**kept.get("policies", {}), **given.get("policies", {})}
        self.protocol = given
        write_json(path, given)
        self.results = _read(self.folder / EPISODES)

    def add(self, result: EpisodeResult) -> None:
        """Writes one line; it is on the disk when this returns."""
        self.results[result.key] = result
        line = json.dumps({**asdict(result.key), **_details(result)}) + "\n"
        with (self.folder / EPISODES).open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def read_log(folder: Path | str) -> tuple[dict[str, Any], list[EpisodeResult]]:
    """The protocol and results of a folder.

    Raises:
        ValueError: the folder holds none.
    """
    path = Path(folder) / PROTOCOL
    if not path.exists():
        raise ValueError(f"Expected results of an evaluation in {folder}, found no {PROTOCOL}.")
    protocol = json.loads(path.read_text(encoding="utf-8"))
    return protocol, list(_read(Path(folder) / EPISODES).values())


def check_same(first: Mapping[str, Any], second: Mapping[str, Any], what: str) -> None:
    """Raises ValueError unless two protocols are the same, but for policies that only one has:
    their scores would not compare. Names what differs."""
    faults = _differences(
        {key: value for key, value in first.items() if key != "policies"},
        {key: value for key, value in second.items() if key != "policies"},
    )
    ours, theirs = first.get("policies", {}), second.get("policies", {})
    for name in sorted(ours.keys() & theirs.keys()):
        faults += _differences(ours[name], theirs[name], f"policies/{name}/")
    if faults:
        raise ValueError(
            f"Expected one protocol in {what}, found other values: {'; '.join(faults)}. Scores of "
            "different protocols do not compare: evaluate into another folder."
        )


def _differences(first: Any, second: Any, where: str = "") -> list[str]:
    if isinstance(first, dict) and isinstance(second, dict):
        found = []
        for key in sorted(first.keys() | second.keys()):
            inner = (first.get(key), second.get(key))
            found += _differences(*inner, f"{where}{key}" + ("/" if _nested(*inner) else ""))
        return found
    return [] if first == second else [f"{where.rstrip('/')} is {first!r} and {second!r}"]


def _nested(first: Any, second: Any) -> bool:
    return isinstance(first, dict) and isinstance(second, dict)


def _details(result: EpisodeResult) -> dict[str, Any]:
    return {
        "ending": result.ending,
        "steps": result.steps,
        "num_clipped": result.num_clipped,
        "success": result.success,
    }


def _read(path: Path) -> dict[EpisodeKey, EpisodeResult]:
    """Results by key. A last line that a crash cut off is dropped, said and run again."""
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    whole, _, torn = text.rpartition("\n")
    if torn:
        warnings.warn(f"{path}: the last line is cut off; its episode runs again.", stacklevel=3)
        write_text(path, whole + "\n" if whole else "")
    found: dict[EpisodeKey, EpisodeResult] = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            row = json.loads(line)
            key = EpisodeKey(row["policy"], row["perturbation"], row["task"], row["seed"])
            found[key] = EpisodeResult(key, row["ending"], row["steps"], row["num_clipped"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: expected the result of an episode, found {line[:80]!r}: "
                "mend or remove the line; its episode runs again."
            ) from error
    return found
