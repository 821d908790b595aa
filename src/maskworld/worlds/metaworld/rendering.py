"""Draws a Meta-World scene: RGB and label maps of named cameras, off-screen.

MuJoCo's defaults spend most of the time on 4x antialiasing, a 4096-pixel shadow map and
reflections, at any size of picture. Here all three are off, what a camera cannot see is left out
before it is drawn, and both passes of a view share one scene.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from maskworld.worlds.metaworld.labels import BACKGROUND, geom_classes, site_classes
from maskworld.worlds.metaworld.software_gl import find_backend, open_context

CAMERAS = ("corner4", "gripperPOV", "corner", "corner2", "corner3", "topview", "behindGripper")
"""The first two are the default: third person, then wrist."""
UPSIDE_DOWN = frozenset({"corner", "corner2", "corner3", "corner4"})
"""Meta-World mounts these head down; their pictures are turned by 180 degrees."""
_MAX_GEOMS = 1000
_HIDDEN_GROUP = 5  # MuJoCo draws the groups 0 to 2
_OPEN_RENDERERS = 6
"""Models of which textures and meshes stay in GL at once, with EGL; OSMesa takes one (ours)."""


@dataclass(frozen=True)
class Ornament:
    """A thing that is drawn and nothing else: physics knows nothing of it."""

    shape: str
    """"box", "sphere", "cylinder", "capsule" or "ellipsoid"."""
    size: tuple[float, float, float]
    """Half sizes in metres, as MuJoCo's."""
    position: tuple[float, float, float]
    yaw: float
    """Radians, about the vertical."""
    colour: tuple[float, float, float]


class SceneRenderer:
    """Draws one model. Made, and closed again, by `Renderers` alone.

    Args:
        size: height and width of the pictures.
    """

    def __init__(self, model: Any, size: tuple[int, int]) -> None:
        import mujoco

        self.size = size
        self._model = weakref.ref(model)
        _tune(model, size)
        self._context = open_context(size)
        self._context.make_current()
        self._gl = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._gl)
        self._scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        self._option = mujoco.MjvOption()
        self._rect = mujoco.MjrRect(0, 0, size[1], size[0])
        self._classes = {
            int(mujoco.mjtObj.mjOBJ_GEOM): geom_classes(model),
            int(mujoco.mjtObj.mjOBJ_SITE): site_classes(model),
        }
        self._groups = model.geom_group.copy()
        self._flags = {
            name: int(getattr(mujoco.mjtRndFlag, f"mjRND_{name}"))
            for name in ("SHADOW", "REFLECTION", "SEGMENT", "IDCOLOR")
        }

    def draw(
        self,
        data: Any,
        camera: str,
        *,
        has_labels: bool,
        ornaments: Sequence[Ornament] = (),
    ) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"] | None]:
        """The picture and, if asked for, the class of every pixel, upright."""
        import mujoco

        model = self._model()
        assert model is not None
        self._context.make_current()
        view = mujoco.MjvCamera()
        view.type = mujoco.mjtCamera.mjCAMERA_FIXED.value
        view.fixedcamid = model.camera(camera).id
        # MuJoCo draws all of a scene; a far camera's pedestal costs as much as a near one's hand.
        model.geom_group[:] = np.where(
            visible_geoms(model, data, view.fixedcamid, self.size), self._groups, _HIDDEN_GROUP
        )
        every = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(model, data, self._option, None, view, every, self._scene)
        model.geom_group[:] = self._groups
        for ornament in ornaments:
            _add_ornament(self._scene, ornament)
        flags, names = self._scene.flags, self._flags
        flags[[names["SHADOW"], names["REFLECTION"]]] = 0
        rgb = self._read(camera)
        labels = None
        if has_labels:
            flags[[names["SEGMENT"], names["IDCOLOR"]]] = 1
            codes = self._read(camera).astype(np.uint16)
            flags[[names["SEGMENT"], names["IDCOLOR"]]] = 0
            labels = self._class_table()[codes[..., 0] + 256 * codes[..., 1]]
        return rgb, labels

    def upload_texture(self, texture: int) -> None:
        """Takes over the changed pixels of a texture of the model."""
        import mujoco

        self._context.make_current()
        mujoco.mjr_uploadTexture(self._model(), self._gl, texture)

    def close(self) -> None:
        """Frees what GL holds; safe to call twice."""
        if self._context is not None:
            self._context.make_current()
            self._gl.free()
            self._context.free()
            self._gl = self._context = None

    def _read(self, camera: str) -> UInt8[np.ndarray, "h w 3"]:
        import mujoco

        picture = np.empty((*self.size, 3), np.uint8)
        mujoco.mjr_render(self._rect, self._scene, self._gl)
        mujoco.mjr_readPixels(picture, None, self._rect, self._gl)
        # GL's first row is the lowest.
        upright = picture[:, ::-1] if camera in UPSIDE_DOWN else picture[::-1]
        return np.ascontiguousarray(upright)

    def _class_table(self) -> UInt8[np.ndarray, " n"]:
        """The class by segment code: 0 is where nothing was drawn, i + 1 the scene's geom i."""
        table = np.full(self._scene.ngeom + 1, BACKGROUND, np.uint8)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            classes = self._classes.get(geom.objtype)
            if classes is not None and geom.segid >= 0:
                table[geom.segid + 1] = classes[geom.objid]
        return table


