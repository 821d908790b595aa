"""Clips by number: windows of episodes, independent images, clips in memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8

from maskworld.data.episodes import Source
from maskworld.data.trajectories import UncutMoment
from maskworld.data.transforms import Transform, apply_transforms
from maskworld.data.windows import ClipIndex, full_ranges
from maskworld.types import Clip, PlanSample

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


@runtime_checkable
class ClipsByNumber(Protocol):
    """What the mixture draws from. `get(index, seed)` is a pure function of its arguments."""

    def __len__(self) -> int: ...

    def get(self, index: int, seed: int) -> Clip: ...


class ClipDataset:
    """The windows of `index` over `source` as clips of torch tensors.

    Sources of tokens (episodes with `read_tokens`) give clips of tokens. With a frame stride s,
    row k of the actions stands for the s steps into frame k since the frame before it: their mean
    (rates such as speed and yaw rate) or their sum (displacements). The steps into the first frame
    count too, as far as the episode has them.

    Args:
        transforms: applied in order, with one generator per clip.
        reduction: how actions of skipped frames are combined.
        plan_frame: fill `Clip.plan` with the episode's plan sample at this frame of a clip, its
            last past one. Windows without one (the drive ends too soon) are left out and counted.
        unknown_actions: actions may hold NaN, for "not known".

    Raises:
        ValueError: with `plan_frame`, episodes that know no plans, or no window with one.
    """

    def __init__(
        self,
        source: Source,
        index: ClipIndex,
        transforms: Sequence[Transform] = (),
        reduction: Literal["mean", "sum"] = "mean",
        plan_frame: int | None = None,
        unknown_actions: bool = False,
    ) -> None:
        self.source, self.index, self.unknown_actions = source, index, unknown_actions
        self.transforms, self.reduction = list(transforms), reduction
        self.plan_frame = plan_frame
        self.without_plan: Counter[str] = Counter()
        """Windows that were left out for want of a plan, by reason."""
        self._kept: list[int] | None = None
        if plan_frame is not None:
            self._kept = [number for number in range(len(index)) if self._has_plan(number)]
            if not self._kept:
                raise ValueError(
                    f"Expected clips of {source.name} with a plan at frame {plan_frame}, found "
                    f"none: {_counted(self.without_plan)}. Give longer drives."
                )

    def __len__(self) -> int:
        return len(self.index) if self._kept is None else len(self._kept)

    def __str__(self) -> str:
        left_out = self.without_plan.total()
        return str(self.index) + (
            f", {left_out} left out without a plan ({_counted(self.without_plan)})"
            if left_out
            else ""
        )

    def plan(self, index: int) -> PlanSample:
        """The plan sample of clip `index`, without its frames."""
        return self._plan_at(index if self._kept is None else self._kept[index])

    def _plan_at(self, number: int) -> PlanSample:
        episode: Any = self.source.episode(self.index[number].episode)
        if not hasattr(episode, "plan_at"):
            raise ValueError(
                f"Expected drives with the poses of the car to plan from, found none in "
                f"{self.source.name}: give nuScenes, nuPlan, OpenScene or a LeRobot dataset with "
                "a column `ego`."
            )
        assert self.plan_frame is not None
        plan: PlanSample = episode.plan_at(self.index.frames(number)[self.plan_frame])
        return plan

    def _has_plan(self, number: int) -> bool:
        try:
            self._plan_at(number)
        except UncutMoment as error:
            self.without_plan[error.reason] += 1
            return False
        return True

    def __getitem__(self, index: int) -> Clip:
        """Clip `index` with the random draws of seed `index`."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.source.name} has {len(self)} clips, asked for {index}.")
        return self.get(index % len(self), seed=index % len(self))

    def get(self, index: int, seed: int) -> Clip:
        """Clip `index`, its transforms drawn from `seed`."""
        number = index if self._kept is None else self._kept[index]
        window, frames = self.index[number], self.index.frames(number)
        episode: Any = self.source.episode(window.episode)
        pixels = tokens = labels = None
        if hasattr(episode, "read_tokens"):
            tokens = torch.from_numpy(np.ascontiguousarray(episode.read_tokens(frames)))
        else:
            pixels = torch.from_numpy(np.ascontiguousarray(episode.read(frames)))
            maps = episode.read_labels(frames)
            labels = None if maps is None else torch.from_numpy(np.ascontiguousarray(maps))
        actions = None
        if episode.actions is not None:
            rows = actions_into(
                episode.actions,
                frames,
                self.index.frame_stride,
                self.reduction,
                unknown=self.unknown_actions,
            )
            actions = torch.from_numpy(rows)
        clip = Clip(
            frames=pixels,
            tokens=tokens,
            labels=labels,
            actions=actions,
            plan=None if self.plan_frame is None else self._plan_at(number),
            caption=episode.caption,
            fps=episode.fps / self.index.frame_stride,
            source=self.source.name,
            episode=window.episode,
            start=window.start,
        )
        return apply_transforms(clip, self.transforms, seed)


