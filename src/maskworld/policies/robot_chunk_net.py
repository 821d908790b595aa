"""Policies without a world model, blind or seeing, and the demonstrations they learn from.

A blind `ChunkNet` is the baseline that matters most: a task that it solves from hand position and
gripper says nothing about vision. One with views sees the same pictures as a world model's policy
but learns to predict actions alone, so the difference is what the world model is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from maskworld.data.control_statistics import control_rows, episode_name
from maskworld.data.episodes import Source
from maskworld.nn.pixels import to_unit
from maskworld.policies.ego_status import decayed_groups
from maskworld.types import Batch, ControlBatch, LossOutput

Augment = Callable[[UInt8[Tensor, "b v 1 c h w"], torch.Generator], UInt8[Tensor, "b v 1 c h w"]]
"""Changes the pictures of a training batch (colour jitter, recolouring)."""


@dataclass(frozen=True)
class ChunkNetConfig:
    """Shape of a chunk regressor. Numbers are ours."""

    instructions: tuple[str, ...]
    """Known tasks; which of them it is, is told as a one-hot vector."""
    state_dim: int = 4
    action_dim: int = 4
    chunk: int = 8
    dim: int = 256
    num_hidden: int = 2
    """Hidden layers of the MLP."""
    num_views: int = 0
    """Cameras. 0: blind."""
    frame_size: tuple[int, int] = (64, 64)
    """Height, width; multiples of 16."""
    width: int = 32
    """Channels after the stem; 4 times as many at the end."""

    def __post_init__(self) -> None:
        if self.num_views and any(side % 16 for side in self.frame_size):
            raise ValueError(f"Expected sides that are multiples of 16, found {self.frame_size}.")
        if not self.instructions or len(set(self.instructions)) < len(self.instructions):
            raise ValueError(f"Expected instructions, each once, found {self.instructions}.")


class ChunkNet(nn.Module):
    """State, task and, with `num_views`, the pictures of now to a chunk of actions, by regression.

    Satisfies `policies.robot.ChunkModel` and `interfaces.System`. Call `fit_statistics` before
    training.
    """

    def __init__(self, config: ChunkNetConfig) -> None:
        super().__init__()
        self.config = config
        self.state_mean: Tensor
        self.state_std: Tensor
        self.action_mean: Tensor
        self.action_std: Tensor
        for name, size in (("state", config.state_dim), ("action", config.action_dim)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))
        d = config.width
        picture = 0
        self.encoder: nn.Module | None = None
        if config.num_views:
            cells = (config.frame_size[0] // 16) * (config.frame_size[1] // 16)
            picture = 6 * d
            self.encoder = nn.Sequential(
                # A stride of 4 at once is 2.5 times cheaper than twice 2 and no worse here.
                nn.Conv2d(3 * config.num_views, d, 7, stride=4, padding=3),
                nn.GELU(),
                *_convolution(d, 2 * d, stride=2),
                *_convolution(2 * d, 4 * d, stride=2),
                *_convolution(4 * d, 4 * d, stride=1),
                nn.Flatten(),
                nn.Linear(4 * d * cells, picture),
                nn.GELU(),
            )
        inputs = picture + config.state_dim + len(config.instructions)
        layers: list[nn.Module] = []
        for before, after in pairwise([inputs, *[config.dim] * config.num_hidden]):
            layers += [nn.Linear(before, after), nn.GELU()]
        last = config.dim if config.num_hidden else inputs
        self.head = nn.Sequential(*layers, nn.Linear(last, config.chunk * config.action_dim))

    def fit_statistics(self, control: ControlBatch) -> None:
        """Measures states and real actions, so that both are learned in units of their spread."""
        assert control.actions is not None
        assert control.is_real is not None
        actions = control.actions[control.is_real]
        for name, rows in (("state", control.state), ("action", actions)):
            getattr(self, f"{name}_mean").copy_(rows.mean(0))
            getattr(self, f"{name}_std").copy_(rows.std(0, correction=0).clamp(min=1e-3))

    def forward(self, batch: Batch) -> Float[Tensor, "b l a"]:
        """Standardised actions; of the frames only those of now are read, which are the last.

        Raises:
            ValueError: no control sample, frames of another size, an unknown instruction.
        """
        control, config = _control(batch), self.config
        inputs = [(control.state - self.state_mean) / self.state_std, self._task(batch)]
        if self.encoder is not None:
            frames = batch.frames
            found = None if frames is None else (frames.shape[1], *frames.shape[-2:])
            if frames is None or found != (config.num_views, *config.frame_size):
                raise ValueError(
                    f"Expected frames of {config.num_views} views and {config.frame_size} pixels, "
                    f"found {found}."
                )
            now = rearrange(to_unit(frames[:, :, -1]), "b v c h w -> b (v c) h w")
            inputs.append(self.encoder(now))
        flat = self.head(torch.cat(inputs, dim=-1))
        return rearrange(flat, "b (l a) -> b l a", a=config.action_dim)

    def act_chunk(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "b l a"]:
        """Actions in the data's units; nothing is drawn."""
        del generator
        with torch.no_grad():
            return self(batch) * self.action_std + self.action_mean

    def training_loss(self, batch: Batch, stage: str, generator: torch.Generator) -> LossOutput:
        """Mean absolute error of standardised actions; rows past an episode's end do not count."""
        del stage, generator
        control, length = _control(batch), self.config.chunk
        if control.actions is None or control.is_real is None or control.actions.shape[1] < length:
            raise ValueError(f"Expected demonstrated chunks of at least {length} actions.")
        target = (control.actions[:, :length] - self.action_mean) / self.action_std
        real = control.is_real[:, :length, None].to(target.dtype)
        error = ((self(batch) - target).abs() * real).sum()
        total = error / (real.sum() * target.shape[-1]).clamp(min=1.0)
        return LossOutput(total, {"actions": total.detach()})

    def parameter_groups(self, stage: str) -> list[dict[str, Any]]:
        """Everything trains; no decay on vectors."""
        del stage
        return decayed_groups(self)

    def _task(self, batch: Batch) -> Float[Tensor, "b i"]:
        known = {text: i for i, text in enumerate(self.config.instructions)}
        unknown = [text for text in batch.captions if text not in known]
        if unknown:
            raise ValueError(
                f"Expected one of the instructions {list(known)}, found {unknown[0]!r}: train on "
                "the task."
            )
        rows = torch.tensor([known[text] for text in batch.captions], device=self.state_mean.device)
        return F.one_hot(rows, len(known)).to(self.state_mean.dtype)