class Renderers:
    """Owns all renderers of a process: makes them on first use, closes the oldest when full.

    Under OSMesa only one lives at a time, closed before the next is made: MuJoCo corrupts a newer
    context when an older one is freed after it.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[int, tuple[int, int]], SceneRenderer] = OrderedDict()

    def get(self, model: Any, size: tuple[int, int]) -> SceneRenderer:
        """The renderer of a model, made if needed.

        Raises:
            MissingGL: there is no off-screen OpenGL.
        """
        key = (id(model), size)
        if key in self._open:
            self._open.move_to_end(key)
            return self._open[key]
        most = 1 if find_backend() == "osmesa" else _OPEN_RENDERERS
        while len(self._open) >= most:
            self._open.popitem(last=False)[1].close()
        self._open[key] = SceneRenderer(model, size)
        return self._open[key]

    def upload_textures(self, model: Any, textures: Sequence[int]) -> None:
        """Takes over changed textures wherever the model is already drawn from."""
        for key, renderer in self._open.items():
            if key[0] == id(model):
                for texture in textures:
                    renderer.upload_texture(texture)

    def close(self, model: Any) -> None:
        """Closes the renderers of a model."""
        for key in [key for key in self._open if key[0] == id(model)]:
            self._open.pop(key).close()


RENDERERS = Renderers()
"""GL is a resource of the whole process, so this one object is too."""


def visible_geoms(
    model: Any, data: Any, camera: int, size: tuple[int, int]
) -> Bool[np.ndarray, " g"]:
    """Geoms whose bounding sphere reaches into the camera's field of view; planes always do."""
    rotation: Float[np.ndarray, "3 3"] = data.cam_xmat[camera].reshape(3, 3)
    x, y, z = ((data.geom_xpos - data.cam_xpos[camera]) @ rotation).T
    radius = model.geom_rbound
    half = np.tan(np.deg2rad(model.cam_fovy[camera]) / 2)
    # Distance to a side of the field of view: outwards of x = half * -z, scaled to unit normals.
    beyond = [
        (np.abs(side) + slope * z) / np.hypot(1.0, slope)
        for side, slope in ((x, half * size[1] / size[0]), (y, half))
    ]
    is_inside = (beyond[0] < radius) & (beyond[1] < radius) & (z < radius)
    return is_inside | (radius == 0)


def _tune(model: Any, size: tuple[int, int]) -> None:
    model.vis.quality.offsamples = 0
    model.vis.quality.shadowsize = 0
    model.vis.global_.offheight, model.vis.global_.offwidth = size


def _add_ornament(scene: Any, ornament: Ornament) -> None:
    import mujoco

    if scene.ngeom >= scene.maxgeom:
        raise ValueError(f"Expected at most {scene.maxgeom} things in a scene: use fewer.")
    geom = scene.geoms[scene.ngeom]
    cos, sin = np.cos(ornament.yaw), np.sin(ornament.yaw)
    mujoco.mjv_initGeom(
        geom,
        getattr(mujoco.mjtGeom, f"mjGEOM_{ornament.shape.upper()}").value,
        np.array(ornament.size, np.float64),
        np.array(ornament.position, np.float64),
        np.array([cos, -sin, 0, sin, cos, 0, 0, 0, 1], np.float64),
        np.array([*ornament.colour, 1.0], np.float32),
    )
    # Drawn in the label pass too, of no class: it hides what is behind.
    geom.segid, geom.objid = scene.ngeom, -1
    geom.objtype = mujoco.mjtObj.mjOBJ_UNKNOWN.value
    scene.ngeom += 1
