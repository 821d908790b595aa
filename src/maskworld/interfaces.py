"""The few protocols that parts agree on; nothing inherits from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from maskworld.types import Batch, Clip, LossOutput, Observation


@runtime_checkable
class DiscreteTokenizer(Protocol):
    """Frames to a grid of codes and back; each frame on its own.

    Pixels are float in [-1, 1] here, with any leading axes folded into one.
    """

    vocab_size: int
    stride: int

    def encode(self, frames: Float[Tensor, "n c h w"]) -> Int[Tensor, "n gh gw"]: ...

    def decode(self, tokens: Int[Tensor, "n gh gw"]) -> Float[Tensor, "n c h w"]: ...

    def decode_probabilities(
        self, probabilities: Float[Tensor, "n gh gw k"]
    ) -> Float[Tensor, "n c h w"]:
        """The frame of expected code embeddings: blurry, and the best guess in squared error."""
        ...


@runtime_checkable
class LatentTokenizer(Protocol):
    """Frames to normalised continuous latents and back, causal in time.

    Pixels are float in [-1, 1], views folded into the first axis. Frame 0 is a latent of its own,
    then every `temporal_stride` frames are one: `temporal_stride * k + 1` frames give k + 1.
    """

    channels: int
    stride: int
    temporal_stride: int

    def encode(self, frames: Float[Tensor, "n t c h w"]) -> Float[Tensor, "n tl d gh gw"]: ...

    def decode(self, latents: Float[Tensor, "n tl d gh gw"]) -> Float[Tensor, "n t c h w"]: ...


@runtime_checkable
class VelocityModel(Protocol):
    """Noisy latents and their times to a velocity; the conditions are bound inside.

    Guided models have the same call, so samplers know nothing of guidance.
    """

    def __call__(
        self, z: Float[Tensor, "b n d"], t: Float[Tensor, "b n"]
    ) -> Float[Tensor, "b n d"]: ...


@runtime_checkable
class Planner(Protocol):
    """Plans waypoints from what the ego sees: see `policies`."""

    def plan(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "b l 3"]:
        """Future waypoints (x, y, heading) in the ego frame; reads past frames, ego and command,
        never the futures that the batch may hold."""
        ...


@runtime_checkable
class Policy(Protocol):
    """Drives a robot, one action at a time: see `policies`."""

    def reset(self, seed: int) -> None:
        """Forgets the last episode; `seed` decides every draw of the next."""
        ...

    def act(self, observation: Observation) -> Float[np.ndarray, " a"]:
        """The next action, in the world's units; sees images and proprioception only."""
        ...


@runtime_checkable
class System(Protocol):
    """A world model as the trainer sees it."""

    def training_loss(self, batch: Batch, stage: str, generator: torch.Generator) -> LossOutput: ...

    def parameter_groups(self, stage: str) -> list[dict[str, Any]]:
        """Optimizer groups of the parameters that train in `stage`; all others are frozen."""
        ...


@runtime_checkable
class Episode(Protocol):
    """One recording. Frames are decoded only when read."""

    num_frames: int
    fps: float
    caption: str
    segments: Sequence[tuple[int, int]]
    """Half-open frame ranges without a scene cut; windows never cross their ends."""

    @property
    def actions(self) -> Float[np.ndarray, "t a"] | None:
        """Row t is the step into frame t."""
        ...

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """uint8 `v n c h w` of the frames at `indices`."""
        ...

    def read_labels(self, indices: Sequence[int]) -> np.ndarray | None:
        """uint8 `v n h w`, or None where the recording has no labels."""
        ...


@runtime_checkable
class Source(Protocol):
    """A set of episodes: a folder of videos, a LeRobot dataset, ..."""

    name: str

    def __len__(self) -> int: ...

    def episode(self, index: int) -> Episode: ...


@runtime_checkable
class ClipStream(Protocol):
    """Clips without random access (tar shards)."""

    def __iter__(self) -> Iterator[Clip]: ...
