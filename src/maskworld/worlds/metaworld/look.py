"""What of a Meta-World model may be changed without changing its physics, and put back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, UInt8

from maskworld.worlds.metaworld.labels import body_class
from maskworld.worlds.metaworld.rendering import Ornament

PixelFilter: TypeAlias = Callable[
    [UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"], int, np.random.Generator],
    UInt8[np.ndarray, "h w 3"],
]
"""Picture, labels, number of the camera, a generator of this moment -> picture."""

_VISUAL = (
    *("light_ambient", "light_diffuse", "light_specular"),
    *("geom_rgba", "geom_matid", "cam_pos", "cam_quat", "cam_mat0"),
)
_HEADLIGHT = ("ambient", "diffuse", "specular")


class Look:
    """The appearance of one model: lights, colours, textures, cameras, ornaments, filters.

    Perturbations write to it; `restore` puts everything back as it was made.
    """

    def __init__(self, model: Any, data: Any) -> None:
        self.model, self.data = model, data
        self.ornaments: list[Ornament] = []
        self.filters: list[PixelFilter] = []
        self.needs_labels = False
        """Whether a filter reads the label map."""
        self._textures: dict[int, UInt8[np.ndarray, " n"]] = {}
        self._arrays = {name: getattr(model, name).copy() for name in _VISUAL}
        self._headlight = {n: getattr(model.vis.headlight, n).copy() for n in _HEADLIGHT}

    def restore(self) -> set[int]:
        """Undoes every change; returns the textures that GL must take over again."""
        for name, values in self._arrays.items():
            getattr(self.model, name)[:] = values
        for name, values in self._headlight.items():
            getattr(self.model.vis.headlight, name)[:] = values
        changed = set(self._textures)
        for texture, pixels in self._textures.items():
            self.model.tex_data[self._span(texture)] = pixels
        self._textures.clear()
        self.ornaments.clear()
        self.filters.clear()
        self.needs_labels = False
        return changed

    @property
    def changed_textures(self) -> set[int]:
        """Numbers of the textures that differ from the model's own."""
        return set(self._textures)

    def geoms(self, *, label: int | None = None, body: str | None = None) -> list[int]:
        """Drawn geoms of a class, or of the body of a name."""
        found = []
        for geom, owner in enumerate(self.model.geom_bodyid):
            is_drawn = self.model.geom_group[geom] <= 2 and self.model.geom_rgba[geom, 3] > 0
            is_meant = (
                self.model.body(owner).name == body
                if body is not None
                else body_class(self.model, int(owner)) == label
            )
            if is_drawn and is_meant:
                found.append(geom)
        return found

    def paint(self, geom: int, colour: Float[np.ndarray, " 3"]) -> None:
        """Gives a geom a plain colour, 0..1, in place of its material; opacity stays."""
        self.model.geom_matid[geom] = -1
        self.model.geom_rgba[geom, :3] = colour

    def texture_of(self, geom: int) -> int | None:
        """The colour texture of a geom's material; None without."""
        material = int(self.model.geom_matid[geom])
        if material < 0:
            return None
        found = [int(texture) for texture in self.model.mat_texid[material] if texture >= 0]
        return found[0] if found else None

    def texture(self, texture: int) -> UInt8[np.ndarray, "h w c"]:
        """The pixels of a texture; a cube's six faces lie below each other."""
        model = self.model
        shape = (model.tex_height[texture], model.tex_width[texture], model.tex_nchannel[texture])
        return model.tex_data[self._span(texture)].reshape(shape).copy()

    def set_texture(self, texture: int, pixels: UInt8[np.ndarray, "h w c"]) -> None:
        """Replaces the pixels of a texture."""
        self._textures.setdefault(texture, self.model.tex_data[self._span(texture)].copy())
        self.model.tex_data[self._span(texture)] = pixels.reshape(-1)

    def _span(self, texture: int) -> slice:
        model = self.model
        start = int(model.tex_adr[texture])
        count = model.tex_height[texture] * model.tex_width[texture] * model.tex_nchannel[texture]
        return slice(start, start + int(count))
