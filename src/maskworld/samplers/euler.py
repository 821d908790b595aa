"""Euler steps along a velocity field, from noise to data, around a context that does not move.

The sampler knows nothing of guidance, prompts or networks: it gets one function from (z, t) to a
velocity (`interfaces.VelocityModel`) and a list of times (`flow.SigmaSchedule`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from maskworld.flow import check_sigmas, clean_estimate
from maskworld.interfaces import VelocityModel


@dataclass(frozen=True)
class EulerStep:
    """What a callback sees after the model was asked and before the tokens move."""

    index: int
    """0-based; the feature bank of ReWorld belongs to step 0."""
    z: Float[Tensor, "b n d"]
    t: Float[Tensor, "b n"]
    velocity: Float[Tensor, "b n d"]

    def clean_estimate(self) -> Float[Tensor, "b n d"]:
        """What the model believes the data to be."""
        return clean_estimate(self.z, self.velocity, self.t)


def euler(
    model: VelocityModel,
    z1: Float[Tensor, "b n d"],
    sigmas: Sequence[float | int],
    context_mask: Bool[Tensor, "b n"] | None = None,
    start_times: Float[Tensor, "b n"] | None = None,
    callback: Callable[[EulerStep], None] | None = None,
) -> Float[Tensor, "b n d"]:
    """Data from noise: z <- z + (t_next - t) v(z, t) at every time of `sigmas`.

    A single step from t = 1 gives the model's posterior mean.

    Args:
        z1: noise where something is to be predicted, clean tokens where `context_mask` is True.
        sigmas: strictly decreasing, at most 1, ending with 0.
        context_mask: True = given: has t = 0 at every step and does not change, bit for bit.
        start_times: in [0, 1], the noise a token already has; it waits until the list gets there
            (0 is context). None: `z1` is as noisy as the first time of the list.
        callback: called once per step, in order, after the model. A caller who wants the feature
            bank of the first step keeps it in its model's first call, or asks for it at index 0.

    Reference: ReWorld, section 3.1.
    """
    times = check_sigmas(sigmas)
    dtype = torch.promote_types(z1.dtype, torch.float32)
    limit = torch.ones(z1.shape[:2], dtype=dtype, device=z1.device)
    if start_times is not None:
        limit = start_times.to(limit)
    if context_mask is not None:
        limit = limit.masked_fill(context_mask, 0.0)
    z, t = z1, limit.clamp(max=times[0])
    for index, sigma in enumerate(times[1:]):
        velocity = model(z, t)
        if callback is not None:
            callback(EulerStep(index=index, z=z, t=t, velocity=velocity))
        t_next = limit.clamp(max=sigma)
        z, t = euler_step(z, velocity, t, t_next), t_next
    return z


def euler_step(
    z: Float[Tensor, "b n d"],
    velocity: Float[Tensor, "b n d"],
    t: Float[Tensor, "b n"],
    t_next: Float[Tensor, "b n"],
) -> Float[Tensor, "b n d"]:
    """z + (t_next - t) v; tokens whose time stands still stay as they are, whatever their v."""
    step = (t_next - t)[..., None]
    return torch.where(step == 0, z, (z + step * velocity).to(z.dtype))
