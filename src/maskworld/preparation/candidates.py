"""Who proposes candidates for hard negatives: a trained generator, or the planner itself."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from maskworld.nn.config_io import config_to_json
from maskworld.nn.weights_io import state_tensors
from maskworld.policies.trajectory_flow import TrajectoryFlow
from maskworld.types import Batch


@runtime_checkable
class CandidateMaker(Protocol):
    """Proposes many trajectories per moment."""

    def propose(
        self, batch: Batch, num_candidates: int, generator: torch.Generator
    ) -> Float[Tensor, "b n l 3"]:
        """x, y (m), heading (rad) in the ego frame, on the CPU."""
        ...

    def describe(self) -> dict[str, Any]:
        """For the pool's notes, as JSON values: equal where equal candidates come out."""
        ...


@dataclass(frozen=True)
class FlowCandidates:
    """Proposals of a trajectory generator, spread as BeyondDrive spreads them."""

    flow: TrajectoryFlow
    cfg_scale: float = 0.5
    """BeyondDrive: 0.5, halfway between ignoring the context and following it."""
    noise_scale: float = 0.4
    """BeyondDrive: 0.4, twice that of training."""
    num_steps: int = 5
    """BeyondDrive: 5."""

    def propose(
        self, batch: Batch, num_candidates: int, generator: torch.Generator
    ) -> Float[Tensor, "b n l 3"]:
        moved = batch.to(self.flow.embed.weight.device)
        found = self.flow.propose(
            moved, num_candidates, generator, self.cfg_scale, self.noise_scale, self.num_steps
        )
        return found.cpu()

    def describe(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for name, tensor in sorted(state_tensors(self.flow).items()):
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        settings = {key: value for key, value in asdict(self).items() if key != "flow"}
        return {
            "kind": self.flow.name,
            **settings,
            "config": config_to_json(self.flow.config),
            "weights": digest.hexdigest()[:32],
        }


@runtime_checkable
class ManyPlans(Protocol):
    """A planner that draws several plans of one moment, as `systems.reworld.ReWorld` does."""

    def plan(
        self, batch: Batch, generator: torch.Generator, *, num_plans: int
    ) -> Float[Tensor, "bn l 3"]:
        """Row i * num_plans + j is plan j of sample i."""
        ...


@dataclass(frozen=True)
class PlannerCandidates:
    """The plans of the planner that is being trained: the negatives are its own mistakes of now."""

    planner: ManyPlans
    name: str = "planner"

    def propose(
        self, batch: Batch, num_candidates: int, generator: torch.Generator
    ) -> Float[Tensor, "b n l 3"]:
        plans = self.planner.plan(batch, generator, num_plans=num_candidates)
        return rearrange(plans.cpu(), "(b n) l c -> b n l c", n=num_candidates)

    def describe(self) -> dict[str, Any]:
        return {"kind": self.name}
