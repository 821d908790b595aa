"""Several processes: what `torchrun` tells, process groups, and data parallelism.

DDP averages the gradients of the processes; with batches of one size that equals a single process
with the joint batch. FSDP2 has its place in `parallel_loss` (ADR 0003 says what it waits for).
"""

from __future__ import annotations

import atexit
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from maskworld.training.config import Strategy
from maskworld.types import Batch, LossOutput

LossFunction = Callable[[Batch, str, torch.Generator], LossOutput]


@dataclass(frozen=True)
class Processes:
    """This process among those of the run."""

    rank: int = 0
    num_processes: int = 1
    local_rank: int = 0
    """Rank within the machine: the index of its GPU."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0


def processes_from_environment() -> Processes:
    """What `torchrun` has set; one process without it.

    Raises:
        ValueError: only part of the variables is there.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    found = {name: os.environ[name] for name in names if name in os.environ}
    if not found:
        return Processes()
    if len(found) < len(names):
        raise ValueError(
            f"Expected all or none of the variables {names}, found {sorted(found)}: "
            "start with torchrun, or unset them."
        )
    return Processes(int(found["RANK"]), int(found["WORLD_SIZE"]), int(found["LOCAL_RANK"]))


def choose_device(device: str, processes: Processes) -> torch.device:
    """ "auto" is this process's GPU where there is one, else the CPU.

    Raises:
        ValueError: CUDA is asked for and absent.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(device)
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"Expected a GPU for device {device!r}, found none: pass cpu.")
        if chosen.index is None:
            chosen = torch.device("cuda", processes.local_rank)
        torch.cuda.set_device(chosen)
    return chosen


def start_process_group(processes: Processes, device: torch.device) -> None:
    """Joins a gloo (CPU) or NCCL (GPU) group, left at exit; nothing for a single process.

    Once per process: a second group over the same `torchrun` store waits for ever on the keys of
    the first, so later runs (a tokenizer, then a system) share it.
    """
    if processes.num_processes == 1 or dist.is_initialized():
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    atexit.register(_leave_process_group)


def _leave_process_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def derive_seed(seed: int, rank: int, purpose: str) -> int:
    """A seed of its own for every process and purpose, the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{rank}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class LossModule(nn.Module):
    """`training_loss` as a forward pass, which is what DDP hooks into."""

    def __init__(self, system: Any) -> None:
        super().__init__()
        self.system = system

    def forward(
        self, batch: Batch, stage: str, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss: LossOutput = self.system.training_loss(batch, stage, generator)
        return loss.total, loss.terms


def check_strategy(strategy: Strategy) -> None:
    """Checks that a strategy can be used.

    Raises:
        ValueError: "fsdp2", which has its place in `parallel_loss` and is not there yet.
    """
    if strategy != "ddp":
        raise ValueError(
            f"Expected strategy 'ddp', found {strategy!r}: fsdp2 is not yet available, use ddp."
        )


def parallel_loss(system: nn.Module, processes: Processes, strategy: Strategy) -> nn.Module:
    """The system's loss, with gradients averaged over the processes where there are several.

    Call it anew for every stage, after freezing: DDP looks at what trains once.
    """
    check_strategy(strategy)
    loss = LossModule(system)
    if processes.num_processes == 1:
        return loss
    # Batches of images leave the temporal layers unused, and a CFG drop may leave a prompt out.
    return nn.parallel.DistributedDataParallel(loss, find_unused_parameters=True)


def sum_over_processes(values: Tensor, processes: Processes) -> Tensor:
    """The sum over processes, on all of them."""
    if processes.num_processes > 1:
        dist.all_reduce(values)
    return values


def gather_blobs(blob: bytes, processes: Processes, device: torch.device) -> list[bytes]:
    """Every process's bytes, by rank, on all of them. Raw bytes: nothing is pickled."""
    if processes.num_processes == 1:
        return [blob]
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(blob)], device=device))
    longest = int(max(sizes))
    padded = torch.zeros(longest, dtype=torch.uint8, device=device)
    padded[: len(blob)] = torch.frombuffer(bytearray(blob), dtype=torch.uint8).to(device)
    gathered = [torch.zeros_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    return [g[: int(n)].cpu().numpy().tobytes() for g, n in zip(gathered, sizes)]
