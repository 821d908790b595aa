"""Claims about maskworld.samplers.rollout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from maskworld.samplers.rollout import roll_out


class CountingDream:
    """Continues a clip whose frames are numbered, and keeps what it was asked."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.calls: list[tuple[int, list[int]]] = []

    def __call__(self, given: Tensor, start: int) -> Tensor:
        self.calls.append((start, given[0, :, 0, 0].tolist()))
        rest = given[:, -1:] + torch.arange(1, self.window - given.shape[1] + 1).view(1, -1, 1, 1)
        return torch.cat([given, rest], dim=1)


def frames(first: int, count: int) -> Tensor:
    return torch.arange(first, first + count).view(1, count, 1, 1).expand(2, count, 2, 3)


@pytest.mark.parametrize("context", [1, 2, 3, 8, 9, 12])
@pytest.mark.parametrize("overlap", [1, 4, 7])
@pytest.mark.parametrize("num_frames", [8, 20, 37])
def test_the_video_continues_the_context_frame_by_frame(
    context: int, overlap: int, num_frames: int
) -> None:
    dream = CountingDream(8)
    video = roll_out(dream, frames(0, context), num_frames, 8, overlap)
    assert torch.equal(video, frames(0, num_frames))
    for start, given in dream.calls:
        assert given == list(range(start, start + len(given))), "start is the first given frame"
        assert len(given) < 8


def test_every_window_but_the_first_is_given_the_overlap() -> None:
    dream = CountingDream(8)
    roll_out(dream, frames(0, 1), 20, 8, 3)
    assert dream.calls == [(0, [0]), (5, [5, 6, 7]), (10, [10, 11, 12]), (15, [15, 16, 17])]


def test_enough_context_needs_no_dream() -> None:
    dream = CountingDream(4)
    assert torch.equal(roll_out(dream, frames(0, 6), 5, 4, 2), frames(0, 5))
    assert dream.calls == []


@pytest.mark.parametrize("overlap", [0, 4, 5, -1])
def test_windows_that_cannot_advance_are_refused(overlap: int) -> None:
    with pytest.raises(ValueError, match="overlap"):
        roll_out(CountingDream(4), frames(0, 1), 9, 4, overlap)
