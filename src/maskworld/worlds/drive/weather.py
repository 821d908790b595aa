"""Season, time of day and weather: the colours, light and fog that a world is seen in."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from jaxtyping import Float

SEASONS = ("summer", "autumn", "winter")
TIMES = ("day", "dusk", "night")
WEATHERS = ("clear", "fog", "rain")
STYLES = ("summer", "autumn", "winter", "dusk", "night")
"""The five plain styles. `parse_style` also takes mixtures such as "autumn dusk" or "winter fog".

Summer, clear and day are what remains when nothing else is said."""

RGB = Float[np.ndarray, " 3"]


@dataclass(frozen=True)
class Style:
    """One of each."""

    season: str = "summer"
    time: str = "day"
    weather: str = "clear"

    @property
    def words(self) -> str:
        """Shortest description: "autumn dusk", "night"; plain summer is "summer"."""
        parts = [self.season] if self.season != "summer" else []
        parts += [self.time] if self.time != "day" else []
        parts += [self.weather] if self.weather != "clear" else []
        return " ".join(parts) or "summer"


def parse_style(words: str) -> Style:
    """Reads words such as "winter", "autumn dusk", "night rain" in any order.

    Raises:
        ValueError: an unknown word, with the nearest known one, or two words of the same kind.
    """
    chosen: dict[str, str] = {}
    kinds = {"season": SEASONS, "time": TIMES, "weather": WEATHERS}
    known = {word: kind for kind, group in kinds.items() for word in group}
    for word in words.split():
        if word not in known:
            near = get_close_matches(word, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"Expected style words of {tuple(known)}, found {word!r}.{hint}")
        kind = known[word]
        if kind in chosen:
            raise ValueError(
                f"Expected one {kind}, found {chosen[kind]!r} and {word!r}: leave one out."
            )
        chosen[kind] = word
    return Style(**chosen)


@dataclass(frozen=True, eq=False)
class Appearance:
    """A style with its details drawn: sun, hue, haze. Colours are RGB in 0 to 255."""

    style: Style
    seed: int
    ground_matrix: Float[np.ndarray, "3 5"]
    """From the raster's four channels and one to the unlit colour of the ground."""
    road: RGB
    """Unlit colour of asphalt."""
    ambient: RGB
    """Light from everywhere, as a factor on colours."""
    sun: RGB
    """Light from the sun, as a factor on colours, at right angles."""
    sun_azimuth: float
    sun_elevation: float
    fog_colour: RGB
    fog_density: float
    """Per metre."""
    zenith: RGB
    horizon: RGB
    glow: RGB
    """Added to the sky around the sun."""
    cloud: RGB
    cloud_cover: float
    hill: RGB
    foliage: Float[np.ndarray, "k 3"]
    trunk: RGB
    lights_on: bool
    has_shadows: bool

    @property
    def headlights(self) -> float:
        """How much the ego's own lamps add to the light there is."""
        return {"day": 0.0, "dusk": 0.35, "night": 1.0}[self.style.time]

    @property
    def ground_light(self) -> RGB:
        """Light on level ground."""
        return self.ambient + self.sun * np.sin(self.sun_elevation)

    @property
    def sun_direction(self) -> Float[np.ndarray, " 3"]:
        """Towards the sun; x, y, up."""
        c = np.cos(self.sun_elevation)
        return np.array(
            [
                c * np.cos(self.sun_azimuth),
                c * np.sin(self.sun_azimuth),
                np.sin(self.sun_elevation),
            ]
        )


_GROUND = {"summer": (98, 142, 62), "autumn": (158, 124, 58), "winter": (232, 236, 243)}
_VERGE = {"summer": (156, 148, 120), "autumn": (150, 112, 66), "winter": (206, 212, 222)}
_ROAD = {"summer": (92, 92, 96), "autumn": (88, 84, 82), "winter": (118, 122, 130)}
_HILL = {"summer": (86, 122, 92), "autumn": (150, 104, 60), "winter": (196, 206, 220)}
_FOLIAGE = {
    "summer": ((48, 108, 40), (66, 128, 46), (38, 92, 44), (84, 138, 56)),
    "autumn": ((206, 110, 28), (188, 66, 30), (214, 156, 40), (160, 92, 36)),
    "winter": ((222, 228, 236), (204, 212, 224), (72, 96, 84), (236, 240, 246)),
}
# Time of day: ambient and sun (factors), zenith and horizon (colours).
_TIME = {
    "day": ((0.62, 0.66, 0.72), (0.62, 0.58, 0.5), (78, 138, 214), (190, 216, 238)),
    "dusk": ((0.42, 0.34, 0.42), (0.62, 0.34, 0.16), (70, 62, 118), (248, 148, 78)),
    "night": ((0.22, 0.25, 0.38), (0.06, 0.07, 0.11), (10, 14, 38), (38, 46, 84)),
}
_SUN_ELEVATION = {"day": 0.8, "dusk": 0.16, "night": 0.7}
_GLOW = {"day": (60, 55, 40), "dusk": (110, 80, 20), "night": (26, 28, 34)}
_CLOUD = {"day": (246, 248, 252), "dusk": (224, 128, 112), "night": (40, 46, 72)}


