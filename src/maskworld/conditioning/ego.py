"""Ego status and navigation command as numbers for a network, or as words for a text encoder.

The released DriveLaW planner, on which ReWorld builds, feeds vx, vy, ax, ay and a one-hot of the
four commands to its action tower; its video tower hears of them only in the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

COMMANDS = ("left", "straight", "right", "unknown")
"""In the order of `PlanSample.command`, as NAVSIM's one-hot."""


class EgoEncoder(nn.Module):
    """Status and command as one vector per sample.

    Args:
        ego_dim: numbers of the status; vx, vy (m/s), ax, ay (m/s^2) are 4.
        num_commands: values that a command can have.
        dim: width of an embedding by a two-layer MLP; None: the bare numbers, `width` of them, for
            a network that embeds them itself, as `ActionDiT` does (DriveLaW).
        command: one_hot: beside the status; learned: an embedding added to the status's, needs
            `dim`; none: the network is not told.
        scale: what each number of the status is divided by; None: nothing, as in DriveLaW.
    """

    scale: Tensor

    def __init__(
        self,
        ego_dim: int = 4,
        num_commands: int = 4,
        dim: int | None = None,
        command: Literal["one_hot", "learned", "none"] = "one_hot",
        scale: Sequence[float | int] | None = None,
    ) -> None:
        super().__init__()
        if command not in ("one_hot", "learned", "none"):
            raise ValueError(f"Expected command one_hot, learned or none, found {command!r}.")
        if command == "learned" and dim is None:
            raise ValueError("Expected a dim for learned commands, found none: use one_hot.")
        scale = (1.0,) * ego_dim if scale is None else tuple(scale)
        if len(scale) != ego_dim or not all(value > 0 for value in scale):
            raise ValueError(
                f"Expected {ego_dim} scales above 0, one per number of the status, found {scale}."
            )
        self.num_commands = num_commands
        self.command = command
        num_features = ego_dim + (num_commands if command == "one_hot" else 0)
        self.width = num_features if dim is None else dim
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32), persistent=False)
        self.mlp: nn.Module = nn.Identity()
        if dim is not None:
            self.mlp = nn.Sequential(nn.Linear(num_features, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.embedding = None
        if command == "learned" and dim is not None:
            self.embedding = nn.Embedding(num_commands, dim)
        # What a dropped condition becomes. Bare numbers learn nothing: zeros, which no one-hot is.
        self.null: Tensor
        if dim is None:
            self.register_buffer("null", torch.zeros(self.width), persistent=False)
        else:
            self.null = nn.Parameter(torch.zeros(dim))

    def forward(
        self,
        ego: Float[Tensor, "b e"],
        command: Int[Tensor, " b"] | None = None,
        is_dropped: Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b d"]:
        """One vector per sample.

        Args:
            command: required unless the encoder's `command` is none.
            is_dropped: samples that get the null vector, learned where there is a `dim`, zeros
                where not (see `guidance.drop_conditions`).

        Raises:
            ValueError: another number of status numbers, NaN, a missing or unknown command.
        """
        if ego.shape[-1] != len(self.scale):
            raise ValueError(
                f"Expected {len(self.scale)} status numbers, found {ego.shape[-1]}: set ego_dim."
            )
        if not bool(ego.isfinite().all()):
            raise ValueError("Expected a finite ego status, found NaN or infinity.")
        features = (ego / self.scale).to(self.null.dtype)
        if self.command != "none":
            command = self._checked(command)
        if self.command == "one_hot" and command is not None:
            one_hot = F.one_hot(command.long(), self.num_commands)
            features = torch.cat([features, one_hot.to(features.dtype)], dim=-1)
        encoded = self.mlp(features)
        if self.embedding is not None:
            encoded = encoded + self.embedding(command)
        if is_dropped is None:
            return encoded
        return torch.where(is_dropped[:, None], self.null, encoded)

    def _checked(self, command: Tensor | None) -> Tensor:
        if command is None:
            raise ValueError(
                "Expected a command per sample, found none: pass it, or build the encoder with "
                "command none."
            )
        known = (command >= 0) & (command < self.num_commands)
        if not bool(known.all()):
            raise ValueError(
                f"Expected commands from 0 to {self.num_commands - 1}, found "
                f"{sorted(set(command[~known].tolist()))}: unknown directions have a number too "
                f"({', '.join(f'{i} {name}' for i, name in enumerate(COMMANDS))})."
            )
        return command


def describe_ego(
    ego: Float[Tensor, " 4"] | Sequence[float | int], command: int, numbers: bool = True
) -> str:
    """Status and command in words, to append to a caption; for towers that only read text.

    DriveLaW tells its video tower about the ego in this way; wording and thresholds are ours.

    Args:
        ego: vx, vy (m/s), ax, ay (m/s^2); y is left.
        numbers: also speed and acceleration in digits.

    Raises:
        ValueError: not four finite numbers, or an unknown command.
    """
    values = [float(value) for value in ego]
    if len(values) != 4 or not all(map(math.isfinite, values)):
        raise ValueError(f"Expected four finite numbers vx, vy, ax, ay, found {values}.")
    if not 0 <= command < len(COMMANDS):
        raise ValueError(
            f"Expected a command from 0 to 3 ({', '.join(COMMANDS)}), found {command}."
        )
    vx, vy, ax, ay = values
    speed = math.hypot(vx, vy)
    pace = _phrase(
        speed, (0.5, "standing still"), (5.0, "driving slowly"), (13.0, "driving at city speed"),
        otherwise="driving fast",
    )  # fmt: skip
    if vx < -0.5:
        pace = "reversing"
    change = _phrase(
        ax, (-2.5, "braking hard"), (-0.5, "slowing down"), (0.5, "keeping its speed"),
        otherwise="speeding up",
    )  # fmt: skip
    bend = _phrase(
        ay, (-0.7, "bending right"), (0.7, "holding its course"), otherwise="bending left"
    )
    route = ("turn left", "go straight", "turn right", "go an unknown way")[command]
    digits = f" ({speed:.1f} m/s, {ax:+.1f} m/s2 ahead, {ay:+.1f} m/s2 to the left)"
    motion = f"The ego car is {pace}, {change} and {bend}"
    return f"{motion}{digits if numbers else ''}; its route says to {route}."


def _phrase(value: float, *limits: tuple[float, str], otherwise: str) -> str:
    """The words of the first limit above `value`."""
    return next((words for limit, words in limits if value < limit), otherwise)
