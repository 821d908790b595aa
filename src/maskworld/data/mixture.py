"""Which clips make which batch: several datasets by weight, one dataset per batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

_DRAW, _SHUFFLE, _SAMPLE = 0, 1, 2  # independent streams of one seed


class Sample(NamedTuple):
    """A clip to load: its dataset, its number there, and the seed of its transforms."""

    dataset: int
    clip: int
    seed: int


class MixtureSampler:
    """Endless batches, each of one dataset drawn by weight, so images and videos never mix.

    Every process draws the same dataset in the same step and takes its own part of the batch.
    Each dataset is shuffled anew every epoch, and each of its clips is seen once per epoch. All is
    a function of `seed` and the step: the number of loader workers does not matter.

    Args:
        lengths: clips per dataset; None for a stream, whose clips have no number (its batches are
            empty lists: the loader takes the next of the stream).
        weights: how often a batch comes from each dataset, in any unit.
        batch_size: clips per process.
        rank, world_size: this process, and how many there are.

    Raises:
        ValueError: settings that do not fit each other.
    """

    def __init__(
        self,
        lengths: Sequence[int | None],
        weights: Sequence[float | int] | None = None,
        batch_size: int = 1,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        weights = [1.0] * len(lengths) if weights is None else list(weights)
        total = float(sum(weights))
        if not lengths or len(weights) != len(lengths):
            raise ValueError(
                f"Expected one weight per dataset, got {len(weights)} for {len(lengths)} datasets."
            )
        if min(weights) < 0 or not np.isfinite(total) or total <= 0:
            raise ValueError(f"Expected weights of at least 0, not all 0, got {weights}.")
        for number, (length, weight) in enumerate(zip(lengths, weights)):
            if length == 0 and weight > 0:
                raise ValueError(f"Dataset {number} is empty: give it clips or leave it out.")
        if batch_size < 1 or not 0 <= rank < world_size:
            raise ValueError(
                f"Expected batch_size of at least 1 and rank below world_size, got batch_size "
                f"{batch_size}, rank {rank}, world_size {world_size}."
            )
        self.lengths, self.batch_size, self.seed = list(lengths), batch_size, seed
        self.rank, self.world_size = rank, world_size
        self._weights = [w / total for w in weights]
        bounds = np.cumsum(self._weights)
        self._bounds = bounds / bounds[-1]
        self.step = 0
        self._drawn = [0] * len(lengths)
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def __iter__(self) -> Iterator[list[Sample]]:
        """Goes on from where the sampler stands."""
        while True:
            yield self.next_batch()

    def next_dataset(self) -> int:
        """The dataset of the next batch, without moving on."""
        u = np.random.default_rng([self.seed, _DRAW, self.step]).random()
        return int(np.searchsorted(self._bounds, u, side="right"))

    def next_batch(self) -> list[Sample]:
        """The samples of this process in the next step; empty for a stream."""
        dataset = self.next_dataset()
        draw = self._drawn[dataset]
        self.step += 1
        self._drawn[dataset] += 1
        length = self.lengths[dataset]
        if length is None:
            return []
        first = (draw * self.world_size + self.rank) * self.batch_size
        return [self._sample(dataset, length, first + k) for k in range(self.batch_size)]

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, and the settings it belongs to, as plain numbers and lists."""
        return {"step": self.step, "drawn": list(self._drawn), "settings": self._settings()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state`. Raises ValueError if it belongs to other data or settings."""
        mine, theirs = self._settings(), state["settings"]
        differing = [k for k in mine if mine[k] != theirs.get(k)]
        if differing:
            raise ValueError(
                "The saved data position belongs to other settings: "
                + ", ".join(f"{k} was {theirs.get(k)}, is {mine[k]}" for k in differing)
                + ". Resume with the same data and batch size, or start a new run from the weights."
            )
        self.step, self._drawn = int(state["step"]), [int(n) for n in state["drawn"]]

    def _settings(self) -> dict[str, Any]:
        return {
            "lengths": [-1 if n is None else n for n in self.lengths],
            "weights": list(self._weights),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "world_size": self.world_size,
        }

    def _sample(self, dataset: int, length: int, position: int) -> Sample:
        epoch, place = divmod(position, length)
        index = int(self._order(dataset, length, epoch)[place])
        words = np.random.SeedSequence([self.seed, _SAMPLE, dataset, position])
        return Sample(dataset, index, int(words.generate_state(1, np.uint64)[0] >> 1))

    def _order(self, dataset: int, length: int, epoch: int) -> np.ndarray:
        kept = self._orders.get(dataset)
        if kept is None or kept[0] != epoch:
            rng = np.random.default_rng([self.seed, _SHUFFLE, dataset, epoch])
            kept = self._orders[dataset] = (epoch, rng.permutation(length))
        return kept[1]
