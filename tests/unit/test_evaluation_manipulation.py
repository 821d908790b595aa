import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from metaworld_gl import needs_gl
from robot_toy import EXPERT, RANDOM, LineWorld, Nan, Reader, reader

from maskworld.data.control import MemoryPick
from maskworld.evaluation.episode_log import EPISODES, EpisodeLog
from maskworld.evaluation.manipulation import (
    CLEAN,
    Evaluation,
    ManipulationConfig,
    evaluate_manipulation,
    join,
    read_evaluation,
)
from maskworld.evaluation.manipulation_scores import (
    add_pruning,
    add_success,
    compare_over_seeds,
    markdown,
    robustness_table,
)
from maskworld.evaluation.results import Results
from maskworld.evaluation.robot_episodes import EpisodeKey, EpisodeResult, RobotWorld, StepRule
from maskworld.evaluation.robot_worlds import MetaWorldMaker
from maskworld.metrics.intervals import wilson_interval
from maskworld.policies.robot import ChunkPolicy, ControlSpec
from maskworld.serving.policy_client import PolicyClient
from maskworld.serving.policy_server import PolicyServer
from maskworld.types import Batch

RULE = StepRule(20)


def config(**changes: object) -> ManipulationConfig:
    return ManipulationConfig(
        **{"tasks": ("reach",), "seeds": tuple(range(6)), "rule": RULE, **changes}
    )


def endings(evaluation: Evaluation) -> dict[EpisodeKey, tuple[str, int]]:
    return {key: (r.ending, r.steps) for key, r in evaluation.results.items()}


def test_policies_meet_the_same_states_and_end_as_the_rule_says(tmp_path: Path) -> None:
    assert isinstance(LineWorld("reach", ""), RobotWorld)
    policies = {"model": reader().twin, "expert": EXPERT, "random": RANDOM, "nan": Nan}
    found = evaluate_manipulation(policies, config(), LineWorld, tmp_path)
    assert found.endings("expert") == {"success": 6}
    assert found.endings("model") == {"success": 6}
    assert found.endings("nan") == {"bad_action": 6}
    for seed in range(6):
        steps = [found.results[EpisodeKey(p, "", "reach", seed)].steps for p in policies]
        goal = abs(np.random.default_rng(seed).integers(3, 10))
        assert steps[0] == steps[1] == goal
        random = found.results[EpisodeKey("random", "", "reach", seed)]
        assert random.success or (random.ending, random.steps) == ("limit", 20)


def test_counting_chunks_makes_episodes_longer_up_to_the_worlds_horizon(tmp_path: Path) -> None:
    assert StepRule(6).max_steps(8) == 6
    assert StepRule(6, "chunks", horizon=40).max_steps(1) == 6
    assert StepRule(6, "chunks", horizon=40).max_steps(8) == 40
    with pytest.raises(ValueError, match="LIBERO: 1000"):
        StepRule(6, "chunks")
    slow = {"model": reader(gain=0.3).twin}
    seeds = (1, 2, 3)
    strict = evaluate_manipulation(
        slow, config(rule=StepRule(5), seeds=seeds), LineWorld, tmp_path / "a"
    )
    lenient = config(rule=StepRule(5, "chunks", 40), seeds=seeds)
    found = evaluate_manipulation(slow, lenient, LineWorld, tmp_path / "b")
    assert strict.endings("model") == {"limit": 3}
    assert {r.steps for r in strict.results.values()} == {5}
    assert {r.steps for r in found.results.values() if not r.success} <= {10}
    with pytest.raises(ValueError, match="steps/counts is"):
        join({"strict": strict, "lenient": found})


class Narrow:
    """Worlds of which two may run side by side."""

    max_batch = 2
    num_opened = 0

    def __call__(self, task: str, perturbation: str) -> LineWorld:
        self.num_opened += 1
        return LineWorld(task, perturbation)


