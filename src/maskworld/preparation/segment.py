"""Masks for recordings without: by a segmenter that the user names, offline, kept beside the data.

Policies and training never segment: training reads what is stored here, and inference no masks.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8

from maskworld.data.episodes import Source
from maskworld.data.sources.stored_masks import MaskMeta, episode_file, write_episode, write_meta
from maskworld.preparation.conversion import Progress, name_of

FRAMES_PER_READ = 16
"""Frames of an episode that are decoded at once (ours)."""

Points: TypeAlias = Mapping[str, Sequence[Sequence[int | float]]]
"""Class -> points of the first frame: [x, y] on it, [x, y, 0] beside it."""


@runtime_checkable
class Segmenter(Protocol):
    """Turns the frames of one camera into class maps, one by one."""

    label_names: list[str]
    """Class names; 0 is the background."""
    settings: dict[str, Any]
    """What must be the same for a run to go on."""

    def segment(
        self, frames: Iterable[UInt8[np.ndarray, "h w 3"]], episode: int, view: str
    ) -> Iterator[UInt8[np.ndarray, "h w"]]: ...


@dataclass
class SegmentReport:
    """What `segment` did."""

    out: Path
    num_made: int = 0
    num_kept: int = 0
    """Episodes that were there already."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Episodes left out, and why."""
    empty: Counter[str] = field(default_factory=Counter)
    """Frames, over all cameras, in which a class covers no pixel."""
    num_maps: int = 0

    def __str__(self) -> str:
        """Several lines for the reader."""
        lines = [f"{self.out}: masks of {self.num_made} episodes made, {self.num_kept} kept"]
        lines += [
            f"  {name}: no pixel in {count} of {self.num_maps} masks"
            for name, count in self.empty.items()
            if count
        ]
        lines += [f"  skipped {name}: {reason}" for name, reason in self.skipped]
        return "\n".join(lines)


def segment(
    source: Source,
    out: Path | str,
    segmenter: Segmenter,
    *,
    on_error: Literal["raise", "skip"] = "raise",
    progress: Progress | None = None,
) -> SegmentReport:
    """Makes the masks of every episode that has none in `out` yet; run again, it goes on.

    Args:
        on_error: "skip" leaves out episodes that cannot be segmented, and lists them.

    Raises:
        ValueError: `out` holds masks made otherwise, or an episode that cannot be segmented.
    """
    report = SegmentReport(Path(out))
    views = list(getattr(source, "views", ["front"]))
    write_meta(
        report.out, MaskMeta(list(segmenter.label_names), views, len(source), segmenter.settings)
    )
    for number in range(len(source)):
        path = episode_file(report.out, number)
        if path.is_file():
            report.num_kept += 1
        else:
            try:
                _segment_episode(source, number, path, views, segmenter, report)
                report.num_made += 1
            except ValueError as error:
                name = name_of(source, number)
                if on_error == "raise":
                    raise ValueError(f"{name}: {error}") from error
                report.skipped.append((name, str(error)))
        if progress is not None:
            progress(number + 1, len(source))
    return report


def _segment_episode(
    source: Source,
    number: int,
    path: Path,
    views: list[str],
    segmenter: Segmenter,
    report: SegmentReport,
) -> None:
    episode = source.episode(number)
    found: Counter[str] = Counter(dict.fromkeys(segmenter.label_names[1:], 0))

    def maps(index: int, view: str) -> Iterator[np.ndarray]:
        for labels in segmenter.segment(_frames(episode, index), number, view):
            present = set(np.unique(labels).tolist())
            found.update(n for i, n in enumerate(segmenter.label_names) if i and i not in present)
            yield labels

    write_episode(path, {v: maps(i, v) for i, v in enumerate(views)}, episode.num_frames)
    report.empty.update(found)
    report.num_maps += len(views) * episode.num_frames


def _frames(episode: Any, view: int) -> Iterator[np.ndarray]:
    for start in range(0, episode.num_frames, FRAMES_PER_READ):
        stop = min(start + FRAMES_PER_READ, episode.num_frames)
        for frame in episode.read(range(start, stop))[view]:
            yield np.ascontiguousarray(rearrange(frame, "c h w -> h w c"))


class PipelineSegmenter:
    """An image-segmentation model of transformers, frame by frame: every pixel has a class of the
    model's, and `classes` says which of them are ours.

    Args:
        model: a folder or the Hub id; or the pipeline itself.
        classes: our class -> labels of the model; later classes cover earlier ones.

    Raises:
        ValueError: no such model, or labels that it does not know.
    """

    def __init__(
        self,
        model: Path | str | Callable[..., Any],
        classes: Mapping[str, Sequence[str]],
        *,
        device: str = "cpu",
    ) -> None:
        self.label_names = ["background", *classes]
        self._number = {
            text: number for number, texts in enumerate(classes.values(), 1) for text in texts
        }
        opened = model if callable(model) else _open_pipeline(model, device)
        self._pipeline = cast(Any, opened)
        known = list(getattr(self._pipeline.model.config, "id2label", {}).values())
        if unknown := [text for text in self._number if text not in known]:
            raise ValueError(f"The model knows no labels {unknown}: expected some of {known}.")
        named = model if isinstance(model, (str, Path)) else type(model).__name__
        self.settings = {"model": str(named), "classes": {k: list(v) for k, v in classes.items()}}

    def segment(
        self, frames: Iterable[UInt8[np.ndarray, "h w 3"]], episode: int, view: str
    ) -> Iterator[UInt8[np.ndarray, "h w"]]:
        from PIL import Image

        for frame in frames:
            labels = np.zeros(frame.shape[:2], dtype=np.uint8)
            found = self._pipeline(Image.fromarray(frame))
            numbered = [(self._number.get(f["label"], 0), f["mask"]) for f in found]
            for number, mask in sorted(numbered, key=lambda pair: pair[0]):
                if number:
                    labels[np.asarray(mask) > 127] = number
            yield labels


