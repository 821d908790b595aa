"""Claims about maskworld.data.windows."""

from __future__ import annotations

import numpy as np
import pytest

from maskworld.data.episodes import ArrayEpisode, ListSource
from maskworld.data.windows import ClipIndex, split_by_episode, split_by_time

SEGMENTS = [[(0, 20)], [(0, 7), (7, 30)], [(2, 5)], [(0, 12)]]


@pytest.fixture
def source() -> ListSource:
    episodes = [
        ArrayEpisode(
            np.zeros((1, s[-1][1], 3, 2, 2), dtype=np.uint8),
            segments=s,
            attributes={"world": i % 2},
        )
        for i, s in enumerate(SEGMENTS)
    ]
    return ListSource(episodes, "toy")


@pytest.mark.parametrize("num_frames", [1, 2, 5])
@pytest.mark.parametrize("frame_stride", [1, 3])
@pytest.mark.parametrize("clip_stride", [1, 4])
def test_windows_are_those_of_a_slow_enumeration(
    source: ListSource, num_frames: int, frame_stride: int, clip_stride: int
) -> None:
    expected = []
    for episode, segments in enumerate(SEGMENTS):
        for start, stop in segments:
            first = start
            while first + (num_frames - 1) * frame_stride < stop:
                expected.append([episode, *(first + k * frame_stride for k in range(num_frames))])
                first += clip_stride
    index = ClipIndex(source, num_frames, frame_stride, clip_stride)
    found = [[index[i].episode, *index.frames(i)] for i in range(len(index))]
    assert found == expected


def test_no_window_crosses_a_cut_or_the_split_in_time(source: ListSource) -> None:
    train, held = split_by_time(source, 0.25)
    used: dict[bool, set[tuple[int, int]]] = {}
    for is_held, ranges in ((False, train), (True, held)):
        index = ClipIndex(source, 3, ranges=ranges)
        used[is_held] = {(index[i].episode, f) for i in range(len(index)) for f in index.frames(i)}
        for i in range(len(index)):
            episode, frames = index[i].episode, index.frames(i)
            assert any(a <= frames[0] and frames[-1] < b for a, b in SEGMENTS[episode])
    assert not used[False] & used[True]
    assert {f for e, f in used[True] if e == 0} == set(range(15, 20))


def test_a_split_by_group_keeps_groups_whole_and_is_seeded(source: ListSource) -> None:
    train, held = split_by_episode(source, 0.5, seed=3, group=lambda e: e.attributes["world"])
    assert sorted([*train, *held]) == [0, 1, 2, 3]
    assert {i % 2 for i in train}.isdisjoint({i % 2 for i in held})
    assert (train, held) == split_by_episode(
        source, 0.5, seed=3, group=lambda e: e.attributes["world"]
    )
    _, one = split_by_episode(source, 0.01)
    assert len(one) == 1
    _, most = split_by_episode(source, 0.99)
    assert len(most) == 3


def test_a_source_too_short_names_the_longest_stretch_and_the_fix(source: ListSource) -> None:
    with pytest.raises(ValueError, match=r"spans 97 .* has 23.*frame stride of at most 1"):
        ClipIndex(source, 17, frame_stride=6)
    with pytest.raises(ValueError, match="at most 23 frames"):
        ClipIndex(source, 24)
    assert len(ClipIndex(source, 23)) == 1


def test_short_episodes_are_counted(source: ListSource) -> None:
    index = ClipIndex(source, 10)
    assert index.num_too_short == 1
    assert "1 too short" in str(index)


@pytest.mark.parametrize("bad", [{"num_frames": 0}, {"frame_stride": 0}, {"clip_stride": -1}])
def test_counts_below_one_are_refused(source: ListSource, bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ClipIndex(source, **({"num_frames": 4} | bad))


def test_a_single_episode_cannot_be_split_by_episode(source: ListSource) -> None:
    with pytest.raises(ValueError, match="split it in time"):
        split_by_episode(ListSource([source.episode(0)]), 0.5)
    with pytest.raises(ValueError, match="no episode"):
        ClipIndex(ListSource([], "empty"), 3)
