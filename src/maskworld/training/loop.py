"""The one training loop: stages of steps, checkpoints between steps, resume bit for bit."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskworld.data.storage import remove
from maskworld.training.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from maskworld.training.config import Stage, Strategy, check_stages
from maskworld.training.distributed import (
    Processes,
    check_strategy,
    choose_device,
    gather_blobs,
    processes_from_environment,
    start_process_group,
    sum_over_processes,
)
from maskworld.training.interrupt import StopSignals, TrainingInterrupted
from maskworld.training.progress import Progress
from maskworld.training.run_folder import describe_run, open_run
from maskworld.training.stage_run import Batches, RandomState, StageRun, StepReport
from maskworld.training.tracking import TrackerName, Trackers, check_tracker, open_trackers

OnSample = Callable[[Any, int], None]


@dataclass(frozen=True)
class TrainResult:
    """A finished run."""

    step: int
    """Optimizer steps over all stages, those before a resume included."""
    loss: float
    """Of the last step that this call trained; NaN where all was done before."""
    terms: dict[str, float]
    checkpoint: Path
    seconds: float
    """Of this call."""


def train(
    system: Any,
    stages: Sequence[Stage],
    batches: Batches,
    run_dir: Path | str,
    *,
    seed: int,
    device: str = "auto",
    resume: bool = False,
    config: Mapping[str, Any] | None = None,
    on_sample: OnSample | None = None,
    tracker: TrackerName = "none",
    strategy: Strategy = "ddp",
    keep_checkpoints: int = 2,
    fall_back: bool = False,
    show_progress: bool = True,
) -> TrainResult:
    """Trains `system` (a module that is a `maskworld.interfaces.System`) through `stages`.

    Under `torchrun` every process calls it alike. A first Ctrl-C or SIGTERM finishes the step and
    saves a checkpoint. A resumed run ends in the same weights, bit for bit, as one that was never
    stopped (same machine, same number of processes and threads; on a GPU as far as its kernels
    are deterministic).

    Args:
        run_dir: gets config.json, metrics.jsonl, tensorboard/ and checkpoints/.
        resume: continue from the newest checkpoint in `run_dir`; from the start where none is.
        config: of the recipe, JSON values; saved, and compared on resume.
        on_sample: called with the system (averaged weights, eval mode, no gradients) and the step
            every `sample_every` steps, in the first process only.
        fall_back: where the newest checkpoint is damaged, set it aside and take the one before.

    Raises:
        ValueError: settings, data or checkpoints that do not fit.
        FloatingPointError: a loss or gradient that is not finite; the weights are untouched by it.
        TrainingInterrupted: stopped by a signal, after saving.
        OSError: the disk is full; the checkpoints before are intact.
    """
    check_stages(stages)
    check_tracker(tracker)
    check_strategy(strategy)
    if keep_checkpoints < 1:
        raise ValueError(f"Expected keep_checkpoints of at least 1, found {keep_checkpoints}.")
    processes = processes_from_environment()
    chosen = choose_device(device, processes)
    cuda = [chosen.index] if chosen.type == "cuda" else []
    start_process_group(processes, chosen)
    with (
        torch.random.fork_rng(devices=cuda),
        StopSignals() as signals,
    ):
        description = describe_run(
            type(system).__name__, stages, seed, processes.num_processes, config or {}
        )
        run = _Run(system.to(chosen), stages, batches, Path(run_dir), processes, strategy)
        run.on_sample, run.signals, run.keep = on_sample, signals, keep_checkpoints
        run.random = RandomState(seed, processes.rank, chosen)
        checkpoint = run.open(description, resume, fall_back)
        if processes.is_main:
            start = checkpoint.step if checkpoint else 0
            run.trackers = open_trackers(run.run_dir, start, tracker, description)
        run.show = show_progress and processes.is_main
        try:
            return run.train(checkpoint)
        finally:
            run.trackers.close()


class _Run:
    """The state of one call of `train`."""

    on_sample: OnSample | None
    signals: StopSignals
    random: RandomState
    keep: int
    show: bool

    def __init__(
        self,
        system: Any,
        stages: Sequence[Stage],
        batches: Batches,
        run_dir: Path,
        processes: Processes,
        strategy: Strategy,
    ) -> None:
        self.system, self.stages, self.batches = system, stages, batches
        self.run_dir, self.processes, self.strategy = run_dir, processes, strategy
        self.root = run_dir / "checkpoints"
        self.trackers = Trackers([])
        self.report: StepReport | None = None
        self.loss = math.nan
        self.newest: Path | None = None
        self.notices: list[str] = []

    def open(
        self, description: Mapping[str, Any], resume: bool, fall_back: bool
    ) -> Checkpoint | None:
        """Claims the folder and reads the checkpoint to continue from."""
        if self.processes.is_main:
            changes = open_run(self.run_dir, description, resume)
            self.notices += [f"changed since the run began: {change}" for change in changes]
            for leftover in self.root.glob(".step-*"):
                remove(leftover)  # of a process that was killed while saving
        sum_over_processes(torch.zeros(1, device=self.random.device), self.processes)  # wait
        if not resume:
            return None
        found = list_checkpoints(self.root)
        for step, folder in reversed(found):
            try:
                checkpoint = load_checkpoint(
                    folder,
                    system=type(self.system).__name__,
                    rank=self.processes.rank,
                    num_processes=self.processes.num_processes,
                )
            except ValueError as error:
                if not fall_back or step == found[0][0]:
                    raise
                self.notices.append(f"falling back to the checkpoint before: {error}")
                continue
            self._set_aside([f for s, f in found if s > step])
            self.notices.append(f"resuming after step {step}")
            return checkpoint
        self.notices.append(f"no checkpoint in {self.root}, starting from step 0")
        return None

    def _set_aside(self, folders: list[Path]) -> None:
        sum_over_processes(torch.zeros(1, device=self.random.device), self.processes)
        if self.processes.is_main:
            for folder in folders:
                folder.rename(folder.with_name(f"damaged-{folder.name}"))

    def train(self, checkpoint: Checkpoint | None) -> TrainResult:
        """All stages that are not done."""
        start = time.monotonic()
        done = 0
        for index, stage in enumerate(self.stages):
            before, done = done, done + stage.num_steps
            if checkpoint is not None and checkpoint.state["stage"] > index:
                continue
            run = StageRun(
                self.system, stage, self.batches, self.random, self.processes, self.strategy
            )
            try:
                if checkpoint is not None:
                    run.load(checkpoint, checkpoint.state["stage_step"])
                    before = checkpoint.step - run.step
                    self.newest, checkpoint = checkpoint.folder, None
                self._train_stage(run, index, before)
            finally:
                run.close()
            done = before + run.step
        assert self.newest is not None  # every stage has at least one step and saves its last
        if self.signals.requested:
            raise TrainingInterrupted(done, self.newest)
        terms = self.report.terms if self.report else {}
        return TrainResult(
            step=done,
            loss=self.loss,
            terms={name: float(value) for name, value in terms.items()},
            checkpoint=self.newest,
            seconds=time.monotonic() - start,
        )

    def _train_stage(self, run: StageRun, index: int, before: int) -> None:
        stage = run.stage
        if stage.sample_every and self.on_sample is None:
            warnings.warn("sample_every has no effect without on_sample", stacklevel=4)
        meter = _Meter()
        with Progress(stage.name, stage.num_steps, run.step, self.show) as progress:
            for notice in self.notices:
                progress.say(notice)
            self.notices.clear()
            while run.step < stage.num_steps:
                stop = self._step(run, index, before)
                progress.advance(run.step)
                meter.add(self.loss, self.report)
                is_last = run.step == stage.num_steps
                if is_last or run.step % stage.log_every == 0:
                    values = meter.flush(self.processes.num_processes) | run.measured()
                    progress.report(run.step, values)
                    self.trackers.log(before + run.step, stage.name, values)
                if stop or is_last or (stage.save_every and run.step % stage.save_every == 0):
                    self._save(run, index, before)
                if stop:
                    raise TrainingInterrupted(before + run.step, self.newest)
                if stage.sample_every and run.step % stage.sample_every == 0:
                    self._sample(run, before + run.step)

    def _step(self, run: StageRun, index: int, before: int) -> bool:
        """One optimizer step. Returns whether some process was asked to stop."""
        try:
            fetched = run.fetch()
        except Exception as error:
            if self.signals.requested and self.processes.num_processes == 1:
                # Ctrl-C also ended the loader's workers. The step has not begun, so save.
                self._save(run, index, before)
                raise TrainingInterrupted(before + run.step, self.newest) from error
            raise
        self.report = run.backward(fetched)
        stop = self._agree(self.report, run, before)
        run.update()
        return stop

    def _agree(self, report: StepReport, run: StageRun, before: int) -> bool:
        """Checks that loss and gradient are finite in all processes; whether any must stop."""
        is_bad = ~(torch.isfinite(report.loss) & torch.isfinite(report.grad_norm))
        stop = torch.full_like(report.loss, float(self.signals.requested))
        flags = torch.stack([stop.double(), is_bad.double(), report.loss.double()])
        num_stops, num_bad, loss = sum_over_processes(flags, self.processes).tolist()
        if num_bad:
            terms = ", ".join(f"{name} = {float(v):.4g}" for name, v in report.terms.items())
            raise FloatingPointError(
                f"Expected a finite loss and gradient in step {before + run.step + 1} (stage "
                f"{run.stage.name!r}), found loss {float(report.loss):.4g} ({terms}), gradient "
                f"norm {float(report.grad_norm):.4g} in process {self.processes.rank}. Last good "
                f"checkpoint: {self.newest or 'none yet'}. Lower learning_rate, set grad_clip, or "
                "check the data for NaN."
            )
        self.loss = loss / self.processes.num_processes
        return num_stops > 0

    def _save(self, run: StageRun, index: int, before: int) -> None:
        step = before + run.step
        blobs = gather_blobs(run.process_state(), self.processes, self.random.device)
        self.newest = self.root / f"step-{step:08d}"
        if self.processes.is_main:
            state = {
                "system": type(self.system).__name__,
                "stage": index,
                "stage_name": run.stage.name,
                "stage_step": run.step,
                "num_processes": self.processes.num_processes,
            }
            self.newest = save_checkpoint(self.root, step, state, run.tensors(), blobs, self.keep)

    def _sample(self, run: StageRun, step: int) -> None:
        if self.on_sample is None or not self.processes.is_main:
            return
        device = self.random.device
        averaged = run.ema.applied() if run.ema is not None else nullcontext()
        with (
            torch.no_grad(),
            averaged,
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        ):
            self.system.eval()
            try:
                self.on_sample(self.system, step)
            finally:
                run.set_modes()


class _Meter:
    """Means and throughput between two log lines."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._start = time.monotonic()
        self._losses: list[float] = []
        self._terms: dict[str, list[Tensor]] = {}
        self._num_clips = self._num_tokens = 0
        self._last: StepReport | None = None

    def add(self, loss: float, report: StepReport | None) -> None:
        assert report is not None
        self._losses.append(loss)
        for name, value in report.terms.items():
            self._terms.setdefault(name, []).append(value)
        self._num_clips += report.num_clips
        self._num_tokens += report.num_tokens
        self._last = report

    def flush(self, num_processes: int) -> dict[str, float]:
        """The numbers since the last call; terms are those of this process."""
        assert self._last is not None
        seconds = max(time.monotonic() - self._start, 1e-9)
        values = {"loss": sum(self._losses) / len(self._losses)}
        values |= {f"loss/{n}": float(torch.stack(v).mean()) for n, v in self._terms.items()}
        values["learning_rate"] = self._last.learning_rate
        values["grad_norm"] = float(self._last.grad_norm)
        values["clips_per_second"] = self._num_clips * num_processes / seconds
        if self._num_tokens:
            values["tokens_per_second"] = self._num_tokens * num_processes / seconds
        self._clear()
        return values
