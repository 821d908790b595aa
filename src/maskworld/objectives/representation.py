"""The rivals of ReWorld's intermediate supervision, as options of a video network's training.

A `RepresentationObjective` holds what a method trains with and drops afterwards: a projector, and
for SRA and Self-Flow an averaged copy of the network, the teacher. It knows no network: the system
tells it how to run one. Losses: `self_alignment`.

Reference: ReWorld, Table 2.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from maskworld.objectives.self_alignment import (
    Distance,
    FeatureProjector,
    features_on_latents,
    repa_loss,
    self_flow_loss,
    self_flow_times,
    sra2_loss,
    sra_loss,
    sra_teacher_time,
)
from maskworld.objectives.teacher import follow

RepresentationKind = Literal["none", "sra", "sra2", "self_flow", "repa"]
Encoder = Callable[[UInt8[Tensor, "b t c h w"]], Float[Tensor, "b t eh ew d"]]
"""Frames of a clip to patch features: of every frame, or of every latent frame."""
RunTeacher = Callable[[nn.Module, int], Tensor]
"""A network and a block from 1: the block's states (b n d) at the teacher's times."""


@dataclass(frozen=True)
class RepresentationConfig:
    """Which method, and its numbers. The published value beside each field; [?] = not given."""

    kind: RepresentationKind = "none"
    layer: int = 8
    """Student's block, from 1: 8 of 28 in SRA and Self-Flow, 8 in REPA; SRA2's [?]."""
    teacher_layer: int = 20
    """Teacher's block, from 1: 20 of 28 in SRA and Self-Flow."""
    weight: float = 0.5
    """Of the loss: 0.5 in SRA and REPA, 0.8 in Self-Flow; SRA2's [?]."""
    distance: Distance = "smooth_l1"
    """Of SRA (smooth_l1, lately cosine) and SRA2 [?]; Self-Flow and REPA have the cosine."""
    ema_decay: float = 0.9999
    """Of the teacher, warmed up as (1 + n) / (10 + n)."""
    t_max: float = 0.2
    """SRA: by how much at most the teacher's time is earlier."""
    p_mask: float = 0.25
    """Self-Flow: share of tokens with the second time."""
    feature_dim: int = 768
    """REPA: width of the user's encoder (DINOv2-B: 768)."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(RepresentationKind):
            raise ValueError(
                f"Expected kind in {get_args(RepresentationKind)}, found {self.kind!r}."
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"Expected ema_decay in [0, 1), found {self.ema_decay}.")
        if self.kind == "sra" and self.distance == "mse":
            raise ValueError('Expected distance "smooth_l1" or "cosine" of SRA, found "mse".')

    @property
    def has_teacher(self) -> bool:
        return self.kind in ("sra", "self_flow")


class RepresentationObjective(nn.Module):
    """One method: which times, which states, which loss.

    Args:
        student: the network; the teacher starts as a copy of it, and again at its first use, so
            that weights loaded in between count.
        num_layers: of the network.
        dim: of its states.
        latent_dim: of a latent token.

    Raises:
        ValueError: layers that the network does not have.
    """

    num_updates: Tensor
    seen_norms: Tensor
    """Of the student's weights when the teacher last moved."""

    def __init__(
        self,
        config: RepresentationConfig,
        student: nn.Module,
        num_layers: int,
        dim: int,
        latent_dim: int,
    ) -> None:
        super().__init__()
        self.config = config
        self._encoder: tuple[Encoder, ...] = ()  # in a tuple: no submodule, not saved
        if config.kind == "none":
            return
        asked = (config.layer, *((config.teacher_layer,) if config.has_teacher else ()))
        if any(not 1 <= layer <= num_layers for layer in asked):
            raise ValueError(
                f"Expected layers from 1 to {num_layers} for {config.kind}, found {asked}."
            )
        if config.kind == "sra2":
            self.projector = FeatureProjector(dim, latent_dim)
        elif config.kind == "repa":
            self.projector = FeatureProjector(dim, config.feature_dim, num_layers=3)
        else:
            self.projector = FeatureProjector(dim, dim)
            self.teacher = copy.deepcopy(student).requires_grad_(False).eval()
            self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
            num_weights = len(list(student.parameters()))
            self.register_buffer("seen_norms", torch.full((num_weights,), -1.0))

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks of the student whose states `terms` reads."""
        return () if self.config.kind == "none" else (self.config.layer,)

    def use_encoder(self, encoder: Encoder) -> None:
        """REPA's frozen encoder, of uint8 frames `b t c h w`; it is neither trained nor saved."""
        self._encoder = (encoder,)

    def times(
        self,
        t: Float[Tensor, "b n"],
        draw: Callable[[], Float[Tensor, "b n"]],
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n"]]:
        """The student's times and the teacher's, which are cleaner.

        Args:
            t: as the system drew them.
            draw: draws times once more, for Self-Flow's second time.

        Raises:
            ValueError: Self-Flow where a sample already has several times.
        """
        if self.config.kind == "sra":
            return t, sra_teacher_time(t, generator, self.config.t_max)
        if self.config.kind == "self_flow":
            s = draw().to(t)
            if not bool((t == t[:, :1]).all()):
                raise ValueError(
                    "Expected one time per sample for Self-Flow, which mixes two: set the scope of "
                    'the video times to "sample".'
                )
            mixed, cleaner = self_flow_times(
                t[:, 0], s[:, 0], t.shape[1], generator, self.config.p_mask
            )
            return mixed, cleaner[:, None].expand_as(t)
        return t, t

    def terms(
        self,
        student: nn.Module,
        states: dict[int, Tensor],
        latents: Float[Tensor, "b n z"],
        context: Bool[Tensor, "b n"],
        run_teacher: RunTeacher,
        frames: UInt8[Tensor, "b t c h w"] | None,
        grid: tuple[int, int, int],
    ) -> dict[str, Float[Tensor, ""]]:
        """The method's weighted loss by its name; nothing for kind none.

        Args:
            student: the network itself, which the teacher follows.
            states: of the student's blocks.
            latents: clean tokens.
            context: True = a given token, which does not count.
            frames: what the latents are of; only REPA reads them.
            grid: latent frames, rows, columns.

        Raises:
            ValueError: REPA without an encoder or without frames.
        """
        config = self.config
        if config.kind == "none":
            return {}
        projected = self.projector(states[config.layer])
        if config.has_teacher:
            self._follow(student)
            with torch.no_grad():
                target = run_teacher(self.teacher, config.teacher_layer)
            if config.kind == "sra":
                assert config.distance != "mse"
                loss = sra_loss(projected, target, config.distance, context)
            else:
                loss = self_flow_loss(projected, target, context)
        elif config.kind == "sra2":
            loss = sra2_loss(projected, latents, config.distance, context)
        else:
            loss = repa_loss(projected, self._encode(frames, grid).to(projected), context)
        return {config.kind: config.weight * loss}

    def _follow(self, student: nn.Module) -> None:
        """Evaluation does not move the teacher."""
        if self.training:
            decay = self.config.ema_decay
            follow(self.teacher, student, self.seen_norms, self.num_updates, decay)

    @torch.no_grad()
    def _encode(
        self, frames: UInt8[Tensor, "b t c h w"] | None, grid: tuple[int, int, int]
    ) -> Float[Tensor, "b n d"]:
        if not self._encoder:
            raise ValueError(
                "Expected an encoder for REPA, found none: call representation.use_encoder(f) with "
                "f(frames) -> features (b t eh ew d) before training."
            )
        if frames is None:
            raise ValueError(
                "Expected frames in the batch for REPA, found latents alone: its encoder reads "
                "pixels. Train on clips whose frames are kept."
            )
        return features_on_latents(self._encoder[0](frames), grid)
