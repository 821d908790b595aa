"""The numbers of a robot's episodes: rows, checked, and their statistics, kept with a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from maskworld.data.episodes import Source
from maskworld.data.statistics import RunningStatistics
from maskworld.data.storage import write_json
from maskworld.data.windows import full_ranges

ACTION, STATE = "action", "observation.state"
"""LeRobot's names of the columns."""


@dataclass(frozen=True)
class ControlStatistics:
    """Statistics of actions and states, and what else must fit between data and a model."""

    stats: dict[str, dict[str, list[float]]]
    """As LeRobot's stats.json: feature -> min, max, mean, std, count, q01, q10, q50, q90, q99, one
    number per dimension. A dimension may be constant (q01 = q99)."""
    fps: float | int
    """Steps per second."""
    views: list[str]
    action_names: list[str] | None = None

    @property
    def action_dim(self) -> int:
        return len(self.stats[ACTION]["mean"])

    @property
    def state_dim(self) -> int:
        return len(self.stats[STATE]["mean"])

    def save(self, path: Path | str) -> None:
        write_json(path, asdict(self))

    @staticmethod
    def load(path: Path | str) -> ControlStatistics:
        """Raises ValueError where there is no such file, or another kind of file."""
        try:
            found = ControlStatistics(**json.loads(Path(path).read_text(encoding="utf-8")))
            if min(found.action_dim, found.state_dim) < 1:
                raise ValueError("no dimension")
        except (OSError, TypeError, KeyError, ValueError) as error:
            raise ValueError(
                f"Expected statistics of actions and states in {path}, found none ({error}): make "
                "them with control_statistics(source).save(path)."
            ) from error
        return found

    def check(self, source: Source) -> None:
        """Raises ValueError unless the episodes of `source` are of the same robot: dimensions,
        rate, cameras in order, and names of the actions where both say them."""
        episode: Any = source.episode(0)
        where = episode_name(source, 0)
        actions, state = control_rows(episode, where)
        found: dict[str, tuple[Any, Any]] = {
            "actions": (actions.shape[1], self.action_dim),
            "state numbers": (state.shape[1], self.state_dim),
            "cameras": (list(getattr(source, "views", self.views)), self.views),
        }
        names = getattr(source, "action_names", None)
        if names is not None and self.action_names is not None:
            found["action names"] = (list(names), self.action_names)
        for what, (has, expected) in found.items():
            if has != expected:
                raise ValueError(
                    f"{where}: expected {what} {expected} as in the training data, found {has}. "
                    "Choose data of the same robot, or make new statistics and train again."
                )
        if abs(float(episode.fps) - self.fps) > 1e-3 * self.fps:
            raise ValueError(
                f"{where}: expected {self.fps:g} steps per second as in the training data, found "
                f"{float(episode.fps):g}. Record or resample it at that rate."
            )


def control_statistics(
    source: Source, ranges: Mapping[int, Sequence[tuple[int, int]]] | None = None
) -> ControlStatistics:
    """Statistics over the frames of `ranges` (the training episodes; None = all).

    Moments are exact, quantiles off by at most one bin of 1/2048 of a dimension's range.

    Raises:
        ValueError: episodes without actions or state, of several widths or rates, or with NaN;
            names the episode.
    """
    used = full_ranges(source) if ranges is None else ranges
    running: dict[str, RunningStatistics] = {}
    rates: dict[float, str] = {}
    for number in sorted(used):
        where = episode_name(source, number)
        episode: Any = source.episode(number)
        rates.setdefault(float(episode.fps), where)
        actions, state = control_rows(episode, where)
        for start, stop in used[number]:
            # Row t is the step into frame t: that into the first frame belongs to no chunk.
            rows = {ACTION: actions[start + 1 : stop], STATE: state[start:stop]}
            for name, values in rows.items():
                seen = running.setdefault(name, RunningStatistics(values.shape[1]))
                if seen.dim != values.shape[1]:
                    raise ValueError(
                        f"{where}: expected {name} of {seen.dim} numbers as in episodes before, "
                        f"found {values.shape[1]}. Keep robots in datasets of their own."
                    )
                seen.update(values)
    if len(rates) > 1:
        raise ValueError(f"{source.name}: expected one frame rate, found {rates}: resample.")
    if not running or not running[ACTION].count:
        raise ValueError(f"{source.name} has no step to make statistics of: use other ranges.")
    names = getattr(source, "action_names", None)
    return ControlStatistics(
        stats={
            name: {key: values.tolist() for key, values in seen.compute().items()}
            for name, seen in running.items()
        },
        fps=next(iter(rates)),
        views=list(getattr(source, "views", [])),
        action_names=None if names is None else list(names),
    )


def control_rows(
    episode: Any, where: str
) -> tuple[Float[np.ndarray, "t a"], Float[np.ndarray, "t s"]]:
    """Actions (row t is the step into frame t) and states of an episode, checked.

    Raises:
        ValueError: none, not one per frame, NaN or infinity; begins with `where`.
    """
    found = []
    for what, values in (("actions", episode.actions), ("state", getattr(episode, "state", None))):
        if values is None:
            raise ValueError(
                f"{where} has no {what}: a robot's policy needs both actions and "
                "`observation.state`. For videos without them train stage 1 alone, without control."
            )
        if len(values) != episode.num_frames or values.ndim != 2:
            raise ValueError(
                f"{where}: expected one row of {what} for each of {episode.num_frames} frames, "
                f"found shape {values.shape}."
            )
        is_finite = np.isfinite(values).all(axis=1)
        if not is_finite.all():
            raise ValueError(
                f"{where}: the {what} of frame {int(np.argmin(is_finite))} hold NaN or infinity "
                f"({int((~is_finite).sum())} such rows): drop the episode or mend its recording."
            )
        found.append(values.astype(np.float32))
    return found[0], found[1]


def episode_name(source: Source, number: int) -> str:
    """How messages call an episode."""
    return f"Episode {number} of {source.name}"
