"""Endless batches from several datasets and streams, that go on exactly where they were saved."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset

from maskworld.data.dataset import ClipsByNumber
from maskworld.data.episodes import ClipStream
from maskworld.data.mixture import MixtureSampler, Sample
from maskworld.types import Batch, Clip, collate


class ClipLoader:
    """Iterates over batches without end; made by `make_loader`.

    `state_dict` is the position after the last batch that came out, whatever the workers have
    prepared since; after `load_state_dict` (before or after the first batch) the same batches
    follow as would have, bit for bit, with the same number of workers or another. Streams alone
    need the same number of workers, since each worker reads shards of its own.
    """

    def __init__(
        self,
        datasets: Sequence[ClipsByNumber | ClipStream],
        sampler: MixtureSampler,
        **settings: Any,
    ) -> None:
        self._datasets, self._sampler, self._settings = list(datasets), sampler, settings
        self._clips: Iterator[Batch] | None = None
        self._streams: dict[int, _StreamBatches] = {}
        self._stream_states: dict[int, Any] = {}

    def __iter__(self) -> ClipLoader:
        return self

    def __next__(self) -> Batch:
        number = self._sampler.next_dataset()
        if self._sampler.lengths[number] is None:
            batch = next(self._stream(number))
        else:
            if self._clips is None:
                self._clips = iter(self._open_clips())
            batch = next(self._clips)
        self._sampler.next_batch()
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The position, as plain numbers, strings, lists and dicts."""
        open_states = {number: stream.state_dict() for number, stream in self._streams.items()}
        states = self._stream_states | open_states
        return {
            "sampler": self._sampler.state_dict(),
            "streams": {str(number): state for number, state in states.items()},
        }

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Raises ValueError if the state belongs to other datasets or settings."""
        self._sampler.load_state_dict(state["sampler"])
        self.close()
        self._stream_states = {int(number): s for number, s in state["streams"].items()}

    def close(self) -> None:
        """Ends the workers; the next batch starts new ones where the last batch left off."""
        self._stream_states |= {n: stream.state_dict() for n, stream in self._streams.items()}
        self._clips, self._streams = None, {}

    def _open_clips(self) -> Any:
        batches = _ClipBatches(copy.deepcopy(self._sampler))
        return _open_loader(_NumberedClips(self._datasets), batch_sampler=batches, **self._settings)

    def _stream(self, number: int) -> _StreamBatches:
        if number not in self._streams:
            size = self._sampler.batch_size
            stream = _StreamBatches(self._datasets[number], size, self._settings)
            if number in self._stream_states:
                stream.load_state_dict(self._stream_states.pop(number))
            self._streams[number] = stream
        return self._streams[number]


def make_loader(
    datasets: Sequence[ClipsByNumber | ClipStream],
    weights: Sequence[float | int] | None = None,
    *,
    batch_size: int,
    seed: int = 0,
    num_workers: int = 0,
    prefetch_factor: int = 2,
    rank: int | None = None,
    world_size: int | None = None,
) -> ClipLoader:
    """Endless, resumable batches; each batch comes from one dataset, drawn by its weight.

    Datasets may differ in length, size and kind (videos, images, tokens): every batch is of one.

    Args:
        datasets: with clips by number (ClipDataset, ImageDataset, MemoryDataset), or streams of
            clips (torch IterableDataset, which must share themselves among ranks and workers; with
            `state_dict` and `load_state_dict` they resume without reading again).
        weights: how often each is drawn, in any unit; None = equally.
        batch_size: clips per batch and process.
        num_workers: processes that load; 0 = this one. Batches are the same with any number.
        prefetch_factor: batches that each worker prepares ahead.
        rank, world_size: of this process; None = as torch.distributed says.
    """
    known_rank, known_size = _this_rank()
    lengths: list[int | None] = []
    for number, dataset in enumerate(datasets):
        if isinstance(dataset, IterableDataset):
            lengths.append(None)
        elif isinstance(dataset, ClipsByNumber):
            lengths.append(len(dataset))
        else:
            raise ValueError(
                f"Dataset {number} is a {type(dataset).__name__}: expected one with len() and "
                "get(index, seed), such as ClipDataset, or a torch IterableDataset of clips."
            )
    sampler = MixtureSampler(
        lengths,
        weights,
        batch_size,
        seed=seed,
        rank=known_rank if rank is None else rank,
        world_size=known_size if world_size is None else world_size,
    )
    return ClipLoader(
        datasets,
        sampler,
        seed=seed,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor,
    )


class _NumberedClips(Dataset[Clip]):
    """All datasets behind one `__getitem__` that takes what the sampler drew."""

    def __init__(self, datasets: Sequence[Any]) -> None:
        self._datasets = list(datasets)

    def __getitem__(self, sample: Sample) -> Clip:
        return self._datasets[sample.dataset].get(sample.clip, sample.seed)


class _ClipBatches:
    """The sampler's batches, less those of streams."""

    def __init__(self, sampler: MixtureSampler) -> None:
        self._sampler = sampler

    def __iter__(self) -> Iterator[list[Sample]]:
        return (batch for batch in self._sampler if batch)


class _StreamBatches:
    """Batches of one stream, started again at its end."""

    def __init__(self, stream: Any, batch_size: int, settings: dict[str, Any]) -> None:
        self._loader = _open_loader(stream, batch_size=batch_size, drop_last=True, **settings)
        self._batches: Iterator[Batch] | None = None

    def __next__(self) -> Batch:
        for _ in range(2):
            if self._batches is None:
                self._batches = iter(self._loader)
            batch = next(self._batches, None)
            if batch is not None:
                return batch
            self._batches = None
        raise ValueError("A stream gave less than one batch of clips: use a smaller batch_size.")

    def state_dict(self) -> dict[str, Any]:
        return self._loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._loader.load_state_dict(state)
        self._batches = None


def _open_loader(
    dataset: Any, *, seed: int, num_workers: int, prefetch_factor: int, **settings: Any
) -> Any:
    from torchdata.stateful_dataloader import StatefulDataLoader

    with warnings.catch_warnings():
        # torchdata 0.11 calls what torch 2.13 has deprecated; nobody here can act on it.
        warnings.filterwarnings("ignore", message=".*set_vital")
        return StatefulDataLoader(
            dataset,
            collate_fn=collate,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor if num_workers else None,
            worker_init_fn=_start_worker,
            # Otherwise the workers' seed would be drawn from the global generator.
            generator=torch.Generator().manual_seed(seed),
            **settings,
        )


def _start_worker(_: int) -> None:
    """OpenCV's threads do not survive a fork, and workers are parallel enough."""
    import cv2

    cv2.setNumThreads(0)


def _this_rank() -> tuple[int, int]:
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
