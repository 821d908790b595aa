"""What a person sees while it trains: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any

_SHOWN = {"loss": "loss", "clips/s": "clips_per_second", "tokens/s": "tokens_per_second"}


class Progress:
    """One stage's progress: loss, throughput, time left.

    Args:
        shown: False in all processes but the first, and where the caller wants silence.
    """

    def __init__(self, name: str, num_steps: int, start_step: int, shown: bool = True) -> None:
        self._name, self._num_steps, self._shown = name, num_steps, shown
        self._start_step, self._start = start_step, time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if self._shown and sys.stderr.isatty():
            self._bar = _rich_bar()
            self._task = self._bar.add_task(
                self._name, total=self._num_steps, completed=self._start_step, numbers=""
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, step: int) -> None:
        """Moves the bar to `step` steps done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Shows `values` after `step` steps done."""
        if not self._shown:
            return
        numbers = "  ".join(
            f"{title} {_short(values[name])}" for title, name in _SHOWN.items() if name in values
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=step, numbers=numbers)
            return
        done = max(1, step - self._start_step)
        left = (time.monotonic() - self._start) / done * (self._num_steps - step)
        eta = timedelta(seconds=round(left))
        self.say(f"{self._name} {step}/{self._num_steps}  {numbers}  ETA {eta}")

    def say(self, text: str) -> None:
        """A line of its own."""
        if not self._shown:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)


def _short(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:.0f}k"
    return f"{value:.4g}"


def _rich_bar() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    return Bar(*columns, console=Console(stderr=True), transient=False)
