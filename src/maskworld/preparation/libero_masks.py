"""Masks of LIBERO's demonstrations, drawn again from their stored simulator states.

A file of demonstrations holds, per demonstration, the MuJoCo model it was recorded with
(`model_file`) and the state before every action. That is all a label map needs: no LIBERO, no
robosuite, only MuJoCo and the folders of meshes and textures that the model names.

Classes go by the names of bodies: `robot0_`, `gripper0_` and `mount0_` are the robot; what begins
with the name of an object of interest (of the task's BDDL text) is an object; the rest, table and
floor and other things, is background. Mask World Model's converter takes the simulator's instance
segmentation instead, of the same renderer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float, UInt8

from maskworld.data.sources.libero import LiberoSource, masks_beside, open_hdf5
from maskworld.data.storage import atomic_path
from maskworld.preparation.conversion import Progress

LABEL_NAMES = ("background", "robot", "object")
CAMERAS = {"agentview": "agentview", "eye_in_hand": "robot0_eye_in_hand"}
"""Name in the file -> camera of the model."""
ROBOT_PREFIXES = ("robot0_", "gripper0_", "mount0_")
_VISUAL_GROUP = 1
"""robosuite draws geoms of this group; group 0 is for collisions."""


def render_libero_masks(
    demos: Path | str,
    assets: Sequence[Path | str],
    *,
    objects: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Draws the masks of all demonstrations of a file at the size of its frames, and writes them
    beside it, whole or not at all; returns where.

    Observations that follow their action (LIBERO's own files) show the state of the next row; that
    of the last row is not stored, so its mask is drawn from the state one step before.

    Args:
        assets: folders that hold the model's meshes and textures, for instance
            `robosuite/models/assets` and LIBERO's `assets`.
        objects: names of the task's objects; None = `obj_of_interest` of the stored BDDL text.

    Raises:
        ValueError: masks are there already, a model, state or asset is missing, no objects are
            named; names the demonstration.
        MissingGL: there is no off-screen OpenGL (a ValueError too).
    """
    demos = Path(demos)
    out = masks_beside(demos)
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists already: pass overwrite=True to draw the masks again.")
    source = LiberoSource(demos)
    roots = [Path(root) for root in assets]
    with atomic_path(out, what=f"the masks of {demos.name}") as temporary:
        import h5py

        with open_hdf5(demos) as stored, h5py.File(temporary, "w") as written:
            data = written.create_group("data")
            data.attrs["label_names"] = json.dumps(LABEL_NAMES)
            named = list(objects) if objects is not None else objects_of_interest(stored, demos)
            for number in range(len(source)):
                episode = source.episode(number)
                where = f"{demos}, {episode.demo}"
                group = stored["data"][episode.demo]
                if "model_file" not in group.attrs or "states" not in group:
                    raise ValueError(
                        f"{where}: expected the attribute model_file and `states`, one or both "
                        "are missing: use LIBERO's own file, or one regenerated with both."
                    )
                model = load_model(str(group.attrs["model_file"]), roots, where)
                rows = np.arange(len(group["states"]))
                if episode.timing == "after":
                    rows = np.minimum(rows + 1, len(rows) - 1)
                maps = _drawn(model, group["states"][:][rows], named, source.size, where)
                for camera, labels in maps.items():
                    data.create_dataset(
                        f"{episode.demo}/{camera}_labels", data=labels, compression="gzip"
                    )
                if progress is not None:
                    progress(number + 1, len(source))
    return out


def objects_of_interest(stored: Any, path: Path) -> list[str]:
    """The objects that a task is about, of the BDDL text in the file."""
    text = str(stored["data"].attrs.get("bddl_file_content", ""))
    found = re.search(r"\(:obj_of_interest\s+([^)]*)\)", text)
    if found is None:
        raise ValueError(
            f"{path}: expected obj_of_interest in the attribute bddl_file_content, found none: "
            "name the task's objects, for instance objects=['akita_black_bowl_1', 'plate_1']."
        )
    return found[1].split()


def load_model(xml: str, roots: Sequence[Path], where: str) -> Any:
    """The MuJoCo model of a demonstration, its meshes and textures looked up below `roots`: a file
    is found by as much of the end of its recorded path as exists there."""
    import mujoco

    tree = ElementTree.fromstring(xml)
    for element in tree.iter():
        if element.tag in ("mesh", "texture", "hfield") and (file := element.get("file")):
            parts = Path(file).parts
            places = (r.joinpath(*parts[i:]) for i in range(1, len(parts)) for r in roots)
            place = next((p for p in places if p.is_file()), None)
            if place is None:
                raise ValueError(
                    f"{where}: the model needs {file}, which is in none of "
                    f"{[str(root) for root in roots]}: name the folders of assets of robosuite and "
                    "LIBERO."
                )
            element.set("file", str(place.absolute()))
    try:
        return mujoco.MjModel.from_xml_string(ElementTree.tostring(tree, encoding="unicode"))
    except ValueError as error:
        raise ValueError(f"{where}: MuJoCo refuses the stored model ({error}).") from error


