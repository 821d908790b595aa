"""w(s): how much each noise level counts in a flow-matching loss.

Mask World Model writes w(s) without saying it; GE-ACT's trainer, on which it builds, is set to
"none". The others are those of Stable Diffusion 3, section 3.1, as diffusers implements them.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

TimeWeight = Literal["none", "sigma_sqrt", "cosmap"]
MIN_TIME = 1e-2
"""sigma_sqrt grows without bound towards t = 0; clamped here. Ours."""


def time_weight(t: Float[Tensor, "b n"], kind: TimeWeight) -> Float[Tensor, "b n"]:
    """w(t): 1; t^-2; or 2 / (pi (1 - 2 t + 2 t^2))."""
    if kind == "none":
        return torch.ones_like(t)
    if kind == "sigma_sqrt":
        return t.clamp(min=MIN_TIME) ** -2
    if kind == "cosmap":
        return 2 / (math.pi * (1 - 2 * t + 2 * t.square()))
    raise ValueError(f"Expected a weight of none, sigma_sqrt or cosmap, found {kind!r}.")
