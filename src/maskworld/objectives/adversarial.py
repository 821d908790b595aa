"""A patch discriminator and its hinge losses, arranged so that one optimizer step trains both.

The generator term sees the discriminator's parameters detached and the discriminator term sees the
reconstruction detached: their sum gives each network its own gradient only.

Reference: Isola et al., arXiv 1611.07004 (PatchGAN); Esser et al., arXiv 2012.09841, Eq. 6-7.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call


def hinge_discriminator_loss(
    real: Float[Tensor, "*n"], fake: Float[Tensor, "*n"]
) -> Float[Tensor, ""]:
    """mean(max(0, 1 - real) + max(0, 1 + fake)) / 2 over logits; 1 for a clueless discriminator."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def hinge_generator_loss(fake: Float[Tensor, "*n"]) -> Float[Tensor, ""]:
    """-mean(fake logits)."""
    return -fake.mean()


def adaptive_weight(
    likeness: Float[Tensor, ""],
    generator_loss: Float[Tensor, ""],
    reconstruction: Float[Tensor, "n c h w"],
    maximum: float = 1e4,
) -> Float[Tensor, ""]:
    """|d likeness| / |d generator_loss|, detached, so that both pull with equal force (Eq. 7).

    The paper takes the gradients at the decoder's last layer; we take them at the reconstruction,
    which needs no knowledge of the network.
    """
    (likeness_grad,) = torch.autograd.grad(likeness, reconstruction, retain_graph=True)
    (generator_grad,) = torch.autograd.grad(generator_loss, reconstruction, retain_graph=True)
    ratio = likeness_grad.norm() / (generator_grad.norm() + 1e-6)
    return ratio.clamp(max=maximum).detach()


@dataclass(frozen=True)
class AdversarialConfig:
    channels: int = 3
    width: int = 64
    """Channels of the first layer, doubled per layer up to 8 times. PatchGAN: 64."""
    num_layers: int = 3
    """Layers of stride 2. PatchGAN: 3, a receptive field of 70 pixels."""
    start_step: int = 0
    """Training steps before the discriminator takes part (VQGAN: about 10,000)."""


class AdversarialLoss(nn.Module):
    """Owns the discriminator. Counts training steps in a buffer, for `start_step`."""

    num_steps: Tensor

    def __init__(self, config: AdversarialConfig | None = None) -> None:
        super().__init__()
        self.config = config or AdversarialConfig()
        self.discriminator = PatchDiscriminator(self.config)
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.long))

    def forward(
        self,
        reconstruction: Float[Tensor, "n c h w"],
        frames: Float[Tensor, "n c h w"],
        likeness: Float[Tensor, ""],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """(generator term times its adaptive weight, discriminator term).

        Args:
            likeness: the other terms of the reconstruction, for the adaptive weight. Where nothing
                needs a gradient (evaluation) that weight is 1.
        """
        is_active = bool(self.num_steps >= self.config.start_step)
        if self.training:
            self.num_steps += 1
        detached = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        generator = hinge_generator_loss(
            functional_call(self.discriminator, detached, (reconstruction,))
        )
        discriminator = hinge_discriminator_loss(
            self.discriminator(frames), self.discriminator(reconstruction.detach())
        )
        if not is_active:
            return 0.0 * generator, 0.0 * discriminator
        if reconstruction.requires_grad and torch.is_grad_enabled():
            generator = generator * adaptive_weight(likeness, generator, reconstruction)
        return generator, discriminator


class PatchDiscriminator(nn.Module):
    """One logit per patch of the frame: high for real. GroupNorm instead of batch statistics."""

    def __init__(self, config: AdversarialConfig) -> None:
        super().__init__()
        width = config.width
        layers: list[nn.Module] = [
            nn.Conv2d(config.channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        ]
        for index in range(1, config.num_layers + 1):
            stride = 2 if index < config.num_layers else 1
            wider = min(config.width * 2**index, config.width * 8)
            layers += [
                nn.Conv2d(width, wider, 4, stride=stride, padding=1),
                nn.GroupNorm(8 if wider % 8 == 0 else 1, wider),
                nn.LeakyReLU(0.2),
            ]
            width = wider
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, padding=1))

    def forward(self, frames: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 gh gw"]:
        return self.layers(frames)
