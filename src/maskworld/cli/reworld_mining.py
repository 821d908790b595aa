"""Hard negatives for stage joint of `maskworld train reworld-...`, mined while it trains."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskworld.cli.train import TrainOptions
from maskworld.data.dataset import SelectedClips
from maskworld.policies.trajectory_flow import (
    TrajectoryFlow,
    TrajectoryFlowConfig,
    fit_trajectory_flow,
)
from maskworld.preparation.candidates import CandidateMaker, FlowCandidates, PlannerCandidates
from maskworld.preparation.mine import NUM_CANDIDATES
from maskworld.preparation.mining_pool import METRIC, THRESHOLD
from maskworld.preparation.mining_scenes import CollectedDrives, MiningScenes, SceneFiles
from maskworld.preparation.online_mining import OnlineCost, OnlineMiner
from maskworld.systems.reworld import ReWorld
from maskworld.training.config import Stage
from maskworld.training.distributed import derive_seed, processes_from_environment
from maskworld.training.stage_run import BatchIterator
from maskworld.types import Batch, Clip, collate

MINING_EVERY = 50
"""Batches for which a scene's negative is kept. Ours."""
GENERATOR, PLANNER = "generator", "planner"
"""Folder of a generator that was trained here; and who proposes instead of one."""
GENERATOR_DIM, FIT_STEPS, MAX_FITTED = 64, 1000, 2000
"""Width, optimizer steps and most experts of a generator trained here; as `data mine`. Ours."""
ONLINE_ONLY = (
    "mining_every",
    "mining_scenes",
    "generator",
    "num_candidates",
    "cfg_scale",
    "noise_scale",
)
"""Of `TrainOptions`."""


class OnlineMining:
    """What the user asked for: whose scenes, who proposes, how often.

    Raises:
        ValueError: no stage to mine for, a pool as well, data without scenes, or a generator that
            is none.
    """

    def __init__(
        self, options: TrainOptions, datasets: Sequence[SelectedClips], num_past: int
    ) -> None:
        self._options, self._datasets, self._num_past = options, list(datasets), num_past
        self.scenes = scenes_of(options.mining_scenes, datasets)
        self.tokens = sorted(
            {each.plan(i).token for each in self._datasets for i in range(len(each))}
        )
        self.scenes.shards(self.tokens)  # all are there
        self._flow: TrajectoryFlow | None = None
        if options.generator not in (None, PLANNER):
            self._flow = TrajectoryFlow.from_pretrained(Path(str(options.generator)))
            FlowCandidates(self._flow, given_past=num_past)
        self.miner: OnlineMiner | None = None

    def batches(self, plain: BatchIterator, system: ReWorld) -> MinedBatches:
        """Batches with negatives. A generator is trained first, or opened where a run goes on."""
        options = self._options
        self.miner = OnlineMiner(
            self._candidates(system),
            self.scenes,
            num_candidates=options.num_candidates or NUM_CANDIDATES,
            threshold=THRESHOLD if options.threshold is None else options.threshold,
            metric=options.metric or METRIC,
            mine_every=options.mining_every or MINING_EVERY,
            tokens=self.tokens,
        )
        rank = processes_from_environment().rank
        generator = torch.Generator().manual_seed(derive_seed(options.seed, rank, "mining"))
        return MinedBatches(plain, self.miner, generator)

    def describe(self) -> str:
        """What was found and what it took, in a line."""
        if self.miner is None:
            return ""
        cost, each = self.miner.cost, self.miner.cost.per_scene()
        milliseconds = ", ".join(f"{name} {1e3 * value:.0f} ms" for name, value in each.items())
        return (
            f"Hard negatives in {cost.share_with_negative:.1%} of {cost.num_visits} visits; "
            f"{cost.num_mined} scenes mined, per scene: {milliseconds}"
        )

    def _candidates(self, system: ReWorld) -> CandidateMaker:
        options = self._options
        if options.generator == PLANNER:
            return PlannerCandidates(system)
        if self._flow is None:
            self._flow = self._generator()
        asked = {"cfg_scale": options.cfg_scale, "noise_scale": options.noise_scale}
        given: dict[str, Any] = {name: each for name, each in asked.items() if each is not None}
        return FlowCandidates(self._flow, **given, given_past=self._num_past)

    def _generator(self) -> TrajectoryFlow:
        """Trained on the experts, alike in all processes; kept in the run's folder."""
        from maskworld.nn.release import CONFIG_FILE

        options, kept = self._options, self._options.out / GENERATOR
        if options.resume and (kept / CONFIG_FILE).is_file():
            return TrajectoryFlow.from_pretrained(kept)
        counts = np.cumsum([0, *(len(each) for each in self._datasets)])
        chosen = np.linspace(0, counts[-1] - 1, min(MAX_FITTED, counts[-1])).round().astype(int)
        clips = []
        for index in chosen.tolist():
            number = int(np.searchsorted(counts, index, side="right")) - 1
            clips.append(self._seen(self._datasets[number].get(index - int(counts[number]), index)))
        seed = torch.Generator().manual_seed(
            derive_seed(options.seed, 0, "generator of candidates")
        )
        config = TrajectoryFlowConfig(dim=GENERATOR_DIM, picture="frame")
        flow = fit_trajectory_flow(collate(clips), seed, config=config, num_steps=FIT_STEPS)
        if processes_from_environment().is_main:
            flow.save_pretrained(kept)
        return flow

    def _seen(self, clip: Clip) -> Clip:
        """The last past frame of the first view: all that the generator looks at."""
        assert clip.frames is not None
        now = clip.frames[:1, self._num_past - 1 : self._num_past].clone()
        return Clip(frames=now, plan=clip.plan, caption=clip.caption, fps=clip.fps)


