"""PDM scores of planners over held-out scenes, nobody reacting to them, as in NAVSIM.

Products of sub-scores are taken in every scene, then means over scenes. Scenes of one world are
not independent: intervals resample worlds.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from maskworld.evaluation.results import Results
from maskworld.interfaces import Planner
from maskworld.metrics.intervals import bootstrap_interval
from maskworld.metrics.pdms import NUM_PLAN_POSES, score_plans
from maskworld.metrics.scores import ClipScores
from maskworld.policies import (
    ConstantTurnRate,
    ConstantVelocity,
    KnownPlans,
    RandomPlans,
    StandStill,
    fit_ego_status,
)
from maskworld.preparation.planning_scenes import MANOEUVRES, PlanningScene, describe_scenes
from maskworld.types import PlanBatch, collate

KEYS = ("pdms", "nc", "dac", "ttc", "comfort", "ep")
"""The score, then its parts: no collision at fault, drivable area, time to collision, comfort,
progress."""


@dataclass(frozen=True)
class PlanningScores:
    """Scores of several planners in the same scenes, one row per scene."""

    values: Mapping[str, Mapping[str, Float[np.ndarray, " n"]]]
    """Planner -> one of `KEYS` -> scores."""
    worlds: Int[np.ndarray, " n"]
    manoeuvres: Sequence[tuple[str, ...]]
    bad_plans: Mapping[str, Sequence[str]]
    """Planner -> tokens of the scenes where its plan was not finite; it scores 0 there."""
    failed_scenes: Mapping[str, str]
    """Token -> why nobody could be scored; such scenes are left out for all planners alike."""

    def clip_scores(
        self, planner: str, key: str, rows: Bool[np.ndarray, " n"] | None = None
    ) -> ClipScores:
        """The scores of one planner, of some of the scenes."""
        total = self.values[planner][key] if rows is None else self.values[planner][key][rows]
        return ClipScores(total[:, None], np.ones((len(total), 1)))


def standard_planners(
    train: PlanBatch,
    scenes: Sequence[PlanningScene],
    generator: torch.Generator,
    *,
    num_steps: int = 1500,
) -> dict[str, Planner]:
    """What a planner stands beside: those that know nothing; one that knows ego state and command,
    trained on `train` for `num_steps`; PDM-Closed, who knows map and traffic; and the expert, whose
    future is the log's."""
    if train.trajectory is None or train.has_trajectory is None:
        raise ValueError("Expected training plans with trajectories, found none.")
    expert = {scene.token: torch.from_numpy(scene.expert).float() for scene in scenes}
    closed = {scene.token: torch.from_numpy(scene.closed).float() for scene in scenes}
    return {
        "constant_velocity": ConstantVelocity(),
        "constant_turn_rate": ConstantTurnRate(),
        "stand_still": StandStill(),
        "random": RandomPlans(train.trajectory[train.has_trajectory]),
        "ego_status": fit_ego_status(train, generator, num_steps=num_steps),
        "pdm_closed": KnownPlans(closed),
        "expert": KnownPlans(expert),
    }


def make_plans(
    planner: Planner,
    scenes: Sequence[PlanningScene],
    num_past: int,
    generator: torch.Generator,
    *,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
) -> Float[np.ndarray, "n 8 3"]:
    """The planner's waypoints in every scene, from what it may see: `num_past` frames, their
    actions, ego state and command.

    Raises:
        ValueError: not 8 waypoints.
    """
    plans = []
    for first in range(0, len(scenes), batch_size):
        part = scenes[first : first + batch_size]
        batch = collate([scene.observation(num_past) for scene in part]).to(device)
        with torch.no_grad():
            found = planner.plan(batch, generator)
        if found.shape != (len(part), NUM_PLAN_POSES, 3):
            raise ValueError(
                f"Expected plans of {NUM_PLAN_POSES} poses x, y, heading at 2 Hz for {len(part)} "
                f"scenes, found shape {tuple(found.shape)}."
            )
        plans.append(found.cpu().double().numpy())
    return np.concatenate(plans)


