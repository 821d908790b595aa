"""What the ReWorld quickstart shows beside its videos: plans, planners, negatives, gammas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from maskworld.cli.quickstart_parts import spread
from maskworld.evaluation.planning import KEYS, PlanningScores
from maskworld.evaluation.results import Results
from maskworld.preparation.mining_pool import NegativePool
from maskworld.preparation.mining_scenes import DriveScenes
from maskworld.preparation.planning_scenes import PlanningScene
from maskworld.report import VideoRow
from maskworld.report.driving import (
    Section,
    ShownPlan,
    gamma_charts,
    plan_section,
    planner_table,
)
from maskworld.types import Clip

NUM_SHOWN_SCENES, NUM_SHOWN_POOLS = 6, 3


@dataclass(frozen=True)
class Evaluation:
    """All scores, and what to show."""

    results: Results
    rows: list[VideoRow] = field(default_factory=list)
    sections: dict[str, Section] = field(default_factory=dict)
    """"plans", "planners", "gammas"."""


def gamma_section(psnr: Mapping[float, float], frechet: Mapping[str, Any]) -> Section:
    """Self-guidance: what a stronger gamma does to sampled dreams.

    Args:
        psnr: gamma -> dB.
        frechet: the entry "frechet_proxy" of metrics.json, gammas as "model_gamma_1.4".
    """
    distances = {gamma: float(frechet[f"model_gamma_{gamma:g}"]) for gamma in psnr}
    charts = gamma_charts(
        {
            "PSNR of sampled dreams": ("dB", psnr),
            "Fréchet proxy of sampled dreams, lower is better": ("", distances),
        }
    )
    return Section(
        "Self-guidance",
        "gamma",
        charts,
        "The same clips from the same noise, sampled at several gammas (ReWorld, Eq. 9).",
    )


def planner_section(
    scores: PlanningScores, displacement: Mapping[str, tuple[float, float]], metrics: Any
) -> Section:
    """Every planner in the same held-out scenes."""
    means = {
        name: {key: float(np.mean(by_key[key])) for key in KEYS}
        for name, by_key in scores.values.items()
    }
    return Section(
        "Planners",
        "planners",
        planner_table(means, displacement, metrics),
        f"PDM score (NAVSIM v1.1, non-reactive) and its parts in per cent, means over "
        f"{len(scores.worlds)} held-out scenes; the gain is paired, with its 95 % interval over "
        "worlds. ADE and FDE: metres from the expert on average and after 4 s.",
    )


def scene_section(
    scenes: Sequence[PlanningScene],
    plans: Mapping[str, Float[np.ndarray, "n 8 3"]],
    scores: PlanningScores,
) -> Section:
    """A few held-out scenes: plan, expert and constant velocity."""
    shown = []
    scored = [i for i, scene in enumerate(scenes) if scene.token not in scores.failed_scenes]
    for i, row in _chosen(scenes, scored, scores):
        scene, clip = scenes[i], scenes[i].clip
        told = {key: float(scores.values["model"][key][row]) for key in KEYS}
        parts = ", ".join(f"{key.upper()} {told[key]:.2g}" for key in KEYS[1:])
        other = float(scores.values["constant_velocity"]["pdms"][row])
        doing = ", ".join(scene.manoeuvres) or "straight on"
        shown.append(
            ShownPlan(
                title=f"{clip.source.removeprefix('drive/')}, {doing}",
                caption=f"PDMS {told['pdms']:.2f} ({parts}); constant velocity {other:.2f}",
                frame=_frame_at_now(clip),
                scene=scene.pdm,
                plans={
                    "constant velocity": plans["constant_velocity"][i],
                    "expert": scene.expert,
                    "plan": plans["model"][i],
                },
            )
        )
    return plan_section(
        "Plans",
        "plans",
        "Held-out scenes at evenly spaced ranks of the model's score, the worst one first. The "
        "model sees nine frames, its speed and acceleration, and the command.",
        shown,
    )


def negatives_section(clips: Sequence[Clip], pool: NegativePool, threshold: float) -> Section:
    """A few training scenes with their candidates and the hard negative chosen among them.

    Args:
        clips: of the training experts, in pixels.
    """
    negatives, has_negative = pool.negatives(threshold)
    summary = pool.summary(threshold)
    by_token = {clip.plan.token: clip for clip in clips if clip.plan is not None}
    rows = [int(row) for row in np.flatnonzero(has_negative) if pool.tokens[row] in by_token]
    rows = [rows[i] for i in spread(len(rows), NUM_SHOWN_POOLS)] if rows else []
    shown = []
    for row in rows:
        token = pool.tokens[row]
        scores = pool.scores_of("PDMS")[row]
        shown.append(
            ShownPlan(
                title=by_token[token].source.removeprefix("drive/"),
                caption=f"{np.mean(scores < threshold):.0%} of {len(scores)} candidates below "
                f"{threshold:g}",
                frame=_frame_at_now(by_token[token]),
                scene=DriveScenes().load([token])[0].pdm,
                plans={"expert": pool.experts[row].astype(np.float64)},
                candidates=pool.candidates[row].astype(np.float64),
                scores=scores,
                negative=negatives[row].astype(np.float64),
            )
        )
    intro = (
        f"{summary['num_scenes']} training scenes were mined with {summary['num_candidates']} "
        f"candidates each; {summary['share_with_negative']:.0%} have a candidate with a PDMS below "
        f"{threshold:g}. The one nearest to the expert is what plans are pushed away from in the "
        "joint stage (ReWorld, Eq. 13 to 18)."
    )
    return plan_section("Candidates and hard negatives", "negatives", intro, shown)


def _frame_at_now(clip: Clip) -> np.ndarray:
    """The first camera's picture at the last past frame, which the clip's token names."""
    assert clip.frames is not None
    assert clip.plan is not None
    stride = round(10 / clip.fps)
    now = (int(clip.plan.token.rsplit("/", 1)[1]) - clip.start) // stride
    frame: torch.Tensor = clip.frames[0, now]
    return frame.permute(1, 2, 0).contiguous().numpy()


def _chosen(
    scenes: Sequence[PlanningScene], scored: Sequence[int], scores: PlanningScores
) -> list[tuple[int, int]]:
    """Scenes to show, as (index among all, row among the scored): the worst, then evenly spaced
    ranks among those in which the expert turns, merges or brakes, as far as there are."""
    order = np.argsort(scores.values["model"]["pdms"], kind="stable")
    busy = [int(row) for row in order[1:] if scenes[scored[row]].manoeuvres]
    calm = [int(row) for row in order[1:] if not scenes[scored[row]].manoeuvres]
    rows = [int(order[0]), *(busy[i] for i in spread(len(busy), NUM_SHOWN_SCENES - 1))]
    rows += [calm[i] for i in spread(len(calm), NUM_SHOWN_SCENES - len(rows))]
    return [(scored[row], row) for row in rows]