class SelectedClips:
    """Some clips of a dataset, renumbered from 0."""

    def __init__(self, dataset: ClipDataset, chosen: Sequence[int]) -> None:
        if not chosen:
            raise ValueError(f"Expected at least one clip of {dataset.source.name}, got none.")
        self.dataset, self.chosen = dataset, list(chosen)

    def __len__(self) -> int:
        return len(self.chosen)

    def __str__(self) -> str:
        return f"{self.dataset}, of which {len(self)} are used"

    def __getitem__(self, index: int) -> Clip:
        return self.dataset[self.chosen[index]]

    def get(self, index: int, seed: int) -> Clip:
        return self.dataset.get(self.chosen[index], seed)

    def plan(self, index: int) -> PlanSample:
        """The plan sample of clip `index`, without its frames."""
        return self.dataset.plan(self.chosen[index])


def actions_into(
    actions: Float[np.ndarray, "n a"],
    frames: Sequence[int],
    stride: int,
    reduction: Literal["mean", "sum"] = "mean",
    *,
    unknown: bool = False,
) -> Float[np.ndarray, "t a"]:
    """For each of `frames`, the mean or sum of the `stride` rows that end in its own.

    Args:
        unknown: NaN may stand for what is not known.

    Raises:
        ValueError: a row is NaN or infinite; names the frame.
    """
    rows = [actions[max(0, frame - stride + 1) : frame + 1] for frame in frames]
    combined = [r.mean(axis=0) if reduction == "mean" else r.sum(axis=0) for r in rows]
    result = np.stack(combined).astype(np.float32)
    is_finite = np.isfinite(result) | (np.isnan(result) & unknown)
    if not is_finite.all():
        row = int(np.flatnonzero(~is_finite.all(axis=1))[0])
        raise ValueError(
            f"The actions into frame {frames[row]} hold NaN or infinity: drop the episode or mend "
            "its recording."
        )
    return result