def test_lock_step_gives_the_episodes_that_running_alone_gives(tmp_path: Path) -> None:
    noisy = {"model": reader(noise=0.5).twin}
    alone = evaluate_manipulation(noisy, config(), LineWorld, tmp_path / "a")
    together = evaluate_manipulation(noisy, config(), LineWorld, tmp_path / "b", batch_size=4)
    assert endings(alone) == endings(together)
    assert len({r.steps for r in alone.results.values()}) > 1
    narrow = Narrow()
    evaluate_manipulation(noisy, config(), narrow, tmp_path / "c", batch_size=4)
    assert narrow.num_opened == 2


def test_a_second_run_does_only_what_is_missing(tmp_path: Path) -> None:
    policies = {"model": reader().twin}
    first = evaluate_manipulation(policies, config(seeds=(0, 1)), LineWorld, tmp_path)
    lines = (tmp_path / EPISODES).read_text()
    (tmp_path / EPISODES).write_text(lines + '{"policy": "mod')  # cut off by a crash
    ran: list[EpisodeKey] = []
    with pytest.warns(UserWarning, match="cut off"):
        second = evaluate_manipulation(
            {**policies, "expert": EXPERT},
            config(seeds=(0, 1, 2)),
            LineWorld,
            tmp_path,
            on_result=lambda result, done, total: ran.append(result.key),
        )
    assert sorted(ran) == [
        *(EpisodeKey("expert", "", "reach", s) for s in (0, 1, 2)),
        EpisodeKey("model", "", "reach", 2),
    ]
    assert endings(first).items() <= endings(second).items()
    kept = read_evaluation(tmp_path)
    assert endings(kept) == endings(second)
    assert sorted(kept.protocol["policies"]) == ["expert", "model"]
    with (
        EpisodeLog(tmp_path, kept.protocol),
        pytest.raises(ValueError, match="Another evaluation writes"),
    ):
        evaluate_manipulation(policies, config(), LineWorld, tmp_path)
    (tmp_path / EPISODES).write_text("{}\n" + lines)
    with pytest.raises(ValueError, match="line 1"):
        read_evaluation(tmp_path)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"rule": StepRule(30)}, "steps/limit is 20 and 30"),
        ({"world": {"cameras": ["top"]}}, "world"),
        ({"checkpoints": {"model": "best"}}, "policies/model/checkpoint is 'last' and 'best'"),
    ],
)
def test_results_of_another_protocol_are_never_mixed_in(
    tmp_path: Path, changed: dict[str, object], words: str
) -> None:
    base = config(seeds=(0,), checkpoints={"model": "last"}, world={"cameras": ["front"]})
    same = {"seeds": (0,), "checkpoints": {"model": "last"}, "world": {"cameras": ["front"]}}
    policies = {"model": reader().twin}
    evaluate_manipulation(policies, base, LineWorld, tmp_path)
    with pytest.raises(ValueError, match=words):
        evaluate_manipulation(policies, config(**{**same, **changed}), LineWorld, tmp_path)
    with pytest.raises(ValueError, match="exec_steps is 2 and 4"):
        evaluate_manipulation({"model": reader(4).twin}, base, LineWorld, tmp_path)


def test_joining_refuses_what_differs_unless_it_is_meant_to(tmp_path: Path) -> None:
    runs = {
        f"every_{n}": evaluate_manipulation(
            {"model": reader(n).twin}, config(), LineWorld, tmp_path / str(n)
        )
        for n in (2, 4)
    }
    with pytest.raises(ValueError, match="exec_steps"):
        join(runs)
    joined = join(runs, but=("exec_steps",))
    assert joined.policies == ["every_2", "every_4"]
    assert joined.protocol["policies"]["every_4"]["exec_steps"] == 4


