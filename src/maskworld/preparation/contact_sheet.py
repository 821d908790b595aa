"""A picture of a set: clips as rows, moments as columns, with captions, labels and actions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float, UInt8

from maskworld.data.storage import atomic_path
from maskworld.data.transforms import ResizeCrop
from maskworld.types import Clip

GAP, MARGIN, HEADER, TITLE, FOOTER = 4, 24, 58, 44, 20
NARROWEST = 360
"""Pixels: room for the text of narrow sheets."""
PLOT = 190
"""Pixels; the plot of the actions is this wide."""
INK, PALE, PAPER = "#1c2733", "#6b7885", "#fbfbf9"
LINES = ("#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#b45309", "#0f766e")
CLASS_COLOURS = {
    "background": (40, 44, 52),
    "sky": (125, 175, 215),
    "ground": (196, 180, 140),
    "road": (110, 84, 120),
    "marking": (250, 245, 235),
    "vehicle": (30, 90, 220),
    "vegetation": (95, 150, 50),
    "building": (150, 105, 90),
}
"""By name, where the class is one of these; others take turns in OTHER_COLOURS."""
OTHER_COLOURS = ((230, 85, 35), (45, 160, 130), (240, 190, 40), (160, 70, 170), (70, 150, 230))


@dataclass(frozen=True)
class SheetRow:
    """One clip as it is drawn."""

    title: str
    caption: str | None
    """None: the columns have their own."""
    frames: UInt8[np.ndarray, "v n h w 3"]
    marks: Sequence[str]
    """Under each column: its time, or its own caption."""
    labels: UInt8[np.ndarray, "v n h2 w2"] | None = None
    actions: Float[np.ndarray, "t a"] | None = None
    """Of all frames from the first to the last shown."""


def rows_of_source(
    source: Any, num_rows: int = 8, num_columns: int = 8, first: int = 0
) -> list[SheetRow]:
    """Episodes evenly spread from number `first` on, each from its first to its last frame; a set
    of images fills the rows with images one after another."""
    if not 0 <= first < len(source):
        raise ValueError(f"{source.name} has {len(source)} episodes, asked for number {first}.")
    if all(source.episode(number).num_frames == 1 for number in range(first, len(source))):
        last = min(len(source), first + num_rows * num_columns)
        starts = range(first, last, num_columns)
        return [_image_row(source, range(a, min(a + num_columns, last))) for a in starts]
    numbers = np.linspace(first, len(source) - 1, min(num_rows, len(source) - first))
    return [_episode_row(source, round(number), num_columns) for number in numbers]


def _episode_row(source: Any, number: int, num_columns: int) -> SheetRow:
    episode = source.episode(number)
    last = episode.num_frames - 1
    places = sorted({round(i) for i in np.linspace(0, last, num_columns)})
    if hasattr(episode, "read_tokens"):
        frames, labels = code_colours(episode.read_tokens(places), source.vocab_size), None
    else:
        frames = rearrange(episode.read(places), "v n c h w -> v n h w c")
        labels = episode.read_labels(places)
    facts = f"{episode.num_frames} frames · {episode.fps:g} Hz · {last / episode.fps:.1f} s"
    cuts = len(episode.segments) - 1
    title = f"episode {number} · {facts}" + (f" · {cuts} cuts" if cuts > 0 else "")
    marks = [f"{place / episode.fps:.1f} s" for place in places]
    return SheetRow(title, episode.caption, frames, marks, labels, episode.actions)


def _image_row(source: Any, numbers: range) -> SheetRow:
    """Images cut to the shape of the first, each with its caption below."""
    clips = [
        Clip(frames=torch.from_numpy(np.ascontiguousarray(source.episode(n).read([0]))))
        for n in numbers
    ]
    assert clips[0].frames is not None
    fit = ResizeCrop((clips[0].frames.shape[-2], clips[0].frames.shape[-1]))
    images = [fit(clip, torch.Generator()).frames for clip in clips]
    frames = torch.cat([image for image in images if image is not None], dim=1)
    title = f"images {numbers[0]} to {numbers[-1]}"
    marks = [_shortened(source.episode(n).caption, 30) for n in numbers]
    return SheetRow(title, None, rearrange(frames.numpy(), "v n c h w -> v n h w c"), marks)


def rows_of_clips(clips: Iterable[Clip], num_rows: int = 8, num_columns: int = 8) -> list[SheetRow]:
    """Clips as they come, for instance of a stream; images show as many as there are columns."""
    rows = []
    for clip in islice(clips, num_rows):
        assert clip.frames is not None
        count = clip.frames.shape[1]
        step = range(num_columns) if clip.is_image else np.linspace(0, count - 1, num_columns)
        places = sorted({round(i) for i in step if i < count})
        frames = rearrange(clip.frames[:, places].numpy(), "v n c h w -> v n h w c")
        title = f"{clip.source} · {count} images" if clip.is_image else clip.source
        title += "" if clip.is_image else f" · from frame {clip.start} · {clip.fps:.3g} Hz"
        marks = [f"image {p}" if clip.is_image else f"{p / clip.fps:.1f} s" for p in places]
        caption = " | ".join(clip.caption.split("\n"))
        actions = None if clip.actions is None else clip.actions.numpy().astype(np.float64)
        rows.append(SheetRow(title, caption, frames, marks, None, actions))
    return rows


def write_contact_sheet(
    path: Path | str,
    name: str,
    facts: str,
    rows: Sequence[SheetRow],
    *,
    label_names: Sequence[str] | None = None,
    action_names: Sequence[str] | None = None,
    thumb_width: int = 168,
) -> None:
    """Writes a PNG.

    Args:
        name: of the set; the headline.
        facts: one line below it.
        thumb_width: pixels of a thumbnail, its height follows the frames.

    Raises:
        ValueError: no rows, or no .png.
    """
    if not rows or Path(path).suffix.lower() != ".png":
        raise ValueError(f"Expected rows to draw and a .png to write, got {len(rows)} and {path}.")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    images = [_strip(row, thumb_width, label_names) for row in rows]
    has_plot = any(row.actions is not None and len(row.actions) > 1 for row in rows)
    plot = PLOT + 3 * GAP if has_plot else 0
    width = 2 * MARGIN + max(NARROWEST, *(image.shape[1] for image in images)) + plot
    heights = [TITLE + image.shape[0] + FOOTER for image in images]
    legend = 22 if label_names and any(row.labels is not None for row in rows) else 0
    height = 2 * MARGIN + HEADER + legend + sum(heights)
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor=PAPER)
    FigureCanvasAgg(figure)
    page = _Page(figure, width, height)
    page.text(MARGIN, MARGIN - 2, name, size=17, weight="bold")
    page.text(MARGIN, MARGIN + 27, facts, size=10, color=PALE)
    if legend and label_names:
        _draw_legend(page, label_names)
    top = MARGIN + HEADER + legend
    for row, image, row_height in zip(rows, images, heights):
        _draw_row(page, row, image, top, thumb_width, action_names)
        top += row_height
    with atomic_path(path, what=f"the contact sheet of {name}") as temporary:
        figure.savefig(temporary, dpi=100, facecolor=PAPER)


class _Page:
    """A figure in pixels, from the top left."""

    def __init__(self, figure: Any, width: int, height: int) -> None:
        self.figure, self.width, self.height = figure, width, height

    def text(
        self, x: float | int, y: float | int, words: str, size: float | int = 9, **style: Any
    ) -> None:
        style = {"color": INK, "va": "top", "parse_math": False} | style
        self.figure.text(x / self.width, 1 - y / self.height, words, fontsize=size, **style)

    def image(self, x: float | int, y: float | int, pixels: np.ndarray) -> None:
        below = self.height - y - pixels.shape[0]
        self.figure.figimage(pixels, xo=round(x), yo=round(below))

    def axes(self, x: float | int, y: float | int, width: float | int, height: float | int) -> Any:
        below = self.height - y - height
        box = (x / self.width, below / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)


def _draw_legend(page: _Page, label_names: Sequence[str]) -> None:
    x = float(MARGIN)
    for name, colour in zip(label_names, class_colours(label_names)):
        swatch = np.full((12, 12, 3), 150, dtype=np.uint8)  # its rim shows pale colours
        swatch[1:-1, 1:-1] = colour
        page.image(x, MARGIN + HEADER - 7, swatch)
        page.text(x + 17, MARGIN + HEADER - 8, name, size=9, color=PALE)
        x += 17 + 6.5 * len(name) + 18


def _draw_row(
    page: _Page,
    row: SheetRow,
    image: np.ndarray,
    top: int,
    thumb_width: int,
    action_names: Sequence[str] | None,
) -> None:
    page.text(MARGIN, top + 3, row.title, size=8.5, color=PALE)
    length = int((page.width - 2 * MARGIN) / 7.1)
    caption = None if row.caption is None else _shortened(row.caption, length)
    if caption:
        page.text(MARGIN, top + 19, caption, size=10.5)
    elif caption is not None:
        page.text(MARGIN, top + 19, "no caption", size=10.5, color=PALE, style="italic")
    page.image(MARGIN, top + TITLE, image)
    for i, mark in enumerate(row.marks):
        x = MARGIN + i * (thumb_width + GAP)
        page.text(x, top + TITLE + image.shape[0] + 2, mark, size=7.5, color=PALE)
    if row.actions is not None and len(row.actions) > 1:
        x = page.width - MARGIN - PLOT
        _draw_actions(page, row.actions, x, top + TITLE, image.shape[0], action_names)


def _draw_actions(
    page: _Page,
    actions: np.ndarray,
    left: int,
    top: int,
    height: int,
    names: Sequence[str] | None,
) -> None:
    """One small curve per channel (the first six), each on its own scale; zero is a pale line."""
    count = min(actions.shape[1], len(LINES), max(1, height // 34))
    each = height / count
    for i in range(count):
        values = actions[:, i]
        axes = page.axes(left, top + i * each + 14, PLOT, each - 18)
        axes.plot(values, color=LINES[i], linewidth=1.4)
        low, high = float(values.min()), float(values.max())
        pad = max(0.1 * (high - low), 1e-3 * max(abs(low), abs(high)), 1e-4)
        if low - pad <= 0 <= high + pad:
            axes.axhline(0, color="#c9ced3", linewidth=0.8, zorder=0)
        axes.set(xlim=(0, len(values) - 1), ylim=(low - pad, high + pad))
        axes.axis("off")
        name = names[i] if names else f"action {i}"
        words = f"{name}  {_number(low)} … {_number(high)}"
        page.text(left, top + i * each, words, size=7.5, color=LINES[i])


def _strip(row: SheetRow, width: int, label_names: Sequence[str] | None) -> np.ndarray:
    """Frames side by side; views and label maps below each other."""
    lines = []
    for view in range(row.frames.shape[0]):
        lines.append(_side_by_side(row.frames[view], width))
        if row.labels is not None:
            colours = class_colours(label_names or [], 1 + int(row.labels.max()))
            painted = np.array(colours, dtype=np.uint8)[row.labels[view]]
            lines.append(_side_by_side(painted, width, is_label=True))
    gap = _paper(GAP, lines[0].shape[1])
    return np.concatenate([part for line in lines for part in (line, gap)][:-1])


def _side_by_side(
    images: UInt8[np.ndarray, "n h w 3"], width: int, is_label: bool = False
) -> np.ndarray:
    import cv2

    height = max(8, round(images.shape[1] * width / images.shape[2]))
    is_smaller = width < images.shape[2]
    method = cv2.INTER_AREA if is_smaller else cv2.INTER_CUBIC
    if is_label or images.shape[2] <= 32:  # class maps and codes are squares, not gradients
        method = cv2.INTER_NEAREST
    cells: list[np.ndarray] = []
    for image in images:
        scaled = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=method)
        cells += [scaled, _paper(height, GAP)]
    return np.concatenate(cells[:-1], axis=1)


def _paper(height: int, width: int) -> np.ndarray:
    colour = [int(PAPER[i : i + 2], 16) for i in (1, 3, 5)]
    return np.full((height, width, 3), colour, dtype=np.uint8)


def class_colours(names: Sequence[str], count: int = 0) -> list[tuple[int, int, int]]:
    """A colour per class, and for further numbers up to `count`."""
    known: list[tuple[int, int, int]] = []
    others = 0
    for i in range(max(len(names), count)):
        colour = CLASS_COLOURS.get(names[i].lower()) if i < len(names) else None
        if colour is None:
            colour = OTHER_COLOURS[others % len(OTHER_COLOURS)]
            others += 1
        known.append(colour)
    return known


def code_colours(
    tokens: np.ndarray, vocab_size: int, cell: int = 1
) -> UInt8[np.ndarray, "v n h w 3"]:
    """Codes as colours: one hue per code, the same for equal codes. Codes have no order, so that
    neighbouring colours mean nothing."""
    import cv2

    number = np.arange(vocab_size)
    hue = (number * 0.618034 * 180) % 180
    light = 110 + (number * 0.7548777 * 145) % 145
    hsv = np.stack([hue, 90 + (number * 0.569840 * 110) % 110, light], axis=-1).astype(np.uint8)
    palette = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]
    return repeat(palette[tokens], "v n h w c -> v n (h a) (w b) c", a=cell, b=cell)


def _number(value: float) -> str:
    """Three digits; what is nothing but rounding error is 0."""
    return "0" if abs(value) < 1e-6 else f"{value:.3g}"


def _shortened(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
