"""Guidance as one line: move from a weak prediction through a strong one and beyond.

WorldDreamer's classifier-free guidance (Eq. 6), the usual CFG and ReWorld's self-guidance are the
same extrapolation; a scale of 1 means no guidance.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


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
