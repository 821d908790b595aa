"""What trains a tokenizer's decoder: pixel, edge, perceptual and adversarial terms.

The commitment and codebook terms belong to the quantiser, which alone knows its codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from maskworld.objectives.adversarial import AdversarialLoss
from maskworld.objectives.perceptual import PerceptualLoss


def charbonnier(
    reconstruction: Float[Tensor, "n c h w"],
    frames: Float[Tensor, "n c h w"],
    epsilon: float = 1e-3,
) -> Float[Tensor, ""]:
    """Mean of sqrt(error^2 + epsilon^2) - epsilon: L1 that is smooth at zero.

    Reference: Charbonnier et al., Deterministic edge-preserving regularization (1997).
    """
    error = (reconstruction - frames).float()
    return (error.square() + epsilon**2).sqrt().mean() - epsilon


def edge_loss(
    reconstruction: Float[Tensor, "n c h w"], frames: Float[Tensor, "n c h w"]
) -> Float[Tensor, ""]:
    """Mean absolute error of the differences between neighbouring pixels, over both axes.

    Blocks and blur cost here what they hardly cost in L1. Blind to a constant shift.
    """
    error = (reconstruction - frames).float()
    return 0.5 * (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean())


@dataclass(frozen=True)
class TokenizerObjectiveConfig:
    """Weights of the terms; a term of weight 0 is not computed. Ours unless said."""

    l1: float = 0.5
    l2: float = 1.0
    edge: float = 0.5
    perceptual: float = 1.0
    """VQGAN: 1."""
    adversarial: float = 0.8
    """VQGAN: 0.8, times its adaptive weight."""


class TokenizerObjective(nn.Module):
    """Weighted terms of (reconstruction, frames), for a tokenizer's `reconstruction_loss`.

    Args:
        perceptual, adversarial: None leaves the term out.
    """

    def __init__(
        self,
        config: TokenizerObjectiveConfig | None = None,
        perceptual: PerceptualLoss | None = None,
        adversarial: AdversarialLoss | None = None,
    ) -> None:
        super().__init__()
        self.config = config or TokenizerObjectiveConfig()
        self.perceptual = perceptual
        self.adversarial = adversarial

    def forward(
        self, reconstruction: Float[Tensor, "n c h w"], frames: Float[Tensor, "n c h w"]
    ) -> dict[str, Float[Tensor, ""]]:
        """Terms whose sum trains the tokenizer and, if there is one, the discriminator."""
        weights = self.config
        terms: dict[str, Tensor] = {}
        if weights.l1:
            terms["l1"] = weights.l1 * charbonnier(reconstruction, frames)
        if weights.l2:
            terms["l2"] = weights.l2 * F.mse_loss(reconstruction.float(), frames.float())
        if weights.edge:
            terms["edge"] = weights.edge * edge_loss(reconstruction, frames)
        if self.perceptual is not None and weights.perceptual:
            terms["perceptual"] = weights.perceptual * self.perceptual(reconstruction, frames)
        if not terms:
            raise ValueError("Expected a term with weight above 0, found none: raise l1 or l2.")
        if self.adversarial is not None and weights.adversarial:
            likeness = torch.stack(list(terms.values())).sum()
            generator, discriminator = self.adversarial(reconstruction, frames, likeness)
            terms["adversarial"] = weights.adversarial * generator
            terms["discriminator"] = discriminator
        return terms

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The discriminator's parameters, to optimise next to the tokenizer's; often empty."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        return [{"params": parameters}] if parameters else []
