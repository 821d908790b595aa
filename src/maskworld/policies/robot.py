"""A robot's policy around any network that predicts chunks of actions: receding horizon.

Every `exec_steps` steps the network is asked for a chunk; its first `exec_steps` actions are
carried out, the rest is forgotten. Between two questions no picture is needed unless it will be
remembered, and `reads_frames` says so beforehand, so that a world need not render it nor a client
send it.

The papers disagree about `exec_steps`: Mask World Model's text executes one action and plans again,
GE-ACT's script executes 8 of 36. It stands with every score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from maskworld.data.control import MemoryPick
from maskworld.data.control_statistics import ControlStatistics
from maskworld.policies.robot_noise import draws_by_row
from maskworld.types import Batch, ControlBatch, Observation


@runtime_checkable
class ChunkModel(Protocol):
    """Predicts the next actions, several at once."""

    def act_chunk(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "b l a"]:
        """Actions in the data's units from the remembered frames (the last is now), the state and
        the captions of a batch. Noise has the rows of the batch as its first axis; see
        `draws_by_row`."""
        ...


@dataclass(frozen=True)
class ControlSpec:
    """What a policy expects and gives: told to clients, checked at every step."""

    cameras: tuple[str, ...]
    """In the order of the training data."""
    frame_size: tuple[int, int]
    """Height, width of every camera's image."""
    state_dim: int
    low: tuple[float | int, ...]
    """Smallest action that the world takes, one number per dimension."""
    high: tuple[float | int, ...]
    fps: float | int
    """Steps per second."""

    def __post_init__(self) -> None:
        if not self.cameras or len(self.low) != len(self.high) or not self.low:
            raise ValueError(
                f"Expected at least one camera and as many lows as highs, found {self}."
            )
        if not all(low < high for low, high in zip(self.low, self.high)):
            raise ValueError(f"Expected low < high, found {self.low} and {self.high}.")

    @staticmethod
    def of(
        statistics: ControlStatistics,
        frame_size: tuple[int, int],
        low: Sequence[float | int],
        high: Sequence[float | int],
    ) -> ControlSpec:
        """That of a model trained on data with these statistics, for a world with this range.

        Raises:
            ValueError: a range of another width than the data's actions.
        """
        if len(low) != statistics.action_dim:
            raise ValueError(
                f"Expected a range of {statistics.action_dim} numbers, as the actions of the "
                f"training data, found {len(low)}: choose the world that the data was recorded in."
            )
        views = tuple(statistics.views)
        return ControlSpec(
            views, frame_size, statistics.state_dim, tuple(low), tuple(high), statistics.fps
        )

    @property
    def action_dim(self) -> int:
        return len(self.low)

    def check(self, observation: Observation, *, reads_frames: bool = True) -> None:
        """Raises ValueError for an observation that does not fit: cameras missing, frames of
        another size, a state of another length or not finite."""
        state = observation.state
        if len(state) != self.state_dim or not bool(state.isfinite().all()):
            raise ValueError(
                f"Expected a state of {self.state_dim} finite numbers, as in the training data, "
                f"found {state.tolist()}."
            )
        if not reads_frames:
            return
        views, channels, *size = observation.frames.shape
        if views != len(self.cameras) or channels != 3 or tuple(size) != self.frame_size:
            raise ValueError(
                f"Expected RGB frames of the cameras {list(self.cameras)}, in this order, of "
                f"{self.frame_size[0]}x{self.frame_size[1]} pixels, found {views} of {channels} "
                f"channels and {'x'.join(map(str, size))} pixels."
            )


