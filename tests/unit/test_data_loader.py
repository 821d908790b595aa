"""Claims about maskworld.data.mixture and maskworld.data.loader."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset, get_worker_info

from maskworld.data.dataset import ImageDataset, MemoryDataset
from maskworld.data.episodes import ArrayEpisode, ListSource
from maskworld.data.loader import ClipLoader, make_loader
from maskworld.data.mixture import MixtureSampler, Sample
from maskworld.data.transforms import ColorJitter
from maskworld.training.checkpoint import pack, unpack
from maskworld.types import Batch, Clip


def videos(count: int, value: int, length: int = 3) -> MemoryDataset:
    frames = torch.full((1, length, 3, 4, 6), value, dtype=torch.uint8)
    clips = [Clip(frames=frames.clone(), episode=i, caption=f"{value}/{i}") for i in range(count)]
    return MemoryDataset(clips, [ColorJitter(0.5, 0.0, 0.0)])


def images() -> ImageDataset:
    frames = np.arange(20, dtype=np.uint8).repeat(3 * 5 * 5).reshape(1, 20, 3, 5, 5)
    return ImageDataset(ListSource([ArrayEpisode(frames)]), num_images=4)


class Counting(IterableDataset[Clip]):
    """0, 1, 2, ... shared among workers; knows where it is."""

    def __init__(self) -> None:
        self.position = 0

    def __iter__(self) -> Iterator[Clip]:
        worker = get_worker_info()
        count, mine = (worker.num_workers, worker.id) if worker else (1, 0)
        while True:
            self.position += 1
            number = (self.position - 1) * count + mine
            tokens = torch.full((1, 1, 1, 1), number)
            yield Clip(tokens=tokens, caption=f"stream/{number}")

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def assert_same(a: Batch, b: Batch) -> None:
    assert (a.captions, a.is_image) == (b.captions, b.is_image)
    for x, y in ((a.frames, b.frames), (a.tokens, b.tokens)):
        assert (x is None) == (y is None)
        if x is not None and y is not None:
            assert torch.equal(x, y)


def open_loader(num_workers: int) -> ClipLoader:
    datasets = [videos(7, 100), videos(5, 50, length=2), images(), Counting()]
    return make_loader(datasets, [2, 1, 1, 1], batch_size=2, seed=5, num_workers=num_workers)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_loader_goes_on_bit_for_bit(num_workers: int, tmp_path: Any) -> None:
    whole = open_loader(num_workers)
    expected, states = [], []
    for _ in range(16):
        states.append(copy.deepcopy(whole.state_dict()))
        expected.append(next(whole))
    kinds = {(b.is_image, None if b.frames is None else b.frames.shape[2]) for b in expected}
    assert kinds == {(False, 3), (False, 2), (True, 4), (False, None)}
    for start in (1, 9):
        path = tmp_path / f"{start}.safetensors"
        path.write_bytes(pack(states[start]))  # survives a checkpoint
        resumed = open_loader(num_workers)
        if start == 9:
            next(resumed)  # loading also works after the first batch
        resumed.load_state_dict(unpack(path))
        for batch in expected[start:]:
            assert_same(next(resumed), batch)
        resumed.close()
    whole.close()


def test_the_number_of_workers_changes_nothing() -> None:
    datasets = [videos(7, 100), images()]
    loaders = [make_loader(datasets, batch_size=3, seed=1, num_workers=n) for n in (0, 1, 2)]
    for _ in range(8):
        first, *others = (next(loader) for loader in loaders)
        for other in others:
            assert_same(first, other)
    for loader in loaders:
        loader.close()


def test_closing_a_loader_does_not_lose_its_place() -> None:
    plain, closed = open_loader(0), open_loader(0)
    for _ in range(10):
        assert_same(next(plain), next(closed))
        closed.close()


def test_loading_does_not_touch_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    loader = open_loader(0)
    for _ in range(6):
        next(loader)
    assert torch.equal(before, torch.random.get_rng_state())


def test_batches_come_from_one_dataset_each_by_weight() -> None:
    sampler = MixtureSampler([10, 20, 30], [5, 3, 2], 4, seed=0)
    batches = list(itertools.islice(sampler, 2000))
    assert all(len({sample.dataset for sample in batch}) == 1 for batch in batches)
    counts = Counter(batch[0].dataset for batch in batches)
    for dataset, share in enumerate((0.5, 0.3, 0.2)):
        error = 4 * np.sqrt(share * (1 - share) / 2000)  # four standard errors
        assert abs(counts[dataset] / 2000 - share) < error
    zero = MixtureSampler([10, 20], [1, 0], 4)
    assert {batch[0].dataset for batch in itertools.islice(zero, 200)} == {0}


def test_every_clip_comes_once_per_epoch_in_another_order() -> None:
    sampler = MixtureSampler([11], batch_size=3, seed=2)
    samples = [s for batch in itertools.islice(sampler, 11) for s in batch]
    epochs = [[s.clip for s in samples[i : i + 11]] for i in (0, 11, 22)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert len({s.seed for s in samples}) == 33


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_batch_of_one_large_process(world_size: int) -> None:
    def open_sampler(batch_size: int, **place: int) -> MixtureSampler:
        return MixtureSampler([12, 30], [1, 2], batch_size, seed=9, **place)

    whole = open_sampler(2 * world_size)
    ranks = [open_sampler(2, rank=r, world_size=world_size) for r in range(world_size)]
    for _ in range(40):
        parts = [rank.next_batch() for rank in ranks]
        assert [s for part in parts for s in part] == whole.next_batch()
        assert len({s.dataset for part in parts for s in part}) == 1


def test_a_sampler_resumes_and_refuses_other_data() -> None:
    sampler = MixtureSampler([12, 30], [1, 2], 4, seed=9)
    list(itertools.islice(sampler, 17))
    resumed = MixtureSampler([12, 30], [1, 2], 4, seed=9)
    resumed.load_state_dict(sampler.state_dict())
    assert [resumed.next_batch() for _ in range(9)] == [sampler.next_batch() for _ in range(9)]
    with pytest.raises(ValueError, match=r"lengths was \[12, 30\], is \[12, 31\]"):
        MixtureSampler([12, 31], [1, 2], 4, seed=9).load_state_dict(sampler.state_dict())


def test_a_stream_has_no_numbers() -> None:
    sampler = MixtureSampler([None, 5], [1, 1], 2, seed=0)
    assert {tuple(b) == () for b in itertools.islice(sampler, 20)} == {True, False}
    assert isinstance(next(b for b in sampler if b)[0], Sample)


class Finite(Counting):
    def __iter__(self) -> Iterator[Clip]:
        return itertools.islice(super().__iter__(), 5)


def test_a_stream_that_ends_starts_again() -> None:
    loader = make_loader([Finite()], batch_size=2)
    assert len([next(loader) for _ in range(7)]) == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lengths": []}, "one weight per dataset"),
        ({"lengths": [3], "weights": [1, 2]}, "one weight per dataset"),
        ({"lengths": [3], "weights": [0]}, "not all 0"),
        ({"lengths": [0]}, "is empty"),
        ({"lengths": [3], "batch_size": 0}, "batch_size"),
        ({"lengths": [3], "rank": 2, "world_size": 2}, "rank"),
    ],
)
def test_settings_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixtureSampler(**arguments)


def test_clips_of_different_shapes_in_one_dataset_are_refused() -> None:
    clip = videos(1, 1).clips[0]
    assert clip.frames is not None
    mixed = MemoryDataset([clip, replace(clip, frames=clip.frames[:, :2])])
    with pytest.raises(ValueError, match="one shape"):
        next(make_loader([mixed], batch_size=2))


def test_what_is_no_dataset_is_refused_by_number() -> None:
    with pytest.raises(ValueError, match=r"Dataset 1 is a list.*get\(index, seed\)"):
        make_loader([videos(2, 1), [1, 2]], batch_size=2)
