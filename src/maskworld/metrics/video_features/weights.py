"""Weights that the user brings: read without running anything, named by their SHA-256.

Published files come as pickled state dicts (.pt, .pth), as safetensors, or as TorchScript programs.
A pickle is read with `weights_only`, a program by `torchscript.read_torchscript`: both give tensors
and run nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from maskworld.metrics.video_features.torchscript import is_torchscript, read_torchscript
from maskworld.nn.weights_io import load_state_tensors, read_safetensors

WRAPPERS = ("state_dict", "model", "model_state_dict")


@dataclass(frozen=True)
class Weights:
    """The tensors of one file."""

    path: Path
    sha256: str
    tensors: Mapping[str, Tensor]

    def load_into(self, network: nn.Module) -> None:
        """Copies the tensors into a network of the same names, all or none.

        Counters of batch normalisation (`num_batches_tracked`) may be missing: they do not count in
        evaluation, and conversions from TensorFlow have none.

        Raises:
            ValueError: missing, unexpected or differently shaped tensors, by name.
        """
        tensors = dict(self.tensors)
        for name, value in network.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensors.setdefault(name, value)
        load_state_tensors(network, tensors, origin=str(self.path))


def read_weights(path: Path | str) -> Weights:
    """The tensors of a state dict, a safetensors file or a TorchScript archive.

    Raises:
        ValueError: nothing there, a damaged file, or a pickle that holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"Expected a file of weights at {path}, found none.")
    if path.suffix == ".safetensors":
        tensors = read_safetensors(path)
    elif is_torchscript(path):
        tensors = read_torchscript(path)
    else:
        tensors = _read_pickled(path)
    return Weights(path, sha256_of(path), {_plain(name): value for name, value in tensors.items()})


def sha256_of(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its reader met: many types
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise ValueError(
            f"Expected a state dict of tensors at {path}, found what cannot be read without "
            f"running it ({reason}): save state_dict() of the module on "
            "a machine that may run the file."
        ) from error
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(
        isinstance(value, Tensor) for value in content.values()
    ):
        raise ValueError(f"Expected a state dict of tensors at {path}, found {type(content)}.")
    return dict(content)


def _plain(name: str) -> str:
    """Without the prefix that DataParallel adds."""
    return name.removeprefix("module.")
