"""The user's data as batches of every training stage: each may have windows of its own size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from maskworld.data.dataset import ImageDataset
from maskworld.data.loader import make_loader
from maskworld.data.sources.tar_shards import TarShardStream
from maskworld.recipes.open import Dataset
from maskworld.training.config import Stage
from maskworld.training.distributed import derive_seed


@dataclass(frozen=True)
class Windows:
    """What a stage cuts out of recordings."""

    num_frames: int
    size: tuple[int, int]
    """Height, width."""
    has_experts: bool = False
    """Only windows in which an expert drove, with its plan."""
    are_images: bool = False
    """Independent single frames instead of windows."""


OpenDataset = Callable[[Any, Windows], Any]
"""A source and windows -> its dataset; None = the source has nothing for them."""


class StageData:
    """Datasets by window, mixed.

    Args:
        windows: of the dreams that are drawn, and of stages that do not say.
        windows_of: of a stage.
        weights: one per source, or none.
    """

    def __init__(
        self,
        sources: Sequence[Any],
        windows: Windows,
        open_one: OpenDataset,
        *,
        windows_of: Callable[[Stage], Windows] | None = None,
        weights: Sequence[float] = (),
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        self.windows, self._sources, self._open_one = windows, list(sources), open_one
        self._windows_of = windows_of or (lambda stage: windows_of_stage(stage, windows))
        self._weights, self._seed, self._num_workers = list(weights), seed, num_workers
        self._opened: dict[Windows, tuple[list[Dataset], list[float] | None]] = {}

    def datasets(self, windows: Windows | None = None) -> list[Dataset]:
        """Those that have such windows; may be none."""
        return self._open(windows or self.windows)[0]

    def datasets_of(self, stage: Stage) -> list[Dataset]:
        """What a stage trains on."""
        return self.datasets(self._windows_of(stage))

    def batches(self, stage: Stage) -> Any:
        """Endless batches of a stage, of this process."""
        datasets, weights = self._open(self._windows_of(stage))
        return make_loader(
            datasets,
            weights,
            batch_size=stage.batch_size,
            seed=derive_seed(self._seed, 0, f"data/{stage.name}") % 2**32,
            num_workers=self._num_workers,
        )

    def first(self, num_clips: int, purpose: str) -> Any:
        """Batches that are the same in all processes, besides those of training."""
        datasets, weights = self._open(self.windows)
        seed = derive_seed(self._seed, 0, purpose) % 2**32
        return make_loader(datasets, weights, batch_size=num_clips, seed=seed, rank=0, world_size=1)

    def _open(self, windows: Windows) -> tuple[list[Dataset], list[float] | None]:
        if windows not in self._opened:
            found = [self._open_one(source, windows) for source in self._sources]
            weights = [w for w, dataset in zip(self._weights, found) if dataset is not None]
            datasets = [dataset for dataset in found if dataset is not None]
            self._opened[windows] = (datasets, weights or None)
        return self._opened[windows]


def windows_of_stage(stage: Stage, default: Windows) -> Windows:
    """A stage's own window and frame size, where its row has them."""
    return Windows(stage.num_frames or default.num_frames, stage.frame_size or default.size)


def describe(dataset: Dataset) -> str:
    """One line on what is trained on."""
    if isinstance(dataset, TarShardStream):
        return f"{dataset.name}: {len(dataset.shards)} tar shards"
    if isinstance(dataset, ImageDataset):
        return f"{dataset.source.name}: {len(dataset)} samples of {dataset.num_images} images"
    return str(dataset)