class ChunkPolicy:
    """Carries out chunks of a model in a receding horizon (`interfaces.Policy`).

    Args:
        model: shared by the `twins`, each with a memory of its own.
        memory: which past frames are shown: the rule of the training clips, or its counterpart for
            running, `mode="every"`. "random" must keep, and so be shown, every frame.
        exec_steps: actions of each chunk that are carried out.
        frame_stride: steps between the future frames of the training clips, which only decides what
            frame rate the model is told.
        seed: mixed into the seed of every episode, so that draws can differ between evaluations.

    Raises:
        ValueError: `exec_steps` below 1.
    """

    def __init__(
        self,
        model: ChunkModel,
        spec: ControlSpec,
        *,
        memory: MemoryPick,
        exec_steps: int,
        frame_stride: int = 1,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if exec_steps < 1:
            raise ValueError(f"Expected exec_steps of at least 1, found {exec_steps}.")
        self.model, self.spec, self.memory = model, spec, memory
        self.exec_steps, self.frame_stride = exec_steps, frame_stride
        self.seed, self.device = seed, device
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Forgets the last episode; `seed` decides every draw of the next."""
        self.num_actions = 0
        self.num_clipped = 0
        """Actions with a number outside the world's range since the reset."""
        self._step = 0
        self._frames: dict[int, UInt8[Tensor, "v c h w"]] = {}
        self._chunk: Float[np.ndarray, "l a"] | None = None
        self._noise = torch.Generator(self.device).manual_seed(_mixed(self.seed, seed, 0))
        self._picks = np.random.default_rng([self.seed, seed, 1])

    @property
    def reads_frames(self) -> bool:
        """Whether the next `act` needs the observation's frames."""
        return self.asks or self._is_remembered(self._step)

    @property
    def asks(self) -> bool:
        """Whether the next `act` needs a new chunk."""
        return self._step % self.exec_steps == 0

    def act(self, observation: Observation) -> Float[np.ndarray, " a"]:
        """The next action, within the world's range.

        Raises:
            ValueError: an observation that does not fit, a chunk too short or of another width.
        """
        return act_together([self], [observation])[0]

    def twin(self) -> ChunkPolicy:
        """Another policy with the same model, for an episode beside this one."""
        return ChunkPolicy(
            self.model,
            self.spec,
            memory=self.memory,
            exec_steps=self.exec_steps,
            frame_stride=self.frame_stride,
            seed=self.seed,
            device=self.device,
        )

    def describe(self) -> dict[str, Any]:
        """What a score of this policy depends on, for the protocol and for clients."""
        of_model: dict[str, Any] = getattr(self.model, "describe", dict)()
        return {
            **asdict(self.spec),
            "action_dim": self.spec.action_dim,
            "exec_steps": self.exec_steps,
            "memory": asdict(self.memory),
            "policy_seed": self.seed,
            **of_model,
        }

    def _sense(self, observation: Observation) -> None:
        """Checks an observation and keeps its frames where they are needed."""
        reads_frames = self.reads_frames
        self.spec.check(observation, reads_frames=reads_frames)
        if reads_frames:
            self._frames[self._step] = observation.frames.cpu()

    def _question(self, observation: Observation) -> tuple[Tensor, Tensor, str]:
        """Frames `v n c h w`, state and instruction of now."""
        chosen = self.memory.indices(self._step, self._picks)
        frames = torch.stack([self._frames[step] for step in chosen], dim=1)
        return frames, observation.state, observation.instruction

    def _take(self, chunk: Float[np.ndarray, "l a"]) -> None:
        length, width = chunk.shape
        if length < self.exec_steps or width != self.spec.action_dim:
            raise ValueError(
                f"Expected chunks of at least exec_steps = {self.exec_steps} actions of "
                f"{self.spec.action_dim} numbers, found {length} of {width}."
            )
        self._chunk = chunk

    def _next(self) -> Float[np.ndarray, " a"]:
        assert self._chunk is not None
        wanted = self._chunk[self._step % self.exec_steps]
        action = np.clip(wanted, self.spec.low, self.spec.high).astype(np.float32)
        self.num_actions += 1
        self.num_clipped += bool((np.abs(wanted - action) > 1e-4).any())
        self._step += 1
        oldest = self._step - self._reach  # the first frame may stand in for those before it
        self._frames = {s: kept for s, kept in self._frames.items() if s == 0 or s >= oldest}
        return action

    @property
    def _reach(self) -> int:
        """Steps back that the memory may look."""
        if self.memory.num_frames == 1:
            return 0
        if self.memory.mode == "random":
            return self.memory.window
        return (self.memory.num_frames - 1) * self.memory.stride

    def _is_remembered(self, step: int) -> bool:
        """Whether a chunk after `step` will look back at it."""
        if self.memory.num_frames == 1:
            return False
        if self.memory.mode == "random":
            return True
        first = -(-(step + 1) // self.exec_steps) * self.exec_steps
        asked = range(first, step + self._reach + 1, self.exec_steps)
        return any(step in self.memory.indices(now) for now in asked)


def act_together(
    policies: Sequence[ChunkPolicy], observations: Sequence[Observation]
) -> list[Float[np.ndarray, " a"]]:
    """The next action of every policy; those of one model that need a chunk share one pass.

    Raises:
        ValueError: as `ChunkPolicy.act`.
    """
    asking: dict[int, list[tuple[ChunkPolicy, Observation]]] = {}
    for policy, observation in zip(policies, observations, strict=True):
        policy._sense(observation)
        if policy.asks:
            asking.setdefault(id(policy.model), []).append((policy, observation))
    for group in asking.values():
        _ask(group)
    return [policy._next() for policy in policies]


def _ask(group: Sequence[tuple[ChunkPolicy, Observation]]) -> None:
    """Gives every policy of one model its next chunk."""
    first = group[0][0]
    frames, states, captions = zip(*[p._question(o) for p, o in group])
    batch = Batch(
        frames=torch.stack(frames),
        control=ControlBatch(state=torch.stack(states).float()),
        captions=list(captions),
        fps=torch.full((len(group),), first.spec.fps / first.frame_stride),
    ).to(first.device)
    noise = [policy._noise for policy, _ in group]
    with torch.no_grad(), draws_by_row(noise) as generator:
        chunks = first.model.act_chunk(batch, generator)
    if len(chunks) != len(group):
        raise ValueError(f"Expected {len(group)} chunks, found {len(chunks)}.")
    for (policy, _), chunk in zip(group, chunks.float().cpu().numpy(), strict=True):
        policy._take(chunk)


def _mixed(*seeds: int) -> int:
    """One seed of several, so that (1, 2) and (2, 1) differ."""
    return int(np.random.SeedSequence(list(seeds)).generate_state(2, np.uint64)[0] >> 1)