class ImageDataset:
    """Samples of `num_images` independent images, as one clip with `is_image`.

    The images are frames drawn anew for every sample from all of `source` (without repetition
    while there are enough). The caption has one line per image.

    Args:
        source: a source of frames, or a folder of images (see ImageFolderSource).
        transforms: applied to each image by itself; they must bring all to one size.
        ranges: frames to use by episode; None = all.
    """

    def __init__(
        self,
        source: Source | Path | str,
        num_images: int = 16,
        transforms: Sequence[Transform] = (),
        ranges: Mapping[int, Sequence[tuple[int, int]]] | None = None,
    ) -> None:
        if num_images < 1:
            raise ValueError(f"Expected num_images of at least 1, got {num_images}.")
        if isinstance(source, (str, Path)):
            source = ImageFolderSource(source)
        self.source: Source = source
        self.num_images, self.transforms = num_images, list(transforms)
        used = full_ranges(source) if ranges is None else ranges
        pairs = [(e, f) for e in sorted(used) for a, b in used[e] for f in range(a, b)]
        if not pairs:
            raise ValueError(f"{source.name} has no image to draw from: use other ranges.")
        self._pairs = np.array(pairs, dtype=np.int32)

    def __len__(self) -> int:
        """Samples that show as many images as there are."""
        return max(1, len(self._pairs) // self.num_images)

    def __getitem__(self, index: int) -> Clip:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.source.name} has {len(self)} samples, asked for {index}.")
        return self.get(index % len(self), seed=index % len(self))

    def get(self, index: int, seed: int) -> Clip:
        """A sample drawn from both numbers."""
        rng = np.random.default_rng([seed, index])
        is_enough = len(self._pairs) >= self.num_images
        chosen = rng.choice(len(self._pairs), self.num_images, replace=not is_enough)
        images = [
            self._image(int(episode), int(frame), seed=int(rng.integers(2**62)))
            for episode, frame in self._pairs[chosen]
        ]
        sizes = {tuple(i.frames.shape[-2:]) for i in images if i.frames is not None}
        if len(sizes) > 1:
            raise ValueError(
                f"Images of {self.source.name} have different sizes, {sorted(sizes)}: "
                "add ResizeCrop(size) to the transforms."
            )
        labels = [image.labels for image in images if image.labels is not None]
        return replace(
            images[0],
            frames=torch.cat([i.frames for i in images if i.frames is not None], dim=1),
            labels=torch.cat(labels, dim=1) if len(labels) == len(images) else None,
            caption="\n".join(" ".join(image.caption.split()) for image in images),
        )

    def _image(self, number: int, frame: int, seed: int) -> Clip:
        episode = self.source.episode(number)
        labels = episode.read_labels([frame])
        clip = Clip(
            frames=torch.from_numpy(np.ascontiguousarray(episode.read([frame]))),
            labels=None if labels is None else torch.from_numpy(np.ascontiguousarray(labels)),
            caption=episode.caption,
            is_image=True,
            source=self.source.name,
            episode=number,
            start=frame,
        )
        return apply_transforms(clip, self.transforms, seed)


class ImageFolderSource:
    """Every .png and .jpg of a folder and its subfolders as an episode of one frame, with the
    caption of a .txt of the same name beside it.

    Raises:
        ValueError: no such folder, or no image in it; a damaged image, when it is read.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.name = self.root.name
        found = self.root.rglob("*") if self.root.is_dir() else []
        self.paths = sorted(
            (p for p in found if p.suffix.lower() in IMAGE_SUFFIXES), key=_natural_order
        )
        if not self.paths:
            raise ValueError(
                f"Expected images ({', '.join(IMAGE_SUFFIXES)}) in the folder {self.root}, found "
                "none: name the folder that holds them."
            )

    def __len__(self) -> int:
        return len(self.paths)

    def episode(self, index: int) -> ImageEpisode:
        return ImageEpisode(self.paths[index])


class ImageEpisode:
    """One image file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_frames, self.fps = 1, 1.0
        sidecar = path.with_suffix(".txt")
        self.caption = sidecar.read_text(encoding="utf-8").strip() if sidecar.is_file() else ""
        self.segments: Sequence[tuple[int, int]] = [(0, 1)]
        self.actions: Float[np.ndarray, "t a"] | None = None

    def read(self, indices: Sequence[int]) -> UInt8[np.ndarray, "1 n 3 h w"]:
        from maskworld.data.lerobot_schema import decode_image

        image = decode_image(self.path.read_bytes(), False, str(self.path))
        return np.stack([image.transpose(2, 0, 1)] * len(indices))[None]

    def read_labels(self, indices: Sequence[int]) -> None:
        return None


class MemoryDataset:
    """Clips that are in memory already."""

    def __init__(self, clips: Sequence[Clip], transforms: Sequence[Transform] = ()) -> None:
        if not clips:
            raise ValueError("Expected at least one clip, got none.")
        self.clips, self.transforms = list(clips), list(transforms)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Clip:
        clip = self.clips[index]  # raises IndexError itself
        return apply_transforms(clip, self.transforms, seed=index % len(self))

    def get(self, index: int, seed: int) -> Clip:
        return apply_transforms(self.clips[index], self.transforms, seed)


def _counted(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in sorted(reasons.items()))


def _natural_order(path: Path) -> list[tuple[int, int, str]]:
    """image_2 before image_10."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]
