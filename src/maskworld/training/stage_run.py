"""One stage in progress: what a step does, and everything that must survive a restart."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from maskworld.nn.weights_io import load_state_tensors, state_tensors
from maskworld.training.checkpoint import Checkpoint, pack
from maskworld.training.config import Stage, Strategy, lr_factor
from maskworld.training.distributed import Processes, derive_seed, parallel_loss
from maskworld.training.ema import WeightAverage
from maskworld.types import Batch


@runtime_checkable
class BatchIterator(Protocol):
    """Endless batches that know where they are."""

    def __next__(self) -> Batch: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


@runtime_checkable
class MeasuredBatches(Protocol):
    """Batches that have numbers of their own for the log."""

    def measured(self) -> dict[str, float]:
        """Those since the last call, by name."""
        ...


Batches = Callable[[Stage], BatchIterator]
"""Makes the batches of a stage. Each process gets its own part of the data."""


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step saw, over its forward passes."""

    loss: Tensor
    terms: dict[str, Tensor]
    grad_norm: Tensor
    learning_rate: float
    num_clips: int
    num_tokens: int
    """0 where the system does not count them."""


class RandomState:
    """The generator handed to the system, torch's global RNG (dropout reads it), and a second
    global stream for the loader: what a loader draws when it starts must not shift the dropout of
    a resumed run.
    """

    def __init__(self, seed: int, rank: int, device: torch.device) -> None:
        self.device = device
        self.generator = torch.Generator(device)
        self.generator.manual_seed(derive_seed(seed, rank, "generator"))
        torch.manual_seed(derive_seed(seed, rank, "global"))
        loader = torch.Generator().manual_seed(derive_seed(seed, rank, "loader"))
        self._loader = loader.get_state()

    @contextmanager
    def for_loader(self) -> Iterator[None]:
        """Inside, torch's global CPU stream is the loader's."""
        training = torch.get_rng_state()
        torch.set_rng_state(self._loader)
        try:
            yield
        finally:
            self._loader = torch.get_rng_state()
            torch.set_rng_state(training)

    def state_dict(self) -> dict[str, Tensor]:
        states = {
            "generator": self.generator.get_state(),
            "global": torch.get_rng_state(),
            "loader": self._loader,
        }
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return states

    def load_state_dict(self, states: dict[str, Tensor]) -> None:
        """Raises ValueError for a state of another kind of device."""
        if ("cuda" in states) != (self.device.type == "cuda"):
            was = "a GPU" if "cuda" in states else "the CPU"
            raise ValueError(
                f"Expected a checkpoint of a run on {self.device.type}, found one of {was}: "
                "resume on the same kind of device, random numbers differ between them."
            )
        self.generator.set_state(states["generator"])
        torch.set_rng_state(states["global"])
        self._loader = states["loader"]
        if "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.device)


