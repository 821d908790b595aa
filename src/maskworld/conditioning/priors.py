"""What a flow model is told before it has learnt anything: where its data lie on average.

With a mean and a variance of z_0 the best guess of the velocity is known in closed form
(`flow.linear_velocity`), and a network predicts what that guess misses. A prior's mean is anything
known beforehand: the last frame standing still, constant velocity, the average of the training
data. Its variance is measured and saved. All ours; ADR 0010.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from maskworld.flow import linear_velocity
from maskworld.nn.latent_window import side_by_side

MIN_VARIANCE = 1e-4
MIN_TIME = 1e-3
"""Times of context tokens, whose velocity is never used, are clamped to this."""


def standing_still(
    past: Float[Tensor, "n p d gh gw"], still: Float[Tensor, "n d gh gw"], num_latents: int
) -> Float[Tensor, "n k d gh gw"]:
    """The past as it is, then the latent of its last frame standing still."""
    rest = num_latents - past.shape[1]
    return torch.cat([past, repeat(still, "n d gh gw -> n k d gh gw", k=rest)], dim=1)


def constant_velocity(
    ego: Float[Tensor, "b e"], num_waypoints: int, interval: float
) -> Float[Tensor, "b l 3"]:
    """Waypoints of a car that goes on as now: vx, vy from `ego`, heading 0."""
    time = interval * torch.arange(1, num_waypoints + 1, device=ego.device)
    places = ego[:, None, :2] * time[:, None]
    return torch.cat([places, torch.zeros_like(places[..., :1])], dim=-1)


def measured_variance(
    miss: Float[Tensor, "*shape"], dims: tuple[int, ...]
) -> Float[Tensor, "*reduced"]:
    """Mean square of what a prior's mean misses, over the axes `dims`."""
    return miss.square().mean(dim=dims).clamp(min=MIN_VARIANCE)


class MeanPrior(nn.Module):
    """The average of the training data, number by number: of mask latents at every place, or of a
    chunk's steps.

    Args:
        num_tokens, dim: of a sample as tokens.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, num_tokens: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_tokens, dim))
        self.register_buffer("variance", torch.ones(num_tokens, dim))

    @torch.no_grad()
    def fit(self, samples: Float[Tensor, "m n d"]) -> None:
        """Measures mean and variance of each number over the samples."""
        self.mean.copy_(samples.mean(dim=0))
        self.variance.copy_(measured_variance(samples - self.mean, (0,)))

    def velocity(
        self, z: Float[Tensor, "b n d"], t: Float[Tensor, "b n"]
    ) -> Float[Tensor, "b n d"]:
        """E[v | z_t] of the average."""
        mean = self.mean.expand(len(z), -1, -1)
        return linear_velocity(z, t.clamp(min=MIN_TIME), mean, self.variance)

    def unit(self, t: Float[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """The standard deviation of the velocity where z_t and the average are known: what is left
        to learn, and the unit in which errors at all times and of all numbers count alike."""
        return self.variance.sqrt() / self._spread(t)

    def whitened(
        self, z: Float[Tensor, "b n d"], t: Float[Tensor, "b n"]
    ) -> Float[Tensor, "b n d"]:
        """z_t around what the average says of it, with unit variance."""
        return (z - (1 - t[..., None]) * self.mean) / self._spread(t)

    def _spread(self, t: Float[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        time = t[..., None]
        return ((1 - time).square() * self.variance + time.square()).sqrt()

    def velocity_of_views(
        self, z: Float[Tensor, "bv n d"], t: Float[Tensor, "bv n"], num_views: int
    ) -> Float[Tensor, "bv n d"]:
        """`velocity` for the last tokens of every view, which the prior is of; 0 before them."""
        given = z.shape[1] - len(self.mean) // num_views
        times = side_by_side(t[:, given:, None], num_views)[..., 0]
        velocity = self.velocity(side_by_side(z[:, given:], num_views), times)
        velocity = rearrange(velocity, "b (v n) d -> (b v) n d", v=num_views)
        return F.pad(velocity, (0, 0, given, 0))
