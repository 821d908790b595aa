"""LIBERO's HDF5 demonstrations, on files of its schema (no LIBERO is installed here)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskworld.data.control import ControlClips, ControlWindow, MemoryPick
from maskworld.data.control_statistics import control_statistics
from maskworld.data.lerobot_reader import LeRobotSource
from maskworld.data.sources.libero import LiberoSource, masks_beside
from maskworld.preparation.conversion import ImportSettings
from maskworld.preparation.importing import import_source

h5py = pytest.importorskip("h5py")
LENGTH, SIZE = 12, (8, 10)
TASK = "KITCHEN_SCENE3_turn_on_the_stove"
STILL = (4, 5, 9)
"""Rows whose action moves nothing; at row 9 the gripper closes."""


def write_demos(
    folder: Path,
    timing: str = "after",
    *,
    num_demos: int = 2,
    with_info: bool = True,
    name: str = TASK,
    **changes: Any,
) -> Path:
    """A file as LIBERO's `create_dataset.py` writes it: simulator step k is at joint angle 0.1 k,
    action k leads from it to step k + 1, and frame values tell the step they show."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}_demo.hdf5"
    shown = np.arange(LENGTH) + (timing == "after")
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        if with_info:
            info = {"language_instruction": ["turn on ", "the stove"], "problem_name": "p"}
            data.attrs["problem_info"] = json.dumps(info)
        for demo in range(num_demos):
            group = data.create_group(f"demo_{demo}")
            actions = np.zeros((LENGTH, 7))
            actions[:, 0] = 0.5 + 0.01 * np.arange(LENGTH)
            actions[list(STILL), 0] = 0
            actions[:, 6] = np.where(np.arange(LENGTH) < 9, -1, 1)
            states = np.zeros((LENGTH, 30))
            states[:, 0] = 0.05 * np.arange(LENGTH)
            states[:, 1:8] = 0.1 * np.arange(LENGTH)[:, None]
            frames = np.zeros((LENGTH, *SIZE, 3), dtype=np.uint8)
            frames[:] = shown[:, None, None, None]
            frames[:, 0, :-1] += 100  # the top row of the file is the floor of the scene
            columns = {
                "agentview_rgb": frames,
                "eye_in_hand_rgb": frames + 50,
                "ee_states": np.repeat(shown[:, None], 6, axis=1).astype(np.float64),
                "gripper_states": np.repeat(-shown[:, None], 2, axis=1).astype(np.float64),
                "joint_states": 0.1 * np.repeat(shown[:, None], 7, axis=1),
            }
            for key, values in (columns | changes).items():
                if values is not None:
                    group.create_dataset(f"obs/{key}", data=values)
            group.create_dataset("actions", data=actions)
            group.create_dataset("states", data=states)
            group.create_dataset("robot_states", data=np.zeros((LENGTH, 9)))
            group.attrs["num_samples"] = LENGTH
    return path


def write_masks(path: Path, length: int = LENGTH) -> None:
    with h5py.File(masks_beside(path), "w") as file:
        data = file.create_group("data")
        data.attrs["label_names"] = json.dumps(["background", "robot", "object"])
        for demo in ("demo_0", "demo_1"):
            maps = np.zeros((length, *SIZE), dtype=np.uint8)
            maps[:, 0] = 2
            for camera in ("agentview", "eye_in_hand"):
                data.create_dataset(f"{demo}/{camera}_labels", data=maps, compression="gzip")


def test_a_demonstration_is_an_episode_turned_upright(tmp_path: Path) -> None:
    write_demos(tmp_path / "libero_goal")
    source = LiberoSource(tmp_path / "libero_goal")
    assert (source.name, len(source), source.size) == ("libero_goal", 2, SIZE)
    assert source.views == ["agentview", "eye_in_hand"]
    episode = source.episode(1)
    assert (episode.caption, episode.fps, episode.num_frames) == ("turn on the stove", 20.0, LENGTH)
    assert episode.attributes["demo"] == "demo_1"
    frames = episode.read([3, 1, 3])
    assert frames.shape == (2, 3, 3, *SIZE)
    assert frames[0, :, 0, 0, 0].tolist() == [4, 2, 4]
    assert frames[1, :, 0, 0, 0].tolist() == [54, 52, 54]
    assert (frames[0, :, 0, -1, 1] - frames[0, :, 0, 0, 0]).tolist() == [100] * 3
    assert frames[0, 0, 0, -1, 0] == 4  # the file's top right corner
    assert episode.state.shape == (LENGTH, 8)
    assert episode.state[2].tolist() == [3] * 6 + [-3] * 2
    assert episode.read_labels([0]) is None
    as_stored = LiberoSource(tmp_path / "libero_goal", rotates=False).episode(0).read([0])
    assert as_stored[0, 0, 0, 0, [0, -1]].tolist() == [101, 1]


