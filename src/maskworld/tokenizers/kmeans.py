"""k-means and nearest-code search."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def nearest_codes(
    latents: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"], chunk: int = 16_384
) -> Int[Tensor, " n"]:
    """Index of the nearest code in squared distance; ties go to the lowest index.

    Runs in float32, also under autocast: bfloat16 would pick other codes.
    """
    codebook = codebook.float()
    half_norms = 0.5 * codebook.square().sum(1)
    # argmin |z - e|^2 = argmin |e|^2 / 2 - z.e: one matmul per chunk
    with torch.autocast(latents.device.type, enabled=False):
        return torch.cat(
            [
                torch.addmm(half_norms, part.float(), codebook.T, alpha=-1).argmin(1)
                for part in latents.split(chunk)
            ]
        )


@torch.no_grad()
def kmeans(
    points: Float[Tensor, "n d"],
    num_codes: int,
    generator: torch.Generator,
    num_iterations: int = 20,
) -> tuple[Float[Tensor, "k d"], Int[Tensor, " n"]]:
    """Lloyd's algorithm from a k-means++ start. Returns codes and the assignment they are means of.

    Codes that lose all their points are moved to random points, far ones more often.

    Raises:
        ValueError: fewer points than codes.

    Reference: Arthur & Vassilvitskii, k-means++ (2007).
    """
    if len(points) < num_codes:
        raise ValueError(
            f"Expected at least {num_codes} points (one per code), found {len(points)}: "
            "give more data or fewer codes."
        )
    points = points.float()
    codes = _plus_plus(points, num_codes, generator)
    assignment = nearest_codes(points, codes)
    for iteration in range(num_iterations):
        counts = torch.bincount(assignment, minlength=num_codes)
        sums = torch.zeros_like(codes).index_add_(0, assignment, points)
        codes = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], codes)
        if iteration == num_iterations - 1:
            break
        dead = (counts == 0).nonzero().flatten()
        if len(dead):
            errors = (points - codes[assignment]).square().sum(1)
            codes[dead] = points[draw_by_weight(errors, len(dead), generator)]
        assignment = nearest_codes(points, codes)
    return codes, assignment


def _plus_plus(points: Tensor, num_codes: int, generator: torch.Generator) -> Tensor:
    """Each next code is a point drawn with probability proportional to its squared distance."""
    codes = points.new_empty(num_codes, points.shape[1])
    norms = points.square().sum(1)
    nearest = torch.ones_like(norms)
    for i in range(num_codes):
        codes[i] = points[draw_by_weight(nearest, 1, generator)[0]]
        distance = (norms - 2 * points @ codes[i] + codes[i].square().sum()).clamp_(min=0)
        nearest = distance if i == 0 else torch.minimum(nearest, distance)
    return codes


def draw_by_weight(weights: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """`num` indices with probability proportional to `weights`; uniform where all are zero."""
    weights = weights.to(generator.device)
    cumulative = weights.double().cumsum(0)
    if cumulative[-1] <= 0:
        cumulative = torch.ones_like(weights, dtype=torch.float64).cumsum(0)
    uniform = torch.rand(num, generator=generator, device=generator.device, dtype=torch.float64)
    indices = torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)
    return indices.clamp_(max=len(weights) - 1).to(weights.device)
