"""Claims about scoring planners over held-out scenes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from maskworld.evaluation.planning import (
    KEYS,
    PlanningScores,
    add_planning_scores,
    make_plans,
    score_planners,
    score_planning,
    standard_planners,
)
from maskworld.evaluation.results import Results
from maskworld.policies import ConstantVelocity, KnownPlans
from maskworld.preparation.planning_clips import MomentPlan
from maskworld.preparation.planning_scenes import PlanningScene, collect_planning_scenes
from maskworld.types import Batch, collate

PLAN = MomentPlan(num_past=2, num_future=2, size=(16, 24), num_steps=80, styles=("summer",))


@pytest.fixture(scope="module")
def scenes() -> list[PlanningScene]:
    """A racetrack and a roundabout."""
    return collect_planning_scenes([4, 3], 8, PLAN)


def expert_of(scenes: list[PlanningScene]) -> KnownPlans:
    return KnownPlans({s.token: torch.from_numpy(s.expert).float() for s in scenes})


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@dataclass
class Watcher:
    """Drives straight on and keeps what it was shown."""

    seen: list[Batch] = field(default_factory=list)

    def plan(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        self.seen.append(batch)
        return ConstantVelocity().plan(batch, generator)


def test_expert_beats_constant_velocity_where_it_turns(scenes: list[PlanningScene]) -> None:
    turning = [scene for scene in scenes if "turning" in scene.manoeuvres]
    assert len(turning) >= 3
    plans = {
        "expert": make_plans(expert_of(turning), turning, 2, generator()),
        "straight": make_plans(ConstantVelocity(), turning, 2, generator()),
    }
    scores = score_planners(turning, plans)
    assert scores.values["expert"]["pdms"].mean() > scores.values["straight"]["pdms"].mean() + 0.2
    assert scores.values["expert"]["dac"].mean() == 1


def test_planners_are_shown_the_past_alone(scenes: list[PlanningScene]) -> None:
    watcher = Watcher()
    make_plans(watcher, scenes, 2, generator(), batch_size=3)
    assert [len(batch) for batch in watcher.seen] == [3, 3, 2]
    for batch in watcher.seen:
        assert batch.frames.shape[2] == batch.actions.shape[1] == 2
        assert batch.plan.trajectory is None
        assert batch.plan.negative is None


def test_score_is_the_mean_of_products_not_the_product_of_means() -> None:
    nc, one = np.array([1.0, 0.0]), np.ones(2)
    dac = np.array([0.0, 1.0])
    values = {"pdms": nc * dac, "nc": nc, "dac": dac, "ttc": one, "comfort": one, "ep": one}
    scores = PlanningScores(
        {"model": values, "other": dict.fromkeys(KEYS, one)}, np.arange(2), [(), ()], {}, {}
    )
    results = Results("test", {})
    add_planning_scores(results, scores)
    metrics = results.to_dict()["metrics"]
    assert metrics["pdms"]["model"] == 0
    assert metrics["nc"]["model"] == metrics["dac"]["model"] == 0.5
    assert metrics["pdms_gain/other"]["model"] == -1


def test_scores_fit_the_formula_in_every_scene(scenes: list[PlanningScene]) -> None:
    plans = {"straight": make_plans(ConstantVelocity(), scenes, 2, generator())}
    v = score_planners(scenes, plans).values["straight"]
    weighed = (5 * v["ep"] + 5 * v["ttc"] + 2 * v["comfort"]) / 12
    np.testing.assert_allclose(v["pdms"], v["nc"] * v["dac"] * weighed, atol=1e-12)


def test_a_planner_gains_nothing_over_itself_and_a_better_one_gains(
    scenes: list[PlanningScene],
) -> None:
    results = Results("test", {})
    others = {"same": expert_of(scenes), "straight": ConstantVelocity()}
    score_planning(results, scenes, expert_of(scenes), others, 2, generator())
    content = results.to_dict()
    metrics = content["metrics"]
    assert set(KEYS) <= metrics.keys()
    assert metrics["pdms_gain/same"]["interval"] == [0.0, 0.0]
    assert metrics["pdms_gain/straight"]["model"] == pytest.approx(
        metrics["pdms"]["model"] - metrics["pdms"]["straight"]
    )
    assert content["protocol"]["planning"]["num_scored"] == 8
    assert content["protocol"]["planning"]["failed_scenes"] == {}


def test_plans_that_are_not_finite_score_zero_and_are_named(scenes: list[PlanningScene]) -> None:
    plans = {name: np.stack([scene.expert for scene in scenes]) for name in ("model", "good")}
    plans["model"][1, 4] = np.nan
    with pytest.warns(UserWarning, match="model: 1 plans are not finite"):
        scores = score_planners(scenes, plans)
    assert scores.bad_plans == {"model": [scenes[1].token]}
    assert all(scores.values["model"][key][1] == 0 for key in KEYS)
    for key in KEYS:
        rest = np.delete(scores.values["model"][key], 1)
        np.testing.assert_array_equal(rest, np.delete(scores.values["good"][key], 1))


def test_scenes_that_fail_are_left_out_for_all_and_named(scenes: list[PlanningScene]) -> None:
    broken = replace(scenes[2], reference=np.full((41, 3), np.nan))
    some = [*scenes[:2], broken, *scenes[3:]]
    plans = {name: np.stack([scene.expert for scene in some]) for name in ("model", "good")}
    with pytest.warns(UserWarning, match="1 scenes cannot be scored"):
        scores = score_planners(some, plans)
    assert list(scores.failed_scenes) == [broken.token]
    assert len(scores.values["good"]["pdms"]) == len(scores.worlds) == 7
    with pytest.raises(ValueError, match="all 1 fail"):
        score_planners([broken], {"model": plans["model"][2:3]})


def test_standard_planners_train_on_experts_and_all_plan(scenes: list[PlanningScene]) -> None:
    train = collate([scene.clip for scene in scenes]).plan
    planners = standard_planners(train, scenes, generator(), num_steps=3)
    assert {"constant_velocity", "ego_status", "expert", "pdm_closed", "random"} <= planners.keys()
    for planner in planners.values():
        assert make_plans(planner, scenes, 2, generator()).shape == (8, 8, 3)


def test_pdm_closed_as_a_planner_comes_as_far_as_the_reference(
    scenes: list[PlanningScene],
) -> None:
    plans = {"closed": np.stack([scene.closed for scene in scenes])}
    values = score_planners(scenes, plans).values["closed"]
    np.testing.assert_allclose(values["ep"], 1.0, atol=0.05)


def test_a_planner_of_another_horizon_is_refused(scenes: list[PlanningScene]) -> None:
    with pytest.raises(ValueError, match="8 poses"):
        make_plans(ConstantVelocity(num_waypoints=6), scenes, 2, generator())
