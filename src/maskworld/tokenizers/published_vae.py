"""A published VAE in diffusers' layout: found, loaded on first use, frozen, never saved with ours.

Its weights are the user's: they are read from a folder, stay there, and never become part of a
checkpoint or release. Only safetensors are read.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskworld.nn.weights_io import load_state_tensors, read_safetensors
from maskworld.tokenizers.frames import PixelObjective
from maskworld.types import LossOutput

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
INDEX_NAME = "diffusion_pytorch_model.safetensors.index.json"


class VAEKind(NamedTuple):
    """A class of diffusers, and what a message says of it."""

    class_name: str
    words: str
    """"published video VAE"."""
    remedy: str
    """Where its folder comes from."""


class PublishedVAE(nn.Module, ABC):
    """What frozen VAEs share. The network moves with `.to()`, but is no part of `parameters()` and
    `state_dict()`."""

    kind: VAEKind
    channels: int
    _loaded: Any
    _moves: list[Callable[[Tensor], Tensor]]

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["_loaded"] = None  # beside the registered modules
        self.__dict__["_moves"] = []  # casts and moves asked for before that

    @property
    def model(self) -> Any:
        """The diffusers model, loaded on first use.

        Raises:
            ValueError: no path, nothing usable there, or latents of another shape.
        """
        if self._loaded is None:
            model = self._load()
            for move in self._moves:
                model._apply(move)
            self.__dict__["_loaded"] = model
            self._when_loaded()
        return self._loaded

    def reconstruction_loss(
        self,
        frames: Float[Tensor, "n t c h w"],
        generator: torch.Generator,
        objective: PixelObjective | None = None,
    ) -> LossOutput:
        """Always raises ValueError: the published VAE is frozen."""
        raise ValueError(
            "Expected a tokenizer that trains, found the published VAE, which stays frozen: "
            "skip the tokenizer stage, or train a CausalVAE."
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Empty: frozen."""
        return []

    @abstractmethod
    def _load(self) -> Any:
        """The diffusers model, checked against the config."""

    def _when_loaded(self) -> None:
        """What remains to be set on a loaded model."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PublishedVAE:
        if self._loaded is None:
            self._moves.append(fn)
        else:
            self._loaded._apply(fn, recurse)
        return super()._apply(fn, recurse)


def read_vae_config(path: str | Path, kind: VAEKind) -> tuple[Path, dict[str, Any]]:
    """The VAE's own folder at `path` and what its config.json says.

    Raises:
        ValueError: no such folder, no config, a config of something else.
    """
    folder = Path(path).expanduser()
    name = kind.class_name
    found = next((f for f in (folder, folder / "vae") if _names(f / CONFIG_NAME, name)), None)
    if found is None:
        what = "no such folder" if not folder.is_dir() else _describe(folder / CONFIG_NAME)
        raise ValueError(
            f"Expected the folder of an {name} ({CONFIG_NAME} beside {WEIGHTS_NAME}, or a "
            f"pipeline with a folder vae) at {folder}, found {what}: {kind.remedy}."
        )
    return found, json.loads((found / CONFIG_NAME).read_text(encoding="utf-8"))


def load_vae(path: str | Path, kind: VAEKind) -> Any:
    """The frozen diffusers model in a folder, in the dtype of its file. Reads only safetensors.

    Raises:
        ValueError: diffusers is missing, the folder is not one, weights are damaged or do not fit.
    """
    folder, values = read_vae_config(path, kind)
    try:
        import diffusers
    except ImportError as error:
        raise ValueError(
            f"Expected diffusers (0.32 or newer) for the {kind.words}, found none: "
            "pip install 'maskworld[pretrained]'."
        ) from error
    tensors = _read_weights(folder)
    with torch.device("meta"):
        model = getattr(diffusers, kind.class_name).from_config(values)
    dtype = next(iter(tensors.values())).dtype
    nn.Module.to(model, dtype)  # diffusers' own warns of modules to keep in float32; it has none
    model.to_empty(device="cpu")
    load_state_tensors(model, tensors, str(folder))
    return model.requires_grad_(False).eval()


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of one file, or of the files that an index names."""
    if (folder / INDEX_NAME).is_file():
        index = json.loads((folder / INDEX_NAME).read_text(encoding="utf-8"))
        names = sorted({Path(name).name for name in index["weight_map"].values()})
        return {k: v for name in names for k, v in read_safetensors(folder / name).items()}
    if not (folder / WEIGHTS_NAME).is_file():
        others = sorted(f.name for f in folder.iterdir() if f.suffix in (".bin", ".pt", ".ckpt"))
        found = f"{', '.join(others)}, which could run code when opened" if others else "none"
        raise ValueError(
            f"Expected {WEIGHTS_NAME} in {folder}, found {found}: download the safetensors file."
        )
    return read_safetensors(folder / WEIGHTS_NAME)


def _names(path: Path, class_name: str) -> bool:
    return path.is_file() and _class_name(path) == class_name


def _class_name(path: Path) -> str | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"Expected JSON in {path}, found a damaged file ({error}): copy or download it again."
        ) from error
    return values.get("_class_name") if isinstance(values, dict) else None


def _describe(path: Path) -> str:
    if not path.is_file():
        return f"no {CONFIG_NAME} of one"
    return f"the config of {_class_name(path) or 'something else'}"
