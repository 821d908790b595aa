"""How an ablation's cells train: a recipe's rows, from the newest checkpoint on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from maskworld.data.dataset import MemoryDataset
from maskworld.data.loader import make_loader
from maskworld.training.config import Stage
from maskworld.training.loop import OnSample, train
from maskworld.types import Clip


def run_stages(
    system: Any,
    stages: Sequence[Stage],
    clips: Sequence[Clip],
    folder: Path,
    seed: int,
    record: Mapping[str, Any],
    on_sample: OnSample | None = None,
) -> dict[str, float]:
    """Trains, from the newest checkpoint where there is one; drops the checkpoints. Returns the
    mean of every term of the loss over the last fifth of the log."""
    train(
        system,
        stages,
        lambda stage: make_loader(
            [MemoryDataset(list(clips))], [1.0], batch_size=stage.batch_size, seed=seed
        ),
        folder / "run",
        seed=seed,
        device="cpu",
        resume=True,
        config=record,
        on_sample=on_sample,
        keep_checkpoints=1,
        fall_back=True,
        show_progress=False,
    )
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    tail = lines[-max(1, len(lines) // 5) :]
    names = [name for name in tail[-1] if name.startswith("loss/")]
    return {name[5:]: float(np.mean([line[name] for line in tail])) for name in names}


def stages_of(recipe: Any, kind: str, num_samples: int = 0) -> list[Stage]:
    """The recipe's rows of a stage, with checkpoints between lines of the log, so that a resumed
    run logs the same.

    Args:
        num_samples: how often `on_sample` is called over all rows.
    """
    rows = [stage for stage in recipe.stages if stage.name.split("-")[0] == kind]
    total = sum(stage.num_steps for stage in rows)
    every = max(1, total // num_samples) if num_samples else 0
    found = []
    for stage in rows:
        quarter = max(1, stage.num_steps // 4)
        log = min(stage.log_every, quarter)
        save = quarter // log * log
        found.append(replace(stage, log_every=log, save_every=save, sample_every=every))
    return found
