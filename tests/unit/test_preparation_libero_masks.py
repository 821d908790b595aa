"""Masks drawn from stored states, on a small model with the names of LIBERO's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from metaworld_gl import needs_gl
from test_data_sources_libero import LENGTH, SIZE, write_demos

from maskworld.data.sources.libero import LiberoSource, masks_beside
from maskworld.preparation.libero_masks import geom_classes, load_model, render_libero_masks

h5py = pytest.importorskip("h5py")
mujoco = pytest.importorskip("mujoco")
# Seven joints of the robot come first, as in robosuite; the bowl slides sideways. A camera looks
# down: the robot fills the upper half of its picture.
JOINTS = [f'<joint name="robot0_j{i}" axis="0 0 1"/>' for i in range(7)]
MODEL = f"""
<mujoco><asset><texture name="t" type="2d" file="/home/someone/assets/tex/wood.png"/></asset>
<worldbody>
  <camera name="agentview" pos="0 0 3"/>
  <geom name="table" type="box" size="2 2 .01" pos="0 0 -1" group="1"/>
  <body name="robot0_base" pos="0 1 0">{"".join(JOINTS[:4])}
    <geom type="box" size="9 1 .1" group="0"/>
    <camera name="robot0_eye_in_hand" pos="0 -1 3"/>
    <body name="unnamed">{"".join(JOINTS[4:])}
      <geom type="box" size="2 1 .1" group="1"/></body></body>
  <body name="bowl_1_main" pos="-.7 -.5 0"><joint type="slide" axis="1 0 0"/>
    <geom type="box" size=".3 .3 .1" group="1"/></body>
  <body name="bowl_10_main" pos="0 -.5 -9"><geom type="box" size=".1 .1 .1" group="1"/></body>
</worldbody></mujoco>
"""


def write_recording(folder: Path, timing: str = "before") -> Path:
    """The bowl moves 0.1 to the right with every simulator step."""
    import cv2

    path = write_demos(folder, timing, num_demos=1)
    (folder / "assets/tex").mkdir(parents=True)
    cv2.imwrite(str(folder / "assets/tex/wood.png"), np.zeros((4, 4, 3), dtype=np.uint8))
    with h5py.File(path, "a") as file:
        data = file["data"]
        data.attrs["bddl_file_content"] = "(define (:obj_of_interest\n  bowl_1\n ) (:goal x))"
        group = data["demo_0"]
        group.attrs["model_file"] = MODEL
        states = np.zeros((LENGTH, 1 + 8 + 8))
        # Fixture files tell the step by joint angles; these turn nothing visible by much.
        states[:, 1:8] = group["states"][:, 1:8] * 1e-6
        states[:, 8] = 0.1 * np.arange(LENGTH)
        del group["states"], group["obs/joint_states"]
        group.create_dataset("states", data=states)
        shown = np.arange(LENGTH) + (timing == "after")
        joints = 1e-7 * np.repeat(shown[:, None], 7, axis=1)
        group.create_dataset("obs/joint_states", data=joints)
    return path


def centre(labels: np.ndarray) -> float:
    """Of the object's columns."""
    return float(np.argwhere(labels == 2)[:, 1].mean())


@needs_gl
@pytest.mark.parametrize("timing", ["before", "after"])
def test_masks_show_the_state_that_their_frame_shows(tmp_path: Path, timing: str) -> None:
    path = write_recording(tmp_path / "suite", timing)
    render_libero_masks(path, [tmp_path / "suite/assets"])
    source = LiberoSource(path, rotates=False)
    assert source.label_names == ["background", "robot", "object"]
    labels = source.episode(0).read_labels(range(LENGTH))
    assert labels is not None
    assert labels.shape == (2, LENGTH, *SIZE)
    first = labels[0, 0]
    assert (first[-3:] == 1).all()  # bottom-up: the robot, above, has the last rows
    assert 2 in first[:4]
    assert 0 in first[:4]
    places = [centre(m) for m in labels[0]]
    steps = np.diff(places)
    assert (steps[:-1] >= 0).all()
    assert places[-1] > places[0] + 1
    if timing == "after":  # one step further, and the last state is not stored
        write_recording(tmp_path / "other", "before")
        render_libero_masks(tmp_path / "other" / path.name, [tmp_path / "other/assets"])
        before = (
            LiberoSource(tmp_path / "other", rotates=False).episode(0).read_labels(range(LENGTH))
        )
        assert before is not None
        np.testing.assert_array_equal(labels[:, :-1], before[:, 1:])
    with pytest.raises(ValueError, match="exists already"):
        render_libero_masks(path, [tmp_path / "suite/assets"])


def test_classes_go_by_the_names_of_bodies() -> None:
    model = mujoco.MjModel.from_xml_string(
        MODEL.replace("<asset>", "<!--").replace("</asset>", "-->")
    )
    assert geom_classes(model, ["bowl_1"]).tolist() == [0, 1, 1, 2, 0]


def test_what_is_missing_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "suite")
    with pytest.raises(ValueError, match=r"demo_0: the model needs /home/someone/assets/tex/wood"):
        render_libero_masks(path, [tmp_path])
    assets = [tmp_path / "suite/assets"]
    with pytest.raises(ValueError, match=r"demo_0: the model has no bodies of \['cup_1'\]"):
        render_libero_masks(path, assets, objects=["cup_1"])
    with pytest.raises(ValueError, match="MuJoCo refuses the stored model"):
        load_model("<mujoco><nothing/></mujoco>", assets, "demo_0")
    with h5py.File(path, "a") as file:
        del file["data"].attrs["bddl_file_content"]
    with pytest.raises(ValueError, match="expected obj_of_interest in the attribute"):
        render_libero_masks(path, assets)
    with h5py.File(path, "a") as file:
        del file["data/demo_0"].attrs["model_file"]
    with pytest.raises(ValueError, match="expected the attribute model_file and `states`"):
        render_libero_masks(path, assets, objects=["bowl_1"])
    assert not masks_beside(path).exists()
    assert not list(path.parent.glob(".*"))