def make_appearance(style: Style | str, seed: int) -> Appearance:
    """Draws sun, hue and haze of a style; the same seed gives the same picture."""
    style = parse_style(style) if isinstance(style, str) else style
    rng = np.random.default_rng([seed, 7])
    tint = 1.0 + rng.uniform(-0.06, 0.06, 3)
    value = rng.uniform(0.92, 1.08)

    def colour(rgb: tuple[int, int, int]) -> RGB:
        return np.clip(np.array(rgb) * tint * value, 0, 255)

    ambient, sun, zenith, horizon = (np.array(v, dtype=float) for v in _TIME[style.time])
    glow, cloud = np.array(_GLOW[style.time]), np.array(_CLOUD[style.time])
    azimuth = float(rng.uniform(-np.pi, np.pi))
    elevation = float(_SUN_ELEVATION[style.time] * rng.uniform(0.8, 1.25))
    cover = float(rng.uniform(0.15, 0.55))
    density = float(rng.uniform(1 / 260, 1 / 180))
    ground, road, verge = (colour(table[style.season]) for table in (_GROUND, _ROAD, _VERGE))
    amplitude = np.array([0.34, 0.30, 0.26]) * ground * (0.3 if style.season == "winter" else 1)
    if style.season == "winter" and style.time == "day":
        zenith, horizon = np.array((148, 172, 204)), np.array((222, 228, 236))
        ambient, sun, cover = ambient * 1.12, sun * 0.7, 0.7
    if style.season == "autumn" and style.time == "day":
        zenith, horizon = np.array((128, 150, 176)), np.array((230, 214, 186))
        sun = np.array((0.66, 0.54, 0.38))
        elevation *= 0.6
    if style.weather == "fog":
        density = float(rng.uniform(1 / 40, 1 / 28))
        grey = np.mean(horizon) * 0.55 + horizon * 0.45
        zenith, horizon, sun, cover = grey, grey, sun * 0.25, 0.0
        glow = glow * 0.2
    if style.weather == "rain":
        density = float(rng.uniform(1 / 110, 1 / 80))
        zenith, horizon = zenith * 0.35 + 60, horizon * 0.45 + 60
        if style.time == "night":
            zenith, horizon = zenith * 0.4, horizon * 0.4
        road, ground, sun, ambient = road * 0.6, ground * 0.8, sun * 0.15, ambient * 0.95
        glow, cover, cloud = glow * 0.1, 0.9, (zenith + horizon) / 2
    marking = np.array((240, 240, 232)) * value
    return Appearance(
        style=style,
        seed=seed,
        ground_matrix=_ground_matrix(ground, road, verge, marking, amplitude),
        road=road,
        ambient=ambient,
        sun=sun,
        sun_azimuth=azimuth,
        sun_elevation=elevation,
        fog_colour=horizon * 0.92 + 0.08 * zenith,
        fog_density=density,
        zenith=zenith.astype(float),
        horizon=horizon.astype(float),
        glow=glow.astype(float),
        cloud=cloud.astype(float),
        cloud_cover=cover,
        hill=colour(_HILL[style.season]),
        foliage=np.stack([colour(rgb) for rgb in _FOLIAGE[style.season]]),
        trunk=colour((92, 70, 52)),
        lights_on=style.time != "day" or style.weather != "clear",
        has_shadows=style.weather == "clear",
    )


def _ground_matrix(
    ground: RGB, road: RGB, verge: RGB, marking: RGB, amplitude: RGB
) -> Float[np.ndarray, "3 5"]:
    columns = [(m - ground) / 255.0 for m in (road, marking, verge)]
    columns += [amplitude / 128.0, ground - amplitude]
    return np.stack(columns, axis=1).astype(np.float64)
