"""RLBench's saved demonstrations as robot episodes.

    ROOT/<task>/variation<k>/variation_descriptions.pkl
    ROOT/<task>/variation<k>/episodes/episode<i>/low_dim_obs.pkl
                                                /front_rgb/0.png, 1.png, ...
                                                /front_mask/0.png, ...       object handles
                                                /mask_groups.json            ours: handle -> class

PerAct's `all_variations` layout, with the descriptions beside each `low_dim_obs.pkl`, is read too.

- Pickles are read as data alone (`pickle_records`): no class of RLBench is needed, nothing in them
  runs.
- A mask picture codes the handle of an object as R + 256 G + 65536 B. Handles change from episode
  to episode, so each has its own grouping: {"robot": [31, 34, ...], "object": [87, ...]}; handles
  that no class names are background. See docs/robot_data.md for writing it while recording.
- Observation t is before action t; actions are read off the next observation: the pose of the
  gripper, absolute, and whether it is open. RLBench records every simulation step, 20 Hz.

What the paper of Mask World Model took as action and state on RLBench is not known beyond their
dimensions, pose 7 + gripper 1 and state 7; ours are absolute poses and joint angles.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int, UInt8

from maskworld.data.episodes import Recent
from maskworld.data.lerobot_schema import decode_image
from maskworld.data.pickle_records import Record, read_records

FPS = 20.0
"""RLBench's simulation step is 50 ms."""
LOW_DIM, DESCRIPTIONS, GROUPS = "low_dim_obs.pkl", "variation_descriptions.pkl", "mask_groups.json"
POSE_NAMES = ("x", "y", "z", "qx", "qy", "qz", "qw", "open")
JOINT_NAMES = tuple(f"joint_{i}" for i in range(1, 8))
LABEL_NAMES = ("background", "robot", "object")
_CACHED_EPISODES = 32

State = Literal["joints", "pose", "joints+pose"]


class RLBenchSource:
    """Every saved demonstration below a folder is an episode.

    Args:
        path: folder of tasks, of one task, or any folder that holds `low_dim_obs.pkl` files.
        cameras: "front", "wrist", "left_shoulder", "right_shoulder", "overhead".
        state: joint angles (7), gripper pose and opening (8), or both (15).
        description: which of a variation's descriptions is the instruction: the longest, as the
            harness of FiS-VLA takes it, or the first.
        label_names: classes that groupings may name, the background first.

    Raises:
        ValueError: no demonstrations, a missing camera or frame, damaged files; names the folder.
    """

    action_names = POSE_NAMES
    fps = FPS

    def __init__(
        self,
        path: Path | str,
        *,
        cameras: Sequence[str] = ("front", "wrist"),
        state: State = "joints",
        description: Literal["longest", "first"] = "longest",
        label_names: Sequence[str] = LABEL_NAMES,
    ) -> None:
        if state not in ("joints", "pose", "joints+pose"):
            raise ValueError(f"Expected state joints, pose or joints+pose, got {state!r}.")
        self.views, self.state, self.description = list(cameras), state, description
        self.name = Path(path).resolve().name
        self._names = list(label_names)
        self._folders = sorted((p.parent for p in Path(path).rglob(LOW_DIM)), key=_natural_order)
        if not self._folders:
            raise ValueError(
                f"Expected RLBench's demonstrations ({LOW_DIM}) below {path}, found none: name the "
                "folder that its dataset generator wrote."
            )
        self._recent: Recent[int, RLBenchEpisode] = Recent(_CACHED_EPISODES)
        self.size = self.episode(0).size
        width = {"joints": 7, "pose": 8, "joints+pose": 15}[state]
        self.features = {"observation.state": {"dtype": "float32", "shape": [width]}}
        """Further columns that an import keeps."""

    @property
    def label_names(self) -> list[str] | None:
        """Class names, where the first episode has a grouping of handles."""
        return self._names if (self._folders[0] / GROUPS).is_file() else None

    def __len__(self) -> int:
        return len(self._folders)

    def episode(self, index: int) -> RLBenchEpisode:
        if not 0 <= index < len(self):
            raise ValueError(f"{self.name} has {len(self)} demonstrations, asked for {index}.")
        return self._recent.get(
            index, lambda: RLBenchEpisode(self, self._folders[index], self._names)
        )


