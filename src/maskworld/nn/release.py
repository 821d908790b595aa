"""The release format of a system: a folder with config.json and model.safetensors.

config.json holds `{"system", "version", "config": {...}}`; `weights/hub.py` opens a folder whose
system is not known beforehand.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

import torch
from torch import nn

from maskworld import __version__
from maskworld.nn.config_io import config_from_json, config_to_json
from maskworld.nn.weights_io import load_state_tensors, read_safetensors, state_tensors

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


R = TypeVar("R", bound="ReleaseMixin")


class ReleaseMixin:
    """Gives a system `save_pretrained`, `from_pretrained` and `push_to_hub`.

    The system is an `nn.Module` with a class attribute `name` and a constructor `System(config)`
    whose annotation is its config dataclass, and keeps the config as `self.config`.
    """

    name: str
    config: Any

    def save_pretrained(self, folder: Path | str) -> Path:
        """Writes config.json and model.safetensors into `folder`, each whole or not at all.

        Raises:
            OSError: the disk is full.
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        document = {
            "system": self.name,
            "version": __version__,
            "config": config_to_json(self.config),
        }
        tensors = {name: t.contiguous() for name, t in state_tensors(cast(nn.Module, self)).items()}
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        _write_whole(
            folder,
            {
                WEIGHTS_FILE: lambda path: save_file(tensors, path, metadata={"format": "pt"}),
                CONFIG_FILE: lambda path: path.write_text(text, encoding="utf-8"),
            },
        )
        return folder

    @classmethod
    def from_pretrained(
        cls: type[R],
        path_or_id: Path | str,
        *,
        device: torch.device | str = "cpu",
        revision: str | None = None,
    ) -> R:
        """The system in a folder, or in a repository of the Hugging Face hub, in eval mode.

        Raises:
            ValueError: nothing is there, another system, a damaged file, weights that do not fit.
        """
        folder = find_release(path_or_id, revision)
        document = read_release_config(folder)
        if document["system"] != cls.name:
            raise ValueError(
                f"Expected a model of {cls.name} in {folder / CONFIG_FILE}, found one of "
                f"{document['system']}: open it with maskworld.load, which picks the system."
            )
        kind = get_type_hints(cls.__init__)["config"]
        config = config_from_json(kind, document["config"], f"config in {folder / CONFIG_FILE}")
        tensors = read_safetensors(folder / WEIGHTS_FILE)
        system = cast(Any, cls)(config)
        load_state_tensors(system, tensors, str(folder / WEIGHTS_FILE))
        return system.to(device).eval()

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, message: str = "Upload model"
    ) -> str:
        """Uploads the release to the Hugging Face hub, as the user who is logged in there.

        Returns:
            The address of the commit.
        """
        from huggingface_hub import HfApi

        api = HfApi()
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
        return str(commit)


def find_release(path_or_id: Path | str, revision: str | None = None) -> Path:
    """The folder of a release, downloaded from the Hugging Face hub where it is not a local one.

    Raises:
        ValueError: neither a folder nor a repository that can be reached.
    """
    folder = Path(path_or_id).expanduser()
    if folder.is_dir():
        return folder
    text = str(path_or_id)
    is_path = isinstance(path_or_id, Path) or text.startswith((".", "/", "~"))
    if folder.exists() or is_path or text.count("/") != 1:
        raise ValueError(
            f"Expected a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, or a hub id such as "
            f"name/model, found {text!r}, which is neither."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(text, revision=revision, allow_patterns=["*.json", WEIGHTS_FILE])
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ValueError(
            f"Expected a folder or a reachable repository of the Hugging Face hub, found no "
            f"folder {text!r} and no download ({error}): check the name and the network."
        ) from error


def read_release_config(folder: Path) -> dict[str, Any]:
    """What config.json of a release says: "system", "version", "config".

    Raises:
        ValueError: it is missing, damaged, or not of this format.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(
            f"Expected the model's config at {path}, found none: name the folder that "
            f"save_pretrained wrote ({CONFIG_FILE} beside {WEIGHTS_FILE})."
        )
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"Expected JSON in {path}, found a damaged file ({error}): copy or download it again."
        ) from error
    if not isinstance(document, dict) or not {"system", "config"} <= document.keys():
        raise ValueError(
            f"Expected the config of a maskworld model in {path}, found a file without the "
            "entries 'system' and 'config'."
        )
    return document


def _write_whole(folder: Path, writers: dict[str, Callable[[Path], object]]) -> None:
    """Writes files under temporary names and renames them once all are complete.

    (`data/storage.py` does this for the layers above; `nn` is below it.)
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = {name: folder / f".{name}.tmp-{secrets.token_hex(4)}" for name in writers}
    try:
        for name, write in writers.items():
            write(temporary[name])
            with temporary[name].open("rb") as file:
                os.fsync(file.fileno())
            temporary[name].chmod(0o644)  # safetensors writes for the owner alone
        for name, path in temporary.items():
            os.replace(path, folder / name)
    except BaseException as error:
        for path in temporary.values():
            path.unlink(missing_ok=True)
        is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if is_full or "no space left on device" in str(error).lower():
            raise OSError(
                errno.ENOSPC,
                f"No space left while writing the model to {folder}. Nothing partial was kept; "
                "free some space or save elsewhere.",
            ) from error
        raise