def geom_classes(model: Any, objects: Sequence[str]) -> UInt8[np.ndarray, " g"]:
    """The class of every geom: of the nearest body above it with a telling name."""
    bodies = np.zeros(model.nbody, dtype=np.uint8)
    for number in range(1, model.nbody):  # parents come first
        name = model.body(number).name
        if name.startswith(ROBOT_PREFIXES):
            bodies[number] = 1
        elif any(name == thing or name.startswith(f"{thing}_") for thing in objects):
            bodies[number] = 2
        else:
            bodies[number] = bodies[model.body_parentid[number]]
    return bodies[model.geom_bodyid]


def _drawn(
    model: Any,
    states: Float[np.ndarray, "t n"],
    objects: Sequence[str],
    size: tuple[int, int],
    where: str,
) -> dict[str, UInt8[np.ndarray, "t h w"]]:
    """The label maps of every camera, bottom-up as LIBERO stores its frames."""
    import mujoco

    from maskworld.worlds.metaworld.software_gl import open_context

    if states.shape[1] != 1 + model.nq + model.nv:
        raise ValueError(
            f"{where}: expected states of {1 + model.nq + model.nv} numbers (time, positions, "
            f"velocities of the model), found {states.shape[1]}: the model is of another recording."
        )
    classes, data = geom_classes(model, objects), mujoco.MjData(model)
    missing = [thing for thing in objects if not _has_body(model, thing)]
    if missing:
        raise ValueError(f"{where}: the model has no bodies of {missing}: name its own objects.")
    context = open_context(size)
    context.make_current()
    model.vis.quality.offsamples = model.vis.quality.shadowsize = 0
    model.vis.global_.offheight, model.vis.global_.offwidth = size
    gl = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50.value)
    try:
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, gl)
        scene, option = mujoco.MjvScene(model, maxgeom=2 * model.ngeom + 100), mujoco.MjvOption()
        option.geomgroup[:] = 0
        option.geomgroup[_VISUAL_GROUP] = 1
        option.sitegroup[:] = 0
        maps: dict[str, list[np.ndarray]] = {camera: [] for camera in CAMERAS}
        for state in states:
            data.time = state[0]
            data.qpos[:], data.qvel[:] = np.split(state[1:], [model.nq])
            mujoco.mj_forward(model, data)
            for camera, name in CAMERAS.items():
                codes = _codes(model, data, scene, option, gl, name, size)
                maps[camera].append(_class_table(scene, classes)[codes])
        return {camera: np.stack(found) for camera, found in maps.items()}
    finally:
        gl.free()
        context.free()


def _codes(
    model: Any, data: Any, scene: Any, option: Any, gl: Any, camera: str, size: tuple[int, int]
) -> np.ndarray:
    """Per pixel 1 + the number of the scene's geom, 0 where none is; the lowest row first."""
    import mujoco

    view = mujoco.MjvCamera()
    view.type = mujoco.mjtCamera.mjCAMERA_FIXED.value
    view.fixedcamid = model.camera(camera).id
    every = mujoco.mjtCatBit.mjCAT_ALL.value
    mujoco.mjv_updateScene(model, data, option, None, view, every, scene)
    flag = mujoco.mjtRndFlag
    scene.flags[[int(flag.mjRND_SEGMENT), int(flag.mjRND_IDCOLOR)]] = 1
    picture, rect = np.empty((*size, 3), np.uint8), mujoco.MjrRect(0, 0, size[1], size[0])
    mujoco.mjr_render(rect, scene, gl)
    mujoco.mjr_readPixels(picture, None, rect, gl)
    return picture[..., 0] + 256 * picture[..., 1].astype(np.uint16)


def _class_table(scene: Any, classes: np.ndarray) -> UInt8[np.ndarray, " n"]:
    import mujoco

    table = np.zeros(scene.ngeom + 1, np.uint8)
    for geom in scene.geoms[: scene.ngeom]:
        if geom.objtype == int(mujoco.mjtObj.mjOBJ_GEOM) and geom.segid >= 0:
            table[geom.segid + 1] = classes[geom.objid]
    return table


def _has_body(model: Any, thing: str) -> bool:
    names = (model.body(i).name for i in range(model.nbody))
    return any(name == thing or name.startswith(f"{thing}_") for name in names)