def score_planners(
    scenes: Sequence[PlanningScene], plans: Mapping[str, Float[np.ndarray, "n 8 3"]]
) -> PlanningScores:
    """Scores the plans of every planner in every scene.

    A plan that is not finite scores 0 in all parts. A scene that cannot be scored is left out for
    all planners. Both are named in the result and warned about.

    Raises:
        ValueError: no scene could be scored.
    """
    rows: list[Float[np.ndarray, "p k"]] = []
    kept: list[PlanningScene] = []
    bad: dict[str, list[str]] = {name: [] for name in plans}
    failed: dict[str, str] = {}
    for i, scene in enumerate(scenes):
        stacked = np.stack([plans[name][i] for name in plans])
        is_good = np.isfinite(stacked).all(axis=(1, 2))
        try:
            scores = score_plans(
                scene.pdm, np.where(is_good[:, None, None], stacked, 0.0), scene.reference
            )
        except ValueError as error:
            failed[scene.token] = str(error)
            continue
        row = np.stack([getattr(scores, key) for key in KEYS], axis=1)
        rows.append(np.where(is_good[:, None], row, 0.0))
        kept.append(scene)
        for name, good in zip(plans, is_good, strict=True):
            if not good:
                bad[name].append(scene.token)
    if not kept:
        raise ValueError(f"Expected scenes that can be scored, all {len(scenes)} fail: {failed}.")
    _warn(bad, failed)
    table = np.stack(rows)
    return PlanningScores(
        values={
            name: {key: table[:, i, k] for k, key in enumerate(KEYS)}
            for i, name in enumerate(plans)
        },
        worlds=np.array([scene.world for scene in kept]),
        manoeuvres=[scene.manoeuvres for scene in kept],
        bad_plans={name: tokens for name, tokens in bad.items() if tokens},
        failed_scenes=failed,
    )


def score_planning(
    results: Results,
    scenes: Sequence[PlanningScene],
    planner: Planner,
    others: Mapping[str, Planner],
    num_past: int,
    generator: torch.Generator,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> PlanningScores:
    """Plans, scores and reports: all that `add_planning_scores` adds, with `others` beside.

    Args:
        generator: for the planner; the others draw from `seed`, so that they are the same beside
            every planner.
        device: where the planner is given its batches.
    """
    plans = {"model": make_plans(planner, scenes, num_past, generator, device=device)}
    cpu = torch.Generator().manual_seed(seed)
    plans |= {name: make_plans(each, scenes, num_past, cpu) for name, each in others.items()}
    scores = score_planners(scenes, plans)
    add_planning_scores(results, scores, seed=seed)
    results.protocol["planning"] = {
        **describe_scenes(scenes),
        "num_scored": len(scores.worlds),
        "failed_scenes": dict(scores.failed_scenes),
        "bad_plans": {name: list(tokens) for name, tokens in scores.bad_plans.items()},
        "score": "PDMS of NAVSIM v1.1, non-reactive, 4 s, in the driving world",
        "num_past": num_past,
    }
    return scores


def add_planning_scores(results: Results, scores: PlanningScores, *, seed: int = 0) -> None:
    """Adds `KEYS`, "pdms/<manoeuvre>", and paired differences "<key>_gain/<other>".

    The planner called "model" is scored, the others stand beside it. A gain is the model's mean
    minus the other's over the same scenes, with the interval of that difference.
    """
    others = [name for name in scores.values if name != "model"]
    for key in KEYS:
        _add(results, key, scores, key, others, None, seed)
    for name, rows in _rows_by_manoeuvre(scores).items():
        if len(np.unique(scores.worlds[rows])) >= 2:
            _add(results, f"pdms/{name}", scores, "pdms", others, rows, seed)
    for key in ("pdms", "nc", "dac"):
        model = scores.clip_scores("model", key)
        for other in others:
            difference = model.minus(scores.clip_scores(other, key))
            results.add(
                f"{key}_gain/{other}",
                model=difference.mean,
                interval=bootstrap_interval(
                    difference, np.random.default_rng(seed), groups=scores.worlds
                ),
                n=len(difference),
                better="higher",
                baselines={"no_difference": 0.0},
            )


def _add(
    results: Results,
    name: str,
    scores: PlanningScores,
    key: str,
    others: Sequence[str],
    rows: Bool[np.ndarray, " n"] | None,
    seed: int,
) -> None:
    model = scores.clip_scores("model", key, rows)
    worlds = scores.worlds if rows is None else scores.worlds[rows]
    results.add(
        name,
        model=model.mean,
        interval=bootstrap_interval(model, np.random.default_rng(seed), groups=worlds),
        n=len(model),
        better="higher",
        baselines={other: scores.clip_scores(other, key, rows).mean for other in others},
    )


def _rows_by_manoeuvre(scores: PlanningScores) -> dict[str, Bool[np.ndarray, " n"]]:
    rows = {name: np.array([name in found for found in scores.manoeuvres]) for name in MANOEUVRES}
    return {**rows, "straight_on": np.array([not found for found in scores.manoeuvres])}


def _warn(bad: Mapping[str, Sequence[str]], failed: Mapping[str, str]) -> None:
    for name, tokens in bad.items():
        if tokens:
            warnings.warn(
                f"{name}: {len(tokens)} plans are not finite and score 0, the first in "
                f"{tokens[0]}.",
                stacklevel=3,
            )
    if failed:
        token, reason = next(iter(failed.items()))
        warnings.warn(
            f"{len(failed)} scenes cannot be scored and are left out for all planners, the first "
            f"is {token}: {reason}",
            stacklevel=3,
        )