def test_a_crash_in_a_worker_is_counted_tried_again_and_nothing_is_lost(tmp_path: Path) -> None:
    world = partial(LineWorld, folder=str(tmp_path))
    chosen = config(tasks=("trap",), seeds=tuple(range(6)))
    found = evaluate_manipulation(
        {"expert": EXPERT, "model": reader().twin},
        chosen,
        world,
        tmp_path / "log",
        num_workers=2,
        batch_size=3,
    )
    assert found.endings("expert") == found.endings("model") == {"success": 6}
    assert not found.failures
    assert sum(found.crashes.values()) == 1  # at seed 5, with what ran beside it
    assert "exit code 7" in next(iter(found.crashes))
    assert endings(read_evaluation(tmp_path / "log")) == endings(found)
    with pytest.raises(ValueError, match="lambda"):
        evaluate_manipulation(
            {"x": lambda: reader()}, chosen, world, tmp_path / "other", num_workers=1
        )


def test_an_episode_that_always_crashes_is_left_out_for_all_and_named(tmp_path: Path) -> None:
    chosen = config(tasks=("reach", "broken"), seeds=(0, 1))
    with pytest.warns(UserWarning, match="2 of 4 episodes crashed 2 times.*exploded"):
        found = evaluate_manipulation({"model": reader().twin}, chosen, LineWorld, tmp_path)
    assert [f.key.task for f in found.failures] == ["broken"] * 2
    assert found.crashes == {"RuntimeError: the simulator exploded": 4}
    results = Results("toy", {})
    add_success(results, found)
    content = results.to_dict()
    assert content["metrics"]["success"]["n"] == 2
    assert len(content["protocol"]["manipulation"]["crashed_episodes"]) == 2
    with pytest.raises(ValueError, match="at most 5 episodes"):
        evaluate_manipulation(
            {"model": reader().twin},
            config(tasks=("broken",), seeds=tuple(range(9))),
            LineWorld,
            tmp_path / "b",
        )


def test_a_policy_that_lacks_a_camera_stops_the_run_at_once(tmp_path: Path) -> None:
    spec = ControlSpec(("front", "wrist"), (4, 4), 1, (-1,), (1,), fps=10)
    policy = ChunkPolicy(Reader(), spec, memory=MemoryPick(1, "every"), exec_steps=2)
    with pytest.raises(ValueError, match=r"cameras \['front', 'wrist'\].*found 1 of 3 channels"):
        evaluate_manipulation(
            {"expert": EXPERT, "model": policy.twin},
            config(seeds=(0, 1)),
            LineWorld,
            tmp_path,
        )
    assert read_evaluation(tmp_path).endings("expert") == {"success": 2}  # nothing is lost


def made(**outcomes: str) -> Evaluation:
    """Results from text: policy="11 0" is tasks a and b, or with "dark" at the end perturbed."""
    results = {}
    for name, text in outcomes.items():
        policy, _, perturbation = name.partition("_")
        for task, marks in zip("ab", text.split()):
            for seed, mark in enumerate(marks):
                key = EpisodeKey(policy, perturbation, task, seed)
                ending = "success" if mark == "1" else "limit"
                results[key] = EpisodeResult(key, ending, 5)
    return Evaluation({"world": {}, "steps": {}, "policies": {}}, results)


def test_scores_stand_beside_those_of_others_from_the_same_states() -> None:
    results = Results("toy", {})
    found = made(
        model="1110 1111",
        blind="1000 01",
        model_dark="1000 11",
        blind_dark="00 00",
        model_dim="1 1",
    )
    add_success(results, found)
    metrics = results.to_dict()["metrics"]
    assert metrics["success"]["n"] == 6  # the blind policy tried only two states of task b
    assert metrics["success"]["model"] == pytest.approx(5 / 6)
    assert metrics["success"]["blind"] == pytest.approx(2 / 6)
    assert metrics["success"]["interval"] == list(wilson_interval(5, 6))
    assert metrics["success/a"]["model"] == 0.75
    assert metrics["success_gain/blind"]["model"] == pytest.approx(3 / 6)
    assert metrics["success_under/dark/a"]["model"] == 0.5
    assert "success_gain_under/dim/blind" not in metrics  # who did not try it stands aside
    assert metrics["success_under/dim"]["n"] == 2
    protocol = results.to_dict()["protocol"]["manipulation"]
    assert protocol["num_states"]["clean"] == {"a": 4, "b": 2}
    assert protocol["mcnemar_p"]["clean"]["blind"] == pytest.approx(2 / 8)