class Sam2Segmenter:
    """SAM 2 (video) of transformers: points in the first frame say what is what, and the model
    follows it through the episode. Neither torchvision nor the model's processor is needed.

    Args:
        model: a folder or the Hub id of a `sam2_video` model, for instance
            facebook/sam2.1-hiera-tiny.
        points: see `read_points`.

    Raises:
        ValueError: no such model; when an episode comes, no points for it.
    """

    def __init__(
        self, model: Path | str, points: Mapping[str, Mapping[str, Points]], *, device: str = "cpu"
    ) -> None:
        from transformers import Sam2VideoModel

        try:
            opened = cast(Any, Sam2VideoModel.from_pretrained(str(model)))
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"{model} cannot be used to segment videos ({error}): expected a folder or the Hub "
                "id of a SAM 2 video model of transformers."
            ) from error
        self._model = opened.to(device).eval()
        self._points, self._device = points, device
        names = [n for views in points.values() for found in views.values() for n in found]
        self.label_names = ["background", *dict.fromkeys(names)]
        self.settings = {"model": str(model)}

    def segment(
        self, frames: Iterable[UInt8[np.ndarray, "h w 3"]], episode: int, view: str
    ) -> Iterator[UInt8[np.ndarray, "h w"]]:
        points = self._points_of(episode, view)
        session: Any = None
        kept = int(self._model.config.max_object_pointers_in_encoder)
        for number, frame in enumerate(frames):
            if session is None:
                session = self._start(points, frame.shape[:2])
            yield self._step(session, frame, number)
            session.processed_frames.clear()
            for outputs in session.output_dict_per_obj.values():  # what the model looks back at
                outputs["non_cond_frame_outputs"].pop(number - kept, None)

    def _points_of(self, episode: int, view: str) -> Points:
        for episodes in (str(episode), "*"):
            for views in (view, "*"):
                found = self._points.get(episodes, {}).get(views)
                if found:
                    return found
        raise ValueError(
            f"expected points for episode {episode}, camera {view}, found none: name them in the "
            'points file, or under "*".'
        )

    def _start(self, points: Points, size: tuple[int, int]) -> Any:
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

        session = Sam2VideoInferenceSession(
            video_height=size[0],
            video_width=size[1],
            inference_device=self._device,
            inference_state_device=self._device,
            video_storage_device=self._device,
            dtype=self._model.dtype,
        )
        side = self._model.config.image_size
        for name, found in points.items():
            number = self.label_names.index(name)
            xy = torch.tensor([[p[0] / size[1] * side, p[1] / size[0] * side] for p in found])
            is_on = torch.tensor([int(p[2]) if len(p) > 2 else 1 for p in found]).int()
            prompt = {"point_coords": xy[None, None], "point_labels": is_on[None, None]}
            session.add_point_inputs(session.obj_id_to_idx(number), 0, prompt)
        session.obj_with_new_inputs = list(session.obj_ids)
        return session

    def _step(self, session: Any, frame: np.ndarray, number: int) -> np.ndarray:
        """The class of every pixel: of all that claim it the surest, if any does."""
        side = self._model.config.image_size
        image = rearrange(torch.from_numpy(frame), "h w c -> 1 c h w").to(self._device).float()
        image = _resized(image / 255, (side, side))
        mean, std = (image.new_tensor(v).view(1, 3, 1, 1) for v in (_MEAN, _STD))
        pixels = ((image - mean) / std).to(self._model.dtype)
        with torch.inference_mode():
            found = self._model(inference_session=session, frame=pixels, frame_idx=number)
        logits = _resized(found.pred_masks.float(), frame.shape[:2])[:, 0]
        best, winner = logits.max(dim=0)
        ids = torch.tensor(found.object_ids, device=logits.device)
        return torch.where(best > 0, ids[winner], 0).to(torch.uint8).cpu().numpy()


_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet; what SAM 2 is given."""


def read_points(path: Path | str) -> dict[str, dict[str, Points]]:
    """A points file: {"<episode>" or "*": {"<camera>" or "*": {"<class>": [[x, y], ...]}}}, in
    pixels of the first frame; [x, y, 0] is a point that does not belong to the class.

    Raises:
        ValueError: no such file, or not of this form.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        points = [
            p for vs in found.values() for cs in vs.values() for ps in cs.values() for p in ps
        ]
        if not points or any(len(p) not in (2, 3) or float(p[0]) < 0 for p in points):
            raise ValueError("points of two or three numbers are missing")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"Expected points in {path}, found none ({error}): write for instance "
            '{"*": {"front": {"robot": [[320, 200]], "object": [[100, 300]]}}}.'
        ) from error
    return found


def _resized(images: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    return torch.nn.functional.interpolate(images, size, mode="bilinear", align_corners=False)


def _open_pipeline(model: Path | str, device: str) -> Any:
    from transformers import pipeline

    try:
        return pipeline("image-segmentation", model=str(model), device=device)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{model} cannot be used to segment images ({error}): expected a folder or the Hub id "
            "of an image-segmentation model of transformers."
        ) from error
