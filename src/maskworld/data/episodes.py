"""Episodes and sources in memory, and the small cache that readers of files share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from jaxtyping import Float, UInt8

if TYPE_CHECKING:
    from maskworld.interfaces import ClipStream as ClipStream
    from maskworld.interfaces import Episode as Episode
    from maskworld.interfaces import Source as Source
else:  # the type checker proves the protocols; at run time they would read files to be checked
    ClipStream = Episode = Source = Any

Key = TypeVar("Key")
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Keeps the `size` values used last; `close` is called on those that leave."""

    def __init__(self, size: int, close: Callable[[Value], None] | None = None) -> None:
        self._size, self._close = size, close
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        if key not in self._values:
            self._values[key] = make()
            while len(self._values) > self._size:
                _, old = self._values.popitem(last=False)
                if self._close is not None:
                    self._close(old)
        self._values.move_to_end(key)
        return self._values[key]


@dataclass
class ArrayEpisode:
    """An episode whose frames are in memory."""

    frames: UInt8[np.ndarray, "v t c h w"]
    fps: float | int = 10.0
    caption: str = ""
    actions: Float[np.ndarray, "t a"] | None = None
    labels: UInt8[np.ndarray, "v t h w"] | None = None
    segments: Sequence[tuple[int, int]] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    state: Float[np.ndarray, "t s"] | None = None
    """Proprioception of a robot."""
    num_frames: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_frames = self.frames.shape[1]
        self.segments = self.segments or [(0, self.num_frames)]

    def read(self, indices: Sequence[int]) -> UInt8[np.ndarray, "v n c h w"]:
        return self.frames[:, list(indices)]

    def read_labels(self, indices: Sequence[int]) -> UInt8[np.ndarray, "v n h w"] | None:
        return None if self.labels is None else self.labels[:, list(indices)]


class ListSource:
    """Episodes of any kind in a list, as a Source."""

    def __init__(self, episodes: Sequence[Episode], name: str = "memory") -> None:
        self._episodes, self.name = list(episodes), name

    def __len__(self) -> int:
        return len(self._episodes)

    def episode(self, index: int) -> Episode:
        return self._episodes[index]


class SubsetSource:
    """Some episodes of another source, renumbered from 0."""

    def __init__(self, source: Source, episodes: Sequence[int], name: str | None = None) -> None:
        self._source, self.indices = source, list(episodes)
        self.name = name or source.name

    def __len__(self) -> int:
        return len(self.indices)

    def episode(self, index: int) -> Episode:
        return self._source.episode(self.indices[index])