@pytest.mark.parametrize("timing", ["after", "before"])
def test_whether_observations_follow_or_precede_actions_is_measured(
    tmp_path: Path, timing: Any
) -> None:
    path = write_demos(tmp_path / "suite", timing)
    episode = LiberoSource(path).episode(0)
    recorded = LiberoSource(path, timing=timing).episode(0)
    np.testing.assert_array_equal(episode.actions, recorded.actions)
    # Frame values tell the simulator step; the action into step k is k - 1.
    for frame in range(1, LENGTH):
        step = int(episode.read([frame])[0, 0, 0, 0, 0])
        expected = 0 if step - 1 in STILL else 0.5 + 0.01 * (step - 1)
        assert episode.actions[frame, 0] == pytest.approx(expected)
    flat = write_demos(tmp_path / "flat", joint_states=np.zeros((LENGTH, 7)))
    with pytest.raises(ValueError, match="say timing='after'"):
        _ = LiberoSource(flat).episode(0).actions


@pytest.mark.parametrize("timing", ["after", "before"])
def test_frames_whose_action_moves_nothing_are_dropped(tmp_path: Path, timing: str) -> None:
    path = write_demos(tmp_path / "suite", timing)
    episode = LiberoSource(path, drops_noops=True).episode(0)
    steps = episode.read(range(episode.num_frames))[0, :, 0, 0, 0].tolist()
    # Of the rows 4, 5 and 9, only at 9 the gripper changes.
    last = LENGTH - (timing == "before")
    assert steps == [s for s in range(timing == "after", last + 1) if s not in (4, 5)]
    assert [int(s) for s in episode.state[:, 0]] == steps
    applied = [0.0 if s in STILL else pytest.approx(0.5 + 0.01 * s) for s in steps[:-1]]
    assert episode.actions[1:, 0].tolist() == applied


def test_files_without_attributes_are_told_by_their_name(tmp_path: Path) -> None:
    write_demos(tmp_path / "suite", with_info=False)
    assert LiberoSource(tmp_path / "suite").episode(0).caption == "turn on the stove"


def test_masks_beside_a_file_are_its_labels(tmp_path: Path) -> None:
    path = write_demos(tmp_path / "suite")
    write_masks(path)
    source = LiberoSource(tmp_path / "suite")
    assert (len(source), source.label_names) == (2, ["background", "robot", "object"])
    labels = source.episode(0).read_labels([2, 5])
    assert labels is not None
    assert labels.shape == (2, 2, *SIZE)
    assert (labels[..., -1, :] == 2).all()
    assert (labels[..., :-1, :] == 0).all()
    write_masks(path, length=3)
    with pytest.raises(ValueError, match=r"demo_0: expected masks of 12 frames, found \[3, 3\]"):
        source.episode(0).read_labels([2])


def test_an_import_keeps_the_clips_as_they_were(tmp_path: Path) -> None:
    write_masks(write_demos(tmp_path / "suite"))
    source = LiberoSource(tmp_path / "suite")
    import_source(source, tmp_path / "stored", ImportSettings(codec="png"))
    stored = LeRobotSource(tmp_path / "stored")
    window = ControlWindow(MemoryPick(2, "every", stride=2), num_future=2, frame_stride=2, chunk=4)
    a, b = (ControlClips(s, window, reads_labels=True)[4] for s in (source, stored))
    assert a.control is not None
    assert b.control is not None
    for name in ("state", "actions", "states", "is_real"):
        assert getattr(a.control, name).tolist() == getattr(b.control, name).tolist(), name
    assert a.frames is not None
    assert (a.frames == b.frames).all()
    assert (a.labels == b.labels).all()  # type: ignore[union-attr]
    assert a.caption == b.caption
    assert control_statistics(source).stats == control_statistics(stored).stats


def test_bad_files_name_themselves(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected LIBERO's demonstrations \(\*.hdf5\) at"):
        LiberoSource(tmp_path)
    broken = tmp_path / "a_demo.hdf5"
    broken.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40))
    with pytest.raises(ValueError, match=r"a_demo.hdf5 cannot be read"):
        LiberoSource(broken)
    blind = write_demos(tmp_path / "blind", eye_in_hand_rgb=None)
    with pytest.raises(ValueError, match=r"demo_0: expected cameras \['eye_in_hand'\], found"):
        LiberoSource(blind)
    assert len(LiberoSource(blind, cameras=["agentview"]).views) == 1
    wide = write_demos(tmp_path / "wide", ee_states=np.zeros((LENGTH, 7)))
    with pytest.raises(ValueError, match=r"expected ee_states of shape \(12, 6\), found \(12, 7\)"):
        _ = LiberoSource(wide).episode(0).state
