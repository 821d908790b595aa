"""Claims about NaN in a batch: training stops and says so, and no weight has seen it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reworld_material import micro_reworld, moving_drives

from maskworld.data.dataset import MemoryDataset
from maskworld.data.loader import make_loader
from maskworld.training.config import Stage
from maskworld.training.loop import train
from maskworld.types import Clip


def broken(clip: Clip, name: str) -> Clip:
    assert clip.plan is not None
    value = torch.full_like(getattr(clip.plan, name), torch.nan)
    return replace(clip, plan=replace(clip.plan, **{name: value}))


@pytest.mark.parametrize(
    ("stage", "name"), [("action", "trajectory"), ("action", "ego"), ("joint", "negative")]
)
def test_nan_in_a_plan_stops_training_before_a_weight_moves(
    stage: str, name: str, tmp_path: Path
) -> None:
    system = micro_reworld()
    before = {key: value.clone() for key, value in system.state_dict().items()}
    clips = [broken(clip, name) for clip in moving_drives(4)]

    def batches(row: Stage) -> Any:
        return make_loader([MemoryDataset(clips)], batch_size=row.batch_size, seed=0)

    rows = [Stage(stage, num_steps=2, batch_size=4, learning_rate=1e-3)]
    with pytest.raises((FloatingPointError, ValueError), match=r"NaN|finite"):
        train(system, rows, batches, tmp_path, seed=0, device="cpu", show_progress=False)
    after = system.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