@dataclass(frozen=True)
class Demonstrations:
    """Moments of recorded episodes in memory, from which chunks start."""

    control: ControlBatch
    instructions: list[str]
    """One per moment."""
    episode: Int[Tensor, " n"]
    frames: UInt8[Tensor, "n v c h w"] | None = None

    def __len__(self) -> int:
        return len(self.control.state)

    def batch(self, rows: Int[Tensor, " b"]) -> Batch:
        """Some of the moments."""
        c = self.control
        assert c.actions is not None
        assert c.states is not None
        assert c.is_real is not None
        control = ControlBatch(c.state[rows], c.actions[rows], c.states[rows], c.is_real[rows])
        frames = None if self.frames is None else self.frames[rows][:, :, None]
        return Batch(frames, control=control, captions=[self.instructions[i] for i in rows])


def read_demonstrations(
    source: Source,
    chunk: int,
    *,
    episodes: Sequence[int] | None = None,
    reads_frames: bool = True,
    only_successes: bool = True,
) -> Demonstrations:
    """All moments of the episodes of a source, in memory: n views h w 3 bytes for the pictures.

    Args:
        episodes: which; None = all.
        only_successes: leave out episodes whose attribute `success` is false.

    Raises:
        ValueError: no episode is left.
    """
    states, actions, after, real = [], [], [], []
    frames, instructions, numbers = [], [], []
    for number in range(len(source)) if episodes is None else episodes:
        episode: Any = source.episode(number)
        if only_successes and getattr(episode, "attributes", {}).get("success") is False:
            continue
        steps, state = control_rows(episode, episode_name(source, number))
        last = len(state) - 1
        now = np.arange(last)
        wanted = now[:, None] + np.arange(1, chunk + 1)
        rows = np.minimum(wanted, last)  # row t of a source is the step into frame t
        states.append(state[now])
        actions.append(steps[rows])
        after.append(state[rows])
        real.append(wanted <= last)
        instructions += [episode.caption] * last
        numbers.append(np.full(last, number))
        if reads_frames:
            frames.append(np.swapaxes(episode.read(now.tolist()), 0, 1))
    if not states:
        raise ValueError(f"{source.name}: expected successful episodes, found none: record some.")
    stacked = [torch.from_numpy(np.concatenate(each)) for each in (states, actions, after, real)]
    return Demonstrations(
        ControlBatch(*stacked),
        instructions,
        torch.from_numpy(np.concatenate(numbers)),
        torch.from_numpy(np.concatenate(frames)) if reads_frames else None,
    )


def fit_chunk_net(
    data: Demonstrations,
    config: ChunkNetConfig,
    generator: torch.Generator,
    *,
    num_steps: int = 1500,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    augment: Augment | None = None,
    device: torch.device | str = "cpu",
) -> ChunkNet:
    """Trains a chunk regressor on demonstrations in memory: AdamW with a cosine. Numbers are ours.

    Args:
        generator: of the CPU; draws the first weights and the batches, so that one seed gives one
            network.
        augment: of the pictures.
    """
    net = ChunkNet(config)
    for name, parameter in net.named_parameters():
        if parameter.ndim >= 2:
            bound = (6.0 / parameter[0].numel()) ** 0.5  # He, uniform
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    net.fit_statistics(data.control)
    net.to(device)
    optimizer = torch.optim.AdamW(net.parameter_groups(""), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(num_steps):
        rows = torch.randint(len(data), (min(batch_size, len(data)),), generator=generator)
        batch = data.batch(rows)
        if augment is not None and batch.frames is not None:
            batch = Batch(
                augment(batch.frames, generator), control=batch.control, captions=batch.captions
            )
        optimizer.zero_grad()
        net.training_loss(batch.to(device), "", generator).total.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def _convolution(before: int, after: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(before, after, 3, stride=stride, padding=1),
        nn.GroupNorm(8, after),
        nn.GELU(),
    ]


def _control(batch: Batch) -> ControlBatch:
    if batch.control is None:
        raise ValueError("Expected a batch with control samples (the state), found none.")
    return batch.control
