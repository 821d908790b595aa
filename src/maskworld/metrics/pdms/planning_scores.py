"""The PDM score of plans: from plans in the ego's frame to numbers, for one scene or many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from maskworld.metrics.pdms.scene import NUM_PLAN_POSES, PDMScene
from maskworld.metrics.pdms.scene_checks import as_array, check_finite
from maskworld.metrics.pdms.scorer import PerPlan, StateScores, score_states
from maskworld.metrics.pdms.simulator import NUM_TICKS, States, simulate, track

SCORE_NAMES = ("NC", "DAC", "EP", "TTC", "C", "DDC", "PDMS")


@dataclass(frozen=True)
class PDMScores:
    """The scores of p plans of one scene.

    Attributes:
        nc: no collision at fault, 0, 0.5 or 1. dac: drivable-area compliance, 0 or 1. ep: ego
            progress, 0 to 1. ttc: time to collision within bounds, 0 or 1. comfort: 0 or 1. ddc:
            driving direction compliance, 0, 0.5 or 1 (weighs nothing). pdms: the PDM score, 0 to 1.
        progress_raw: metres along the centreline, at least 0.
        comfort_terms: which of `comfort.COMFORT_TERMS` are kept.
        time_to_collision_tick: of the first contact at fault, every 0.1 s; -1: none.
        states: what was simulated.
        reference: the same of the reference plan, one row beside each plan: EP and PDMS depend on
            whom it is compared with. None in these rows themselves.
    """

    nc: PerPlan
    dac: PerPlan
    ep: PerPlan
    ttc: PerPlan
    comfort: PerPlan
    ddc: PerPlan
    pdms: PerPlan
    progress_raw: PerPlan
    comfort_terms: Bool[np.ndarray, "p 6"]
    time_to_collision_tick: Int[np.ndarray, " p"]
    states: States
    reference: PDMScores | None = None

    def named(self) -> dict[str, PerPlan]:
        """The scores under NAVSIM's names, `SCORE_NAMES`."""
        values = (self.nc, self.dac, self.ep, self.ttc, self.comfort, self.ddc, self.pdms)
        return dict(zip(SCORE_NAMES, values))


@dataclass(frozen=True)
class ReferencePlan:
    """Whom progress is compared with.

    Attributes:
        poses: global, every 0.1 s, before simulation.
        choice: which of PDM-Closed's proposals it is; None: given in the scene.
        proposal_scores: PDM-Closed's scores of its 15 proposals.
    """

    poses: Float[np.ndarray, "41 3"]
    choice: int | None = None
    proposal_scores: Float[np.ndarray, " 15"] | None = None


def reference_plan(scene: PDMScene) -> ReferencePlan:
    """The scene's reference: its eight poses, or what PDM-Closed plans. Depends on no plan, so keep
    it if a scene is scored often: planning takes longer than scoring."""
    if not isinstance(scene.reference, str):
        return ReferencePlan(track(scene.reference[None], scene.ego)[0])
    from maskworld.metrics.pdms.closed import plan_closed  # needs shapely

    plan = plan_closed(scene)
    return ReferencePlan(plan.poses[:NUM_TICKS], plan.index, plan.scores)


def score_plans(
    scene: PDMScene,
    plans: Float[np.ndarray, "p 8 3"],
    reference: Float[np.ndarray, "41 3"] | None = None,
    *,
    pool: bool = False,
) -> PDMScores:
    """Scores plans of one scene.

    Args:
        plans: x, y, heading every 0.5 s in the ego's frame; need not be the scene's own.
        reference: the reference plan as global poses every 0.1 s, before simulation; default:
            `reference_plan(scene)`.
        pool: False: each plan's progress is compared with the reference alone, as NAVSIM scores
            one plan. True: with the reference and all the plans, as BeyondDrive mines them.

    Raises:
        ValueError: plans or reference of another shape, or not finite.
    """
    return score_batch([scene], [plans], None if reference is None else [reference], pool=pool)[0]


def score_batch(
    scenes: Sequence[PDMScene],
    plans: Sequence[Float[np.ndarray, "_ 8 3"]],
    references: Sequence[Float[np.ndarray, "41 3"]] | None = None,
    *,
    pool: bool = False,
) -> list[PDMScores]:
    """Scores plans of several scenes, all simulated at once; arguments as of `score_plans`, one
    item per scene.

    Raises:
        ValueError: as `score_plans`, or lists of different lengths.
    """
    if references is None:
        references = [reference_plan(scene).poses for scene in scenes]
    if not len(scenes) == len(plans) == len(references):
        raise ValueError(
            "Expected plans and a reference for each scene, found "
            f"{len(scenes)} scenes, {len(plans)} sets of plans, {len(references)} references."
        )
    poses, initial = [], []
    for i, (scene, own, reference) in enumerate(zip(scenes, plans, references)):
        own = as_array(own, f"plans of scene {i}", (None, NUM_PLAN_POSES, 3))
        reference = as_array(reference, f"reference of scene {i}", (NUM_TICKS, 3))
        check_finite(own, f"plans of scene {i}")
        check_finite(reference, f"reference of scene {i}")
        poses.append(np.concatenate([track(own, scene.ego), reference[None]]))
        initial.append(np.repeat(scene.ego.state[None], len(poses[-1]), axis=0))
    if not poses:
        return []
    states = simulate(np.concatenate(poses), np.concatenate(initial))
    cuts = np.cumsum([len(each) for each in poses])[:-1]
    return [
        _compare(own, score_states(own, scene.road, scene.line, scene.tracks), pool)
        for own, scene in zip(np.split(states, cuts), scenes)
    ]


def _compare(states: States, scores: StateScores, pool: bool) -> PDMScores:
    """EP and PDMS; the last row is the reference."""
    num_plans = len(states) - 1
    best = np.maximum(scores.progress[:-1], scores.progress[-1])
    if pool:
        best = np.full(num_plans, scores.progress.max())
    beside = np.full(num_plans, num_plans)
    reference = _finish(scores[beside], best, np.broadcast_to(states[-1], states[:-1].shape))
    return _finish(scores[:-1], best, states[:-1], reference)


def _finish(
    scores: StateScores, best: PerPlan, states: States, reference: PDMScores | None = None
) -> PDMScores:
    ep = scores.ego_progress(best)
    return PDMScores(
        **vars(scores), ep=ep, pdms=scores.pdms(ep), states=states, reference=reference
    )


def result_json(
    names: Sequence[str], scores: PDMScores, reference: ReferencePlan
) -> dict[str, Any]:
    """Everything about a scene's plans, for a JSON file (docs/pdms.md describes it)."""
    info: dict[str, Any] = {"reference_tracked": reference.poses.tolist()}
    if reference.proposal_scores is not None:
        info["pdm_closed_choice"] = reference.choice
        info["pdm_closed_scores"] = reference.proposal_scores.tolist()
    beside = scores.reference
    assert beside is not None, "score_plans returns the reference"
    return {
        "info": info,
        "results": {
            name: {
                **_row_json(scores, i),
                "reference": _row_json(beside, i),
                "comfort_terms": scores.comfort_terms[i].tolist(),
                "time_to_collision_tick": _tick_json(int(scores.time_to_collision_tick[i])),
                "simulated": scores.states[i].tolist(),
            }
            for i, name in enumerate(names)
        },
    }


def _row_json(scores: PDMScores, i: int) -> dict[str, float]:
    row: Mapping[str, PerPlan] = {**scores.named(), "progress_raw": scores.progress_raw}
    return {name: float(values[i]) for name, values in row.items()}


def _tick_json(tick: int) -> int | None:
    return None if tick < 0 else tick
