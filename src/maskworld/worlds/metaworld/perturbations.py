"""Changes of how a scene looks, of the same state: no perturbation touches physics.

Each is a small frozen dataclass with a `level`: 0 changes nothing, 1 is plainly visible, and a
world's seed decides what is drawn at random, so that every policy meets the same change in the
same initial state. The strengths at level 1 are ours. Labels stay those of the clean scene wherever
geometry does; a distractor is background (class 0), as is all that means nothing to the task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import ClassVar, TypeAlias

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from maskworld.worlds.metaworld.labels import BACKGROUND, FIXTURE, GRIPPER, OBJECT
from maskworld.worlds.metaworld.look import Look
from maskworld.worlds.metaworld.rendering import Ornament

_TABLE = "tablelink"
_TABLE_AREA = ((-0.45, 0.45), (0.4, 0.95))
"""Where distractors may stand: x, y in metres, within the rim."""
_CLEARANCE = 0.09
"""Metres between a distractor and other things at the start, the gripper's included (ours)."""


@dataclass(frozen=True)
class Light:
    """Another colour and strength of all lights."""

    level: float | int = 1.0
    name: ClassVar[str] = "light"

    def apply(self, look: Look, rng: np.random.Generator) -> None:
        scale = np.exp(self.level * rng.uniform(-0.9, 0.5))
        tint = np.exp(self.level * rng.uniform(-0.5, 0.5, 3)) * scale
        model = look.model
        headlight = model.vis.headlight
        for lights in (model.light_ambient, model.light_diffuse):
            lights[:] = lights * tint
        for lights in (headlight.ambient, headlight.diffuse):
            lights[:] = lights * tint


@dataclass(frozen=True)
class Background:
    """A picture in place of floor and sky; `level` is its share."""

    level: float | int = 1.0
    name: ClassVar[str] = "background"

    def apply(self, look: Look, rng: np.random.Generator) -> None:
        share, pictures = min(1.0, float(self.level)), random_texture(rng, 2, 96)

        def composite(
            rgb: UInt8[np.ndarray, "h w 3"],
            labels: UInt8[np.ndarray, "h w"],
            camera: int,
            rng: np.random.Generator,
        ) -> UInt8[np.ndarray, "h w 3"]:
            picture = cv2.resize(pictures[camera % 2], labels.shape[::-1])
            mixed = np.round(rgb * (1 - share) + picture * share).astype(np.uint8)
            return np.where((labels == BACKGROUND)[..., None], mixed, rgb)

        look.filters.append(composite)
        look.needs_labels = True


