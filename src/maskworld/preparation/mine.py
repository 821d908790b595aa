"""Mining of hard negatives: candidates of every training scene, scored, into a pool.

The network proposes in this process; scenes are opened, PDM-Closed plans and the score is computed
in others, a shard of scenes at a time. A finished shard is a file of its own, so that an
interrupted run goes on where it stopped; the pool does not depend on that, nor on the number of
processes. Scenes of validation and test splits are refused: ReWorld mines training scenes only.

Reference: ReWorld, sections 3.5 and 4.1, after BeyondDrive.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from maskworld.data.storage import remove, write_json
from maskworld.metrics.pdms import reference_plan, score_batch
from maskworld.preparation.candidates import CandidateMaker
from maskworld.preparation.collect import map_worlds
from maskworld.preparation.mining_pool import (
    POOL_FILE,
    NegativePool,
    PoolMeta,
    check_expert,
    fingerprint_of,
)
from maskworld.preparation.mining_scenes import DriveScenes, MiningScenes
from maskworld.types import Clip, collate

NUM_CANDIDATES = 64
"""Per scene (ReWorld, section 4.1)."""
SHARDS, PLAN_FILE = "shards", "plan.json"
PARTS = ("scenes", "reference", "score")
"""What the time goes into: opening scenes, planning by PDM-Closed, scoring the candidates."""


@dataclass(frozen=True)
class ShardJob:
    """The work of one process at a time."""

    scenes: MiningScenes
    tokens: tuple[str, ...]
    experts: Float[np.ndarray, "s 8 3"]
    candidates: Float[np.ndarray, "s n 8 3"]


@dataclass(frozen=True)
class ShardScores:
    """What comes back."""

    scores: Float[np.ndarray, "s n 7"]
    seconds: dict[str, float]
    """Processor time by part (`PARTS`)."""


@dataclass(frozen=True)
class MiningReport:
    """A finished pool, and what it took."""

    pool: NegativePool
    path: Path
    num_resumed: int = 0
    """Scenes that an earlier run had scored."""
    seconds: float = 0.0
    """Of this run, by the clock."""
    parts: dict[str, float] = field(default_factory=dict)
    """Processor time per scene scored in this run, by `PARTS` and "propose"."""


def mine(
    clips: Sequence[Clip],
    candidates: CandidateMaker,
    out: Path | str,
    *,
    scenes: MiningScenes | None = None,
    held_out: Collection[str] = (),
    num_candidates: int = NUM_CANDIDATES,
    seed: int = 0,
    num_workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    report: Callable[[int, int], None] | None = None,
) -> MiningReport:
    """Mines the scenes of training clips into the folder `out`.

    Args:
        clips: of the training split, as the planner sees them; those without an expert are left
            out, and a moment that is there twice is mined once. Pictures only if the generator
            looks at them.
        scenes: opens the moments by token; default: the driving world.
        held_out: tokens that must not be mined; one that ends with "/" means all that begin so.
        resume: go on from the shards that an interrupted run left in `out`.
        overwrite: replace the pool in `out`, and drop unfinished shards.
        report: called with the number of finished scenes and of all.

    Raises:
        ValueError: a held-out token, no expert, a token unknown to `scenes`, an expert that drove
            elsewhere than in `scenes`, a pool or shards of another run in `out`.
    """
    started = time.perf_counter()
    source: MiningScenes = scenes or DriveScenes()
    moments = training_moments(clips, held_out)
    shards = source.shards(list(moments))
    tokens = [token for shard in shards for token in shard]
    experts = np.stack([_expert(moments[token]) for token in tokens])
    meta = PoolMeta(fingerprint_of(tokens, experts), source.name, candidates.describe(), seed)
    plan = json.loads(json.dumps({**asdict(meta), "num_candidates": num_candidates}))
    folder = Path(out)
    done = _prepare(folder, plan, resume, overwrite)
    if done is not None:
        return MiningReport(done, folder / POOL_FILE, num_resumed=len(done))
    files = [folder / SHARDS / f"{i:05d}.safetensors" for i in range(len(shards))]
    pending = [i for i, file in enumerate(files) if not file.is_file()]
    jobs, parts = [], dict.fromkeys((*PARTS, "propose"), 0.0)
    for i in pending:
        before = time.process_time()
        jobs.append(_propose(source, shards[i], moments, candidates, num_candidates, seed))
        parts["propose"] += time.process_time() - before
    num_pending = sum(len(shards[i]) for i in pending)
    num_done = len(tokens) - num_pending
    for i, job, found in zip(pending, jobs, map_worlds(score_shard, jobs, num_workers)):
        part = replace(meta, fingerprint=fingerprint_of(job.tokens, job.experts))
        NegativePool(job.tokens, job.experts, job.candidates, found.scores, part).save(files[i])
        for name, seconds in found.seconds.items():
            parts[name] += seconds
        num_done += len(job.tokens)
        if report is not None:
            report(num_done, len(tokens))
    pool = _merge(files, shards, meta)
    pool.save(folder / POOL_FILE)
    remove(folder / SHARDS)
    return MiningReport(
        pool,
        folder / POOL_FILE,
        num_resumed=len(tokens) - num_pending,
        seconds=time.perf_counter() - started,
        parts={name: total / max(num_pending, 1) for name, total in parts.items()},
    )


def training_moments(clips: Sequence[Clip], held_out: Collection[str] = ()) -> dict[str, Clip]:
    """Clips with an expert by token.

    Raises:
        ValueError: none, one without a token or held out, two experts of one token.
    """
    beginnings = tuple(name for name in held_out if name.endswith("/"))
    moments: dict[str, Clip] = {}
    for clip in clips:
        if clip.plan is None or clip.plan.trajectory is None:
            continue
        token = clip.plan.token
        if not token:
            raise ValueError("Expected a token in every plan sample, found none: scenes need it.")
        if token in held_out or token.startswith(beginnings):
            raise ValueError(
                f"Expected training scenes only, found {token!r}, which is held out: leave the "
                "clips of validation and test splits out of mining."
            )
        if token in moments:
            check_expert(token, _expert(clip), _expert(moments[token]))
        moments.setdefault(token, clip)
    if not moments:
        raise ValueError(
            "Expected clips with an expert's trajectory, found none: ghosts have none, collect "
            "expert clips too."
        )
    return moments


def score_shard(job: ShardJob) -> ShardScores:
    """Opens the scenes of a shard and scores their candidates, progress compared with PDM-Closed
    and all candidates of the scene (BeyondDrive's rule for pools)."""
    times = [time.process_time()]
    opened = job.scenes.load(job.tokens)
    for token, expert, scene in zip(job.tokens, job.experts, opened, strict=True):
        if scene.expert is not None:
            check_expert(token, expert, scene.expert, scene.tolerance)
    for each in opened:
        each.pdm.road, each.pdm.line, each.pdm.tracks  # noqa: B018 (cached properties)
    times.append(time.process_time())
    references = [reference_plan(scene.pdm).poses for scene in opened]
    times.append(time.process_time())
    plans = list(job.candidates.astype(np.float64))
    scored = score_batch([scene.pdm for scene in opened], plans, references, pool=True)
    scores = np.stack([np.stack(list(each.named().values()), axis=1) for each in scored])
    times.append(time.process_time())
    return ShardScores(scores, dict(zip(PARTS, np.diff(times).tolist())))


def _propose(
    source: MiningScenes,
    tokens: Sequence[str],
    moments: dict[str, Clip],
    candidates: CandidateMaker,
    num_candidates: int,
    seed: int,
) -> ShardJob:
    """Candidates of a shard; they depend on the seed and the shard's tokens."""
    name = hashlib.sha256("\n".join([str(seed), *tokens]).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(name[:7], "little"))
    batch = collate([moments[token] for token in tokens])
    proposed = candidates.propose(batch, num_candidates, generator).float().numpy()
    if not np.isfinite(proposed).all():
        row = int(np.flatnonzero(~np.isfinite(proposed).all(axis=(1, 2, 3)))[0])
        raise ValueError(
            f"Expected finite candidates, found NaN or infinity for {tokens[row]!r}: the generator "
            "has not converged; train it longer or at a lower learning rate."
        )
    experts = np.stack([_expert(moments[token]) for token in tokens])
    return ShardJob(source, tuple(tokens), experts, proposed)


def _prepare(
    folder: Path, plan: dict[str, Any], resume: bool, overwrite: bool
) -> NegativePool | None:
    """Makes the folder of the shards; the pool if it is finished already."""
    refuse_existing(folder, resume, overwrite)
    file, notes = folder / POOL_FILE, folder / SHARDS / PLAN_FILE
    if resume and notes.is_file():
        _check_plan(notes, json.loads(notes.read_text(encoding="utf-8")), plan)
        return None
    if resume and file.is_file() and not overwrite:
        pool = NegativePool.load(file)
        shape = {"num_candidates": pool.candidates.shape[1]}
        _check_plan(file, json.loads(json.dumps({**asdict(pool.meta), **shape})), plan)
        return pool
    remove(folder / SHARDS)
    write_json(notes, plan)
    return None


def refuse_existing(folder: Path, resume: bool, overwrite: bool) -> None:
    """Raises a ValueError where a pool, or part of one, is in the way."""
    if resume or overwrite:
        return
    if (folder / POOL_FILE).is_file():
        raise ValueError(
            f"Expected no pool in {folder}, found {POOL_FILE}: pass --overwrite to replace it."
        )
    if (folder / SHARDS / PLAN_FILE).is_file():
        raise ValueError(
            f"Expected no unfinished pool in {folder}, found {SHARDS}: pass --resume to go on, or "
            "--overwrite to begin again."
        )


def _check_plan(where: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    differing = [key for key in expected if found.get(key) != expected[key]]
    if differing:
        raise ValueError(
            f"Expected the same mining run in {where}, found another {', '.join(differing)}: give "
            "the same clips, generator and settings, or pass --overwrite to begin again."
        )


def _merge(files: Sequence[Path], shards: list[list[str]], meta: PoolMeta) -> NegativePool:
    parts = [NegativePool.load(file) for file in files]
    for file, part, tokens in zip(files, parts, shards):
        if part.tokens != tuple(tokens):
            raise ValueError(
                f"Expected the scenes of this run in {file}, found others: pass --overwrite to "
                "begin again."
            )
    return NegativePool(
        tokens=tuple(token for part in parts for token in part.tokens),
        experts=np.concatenate([part.experts for part in parts]),
        candidates=np.concatenate([part.candidates for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        meta=meta,
    )


def _expert(clip: Clip) -> Float[np.ndarray, "l 3"]:
    assert clip.plan is not None
    assert clip.plan.trajectory is not None
    return clip.plan.trajectory.numpy()
