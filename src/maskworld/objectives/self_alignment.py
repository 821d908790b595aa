"""Losses that shape a video network's features, for comparison with ReWorld's (its Table 2).

Each compares projected student features with a target that gets no gradient: deeper features of an
averaged copy (SRA, Self-Flow), the clean latents (SRA2), or an encoder's features (REPA). The
methods are told in the ReWorld paper by name only; what is here follows their published papers and
code as far as our notes give facts, and each docstring says what is ours.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

Distance = Literal["smooth_l1", "cosine", "mse"]


class FeatureProjector(nn.Module):
    """SiLU layers from a student's width to a target's; thrown away after training.

    Args:
        hidden_dim: None: twice `dim`, as in SRA and Self-Flow.
        num_layers: 2 in SRA and Self-Flow, 3 in REPA; SRA2's is unknown.
    """

    def __init__(
        self, dim: int, out_dim: int, hidden_dim: int | None = None, num_layers: int = 2
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"Expected at least one layer, found {num_layers}.")
        hidden = 2 * dim if hidden_dim is None else hidden_dim
        widths = [dim, *[hidden] * (num_layers - 1), out_dim]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.SiLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n e"]:
        return self.layers(x)


def feature_distance(
    prediction: Float[Tensor, "b n d"],
    target: Float[Tensor, "b m e"],
    kind: Distance,
    context: Bool[Tensor, "b n"] | None = None,
    beta: float | int = 0.05,
) -> Float[Tensor, ""]:
    """Mean over tokens of how far a prediction is from a target without gradient.

    Args:
        kind: cosine is 1 - cos; smooth_l1 and mse are means over channels.
        context: True = a given token, which is clean for student and teacher alike and does not
            count. Ours: the methods are told of images without context.
        beta: of smooth_l1, where it turns from a parabola into a line.

    Raises:
        ValueError: other widths, which a `FeatureProjector` mends, or only context.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"Expected features of shape {tuple(target.shape)}, found {tuple(prediction.shape)}: "
            "project the student's to the target's width, and resample the target's tokens."
        )
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    prediction, target = prediction.to(dtype), target.detach().to(dtype)
    if kind == "cosine":
        distance = 1 - F.cosine_similarity(prediction, target, dim=-1)
    elif kind == "smooth_l1":
        distance = F.smooth_l1_loss(prediction, target, beta=beta, reduction="none").mean(dim=-1)
    else:
        distance = (prediction - target).square().mean(dim=-1)
    if context is None:
        return distance.mean()
    count = context.numel() - int(context.sum())
    if not count:
        raise ValueError("Expected tokens outside the context, found only context.")
    return distance.masked_fill(context, 0.0).sum() / count


def sra_loss(
    projected: Float[Tensor, "b n d"],
    teacher: Float[Tensor, "b n d"],
    kind: Literal["smooth_l1", "cosine"] = "smooth_l1",
    context: Bool[Tensor, "b n"] | None = None,
) -> Float[Tensor, ""]:
    """Student features at t, projected, against an averaged copy's deeper ones at a smaller time.

    The teacher sees the same noise at `sra_teacher_time`. From the released code: layers 8 and 20
    of a 28-layer model, weight 0.5 at the start, smooth L1 with beta 0.05, lately a cosine.

    Reference: SRA (arXiv 2505.02831).
    """
    return feature_distance(projected, teacher, kind, context)


def sra_teacher_time(
    t: Float[Tensor, "*b_n"], generator: torch.Generator, t_max: float | int = 0.2
) -> Float[Tensor, "*b_n"]:
    """max(0, t - U(0, t_max)), one draw per sample: less noise than the student sees.

    `t_max` 0.2 is the released code's for its largest model.

    Reference: SRA (arXiv 2505.02831).
    """
    if not 0 <= t_max <= 1:
        raise ValueError(f"Expected t_max in [0, 1], found {t_max}: 0.2 is SRA's.")
    draw = torch.rand(len(t), generator=generator, device=generator.device).to(t) * t_max
    return (t - draw.reshape(-1, *(1,) * (t.ndim - 1))).clamp(min=0.0)