@dataclass(frozen=True)
class TableTexture:
    """Another pattern on the table; `level` is its share."""

    level: float | int = 1.0
    name: ClassVar[str] = "table-texture"

    def apply(self, look: Look, rng: np.random.Generator) -> None:
        found = {look.texture_of(geom) for geom in look.geoms(body=_TABLE)} - {None}
        if not found:
            raise ValueError("Expected a textured table in this task's model, found none.")
        for texture in sorted(t for t in found if t is not None):
            old = look.texture(texture)
            height, width, _ = old.shape
            tiles = random_texture(rng, -(-height // width), width)
            new = tiles.reshape(-1, width, 3)[:height]
            share = min(1.0, float(self.level))
            old[..., :3] = np.round(old[..., :3] * (1 - share) + new * share)
            look.set_texture(texture, old)


@dataclass(frozen=True)
class TableColor:
    """A plain colour on the table; `level` is the distance from grey (and the wood is gone)."""

    level: float | int = 1.0
    name: ClassVar[str] = "table-color"

    def apply(self, look: Look, rng: np.random.Generator) -> None:
        if self.level <= 0:
            return
        colour = np.clip(0.5 + self.level * rng.uniform(-0.5, 0.5, 3), 0, 1)
        for geom in look.geoms(body=_TABLE):
            look.paint(geom, colour)


@dataclass(frozen=True)
class ObjectColor:
    """Other colours for the things of the task, movable or not."""

    level: float | int = 1.0
    name: ClassVar[str] = "object-color"

    def apply(self, look: Look, rng: np.random.Generator) -> None:
        share = min(1.0, float(self.level))
        model = look.model
        for geom in sorted(look.geoms(label=OBJECT) + look.geoms(label=FIXTURE)):
            material = int(model.geom_matid[geom])
            old = model.geom_rgba[geom] if material < 0 else model.mat_rgba[material]
            new = rng.uniform(0, 1, 3)
            if share > 0:
                look.paint(geom, old[:3] * (1 - share) + new * share)


@dataclass(frozen=True)
class CameraShift:
    """Cameras moved by up to 5 cm along each axis and turned by up to 5 degrees at level 1."""

    level: float | int = 1.0
    name: ClassVar[str] = "camera-shift"

    def apply(self, look: Look, rng: np.random.Generator) -> None:
        import mujoco

        model = look.model
        for camera in range(model.ncam):
            # A wrist camera sits centimetres from the fingers: it is only turned.
            is_fixed = model.cam_bodyid[camera] == 0
            shift = self.level * rng.uniform(-0.05, 0.05, 3)
            model.cam_pos[camera] += shift * is_fixed
            axis_angle = self.level * np.deg2rad(rng.uniform(-5, 5, 3))
            turn, turned, matrix = np.zeros(4), np.zeros(4), np.zeros(9)
            angle = float(np.linalg.norm(axis_angle))
            mujoco.mju_axisAngle2Quat(turn, axis_angle / max(angle, 1e-12), angle)
            mujoco.mju_mulQuat(turned, model.cam_quat[camera], turn)
            model.cam_quat[camera] = turned
            # Tracking cameras, as at the wrist, keep their orientation in this matrix.
            mujoco.mju_quat2Mat(matrix, turn)
            old = model.cam_mat0[camera].reshape(3, 3)
            model.cam_mat0[camera] = (old @ matrix.reshape(3, 3)).reshape(-1)


@dataclass(frozen=True)
class Distractors:
    """Unseen things on the table, out of the way of the task: 6 at level 1."""

    level: float | int = 1.0
    name: ClassVar[str] = "distractors"

    def apply(self, look: Look, rng: np.random.Generator) -> None:
        things = look.geoms(label=OBJECT) + look.geoms(label=FIXTURE) + look.geoms(label=GRIPPER)
        taken = [
            (look.data.geom_xpos[geom, :2], min(float(look.model.geom_rbound[geom]), 0.2))
            for geom in things
        ]
        for _ in range(round(6 * self.level)):
            for _ in range(50):  # then there is no room left: fewer things
                place = np.array([rng.uniform(*side) for side in _TABLE_AREA])
                room = min(np.linalg.norm(place - other) - radius for other, radius in taken)
                if room > _CLEARANCE:
                    taken.append((place, 0.0))
                    look.ornaments.append(_thing(place, rng))
                    break


@dataclass(frozen=True)
class SensorNoise:
    """Gaussian noise on every pixel, of 25 grey levels (of 255) at level 1."""

    level: float | int = 1.0
    name: ClassVar[str] = "sensor-noise"

    def apply(self, look: Look, rng: np.random.Generator) -> None:
        deviation = 25.0 * self.level

        def add_noise(
            rgb: UInt8[np.ndarray, "h w 3"],
            labels: UInt8[np.ndarray, "h w"],
            camera: int,
            rng: np.random.Generator,
        ) -> UInt8[np.ndarray, "h w 3"]:
            noise = rng.normal(0.0, 1.0, rgb.shape) * deviation
            return np.clip(np.round(rgb + noise), 0, 255).astype(np.uint8)

        look.filters.append(add_noise)


Perturbation: TypeAlias = (
    Light
    | Background
    | TableTexture
    | TableColor
    | ObjectColor
    | CameraShift
    | Distractors
    | SensorNoise
)
PERTURBATIONS: tuple[type[Perturbation], ...] = (
    *(Light, Background, TableTexture, TableColor),
    *(ObjectColor, CameraShift, Distractors, SensorNoise),
)
"""In the order in which they are applied."""


def parse_perturbation(text: str) -> Perturbation:
    """ "light" or "light=0.5" (with a level) to a perturbation.

    Raises:
        ValueError: an unknown name, or a level that is no number of at least 0.
    """
    name, sign, level = text.partition("=")
    kinds = {kind.name: kind for kind in PERTURBATIONS}
    if name not in kinds:
        near = get_close_matches(name, kinds, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"Expected a perturbation of {sorted(kinds)}, found {name!r}.{hint}")
    try:
        value = float(level) if sign else 1.0
    except ValueError:
        value = -1.0
    if not 0 <= value < np.inf:
        raise ValueError(f"Expected a level of at least 0 in {text!r}, for instance {name}=0.5.")
    return kinds[name](value)


def parse_perturbations(text: str) -> list[Perturbation]:
    """ "light=0.5+distractors" to perturbations that are applied together; "" = none.

    Raises:
        ValueError: as of `parse_perturbation`.
    """
    return [parse_perturbation(part) for part in text.split("+")] if text else []


def apply_perturbations(
    look: Look, perturbations: Sequence[Perturbation], seed: Sequence[int]
) -> None:
    """Applies perturbations to a restored look. Each draws from a generator of its own, so that
    one changes the same way beside others as alone."""
    names = [kind.name for kind in PERTURBATIONS]
    for perturbation in sorted(perturbations, key=lambda p: names.index(p.name)):
        number = names.index(perturbation.name)
        perturbation.apply(look, np.random.default_rng([*seed, number]))


def random_texture(rng: np.random.Generator, count: int, side: int) -> UInt8[np.ndarray, "n s s 3"]:
    """`count` square tiles of one random pattern of two colours: clouds, checks, stripes, dots."""
    colours = rng.uniform(0, 255, (2, 3))
    kind = int(rng.integers(4))
    turn, period, phase = rng.uniform(0, np.pi), rng.uniform(0.06, 0.2), rng.uniform(0, 1)
    y, x = np.mgrid[:side, :side] / side
    u, v = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    tiles = []
    for _ in range(count):
        grain = rng.uniform(0, 1, (12, 12)).astype(np.float32)
        clouds = cv2.resize(grain, (side, side), interpolation=cv2.INTER_CUBIC)
        share = (
            np.clip(clouds, 0, 1),
            ((u // period + v // period) % 2),
            (0.5 + 0.5 * np.sign(np.sin(2 * np.pi * (u / period + phase)))),
            (np.hypot(u % period - period / 2, v % period - period / 2) < 0.3 * period) * 1.0,
        )[kind]
        speckle = rng.normal(0, 8, (side, side, 1))
        mixed = colours[0] * (1 - share[..., None]) + colours[1] * share[..., None] + speckle
        tiles.append(np.clip(mixed, 0, 255).astype(np.uint8))
    return np.stack(tiles)


def _thing(place: Float[np.ndarray, " 2"], rng: np.random.Generator) -> Ornament:
    shape = str(rng.choice(["box", "sphere", "cylinder", "ellipsoid"]))
    size = rng.uniform(0.02, 0.05, 3)
    if shape == "sphere":
        size[:] = size[0]
    if shape == "cylinder":
        size[1] = size[0]
    x, y = place.tolist()
    return Ornament(
        shape=shape,
        size=(float(size[0]), float(size[1]), float(size[2])),
        position=(x, y, float(size[2])),
        yaw=float(rng.uniform(0, np.pi)),
        colour=(float(rng.uniform()), float(rng.uniform()), float(rng.uniform())),
    )
