"""Where the moments to be mined come from: by token, in shards that one process opens at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from maskworld.data.sources.lerobot_plans import LeRobotDrives
from maskworld.metrics.pdms import NUM_STATES, PDMScene, read_scene
from maskworld.preparation.collect import record_world, scenario_of, scene_stride
from maskworld.preparation.mining_pool import TOLERANCE
from maskworld.preparation.planning_clips import expert_waypoints
from maskworld.worlds.drive.pdm_scene import PDMWorld

BETWEEN_FRAMES = 0.1
"""Metres and radians by which an expert's waypoints between the frames of a dataset may differ from
its world's log. Ours."""


@dataclass(frozen=True)
class MiningScene:
    """One moment as the PDM score sees it."""

    pdm: PDMScene
    expert: Float[np.ndarray, "8 3"] | None = None
    """What was driven, where the source knows: must agree with the clip's."""
    tolerance: float = TOLERANCE
    """Metres and radians by which it may differ."""


@runtime_checkable
class MiningScenes(Protocol):
    """Opens scenes by token. Goes to other processes, so keep it small and picklable."""

    @property
    def name(self) -> str:
        """What the scenes are moments of, for the pool's notes."""
        ...

    def shards(self, tokens: Sequence[str]) -> list[list[str]]:
        """The tokens in groups that are opened together, in an order that depends on the tokens
        alone. Raises a ValueError for a token that is no token of this source."""
        ...

    def load(self, tokens: Sequence[str]) -> list[MiningScene]:
        """The scenes of one shard."""
        ...


@dataclass(frozen=True)
class DriveScenes:
    """Moments of the driving world: tokens `drive/<scenario>/<world>/<step>`. A shard is one world,
    which is recorded again; that takes less than reading its frames would."""

    @property
    def name(self) -> str:
        return "the driving world"

    def shards(self, tokens: Sequence[str]) -> list[list[str]]:
        """By world, then by step."""
        worlds: dict[int, list[str]] = defaultdict(list)
        for token in tokens:
            worlds[world_of(token)].append(token)
        return [sorted(worlds[world], key=step_of) for world in sorted(worlds)]

    def load(self, tokens: Sequence[str]) -> list[MiningScene]:
        """Records each world long enough for the 5 s of traffic that the score needs: what a world
        does until a step does not depend on how long it goes on."""
        longest: dict[int, int] = {}
        for token in tokens:
            world = world_of(token)
            longest[world] = max(longest.get(world, 0), step_of(token) + NUM_STATES)
        worlds = {world: PDMWorld(record_world(world, num_steps=n)) for world, n in longest.items()}
        found = []
        for token in tokens:
            recorded, step = worlds[world_of(token)], step_of(token)
            found.append(MiningScene(recorded.at(step), expert_waypoints(recorded.scene, step)))
        return found


