"""Label maps as pictures and back: a fixed colour for every class, read by the nearest colour.

So a video tokenizer that knows pictures carries masks too. The published palette is known only as
"fixed colours", with one colour (yellow) for all task objects; the colours here are ours, as far
apart as a cube allows.

Reference: Mask World Model, section 3 (mask rendering).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

_FIRST = (
    (0, 0, 0),
    (255, 0, 255),
    (255, 255, 0),  # the third is yellow: task objects of the default grouping
    (0, 255, 255),
    (255, 255, 255),
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
)
"""Corners of the cube; any three of the first four are equally far apart."""
_LEVELS = (0, 64, 128, 191, 255)
"""Of the colours after them."""
MAX_GROUPS = len(_LEVELS) ** 3


@dataclass(frozen=True)
class PaletteConfig:
    """Which classes share a colour. The default is the paper's content of a mask: the robot with
    its gripper, the objects of the task, and the rest."""

    names: tuple[str, ...] = ("background", "robot", "task objects")
    """Of the groups; a group has a colour."""
    groups: tuple[int, ...] = (0, 1, 2)
    """Group of every class id of the label maps."""

    def __post_init__(self) -> None:
        if not self.groups or not 1 <= len(self.names) <= MAX_GROUPS:
            raise ValueError(
                f"Expected at least one class and 1 to {MAX_GROUPS} groups, found "
                f"{len(self.groups)} and {len(self.names)}."
            )
        if any(not 0 <= group < len(self.names) for group in self.groups):
            raise ValueError(
                f"Expected groups from 0 to {len(self.names) - 1} ({', '.join(self.names)}), found "
                f"{self.groups}."
            )


def all_classes(names: Sequence[str]) -> PaletteConfig:
    """A colour for every class."""
    return PaletteConfig(tuple(names), tuple(range(len(names))))


def robot_and_objects(
    names: Sequence[str], robot: Sequence[str], objects: Sequence[str]
) -> PaletteConfig:
    """The paper's three groups over the classes `names`.

    Raises:
        ValueError: a name of `robot` or `objects` that is no class.
    """
    unknown = sorted({*robot, *objects} - set(names))
    if unknown:
        raise ValueError(f"Expected classes of {', '.join(names)}, found {', '.join(unknown)}.")
    groups = tuple(1 if name in robot else 2 if name in objects else 0 for name in names)
    return PaletteConfig(groups=groups)


class Palette:
    """Renders label maps of class ids, and reads pictures back as maps of group numbers."""

    def __init__(self, config: PaletteConfig | None = None) -> None:
        self.config = config or PaletteConfig()
        self.colours = torch.tensor(far_apart(len(self.config.names)), dtype=torch.uint8)
        self._groups = torch.tensor(self.config.groups)

    @property
    def num_groups(self) -> int:
        return len(self.config.names)

    def group(self, labels: UInt8[Tensor, "*n h w"]) -> UInt8[Tensor, "*n h w"]:
        """Class ids to group numbers: what `read` gives of rendered labels.

        Raises:
            ValueError: a class that the palette does not know.
        """
        known = len(self.config.groups)
        if labels.numel() and int(labels.max()) >= known:
            raise ValueError(
                f"Expected classes 0 to {known - 1} in the masks, found {int(labels.max())}: give "
                "the palette a group for every class of the data."
            )
        groups = self._groups.to(labels.device, torch.uint8)
        return groups[labels.long()]

    def one_hot(self, groups: UInt8[Tensor, "*n h w"]) -> Float[Tensor, "*n g h w"]:
        """Group numbers to a channel per group."""
        return F.one_hot(groups.long(), self.num_groups).movedim(-1, -3).float()

    def render(self, labels: UInt8[Tensor, "*n h w"]) -> UInt8[Tensor, "*n 3 h w"]:
        """Class ids to RGB.

        Raises:
            ValueError: a class that the palette does not know.
        """
        colours = self.colours.to(labels.device)
        return colours[self.group(labels).long()].movedim(-1, -3).contiguous()

    def read(self, frames: UInt8[Tensor, "*n 3 h w"]) -> UInt8[Tensor, "*n h w"]:
        """RGB to the number of the nearest group's colour."""
        pixels = frames.to(torch.int32)
        best = nearest = None
        for number, colour in enumerate(self.colours.to(frames.device, torch.int32)):
            distance = (pixels - colour[:, None, None]).square().sum(dim=-3)
            if best is None or nearest is None:
                best, nearest = distance, torch.zeros_like(distance, dtype=torch.uint8)
                continue
            nearest = nearest.masked_fill(distance < best, number)
            best = torch.minimum(best, distance)
        assert nearest is not None
        return nearest


def away_from_edges(labels: UInt8[Tensor, "*n h w"], margin: int = 2) -> Bool[Tensor, "*n h w"]:
    """True where no other label lies within `margin` pixels (of a square around the pixel)."""
    flat = labels.reshape(-1, 1, *labels.shape[-2:]).float()
    size = 2 * margin + 1
    padded = F.pad(flat, (margin,) * 4, mode="replicate")
    highest = F.max_pool2d(padded, size, stride=1)
    lowest = -F.max_pool2d(-padded, size, stride=1)
    return (highest == lowest).reshape(labels.shape)


@cache
def far_apart(count: int) -> tuple[tuple[int, int, int], ...]:
    """Colours far from one another: corners of the cube, then always the farthest of a grid."""
    chosen = list(_FIRST[:count])
    grid = [(r, g, b) for r, g, b in product(_LEVELS, repeat=3)]
    while len(chosen) < count:
        gaps = [min(sum((a - b) ** 2 for a, b in zip(c, d)) for d in chosen) for c in grid]
        chosen.append(grid[gaps.index(max(gaps))])
    return tuple(chosen)
