"""The flow-matching loss, of videos and of plans, at the output and at intermediate layers.

The paper writes squared norms; here, as in DriveLaW, it is the mean over channels too, so that
weights do not depend on a latent's width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def flow_matching_loss(
    v: Float[Tensor, "b n d"],
    target: Float[Tensor, "b n d"],
    context: Bool[Tensor, "b n"] | None = None,
    has_target: Bool[Tensor, " b"] | None = None,
    weight: Float[Tensor, " b"] | Float[Tensor, "b n"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of (v - target)^2 over channels and over all tokens that are to be predicted.

    Args:
        target: eps - z0; may be anything, NaN too, where it does not count.
        context: True = a given token, which does not count.
        has_target: False = a sample nobody has shown how to solve, such as a moment without an
            expert; it does not count. A batch of only those has a loss of 0, with a graph.
        weight: factor per sample or token, for example of t; not normalised.

    Reference: ReWorld, Eq. 2 (videos) and 4 (plans).

    Raises:
        ValueError: every token is context.
    """
    counts = torch.ones(v.shape[:2], dtype=torch.bool, device=v.device)
    if context is not None:
        counts = ~context
        if not bool(counts.any()):
            raise ValueError(
                f"Expected tokens to predict, found only context ({context.numel()} tokens): give "
                "fewer past frames or longer clips."
            )
    if has_target is not None:
        counts = counts & has_target[:, None]
    dtype = torch.promote_types(v.dtype, torch.float32)
    # Hidden before the square: a NaN there would come back through its gradient.
    error = (v.to(dtype) - target.to(dtype)).masked_fill(~counts[..., None], 0.0)
    per_token = error.square().mean(dim=-1)
    if weight is not None:
        per_token = per_token * (weight[:, None] if weight.ndim == 1 else weight)
    return per_token.sum() / counts.sum().clamp(min=1)


def intermediate_loss(
    velocities: Sequence[Float[Tensor, "b n d"]],
    target: Float[Tensor, "b n d"],
    context: Bool[Tensor, "b n"] | None = None,
    weight: Float[Tensor, " b"] | Float[Tensor, "b n"] | None = None,
) -> Float[Tensor, ""]:
    """Sum over the supervised layers of what their heads' velocities miss: the same target as the
    output's.

    Reference: ReWorld, Eq. 7; its weight is not in the paper (Internal Guidance: 0.5).

    Raises:
        ValueError: no velocities.
    """
    if not velocities:
        raise ValueError("Expected velocities of supervised layers, found none: name a layer.")
    losses = [flow_matching_loss(v, target, context, weight=weight) for v in velocities]
    return torch.stack(losses).sum()  # Eq. 7
