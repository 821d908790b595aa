"""The user's recordings of robots as Mask World Model reads them: which stages they can train, the
config that fits them, clips, statistics."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from maskworld.cli.robot_material import control_window
from maskworld.cli.stage_data import StageData, Windows
from maskworld.cli.train import TrainOptions
from maskworld.data.control import ControlClips, control_sample
from maskworld.data.control_statistics import (
    ControlStatistics,
    control_rows,
    control_statistics,
    episode_name,
)
from maskworld.data.transforms import ColorJitter, RecolorRegions, ResizeCrop, Transform
from maskworld.recipes.open import open_episodes
from maskworld.systems.mask_world_model import MaskWorldModelConfig
from maskworld.tokenizers.palette import PaletteConfig, all_classes, robot_and_objects
from maskworld.training.config import Stage
from maskworld.types import ControlBatch

STATISTICS_FILE = "control_statistics.json"
"""Beside a model that acts: rate, cameras and ranges of the robot that it was trained on."""
JITTER = ColorJitter(0.3, 0.4, 0.5, 0.1, per_view=True)
"""GE-ACT's, and so Mask World Model's."""
ROBOT_WORDS, OBJECT_WORDS = ("robot", "arm", "gripper", "hand"), ("object",)
"""In names of classes, for the paper's three groups."""
MAX_FITTED = 20_000
"""Chunks, spread evenly, that ranges and averages of control are measured on."""


@dataclass(frozen=True)
class RobotRecordings:
    """One of --data, opened."""

    path: str
    source: Any
    views: list[str]
    size: tuple[int, int]
    fps: float
    label_names: tuple[str, ...] | None
    has_masks: bool
    has_control: bool
    """Whether there are actions and states."""

    def trains(self, stage: Stage, target: str) -> bool:
        """Whether a stage can use these recordings at all."""
        return self.has_control if is_policy(stage) else self.has_masks or target == "rgb"


def is_policy(stage: Stage) -> bool:
    """Whether a stage imitates; others learn how masks evolve, or the tokenizer."""
    return stage.name.startswith("policy")


def open_recordings(paths: Sequence[str]) -> list[RobotRecordings]:
    """All of --data, of cameras and classes that agree.

    Raises:
        ValueError: data of other kinds, or recordings that one model cannot learn from together.
    """
    found = [_open(path) for path in paths]
    kinds: dict[str, set[Any]] = {
        "cameras": {len(each.views) for each in found},
        "classes": {each.label_names for each in found if each.label_names is not None},
        "steps per second": {round(each.fps, 3) for each in found if each.has_control},
    }
    for what, values in kinds.items():
        if len(values) > 1:
            raise ValueError(
                f"Expected the same {what} in all --data, found {sorted(values)}: train one model "
                "for each, or import them alike (`maskworld data import`)."
            )
    return found


def _open(path: str) -> RobotRecordings:
    source: Any = open_episodes(path)
    episode = source.episode(0)
    shape = episode.read([0]).shape
    names = getattr(source, "label_names", None)
    has_control = episode.actions is not None and getattr(episode, "state", None) is not None
    return RobotRecordings(
        path,
        source,
        list(getattr(source, "views", None) or [f"camera {i}" for i in range(shape[0])]),
        (int(shape[-2]), int(shape[-1])),
        float(episode.fps),
        None if names is None else tuple(names),
        episode.read_labels([0]) is not None,
        has_control,
    )


def check_usable(recordings: Sequence[RobotRecordings], stages: Sequence[Stage], what: str) -> None:
    """Raises ValueError for a stage without data, or data that no stage can use.

    Args:
        what: the target, "mask" or "rgb".
    """
    for each in recordings:
        if any(each.trains(stage, what) for stage in stages):
            continue
        raise ValueError(_no_control(each.path) if each.has_masks else _no_masks(each.path))
    for stage in stages:
        if not any(each.trains(stage, what) for each in recordings):
            path = ", ".join(each.path for each in recordings)
            raise ValueError(_no_control(path) if is_policy(stage) else _no_masks(path))


def _no_masks(path: str) -> str:
    return (
        f"Expected masks in --data for the stage that learns how they evolve, found none in {path}:"
        f" make them with `maskworld data segment {path}`, train the policy alone on a model that "
        "has learnt it (--stages policy --init RUN/model), or predict pictures (--target rgb)."
    )


