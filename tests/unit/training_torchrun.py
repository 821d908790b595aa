"""What `torchrun` starts in test_training_distributed.py: two processes share every batch of four.

Writes four runs below the folder given: "exact" without noise, "straight" and "stopped" with it;
the second process gets a SIGTERM in "stopped", which is then resumed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from training_toys import STAGES, ToyBatches, ToySystem, kill_at

from maskworld.training.config import Stage
from maskworld.training.distributed import processes_from_environment
from maskworld.training.interrupt import TrainingInterrupted
from maskworld.training.loop import train


def run(folder: Path, noise: float, resume: bool = False, kill: int | None = None) -> None:
    rank = processes_from_environment().rank

    def batches(stage: Stage) -> ToyBatches:
        kill_here = kill_at("all", kill) if kill is not None and rank == 1 else None
        at = None if kill_here is None else lambda n: kill_here(stage.name, n)
        return ToyBatches(4, slice(2 * rank, 2 * rank + 2), at)

    system = ToySystem(dropout=noise, noise=noise).double()
    train(system, STAGES, batches, folder, seed=0, device="cpu", resume=resume)


def main(folder: Path) -> None:
    run(folder / "exact", 0.0)
    run(folder / "straight", 0.1)
    try:
        run(folder / "stopped", 0.1, kill=1)
    except TrainingInterrupted as stopped:
        rank = processes_from_environment().rank
        (folder / f"stopped-{rank}").write_text(str(stopped.step))
    run(folder / "stopped", 0.1, resume=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
