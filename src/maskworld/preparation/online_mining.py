"""Hard negatives while training: from the generator, or the planner, as it is now.

Opening a scene and planning with PDM-Closed depend on no plan, so both are done once per scene and
kept; what is left per visit is scoring. A negative may be kept for some visits too.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float

from maskworld.metrics.pdms import SCORE_NAMES, PDMScene, reference_plan, score_batch
from maskworld.objectives.repulsion import select_hard_negative
from maskworld.policies.baselines import plans_of
from maskworld.preparation.candidates import CandidateMaker
from maskworld.preparation.mine import NUM_CANDIDATES
from maskworld.preparation.mining_pool import METRIC, THRESHOLD, check_expert
from maskworld.preparation.mining_scenes import DriveScenes, MiningScenes
from maskworld.types import Batch


@dataclass
class OnlineCost:
    """What mining has cost so far, in seconds by the clock."""

    num_opened: int = 0
    """Scenes opened, with PDM-Closed's plan."""
    num_mined: int = 0
    """Scenes whose candidates were scored; the other visits took a kept negative."""
    num_visits: int = 0
    num_negatives: int = 0
    """Visits that gave a negative."""
    opening: float = 0.0
    proposing: float = 0.0
    scoring: float = 0.0

    def per_scene(self) -> dict[str, float]:
        """Seconds: opening per scene opened, the others per scene mined."""
        return {
            "opening": self.opening / max(self.num_opened, 1),
            "proposing": self.proposing / max(self.num_mined, 1),
            "scoring": self.scoring / max(self.num_mined, 1),
        }


@dataclass
class _Opened:
    pdm: PDMScene
    reference: Float[np.ndarray, "41 3"]
    negative: Float[torch.Tensor, "l 3"] | None = None
    age: int = 0
    """Visits since the negative was mined; 0: not yet."""


@dataclass
class OnlineMiner:
    """Fills in the negatives of training batches.

    `candidates` may be the planner that is being trained (`PlannerCandidates`).
    """

    candidates: CandidateMaker
    scenes: MiningScenes = field(default_factory=DriveScenes)
    num_candidates: int = NUM_CANDIDATES
    threshold: float = THRESHOLD
    metric: str = METRIC
    max_age: int = 1
    """Visits for which a negative is kept; 1: mined at every visit. Ours."""
    max_cached: int = 4096
    """Scenes kept open, the latest ones: about 50 kB each in the driving world."""
    cost: OnlineCost = field(default_factory=OnlineCost)
    _open: OrderedDict[str, _Opened] = field(default_factory=OrderedDict, repr=False)

    def __post_init__(self) -> None:
        if self.metric not in SCORE_NAMES:
            raise ValueError(
                f"Expected a metric of {', '.join(SCORE_NAMES)}, found {self.metric!r}."
            )
        if self.max_age < 1 or self.num_candidates < 1:
            raise ValueError(
                "Expected max_age and num_candidates of at least 1, found "
                f"{self.max_age} and {self.num_candidates}."
            )

    def with_negatives(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with `plan.negative` and `plan.has_negative`; rows without an expert get none.

        Args:
            generator: draws the candidates.

        Raises:
            ValueError: no tokens or trajectories, a token unknown to `scenes`, another expert.
        """
        plans = plans_of(batch)
        if plans.trajectory is None or len(plans.tokens) != len(plans.ego):
            raise ValueError(
                "Expected experts' trajectories and a token per row to mine a batch, found "
                f"{len(plans.tokens)} tokens: make its clips with preparation.planning_clips."
            )
        is_expert = plans.has_trajectory
        rows = range(len(plans.tokens)) if is_expert is None else is_expert.nonzero()[:, 0].tolist()
        experts = plans.trajectory.cpu()
        self._open_all({plans.tokens[row]: experts[row].numpy() for row in rows})
        stale = [row for row in rows if self._is_stale(plans.tokens[row])]
        if stale:
            proposed = self._propose(batch, stale, generator)
            self._mine([plans.tokens[row] for row in stale], proposed, experts[stale])
        negative = torch.zeros_like(experts)
        has_negative = torch.zeros(len(experts), dtype=torch.bool)
        for row in rows:
            found = self._open[plans.tokens[row]]
            found.age += 1
            if found.negative is not None:
                negative[row], has_negative[row] = found.negative, True
        self.cost.num_visits += len(rows)
        self.cost.num_negatives += int(has_negative.sum())
        self._forget()
        device = plans.ego.device
        filled = replace(plans, negative=negative.to(device), has_negative=has_negative.to(device))
        return replace(batch, plan=filled)

    def _is_stale(self, token: str) -> bool:
        found = self._open[token]
        return found.age == 0 or found.age >= self.max_age

    def _open_all(self, experts: dict[str, Float[np.ndarray, "l 3"]]) -> None:
        """Opens what is not open; marks what is as used."""
        started = time.perf_counter()
        new = [token for token in experts if token not in self._open]
        for shard in self.scenes.shards(new):
            for token, scene in zip(shard, self.scenes.load(shard), strict=True):
                if scene.expert is not None:
                    check_expert(token, experts[token], scene.expert)
                self._open[token] = _Opened(scene.pdm, reference_plan(scene.pdm).poses)
        for token in experts:
            self._open.move_to_end(token)
        self.cost.num_opened += len(new)
        self.cost.opening += time.perf_counter() - started

    def _propose(
        self, batch: Batch, rows: list[int], generator: torch.Generator
    ) -> Float[torch.Tensor, "b n l 3"]:
        """Candidates of some rows. The whole batch is proposed for: that costs little beside the
        score, and planners read more of a batch than can be cut here."""
        started = time.perf_counter()
        proposed = self.candidates.propose(batch, self.num_candidates, generator)[rows].float()
        self.cost.proposing += time.perf_counter() - started
        return proposed

    def _mine(
        self,
        tokens: list[str],
        proposed: Float[torch.Tensor, "b n l 3"],
        experts: Float[torch.Tensor, "b l 3"],
    ) -> None:
        started = time.perf_counter()
        opened = [self._open[token] for token in tokens]
        scored = score_batch(
            [each.pdm for each in opened],
            list(proposed.double().numpy()),
            [each.reference for each in opened],
            pool=True,
        )
        scores = torch.from_numpy(np.stack([each.named()[self.metric] for each in scored]))
        negative, has_negative = select_hard_negative(proposed, scores, experts, self.threshold)
        for each, chosen, has in zip(opened, negative, has_negative.tolist()):
            each.negative, each.age = (chosen if has else None), 0
        self.cost.num_mined += len(tokens)
        self.cost.scoring += time.perf_counter() - started

    def _forget(self) -> None:
        """Closes the scenes not used for longest."""
        while len(self._open) > self.max_cached:
            self._open.popitem(last=False)
