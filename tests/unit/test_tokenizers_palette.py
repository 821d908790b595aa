"""Claims about maskworld.tokenizers.palette, and about masks through the tiny tokenizer."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from jaxtyping import UInt8
from torch import Tensor

from maskworld.recipes import load_recipe
from maskworld.tokenizers.latent import build_latent_tokenizer
from maskworld.tokenizers.palette import (
    Palette,
    PaletteConfig,
    all_classes,
    away_from_edges,
    far_apart,
    robot_and_objects,
)

CLASSES = ("background", "robot", "gripper", "object", "fixture", "table", "goal")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn_maps(num_clips: int, *, size: int = 128, num_frames: int = 5) -> UInt8[Tensor, "n f h w"]:
    """A table, and boxes and discs of every class that move over it."""
    generator = seeded(num_clips)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    maps = torch.zeros(num_clips, num_frames, size, size, dtype=torch.uint8)
    maps[..., size // 2 :, :] = 5
    for clip in range(num_clips):
        for label in (4, 1, 2, 3, 6):
            at = torch.rand(2, generator=generator) * size
            velocity = 6 * (torch.rand(2, generator=generator) - 0.5)
            half = 6 + 14 * torch.rand(2, generator=generator)
            for frame in range(num_frames):
                y, x = (at + frame * velocity).tolist()
                dy, dx = (rows - y) / half[0], (columns - x) / half[1]
                inside = (dy**2 + dx**2 < 1) if label % 2 else (dy.abs() < 1) & (dx.abs() < 1)
                maps[clip, frame][inside] = label
    return maps


def test_labels_survive_rendering_and_reading() -> None:
    palette = Palette(all_classes(CLASSES))
    labels = torch.randint(0, 7, (2, 3, 8, 9), generator=seeded()).to(torch.uint8)
    frames = palette.render(labels)
    assert frames.shape == (2, 3, 3, 8, 9)
    assert torch.equal(palette.read(frames), labels)
    worn = frames.int() + torch.randint(-60, 61, frames.shape, generator=seeded(1))
    assert torch.equal(palette.read(worn.clamp(0, 255).to(torch.uint8)), labels)


def test_reading_takes_the_nearest_colour() -> None:
    palette = Palette(all_classes(CLASSES))
    frames = torch.randint(0, 256, (4, 3, 5, 6), generator=seeded()).to(torch.uint8)
    pixels = frames.movedim(1, -1).double()[..., None, :]
    slow = (pixels - palette.colours.double()).square().sum(dim=-1).argmin(dim=-1)
    assert torch.equal(palette.read(frames).long(), slow)


@pytest.mark.parametrize(("count", "least"), [(3, 360), (4, 360), (8, 255), (20, 120)])
def test_colours_are_far_apart(count: int, least: int) -> None:
    colours = torch.tensor(far_apart(count), dtype=torch.double)
    gaps = [float((a - b).norm()) for a, b in combinations(colours, 2)]
    assert len(colours) == count
    assert min(gaps) >= least


def test_the_papers_grouping_has_robot_with_gripper_and_yellow_objects() -> None:
    config = robot_and_objects(CLASSES, robot=("robot", "gripper"), objects=("object",))
    assert config.groups == (0, 1, 1, 2, 0, 0, 0)
    palette = Palette(config)
    labels = torch.arange(7, dtype=torch.uint8).view(1, 7)
    assert palette.read(palette.render(labels)).tolist() == [[0, 1, 1, 2, 0, 0, 0]]
    assert palette.render(labels)[:, 0, 3].tolist() == [255, 255, 0]


def test_unknown_classes_and_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="found 7"):
        Palette(all_classes(CLASSES)).render(torch.full((2, 2), 7, dtype=torch.uint8))
    with pytest.raises(ValueError, match="found hand"):
        robot_and_objects(CLASSES, robot=("hand",), objects=())
    with pytest.raises(ValueError, match="groups from 0 to 2"):
        PaletteConfig(groups=(0, 3))


def test_away_from_edges_keeps_what_has_one_label_around_it() -> None:
    labels = torch.zeros(1, 9, 12, dtype=torch.uint8)
    labels[:, :, 6:] = 3
    kept = away_from_edges(labels, 2)
    assert kept[0, 4].tolist() == [True] * 4 + [False] * 4 + [True] * 4
    assert bool(away_from_edges(labels, 0).all())
    for margin in (1, 2):  # against the definition
        labels = torch.randint(0, 2, (1, 6, 7), generator=seeded()).to(torch.uint8)
        labels = labels.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
        kept = away_from_edges(labels, margin)[0]
        for y in range(24):
            for x in range(28):
                near = labels[
                    0, max(0, y - margin) : y + margin + 1, max(0, x - margin) : x + margin + 1
                ]
                assert bool(kept[y, x]) == bool((near == labels[0, y, x]).all())


def test_the_tiny_tokenizer_recovers_labels_away_from_edges() -> None:
    """Fitted on pictures and palettes, on drawn maps; on Meta-World's see docs/log.md."""
    system = load_recipe("mask-world-model-tiny").system
    palette = Palette(all_classes(CLASSES))
    tokenizer = build_latent_tokenizer(system.tokenizer)
    maps = drawn_maps(160)
    generator = seeded()
    noise = torch.randint(0, 256, (24, 1, 3, 16, 16), generator=generator).to(torch.uint8)
    pictures = (
        noise.repeat_interleave(8, dim=3).repeat_interleave(8, dim=4).expand(-1, 5, -1, -1, -1)
    )
    tokenizer.fit(torch.cat([palette.render(maps[16:]), pictures]), generator)
    clips = palette.render(maps[:16]).float() / 127.5 - 1
    decoded = tokenizer.decode(tokenizer.encode(clips))
    again = palette.read(((decoded + 1) * 127.5).round().to(torch.uint8))
    is_same = (again == maps[:16])[away_from_edges(maps[:16], 2)]
    assert is_same.double().mean() > 0.99