class StageRun:
    """The optimizer, averaged weights and batches of one stage; `step` counts within the stage.

    Parameters outside the system's groups are frozen until `close`, and modules all of whose
    parameters are frozen run in eval mode.
    """

    def __init__(
        self,
        system: Any,
        stage: Stage,
        batches: Batches,
        random: RandomState,
        processes: Processes,
        strategy: Strategy,
    ) -> None:
        self.system, self.stage, self.random, self.step = system, stage, random, 0
        if stage.precision == "bf16" and random.device.type == "cpu":
            warnings.warn("precision bf16 has no effect on a CPU, training in fp32", stacklevel=4)
        names = {id(p): name for name, p in system.named_parameters()}
        self._groups = _named_groups(system, stage, names)
        with random.for_loader():
            self.batches = batches(stage)
        self.loader_state: Any = None
        self.parameters = {n: p for group in self._groups for n, p in group["params"]}
        self._frozen = [
            p
            for name, p in system.named_parameters()
            if name not in self.parameters and p.requires_grad
        ]
        for parameter in self._frozen:
            parameter.requires_grad_(False)
        self._thawed = [p for p in self.parameters.values() if not p.requires_grad]
        for parameter in self._thawed:
            parameter.requires_grad_(True)
        self.set_modes()
        options = [{**g, "params": [p for _, p in g["params"]]} for g in self._groups]
        self.optimizer = torch.optim.AdamW(
            options,
            lr=stage.learning_rate,
            betas=stage.betas,
            weight_decay=stage.weight_decay,
            fused=True,
        )
        self._peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.ema = WeightAverage(self.parameters, stage.ema_decay) if stage.ema_decay else None
        self._compiled = _compile_networks(system) if stage.compile else []
        self.loss = parallel_loss(system, processes, strategy)

    def set_modes(self) -> None:
        """Train mode where something trains, eval mode elsewhere."""
        self.system.train()

        def freeze(module: nn.Module) -> None:
            parameters = list(module.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                module.eval()
                return
            for child in module.children():
                freeze(child)

        freeze(self.system)

    def fetch(self) -> list[Batch]:
        """The batches of one step, on the training device."""
        self.loader_state = self._position()
        fetched = []
        with self.random.for_loader():
            for _ in range(self.stage.accumulate):
                try:
                    fetched.append(next(self.batches))
                except StopIteration as end:
                    raise ValueError(
                        f"Expected endless batches for stage {self.stage.name!r}, found their end "
                        f"in step {self.step + 1} of {self.stage.num_steps}: let the loader repeat."
                    ) from end
        return [batch.to(self.random.device) for batch in fetched]

    def backward(self, batches: list[Batch]) -> StepReport:
        """Gradients of the mean loss over the clips of `batches`, clipped; no weight moves yet."""
        self.optimizer.zero_grad(set_to_none=True)
        total = sum(len(batch) for batch in batches)
        loss = torch.zeros((), device=self.random.device)
        terms: dict[str, Tensor] = {}
        for index, batch in enumerate(batches):
            weight = len(batch) / total
            with self._synchronised(index == len(batches) - 1), self._autocast():
                value, parts = self.loss(batch, self.stage.name, self.random.generator)
                (value * weight).backward()
            loss = loss + value.detach() * weight
            for name, part in parts.items():
                terms[name] = terms.get(name, 0.0) + part.detach() * weight
        norm = nn.utils.clip_grad_norm_(
            self.parameters.values(), self.stage.grad_clip or math.inf, error_if_nonfinite=False
        )
        factor = lr_factor(self.stage, self.step)
        count = getattr(self.system, "tokens_per_batch", None)
        return StepReport(
            loss=loss,
            terms=terms,
            grad_norm=norm,
            learning_rate=self._peaks[0] * factor,
            num_clips=total,
            num_tokens=sum(int(count(batch)) for batch in batches) if count else 0,
        )

    def measured(self) -> dict[str, float]:
        """What the batches say of themselves since the last call; most say nothing."""
        return self.batches.measured() if isinstance(self.batches, MeasuredBatches) else {}

    def update(self) -> None:
        """Moves the weights along the gradients."""
        factor = lr_factor(self.stage, self.step)
        for group, peak in zip(self.optimizer.param_groups, self._peaks):
            group["lr"] = peak * factor
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update()
        self.step += 1
        self.loader_state = None

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """What all processes share, for a checkpoint."""
        names = {id(p): name for name, p in self.parameters.items()}
        moments = {
            f"{names[id(parameter)]}/{key}": value
            for parameter, state in self.optimizer.state.items()
            for key, value in state.items()
        }
        tensors = {"model": state_tensors(self.system), "optimizer": moments}
        if self.ema is not None:
            tensors["ema"] = self.ema.tensors()
        return tensors

    def process_state(self) -> bytes:
        """What this process owns, at the last step border, for a checkpoint."""
        position = self.loader_state if self.loader_state is not None else self._position()
        return pack({"random": self.random.state_dict(), "loader": position})

    def load(self, checkpoint: Checkpoint, step: int) -> None:
        """Takes over everything a checkpoint of this stage holds.

        Raises:
            ValueError: it is of other weights; names them.
        """
        tensors = checkpoint.tensors
        load_state_tensors(self.system, tensors["model"], str(checkpoint.folder))
        states: dict[int, dict[str, Tensor]] = {}
        order = {name: index for index, name in enumerate(self.parameters)}
        for entry, value in tensors["optimizer"].items():
            name, key = entry.rsplit("/", 1)
            if name not in order:
                raise ValueError(
                    f"Expected optimizer state of what trains in stage {self.stage.name!r}, found "
                    f"{name} in {checkpoint.folder}: the system's parameter groups have changed."
                )
            states.setdefault(order[name], {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": states, "param_groups": groups})
        if self.ema is not None:
            self.ema.load(tensors["ema"], num_updates=step)
        with self.random.for_loader():
            self.batches.load_state_dict(checkpoint.process["loader"])
        self.random.load_state_dict(checkpoint.process["random"])
        self.step = step

    def close(self) -> None:
        """Leaves the averaged weights in the system, where the stage averages, and unfreezes."""
        if self.ema is not None and self.step >= self.stage.num_steps:
            self.ema.copy_to_parameters()
        self.optimizer.zero_grad(set_to_none=True)
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        for parameter in self._thawed:
            parameter.requires_grad_(False)
        for module in self._compiled:
            module._compiled_call_impl = None

    def _position(self) -> Any:
        with self.random.for_loader():
            return copy.deepcopy(self.batches.state_dict())

    def _synchronised(self, is_last: bool) -> Any:
        if isinstance(self.loss, nn.parallel.DistributedDataParallel) and not is_last:
            return self.loss.no_sync()
        return nullcontext()

    def _autocast(self) -> Any:
        if self.stage.precision == "fp32" or self.random.device.type == "cpu":
            return nullcontext()
        return torch.autocast(self.random.device.type, dtype=torch.bfloat16)


def _named_groups(system: Any, stage: Stage, names: dict[int, str]) -> list[dict[str, Any]]:
    groups = []
    for group in system.parameter_groups(stage.name):
        parameters = list(group["params"])
        strangers = [tuple(p.shape) for p in parameters if id(p) not in names]
        if strangers:
            raise ValueError(
                f"Expected parameter groups of the system's own parameters in stage "
                f"{stage.name!r}, found others of shapes {strangers[:5]}: register them."
            )
        groups.append({**group, "params": [(names[id(p)], p) for p in parameters]})
    if not any(group["params"] for group in groups):
        raise ValueError(
            f"Expected parameters to train in stage {stage.name!r}, found none: "
            f"{type(system).__name__}.parameter_groups must return them."
        )
    return groups


def _compile_networks(system: nn.Module) -> list[nn.Module]:
    """Compiles in place the outermost modules below the system that have a forward of their own."""
    compiled = []
    for child in system.children():
        if type(child).forward is nn.Module.forward or isinstance(child, nn.ModuleList):
            compiled += _compile_networks(child)
        else:
            child.compile()
            compiled.append(child)
    return compiled
