"""Noise of a batch, each row from a generator of its own.

Models draw a batch's noise at once from one generator, so row 2's depends on who is in row 1. For
episodes that must act the same alone and beside others, the draw is made row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def draws_by_row(generators: Sequence[torch.Generator]) -> Iterator[torch.Generator]:
    """Yields one generator that stands for all: whoever draws a batch with it within the block, by
    `torch.randn` or `torch.rand`, gets each row's numbers from that row's generator.

    The first axis of a draw is the batch, or the batch times something (views, samples), batch
    first. With a single generator that one is yielded and nothing is different.

    Raises:
        ValueError: a draw of another kind, or of a shape that cannot be shared out.
    """
    if len(generators) == 1:
        yield generators[0]
        return
    stand_in = torch.Generator(generators[0].device)
    with _ByRow(stand_in, generators):
        yield stand_in


class _ByRow(TorchFunctionMode):
    def __init__(self, stand_in: torch.Generator, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self._stand_in, self._generators = stand_in, generators

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("generator") is not self._stand_in:
            return func(*args, **kwargs)
        count = len(self._generators)
        shape = args[0] if len(args) == 1 and not isinstance(args[0], int) else args
        if func not in (torch.randn, torch.rand) or not shape or shape[0] % count:
            raise ValueError(
                f"Expected torch.randn or torch.rand of a multiple of {count} rows, found "
                f"{getattr(func, '__name__', func)} of {tuple(shape)}: run one episode at a time."
            )
        part = (shape[0] // count, *shape[1:])
        return torch.cat([func(part, **{**kwargs, "generator": g}) for g in self._generators])
