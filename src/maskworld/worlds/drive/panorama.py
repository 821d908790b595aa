"""The sky and the distant hills around a world, as a strip over azimuth and elevation."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from maskworld.worlds.drive.weather import Appearance

WIDTH = 1024
PIXELS_PER_RADIAN = WIDTH / (2 * np.pi)
TOP, BOTTOM = 0.75, -0.08
"""Elevations of the first and the last row, radians."""
HEIGHT = int(np.ceil((TOP - BOTTOM) * PIXELS_PER_RADIAN))


def paint_panorama(appearance: Appearance, seed: int) -> UInt8[np.ndarray, "h w 4"]:
    """RGB, and 255 where hills hide the sky. Column 0 is azimuth 0, counter-clockwise onwards.

    `seed` is the world's: hills and clouds stay where they are in every weather.
    """
    a = appearance
    rng = np.random.default_rng([seed, 3])
    elevation = (TOP - np.arange(HEIGHT) / PIXELS_PER_RADIAN).astype(np.float32)[:, None]
    azimuth = (np.arange(WIDTH) / PIXELS_PER_RADIAN).astype(np.float32)[None]
    u = np.clip(elevation / 0.6, 0, 1) ** 0.6
    sky = (a.horizon + (a.zenith - a.horizon) * u[..., None]).astype(np.float32)
    sky = np.broadcast_to(sky, (HEIGHT, WIDTH, 3)).copy()
    clouds = _clouds(rng, a.cloud_cover) * np.clip(elevation / 0.12, 0, 1)
    stars = rng.uniform(size=(HEIGHT, WIDTH)) < 0.004
    if a.style.time == "night" and a.style.weather == "clear":
        sky[stars] += 110 * (1 - clouds[stars][:, None])
    away = np.cos(azimuth - a.sun_azimuth)
    near = np.exp(4.0 * (np.cos(elevation - a.sun_elevation) * away - 1) * 3.0)
    sky += near[..., None] * a.glow.astype(np.float32)
    if a.style.time != "night":
        disc = np.cos(elevation - a.sun_elevation) * away > np.cos(0.045)
        sky[disc] = np.minimum(sky[disc] + a.glow * 1.2 + 40, 255)
    sky += clouds[..., None] * (a.cloud.astype(np.float32) - sky) * 0.85
    hills = _hills(rng)
    for height, haze in ((hills[0], 0.62), (hills[1], 0.3)):
        colour = a.hill * (a.ambient + 0.5 * a.sun)
        colour = colour * (1 - haze) + a.fog_colour * haze
        if a.style.weather != "clear":
            colour = colour * 0.25 + a.fog_colour * 0.75
        # A soft edge of one pixel.
        cover = np.clip((height - elevation) * PIXELS_PER_RADIAN + 0.5, 0, 1)[..., None]
        sky += cover * (colour.astype(np.float32) - sky)
    strip = np.empty((HEIGHT, WIDTH, 4), np.uint8)
    strip[..., :3] = np.clip(sky, 0, 255)
    strip[..., 3] = np.where(hills.max(axis=0) > elevation, 255, 0)
    return strip


def _periodic_noise(
    rng: np.random.Generator, height: int, cells: tuple[int, int]
) -> Float[np.ndarray, "h w"]:
    """Smooth noise that continues across azimuth 0."""
    noise = rng.standard_normal(cells).astype(np.float32)
    padded = np.pad(noise, ((0, 0), (2, 2)), mode="wrap")
    scale = WIDTH // cells[1]
    big = cv2.resize(padded, (WIDTH + 4 * scale, height), interpolation=cv2.INTER_CUBIC)
    return big[:, 2 * scale : 2 * scale + WIDTH]


def _clouds(rng: np.random.Generator, cover: float) -> Float[np.ndarray, "h w"]:
    noise = _periodic_noise(rng, HEIGHT, (6, 16)) + 0.6 * _periodic_noise(rng, HEIGHT, (14, 64))
    threshold = 1.6 - 2.4 * cover
    return np.clip((noise - threshold) / 0.9, 0, 1)


def _hills(rng: np.random.Generator) -> Float[np.ndarray, "2 1 w"]:
    """Elevations of two ridges, the farther one first; the near one is jagged like tree tops."""
    ridges = []
    for cells, mean, spread, jag in ((16, 0.07, 0.035, 0.0), (32, 0.035, 0.02, 0.007)):
        ridge = mean + spread * _periodic_noise(rng, 1, (1, cells))
        ridge += jag * _periodic_noise(rng, 1, (1, 256))
        ridges.append(np.maximum(ridge, 0.005))
    return np.stack(ridges)
