"""LIBERO's demonstrations: HDF5 files, one per task, as robot episodes.

    SUITE/<task>_demo.hdf5            data/demo_<i>/{actions, states, obs/...}
    SUITE/<task>_demo_masks.hdf5      data/demo_<i>/{agentview_labels, eye_in_hand_labels}: optional

- `actions` (t, 7): OSC_POSE steps dx, dy, dz, rotation (axis-angle), gripper (-1 open, 1 close).
- `obs/agentview_rgb`, `obs/eye_in_hand_rgb` (t, h, w, 3): bottom-up as rendered; the convention of
  policies turns both by 180 degrees.
- The state is `obs/ee_states` (position 3, axis-angle 3) and `obs/gripper_states` (2): 8 numbers.
- LIBERO's own files hold the observation *after* each action (`scripts/create_dataset.py` records
  what `env.step` returns); files regenerated for OpenVLA hold the one *before*. `states` (simulator
  states) are those before in both, so the joint angles in them tell which file it is.
- The instruction is in the attribute `problem_info`; files without it name it in their file name,
  as LIBERO's `grab_language_from_filename` reads it.

Mask files are ours: uint8 label maps, bottom-up like the frames, gzip; the attribute `label_names`
of `data` is a JSON list. 20 Hz. Nothing of LIBERO, robosuite or MuJoCo is imported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int, UInt8

from maskworld.data.episodes import Recent

FPS = 20.0
CAMERAS = ("agentview", "eye_in_hand")
ACTION_NAMES = ("x", "y", "z", "rx", "ry", "rz", "gripper")
STATE_NAMES = (*ACTION_NAMES[:6], "finger_left", "finger_right")
MASKS_SUFFIX = "_masks.hdf5"
NOOP_THRESHOLD = 1e-4
"""Norm of a step without its gripper, below which it is none (OpenVLA's regenerated data)."""
_CACHED_EPISODES = 64
"""Their numbers alone; frames are read anew."""
_JOINTS = slice(1, 8)
"""Of a flattened simulator state: time, then the robot's seven joints, then all others."""

Timing = Literal["measured", "after", "before"]


class LiberoSource:
    """Every demonstration of a file, or of all files of a suite's folder, is an episode.

    Args:
        path: a `*.hdf5` file or a folder of them.
        cameras: which of "agentview" and "eye_in_hand", in this order.
        rotates: turn frames and masks by 180 degrees.
        drops_noops: leave out frames whose action moves nothing and keeps the gripper as it is.
            The steps that remain are as recorded; OpenVLA replays them in the simulator instead.
        timing: whether observations follow or precede the action of their row; "measured" finds
            out from the recorded joint angles.

    Raises:
        ValueError: no demonstrations, a damaged file, a missing camera or column; names the file.
    """

    action_names = ACTION_NAMES
    fps = FPS

    def __init__(
        self,
        path: Path | str,
        *,
        cameras: Sequence[str] = CAMERAS,
        rotates: bool = True,
        drops_noops: bool = False,
        timing: Timing = "measured",
    ) -> None:
        if timing not in ("measured", "after", "before"):
            raise ValueError(f"Expected timing 'measured', 'after' or 'before', got {timing!r}.")
        self.views, self.rotates, self.drops_noops = list(cameras), rotates, drops_noops
        self.timing = timing
        path = Path(path)
        self.name = path.stem if path.is_file() else path.resolve().name
        files = [path] if path.is_file() else sorted(path.glob("*.hdf5"))
        files = [file for file in files if not file.name.endswith(MASKS_SUFFIX)]
        self._demos: list[tuple[Path, str]] = []
        self._recent: Recent[int, LiberoEpisode] = Recent(_CACHED_EPISODES)
        for file in files:
            with open_hdf5(file) as root:
                self._demos += [(file, demo) for demo in _demos(root, file)]
        if not self._demos:
            raise ValueError(
                f"Expected LIBERO's demonstrations (*.hdf5) at {path}, found none: name the folder "
                "of a suite, such as libero_goal."
            )
        self.size = self.episode(0).size
        self.features = {"observation.state": {"dtype": "float32", "shape": [len(STATE_NAMES)]}}
        """Further columns that an import keeps."""

    @cached_property
    def label_names(self) -> list[str] | None:
        """Class names, from the first file's masks; None without."""
        path = masks_beside(self._demos[0][0])
        if not path.is_file():
            return None
        with open_hdf5(path) as root:
            names = json.loads(root["data"].attrs.get("label_names", "[]"))
        if not names:
            raise ValueError(f"{path}: expected class names as label_names of `data`, found none.")
        return list(names)

    def __len__(self) -> int:
        return len(self._demos)

    def episode(self, index: int) -> LiberoEpisode:
        if not 0 <= index < len(self):
            raise ValueError(f"{self.name} has {len(self)} demonstrations, asked for {index}.")
        return self._recent.get(index, lambda: LiberoEpisode(self, *self._demos[index]))


class LiberoEpisode:
    """One demonstration; frames are read only when asked for."""

    fps = FPS

    def __init__(self, source: LiberoSource, path: Path, demo: str) -> None:
        self._source, self.path, self.demo = source, path, demo
        self._where = f"{path}, {demo}"
        with self._open() as (root, group):
            self.caption = instruction(root, path)
            columns = {c: f"{c}_rgb" for c in source.views}
            found = {c: group["obs"][k] for c, k in columns.items() if k in group["obs"]}
            if missing := [c for c in source.views if c not in found]:
                raise ValueError(
                    f"{self._where}: expected cameras {missing}, found the observations "
                    f"{sorted(group['obs'])}. Make the file with images, or choose its cameras."
                )
            self._num_rows = len(group["actions"])
            shapes = {c: tuple(d.shape) for c, d in found.items()}
            sizes = {shape[1:3] for shape in shapes.values()}
            if len(sizes) > 1 or any(s[0] != self._num_rows for s in shapes.values()):
                raise ValueError(
                    f"{self._where}: expected a frame of one size for each of {self._num_rows} "
                    f"actions, found {shapes}. Copy or make the file again."
                )
        self.size: tuple[int, int] = sizes.pop()
        self.attributes = {"file": path.name, "demo": demo, "task": path.stem.removesuffix("_demo")}

    @property
    def num_frames(self) -> int:
        return len(self._kept) if self._source.drops_noops else self._num_rows

    @property
    def segments(self) -> list[tuple[int, int]]:
        return [(0, self.num_frames)]

    @cached_property
    def timing(self) -> Literal["after", "before"]:
        """Whether a row's observation follows or precedes its action."""
        if self._source.timing != "measured":
            return self._source.timing
        with self._open() as (_, group):
            return self._measure(group)

    @property
    def actions(self) -> Float[np.ndarray, "t 7"]:
        """Row t is the step into frame t."""
        return self._numbers[0]

    @property
    def state(self) -> Float[np.ndarray, "t 8"]:
        """Hand position, axis-angle and the two fingers, at every frame."""
        return self._numbers[1]

    def extra(self, name: str) -> Float[np.ndarray, "t 8"]:
        if name != "observation.state":
            raise ValueError(f"LIBERO has the column observation.state, asked for {name!r}.")
        return self.state

    def read(self, indices: Sequence[int]) -> UInt8[np.ndarray, "v n 3 h w"]:
        """RGB frames of the cameras."""
        with self._open() as (_, group):
            views = [self._rows(group["obs"][f"{c}_rgb"], indices) for c in self._source.views]
        return rearrange(np.stack(views), "v n h w c -> v n c h w")

    def read_labels(self, indices: Sequence[int]) -> UInt8[np.ndarray, "v n h w"] | None:
        """Class maps of the cameras from the file of masks beside; None without one."""
        path = masks_beside(self.path)
        if not path.is_file():
            return None
        with open_hdf5(path) as root:
            group = root["data"].get(self.demo)
            names = [f"{camera}_labels" for camera in self._source.views]
            if group is None or any(name not in group for name in names):
                raise ValueError(f"{path}: expected {names} of {self.demo}: render them again.")
            if any(len(group[name]) != self._num_rows for name in names):
                raise ValueError(
                    f"{path}, {self.demo}: expected masks of {self._num_rows} frames, found "
                    f"{[len(group[name]) for name in names]}. Render them again."
                )
            return np.stack([self._rows(group[name], indices) for name in names])

    def _rows(self, column: Any, indices: Sequence[int]) -> np.ndarray:
        wanted = self._kept[list(indices)] if self._source.drops_noops else np.array(indices)
        rows, back = np.unique(wanted, return_inverse=True)  # HDF5 wants them in order
        found = column[rows][back]
        return found[:, ::-1, ::-1] if self._source.rotates else found

    @cached_property
    def _numbers(self) -> tuple[np.ndarray, np.ndarray]:
        with self._open() as (_, group):
            state = np.concatenate(
                [self._column(group["obs"], "ee_states"), self._column(group["obs"], _FINGERS)], 1
            )
        into, kept = self._into, self._kept
        if self._source.drops_noops:  # the action at a kept frame leads to the next kept one
            applied = into[np.minimum(kept[:-1] + 1, self._num_rows - 1)]
            into, state = np.concatenate([into[kept[:1]], applied]), state[kept]
        return into.astype(np.float32), state.astype(np.float32)

    @cached_property
    def _into(self) -> np.ndarray:
        """Row t is the step into recorded frame t."""
        with self._open() as (_, group):
            actions = self._column(group, "actions")
        is_after = self.timing == "after"
        return actions if is_after else np.concatenate([actions[:1], actions[:-1]])

    @cached_property
    def _kept(self) -> Int[np.ndarray, " k"]:
        """Recorded frames that stay: the last, and those whose action is no no-op."""
        applied = self._into[1:]
        kept: list[int] = []
        for frame, action in enumerate(applied):
            is_still = float(np.linalg.norm(action[:-1])) < NOOP_THRESHOLD
            if not is_still or (kept and action[-1] != applied[kept[-1]][-1]):
                kept.append(frame)
        return np.array([*kept, self._num_rows - 1])

    def _measure(self, group: Any) -> Literal["after", "before"]:
        """Whether observed joint angles are those of the simulator state before or after a row."""
        if "states" in group and "joint_states" in group["obs"] and self._num_rows > 1:
            simulated, observed = group["states"][:, _JOINTS], group["obs"]["joint_states"][:]
            if simulated.shape == observed.shape:
                before = float(np.abs(observed - simulated)[:-1].mean())
                after = float(np.abs(observed[:-1] - simulated[1:]).mean())
                if min(before, after) < 0.5 * max(before, after):
                    return "before" if before < after else "after"
        raise ValueError(
            f"{self._where}: expected obs/joint_states that fit `states` before or after each "
            "action, found neither: say timing='after' (LIBERO's own files) or 'before' "
            "(regenerated for OpenVLA)."
        )

    def _column(self, group: Any, name: str) -> np.ndarray:
        width = _WIDTHS[name]
        shape = tuple(group[name].shape) if name in group else None
        if shape != (self._num_rows, width):
            raise ValueError(
                f"{self._where}: expected {name} of shape {(self._num_rows, width)}, found "
                f"{shape}. Make the file with LIBERO's scripts/create_dataset.py."
            )
        return group[name][:]

    @contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        with open_hdf5(self.path) as root:
            yield root, root["data"][self.demo]


_FINGERS = "gripper_states"
_WIDTHS = {"ee_states": 6, _FINGERS: 2, "actions": 7}


def masks_beside(path: Path) -> Path:
    """Where the masks of a file of demonstrations lie."""
    return path.with_name(path.stem + MASKS_SUFFIX)


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """An HDF5 file for reading, that has a group `data`; opened for each use, so that workers do
    not share it.

    Raises:
        ValueError: no h5py, or no such file, or a damaged one.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ValueError(
            "LIBERO's files need the package h5py: pip install 'maskworld[robot]'."
        ) from error
    try:
        with h5py.File(path, "r", locking=False) as root:
            if "data" not in root:
                raise ValueError(f"{path} has no group `data`: expected LIBERO's demonstrations.")
            yield root
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error}): copy or make it again.") from error


def instruction(root: Any, path: Path) -> str:
    """What the robot is told: of the file's attributes, else of its name."""
    info = root["data"].attrs.get("problem_info")
    if info is not None:
        text = json.loads(info)["language_instruction"]
        return " ".join(("".join(text) if isinstance(text, list) else text).split())
    words = re.sub(r"^[A-Z_]+SCENE\d+_", "", path.stem.removesuffix("_demo"))
    return " ".join(words.split("_"))


def _demos(root: Any, path: Path) -> list[str]:
    names = [name for name in root["data"] if re.fullmatch(r"demo_\d+", name)]
    for name in names:
        if missing := {"actions", "obs"} - set(root["data"][name]):
            raise ValueError(f"{path}, {name}: expected {sorted(missing)}: copy the file again.")
    return sorted(names, key=lambda name: int(name.removeprefix("demo_")))
