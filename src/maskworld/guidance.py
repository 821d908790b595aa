"""Guidance as one line: move from a weak prediction through a strong one and beyond.

WorldDreamer's classifier-free guidance (Eq. 6), the usual CFG and ReWorld's self-guidance are the
same extrapolation; a scale of 1 means no guidance. Guided velocity models have the call of plain
ones, so that samplers know nothing of guidance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from maskworld.interfaces import VelocityModel


def extrapolate(
    weak: Float[Tensor, "*shape"], strong: Float[Tensor, "*shape"], scale: float
) -> Float[Tensor, "*shape"]:
    """`weak + scale * (strong - weak)`.

    Reference: WorldDreamer, Eq. 6, whose (1 + beta) c - beta u is this with scale = 1 + beta.
    """
    return weak + scale * (strong - weak)


def drop_conditions(
    batch_size: int, p_drop: float, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Bool[Tensor, " b"]:
    """Which samples train without their prompt; each with probability `p_drop`.

    Reference: WorldDreamer, section 4.2 (10 %).
    """
    draw = torch.rand(batch_size, generator=generator, device=generator.device)
    return (draw < p_drop).to(device)


@runtime_checkable
class IntermediateVelocityModel(Protocol):
    """A velocity model that also says what it thought halfway.

    Returns the velocity of an intermediate layer's head and that of the final head, both from one
    forward pass.
    """

    def __call__(
        self, z: Float[Tensor, "b n d"], t: Float[Tensor, "b n"]
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n d"]]: ...


@dataclass(frozen=True)
class Guidance:
    """How strongly a sampler is guided; everything off by default. Belongs into every report."""

    gamma: float = 1.0
    """Self-guidance, 1 = none (ReWorld: 1.4)."""
    gamma_interval: tuple[float, float] = (0.0, 1.0)
    """Times at which self-guidance acts, both ends included (Internal Guidance: 0 to 1)."""
    cfg_scale: float = 1.0
    """Classifier-free guidance, 1 = none (DriveLaW: 3.5, MaskGWM: 4)."""
    cfg_interval: tuple[float, float] = (0.0, 1.0)
    """Times at which classifier-free guidance acts (Internal Guidance: 0 to 0.7)."""

    def __post_init__(self) -> None:
        _check_interval("gamma_interval", self.gamma_interval)
        _check_interval("cfg_interval", self.cfg_interval)

    def bind(
        self,
        conditional: IntermediateVelocityModel,
        unconditional: IntermediateVelocityModel | None = None,
    ) -> VelocityModel:
        """One velocity model: each half is self-guided first, then the halves are extrapolated.

        The order is that of Internal Guidance; ReWorld does not say.

        Args:
            unconditional: the same network without its prompt; not called where `cfg_scale` is 1.

        Raises:
            ValueError: `cfg_scale` is not 1 and there is no unconditional model.
        """
        strong = SelfGuided(conditional, self.gamma, self.gamma_interval)
        if self.cfg_scale == 1:
            return strong
        if unconditional is None:
            raise ValueError(
                f"Expected a model without prompt for cfg_scale {self.cfg_scale}, found none: "
                "train with dropped conditions and pass it, or set cfg_scale to 1."
            )
        weak = SelfGuided(unconditional, self.gamma, self.gamma_interval)
        return ClassifierFree(strong, weak, self.cfg_scale, self.cfg_interval)


class SelfGuided:
    """v_w = v_i + gamma (v_f - v_i): away from what a shallower layer says.

    Reference: ReWorld, Eq. 9.
    """

    def __init__(
        self,
        model: IntermediateVelocityModel,
        gamma: float | int,
        interval: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        _check_interval("interval", interval)
        self.model, self.gamma, self.interval = model, gamma, interval

    def __call__(
        self, z: Float[Tensor, "b n d"], t: Float[Tensor, "b n"]
    ) -> Float[Tensor, "b n d"]:
        intermediate, final = self.model(z, t)
        is_guided = _rows_within(t, self.interval) if self.gamma != 1 else None
        if is_guided is None or not is_guided.any():
            return final
        guided = extrapolate(intermediate, final, float(self.gamma))  # Eq. 9
        return torch.where(is_guided[:, None, None], guided, final)


class ClassifierFree:
    """Away from what the model says without its prompt, which is asked only where that counts."""

    def __init__(
        self,
        conditional: VelocityModel,
        unconditional: VelocityModel,
        scale: float | int,
        interval: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        _check_interval("interval", interval)
        self.conditional, self.unconditional = conditional, unconditional
        self.scale, self.interval = scale, interval

    def __call__(
        self, z: Float[Tensor, "b n d"], t: Float[Tensor, "b n"]
    ) -> Float[Tensor, "b n d"]:
        strong = self.conditional(z, t)
        is_guided = _rows_within(t, self.interval) if self.scale != 1 else None
        if is_guided is None or not is_guided.any():
            return strong
        guided = extrapolate(self.unconditional(z, t), strong, float(self.scale))
        return torch.where(is_guided[:, None, None], guided, strong)


def _rows_within(t: Float[Tensor, "b n"], interval: tuple[float, float]) -> Bool[Tensor, " b"]:
    """Samples whose noisiest token lies in the interval; the context, at 0, does not decide."""
    level = t.amax(dim=1)
    return (level >= interval[0]) & (level <= interval[1])


def _check_interval(name: str, interval: tuple[float, float]) -> None:
    if not 0 <= interval[0] <= interval[1] <= 1:
        raise ValueError(
            f"Expected {name} as (low, high) times with 0 <= low <= high <= 1, found {interval}."
        )
