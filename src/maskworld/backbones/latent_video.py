"""One forward pass of a video network over a grid of latents, and what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class VideoPass:
    """What one forward pass of the video tower says."""

    velocity: Float[Tensor, "bv n c"] | None
    """v_f; None after an early exit."""
    intermediate: dict[int, Float[Tensor, "bv n c"]]
    """v^(l) of the supervised layers (ReWorld, Eq. 6)."""
    blocks: dict[int, Float[Tensor, "bv n d"]]


def run_latent_video(
    network: nn.Module,
    x: Float[Tensor, "bv n c"],
    t: Float[Tensor, "bv n"] | Float[Tensor, "bv k"],
    *,
    prior: Float[Tensor, "bv n o"] | None = None,
    heads: Mapping[str, nn.Module] | nn.ModuleDict | None = None,
    supervised: Sequence[int] = (),
    return_blocks: Sequence[int] = (),
    **conditions: Any,
) -> VideoPass:
    """Runs an `LTXDiT`; velocities of the output and of the heads of `supervised` layers.

    Args:
        prior: a velocity known beforehand, which all of them only add to.
        heads: by layer; each reads the states of its layer and the embedded time.
        conditions: the network's other arguments.
    """
    out = network(x, t, return_blocks=(*supervised, *return_blocks), **conditions)
    guesses: dict[int, Tensor] = {}
    if heads is not None:
        guesses = {i: heads[str(i)](out.blocks[i], out.time) for i in supervised}
    velocity = out.velocity
    if prior is not None:
        guesses = {layer: prior + guess for layer, guess in guesses.items()}
        velocity = None if velocity is None else prior + velocity
    return VideoPass(velocity, guesses, out.blocks)
