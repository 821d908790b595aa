"""What a long dream has so far: its rounds, kept beside the video until it is whole.

    dream.mp4.rounds/command.json       what the dream depends on
    dream.mp4.rounds/round-00003.npz    frames of that round, and where the next begins

A stopped dream goes on from its last round to the same video, bit for bit. One round is in memory
at a time.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from maskworld.data.storage import atomic_path, remove, write_json

COMMAND_FILE = "command.json"


@dataclass(frozen=True)
class Round:
    """What one round added, and all that the next needs."""

    frames: UInt8[Tensor, "v t c h w"]
    latents: Float[Tensor, "1 v k d gh gw"]
    """Of the last frames, which the next round is given."""
    num_done: int
    """Frames of the video up to here."""
    generator: UInt8[Tensor, " s"]
    """State of the generator after this round."""


class RolloutFolder:
    """The rounds of one dream.

    Args:
        out: the video that will be written.
        command: what the dream depends on, as plain values.

    Raises:
        ValueError: rounds of another command are there; names what differs.
    """

    def __init__(self, out: Path, command: Mapping[str, Any]) -> None:
        self.folder = out.with_name(out.name + ".rounds")
        self._command = json.loads(json.dumps(command))
        if (self.folder / COMMAND_FILE).is_file():
            self._check()

    def __len__(self) -> int:
        return len(self._paths())

    @property
    def num_done(self) -> int:
        """Frames that are there."""
        return self._read(self._paths()[-1]).num_done if len(self) else 0

    def rounds(self) -> Iterator[Round]:
        """All rounds in order.

        Raises:
            ValueError: a damaged one; names it.
        """
        return map(self._read, self._paths())

    def add(self, one: Round) -> None:
        """Writes a round, whole or not at all."""
        if not (self.folder / COMMAND_FILE).is_file():
            write_json(self.folder / COMMAND_FILE, self._command)
        path = self.folder / f"round-{len(self):05d}.npz"
        with atomic_path(path, what="a round of the dream") as temporary:
            np.savez(
                temporary,
                frames=one.frames.cpu().numpy(),
                latents=one.latents.cpu().numpy(),
                num_done=np.array(one.num_done),
                generator=one.generator.cpu().numpy(),
            )

    def clear(self) -> None:
        """Removes it, once the video is written."""
        remove(self.folder)

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("round-*.npz")) if self.folder.is_dir() else []

    def _read(self, path: Path) -> Round:
        try:
            with np.load(path, allow_pickle=False) as found:
                return Round(
                    torch.from_numpy(found["frames"]),
                    torch.from_numpy(found["latents"]),
                    int(found["num_done"]),
                    torch.from_numpy(found["generator"]),
                )
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"Expected a round of a dream in {path}, found a damaged file ({error}): remove "
                f"{self.folder} to begin anew."
            ) from error

    def _check(self) -> None:
        path = self.folder / COMMAND_FILE
        try:
            began: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"Expected the settings of a dream in {path}, found a damaged file: remove "
                f"{self.folder} to begin anew."
            ) from error
        differing = [
            key
            for key in dict.fromkeys([*self._command, *began])
            if self._command.get(key) != began.get(key)
        ]
        if differing:
            told = ", ".join(
                f"{key} was {began.get(key)}, is {self._command.get(key)}" for key in differing
            )
            raise ValueError(
                f"Expected the command that began the dream in {self.folder}, found another "
                f"({told}): give the same one to go on, another --out, or remove the folder to "
                "begin anew."
            )
