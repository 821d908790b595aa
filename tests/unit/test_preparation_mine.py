"""Claims about mining: pools, what is chosen from them, interruptions, refusals."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pdms_scenes import agent, straight_plan, straight_road

from maskworld.data.lerobot_reader import LeRobotSource
from maskworld.data.sources.lerobot_plans import LeRobotDrives
from maskworld.metrics.pdms import SCORE_NAMES, reference_plan, score_plans, write_scene
from maskworld.policies.trajectory_flow import TrajectoryFlow, TrajectoryFlowConfig
from maskworld.preparation import mine as mining
from maskworld.preparation.candidates import FlowCandidates, PlannerCandidates
from maskworld.preparation.collect import collect_drive, record_world
from maskworld.preparation.mine import MiningReport, mine
from maskworld.preparation.mining_pool import NegativePool, attach_negatives, fingerprint_of
from maskworld.preparation.mining_scenes import (
    CollectedDrives,
    DriveScenes,
    SceneFiles,
    held_out_worlds,
)
from maskworld.preparation.online_mining import OnlineMiner
from maskworld.preparation.planning_clips import plan_sample
from maskworld.training.checkpoint import pack, unpack
from maskworld.types import Batch, Clip, PlanSample, collate

NUM_SCENES, NUM_CANDIDATES = 7, 12


@dataclass
class Drawn:
    """Candidates around 8 m/s straight on, from the generator alone. Counts its calls; raises once
    it has been asked more often than `limit`."""

    limit: int = 1000
    calls: int = 0
    spread: float = 3.0

    def propose(
        self, batch: Batch, num_candidates: int, generator: torch.Generator
    ) -> torch.Tensor:
        assert batch.plan is not None
        self.calls += 1
        if self.calls > self.limit:
            raise KeyboardInterrupt
        shape = (len(batch.plan.tokens), num_candidates, 1, 2)
        aside = torch.randn(shape, generator=generator) * self.spread
        share = torch.linspace(0, 1, 8)[:, None]
        plan = torch.from_numpy(straight_plan(8.0)).float()
        places = plan[:, :2] + aside * share
        return torch.cat([places, plan[:, 2:].expand(*places.shape[:-1], 1)], dim=-1)

    def describe(self) -> dict[str, Any]:
        return {"kind": "drawn", "spread": self.spread}


def toy_clip(i: int, token: str | None = None) -> Clip:
    plan = PlanSample(
        ego=torch.tensor([8.0, 0.0, 0.0, 0.0]),
        command=1,
        trajectory=torch.from_numpy(straight_plan(7.0 + 0.2 * i)).float(),
        token=f"toy{i}" if token is None else token,
    )
    return Clip(frames=torch.zeros(1, 1, 3, 4, 4, dtype=torch.uint8), plan=plan)


def ghost_clip(i: int) -> Clip:
    clip = toy_clip(i)
    assert clip.plan is not None
    return replace(clip, plan=replace(clip.plan, trajectory=None))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SceneFiles:
    """A road with a car somewhere ahead, in another place in each scene; two per shard."""
    folder = tmp_path_factory.mktemp("scenes")
    for i in range(NUM_SCENES):
        scene = straight_road(agents=(agent(18.0 + 3 * i, 0.0, speed=2.0),))
        write_scene(scene, folder / f"toy{i}.json")
    return SceneFiles(folder, shard_size=2)


def clips() -> list[Clip]:
    return [toy_clip(i) for i in range(NUM_SCENES)]


def mined(scenes: SceneFiles, out: Path, **more: Any) -> MiningReport:
    candidates = more.pop("candidates", Drawn())
    return mine(
        more.pop("clips", clips()),
        candidates,
        out,
        scenes=scenes,
        num_candidates=NUM_CANDIDATES,
        **more,
    )


@pytest.fixture(scope="module")
def pool(scenes: SceneFiles, tmp_path_factory: pytest.TempPathFactory) -> NegativePool:
    return mined(scenes, tmp_path_factory.mktemp("pool")).pool


def tokens_of(clips: Sequence[Clip]) -> list[str]:
    return [clip.plan.token for clip in clips if clip.plan is not None]


def test_scores_of_the_pool_are_those_of_the_scorer_with_the_pools_rule(
    pool: NegativePool, scenes: SceneFiles
) -> None:
    assert pool.tokens == tuple(f"toy{i}" for i in range(NUM_SCENES))
    assert pool.scores.shape == (NUM_SCENES, NUM_CANDIDATES, len(SCORE_NAMES))
    differs = False
    for row, opened in enumerate(scenes.load(pool.tokens)):
        plans = pool.candidates[row].astype(np.float64)
        reference = reference_plan(opened.pdm).poses
        together = score_plans(opened.pdm, plans, reference, pool=True).named()
        for column, name in enumerate(SCORE_NAMES):
            assert np.allclose(pool.scores[row, :, column], together[name], atol=1e-9)
        alone = score_plans(opened.pdm, plans, reference).named()
        differs = differs or not np.allclose(alone["EP"], together["EP"])
    assert differs  # or the rule would not matter here


@pytest.mark.parametrize(("metric", "threshold"), [("PDMS", 0.6), ("TTC", 0.5), ("PDMS", 0.9)])
def test_the_negative_is_the_unsafe_candidate_nearest_to_the_expert(
    pool: NegativePool, metric: str, threshold: float
) -> None:
    attached = attach_negatives(clips(), pool, threshold, metric)
    num_found = 0
    for clip in attached:
        assert clip.plan is not None
        assert clip.plan.trajectory is not None
        row = pool.tokens.index(clip.plan.token)
        best, nearest = None, float("inf")
        for n in range(NUM_CANDIDATES):  # Eq. 13 to 15, in words
            if pool.scores[row, n, SCORE_NAMES.index(metric)] >= threshold:
                continue
            apart = 0.0
            for step, number in itertools.product(range(8), range(3)):
                difference = pool.candidates[row, n, step, number] - clip.plan.trajectory[
                    step, number
                ].item()  # fmt: skip
                apart += difference**2 / 8
            if apart < nearest:
                best, nearest = n, apart
        assert (clip.plan.negative is None) == (best is None)
        if best is not None:
            num_found += 1
            assert clip.plan.negative is not None
            assert np.array_equal(clip.plan.negative.numpy(), pool.candidates[row, best])
    share = pool.summary(threshold, metric)["share_with_negative"]
    assert share == pytest.approx(num_found / NUM_SCENES)
    assert num_found > 0


def test_a_scene_without_an_unsafe_candidate_has_no_negative(pool: NegativePool) -> None:
    scores = pool.scores.copy()
    scores[3] = 1.0
    safe = replace(pool, scores=scores)
    attached = attach_negatives(clips(), safe)
    assert attached[3].plan is not None
    assert attached[3].plan.negative is None
    batch = collate(attached).plan
    assert batch is not None
    assert batch.has_negative is not None
    assert batch.has_negative.tolist().count(False) >= 1
    assert not batch.has_negative[3]
    # An earlier negative does not survive.
    again = attach_negatives(attach_negatives(clips(), pool, 2.0), safe)
    assert again[3].plan is not None
    assert again[3].plan.negative is None


def test_the_pool_is_the_same_bytes_for_any_number_of_processes_and_order_of_clips(
    scenes: SceneFiles, tmp_path: Path
) -> None:
    one = mined(scenes, tmp_path / "one")
    two = mined(scenes, tmp_path / "two", num_workers=2, clips=clips()[::-1])
    assert one.path.read_bytes() == two.path.read_bytes()
    assert not (tmp_path / "one/shards").exists()
    loaded = NegativePool.load(tmp_path / "one")
    assert np.array_equal(loaded.scores, one.pool.scores)
    assert loaded.meta == one.pool.meta


def test_an_interrupted_run_keeps_its_shards_and_ends_in_the_same_bytes(
    scenes: SceneFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = mined(scenes, tmp_path / "whole")
    real, calls = mining.score_shard, 0

    def stops_at_the_third(job: mining.ShardJob) -> mining.ShardScores:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return real(job)

    monkeypatch.setattr(mining, "score_shard", stops_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        mined(scenes, tmp_path / "cut")
    monkeypatch.setattr(mining, "score_shard", real)
    shards = sorted((tmp_path / "cut/shards").glob("*.safetensors"))
    assert len(shards) == 2
    assert not (tmp_path / "cut/pool.safetensors").exists()
    written = [shard.stat().st_mtime_ns for shard in shards]
    with pytest.raises(ValueError, match="--resume"):
        mined(scenes, tmp_path / "cut")
    with pytest.raises(ValueError, match="another candidates"):
        mined(scenes, tmp_path / "cut", resume=True, candidates=Drawn(spread=1.0))
    with pytest.raises(ValueError, match="another seed"):
        mined(scenes, tmp_path / "cut", resume=True, seed=1)
    with pytest.raises(ValueError, match="another fingerprint"):
        mined(scenes, tmp_path / "cut", resume=True, clips=clips()[:6])
    assert [shard.stat().st_mtime_ns for shard in shards] == written
    candidates = Drawn()
    resumed = mined(scenes, tmp_path / "cut", resume=True, candidates=candidates)
    assert resumed.num_resumed == 4
    assert candidates.calls == 2  # the two shards that were missing
    assert resumed.path.read_bytes() == whole.path.read_bytes()


def test_a_finished_pool_is_not_mined_again_and_not_replaced_by_accident(
    scenes: SceneFiles, tmp_path: Path
) -> None:
    mined(scenes, tmp_path)
    candidates = Drawn()
    again = mined(scenes, tmp_path, resume=True, candidates=candidates)
    assert (again.num_resumed, candidates.calls) == (NUM_SCENES, 0)
    with pytest.raises(ValueError, match="--overwrite"):
        mined(scenes, tmp_path)
    other = mined(scenes, tmp_path, overwrite=True, seed=1)
    assert not np.array_equal(other.pool.candidates, again.pool.candidates)


def test_a_foreign_pool_is_refused(pool: NegativePool) -> None:
    with pytest.raises(ValueError, match="Expected a scene of the pool, found token 'other0'"):
        attach_negatives([toy_clip(0), toy_clip(1, "other0")], pool)
    # The same names, but another expert.
    with pytest.raises(ValueError, match="another trajectory of the same name"):
        attach_negatives([toy_clip(3, "toy0")], pool)
    # Some unknown may be skipped, all unknown not.
    skipped = attach_negatives([toy_clip(0), toy_clip(1, "other")], pool, 2.0, missing="skip")
    assert [clip.plan is not None and clip.plan.negative is not None for clip in skipped] == [
        True,
        False,
    ]
    with pytest.raises(ValueError, match="Expected a scene of the pool"):
        attach_negatives([toy_clip(1, "other")], pool, missing="skip")
    with pytest.raises(ValueError, match="Did you mean 'PDMS'"):
        attach_negatives(clips(), pool, metric="pdm")


def test_ghosts_need_no_pool_and_twins_are_mined_once(
    pool: NegativePool, scenes: SceneFiles, tmp_path: Path
) -> None:
    ghost = ghost_clip(99)
    assert attach_negatives([ghost], pool)[0] is ghost
    report = mined(scenes, tmp_path / "a", clips=[ghost_clip(0), toy_clip(1), toy_clip(1)])
    assert report.pool.tokens == ("toy1",)
    with pytest.raises(ValueError, match="another trajectory of the same name"):
        mined(scenes, tmp_path / "b", clips=[toy_clip(1), toy_clip(5, "toy1")])
    with pytest.raises(ValueError, match="ghosts have none"):
        mined(scenes, tmp_path / "b", clips=[ghost])


def test_held_out_scenes_are_refused_before_anything_is_written(
    scenes: SceneFiles, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="'toy4', which is held out"):
        mined(scenes, tmp_path / "new", held_out={"toy4", "toy99"})
    assert not (tmp_path / "new").exists()
    drive = toy_clip(0, "drive/merge/1/20")
    with pytest.raises(ValueError, match="held out"):
        mine([drive], Drawn(), tmp_path, held_out=held_out_worlds([1]))
    assert not any("drive/merge/11/".startswith(name) for name in held_out_worlds([1]))


def test_damaged_and_edited_pools_are_refused(pool: NegativePool, tmp_path: Path) -> None:
    file = pool.save(tmp_path / "a.safetensors")
    assert np.array_equal(NegativePool.load(file).candidates, pool.candidates)
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"damaged.*cut|cut.*damaged"):
        NegativePool.load(tmp_path / "cut.safetensors")
    moved = replace(pool, experts=pool.experts + np.float32(1))
    with pytest.raises(ValueError, match="fingerprint"):
        NegativePool.load(moved.save(tmp_path / "moved.safetensors"))
    with pytest.raises(ValueError, match="maskworld data mine"):
        NegativePool.load(tmp_path / "nothing")


def test_the_fingerprint_knows_names_and_experts_but_no_order() -> None:
    experts = np.stack([straight_plan(5.0), straight_plan(6.0)]).astype(np.float32)
    name = fingerprint_of(["a", "b"], experts)
    assert fingerprint_of(["b", "a"], experts[::-1]) == name
    assert fingerprint_of(["a", "c"], experts) != name
    assert fingerprint_of(["a", "b"], experts[::-1]) != name
    assert fingerprint_of(["a", "b"], experts + np.float32(0.01)) != name


def test_the_driving_world_opens_its_tokens_and_knows_its_expert(tmp_path: Path) -> None:
    scene = record_world(2, num_steps=70)
    samples = [plan_sample(scene, step, is_expert=True) for step in (15, 29)]  # 29 + 40 = the end
    found = [Clip(frames=toy_clip(0).frames, plan=sample) for sample in samples]
    assert DriveScenes().shards([*tokens_of(found), "drive/highway/0/3"]) == [
        ["drive/highway/0/3"],
        tokens_of(found),
    ]
    flow = TrajectoryFlow(TrajectoryFlowConfig(dim=16, num_heads=2, delta="beyonddrive"))
    report = mine(found, FlowCandidates(flow), tmp_path / "a", num_candidates=3)
    assert report.pool.meta.candidates["cfg_scale"] == 0.5
    assert report.pool.meta.candidates["noise_scale"] == 0.4
    # Where the log goes on does not depend on when the recording ends.
    assert np.allclose(record_world(2, num_steps=90).poses[:70], scene.poses)
    assert samples[0].trajectory is not None
    elsewhere = replace(samples[0], trajectory=samples[0].trajectory + 0.1)
    with pytest.raises(ValueError, match="another trajectory of the same name"):
        mine([replace(found[0], plan=elsewhere)], FlowCandidates(flow), tmp_path / "b")
    with pytest.raises(ValueError, match="token of the driving world"):
        mine(clips(), FlowCandidates(flow), tmp_path / "b")


def test_candidates_that_are_not_finite_are_refused(scenes: SceneFiles, tmp_path: Path) -> None:
    class Broken(Drawn):
        def propose(
            self, batch: Batch, num_candidates: int, generator: torch.Generator
        ) -> torch.Tensor:
            found = super().propose(batch, num_candidates, generator)
            found[-1, 3, 2, 1] = torch.nan
            return found

    with pytest.raises(ValueError, match="finite candidates, found NaN or infinity for 'toy1'"):
        mined(scenes, tmp_path, candidates=Broken())


def test_mining_online_gives_what_a_pool_of_the_same_candidates_gives(scenes: SceneFiles) -> None:
    @dataclass
    class Fixed(Drawn):
        def propose(
            self, batch: Batch, num_candidates: int, generator: torch.Generator
        ) -> torch.Tensor:
            return super().propose(batch, num_candidates, torch.Generator().manual_seed(3))

    miner = OnlineMiner(Fixed(), scenes, num_candidates=NUM_CANDIDATES)
    batch = collate([toy_clip(0), ghost_clip(1), toy_clip(2)])
    filled = miner.with_negatives(batch, torch.Generator()).plan
    assert filled is not None
    assert filled.negative is not None
    assert filled.has_negative is not None
    assert filled.has_negative.tolist() == [True, False, True]
    proposed = Fixed().propose(batch, NUM_CANDIDATES, torch.Generator()).numpy()
    for row, opened in ((0, scenes.load(["toy0"])[0]), (2, scenes.load(["toy2"])[0])):
        plans = proposed[row].astype(np.float64)
        scores = score_plans(opened.pdm, plans, pool=True).pdms
        expert = toy_clip(row).plan
        assert expert is not None
        assert expert.trajectory is not None
        apart = ((proposed[row] - expert.trajectory.numpy()) ** 2).sum(-1).mean(-1)
        nearest = np.where(scores < 0.6, apart, np.inf).argmin()
        assert np.array_equal(filled.negative[row].numpy(), proposed[row, nearest])


def test_online_scenes_are_opened_once_and_negatives_kept_as_long_as_asked(
    scenes: SceneFiles,
) -> None:
    batch = collate([toy_clip(0), toy_clip(1)])
    candidates = Drawn()
    miner = OnlineMiner(candidates, scenes, num_candidates=4, mine_every=2)
    generator = torch.Generator().manual_seed(0)
    found = [miner.with_negatives(batch, generator).plan for _ in range(4)]
    kept = [plan.negative for plan in found if plan is not None and plan.negative is not None]
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[1], kept[2])
    assert candidates.calls == 2
    cost = miner.cost
    assert (cost.num_opened, cost.num_mined, cost.num_visits) == (2, 4, 8)
    small = OnlineMiner(Drawn(), scenes, num_candidates=4, max_cached=1)
    for _ in range(2):
        small.with_negatives(batch, generator)
    assert small.cost.num_opened == 3  # toy1 was kept, toy0 not
    assert batch.plan is not None
    nameless = replace(batch, plan=replace(batch.plan, tokens=[]))
    with pytest.raises(ValueError, match="token per row"):
        miner.with_negatives(nameless, generator)


def test_online_mining_goes_on_where_its_state_was_saved(
    scenes: SceneFiles, tmp_path: Path
) -> None:
    def miner() -> OnlineMiner:
        return OnlineMiner(Drawn(), scenes, num_candidates=4, mine_every=2, tokens=["toy0", "toy1"])

    batch, generator = collate([toy_clip(0), toy_clip(1)]), torch.Generator().manual_seed(1)
    straight = miner()
    straight.with_negatives(batch, generator)
    (tmp_path / "state").write_bytes(pack(straight.state_dict()))  # as a checkpoint keeps it
    drawn = generator.get_state()
    resumed = miner()
    resumed.load_state_dict(unpack(tmp_path / "state"))
    for _ in range(3):
        after = generator.get_state()
        expected = straight.with_negatives(batch, generator).plan
        found = resumed.with_negatives(batch, torch.Generator().set_state(after)).plan
        assert expected is not None
        assert found is not None
        assert expected.negative is not None
        assert found.negative is not None
        assert torch.equal(found.negative, expected.negative)
        assert torch.equal(found.has_negative, expected.has_negative)  # type: ignore[arg-type]
    assert not torch.equal(drawn, generator.get_state())
    assert straight.cost.num_opened == 2  # both of the shard when the first was asked for


def test_candidates_that_are_not_finite_are_refused_online_too(scenes: SceneFiles) -> None:
    miner = OnlineMiner(Drawn(spread=float("nan")), scenes, num_candidates=4)
    with pytest.raises(ValueError, match="finite candidates"):
        miner.with_negatives(collate([toy_clip(0)]), torch.Generator())


def test_collected_drives_are_driven_again_for_their_scenes(tmp_path: Path) -> None:
    folder = collect_drive(
        tmp_path / "set", num_worlds=2, episodes_per_world=1, num_frames=40, size=(16, 24)
    )
    drives = LeRobotDrives(LeRobotSource(folder))
    scenes = CollectedDrives.of([drives])
    plans = [drives.episode(i).plan_at(frame) for i in (1, 0) for frame in (12, 9)]
    tokens = [plan.token for plan in plans]
    assert scenes.shards(tokens) == [[tokens[3], tokens[2]], [tokens[1], tokens[0]]]
    for plan, found in zip(plans, scenes.load(tokens), strict=True):
        assert plan.trajectory is not None
        assert found.expert is not None
        assert np.abs(plan.trajectory.numpy() - found.expert).max() < 0.05
        assert found.pdm.ego.vx == pytest.approx(float(plan.ego[0]), abs=0.2)
        assert score_plans(found.pdm, plan.trajectory.double().numpy()[None]).nc[0] == 1
    with pytest.raises(ValueError, match="another dataset"):
        scenes.shards(["other, episode 0, frame 9"])
    with pytest.raises(ValueError, match="--mining-scenes"):
        CollectedDrives.of([scenes])


def test_a_planner_can_propose_for_itself(scenes: SceneFiles) -> None:
    class Straight:
        device = torch.device("cpu")

        def plan(self, batch: Batch, generator: torch.Generator, *, num_plans: int) -> torch.Tensor:
            assert batch.plan is not None
            rows = [
                straight_plan(5.0 + i, y=j)
                for i in range(len(batch.plan.tokens))
                for j in range(num_plans)
            ]
            return torch.from_numpy(np.stack(rows)).float()

    proposed = PlannerCandidates(Straight()).propose(
        collate([toy_clip(0), toy_clip(1)]), 3, torch.Generator()
    )
    assert proposed.shape == (2, 3, 8, 3)
    assert proposed[1, 2, -1, :2].tolist() == pytest.approx([24.0, 2.0])
