"""Self-supervised discrimination: MaskGWM's rival for mask tokens ("z_tau + contrastive").

A student's encoder sees the visible tokens of noisy latents, a teacher's, an averaged copy, all
tokens of nearly clean ones on the same line of noise. Both say to which of some prototypes each
token belongs, and the student is to agree. The empty places of the student's decoder hold the
noisy latents themselves. MaskGWM gives no number of its rival; the defaults are DINO's, from which
SD-DiT takes its loss.

Reference: MaskGWM, Table 4; SD-DiT (Zhu et al. 2024, arXiv 2403.17004); DINO (Caron et al. 2021).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from maskworld.objectives.teacher import follow


@dataclass(frozen=True)
class ContrastConfig:
    """Numbers of the rival. [?] = in no source that we have."""

    weight: float = 1.0
    """Of the term beside Eq. 1 [?]."""
    num_prototypes: int = 8192
    """[?]; DINO has 65,536 for images."""
    hidden_dim: int = 2048
    """Of the projection (DINO)."""
    bottleneck_dim: int = 256
    """Before the prototypes (DINO)."""
    student_temperature: float = 0.1
    """DINO."""
    teacher_temperature: float = 0.04
    """DINO, without its warm-up."""
    centre_momentum: float = 0.9
    """DINO."""
    ema_decay: float = 0.996
    """Of the teacher (DINO's start), warmed up as (1 + n) / (10 + n)."""
    teacher_time: float = 0.0
    """t of the teacher's latents: SD-DiT's teacher has the least noise."""

    def __post_init__(self) -> None:
        if min(self.student_temperature, self.teacher_temperature) <= 0:
            raise ValueError(
                f"Expected temperatures > 0, found {self.student_temperature} and "
                f"{self.teacher_temperature}."
            )
        shares = (self.centre_momentum, self.ema_decay, self.teacher_time)
        if not all(0 <= share < 1 for share in shares):
            raise ValueError(
                "Expected centre_momentum, ema_decay and teacher_time in [0, 1), found "
                f"{', '.join(map(str, shares))}."
            )


class Prototypes(nn.Module):
    """Tokens to scores of prototypes: three layers to a narrow unit vector, then cosines."""

    def __init__(self, dim: int, config: ContrastConfig) -> None:
        super().__init__()
        wide, narrow = config.hidden_dim, config.bottleneck_dim
        self.layers = nn.Sequential(
            nn.Linear(dim, wide),
            nn.GELU(),
            nn.Linear(wide, wide),
            nn.GELU(),
            nn.Linear(wide, narrow),
        )
        self.prototypes = nn.Parameter(torch.randn(config.num_prototypes, narrow))

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n k"]:
        return F.linear(F.normalize(self.layers(x), dim=-1), F.normalize(self.prototypes, dim=-1))


class ContrastObjective(nn.Module):
    """The rival's teacher, projection and term.

    Args:
        student: the network; the teacher becomes a copy at its first use.
    """

    num_updates: Tensor
    seen_norms: Tensor
    centre: Tensor

    def __init__(self, config: ContrastConfig, student: nn.Module, dim: int) -> None:
        super().__init__()
        self.config = config
        self.head = Prototypes(dim, config)
        both = nn.ModuleList([student, self.head])
        self.teacher = copy.deepcopy(both).requires_grad_(False).eval()
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seen_norms", torch.full((len(list(both.parameters())),), -1.0))
        self.register_buffer("centre", torch.zeros(config.num_prototypes))

    def forward(
        self,
        student: nn.Module,
        states: Float[Tensor, "b t v k d"],
        teach: Callable[[nn.Module], Float[Tensor, "b t v k d"]],
        given: Bool[Tensor, "b t"],
    ) -> Float[Tensor, ""]:
        """The weighted term.

        Args:
            student: the network itself, which the teacher follows.
            states: of the student's encoder, of visible tokens.
            teach: from the teacher's network to its encoder's states of the same tokens.
            given: frames that both see clean; they do not count.
        """
        config = self.config
        if self.training:
            both = nn.ModuleList([student, self.head])
            follow(self.teacher, both, self.seen_norms, self.num_updates, config.ema_decay)
        network, head = self.teacher
        with torch.no_grad():
            scores = head(teach(network)[~given])
        loss = discrimination_loss(
            self.head(states[~given]),
            scores,
            self.centre,
            config.student_temperature,
            config.teacher_temperature,
        )
        if self.training:
            mean = scores.flatten(0, -2).mean(dim=0)
            self.centre.lerp_(mean.to(self.centre), 1 - config.centre_momentum)
        return config.weight * loss


def discrimination_loss(
    student: Float[Tensor, "*n k"],
    teacher: Float[Tensor, "*n k"],
    centre: Float[Tensor, " k"],
    student_temperature: float,
    teacher_temperature: float,
) -> Float[Tensor, ""]:
    """Mean cross-entropy of the student's prototypes with the teacher's, which are centred, so
    that no prototype takes all, and sharpened.

    Reference: DINO, Eq. 1 and 4.
    """
    target = ((teacher.float() - centre.float()) / teacher_temperature).softmax(dim=-1)
    said = (student.float() / student_temperature).log_softmax(dim=-1)
    return -(target * said).sum(dim=-1).mean()
