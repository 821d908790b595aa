"""Which parameters train, by their names, and which of them decay."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import nn


def named_groups(
    module: nn.Module, prefixes: Sequence[str], without: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Optimizer groups of the parameters whose names begin with one of `prefixes`, except those
    that begin with one of `without`. No weight decay on vectors."""
    named = [
        parameter
        for name, parameter in module.named_parameters()
        if name.startswith(tuple(prefixes)) and not name.startswith(tuple(without))
    ]
    return [
        {"params": [p for p in named if p.ndim >= 2]},
        {"params": [p for p in named if p.ndim < 2], "weight_decay": 0.0},
    ]


def beyond_blocks(network: str, last: int, num_layers: int) -> tuple[str, ...]:
    """Names of what a transformer called `network` holds after block `last` (from 1): its later
    blocks and its head, which the states up to there do not depend on."""
    return (f"{network}.head.", *(f"{network}.blocks.{i}." for i in range(last, num_layers)))


def check_layers(name: str, layers: Collection[int], depth: int) -> None:
    """Raises ValueError unless all layers, counted from 1, are there."""
    if any(not 1 <= layer <= depth for layer in layers):
        raise ValueError(f"Expected {name} from 1 to {depth}, found {tuple(layers)}.")
