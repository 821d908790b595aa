"""Claims about maskworld.data.dataset."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from maskworld.data.dataset import ClipDataset, ImageDataset, MemoryDataset, actions_into
from maskworld.data.episodes import ArrayEpisode, ListSource, SubsetSource
from maskworld.data.transforms import ResizeCrop
from maskworld.data.windows import ClipIndex
from maskworld.types import Clip


def numbered_episode(length: int, offset: int = 0) -> ArrayEpisode:
    """Every pixel, label and action tells its frame."""
    number = np.arange(length) + offset
    return ArrayEpisode(
        frames=np.broadcast_to(
            number[None, :, None, None, None].astype(np.uint8), (2, length, 3, 4, 6)
        ).copy(),
        labels=np.broadcast_to(
            number[None, :, None, None].astype(np.uint8), (2, length, 4, 6)
        ).copy(),
        actions=np.stack([number, -number], axis=1).astype(np.float32),
        caption=f"from {offset}",
        fps=12,
    )


class TokenEpisode(ArrayEpisode):
    def read_tokens(self, indices: list[int]) -> np.ndarray:
        return np.arange(self.num_frames)[None, indices, None, None]


def test_a_clip_is_its_window_of_the_episode() -> None:
    source = ListSource([numbered_episode(10), numbered_episode(9, offset=100)], "toy")
    dataset = ClipDataset(source, ClipIndex(source, 3, frame_stride=2, clip_stride=2))
    assert len(dataset) == 3 + 3
    clip = dataset[4]
    assert clip.frames is not None
    assert clip.labels is not None
    assert clip.frames.shape == (2, 3, 3, 4, 6)
    assert clip.frames[0, :, 0, 0, 0].tolist() == [102, 104, 106]
    assert clip.labels[1, :, 3, 5].tolist() == [102, 104, 106]
    assert (clip.caption, clip.fps, clip.source) == ("from 100", 6.0, "toy")
    assert (clip.episode, clip.start, clip.is_image) == (1, 2, False)
    with pytest.raises(IndexError):
        dataset[6]


def test_actions_of_skipped_frames_are_averaged_or_summed() -> None:
    actions = np.array([[1.0], [2], [4], [8], [16], [32], [64]], dtype=np.float32)
    assert actions_into(actions, [1, 4], 3)[:, 0].tolist() == pytest.approx([1.5, 28 / 3])
    assert actions_into(actions, [1, 4], 3, "sum")[:, 0].tolist() == [3, 28]
    assert actions_into(actions, [0, 1, 2], 1)[:, 0].tolist() == [1, 2, 4]


def test_nan_actions_name_their_frame() -> None:
    actions = np.zeros((6, 2), dtype=np.float32)
    actions[3, 1] = np.nan
    with pytest.raises(ValueError, match="frame 4 hold NaN"):
        actions_into(actions, [2, 4], 2)


def test_sources_of_tokens_give_clips_of_tokens() -> None:
    source = ListSource([TokenEpisode(np.zeros((1, 8, 3, 2, 2), np.uint8))])
    clip = ClipDataset(source, ClipIndex(source, 3))[2]
    assert clip.frames is None
    assert clip.tokens is not None
    assert clip.tokens.shape == (1, 3, 1, 1)
    assert clip.tokens.flatten().tolist() == [2, 3, 4]


def test_a_subset_keeps_its_episodes() -> None:
    source = ListSource([numbered_episode(5, offset=o) for o in (0, 50, 100)])
    subset = SubsetSource(source, [2, 0])
    assert [subset.episode(i).caption for i in range(len(subset))] == ["from 100", "from 0"]


def test_images_are_independent_frames_with_one_caption_line_each() -> None:
    source = ListSource([numbered_episode(20), numbered_episode(30, offset=100)])
    dataset = ImageDataset(source, num_images=16)
    assert len(dataset) == 3
    clip, again = dataset.get(1, seed=7), dataset.get(1, seed=7)
    assert clip.is_image
    assert clip.frames is not None
    assert again.frames is not None
    assert clip.labels is not None
    assert torch.equal(clip.frames, again.frames)
    numbers = clip.frames[0, :, 0, 0, 0]
    assert len(set(numbers.tolist())) == 16
    assert torch.equal(clip.labels[0, :, 0, 0], numbers)
    lines = clip.caption.split("\n")
    assert lines == ["from 100" if n >= 100 else "from 0" for n in numbers]
    other = dataset.get(1, seed=8).frames
    assert other is not None
    assert not torch.equal(other, clip.frames)


def test_images_are_drawn_from_the_given_ranges_only() -> None:
    source = ListSource([numbered_episode(20), numbered_episode(30, offset=100)])
    clip = ImageDataset(source, num_images=8, ranges={1: [(0, 3)]})[0]
    assert clip.frames is not None
    assert set(clip.frames.flatten().tolist()) <= {100, 101, 102}


def test_a_folder_of_images_of_any_size_becomes_one_size(tmp_path: Path) -> None:
    for number, size in ((1, (20, 30)), (2, (16, 16)), (10, (40, 24))):
        image = np.full((*size, 3), (0, 0, 20 * number), dtype=np.uint8)  # BGR: red
        cv2.imwrite(str(tmp_path / f"image_{number}.png"), image)
    (tmp_path / "image_2.txt").write_text("a red\nsquare\n")
    dataset = ImageDataset(tmp_path, num_images=3, transforms=[ResizeCrop((8, 8))])
    clip = dataset[0]
    assert clip.frames is not None
    assert clip.frames.shape == (1, 3, 3, 8, 8)
    assert sorted(clip.frames[0, :, 0, 0, 0].tolist()) == [20, 40, 200]
    assert clip.frames[0, :, 1:].sum() == 0
    assert sorted(clip.caption.split("\n")) == ["", "", "a red square"]
    assert [p.name for p in dataset.source.paths] == ["image_1.png", "image_2.png", "image_10.png"]
    with pytest.raises(ValueError, match="add ResizeCrop"):
        ImageDataset(tmp_path, num_images=3)[0]


def test_a_folder_without_images_and_a_damaged_image_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected images"):
        ImageDataset(tmp_path)
    with pytest.raises(ValueError, match="Expected images"):
        ImageDataset(tmp_path / "missing")
    (tmp_path / "bad.png").write_text("no image")
    with pytest.raises(ValueError, match=r"bad\.png.*cannot be decoded"):
        ImageDataset(tmp_path)[0]


def test_clips_in_memory_end_like_a_list() -> None:
    clips = [Clip(tokens=torch.full((1, 1, 1, 1), i)) for i in range(3)]
    assert [int(c.tokens.sum()) for c in MemoryDataset(clips) if c.tokens is not None] == [0, 1, 2]
    with pytest.raises(ValueError, match="at least one"):
        MemoryDataset([])