class RLBenchEpisode:
    """One demonstration; pictures and numbers are read only when asked for."""

    fps = FPS

    def __init__(self, source: RLBenchSource, folder: Path, label_names: list[str]) -> None:
        self._source, self.folder, self._names = source, folder, label_names
        counts = {c: len(list((folder / f"{c}_rgb").glob("*.png"))) for c in source.views}
        if 0 in counts.values() or len(set(counts.values())) > 1:
            raise ValueError(
                f"{folder}: expected as many frames of every camera, found {counts}: choose "
                "cameras that were recorded, or copy the demonstration again."
            )
        self.num_frames = next(iter(counts.values()))
        self.segments = [(0, self.num_frames)]
        first = self.read([0])
        self.size: tuple[int, int] = (first.shape[-2], first.shape[-1])
        variation = next((p.name for p in folder.parents if "variation" in p.name), "")
        self.attributes = {"file": folder.name, "variation": variation, "task": _task(folder)}

    @cached_property
    def caption(self) -> str:
        """The instruction of the variation."""
        places = [self.folder / DESCRIPTIONS, self.folder.parent.parent / DESCRIPTIONS]
        path = next((p for p in places if p.is_file()), None)
        if path is None:
            raise ValueError(f"{self.folder}: expected {DESCRIPTIONS} in {places}, found none.")
        texts = read_records(path)
        if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
            raise ValueError(f"{path}: expected a list of texts, found {type(texts).__name__}.")
        return max(texts, key=len) if self._source.description == "longest" else texts[0]

    @property
    def actions(self) -> Float[np.ndarray, "t 8"]:
        """Row t is the step into frame t: the gripper's pose there (m, quaternion x y z w with a
        sign that never jumps) and 1 where it is open."""
        return self._numbers[1]

    @property
    def state(self) -> Float[np.ndarray, "t s"]:
        """Proprioception at every frame, as the source was asked for it."""
        joints, pose = self._numbers
        chosen = {"joints": [joints], "pose": [pose], "joints+pose": [joints, pose]}
        return np.concatenate(chosen[self._source.state], axis=1)

    def extra(self, name: str) -> Float[np.ndarray, "t s"]:
        if name != "observation.state":
            raise ValueError(f"RLBench has the column observation.state, asked for {name!r}.")
        return self.state

    def read(self, indices: Sequence[int]) -> UInt8[np.ndarray, "v n 3 h w"]:
        """RGB frames of the cameras."""
        views = [[self._picture(f"{c}_rgb", i) for i in indices] for c in self._source.views]
        return rearrange(np.array(views), "v n h w c -> v n c h w")

    def read_labels(self, indices: Sequence[int]) -> UInt8[np.ndarray, "v n h w"] | None:
        """Class maps from the handle pictures and the episode's grouping; None without one."""
        if (classes := self._classes) is None:
            return None
        views = [[self._picture(f"{c}_mask", i) for i in indices] for c in self._source.views]
        return group_handles(handles_of(np.array(views)), classes)

    @cached_property
    def _classes(self) -> dict[int, int] | None:
        path = self.folder / GROUPS
        if not path.is_file():
            return None
        try:
            groups = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is no JSON ({error}): write it again.") from error
        if unknown := sorted(set(groups) - set(self._names)):
            raise ValueError(f"{path}: expected the classes {self._names}, found {unknown}.")
        pairs = [(int(h), self._names.index(name)) for name, hs in groups.items() for h in hs]
        if len(dict(pairs)) < len(set(pairs)):
            raise ValueError(f"{path}: expected every handle in one class, found one in two.")
        return dict(pairs)

    @cached_property
    def _numbers(self) -> tuple[np.ndarray, np.ndarray]:
        """Joint angles, and pose with opening, at every frame."""
        path = self.folder / LOW_DIM
        demo = read_records(path)
        rows = demo
        if isinstance(demo, Record):
            rows = demo.state.get("_observations") if isinstance(demo.state, dict) else None
        if not isinstance(rows, list) or len(rows) != self.num_frames:
            found = f"{len(rows)}" if isinstance(rows, list) else type(demo).__name__
            raise ValueError(
                f"{path}: expected observations of {self.num_frames} frames, found {found}: copy "
                "the demonstration again."
            )
        joints, pose = [], []
        for number, row in enumerate(rows):
            facts = row.state if isinstance(row, Record) else None
            where = f"{path}, observation {number}"
            joints.append(_vector(facts, "joint_positions", 7, where))
            opening = _vector(facts, "gripper_open", 1, where)
            pose.append(np.concatenate([_vector(facts, "gripper_pose", 7, where), opening]))
        poses = np.stack(pose)
        poses[:, 3:7] = _continuous(poses[:, 3:7])
        return np.stack(joints).astype(np.float32), poses.astype(np.float32)

    def _picture(self, folder: str, number: int) -> np.ndarray:
        path = self.folder / folder / f"{number}.png"
        if not path.is_file():
            raise ValueError(f"{path} is missing: copy the demonstration again.")
        return decode_image(path.read_bytes(), False, str(path))


def handles_of(pictures: UInt8[np.ndarray, "*n h w 3"]) -> Int[np.ndarray, "*n h w"]:
    """Object handles from RGB: R + 256 G + 65536 B."""
    r, g, b = np.moveaxis(pictures.astype(np.int64), -1, 0)
    return r + 256 * g + 65536 * b


def group_handles(
    handles: Int[np.ndarray, "*n h w"], classes: dict[int, int]
) -> UInt8[np.ndarray, "*n h w"]:
    """The class of every pixel's handle; 0, background, where `classes` names none."""
    found, back = np.unique(handles, return_inverse=True)
    table = np.array([classes.get(int(h), 0) for h in found], dtype=np.uint8)
    return table[back].reshape(handles.shape)


def _continuous(quaternions: Float[np.ndarray, "t 4"]) -> Float[np.ndarray, "t 4"]:
    """The same rotations; the first has w >= 0, and none has the sign opposite to the one before
    (q and -q are one rotation, and simulators jump between them)."""
    signs = np.where((quaternions[1:] * quaternions[:-1]).sum(axis=1) < 0, -1.0, 1.0)
    first = -1.0 if quaternions[0, 3] < 0 else 1.0
    return quaternions * np.cumprod([first, *signs])[:, None]


def _vector(facts: Any, name: str, width: int, where: str) -> np.ndarray:
    value = facts.get(name) if isinstance(facts, dict) else None
    vector = np.atleast_1d(np.asarray(value, dtype=np.float64)) if value is not None else None
    if vector is None or vector.shape != (width,):
        raise ValueError(
            f"{where}: expected {width} numbers as {name}, found "
            f"{'none' if vector is None else vector.shape}: record it with all low-dimensional "
            "observations."
        )
    return vector


def _task(folder: Path) -> str:
    """The folder above variation<k> or all_variations."""
    above = next((p.parent.name for p in folder.parents if "variation" in p.name), "")
    return above or folder.parent.name


def _natural_order(path: Path) -> list[tuple[int, int, str]]:
    """episode2 before episode10."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]
