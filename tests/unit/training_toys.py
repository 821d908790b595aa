"""A system and a loader small enough to train in milliseconds, with every kind of state."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskworld.training.config import Stage
from maskworld.training.loop import TrainResult, train
from maskworld.types import Batch, LossOutput


class ToySystem(nn.Module):
    """Regression with dropout (global RNG), noise (the generator), a buffer and two stages:
    "encoder" trains the encoder, "all" trains everything. `spare` trains but is never used, as
    temporal layers are in a batch of images."""

    def __init__(self, dropout: float = 0.1, noise: float = 0.1, dim: int = 6) -> None:
        super().__init__()
        init = torch.Generator().manual_seed(3)
        self.encoder = nn.Sequential(nn.Linear(4, dim), nn.Tanh(), nn.Dropout(dropout))
        self.head = nn.Linear(dim, 1)
        self.spare = nn.Parameter(torch.ones(2))
        self.noise = noise
        self.register_buffer("num_seen", torch.zeros((), dtype=torch.int64))
        self.num_seen: Tensor
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=init) * 0.3
        self.spare.data.fill_(1.0)

    def training_loss(self, batch: Batch, stage: str, generator: torch.Generator) -> LossOutput:
        x = batch.frames.flatten(1)[:, :4].to(self.head.weight.dtype) / 255
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        prediction = self.head(self.encoder(x + self.noise * noise)).squeeze(-1)
        error = (prediction - x.sum(1)).square().mean()
        self.num_seen += len(batch)
        return LossOutput(error, {"error": error.detach()})

    def parameter_groups(self, stage: str) -> list[dict[str, Any]]:
        if stage == "encoder":
            return [{"params": list(self.encoder.parameters())}]
        return [
            {"params": [*self.encoder.parameters(), self.spare]},
            {"params": list(self.head.parameters()), "lr": 0.02, "weight_decay": 0.0},
        ]

    def tokens_per_batch(self, batch: Batch) -> int:
        return 4 * len(batch)


class ToyBatches:
    """Endless random batches; `at(n)` is called before batch n (0-based) is given.

    Like torch's DataLoader it draws from the global RNG when it starts, so once more in a resumed
    run than in a straight one.
    """

    def __init__(
        self, batch_size: int, part: slice = slice(None), at: Callable[[int], None] | None = None
    ) -> None:
        self.batch_size, self.part, self.at = batch_size, part, at
        self.position = 0
        self.is_started = False

    def __next__(self) -> Batch:
        if self.at is not None:
            self.at(self.position)
        if not self.is_started:
            torch.rand(1)
            self.is_started = True
        draw = torch.Generator().manual_seed(100 + self.position)
        shape = (self.batch_size, 1, 1, 1, 2, 2)
        frames = torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
        self.position += 1
        return Batch(frames=frames[self.part])

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


STAGES = (
    Stage(
        "encoder", 7, 4, 0.05, schedule="linear", warmup_steps=2, accumulate=2, ema_decay=0.9,
        save_every=3, log_every=2,
    ),
    Stage("all", 6, 4, 0.03, ema_decay=0.95, grad_clip=0.5, save_every=4, log_every=3),
)  # fmt: skip


def run(
    folder: Path,
    system: nn.Module | None = None,
    stages: tuple[Stage, ...] = STAGES,
    at: Callable[[str, int], None] | None = None,
    **options: Any,
) -> tuple[nn.Module, TrainResult]:
    """Trains a toy; `at(stage, n)` is called before batch n of a stage."""
    system = system or ToySystem()

    def batches(stage: Stage) -> ToyBatches:
        return ToyBatches(stage.batch_size, at=None if at is None else lambda n: at(stage.name, n))

    options = {"seed": 0, "device": "cpu", "show_progress": False, **options}
    return system, train(system, stages, batches, folder, **options)


def kill_at(stage: str, batch: int, number: int = signal.SIGTERM) -> Callable[[str, int], None]:
    """A real signal to this process before a batch."""

    def at(name: str, position: int) -> None:
        if (name, position) == (stage, batch):
            os.kill(os.getpid(), number)

    return at


def one_stage(**changes: Any) -> tuple[Stage, ...]:
    """A single plain stage."""
    plain = Stage("all", 6, 4, 0.05, save_every=2, log_every=1)
    return (replace(plain, **changes),)
