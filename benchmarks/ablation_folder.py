"""Folders of ablations: cells that are done or not, what all of them were made with, pages that get
their tables.

A cell is a folder. It is done once it has `cell.json`; until then checkpoints lie in `run/`, from
which it goes on. `model/` holds the weights that later cells start from.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskworld.data.storage import remove, write_json, write_text


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def is_done(folder: Path) -> bool:
    """Whether a cell has been finished."""
    return (folder / "cell.json").is_file()


def read_cell(folder: Path) -> dict[str, Any]:
    """What a finished cell measured."""
    return json.loads((folder / "cell.json").read_text(encoding="utf-8"))


def finish(folder: Path, system: Any, found: dict[str, Any]) -> None:
    """Keeps weights (of a system, unless None) and numbers, numbers last; drops the checkpoints."""
    if system is not None:
        system.save_pretrained(folder / "model")
    write_json(folder / "cell.json", found)
    remove(folder / "run" / "checkpoints")


def check_folder(out: Path, told: Mapping[str, Any], commit: str | None) -> None:
    """Writes down in `ablation.json` what the folder holds, or checks that it is the same.

    Args:
        told: what all cells are made with: recipe, system, stages, data.
        commit: of the code, where git cannot tell.

    Raises:
        ValueError: cells made with something else.
    """
    told = json.loads(json.dumps(told))
    file = out / "ablation.json"
    commits: list[str] = []
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        commits = before.pop("commits")
        if differing := [name for name in told if before.get(name) != told[name]]:
            raise ValueError(
                f"Expected the {', '.join(differing)} that the cells in {out} were made with, "
                "found others: take another --out."
            )
    commit = commit or commit_of_code()
    if commit not in commits:
        commits.append(commit)
    write_json(file, {**told, "commits": commits})


def commit_of_code() -> str:
    """The checked-out commit, with a + where files were changed since."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed else "")


def told(seeds: Sequence[int]) -> str:
    """Seeds as a list."""
    return " ".join(map(str, seeds))


def write_into(page: Path, tables: Mapping[str, str]) -> None:
    """Puts each table between its markers, `<!-- ablation-NAME:begin -->` and `:end -->`.

    Raises:
        ValueError: a page without a table's markers.
    """
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        begin, end = f"<!-- ablation-{name}:begin -->", f"<!-- ablation-{name}:end -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(
                f"Expected the markers {begin} and {end} in {page}, found none: add both lines "
                "where the table belongs."
            )
        before, rest = pattern.split(text, maxsplit=1)
        text = f"{before}{begin}\n\n{table}\n\n{end}{rest}"
    write_text(page, text)
