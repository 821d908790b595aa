"""Who proposes candidates for hard negatives: a trained generator, or the planner itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from maskworld.nn.config_io import config_to_json
from maskworld.nn.weights_io import state_tensors
from maskworld.policies.trajectory_flow import TrajectoryFlow, TrajectoryFlowConfig
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
    given_past: int | None = None
    """Past frames of the batches, where those are more than the generator looks at."""

    def __post_init__(self) -> None:
        if self.given_past is not None:
            check_sight(self.flow.config, self.given_past)

    def propose(
        self, batch: Batch, num_candidates: int, generator: torch.Generator
    ) -> Float[Tensor, "b n l 3"]:
        seen = batch
        if self.given_past is not None and batch.frames is not None:
            first = self.given_past - self.flow.config.num_past
            now = batch.frames[:, :, first : self.given_past]
            seen = Batch(frames=now, plan=batch.plan, captions=batch.captions)
        moved = seen.to(self.flow.embed.weight.device)
        found = self.flow.propose(
            moved, num_candidates, generator, self.cfg_scale, self.noise_scale, self.num_steps
        )
        return found.cpu()

    def describe(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for name, tensor in sorted(state_tensors(self.flow).items()):
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return {
            "kind": self.flow.name,
            "cfg_scale": self.cfg_scale,
            "noise_scale": self.noise_scale,
            "num_steps": self.num_steps,
            "config": config_to_json(self.flow.config),
            "weights": digest.hexdigest()[:32],
        }


def check_sight(config: TrajectoryFlowConfig, num_past: int) -> None:
    """Raises a ValueError for a generator that looks at more than `num_past` frames."""
    if config.picture == "latents" or config.num_past > num_past:
        raise ValueError(
            f"Expected a generator that looks at no more than the {num_past} past frames, found "
            f"one that looks at {config.num_past} past {config.picture}: train another one, or "
            "mine with preparation.mine."
        )


@runtime_checkable
class ManyPlans(Protocol):
    """A planner that draws several plans of one moment, as `systems.reworld.ReWorld` does."""

    @property
    def device(self) -> torch.device:
        """Where batches and generators must be."""
        ...

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
        device = self.planner.device
        local = torch.Generator(device)  # on a GPU a CPU's generator would not do
        local.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        plans = self.planner.plan(batch.to(device), local, num_plans=num_candidates)
        return rearrange(plans.cpu(), "(b n) l c -> b n l c", n=num_candidates)

    def describe(self) -> dict[str, Any]:
        return {"kind": self.name}
