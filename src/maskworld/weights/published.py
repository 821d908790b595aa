"""Finding the files of a published transformer, and checking that they hold what is expected."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
_NUM_NAMED = 5


class Published(NamedTuple):
    """What a message calls a model, and how to get it."""

    name: str
    remedy: str


def find_weights(path: str | Path, what: Published) -> list[Path]:
    """The weight files: one, or the shards that an index lists.

    Args:
        path: the `transformer` folder, the pipeline's folder around it, or a file.

    Raises:
        ValueError: nothing there, or a damaged index.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    for folder in (path, path / "transformer"):
        index = folder / f"{WEIGHTS_NAME}.index.json"
        if (folder / WEIGHTS_NAME).is_file():
            return [folder / WEIGHTS_NAME]
        if index.is_file():
            return [folder / name for name in _read_index(index)]
    raise ValueError(
        f"Expected weights of an {what.name} at {path} (a safetensors file, or a folder with "
        f"{WEIGHTS_NAME} or transformer/{WEIGHTS_NAME}), found none: {what.remedy}."
    )


def check_tensors(
    model: nn.Module, tensors: Mapping[str, Tensor], origin: Path, what: Published
) -> None:
    """Compares names and shapes with the model's.

    Raises:
        ValueError: names the first tensors that are missing, unexpected or of another shape.
    """
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    shapes = [
        f"{name} (expected {shape}, found {found[name]})"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    problems = [
        f"{title}: {', '.join(names[:_NUM_NAMED])}"
        + (f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else "")
        for title, names in (
            ("missing", [name for name in expected if name not in found]),
            ("unexpected", [name for name in found if name not in expected]),
            ("shape", shapes),
        )
        if names
    ]
    if problems:
        raise ValueError(
            f"Expected the tensors of this {what.name} in {origin}, found others (in our "
            f"names). {'; '.join(problems)}. Give the config that belongs to the file."
        )


def _read_index(path: Path) -> list[str]:
    try:
        return sorted(set(json.loads(path.read_text())["weight_map"].values()))
    except (json.JSONDecodeError, KeyError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"Expected a safetensors index with a weight_map in {path}, found another or damaged "
            f"file ({error!r}): copy it again."
        ) from error
