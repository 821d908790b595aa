from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from mask_world_model_material import CHUNK, FEW, FUTURE, MEMORY, SIZE, micro_config, micro_model

from maskworld.data.control import ControlClips, ControlWindow, MemoryPick
from maskworld.data.transforms import ResizeCrop
from maskworld.evaluation.mask_rollouts import (
    copy_last_mask,
    dream_masks,
    score_mask_rollouts,
)
from maskworld.evaluation.results import Results

NAMES = ("background", "robot", "object", "goal")


def moving(starts: list[int], frames: int) -> torch.Tensor:
    """A robot that moves two pixels a frame over a thing that stands still."""
    maps = torch.zeros(len(starts), 1, frames, 24, 24, dtype=torch.uint8)
    for i, start in enumerate(starts):
        for t in range(frames):
            maps[i, 0, t, 16:20, 16:20] = 2
            maps[i, 0, t, 4:10, start + 2 * t : start + 2 * t + 5] = 1
    return maps


def scored(model: torch.Tensor, real: torch.Tensor, now: torch.Tensor) -> dict:
    results = Results("toy", {})
    groups = np.arange(len(real)) // 2
    others = {"reconstruction": real}
    score_mask_rollouts(results, real, model, now, NAMES, groups, 0, others=others)
    return results.to_dict()


def test_copying_falls_with_the_horizon_and_a_perfect_dream_does_not() -> None:
    whole = moving([1, 2, 3, 4], 5)
    real, now = whole[:, :, 1:], whole[:, :, 0]
    content = scored(real, real, now)
    metrics = content["metrics"]
    assert metrics["mask_iou"]["per_horizon"]["model"] == [1.0] * 4
    copied = metrics["mask_iou"]["per_horizon"]["copy_last"]
    assert copied == sorted(copied, reverse=True)
    # A box of 5 columns, moved by 2 t: 5 - 2 t columns of 5 + 2 t are shared.
    by_hand = [max(0, 5 - 2 * t) / min(10, 5 + 2 * t) for t in range(1, 5)]
    assert metrics["mask_iou/robot"]["per_horizon"]["copy_last"] == pytest.approx(by_hand)
    assert metrics["mask_iou/object"]["copy_last"] == 1.0
    assert metrics["mask_boundary_f"]["model"] == 1.0
    assert metrics["mask_boundary_f"]["copy_last"] < 1
    assert "mask_iou/goal" not in metrics
    assert content["protocol"]["mask_rollouts"]["absent"] == ["goal"]
    assert content["protocol"]["mask_rollouts"]["steps_better_than_copy"] == [1, 2, 3, 4]


def test_a_model_that_copies_gains_nothing_and_wins_no_step() -> None:
    whole = moving([1, 2, 3, 4], 4)
    real, now = whole[:, :, 1:], whole[:, :, 0]
    content = scored(copy_last_mask(now, 3), real, now)
    gain = content["metrics"]["mask_iou_gain/copy_last"]
    assert gain["model"] == 0
    assert gain["interval"] == [0, 0]
    assert content["protocol"]["mask_rollouts"]["steps_better_than_copy"] == []
    assert content["metrics"]["mask_iou"]["reconstruction"] == 1.0


def test_the_gain_over_copying_has_a_paired_interval() -> None:
    whole = moving([1, 2, 3, 4], 4)
    real, now = whole[:, :, 1:], whole[:, :, 0]
    halfway = real.clone()
    halfway[::2] = copy_last_mask(now, 3)[::2]
    gain = scored(halfway, real, now)["metrics"]["mask_iou_gain/copy_last"]
    low, high = gain["interval"]
    assert 0 < low <= gain["model"] <= high
    assert gain["per_horizon"]["model"][2] > gain["per_horizon"]["model"][0] > 0


@dataclass
class Sliding:
    """An episode whose maps hold, at frame t, t pixels of robot in their first row; twice the size
    of the model's frames."""

    caption: str = "push"
    num_frames: int = 14
    fps: float = 5.0
    segments: tuple[tuple[int, int], ...] = ((0, 14),)
    actions: np.ndarray | None = None

    def read(self, indices: Sequence[int]) -> np.ndarray:
        return np.zeros((2, len(indices), 3, 2 * SIZE[0], 2 * SIZE[1]), np.uint8)

    def read_labels(self, indices: Sequence[int]) -> np.ndarray:
        maps = np.zeros((2, len(indices), 2 * SIZE[0], 2 * SIZE[1]), np.uint8)
        for i, frame in enumerate(indices):
            maps[:, i, :2, : 2 * frame] = 1
        return maps


@dataclass
class Two:
    name: str = "sliding"

    def __len__(self) -> int:
        return 2

    def episode(self, index: int) -> Sliding:
        return Sliding()


def test_dreams_stand_beside_the_masks_that_came_and_the_mask_of_now() -> None:
    system = micro_model()
    window = ControlWindow(MemoryPick(MEMORY, "every", stride=1), FUTURE, 1, CHUNK)
    clips = ControlClips(
        Two(),
        window,
        transforms=[ResizeCrop(SIZE)],
        reads_control=False,
        reads_labels=True,
        allows_padding=False,
    )
    chosen = [0, 3, len(clips) - 1]
    found = dream_masks(system, clips, chosen, 0, sampling=FEW, batch_size=2)
    nows = [clips.moment(i).start for i in chosen]
    assert found.now[:, 0, 0].sum(-1).tolist() == nows
    assert found.real[:, 1, :, 0].sum(-1).tolist() == [
        [now + k for k in range(1, FUTURE + 1)] for now in nows
    ]
    assert found.model.shape == found.real.shape == found.reconstruction.shape
    assert found.episodes.tolist() == [0, 0, 1]
    assert found.names == ("background", "robot", "object")
    again = dream_masks(system, clips, chosen, 0, sampling=FEW, batch_size=2)
    assert torch.equal(found.model, again.model)
    rgb = micro_model(micro_config(target="rgb"))
    with pytest.raises(ValueError, match="'rgb'"):
        dream_masks(rgb, clips, chosen, 0)
