"""Keeps in a plan's tokens what they read from the video network (ReWorld, stage 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def alignment_loss(
    states: Mapping[int, Float[Tensor, "b l d"]],
    readouts: Mapping[int, Float[Tensor, "b l d"]],
    reduction: Literal["sum", "mean"] = "sum",
    keep: Bool[Tensor, " b"] | None = None,
) -> Float[Tensor, ""]:
    """1 - cos(a_i, sg(r_i)), over tokens i and layers k; mean over the batch.

    The readouts' gradient is stopped here: only the states learn. Width 512 on both sides in
    DriveLaW, so there is no projector.

    Args:
        states, readouts: by layer, as in `ActionOutput`. The paper aligns the 12th layer.
        reduction: over tokens and layers; the paper writes a sum (weight 0.05 at 8 tokens).
        keep: samples that count; a batch without any has a loss of 0, with a graph.

    Reference: ReWorld, Eq. 11.

    Raises:
        ValueError: no layer, or other layers or widths on the two sides.
    """
    if not states or set(states) != set(readouts):
        raise ValueError(
            f"Expected states and readouts of the same layers, found {sorted(states)} and "
            f"{sorted(readouts)}: ask the action network for readout_layers."
        )
    layers = []
    for layer, state in states.items():
        readout = readouts[layer].detach()  # sg
        if readout.shape != state.shape:
            raise ValueError(
                f"Expected readouts of shape {tuple(state.shape)} at layer {layer}, found "
                f"{tuple(readout.shape)}: a cosine needs one width."
            )
        dtype = torch.promote_types(state.dtype, torch.float32)
        layers.append(1 - F.cosine_similarity(state.to(dtype), readout.to(dtype), dim=-1))  # Eq. 11
    misses = torch.stack(layers, dim=1).flatten(1)  # b (k l)
    per_sample = misses.sum(dim=1) if reduction == "sum" else misses.mean(dim=1)
    if keep is None:
        return per_sample.mean()
    return per_sample.masked_fill(~keep, 0.0).sum() / keep.sum().clamp(min=1)