@dataclass(frozen=True)
class CollectedDrives:
    """Moments of datasets that were collected in the driving world: their worlds are driven again.

    Tokens are those of `LeRobotDrives`: `<dataset>, episode <number>, frame <number>`.
    """

    episodes: Mapping[str, tuple[int, int, int]]
    """`<dataset>, episode <number>` -> world, step of its first frame, steps per frame."""

    @classmethod
    def of(cls, sources: Iterable[object]) -> CollectedDrives:
        """The episodes of datasets.

        Raises:
            ValueError: a source that `maskworld data collect` has not made.
        """
        found: dict[str, tuple[int, int, int]] = {}
        for source in sources:
            if not isinstance(source, LeRobotDrives):
                raise ValueError(_NO_SCENES.format(getattr(source, "name", "the data")))
            stride = scene_stride(source.fps)
            for number in range(len(source)):
                drive = source.episode(number)
                told = drive.attributes
                if not {"world", "scenario", "start"} <= set(told):
                    raise ValueError(_NO_SCENES.format(source.name))
                world = int(told["world"])
                if scenario_of(world) != told["scenario"]:
                    raise ValueError(
                        f"Expected world {world} to be of scenario {scenario_of(world)}, found "
                        f"{told['scenario']} in {drive.poses.name}: the dataset is of another "
                        "version of the driving world; collect it again."
                    )
                found[drive.poses.name] = (world, int(told["start"]), stride)
        return cls(found)

    @property
    def name(self) -> str:
        return "drives collected in the driving world"

    def shards(self, tokens: Sequence[str]) -> list[list[str]]:
        """By world, then by step."""
        places = {token: self._place(token) for token in tokens}
        worlds: dict[int, list[str]] = defaultdict(list)
        for token in sorted(places, key=lambda token: (places[token][1], token)):
            worlds[places[token][0]].append(token)
        return [worlds[world] for world in sorted(worlds)]

    def load(self, tokens: Sequence[str]) -> list[MiningScene]:
        """As `DriveScenes`; a dataset's expert is read off frames, the world's off every step."""
        places = [self._place(token) for token in tokens]
        world_tokens = [f"drive/{scenario_of(world)}/{world}/{step}" for world, step in places]
        return [replace(s, tolerance=BETWEEN_FRAMES) for s in DriveScenes().load(world_tokens)]

    def _place(self, token: str) -> tuple[int, int]:
        """World and step."""
        episode, _, frame = token.rpartition(", frame ")
        if episode not in self.episodes or not frame.isdigit():
            raise ValueError(
                f"Expected a moment of the collected drives, found token {token!r}: it is of "
                "another dataset."
            )
        world, start, stride = self.episodes[episode]
        return world, start + int(frame) * stride


_NO_SCENES = (
    "Expected scenes (map and traffic) of {} to score candidates in, found none: only data "
    "collected in the driving world brings them. Give others as JSON files with --mining-scenes "
    "DIR (docs/pdms.md)."
)


@dataclass(frozen=True)
class SceneFiles:
    """Scenes as JSON files, `<token>.json` in one folder: other data, brought to the form of
    docs/pdms.md."""

    folder: Path
    shard_size: int = 32
    """Scenes that one process opens at once. Ours."""

    @property
    def name(self) -> str:
        return f"scene files of {self.folder.name}"

    def shards(self, tokens: Sequence[str]) -> list[list[str]]:
        """Neighbours in the alphabet."""
        ordered = sorted(tokens)
        missing = [token for token in ordered if not self._file(token).is_file()]
        if missing:
            raise ValueError(
                f"Expected a scene file for every token, found none at {self._file(missing[0])} "
                f"and for {len(missing) - 1} others: write them with metrics.pdms.write_scene."
            )
        size = self.shard_size
        return [ordered[first : first + size] for first in range(0, len(ordered), size)]

    def load(self, tokens: Sequence[str]) -> list[MiningScene]:
        """Reads the files."""
        return [MiningScene(read_scene(self._file(token))) for token in tokens]

    def _file(self, token: str) -> Path:
        return self.folder / f"{token}.json"


def held_out_worlds(worlds: Iterable[int]) -> set[str]:
    """Beginnings of the tokens of whole worlds, for `mine(held_out=...)`."""
    return {f"drive/{scenario_of(world)}/{world}/" for world in worlds}


def world_of(token: str) -> int:
    """The world seed in a token of the driving world.

    Raises:
        ValueError: another kind of token.
    """
    return _parsed(token)[0]


def step_of(token: str) -> int:
    """The step of the log in a token of the driving world.

    Raises:
        ValueError: another kind of token.
    """
    return _parsed(token)[1]


def _parsed(token: str) -> tuple[int, int]:
    words = token.split("/")
    is_ours = len(words) == 4 and words[0] == "drive" and words[2].isdigit() and words[3].isdigit()
    if not is_ours or words[1] != scenario_of(int(words[2])):
        raise ValueError(
            f"Expected a token of the driving world, drive/<scenario>/<world>/<step>, found "
            f"{token!r}: these clips are of other data; mine them with SceneFiles."
        )
    return int(words[2]), int(words[3])
