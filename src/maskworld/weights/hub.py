"""Opens a release whose system is not known beforehand."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

import torch

from maskworld.nn.release import CONFIG_FILE, ReleaseMixin, find_release, read_release_config


def load_release(
    path_or_id: Path | str,
    systems: Mapping[str, type[ReleaseMixin]],
    *,
    device: torch.device | str = "cpu",
    revision: str | None = None,
) -> ReleaseMixin:
    """The system in a folder or a hub repository, in eval mode.

    Args:
        systems: the classes to choose from, by the name in config.json.

    Raises:
        ValueError: nothing is there, an unknown system, a damaged file, weights that do not fit.
    """
    folder = find_release(path_or_id, revision)
    name = read_release_config(folder)["system"]
    if name not in systems:
        close = difflib.get_close_matches(str(name), systems, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(
            f"Expected a system among {sorted(systems)} in {folder / CONFIG_FILE}, found "
            f"{name!r}{hint}: it may need another version of maskworld."
        )
    return systems[name].from_pretrained(folder, device=device)
