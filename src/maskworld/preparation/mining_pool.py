"""A pool of scored candidates, and the hard negatives chosen from it (ReWorld, Eq. 13 to 15).

Mining is slow and choosing is fast, so the pool keeps every candidate with every sub-score, and a
threshold or another metric is applied where clips are loaded. One safetensors file: arrays, and
one JSON entry that says of which scenes, by which generator. Nothing is unpickled; equal pools are
equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float

from maskworld.data.storage import atomic_path
from maskworld.metrics.pdms import SCORE_NAMES
from maskworld.objectives.repulsion import select_hard_negative
from maskworld.types import Clip

POOL_FILE = "pool.safetensors"
FORMAT = 1
THRESHOLD = 0.6
"""delta of Eq. 13 (ReWorld, section 4.1): below is unsafe."""
METRIC = "PDMS"
"""s of Eq. 13: the whole score (ReWorld, section 3.5)."""
TOLERANCE = 1e-3
"""Metres and radians by which an expert's waypoints may differ from the pool's. Ours."""
_ENTRY = "maskworld_pool"


@dataclass(frozen=True)
class PoolMeta:
    """How a pool was made."""

    fingerprint: str
    """Of the scenes: their tokens and experts (`fingerprint_of`)."""
    source: str
    """What the scenes are moments of ("the driving world", a folder)."""
    candidates: dict[str, Any]
    """Who proposed them, and how: network, weights, guidance, noise."""
    seed: int
    scoring: str = "PDM score of NAVSIM v1, progress among all candidates and PDM-Closed"
    score_names: tuple[str, ...] = SCORE_NAMES
    format: int = FORMAT


@dataclass(frozen=True, eq=False)
class NegativePool:
    """n candidates of each of s training scenes.

    Attributes:
        experts: what the expert drove: by these a pool knows its data.
        candidates: x, y (m), heading (rad) in the ego frame.
        scores: columns are `SCORE_NAMES`.
    """

    tokens: tuple[str, ...]
    experts: Float[np.ndarray, "s l 3"]
    candidates: Float[np.ndarray, "s n l 3"]
    scores: Float[np.ndarray, "s n 7"]
    meta: PoolMeta
    _rows: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rows = {token: row for row, token in enumerate(self.tokens)}
        sizes = {len(self.tokens), len(rows), len(self.experts), len(self.candidates)}
        if len(sizes | {len(self.scores)}) > 1:
            raise ValueError(
                f"Expected different tokens and as many rows, found {len(rows)} different of "
                f"{len(self.tokens)} tokens and {len(self.experts)}, {len(self.candidates)}, "
                f"{len(self.scores)} rows."
            )
        object.__setattr__(self, "_rows", rows)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._rows

    def row(self, token: str) -> int:
        """Where a scene is.

        Raises:
            ValueError: not here.
        """
        if token not in self._rows:
            raise ValueError(
                f"Expected a scene of the pool, found token {token!r}; the pool holds "
                f"{len(self)} scenes such as {self.tokens[0] if self.tokens else 'none'!r}: it was "
                "mined from other data, or from other worlds or moments; mine it again from these "
                "training clips."
            )
        return self._rows[token]

    def scores_of(self, metric: str) -> Float[np.ndarray, "s n"]:
        """One column of the scores.

        Raises:
            ValueError: unknown name.
        """
        if metric not in SCORE_NAMES:
            near = get_close_matches(metric.upper(), SCORE_NAMES, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"Expected a metric of {', '.join(SCORE_NAMES)}, found {metric!r}.{hint}"
            )
        return self.scores[..., SCORE_NAMES.index(metric)]

    def negatives(
        self, threshold: float | int = THRESHOLD, metric: str = METRIC
    ) -> tuple[Float[np.ndarray, "s l 3"], Bool[np.ndarray, " s"]]:
        """The hard negative of every scene, and whether it has one; zeros where not.

        Reference: ReWorld, Eq. 13 to 15.
        """
        chosen, has_negative = select_hard_negative(
            torch.from_numpy(self.candidates),
            torch.from_numpy(np.ascontiguousarray(self.scores_of(metric))),
            torch.from_numpy(self.experts),
            threshold,
        )
        return chosen.numpy(), has_negative.numpy()

    def summary(
        self, threshold: float | int = THRESHOLD, metric: str = METRIC
    ) -> dict[str, float | int]:
        """Counts and shares for a report."""
        scores = self.scores_of(metric)
        is_unsafe = scores < threshold
        negative, has_negative = self.negatives(threshold, metric)
        apart = np.hypot(*np.moveaxis((negative - self.experts)[has_negative][..., :2], -1, 0))
        return {
            "num_scenes": len(self),
            "num_candidates": scores.shape[1],
            "threshold": float(threshold),
            "share_with_negative": _mean(has_negative),
            "share_of_unsafe_candidates": _mean(is_unsafe),
            "mean_score": _mean(scores),
            "mean_best_score": _mean(scores.max(axis=1, initial=-np.inf)) if scores.size else 0.0,
            "mean_distance_of_negative_m": _mean(apart),
        }

    def save(self, path: Path | str) -> Path:
        """Writes the pool to a file, whole or not at all; a folder gets `POOL_FILE`."""
        from safetensors.numpy import save_file

        file = _file_of(path)
        arrays: dict[str, np.ndarray] = {
            "candidates": np.ascontiguousarray(self.candidates, np.float32),
            "experts": np.ascontiguousarray(self.experts, np.float32),
            "scores": np.ascontiguousarray(self.scores, np.float64),
        }
        document = {"tokens": list(self.tokens), "meta": asdict(self.meta)}
        # One entry: several come in any order, and bytes would differ from run to run.
        entry = {_ENTRY: json.dumps(document, sort_keys=True, allow_nan=False)}
        with atomic_path(file, what="the pool of candidates") as temporary:
            save_file(arrays, temporary, metadata=entry)
            temporary.chmod(0o644)  # safetensors writes for the owner alone
        return file

    @classmethod
    def load(cls, path: Path | str) -> NegativePool:
        """Reads a pool from its file, or from the folder it is in.

        Raises:
            ValueError: no such file, another kind of file, damaged or edited by hand.
        """
        from safetensors import SafetensorError, safe_open

        file = _file_of(path)
        if not file.is_file():
            raise ValueError(
                f"Expected a pool of candidates at {file}, found none: make it with "
                "`maskworld data mine`; an interrupted run goes on with --resume."
            )
        try:
            with safe_open(file, framework="numpy") as opened:
                entry = (opened.metadata() or {}).get(_ENTRY)
                if entry is None:
                    raise ValueError(f"Expected a pool of candidates in {file}, found other data.")
                arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            document = json.loads(entry)
            known = {f.name for f in fields(PoolMeta)}
            if document["meta"].get("format") != FORMAT or set(document["meta"]) != known:
                raise ValueError(
                    f"Expected a pool of format {FORMAT} in {file}, found "
                    f"{document['meta'].get('format')}: mine it again with this version."
                )
            names = tuple(document["meta"].pop("score_names"))
            meta = PoolMeta(**document["meta"], score_names=names)
            pool = cls(tokens=tuple(document["tokens"]), meta=meta, **arrays)
        except (SafetensorError, OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"Expected a whole pool of candidates in {file}, found a damaged one ({error}): "
                "copy it again or mine it again."
            ) from error
        if fingerprint_of(pool.tokens, pool.experts) != meta.fingerprint:
            raise ValueError(
                f"Expected the scenes that the pool {file} was made from, found others (their "
                "fingerprint differs): it was changed after mining; mine it again."
            )
        return pool


def attach_negatives(
    clips: Sequence[Clip],
    pool: NegativePool,
    threshold: float | int = THRESHOLD,
    metric: str = METRIC,
    *,
    missing: Literal["refuse", "skip"] = "refuse",
) -> list[Clip]:
    """The clips with `PlanSample.negative`, chosen from the pool now.

    Clips without an expert (ghosts) pass unchanged. An earlier negative is replaced.

    Args:
        threshold: a candidate below it is unsafe (ReWorld: 0.6).
        metric: one of `SCORE_NAMES` (ReWorld: PDMS).
        missing: what to do with an expert's clip whose scene was not mined: refuse, or leave it
            without a negative.

    Raises:
        ValueError: the pool is of other data: an unknown token, no known token at all, or an expert
            that drove elsewhere.
    """
    negatives, has_negative = pool.negatives(threshold, metric)
    wanted = [clip for clip in clips if clip.plan is not None and clip.plan.trajectory is not None]
    known = [clip for clip in wanted if clip.plan is not None and clip.plan.token in pool]
    unknown = [clip.plan.token for clip in wanted if clip.plan and clip.plan.token not in pool]
    if unknown and (missing == "refuse" or not known):
        pool.row(unknown[0])  # says what is wrong
    attached = []
    for clip in clips:
        plan = clip.plan
        if plan is None or plan.trajectory is None:
            attached.append(clip)
            continue
        negative = None
        if plan.token in pool:
            row = pool.row(plan.token)
            check_expert(plan.token, plan.trajectory.numpy(), pool.experts[row])
            negative = torch.from_numpy(negatives[row].copy()) if has_negative[row] else None
        attached.append(replace(clip, plan=replace(plan, negative=negative)))
    return attached


def fingerprint_of(tokens: Sequence[str], experts: Float[np.ndarray, "s l 3"]) -> str:
    """Names a set of scenes: a hash of their tokens and of where the experts drove, in millimetres.

    Does not depend on the order.
    """
    # Half a bin aside, so that no waypoint at 0, as of a standing car, sits on the edge of a bin.
    waypoints = np.floor(experts.astype(np.float64) * 1e3 + 0.25).astype("<i8")
    digest = hashlib.sha256()
    for row in sorted(range(len(tokens)), key=lambda i: tokens[i]):
        digest.update(tokens[row].encode() + b"\0" + waypoints[row].tobytes())
    return digest.hexdigest()[:32]


def check_expert(
    token: str,
    found: Float[np.ndarray, "_ 3"],
    expected: Float[np.ndarray, "_ 3"],
    tolerance: float = TOLERANCE,
) -> None:
    """Whether two sides mean the same moment.

    Raises:
        ValueError: they differ by more than `tolerance`, metres and radians.
    """
    if found.shape == expected.shape and np.abs(found - expected).max(initial=0) <= tolerance:
        return
    raise ValueError(
        f"Expected one expert of {token!r}, found another trajectory of the same "
        "name: pool, clips and scenes are not of one version of the data; mine again from these "
        "clips."
    )


def _file_of(path: Path | str) -> Path:
    path = Path(path)
    return path if path.suffix == ".safetensors" else path / POOL_FILE


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0
