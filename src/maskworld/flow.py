"""Rectified flow: a straight line from data to noise, and the times at which a model is asked.

t = 0 is data, t = 1 is noise (ADR 0002). A time has the leading axes of what it belongs to: `b` for
one time per sample, `b n` for one per token; it is broadcast over the axes that follow. Context
(past frames) is clean, has t = 0 and stays out of the loss. Nothing here knows a network.

Reference: ReWorld, section 3.1; the same line serves MaskGWM, Mask World Model and all action
networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TimeKind = Literal["uniform", "logit_normal", "shifted_logit_normal"]
TimeScope = Literal["sample", "frame", "token"]
SigmaKind = Literal["uniform", "shifted", "linear_quadratic", "explicit"]

_SHIFT_ANCHORS = ((1024, 0.95), (4096, 2.05))
"""LTX-Video: logit shift at so many tokens, linear in between and beyond."""
_LINEAR_QUADRATIC_THRESHOLD = 0.025
"""LTX-Video: noise removed by the linear first half of the steps."""


def interpolate(
    z0: Float[Tensor, "*shape"], eps: Float[Tensor, "*shape"], t: Float[Tensor, "*lead"]
) -> Float[Tensor, "*shape"]:
    """z_t = (1 - t) z_0 + t eps, in the dtype of `z0`.

    Reference: ReWorld, section 3.1.
    """
    time = over_channels(t, z0)
    return ((1 - time) * z0 + time * eps).to(z0.dtype)


def velocity_target(
    z0: Float[Tensor, "*shape"], eps: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """v* = eps - z_0, the constant velocity of the line.

    Reference: ReWorld, section 3.1.
    """
    return eps - z0


def clean_estimate(
    z_t: Float[Tensor, "*shape"], v: Float[Tensor, "*shape"], t: Float[Tensor, "*lead"]
) -> Float[Tensor, "*shape"]:
    """z_0 = z_t - t v, where the line through `z_t` with velocity `v` meets the data.

    Reference: ReWorld, Eq. 16 (there of trajectories).
    """
    return (z_t - over_channels(t, z_t) * v).to(z_t.dtype)


def linear_velocity(
    z_t: Float[Tensor, "b n d"],
    t: Float[Tensor, "b n"],
    mean: Float[Tensor, "b n d"],
    variance: Float[Tensor, " d"] | Float[Tensor, "n d"],
) -> Float[Tensor, "b n d"]:
    """E[v | z_t] if z_0 had this mean and variance and nothing else were known.

    What is left for a network is what the prior does not say; the idea of preconditioning (Karras
    et al. 2022), for rectified flow. At t = 1 it is eps - mean. Ours.
    """
    time = over_channels(t, z_t)
    centred = (z_t - (1 - time) * mean) / ((1 - time).square() * variance + time.square())
    return time * centred - (mean + (1 - time) * variance * centred)


def over_channels(t: Float[Tensor, "*lead"], z: Float[Tensor, "*shape"]) -> Float[Tensor, "*t"]:
    """`t` with trailing axes of size one, so that it multiplies `z`.

    Raises:
        ValueError: the axes of `t` are not leading axes of `z` (size 1 is broadcast).
    """
    lead = z.shape[: t.ndim]
    if t.ndim > z.ndim or any(a not in (1, b) for a, b in zip(t.shape, lead)):
        raise ValueError(
            f"Expected times over the leading axes of values of shape {tuple(z.shape)}, found "
            f"times of shape {tuple(t.shape)}: give one per sample (b) or one per token (b n)."
        )
    return t.reshape(*t.shape, *(1,) * (z.ndim - t.ndim))


@dataclass(frozen=True)
class NoisyLatents:
    """What a velocity network is trained on."""

    z: Float[Tensor, "b n d"]
    """Noisy where to be predicted, clean in the context."""
    t: Float[Tensor, "b n"]
    """0 in the context."""
    target: Float[Tensor, "b n d"]
    """eps - z0; meaningless in the context, which the loss leaves out."""
    context: Bool[Tensor, "b n"] | None
    """True = given. None: nothing is."""


def add_noise(
    z0: Float[Tensor, "b n d"],
    eps: Float[Tensor, "b n d"],
    t: Float[Tensor, ...],
    context: Bool[Tensor, "b n"] | None = None,
) -> NoisyLatents:
    """Noisy tokens beside a clean context, their times and their targets.

    Args:
        t: one time per sample (b) or per token (b n); its values in the context are ignored.
        context: True = a given token: stays `z0` bit for bit and gets t = 0.
    """
    time = over_channels(t, z0).squeeze(-1).expand(z0.shape[:2])
    z = interpolate(z0, eps, time)
    if context is not None:
        time = context_time(time, context)
        z = torch.where(context[..., None], z0, z)
    return NoisyLatents(z=z, t=time, target=velocity_target(z0, eps), context=context)


def context_time(t: Float[Tensor, "b n"], context: Bool[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """`t`, and 0 in the context."""
    return t.masked_fill(context, 0.0)


# --- times to train at


@dataclass(frozen=True)
class TimeSampling:
    """At which times a model trains."""

    kind: TimeKind = "uniform"
    """uniform (ReWorld, stage 1); logit_normal: sigmoid of a normal; shifted_logit_normal: its mean
    grows with the number of tokens (LTX-Video, DriveLaW)."""
    scope: TimeScope = "sample"
    """One time for all of a sample, for each latent frame, or for each token."""
    mean: float = 0.0
    """Of the normal of logit_normal; positive = more noise."""
    std: float = 1.0
    """Of the normal (LTX-Video: 1)."""
    p_pure_noise: float = 0.0
    """Share of samples trained at exactly t = 1, which continuous times hardly touch and where
    sampling starts, feature banks are made and one-step means are taken. Ours."""

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("kind", self.kind, get_args(TimeKind)),
            ("scope", self.scope, get_args(TimeScope)),
        ):
            if value not in choices:
                raise ValueError(f"Expected {name} in {choices}, found {value!r}.")
        if self.std <= 0:
            raise ValueError(f"Expected std > 0, found {self.std}: LTX-Video uses 1.")
        if not 0 <= self.p_pure_noise <= 1:
            raise ValueError(f"Expected p_pure_noise in [0, 1], found {self.p_pure_noise}.")

    def sample(
        self, batch_size: int, num_frames: int, tokens_per_frame: int, generator: torch.Generator
    ) -> Float[Tensor, "b n"]:
        """Times of `num_frames * tokens_per_frame` tokens, frame by frame, on the generator's
        device."""
        num_tokens = num_frames * tokens_per_frame
        columns = {"sample": 1, "frame": num_frames, "token": num_tokens}[self.scope]
        shape = (batch_size, columns)
        if self.kind == "uniform":
            times = sample_uniform(shape, generator)
        elif self.kind == "logit_normal":
            times = sample_logit_normal(shape, generator, self.mean, self.std)
        else:
            times = sample_shifted_logit_normal(shape, num_tokens, generator, self.std)
        if self.p_pure_noise:
            draw = torch.rand(batch_size, 1, generator=generator, device=generator.device)
            times = times.masked_fill(draw < self.p_pure_noise, 1.0)
        return times.repeat_interleave(num_tokens // columns, dim=1)


def sample_uniform(shape: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, ...]:
    """Times uniform in [0, 1)."""
    return torch.rand(shape, generator=generator, device=generator.device)


def sample_logit_normal(
    shape: tuple[int, ...], generator: torch.Generator, mean: float = 0.0, std: float = 1.0
) -> Float[Tensor, ...]:
    """Times sigmoid(N(mean, std)).

    Reference: Stable Diffusion 3 (mean 0, std 1); BeyondDrive's generator (.8, .8 in our time).
    """
    draw = torch.randn(shape, generator=generator, device=generator.device)
    return torch.sigmoid(mean + std * draw)


def sample_shifted_logit_normal(
    shape: tuple[int, ...], num_tokens: int, generator: torch.Generator, std: float = 1.0
) -> Float[Tensor, ...]:
    """Times sigmoid(N(logit_shift(num_tokens), std)): longer sequences see more noise.

    Reference: LTX-Video's trainer, as in DriveLaW.
    """
    return sample_logit_normal(shape, generator, logit_shift(num_tokens), std)


def logit_shift(num_tokens: int) -> float:
    """0.95 at 1024 tokens, 2.05 at 4096, on one line everywhere: 0.586 at the 8 of a plan."""
    (n0, shift0), (n1, shift1) = _SHIFT_ANCHORS
    return shift0 + (shift1 - shift0) * (num_tokens - n0) / (n1 - n0)


# --- times to sample at


@dataclass(frozen=True)
class SigmaSchedule:
    """The times a sampler walks through, from 1 to 0."""

    kind: SigmaKind = "uniform"
    num_steps: int = 30
    """ReWorld: 30 for video, 5 for actions. Of an explicit list, its own length counts."""
    shift: float = 1.0
    """Of kind shifted; above 1 spends more steps at high noise (Stable Diffusion 3: 3)."""
    values: tuple[float, ...] = ()
    """Of kind explicit: strictly decreasing, ending with 0."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(SigmaKind):
            raise ValueError(f"Expected kind in {get_args(SigmaKind)}, found {self.kind!r}.")
        if self.values and self.kind != "explicit":
            raise ValueError(
                f"Expected values only with kind explicit, found {self.values} with kind "
                f"{self.kind}: set kind to explicit or leave values out."
            )
        self.sigmas()

    def sigmas(self) -> tuple[float, ...]:
        """num_steps + 1 times, ending with 0."""
        if self.kind == "uniform":
            return uniform_sigmas(self.num_steps)
        if self.kind == "shifted":
            return shifted_sigmas(self.num_steps, self.shift)
        if self.kind == "linear_quadratic":
            return linear_quadratic_sigmas(self.num_steps)
        return check_sigmas(self.values)


