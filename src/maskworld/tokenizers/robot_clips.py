"""A robot's clips as latents: remembered RGB frames each alone, the future as masks or RGB.

Nothing is learnt here; a tokenizer and a palette are lent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from maskworld.interfaces import LatentTokenizer
from maskworld.tokenizers.image_latents import decode_images, encode_images
from maskworld.tokenizers.latent import decode_views, encode_views
from maskworld.tokenizers.palette import Palette, away_from_edges
from maskworld.types import Batch


@runtime_checkable
class ClipSettings(Protocol):
    """What a system's config says about its clips."""

    @property
    def target(self) -> Literal["mask", "rgb"]:
        """What the future is shown as."""
        ...

    @property
    def num_views(self) -> int: ...

    @property
    def num_memory(self) -> int:
        """Remembered frames; the last is now."""
        ...

    @property
    def future_frames(self) -> int:
        """Pixel frames after now."""
        ...

    @property
    def future_encoding(self) -> Literal["joint", "separate"]:
        """The future as one clip of the causal tokenizer, or every frame alone."""
        ...


@dataclass(frozen=True)
class FutureFrames:
    """A future, decoded from latents."""

    latents: Float[Tensor, "b v tl d gh gw"]
    """Memory first."""
    frames: UInt8[Tensor, "b v f c h w"]
    """Of the future alone."""
    labels: UInt8[Tensor, "b v f h w"] | None
    """Group numbers of the palette; None with the RGB target."""


class RobotClips:
    """Encodes batches of `Clip.frames` (remembered, then perhaps future RGB) and `Clip.labels`
    (of the future), and decodes futures."""

    def __init__(
        self, tokenizer: LatentTokenizer, palette: Palette, settings: ClipSettings
    ) -> None:
        self.tokenizer, self.palette, self.target = tokenizer, palette, settings.target
        self.num_views, self.num_memory = settings.num_views, settings.num_memory
        self.future_frames, self.encoding = settings.future_frames, settings.future_encoding

    @property
    def num_latents(self) -> int:
        """Of memory and future together."""
        if self.encoding == "separate":
            return self.num_memory + self.future_frames
        return self.num_memory + (self.future_frames - 1) // self.tokenizer.temporal_stride + 1

    @torch.no_grad()
    def encode(self, batch: Batch, *, with_future: bool) -> Float[Tensor, "b v tl d gh gw"]:
        """The batch's own latents, or those of its frames and, where wanted, of its future.

        Raises:
            ValueError: cameras, frames, masks or latents that are not there.
        """
        if batch.latents is not None:
            found = batch.latents if with_future else batch.latents[:, :, : self.num_memory]
            if with_future and found.shape[2] != self.num_latents:
                raise ValueError(
                    f"Expected {self.num_latents} latents, found {found.shape[2]}: encode clips "
                    "with their future."
                )
            return found
        memory = encode_images(self.tokenizer, self.frames(batch)[:, :, : self.num_memory])
        if not with_future:
            return memory
        target = self.target_frames(batch)
        encode = encode_views if self.encoding == "joint" else encode_images
        future = encode(self.tokenizer, target)
        return torch.cat([memory, future], dim=2)

    @torch.no_grad()
    def decode(
        self, future: Float[Tensor, "b v k d gh gw"]
    ) -> tuple[UInt8[Tensor, "b v f c h w"], UInt8[Tensor, "b v f h w"] | None]:
        """Pictures of the future's latents, and the groups of the palette read from them (None
        with the RGB target)."""
        decode = decode_views if self.encoding == "joint" else decode_images
        frames = decode(self.tokenizer, future)
        return frames, self.palette.read(frames) if self.target == "mask" else None

    def target_frames(self, batch: Batch) -> UInt8[Tensor, "b v f c h w"]:
        """The future as pictures: palette-rendered masks, or RGB."""
        if self.target == "mask":
            return self.palette.render(self.labels(batch))
        frames = self.frames(batch)
        if frames.shape[2] != self.num_memory + self.future_frames:
            raise ValueError(
                f"Expected {self.num_memory} remembered and {self.future_frames} future frames, "
                f"found {frames.shape[2]}: read clips with future frames (reads_future)."
            )
        return frames[:, :, self.num_memory :]

    def tokenizer_clips(self, batch: Batch) -> UInt8[Tensor, "n t c h w"]:
        """RGB and palette clips for the tokenizer's own stage. Where the batch has no future RGB
        frames, the frame of now stands still."""
        frames = self.frames(batch)
        rgb = frames[:, :, self.num_memory : self.num_memory + self.future_frames]
        if rgb.shape[2] < self.future_frames:
            now = frames[:, :, self.num_memory - 1, None]
            rgb = now.expand(-1, -1, self.future_frames, -1, -1, -1)
        clips = [rgb]
        if self.target == "mask" or batch.labels is not None:
            clips.append(self.palette.render(self.labels(batch)))
        return torch.cat(clips).flatten(0, 1)

    def recovery(self, batch: Batch, margin: int = 2) -> float:
        """Share of future labels that survive rendering, encoding, decoding and reading, of those
        at least `margin` pixels from another label."""
        labels = self.palette.group(self.labels(batch))
        latents = encode_views(self.tokenizer, self.palette.render(self.labels(batch)))
        again = self.palette.read(decode_views(self.tokenizer, latents))
        return float((again == labels)[away_from_edges(labels, margin)].double().mean())

    def frames(self, batch: Batch) -> UInt8[Tensor, "b v t c h w"]:
        """The batch's frames, of every camera and at least the remembered ones."""
        if batch.frames is None:
            raise ValueError("Expected frames or latents in the batch, found neither.")
        found = batch.frames.shape[1:3]
        if found[0] != self.num_views or found[1] < self.num_memory:
            raise ValueError(
                f"Expected {self.num_views} cameras and at least {self.num_memory} remembered "
                f"frames, found {found[0]} and {found[1]}: give every camera that the model was "
                "trained with, in its order."
            )
        return batch.frames

    def labels(self, batch: Batch) -> UInt8[Tensor, "b v f h w"]:
        """The batch's masks, one for every future frame and of the size of the frames."""
        frames, labels = self.frames(batch), batch.labels
        wanted = (*frames.shape[:2], self.future_frames, *frames.shape[-2:])
        if labels is None or tuple(labels.shape) != wanted:
            raise ValueError(
                f"Expected masks of the future of shape {wanted} (b v f h w), found "
                f"{'none' if labels is None else tuple(labels.shape)}: read clips with masks "
                "(reads_labels) of the frames' size."
            )
        return labels