def sra2_loss(
    projected: Float[Tensor, "b n d"],
    z0: Float[Tensor, "b n d"],
    kind: Distance = "smooth_l1",
    context: Bool[Tensor, "b n"] | None = None,
) -> Float[Tensor, ""]:
    """Projected features of a block against the clean latents of the same clip.

    Needs no teacher. That the target is the VAE's feature and that the projector is small is
    known; layer, weight and distance are not: the distance is ours, SRA's.

    Reference: SRA2 (arXiv 2601.17830).
    """
    return feature_distance(projected, z0, kind, context)


def self_flow_times(
    t: Float[Tensor, " b"],
    s: Float[Tensor, " b"],
    num_tokens: int,
    generator: torch.Generator,
    p_mask: float | int = 0.25,
) -> tuple[Float[Tensor, "b n"], Float[Tensor, " b"]]:
    """Times of the student's tokens, and the teacher's one time for all of them.

    Each token has s with probability `p_mask`, else t; the teacher sees the cleaner of the two,
    with the same noise. Facts from a third-party re-implementation (mask 0.25, at most 0.5).

    Reference: Self-Flow (arXiv 2603.06507).
    """
    if not 0 <= p_mask <= 0.5:
        raise ValueError(f"Expected p_mask in [0, 0.5], found {p_mask}: 0.25 is usual.")
    draw = torch.rand(len(t), num_tokens, generator=generator, device=generator.device).to(t.device)
    return torch.where(draw < p_mask, s[:, None], t[:, None]), torch.minimum(t, s)


def self_flow_loss(
    projected: Float[Tensor, "b n d"],
    teacher: Float[Tensor, "b n d"],
    context: Bool[Tensor, "b n"] | None = None,
) -> Float[Tensor, ""]:
    """1 - cos of the student's projected features under mixed times and the teacher's deeper ones.

    From the re-implementation: weight 0.8, average with decay 0.9999; layers 8 and 20 of 28 by a
    secondary source.

    Reference: Self-Flow (arXiv 2603.06507).
    """
    return feature_distance(projected, teacher, "cosine", context)


def repa_loss(
    projected: Float[Tensor, "b n d"],
    features: Float[Tensor, "b n d"],
    context: Bool[Tensor, "b n"] | None = None,
) -> Float[Tensor, ""]:
    """Minus the cosine of projected features and a frozen encoder's, which the user supplies.

    From the released code: layer 8, weight 0.5, three SiLU layers. See `features_on_latents`.

    Reference: REPA (arXiv 2410.06940).
    """
    return feature_distance(projected, features, "cosine", context) - 1


def features_on_latents(
    features: Float[Tensor, "b t eh ew d"], grid: tuple[int, int, int]
) -> Float[Tensor, "b n d"]:
    """An encoder's patch features of every frame, as tokens of a causal video tokenizer's grid.

    Frames are averaged as they are compressed: the first is alone, then equal groups. Patches are
    averaged or interpolated to rows and columns. The rule is ours: REPA is told of images.

    Args:
        grid: latent frames, rows, columns. As many feature frames as latent frames are taken as
            they are.

    Raises:
        ValueError: frames that do not group.
    """
    frames, rows, columns = grid
    b, t = features.shape[:2]
    if t != frames:
        if frames < 2 or (t - 1) % (frames - 1):
            raise ValueError(
                f"Expected {frames} feature frames or k * {frames - 1} + 1 for {frames} latent "
                f"frames, found {t}: encode the frames that the tokenizer encoded."
            )
        later = features[:, 1:].unflatten(1, (frames - 1, -1)).mean(dim=2)
        features = torch.cat([features[:, :1], later], dim=1)
    images = rearrange(features, "b t h w d -> (b t) d h w")
    images = F.interpolate(
        images, size=(rows, columns), mode="bilinear", antialias=True, align_corners=False
    )
    return rearrange(images, "(b t) d h w -> b (t h w) d", b=b)