def uniform_sigmas(num_steps: int) -> tuple[float, ...]:
    """1, 1 - 1/n, ..., 1/n, 0."""
    _check_steps(num_steps)
    return tuple((num_steps - step) / num_steps for step in range(num_steps + 1))


def shifted_sigmas(num_steps: int, shift: float | int) -> tuple[float, ...]:
    """The uniform list under t -> s t / (1 + (s - 1) t).

    Reference: Stable Diffusion 3, section 5.3.2.
    """
    if shift <= 0:
        raise ValueError(f"Expected shift > 0, found {shift}: 1 is the uniform list.")
    return tuple(shift * t / (1 + (shift - 1) * t) for t in uniform_sigmas(num_steps))


def linear_quadratic_sigmas(
    num_steps: int, threshold: float = _LINEAR_QUADRATIC_THRESHOLD
) -> tuple[float, ...]:
    """Small equal steps from 1 to 1 - threshold in the first half, then a parabola to 0.

    The parabola leaves the line with the line's slope.

    Reference: LTX-Video's sampler; DriveLaW and ReWorld sample with it.
    """
    _check_steps(num_steps)
    num_linear = num_steps // 2
    num_quadratic = num_steps - num_linear
    if not num_linear:
        return (1.0, 0.0)
    slope = threshold / num_linear
    curvature = (1 - threshold - slope * num_quadratic) / num_quadratic**2
    line = [1 - slope * step for step in range(num_linear)]
    parabola = [1 - threshold - slope * step - curvature * step**2 for step in range(num_quadratic)]
    return (*line, *parabola, 0.0)


def check_sigmas(values: Sequence[float | int]) -> tuple[float, ...]:
    """The list as floats.

    Raises:
        ValueError: fewer than two values, a first one above 1, a last one other than 0, or a value
            that is not below the one before it.
    """
    sigmas = tuple(float(value) for value in values)
    if len(sigmas) < 2 or not sigmas[0] <= 1 or sigmas[-1] != 0:
        raise ValueError(
            f"Expected times from at most 1 down to 0, found {sigmas}: "
            "give at least two, and 0 as the last."
        )
    for step, (now, after) in enumerate(pairwise(sigmas)):
        if not after < now:
            raise ValueError(
                f"Expected strictly decreasing times, found {now} followed by {after} at step "
                f"{step}: sort the list and drop what is there twice."
            )
    return sigmas


def _check_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"Expected num_steps >= 1, found {num_steps}: ReWorld uses 30, plans 5.")