def _no_control(path: str) -> str:
    return (
        f"Expected actions and states (`action`, `observation.state`) in --data for stage policy, "
        f"found none in {path}: train how masks evolve alone, with --stages dynamics."
    )


# --------------------------------------------------------------------------------------- config


def fit_robot_config(
    config: MaskWorldModelConfig,
    recordings: Sequence[RobotRecordings],
    statistics: ControlStatistics | None,
    frame_size: tuple[int, int] | None,
) -> MaskWorldModelConfig:
    """The recipe's config with the cameras, rate, classes and numbers per step that the data has.
    Frames are never enlarged unless the user says so.

    Raises:
        ValueError: a frame size that the tokenizer cannot encode.
    """
    stride, first = config.tokenizer.stride, recordings[0]
    if frame_size is None:
        smallest = [min(each.size[i] for each in recordings) for i in range(2)]
        sides = [
            max(stride, min(own, has // stride * stride))
            for own, has in zip(config.frame_size, smallest)
        ]
        frame_size = (sides[0], sides[1])
    if any(side % stride for side in frame_size):
        raise ValueError(
            f"Expected --frame-size in multiples of {stride}, found {frame_size[0]} "
            f"{frame_size[1]}."
        )
    config = replace(
        config,
        num_views=len(first.views),
        frame_size=frame_size,
        fps=first.fps / config.frame_stride,
        palette=_palette(config.palette, label_names(recordings)),
    )
    return config if statistics is None else with_widths(config, statistics)


def with_widths(
    config: MaskWorldModelConfig, statistics: ControlStatistics
) -> MaskWorldModelConfig:
    """The config with as many numbers of actions and states as the data has."""
    state = statistics.state_dim
    action = replace(config.action, action_dim=statistics.action_dim + state)
    return replace(config, state_dim=state, action=action)


def label_names(recordings: Sequence[RobotRecordings]) -> tuple[str, ...] | None:
    """Names of the classes, where the data says them."""
    return next((r.label_names for r in recordings if r.label_names is not None), None)


def _palette(palette: PaletteConfig, names: tuple[str, ...] | None) -> PaletteConfig:
    """The recipe's where it knows the classes; else as the paper groups, or a colour for each."""
    if names is None or palette == all_classes(names):
        return palette
    if palette != PaletteConfig():
        return all_classes(names)
    robot = [n for n in names if any(word in n.lower() for word in ROBOT_WORDS)]
    objects = [n for n in names if any(w in n.lower() for w in OBJECT_WORDS) and n not in robot]
    if robot and objects:
        return robot_and_objects(names, robot, objects)
    warnings.warn(
        f"classes {', '.join(names)} are not the paper's robot, task objects and background: each "
        "gets a colour",
        stacklevel=2,
    )
    return all_classes(names)


def check_fits_model(
    config: MaskWorldModelConfig,
    recordings: Sequence[RobotRecordings],
    statistics: ControlStatistics | None,
) -> None:
    """Raises ValueError for recordings that a trained model cannot go on with.

    Args:
        statistics: of what it was trained on; None where it never acted.
    """
    names = label_names(recordings)
    known = config.palette
    is_ungrouped = known == all_classes(known.names)
    if names is not None and (
        len(names) != len(known.groups) or (is_ungrouped and names != known.names)
    ):
        raise ValueError(
            f"Expected the {len(known.groups)} classes that the model was trained with "
            f"({', '.join(known.names)}), found {', '.join(names)} in --data: bring masks to these."
        )
    if (views := len(recordings[0].views)) != config.num_views:
        raise ValueError(
            f"Expected {config.num_views} cameras as the model was trained with, found {views} "
            f"({', '.join(recordings[0].views)}) in --data."
        )
    for each in recordings:
        if statistics is not None and each.has_control:
            statistics.check(each.source)
        elif abs(each.fps / config.frame_stride - config.fps) > 1e-3 * config.fps:
            warnings.warn(
                f"{each.path} has {each.fps:g} steps per second, the model learnt how masks evolve "
                f"at {config.fps * config.frame_stride:g}",
                stacklevel=2,
            )


# ----------------------------------------------------------------------------------------- data


def open_robot_data(
    options: TrainOptions,
    recordings: Sequence[RobotRecordings],
    config: MaskWorldModelConfig,
    statistics: ControlStatistics | None,
    clip_stride: int,
) -> StageData:
    """Clips of every stage: those of the policy hold no masks and no future frames, unless its
    loss keeps a share of the world's."""
    known = {id(each.source): each for each in recordings}
    transforms: list[Transform] = [JITTER] if options.color_jitter else []
    recolor = _recolor(options.recolor, label_names(recordings))
    window = control_window(config)
    with_future = config.world_loss_weight > 0 or config.policy == "inverse_dynamics"

    def open_one(source: Any, windows: Windows) -> Any:
        has, acts = known[id(source)], windows.has_experts
        reads_future = with_future or not acts
        if not (has.has_control if acts else has.has_masks or config.target == "rgb"):
            return None
        return ControlClips(
            source,
            window,
            transforms=[ResizeCrop(windows.size), *transforms],
            clip_stride=clip_stride,
            reads_control=acts,
            reads_labels=reads_future and config.target == "mask",
            reads_future=reads_future and config.target == "rgb",
            recolor=recolor if has.has_masks else None,
            expects=statistics if acts else None,
            only_successes=acts,
        )

    windows = Windows(config.future_frames, config.frame_size)
    return StageData(
        [each.source for each in recordings],
        windows,
        open_one,
        windows_of=lambda stage: replace(windows, has_experts=is_policy(stage)),
        weights=options.weights,
        seed=options.seed,
        num_workers=options.workers,
    )


def _recolor(names: Sequence[str], known: Sequence[str] | None) -> RecolorRegions | None:
    if not names:
        return None
    if known is None:
        raise ValueError(
            "Expected masks with names of classes for --recolor, found none in --data."
        )
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"Expected --recolor with classes of {', '.join(known)}, found {', '.join(unknown)}."
        )
    return RecolorRegions(tuple(list(known).index(name) for name in names))


class Joined:
    """Episodes of several sources of one robot, one after the other (a `Source`)."""

    def __init__(self, sources: Sequence[Any]) -> None:
        self._places = [(source, i) for source in sources for i in range(len(source))]
        self.name = ", ".join(source.name for source in sources)
        self.views = list(getattr(sources[0], "views", []))
        self.action_names = getattr(sources[0], "action_names", None)
        self.label_names = getattr(sources[0], "label_names", None)

    def __len__(self) -> int:
        return len(self._places)

    def episode(self, index: int) -> Any:
        source, number = self._places[index]
        return source.episode(number)

    def demonstrations(self) -> dict[int, list[tuple[int, int]]]:
        """The frames of episodes that did not fail, by episode."""
        episodes = {i: self.episode(i) for i in range(len(self))}
        return {
            i: list(each.segments)
            for i, each in episodes.items()
            if getattr(each, "attributes", {}).get("success") is not False
        }


def measure_control(recordings: Sequence[RobotRecordings]) -> ControlStatistics | None:
    """Statistics of all demonstrations; None where none are told.

    Raises:
        ValueError: of several robots, or with NaN; or none succeeded.
    """
    sources = [each.source for each in recordings if each.has_control]
    if not sources:
        return None
    joined = Joined(sources)
    return control_statistics(joined, joined.demonstrations())


def demonstrated_chunks(recordings: Sequence[RobotRecordings], chunk: int) -> ControlBatch:
    """Chunks, spread evenly over all demonstrations; no frame is read."""
    joined = Joined([each.source for each in recordings if each.has_control])
    ranges = joined.demonstrations()
    total = sum(b - a for each in ranges.values() for a, b in each)
    every, found = 1 + total // MAX_FITTED, []
    for number, stretches in ranges.items():
        actions, state = control_rows(joined.episode(number), episode_name(joined, number))
        for start, stop in stretches:
            for now in range(start, stop - 1, every):
                found.append(control_sample(actions, state, now, stop - 1, chunk))
    columns = ("state", "actions", "states", "is_real")
    return ControlBatch(*(torch.stack([getattr(s, c) for s in found]) for c in columns))
