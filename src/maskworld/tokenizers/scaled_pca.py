"""Principal components by subspace iteration, with a scale per channel."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ScaledPCA(nn.Module):
    """The leading principal components of vectors, each divided by a power of its deviation."""

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, dim: int, num_components: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("basis", torch.zeros(dim, num_components))
        self.register_buffer("scale", torch.ones(num_components))

    def fit(
        self, vectors: Float[Tensor, "n d"], generator: torch.Generator, variance_power: float
    ) -> None:
        mean = vectors.mean(0)
        basis, std = principal_components(vectors - mean, self.basis.shape[1], generator)
        if not std[0] > 1e-4:  # a tenth of the step between two uint8 values, in a whole patch
            raise ValueError(
                "Expected patches that differ, found the same patch everywhere: give other frames."
            )
        std = std.clamp(min=1e-3 * std[0])  # axes without data would only amplify rounding
        overall = std.pow(2 - 2 * variance_power).mean().sqrt()
        self.mean.copy_(mean)
        self.basis.copy_(basis)
        self.scale.copy_(std.pow(variance_power) * overall)

    def project(self, vectors: Float[Tensor, "*n d"]) -> Float[Tensor, "*n k"]:
        with torch.autocast(vectors.device.type, enabled=False):  # the same latents under it
            return (vectors.to(self.mean.dtype) - self.mean) @ self.basis / self.scale

    def invert(self, latents: Float[Tensor, "*n k"]) -> Float[Tensor, "*n d"]:
        with torch.autocast(latents.device.type, enabled=False):
            return self.mean + (latents.to(self.mean.dtype) * self.scale) @ self.basis.T


@torch.no_grad()
def principal_components(
    centred: Float[Tensor, "n d"],
    num_components: int,
    generator: torch.Generator,
    num_iterations: int = 4,
) -> tuple[Float[Tensor, "d k"], Float[Tensor, " k"]]:
    """(orthonormal axes, standard deviations along them), largest first, by subspace iteration.

    Reference: Halko, Martinsson & Tropp, Finding structure with randomness (2011), Alg. 4.4.
    """
    num, dim = centred.shape
    width = min(num_components + 32, dim)  # oversampling: the last axes converge too
    start = torch.randn(dim, width, generator=generator, device=generator.device)
    axes = start.to(centred)
    for _ in range(num_iterations):
        axes = torch.linalg.qr(centred.T @ (centred @ axes)).Q
    reduced = (centred @ axes).double()
    variances, rotation = torch.linalg.eigh(reduced.T @ reduced / num)
    basis = (axes.double() @ rotation.flip(1))[:, :num_components]
    signs = torch.where(basis.sum(0) < 0, -1.0, 1.0)  # so that no seed decides on signs
    std = variances.flip(0)[:num_components].clamp(min=0).sqrt()
    return (basis * signs).to(centred.dtype), std.to(centred.dtype)
