"""Rotary positions over several axes, as in LTX-Video: one angle per pair of channels.

The rotation acts on the whole width, before heads are split, so that heads differ in frequency.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor


def grid_positions(
    num_frames: int,
    gh: int,
    gw: int,
    fps: float | int | Float[Tensor, " b"],
    temporal_stride: int = 8,
    stride: int = 32,
    is_causal: bool = True,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "b 3 n"]:
    """Seconds, rows and columns (in pixels) of latent tokens, frame by frame and row by row.

    Args:
        fps: pixel frames per second; a tensor where clips differ (else b = 1, which broadcasts).
        temporal_stride: pixel frames per latent frame (LTX-Video: 8).
        stride: pixels per token side (LTX-Video: 32).
        is_causal: the first latent holds one pixel frame, so that latent k > 0 starts at frame
            k * temporal_stride + 1 - temporal_stride. False: at k * temporal_stride.

    Raises:
        ValueError: a frame rate that is not positive.
    """
    rates = torch.as_tensor(fps, dtype=torch.float32, device=device).reshape(-1)
    if not bool((rates > 0).all()):
        raise ValueError(f"Expected fps > 0, found {rates.tolist()}: give frames per second.")
    frames = torch.arange(num_frames, device=device) * temporal_stride
    if is_causal:
        frames = (frames + 1 - temporal_stride).clamp(min=0)
    rows, columns = (torch.arange(size, device=device) * stride for size in (gh, gw))
    grid = torch.stack(torch.meshgrid(frames, rows, columns, indexing="ij")).flatten(1).float()
    positions = grid.expand(len(rates), -1, -1).clone()
    positions[:, 0] /= rates[:, None]
    return positions


def rotary_table(
    positions: Float[Tensor, "b a n"],
    dim: int,
    base: Sequence[float | int],
    theta: float | int = 10000,
) -> Complex[Tensor, "b n pairs"]:
    """exp(i angle) of each pair of `dim` channels, to be made once per forward pass.

    Every axis has dim // 2a frequencies from pi/2 to theta pi/2 in geometric steps; they multiply
    2 x / base - 1. The pairs alternate between the axes; pairs left over come first and stand
    still. Computed in the precision of `positions`, at least float32.

    Args:
        base: the position along each axis that counts as 1 (LTX-Video: 20 s, 2048, 2048 px).

    Reference: LTX-Video, section 2.2 (fractional positions, exponential spacing).
    """
    num_axes = positions.shape[1]
    if len(base) != num_axes or dim % 2:
        raise ValueError(
            f"Expected one base per axis and an even width, found {len(base)} for {num_axes} axes "
            f"and width {dim}: give a base for each axis."
        )
    positions = positions.to(torch.promote_types(positions.dtype, torch.float32))
    dtype, device = positions.dtype, positions.device
    exponents = torch.linspace(0, 1, dim // (2 * num_axes), dtype=dtype, device=device)
    frequencies = theta**exponents * (math.pi / 2)
    fractions = positions / torch.tensor(base, dtype=dtype, device=device)[:, None]
    angles = frequencies[:, None] * (fractions.mT.unsqueeze(2) * 2 - 1)  # b n frequency axis
    angles = angles.flatten(2)
    still = dim // 2 - angles.shape[-1]
    if still:
        angles = torch.nn.functional.pad(angles, (still, 0))
    return torch.polar(torch.ones_like(angles), angles)


def rotate(
    x: Float[Tensor, "b n d"], table: Complex[Tensor, "c n pairs"]
) -> Float[Tensor, "b n d"]:
    """Turns neighbouring channels of `x` by the angles of `table`, whose batch may be 1."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    turned = torch.view_as_complex(wide.unflatten(-1, (-1, 2))) * table
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)
