"""Denoising score matching, as Mask World Model writes its action loss.

u~ = u + sigma eps, and L = E[lambda(sigma) || phi(u~, sigma) + eps / sigma ||^2]. Neither lambda
nor the range of sigma is given. Here lambda = sigma^2, the usual choice, under which every noise
level counts alike, and sigma is drawn log-uniformly.

The same line as rectified flow, stretched: z = u~ / (1 + sigma) lies at t = sigma / (1 + sigma).
So a network sees z and t, which are bounded, its output F says phi = -F / sigma, and the sampler of
rectified flow can walk along the velocity that follows from it.

Reference: Mask World Model, section 3 (action loss); its code has flow matching instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from maskworld.flow import over_channels
from maskworld.objectives.flow_matching import flow_matching_loss


@dataclass(frozen=True)
class ScoreMatching:
    """The noise levels. Ours: the paper gives none."""

    sigma_min: float = 0.01
    sigma_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"Expected 0 < sigma_min < sigma_max, found {self.sigma_min} and {self.sigma_max}."
            )

    def sample(self, batch_size: int, generator: torch.Generator) -> Float[Tensor, " b"]:
        """Noise levels, uniform in their logarithm."""
        u = torch.rand(batch_size, generator=generator, device=generator.device)
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return torch.exp(low + (high - low) * u)

    @property
    def t_max(self) -> float:
        """The time of sigma_max, where sampling starts."""
        return self.sigma_max / (1 + self.sigma_max)


def sigma_of(t: Float[Tensor, "*lead"]) -> Float[Tensor, "*lead"]:
    """sigma = t / (1 - t), the inverse of t = sigma / (1 + sigma)."""
    return t / (1 - t)


def time_of(sigma: Float[Tensor, "*lead"]) -> Float[Tensor, "*lead"]:
    """t = sigma / (1 + sigma)."""
    return sigma / (1 + sigma)


def score_matching_loss(
    output: Float[Tensor, "b n d"],
    eps: Float[Tensor, "b n d"],
    sigma: Float[Tensor, " b"],
    context: Bool[Tensor, "b n"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of lambda(sigma) (phi + eps / sigma)^2 with phi = -output / sigma, lambda = sigma^2."""
    score = -output / over_channels(sigma, output)
    target = -eps / over_channels(sigma, eps)
    return flow_matching_loss(score, target, context, weight=sigma.square())


def score_velocity(
    z: Float[Tensor, "b n d"], t: Float[Tensor, "b n"], output: Float[Tensor, "b n d"]
) -> Float[Tensor, "b n d"]:
    """The velocity of rectified flow that a score's network means: its noise minus its data."""
    time = over_channels(t, z)
    clean = (z - time * output) / (1 - time)
    return output - clean
