"""Clip to clip: size, flips, colours. Labels, actions and captions follow the pixels.

A transform is any callable of a clip and a generator; the same generator state gives the same clip.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from maskworld.types import Clip, PlanSample

Transform: TypeAlias = Callable[[Clip, torch.Generator], Clip]
MIRRORED = "/mirrored"
"""Ends the token of a mirrored moment."""


@dataclass(frozen=True)
class ResizeCrop:
    """Cuts the largest box of the wanted aspect ratio and scales it to `size` (height, width).

    Frames are area-averaged where they shrink (no aliasing) and interpolated bilinearly where they
    grow; labels take the nearest pixel. One box for all frames and views of a clip.
    """

    size: tuple[int, int]
    crop: Literal["center", "random"] = "center"

    def __call__(self, clip: Clip, generator: torch.Generator) -> Clip:
        frames = _frames_of(clip, "ResizeCrop")
        height, width = frames.shape[-2:]
        if (height, width) == self.size:
            return clip
        scale = min(height / self.size[0], width / self.size[1])
        box = (
            min(height, max(1, round(self.size[0] * scale))),
            min(width, max(1, round(self.size[1] * scale))),
        )
        free = (height - box[0], width - box[1])
        if self.crop == "random":
            u = torch.rand(2, generator=generator).tolist()
            top, left = int(u[0] * (free[0] + 1)), int(u[1] * (free[1] + 1))
        else:
            top, left = free[0] // 2, free[1] // 2
        rows, columns = slice(top, top + box[0]), slice(left, left + box[1])
        labels = clip.labels
        if labels is not None:
            labels = resize_labels(labels[..., rows, columns], self.size)
        return replace(
            clip, frames=resize_frames(frames[..., rows, columns], self.size), labels=labels
        )


@dataclass(frozen=True)
class HorizontalFlip:
    """Mirrors a clip with probability `p`: pixels and labels, the sign of some actions, the plan
    (`mirror_plan`), the words left and right in the caption; cameras named left and right change
    places.

    Args:
        action_names: names of the action channels, needed where clips have actions.
        negated: channels that change sign, by name; every one must be in `action_names`.
        views: names of the cameras, needed where clips have several.
    """

    p: float = 0.5
    action_names: Sequence[str] | None = None
    negated: Sequence[str] = ("yaw_rate",)
    views: Sequence[str] | None = None

    def __call__(self, clip: Clip, generator: torch.Generator) -> Clip:
        if torch.rand((), generator=generator).item() >= self.p:
            return clip
        frames = _frames_of(clip, "HorizontalFlip")
        order = self._view_order(frames.shape[0])
        actions = clip.actions
        if actions is not None:
            actions = actions.clone()
            actions[:, self._negated_channels(actions.shape[1])] *= -1
        return replace(
            clip,
            frames=frames[order].flip(-1),
            labels=None if clip.labels is None else clip.labels[order].flip(-1),
            actions=actions,
            plan=None if clip.plan is None else mirror_plan(clip.plan),
            caption=swap_left_right(clip.caption),
        )

    def _negated_channels(self, num_channels: int) -> list[int]:
        names = list(self.action_names or [])
        missing = [name for name in self.negated if name not in names]
        if len(names) != num_channels or missing:
            raise ValueError(
                f"A flip must know which of {num_channels} action channels change sign: "
                f"action_names {names}, negated {list(self.negated)}. Pass the names of all "
                "channels, and of those that change sign."
            )
        return [names.index(name) for name in self.negated]

    def _view_order(self, num_views: int) -> list[int]:
        if num_views == 1 and self.views is None:
            return [0]
        names = list(self.views or [])
        mirrored = [swap_left_right(name.replace("_", " ")).replace(" ", "_") for name in names]
        normal = [name.replace(" ", "_") for name in names]
        if len(names) != num_views or sorted(mirrored) != sorted(normal):
            raise ValueError(
                f"A flip must know the mirror image of each of {num_views} views, got {names}: "
                "pass the names of all views; left ones need a right one of the same name."
            )
        return [normal.index(name) for name in mirrored]


def mirror_plan(plan: PlanSample) -> PlanSample:
    """The plan of the mirrored moment: vy, ay, waypoints' y and headings change sign, and left and
    right commands change places. Twice gives the plan back.

    The mirrored moment has a token of its own, so that no pool of the other is looked up for it.
    """
    swapped = {0: 2, 2: 0}
    is_mirrored = plan.token.endswith(MIRRORED)
    return replace(
        plan,
        ego=plan.ego * plan.ego.new_tensor([1.0, -1.0, 1.0, -1.0]),
        command=swapped.get(plan.command, plan.command),
        trajectory=_mirror_waypoints(plan.trajectory),
        negative=_mirror_waypoints(plan.negative),
        token=plan.token.removesuffix(MIRRORED) if is_mirrored else plan.token + MIRRORED,
    )


def _mirror_waypoints(waypoints: Float[Tensor, "l 3"] | None) -> Float[Tensor, "l 3"] | None:
    return None if waypoints is None else waypoints * waypoints.new_tensor([1.0, -1.0, -1.0])


@dataclass(frozen=True)
class ColorJitter:
    """Scales brightness, contrast and saturation by factors in [1 - x, 1 + x] and turns the hue by
    up to `hue` of the circle, one draw of each per clip (per image where a clip is independent
    images; per camera with `per_view`). Pixels only; labels stay.

    GE-ACT, and so Mask World Model: ColorJitter(0.3, 0.4, 0.5, 0.1, per_view=True).
    """

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.0
    per_view: bool = False

    def __call__(self, clip: Clip, generator: torch.Generator) -> Clip:
        frames = _frames_of(clip, "ColorJitter")
        draws = (frames.shape[0] if self.per_view else 1, frames.shape[1] if clip.is_image else 1)
        u = 2 * torch.rand(3, *draws, generator=generator) - 1
        amount = torch.tensor([self.brightness, self.contrast, self.saturation])
        factors = rearrange(1 + u * rearrange(amount, "k -> k 1 1"), "k v t -> k v t 1 1 1")
        x = frames.float() * factors[0]
        together = [i for i in (0, 1) if draws[i] == 1]  # one draw, one mean
        mean = _luma(x).mean(dim=(*together, -2, -1), keepdim=True)
        x = mean + (x - mean) * factors[1]
        grey = _luma(x)
        x = grey + (x - grey) * factors[2]
        if self.hue:
            turns = self.hue * (2 * torch.rand(draws, generator=generator) - 1)
            x = _turn_hue(x.clamp(0, 255), turns.expand(frames.shape[:2]))
        return replace(clip, frames=x.round().clamp(0, 255).to(torch.uint8))


@dataclass(frozen=True)
class RecolorRegions:
    """Paints the pixels of some classes (table, background, floor) in new colours, with probability
    `p` per clip: an augmentation of its own, which reads masks of the frames that it paints.

    Every class gets one colour per clip, in all frames and cameras; the region keeps its shading,
    r = luma / mean luma, so that a pixel becomes `strength * colour * r + (1 - strength) * pixel`.
    Not a transform: it takes the labels of the frames themselves, which clips do not hold.
    Ours; no paper has it.
    """

    classes: tuple[int, ...]
    """Class ids to paint; never those that an instruction names by colour."""
    p: float = 0.5
    strength: float = 0.8

    def __call__(
        self,
        frames: UInt8[Tensor, "v t 3 h w"],
        labels: UInt8[Tensor, "v t h w"],
        generator: torch.Generator,
    ) -> UInt8[Tensor, "v t 3 h w"]:
        """The frames, painted or not; `labels` are theirs."""
        if torch.rand((), generator=generator).item() >= self.p:
            return frames
        x = frames.float()
        luma = _luma(x)
        for number in self.classes:
            color = 255 * torch.rand(3, generator=generator)
            inside = rearrange(labels == number, "v t h w -> v t 1 h w")
            count = inside.sum(dim=(-2, -1), keepdim=True).clamp_min(1)
            mean = (luma * inside).sum(dim=(-2, -1), keepdim=True) / count
            painted = rearrange(color, "c -> c 1 1") * luma / mean.clamp_min(1.0)
            x = torch.where(inside, x + self.strength * (painted - x), x)
        return x.round().clamp(0, 255).to(torch.uint8)


def resize_frames(
    frames: UInt8[Tensor, "v t c h w"], size: tuple[int, int]
) -> UInt8[Tensor, "v t c h2 w2"]:
    """Scales to `size` (height, width): by area average where smaller, else bilinearly."""
    import cv2

    if tuple(frames.shape[-2:]) == size:
        return frames
    is_smaller = size[0] <= frames.shape[-2] and size[1] <= frames.shape[-1]
    kind = cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
    views, channels = frames.shape[0], frames.shape[2]
    images = rearrange(frames, "v t c h w -> (v t) h w c").numpy()
    scaled = np.stack([_scaled(image, size, kind) for image in images])
    scaled = scaled.reshape(len(images), *size, channels)
    return rearrange(torch.from_numpy(scaled), "(v t) h w c -> v t c h w", v=views).contiguous()


def resize_labels(
    labels: UInt8[Tensor, "v t h w"], size: tuple[int, int]
) -> UInt8[Tensor, "v t h2 w2"]:
    """Scales to `size` by the nearest pixel: no class appears that was not there."""
    import cv2

    if tuple(labels.shape[-2:]) == size:
        return labels
    maps = rearrange(labels, "v t h w -> (v t) h w").numpy()
    scaled = np.stack([_scaled(m, size, cv2.INTER_NEAREST_EXACT) for m in maps])
    return rearrange(torch.from_numpy(scaled), "(v t) h w -> v t h w", v=labels.shape[0])


def swap_left_right(text: str) -> str:
    """Exchanges the words left and right, in lower, upper and title case."""
    pairs = {"left": "right", "right": "left"}

    def swap(match: re.Match[str]) -> str:
        word = match.group()
        other = pairs[word.lower()]
        return other.upper() if word.isupper() else other.title() if word[0].isupper() else other

    return re.sub(r"\b(left|right)\b", swap, text, flags=re.IGNORECASE)


def apply_transforms(clip: Clip, transforms: Sequence[Transform], seed: int) -> Clip:
    """Runs `transforms` in order with one generator of `seed`."""
    generator = torch.Generator().manual_seed(seed)
    for transform in transforms:
        clip = transform(clip, generator)
    return clip


def _scaled(image: np.ndarray, size: tuple[int, int], kind: int) -> np.ndarray:
    import cv2

    return cv2.resize(np.ascontiguousarray(image), size[::-1], interpolation=kind)


def _turn_hue(
    x: Float[Tensor, "v t 3 h w"], turns: Float[Tensor, "v t"]
) -> Float[Tensor, "v t 3 h w"]:
    """Turns hues by parts of the circle; x in [0, 255]."""
    import cv2

    views, count, _, height, _ = x.shape
    rows = rearrange(x, "v t c h w -> (v t h) w c").contiguous().numpy()
    hsv = cv2.cvtColor(rows, cv2.COLOR_RGB2HSV)  # hue in degrees
    degrees = 360 * turns.reshape(-1).repeat_interleave(height).numpy()
    hsv[..., 0] = (hsv[..., 0] + degrees[:, None]) % 360
    turned = torch.from_numpy(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))
    return rearrange(turned, "(v t h) w c -> v t c h w", v=views, t=count)


def _luma(x: Float[Tensor, "v t 3 h w"]) -> Float[Tensor, "v t 1 h w"]:
    weights = x.new_tensor([0.299, 0.587, 0.114])  # ITU-R BT.601
    return (x * rearrange(weights, "c -> c 1 1")).sum(dim=2, keepdim=True)


def _frames_of(clip: Clip, who: str) -> Tensor:
    if clip.frames is None:
        raise ValueError(
            f"{who} needs pixels, this clip of {clip.source!r} has tokens only: "
            "transform the frames before they are encoded."
        )
    return clip.frames
