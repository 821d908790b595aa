"""KVD and KID: the squared maximum mean discrepancy of two sets of features, without bias.

    MMD^2 = mean of k(x, x') + mean of k(y, y') - 2 mean of k(x, y),   k(x, y) = (x . y / d + 1)^3

over pairs of different vectors. Needs no more samples than dimensions and no matrix root, and its
expectation is 0 for sets of one distribution, whatever their size; so it may fall below 0.

Reference: Bińkowski et al. 2018, Demystifying MMD GANs, section 4; Unterthiner et al. 2018 (KVD).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class KernelDistance:
    """An estimate and its percentile-bootstrap interval."""

    value: float
    interval: tuple[float, float]


def polynomial_kernel(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], degree: int = 3, offset: float | int = 1.0
) -> Float[Tensor, "n m"]:
    """(x . y / d + offset)^degree."""
    return (x @ y.T / x.shape[1] + offset) ** degree


def kernel_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """The unbiased MMD^2 of all pairs, in blocks of rows.

    Raises:
        ValueError: fewer than two vectors, NaN or infinity.
    """
    ones = [np.ones((1, len(z))) for z in (x, y)]
    return float(_weighted(x, y, ones[0], ones[1])[0])


def kernel_distance_interval(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    generator: np.random.Generator,
    units: tuple[Sequence[str], Sequence[str]] | None = None,
    *,
    num_resamples: int = 200,
    confidence: float = 0.95,
) -> KernelDistance:
    """`kernel_distance` and its bootstrap over clips.

    A vector drawn twice is never paired with itself: such pairs would raise every resample.

    Args:
        units: the clip or recording of every vector of both sets; vectors of one unit are drawn
            together, also across the sets. By default every vector stands alone.

    Raises:
        ValueError: as `kernel_distance`.
    """
    names = units or ([f"x{i}" for i in range(len(x))], [f"y{i}" for i in range(len(y))])
    if units is None:  # independent sets keep their sizes
        drawn = [
            generator.multinomial(len(z), np.full(len(z), 1 / len(z)), num_resamples)
            for z in (x, y)
        ]
    else:
        every = sorted({*names[0], *names[1]})
        place = {name: i for i, name in enumerate(every)}
        counts = generator.multinomial(
            len(every), np.full(len(every), 1 / len(every)), num_resamples
        )
        drawn = [counts[:, [place[name] for name in side]] for side in names]
    # The first row is the estimate itself.
    weights = [np.concatenate([np.ones((1, c.shape[1])), c]).astype(float) for c in drawn]
    values = _weighted(x, y, weights[0], weights[1])
    resampled = values[1:][np.isfinite(values[1:])]
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled - resampled.mean(), [tail, 1 - tail])
    return KernelDistance(float(values[0]), (float(values[0] + low), float(values[0] + high)))


def _weighted(
    x: Tensor, y: Tensor, of_x: Float[np.ndarray, "r n"], of_y: Float[np.ndarray, "r m"]
) -> Float[np.ndarray, " r"]:
    """MMD^2 for every row of weights; a vector is no pair with itself."""
    if min(len(x), len(y)) < 2:
        raise ValueError(
            f"Expected two sets of at least 2 vectors, found {len(x)} and {len(y)}: give more "
            "clips."
        )
    for z in (x, y):
        if not bool(torch.isfinite(z).all()):
            raise ValueError("Expected finite features, found NaN or infinity: check the clips.")
    pairs = ((x, x, of_x, of_x), (y, y, of_y, of_y), (x, y, of_x, of_y))
    means = []
    for one, other, first, second in pairs:
        total = np.zeros(len(first))
        number = first.sum(axis=1) * second.sum(axis=1)
        columns = other.to("cpu", torch.float64)
        transposed = torch.from_numpy(second.T.copy())
        for start in range(0, len(one), ROWS_AT_ONCE):
            rows = one[start : start + ROWS_AT_ONCE].to("cpu", torch.float64)
            kernel = polynomial_kernel(rows, columns)
            part = first[:, start : start + ROWS_AT_ONCE]
            if one is other:
                own = kernel.diagonal(offset=start).clone().numpy()
                total -= (part**2) @ own
                number -= (part**2).sum(axis=1)
            total += ((kernel @ transposed).numpy() * part.T).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append(total / number)
    result: np.ndarray = means[0] + means[1] - 2 * means[2]
    return result
