"""Mask World Model as a policy: one pass of the video tower per chunk, then action steps alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from maskworld.data.control import MemoryPick
from maskworld.policies.robot import ChunkPolicy, ControlSpec
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.mask_world_model import SAMPLING, MaskWorldModel
from maskworld.types import Batch


@dataclass(frozen=True)
class WorldModelChunks:
    """The actions of `MaskWorldModel.act_chunk` (`policies.robot.ChunkModel`)."""

    system: MaskWorldModel
    sampling: FlowSampling = SAMPLING
    p_prune: float | int = 0.0
    """Share of visual tokens that is dropped, anew for every chunk: a stress test."""

    def act_chunk(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "b l a"]:
        """Actions in the data's units; the expected states are left behind."""
        return self.system.act_chunk(batch, generator, self.sampling, self.p_prune).actions

    def describe(self) -> dict[str, Any]:
        """How actions are sampled, for the protocol."""
        return {"sampling": asdict(self.sampling), "p_prune": self.p_prune}


def world_model_policy(
    system: MaskWorldModel,
    spec: ControlSpec,
    *,
    exec_steps: int | None = None,
    memory: MemoryPick | None = None,
    sampling: FlowSampling = SAMPLING,
    p_prune: float | int = 0.0,
    seed: int = 0,
) -> ChunkPolicy:
    """A policy around a trained system.

    Args:
        exec_steps: actions of a chunk that are carried out; None = the config's.
        memory: past frames shown; None = the config's number, every `memory_stride` steps.

    Raises:
        ValueError: the spec's cameras, sizes or widths are not the system's.
    """
    config = system.config
    found = {
        "cameras": (len(spec.cameras), config.num_views),
        "frame_size": (spec.frame_size, config.frame_size),
        "state_dim": (spec.state_dim, config.state_dim),
        "action_dim": (spec.action_dim, config.action.action_dim - config.state_dim),
    }
    wrong = [f"{name} {has}, not {needs}" for name, (has, needs) in found.items() if has != needs]
    if wrong:
        raise ValueError(
            f"Expected a spec of what the system was trained on, found {'; '.join(wrong)}: make "
            "it from the statistics that are saved with the model."
        )
    return ChunkPolicy(
        WorldModelChunks(system, sampling, p_prune),
        spec,
        memory=memory or MemoryPick(config.num_memory, "every", stride=config.memory_stride),
        exec_steps=exec_steps or config.exec_steps,
        frame_stride=config.frame_stride,
        seed=seed,
        device=system.device,
    )
