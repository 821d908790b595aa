"""A teacher that follows its student: averaged weights inside an objective."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@torch.no_grad()
def follow(
    teacher: nn.Module,
    student: nn.Module,
    seen_norms: Float[Tensor, " p"],
    num_updates: Int[Tensor, ""],
    ema_decay: float,
) -> None:
    """Moves the teacher towards the student: once after every step of its optimizer.

    A step is known by the weights' norms (fused optimizers leave no other trace), which the caller
    saves: accumulated batches do not move the teacher, and a resumed run does as the uninterrupted
    one. At first use the teacher becomes a copy, so that weights loaded after it was made count.

    Args:
        seen_norms: of the student's weights when the teacher last moved; -1 at first; changed.
        num_updates: how often it moved; changed.
        ema_decay: warmed up as (1 + n) / (10 + n).
    """
    weights = [weight.detach() for weight in student.parameters()]
    norms = torch.stack(torch._foreach_norm(weights)).to(seen_norms)
    if torch.equal(norms, seen_norms):
        return
    seen_norms.copy_(norms)
    count = int(num_updates)
    decay = min(ema_decay, (1 + count) / (10 + count)) if count else 0.0
    averages: list[Tensor] = list(teacher.parameters())
    torch._foreach_lerp_(averages, weights, 1 - decay)
    for own, buffer in zip(teacher.buffers(), student.buffers(), strict=True):
        own.copy_(buffer)
    num_updates += 1
