"""Hard negatives while training: from the generator, or the planner, as it is now.

Opening a scene and planning with PDM-Closed depend on no plan, so both are done once per scene and
kept; what is left is proposing and scoring, whenever a scene's negative is older than asked. What
was opened can be opened again; what was mined is state, which a checkpoint keeps.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from maskworld.metrics.pdms import SCORE_NAMES, reference_plan, score_batch
from maskworld.objectives.repulsion import select_hard_negative
from maskworld.policies.baselines import plans_of
from maskworld.preparation.candidates import CandidateMaker
from maskworld.preparation.mine import NUM_CANDIDATES
from maskworld.preparation.mining_pool import METRIC, THRESHOLD, check_expert
from maskworld.preparation.mining_scenes import DriveScenes, MiningScene, MiningScenes
from maskworld.types import Batch


@dataclass
class OnlineCost:
    """What mining has cost so far, in seconds by the clock."""

    num_opened: int = 0
    """Scenes opened."""
    num_mined: int = 0
    """Scenes whose candidates were scored; the other visits took a kept negative."""
    num_visits: int = 0
    num_negatives: int = 0
    """Visits that gave a negative."""
    opening: float = 0.0
    """With PDM-Closed's plans."""
    proposing: float = 0.0
    scoring: float = 0.0

    def since(self, before: OnlineCost) -> OnlineCost:
        """What it has cost since an earlier moment."""
        names = [each.name for each in fields(self)]
        return OnlineCost(**{name: getattr(self, name) - getattr(before, name) for name in names})

    @property
    def share_with_negative(self) -> float:
        """Of the visits; 0 where there was none."""
        return self.num_negatives / max(self.num_visits, 1)

    def per_scene(self) -> dict[str, float]:
        """Seconds: opening per scene opened, the others per scene mined."""
        return {
            "opening": self.opening / max(self.num_opened, 1),
            "proposing": self.proposing / max(self.num_mined, 1),
            "scoring": self.scoring / max(self.num_mined, 1),
        }


@dataclass
class _Opened:
    scene: MiningScene

    @cached_property
    def reference(self) -> Float[np.ndarray, "41 3"]:
        return reference_plan(self.scene.pdm).poses