def test_the_robustness_table_has_what_is_retained_and_the_paired_gain() -> None:
    found = made(mask="1111 1110", rgb="1111 0000", mask_dark="1110 1000", rgb_dark="1000 0000")
    rows = {(r.policy, r.perturbation): r for r in robustness_table(found, ["mask", "rgb"], "rgb")}
    assert rows["mask", "dark"].rate == 0.5
    assert rows["mask", "dark"].retained == pytest.approx(4 / 7)
    assert rows["mask", "dark"].gain == pytest.approx(3 / 8)
    assert rows["rgb", "dark"].gain == 0
    assert rows["rgb", "dark"].retained == 0.25
    assert "| mask | dark | 50.0% |" in markdown(list(rows.values()))


def test_training_seeds_are_compared_pair_by_pair() -> None:
    found = made(m0="1111 1111", m1="1111 0000", r0="1100 1100", r1="1111 0000")
    compared = compare_over_seeds(found, ["m0", "m1"], ["r0", "r1"])
    assert compared.differences == (0.5, 0.0)
    assert compared.mean == 0.25
    assert compared.interval[0] < 0.25 < compared.interval[1]
    with pytest.raises(ValueError, match="as many"):
        compare_over_seeds(found, ["m0"], ["r0", "r1"])


def test_pruning_gives_npauc_and_its_curve() -> None:
    found = made(
        m="1111 1111", m1="1111 1100", m5="1100 0000", r="1111 1111", r1="0000 1111", r5="0000 0000"
    )
    results = Results("toy", {})
    add_pruning(
        results,
        found,
        "m",
        {0.1: "m1", 0.5: "m5"},
        baselines={"rgb": ("r", {0.1: "r1", 0.5: "r5"})},
    )
    entry = json.loads(json.dumps(results.to_dict()))["metrics"]["npauc"]
    assert entry["model"] == pytest.approx((1 + 0.5 + 0.5 + 0) / 4)
    assert entry["rgb"] == pytest.approx(0.25)
    assert entry["per_horizon"] == {"model": [0.75, 0.25], "rgb": [0.5, 0.0]}


@needs_gl
def test_metaworlds_expert_succeeds_and_a_perturbed_world_starts_alike(tmp_path: Path) -> None:
    world = MetaWorldMaker((16, 16))
    chosen = ManipulationConfig(
        ("drawer-open-v3",),
        (0,),
        StepRule(150),
        world.describe(),
        (CLEAN, "light=0.5+table-color"),
    )
    found = evaluate_manipulation({"expert": EXPERT}, chosen, world, tmp_path)
    assert found.endings("expert") == {"success": 2}
    assert len({result.steps for result in found.results.values()}) == 1
    assert found.protocol["world"]["cameras"] == ["corner4", "gripperPOV"]


@needs_gl
def test_a_served_picture_policy_acts_in_metaworld_through_the_client(tmp_path: Path) -> None:
    class Still:
        """Sees, and does nothing."""

        def act_chunk(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
            assert batch.frames is not None
            assert batch.frames.shape[1:] == (2, 1, 3, 16, 16)
            assert batch.frames.float().std() > 5
            return torch.zeros(len(batch), 4, 4)

    world = MetaWorldMaker((16, 16))
    spec = ControlSpec(world.cameras, (16, 16), 4, (-1,) * 4, (1,) * 4, fps=80)
    policy = ChunkPolicy(Still(), spec, memory=MemoryPick(1, "every"), exec_steps=4)
    chosen = ManipulationConfig(("drawer-open-v3",), (0,), StepRule(6), world.describe())
    with PolicyServer(policy.twin, port=0) as server:
        policies = {"model": partial(PolicyClient, server.url), "expert": EXPERT}
        found = evaluate_manipulation(policies, chosen, world, tmp_path)
    assert found.endings("model") == {"limit": 1}
    assert found.protocol["policies"]["model"]["exec_steps"] == 4
