"""What crosses the borders between parts: clips, batches, prompts, losses.

Conventions (ADR 0002): pixels are `b v t c h w` with the view axis always there, uint8 0..255
outside the models; masks are boolean with True = hidden; labels are integer maps; the ego frame is
x forward, y left, heading counter-clockwise, in metres, radians and seconds, at the rear axle.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Clip:
    """One training sample: a window of one episode, or independent images side by side.

    Exactly one of `frames` (pixels) and `tokens` (codes of a tokenizer) may be missing.
    """

    frames: UInt8[Tensor, "v t c h w"] | None = None
    tokens: Int[Tensor, "v t gh gw"] | None = None
    reference_tokens: Int[Tensor, "v t gh gw"] | None = None
    """Codes of the same clip in another style, for stylization."""
    labels: UInt8[Tensor, "v t h w"] | None = None
    actions: Float[Tensor, "t a"] | None = None
    """Row t is the step *into* frame t; row 0 is the step into the first frame."""
    caption: str = ""
    fps: float = 1.0
    """Frames per second of this clip, after its frame stride."""
    is_image: bool = False
    """True: the `t` frames are independent images."""
    source: str = ""
    episode: int = 0
    start: int = 0
    """Index of the first frame within its episode."""


@dataclass(frozen=True)
class Batch:
    """Clips of one shape, all videos or all images."""

    frames: UInt8[Tensor, "b v t c h w"] | None = None
    tokens: Int[Tensor, "b v t gh gw"] | None = None
    reference_tokens: Int[Tensor, "b v t gh gw"] | None = None
    labels: UInt8[Tensor, "b v t h w"] | None = None
    actions: Float[Tensor, "b t a"] | None = None
    has_actions: Bool[Tensor, " b"] | None = None
    """Which rows of `actions` are real; the others are zeros."""
    captions: list[str] = field(default_factory=list)
    fps: Float[Tensor, " b"] | None = None
    is_image: bool = False

    def __len__(self) -> int:
        for value in (self.frames, self.tokens):
            if value is not None:
                return value.shape[0]
        raise ValueError("A batch needs frames or tokens, this one has neither.")

    def to(self, device: torch.device | str) -> Batch:
        """Moves every tensor to `device`."""
        moved: dict[str, Any] = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


def collate(clips: list[Clip]) -> Batch:
    """Stacks clips into a batch. Clips without actions get zeros and `has_actions` False.

    Raises:
        ValueError: clips of different shapes, or images mixed with videos.
    """
    if len({clip.is_image for clip in clips}) > 1:
        raise ValueError(
            "Expected a batch of only videos or only images, found both: "
            "mix them with MixtureSampler, which draws one source per batch."
        )

    def stack(name: str) -> Tensor | None:
        values = [getattr(clip, name) for clip in clips]
        if any(value is None for value in values):
            return None
        shapes = {tuple(value.shape) for value in values}
        if len(shapes) > 1:
            raise ValueError(
                f"Expected {name} of one shape in a batch, found {sorted(shapes)}: "
                "resize and crop the clips to one size and length."
            )
        return torch.stack(values)

    present = [clip.actions for clip in clips if clip.actions is not None]
    actions = has_actions = None
    if present:
        zeros = torch.zeros_like(present[0])
        actions = torch.stack([zeros if c.actions is None else c.actions for c in clips])
        has_actions = torch.tensor([c.actions is not None for c in clips])
    return Batch(
        frames=stack("frames"),
        tokens=stack("tokens"),
        reference_tokens=stack("reference_tokens"),
        labels=stack("labels"),
        actions=actions,
        has_actions=has_actions,
        captions=[clip.caption for clip in clips],
        fps=torch.tensor([clip.fps for clip in clips]),
        is_image=clips[0].is_image,
    )


@dataclass(frozen=True)
class Prompt:
    """What the user asks for. Both parts may be empty (WorldDreamer, section 3.2)."""

    text: list[str] | None = None
    actions: Float[Tensor, "b t a"] | None = None
    has_actions: Bool[Tensor, " b"] | None = None
    fps: Float[Tensor, " b"] | None = None


@dataclass(frozen=True)
class EgoState:
    """The ego vehicle at one moment, world frame: x, y in metres (y left), heading in radians
    counter-clockwise, speed in m/s, acceleration in m/s^2, yaw rate in rad/s."""

    x: float
    y: float
    heading: float
    speed: float
    acceleration: float = 0.0
    yaw_rate: float = 0.0


@dataclass(frozen=True)
class LossOutput:
    """A scalar to minimise and the named terms it is made of (detached, for the log)."""

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
