"""Ctrl-C and SIGTERM end a run between two steps, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any


class TrainingInterrupted(KeyboardInterrupt):
    """A run was stopped by the user or the machine, at a step border.

    A KeyboardInterrupt, so that nothing takes the half-trained system for a trained one.
    """

    def __init__(self, step: int, checkpoint: Path | None) -> None:
        where = f"saved in {checkpoint}" if checkpoint is not None else "nothing was saved"
        super().__init__(f"Training stopped after step {step}; {where}. Continue with --resume.")
        self.step = step
        self.checkpoint = checkpoint


class StopSignals:
    """Takes SIGINT and SIGTERM while the block runs.

    The first one only sets `requested`; a second Ctrl-C raises KeyboardInterrupt at once. Outside
    the main thread Python delivers no signals, and the block changes nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