@dataclass(frozen=True)
class _Mined:
    """Immutable throughout, so that copies of the state cost little."""

    batch: int
    """Number of the batch for which it was mined."""
    negative: bytes | None
    """Waypoints in float32."""


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
    mine_every: int = 1
    """Batches for which a scene's negative is kept; 1: mined at every visit. Ours."""
    max_cached: int = 4096
    """Scenes kept open, and negatives kept, the latest ones: about 50 kB per scene in the driving
    world."""
    tokens: Sequence[str] = ()
    """Scenes that will come, where it is known: those of one shard are then opened together."""
    cost: OnlineCost = field(default_factory=OnlineCost)
    _open: OrderedDict[str, _Opened] = field(default_factory=OrderedDict, repr=False)
    _mined: OrderedDict[str, _Mined] = field(default_factory=OrderedDict, repr=False)
    _batch: int = 0

    def __post_init__(self) -> None:
        if self.metric not in SCORE_NAMES:
            raise ValueError(
                f"Expected a metric of {', '.join(SCORE_NAMES)}, found {self.metric!r}."
            )
        if self.mine_every < 1 or self.num_candidates < 1:
            raise ValueError(
                "Expected mine_every and num_candidates of at least 1, found "
                f"{self.mine_every} and {self.num_candidates}."
            )
        together = self.scenes.shards(self.tokens) if len(self.tokens) <= self.max_cached else []
        self._together = {token: shard for shard in together for token in shard}

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
        # A scene may be there twice, with its mirror image or in two styles.
        stale = list(
            {plans.tokens[row]: row for row in rows if self._is_stale(plans.tokens[row])}.values()
        )
        self._open_all([plans.tokens[row] for row in stale])
        for row in stale:
            scene = self._open[plans.tokens[row]].scene
            if scene.expert is not None:
                check_expert(plans.tokens[row], experts[row].numpy(), scene.expert, scene.tolerance)
        if stale:
            proposed = self._propose(batch, stale, generator)
            self._mine([plans.tokens[row] for row in stale], proposed, experts[stale])
        negative = torch.zeros_like(experts)
        has_negative = torch.zeros(len(experts), dtype=torch.bool)
        for row in rows:
            found = self._mined[plans.tokens[row]].negative
            if found is not None:
                waypoints = np.frombuffer(found, np.float32).reshape(experts.shape[1:]).copy()
                negative[row], has_negative[row] = torch.from_numpy(waypoints), True
        self._batch += 1
        self.cost.num_visits += len(rows)
        self.cost.num_negatives += int(has_negative.sum())
        self._forget([plans.tokens[row] for row in rows])
        device = plans.ego.device
        filled = replace(plans, negative=negative.to(device), has_negative=has_negative.to(device))
        return replace(batch, plan=filled)

    def state_dict(self) -> dict[str, Any]:
        """What was mined, as plain numbers and bytes; scenes are opened again when they come."""
        mined = {token: (each.batch, each.negative) for token, each in self._mined.items()}
        return {"batch": self._batch, "mined": mined}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was called."""
        self._batch = int(state["batch"])
        self._mined = OrderedDict(
            (token, _Mined(int(batch), negative))
            for token, (batch, negative) in state["mined"].items()
        )

    def _is_stale(self, token: str) -> bool:
        found = self._mined.get(token)
        return found is None or self._batch - found.batch >= self.mine_every

    def _open_all(self, tokens: Sequence[str]) -> None:
        """Opens what is not open, and what will come of the same shards; plans of PDM-Closed."""
        started = time.perf_counter()
        missing = [token for token in tokens if token not in self._open]
        wanted = dict.fromkeys(t for token in missing for t in self._together.get(token, [token]))
        new = [token for token in wanted if token not in self._open]
        for shard in self.scenes.shards(new):
            for token, scene in zip(shard, self.scenes.load(shard), strict=True):
                self._open[token] = _Opened(scene)
        for token in tokens:
            self._open[token].reference  # noqa: B018 (cached property)
        self.cost.num_opened += len(new)
        self.cost.opening += time.perf_counter() - started

    def _propose(
        self, batch: Batch, rows: list[int], generator: torch.Generator
    ) -> Float[torch.Tensor, "b n l 3"]:
        """Candidates of some rows. The whole batch is proposed for: that costs little beside the
        score, and planners read more of a batch than can be cut here."""
        started = time.perf_counter()
        proposed = self.candidates.propose(batch, self.num_candidates, generator)[rows].float()
        if not bool(proposed.isfinite().all()):
            raise ValueError(
                "Expected finite candidates, found NaN or infinity: the generator has not "
                "converged; train it longer or at a lower learning rate."
            )
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
            [each.scene.pdm for each in opened],
            list(proposed.double().numpy()),
            [each.reference for each in opened],
            pool=True,
        )
        scores = torch.from_numpy(np.stack([each.named()[self.metric] for each in scored]))
        negative, has_negative = select_hard_negative(proposed, scores, experts, self.threshold)
        for token, chosen, has in zip(tokens, negative, has_negative.tolist()):
            found = chosen.float().numpy().tobytes() if has else None
            self._mined[token] = _Mined(self._batch, found)
        self.cost.num_mined += len(tokens)
        self.cost.scoring += time.perf_counter() - started

    def _forget(self, used: Sequence[str]) -> None:
        """Closes the scenes not used for longest, and drops their negatives."""
        caches: tuple[OrderedDict[str, Any], ...] = (self._open, self._mined)
        for cache in caches:
            for token in used:
                if token in cache:
                    cache.move_to_end(token)
            while len(cache) > self.max_cached:
                cache.popitem(last=False)