class MinedBatches:
    """Batches of experts with their hard negatives as they are now; goes on exactly where it was
    saved."""

    def __init__(
        self, plain: BatchIterator, miner: OnlineMiner, generator: torch.Generator
    ) -> None:
        self._plain, self._miner, self._generator = plain, miner, generator
        self._before = OnlineCost()

    def __next__(self) -> Batch:
        return self._miner.with_negatives(next(self._plain), self._generator)

    def state_dict(self) -> dict[str, Any]:
        return {
            "plain": self._plain.state_dict(),
            "miner": self._miner.state_dict(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self._plain.load_state_dict(state["plain"])
        self._miner.load_state_dict(state["miner"])
        self._generator.set_state(state["generator"])

    def measured(self) -> dict[str, float]:
        """For the log: the share of visits that gave a negative, scenes mined, seconds."""
        cost = self._miner.cost.since(self._before)
        self._before = replace(self._miner.cost)
        return {
            "mining/share_with_negative": cost.share_with_negative,
            "mining/scenes_mined": float(cost.num_mined),
            "mining/seconds": cost.opening + cost.proposing + cost.scoring,
        }


def check_mining_options(options: TrainOptions, stages: Sequence[Stage]) -> bool:
    """Whether to mine while training.

    Raises:
        ValueError: a pool as well, or numbers out of range.
    """
    is_joint = any(stage.name == "joint" for stage in stages)
    for name in ("pool", "mine_online"):
        if getattr(options, name) and not is_joint:
            warnings.warn(
                f"--{name.replace('_', '-')} has no effect without stage joint", stacklevel=4
            )
    given = [name for name in ONLINE_ONLY if getattr(options, name) is not None]
    if not options.mine_online:
        if given:
            flag = "--" + given[0].replace("_", "-")
            warnings.warn(f"{flag} has no effect without --mine-online", stacklevel=4)
        if is_joint and options.pool is None:
            warnings.warn(
                "stage joint has no hard negatives, so it learns no repulsion (Eq. 18): mine them "
                "with `maskworld data mine` and pass --pool, or pass --mine-online",
                stacklevel=4,
            )
        return False
    if options.pool is not None:
        raise ValueError(
            "Expected --pool or --mine-online, found both: negatives are read or mined."
        )
    for name in ("mining_every", "num_candidates"):
        value = getattr(options, name)
        if value is not None and value < 1:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"Expected {flag} of at least 1, found {value}.")
    return is_joint


def scenes_of(folder: Path | None, datasets: Sequence[SelectedClips]) -> MiningScenes:
    """Where the moments of data are opened: a folder of scenes, or the driving world again.

    Raises:
        ValueError: no folder, and data that was not collected in the driving world.
    """
    if folder is not None:
        return SceneFiles(folder)
    return CollectedDrives.of([each.dataset.source for each in datasets])
