"""RLBench's saved demonstrations, and pickles as data, on files of their schema."""

from __future__ import annotations

import json
import os
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from maskworld.data.control import ControlClips, ControlWindow, MemoryPick
from maskworld.data.pickle_records import Record, read_records
from maskworld.data.sources.rlbench import RLBenchSource, handles_of

LENGTH = 5
ROBOT, LAPTOP = 300, 2 * 65536 + 5
"""Handles whose code needs green and blue."""


@pytest.fixture
def rlbench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Classes of RLBench's names, there while a fixture is pickled and gone when it is read."""
    for package in ("rlbench", "rlbench.backend"):
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    modules = {"rlbench.demo": "Demo", "rlbench.backend.observation": "Observation"}
    made: dict[str, Any] = {}
    for module_name, class_name in modules.items():
        module = types.ModuleType(module_name)
        made[class_name] = type(class_name, (), {"__module__": module_name})
        setattr(module, class_name, made[class_name])
        monkeypatch.setitem(sys.modules, module_name, module)
    return types.SimpleNamespace(**made)


def write_demo(folder: Path, classes: Any, *, protocol: int = 4, length: int = LENGTH) -> None:
    """As RLBench's dataset generator saves it; frame t is grey of value t."""
    demo = classes.Demo()
    demo._observations = []
    demo.random_seed = np.random.RandomState(0).get_state()
    for t in range(length):
        row = classes.Observation()
        row.front_rgb = row.wrist_rgb = row.front_mask = None
        row.joint_positions = np.arange(7) + 0.1 * t
        sign = -1.0 if t == 2 else 1.0
        row.gripper_pose = np.array([t, 1, 2, *(sign * np.array([0, 0, 0.6, 0.8]))])
        row.gripper_open = float(t < 3)
        row.misc = {"front_camera_near": 0.1}
        demo._observations.append(row)
    folder.mkdir(parents=True)
    (folder / "low_dim_obs.pkl").write_bytes(pickle.dumps(demo, protocol))
    handles = np.full((6, 8), 12)
    handles[:3], handles[4:] = ROBOT, LAPTOP
    code = np.stack([handles % 256, handles // 256 % 256, handles // 65536], axis=-1)
    for camera in ("front", "wrist"):
        for kind in ("rgb", "mask"):
            (folder / f"{camera}_{kind}").mkdir()
            for t in range(length):
                picture = np.full((6, 8, 3), t) if kind == "rgb" else code
                bgr = np.ascontiguousarray(picture[..., ::-1].astype(np.uint8))
                cv2.imwrite(str(folder / f"{camera}_{kind}" / f"{t}.png"), bgr)


def write_task(root: Path, classes: Any, num_episodes: int = 2) -> Path:
    variation = root / "close_laptop_lid/variation0"
    for number in range(num_episodes):
        write_demo(variation / f"episodes/episode{number}", classes)
    texts = ["close the lid", "close the lid of the laptop", "shut it"]
    (variation / "variation_descriptions.pkl").write_bytes(pickle.dumps(texts))
    return variation


def test_a_saved_demonstration_is_an_episode(
    tmp_path: Path, rlbench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_task(tmp_path, rlbench, num_episodes=11)
    for name in [name for name in sys.modules if name.startswith("rlbench")]:
        monkeypatch.delitem(sys.modules, name)
    source = RLBenchSource(tmp_path)
    assert (len(source), source.size, source.views) == (11, (6, 8), ["front", "wrist"])
    episode = source.episode(2)
    assert episode.folder.name == "episode2"  # not episode10
    assert (episode.caption, episode.num_frames) == ("close the lid of the laptop", LENGTH)
    assert episode.attributes["task"] == "close_laptop_lid"
    assert RLBenchSource(tmp_path, description="first").episode(0).caption == "close the lid"
    assert episode.read([3, 1])[:, :, 0, 0, 0].tolist() == [[3, 1], [3, 1]]
    np.testing.assert_allclose(episode.state[3], np.arange(7) + 0.3, rtol=1e-6)
    # The rotation never changes, though the simulator's sign does.
    np.testing.assert_allclose(episode.actions[:, 3:7], [[0, 0, 0.6, 0.8]] * LENGTH, rtol=1e-6)
    assert episode.actions[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert episode.actions[:, 7].tolist() == [1, 1, 1, 0, 0]
    assert RLBenchSource(tmp_path, state="joints+pose").episode(0).state.shape == (LENGTH, 15)
    assert (source.label_names, episode.read_labels([0])) == (None, None)


def test_masks_follow_the_grouping_of_their_episode(tmp_path: Path, rlbench: Any) -> None:
    variation = write_task(tmp_path, rlbench)
    groups = [{"robot": [ROBOT], "object": [LAPTOP]}, {"object": [ROBOT]}]
    for number, found in enumerate(groups):
        path = variation / f"episodes/episode{number}/mask_groups.json"
        path.write_text(json.dumps(found))
    source = RLBenchSource(tmp_path / "close_laptop_lid", cameras=["front"])
    assert source.label_names == ["background", "robot", "object"]
    for number, column in enumerate(([1, 1, 1, 0, 2, 2], [2, 2, 2, 0, 0, 0])):
        labels = source.episode(number).read_labels([4])
        assert labels is not None
        assert labels.shape == (1, 1, 6, 8)
        assert labels[0, 0, :, 3].tolist() == column
    window = ControlWindow(MemoryPick(2, "every"), num_future=1, frame_stride=2, chunk=3)
    clip = ControlClips(source, window, reads_labels=True)[1]
    assert clip.labels is not None
    assert clip.control is not None
    assert clip.control.actions[:, 0].tolist() == [2, 3, 4]
    for text, message in (
        ('{"cup": [1]}', r"expected the classes .* found \['cup'\]"),
        ('{"robot": [7], "object": [7]}', "expected every handle in one class"),
        ("{", "is no JSON"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            RLBenchSource(tmp_path, cameras=["front"]).episode(1).read_labels([0])


def test_a_handle_is_coded_in_red_green_and_blue() -> None:
    assert handles_of(np.array([[[[44, 1, 0], [5, 0, 2]]]], dtype=np.uint8)).tolist() == [
        [[ROBOT, LAPTOP]]
    ]


def test_damaged_demonstrations_name_themselves(tmp_path: Path, rlbench: Any) -> None:
    with pytest.raises(ValueError, match="Expected RLBench's demonstrations"):
        RLBenchSource(tmp_path)
    folder = write_task(tmp_path, rlbench, 1) / "episodes/episode0"
    with pytest.raises(ValueError, match=r"found \{'front': 5, 'overhead': 0\}"):
        RLBenchSource(tmp_path, cameras=["front", "overhead"])
    (folder / "wrist_rgb/4.png").unlink()
    with pytest.raises(ValueError, match=r"found \{'front': 5, 'wrist': 4\}"):
        RLBenchSource(tmp_path)
    whole = (folder / "low_dim_obs.pkl").read_bytes()
    for content, message in (
        (whole[: len(whole) // 2], "cannot be read as data"),
        (pickle.dumps(["nothing"]), "expected observations of 5 frames, found 1"),
        (pickle.dumps(["nothing"] * 5), "expected 7 numbers as joint_positions, found none"),
    ):
        (folder / "low_dim_obs.pkl").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            _ = RLBenchSource(tmp_path, cameras=["front"]).episode(0).state


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_in_a_pickle_runs(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps([Evil(tmp_path / "made")], protocol))
    (found,) = read_records(path)
    assert isinstance(found, Record)
    assert found.name == f"{os.mkdir.__module__}.mkdir"
    assert not (tmp_path / "made").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "made").exists()  # it would have


@pytest.mark.parametrize("protocol", range(6))
def test_long_recordings_keep_every_array_apart(tmp_path: Path, protocol: int) -> None:
    """Objects come and go while a pickle is read: memory that is used again mixes nothing up."""
    path, rng = tmp_path / "long.pkl", np.random.default_rng(protocol)
    for length in rng.integers(1, 60, 20):
        rows = [
            {"joints": rng.random(7), "small": rng.random((2, i % 4 + 1)).astype(np.float32)}
            for i in range(length)
        ]
        path.write_bytes(pickle.dumps(rows, protocol))
        for row, found in zip(rows, read_records(path), strict=True):
            np.testing.assert_array_equal(found["joints"], row["joints"])
            np.testing.assert_array_equal(found["small"], row["small"])


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_and_arrays_are_read_as_pickle_reads_them(tmp_path: Path, protocol: int) -> None:
    shared = [1, 2]
    data = {
        "numbers": [0, -1, 2**40, 1.5, True, None, 2**70],
        "texts": ("a", "ä", b"\x00\xff", ()),
        "shared": [shared, shared],
        "set": {1, 2},
        "ordered": OrderedDict(a=1),
        "scalar": np.float64(0.25),
        "flag": np.bool_(True),
        "many": {str(i): (i, i + 1, i + 2, i + 3) for i in range(300)},
    }
    arrays = {
        "rows": np.arange(6, dtype=np.float32).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "bools": np.array([True, False]),
        "empty": np.zeros((0, 3), dtype=np.uint8),
    }
    arrays["again"] = arrays["rows"]
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(data | arrays, protocol))
    found = read_records(path)
    assert {k: found[k] for k in data} == data
    assert found["shared"][0] is found["shared"][1]
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype, name


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(np.array([{}, []], dtype=object)))
    with pytest.raises(ValueError, match=r"cannot be read as data \(ValueError: an array of"):
        read_records(path)
