"""WorldDreamer's loss: cross-entropy on hidden tokens."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def masked_cross_entropy(
    logits: Float[Tensor, "m k"], targets: Int[Tensor, " m"], label_smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Mean of -log p over the m hidden tokens, in nats.

    Visible tokens never reach this function: the head is computed on hidden positions only.

    Reference: WorldDreamer, Eq. 2 and 5.
    """
    return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)
