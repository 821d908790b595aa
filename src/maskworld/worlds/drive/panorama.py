"""The sky and the distant hills around a world, as a strip over azimuth and elevation."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from maskworld.worlds.drive.weather import Appearance

WIDTH = 1024
PIXELS_PER_RADIAN = WIDTH / (2 * np.pi)
TOP, BOTTOM = 0.66, -0.08
"""Elevations of the first and the last row, radians."""
SUN_RADIUS = 0.045
"""Radians; far more than the real one."""
HILL_TOP = 0.2
"""Hills stay below this elevation, radians."""
HEIGHT = 2 * int(np.ceil((TOP - BOTTOM) * PIXELS_PER_RADIAN / 2))


def paint_panorama(appearance: Appearance, seed: int) -> UInt8[np.ndarray, "h w 4"]:
    """RGB, and 255 where hills hide the sky. Column 0 is azimuth 0, counter-clockwise onwards.

    `seed` is the world's: hills and clouds stay where they are in every weather.
    """
    a = appearance
    # The sky is smooth: half the resolution is enough for it.
    sky = cv2.resize(_paint_sky(a, seed), (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    strip = np.empty((HEIGHT, WIDTH, 4), np.uint8)
    strip[..., :3] = np.clip(sky, 0, 255)
    strip[..., 3] = 0
    if a.style.weather == "clear":
        _paint_lights(strip, a, seed)
    elevation = _elevations(1)
    first = int((TOP - HILL_TOP) * PIXELS_PER_RADIAN)
    rows, hills = slice(first, None), _hills(seed)
    low = strip[rows, :, :3].astype(np.float32)
    for height, haze in ((hills[0], 0.62), (hills[1], 0.3)):
        colour = a.hill * (a.ambient + 0.5 * a.sun)
        haze = haze if a.style.weather == "clear" else 1 - 0.25 * (1 - haze)
        colour = (colour * (1 - haze) + a.fog_colour * haze).astype(np.float32)
        # A soft edge of one pixel.
        cover = np.clip((height - elevation[rows]) * PIXELS_PER_RADIAN + 0.5, 0, 1)[..., None]
        low += cover * (colour - low)
    strip[rows, :, :3] = np.clip(low, 0, 255)
    strip[rows, :, 3] = np.where(hills.max(axis=0) > elevation[rows], 255, 0)
    return strip


def _elevations(step: int) -> Float[np.ndarray, "h 1"]:
    """Of every `step`-th row, radians."""
    rows = (np.arange(HEIGHT // step) + 0.5) * step - 0.5
    return (TOP - rows / PIXELS_PER_RADIAN).astype(np.float32)[:, None]


def _paint_sky(a: Appearance, seed: int) -> Float[np.ndarray, "h w 3"]:
    """Gradient, glow around the sun and clouds, at half the resolution."""
    elevation = _elevations(2)
    azimuth = (np.arange(WIDTH // 2) * 2 + 0.5) / PIXELS_PER_RADIAN
    u = np.clip(elevation / 0.6, 0, 1)[..., None] ** 0.6
    sky = np.tile((a.horizon + (a.zenith - a.horizon) * u).astype(np.float32), (1, WIDTH // 2, 1))
    away = np.cos(azimuth - a.sun_azimuth).astype(np.float32)[None]
    near = np.exp(12 * (np.cos(elevation - np.float32(a.sun_elevation)) * away - 1))
    sky += near[..., None] * a.glow.astype(np.float32)
    threshold = 1.6 - 2.4 * a.cloud_cover
    clouds = np.clip((_cloud_noise(seed) - np.float32(threshold)) / np.float32(0.9), 0, 1)
    clouds *= np.clip(elevation / 0.12, 0, 1) * np.float32(0.85)
    sky += clouds[..., None] * (a.cloud.astype(np.float32) - sky)
    return sky


def _paint_lights(strip: UInt8[np.ndarray, "h w 4"], a: Appearance, seed: int) -> None:
    """Stars at night, else the disc of the sun."""
    if a.style.time == "night":
        rng = np.random.default_rng([seed, 4])
        rows, columns = rng.integers(0, HEIGHT, 500), rng.integers(0, WIDTH, 500)
        bright = strip[rows, columns, :3].astype(int) + 110
        strip[rows, columns, :3] = np.minimum(bright, 255)
        return
    picture = np.ascontiguousarray(strip[..., :3])
    colour = np.minimum(a.horizon * 0.3 + a.glow * 1.2 + 120, 255).tolist()
    y = (TOP - a.sun_elevation) * PIXELS_PER_RADIAN
    x = float(a.sun_azimuth % (2 * np.pi)) * PIXELS_PER_RADIAN
    for shift in (-WIDTH, 0, WIDTH):
        centre = (round((x + shift) * 16), round(y * 16))
        radius = round(SUN_RADIUS * PIXELS_PER_RADIAN * 16)
        cv2.circle(picture, centre, radius, colour, -1, cv2.LINE_AA, 4)
    strip[..., :3] = picture


def _periodic_noise(
    rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int]
) -> Float[np.ndarray, "h w"]:
    """Smooth noise that continues across azimuth 0."""
    noise = rng.standard_normal(cells).astype(np.float32)
    padded = np.pad(noise, ((0, 0), (2, 2)), mode="wrap")
    scale = size[1] // cells[1]
    big = cv2.resize(padded, (size[1] + 4 * scale, size[0]), interpolation=cv2.INTER_CUBIC)
    return big[:, 2 * scale : 2 * scale + size[1]]


@lru_cache(maxsize=8)
def _cloud_noise(seed: int) -> Float[np.ndarray, "h w"]:
    rng = np.random.default_rng([seed, 3])
    size = (HEIGHT // 2, WIDTH // 2)
    return _periodic_noise(rng, size, (6, 16)) + 0.6 * _periodic_noise(rng, size, (14, 64))


@lru_cache(maxsize=8)
def _hills(seed: int) -> Float[np.ndarray, "2 1 w"]:
    """Elevations of two ridges, the farther one first; the near one is jagged like tree tops."""
    rng = np.random.default_rng([seed, 5])
    ridges = []
    for cells, mean, spread, jag in ((16, 0.07, 0.035, 0.0), (32, 0.035, 0.02, 0.007)):
        ridge = mean + spread * _periodic_noise(rng, (1, WIDTH), (1, cells))
        ridge += jag * _periodic_noise(rng, (1, WIDTH), (1, 256))
        ridges.append(np.clip(ridge, 0.005, HILL_TOP - 0.01))
    return np.stack(ridges)
