"""Fréchet distance of two sets of features: statistics that stream and merge, and what they say.

    FD = |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))

in float64, with covariances over n - 1. Raw moments (E[x x^T] - m m^T) lose everything where the
mean is large, so mean and centred scatter are kept and merged. Knows no network: what the features
are is told by `protocol`, and sets of different protocols are not compared.

Reference: Chan, Golub and LeVeque 1979 (merging); Dowson and Landau 1982 (distance).
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

TOLERANCE = 1e-6
"""A distance below minus this share of the traces is a fault, not rounding. Ours."""
ROWS_AT_ONCE = 8192
FULL_RANK = 1e-9
"""Cholesky pivots above this share of the largest variance hold more than rounding. Ours."""


class FrechetStatistics:
    """Number, mean and centred scatter of feature vectors, updated batch by batch.

    Any order and any split gives the same up to float64 rounding. With several processes, each
    takes every world-size-th clip (no padding: duplicates bias the count), and all are merged in
    the order of their ranks.

    Args:
        dim: of a feature vector.
        protocol: what a vector is of (network, frames, size); only equal ones merge or compare.
    """

    def __init__(self, dim: int, protocol: str = "") -> None:
        if dim < 1:
            raise ValueError(f"Expected features of at least one dimension, found {dim}.")
        self.dim, self.protocol = dim, protocol
        self.num_samples = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64)

    def __len__(self) -> int:
        return self.num_samples

    @classmethod
    def of(cls, features: Float[Tensor, "n d"], protocol: str = "") -> FrechetStatistics:
        """The statistics of one set."""
        statistics = cls(features.shape[1], protocol)
        for rows in features.split(ROWS_AT_ONCE):  # float64 copies of more would fill the memory
            statistics.update(rows)
        return statistics

    @torch.no_grad()
    def update(self, features: Float[Tensor, "n d"]) -> None:
        """Adds feature vectors; none at all is fine.

        Raises:
            ValueError: another dimension, NaN or infinity.
        """
        if features.shape[1] != self.dim:
            raise ValueError(
                f"Expected features of {self.dim} dimensions, found {features.shape[1]}."
            )
        x = features.detach().to("cpu", torch.float64)
        if not bool(torch.isfinite(x).all()):
            raise ValueError("Expected finite features, found NaN or infinity: check the clips.")
        if len(x):
            mean = x.mean(dim=0)
            self._add(len(x), mean, x - mean)

    def merge(self, other: FrechetStatistics) -> None:
        """Adds what another process, or another part of the set, has seen.

        Raises:
            ValueError: other features.
        """
        _check_same_features(self, other)
        if other.num_samples:
            self.scatter += other.scatter
            self._add(other.num_samples, other.mean, other.mean.new_zeros(0, self.dim))

    def _add(self, count: int, mean: Float[Tensor, " d"], centred: Float[Tensor, "n d"]) -> None:
        """Chan's update: the scatter of the new vectors about their own mean, and that of the two
        means, in one product that is added in place."""
        total = self.num_samples + count
        gap = mean - self.mean
        between = gap * (self.num_samples * count / total) ** 0.5
        rows = torch.cat([centred, between[None]])
        self.scatter.addmm_(rows.T, rows)
        self.mean = self.mean + gap * (count / total)
        self.num_samples = total

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """Scatter over n - 1.

        Raises:
            ValueError: fewer than two samples.
        """
        if self.num_samples < 2:
            raise ValueError(
                f"Expected at least 2 samples for a covariance, found {self.num_samples}."
            )
        return self.scatter / (self.num_samples - 1)

    def to_bytes(self) -> bytes:
        """As `save` writes them: what one process sends to the others."""
        from safetensors.torch import save

        tensors = {
            "num_samples": torch.tensor([self.num_samples]),
            "mean": self.mean,
            "scatter": self.scatter,
        }
        return save(tensors, metadata={"protocol": self.protocol})

    def save(self, path: Path | str) -> None:
        """Writes a safetensors file, whole or not at all."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}")
        try:
            temporary.write_bytes(self.to_bytes())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path | str) -> FrechetStatistics:
        """What `save` wrote.

        Raises:
            ValueError: no such file, a damaged one, or one that holds something else; names it.
        """
        try:
            blob = Path(path).read_bytes()
        except OSError as error:
            raise ValueError(f"Expected Fréchet statistics in {path}: {error}.") from error
        return cls.from_bytes(blob, str(path))

    @classmethod
    def from_bytes(cls, blob: bytes, path: str = "what was received") -> FrechetStatistics:
        """What `to_bytes` made; `path` is for messages.

        Raises:
            ValueError: damaged, or something else.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            tensors = load(blob)
            size = int.from_bytes(blob[:8], "little")
            metadata = json.loads(blob[8 : 8 + size]).get("__metadata__") or {}
            protocol = metadata.get("protocol", "")
        except (SafetensorError, ValueError) as error:
            raise ValueError(
                f"Expected Fréchet statistics in {path}, found no whole safetensors file "
                f"({error}): make them again."
            ) from error
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        dim = (shapes.get("mean") or (0,))[0]
        if not dim or shapes != {"num_samples": (1,), "mean": (dim,), "scatter": (dim, dim)}:
            raise ValueError(
                f"Expected num_samples, mean and scatter of one size in {path}, found {shapes}."
            )
        statistics = cls(dim, protocol)
        statistics.num_samples = int(tensors["num_samples"])
        statistics.mean, statistics.scatter = tensors["mean"], tensors["scatter"]
        return statistics


def merge_ranks(parts: Sequence[bytes]) -> FrechetStatistics:
    """The whole set from what every process sent (`to_bytes`), folded in the order of the ranks.

    All processes get the same bits. Clip i belongs to rank i modulo the number of ranks, without
    padding: a clip counted twice would bias the covariance. ValueError without parts, or of others.
    """
    if not parts:
        raise ValueError("Expected the statistics of at least one process, found none.")
    whole = FrechetStatistics.from_bytes(parts[0], "what rank 0 sent")
    for rank, part in enumerate(parts[1:], start=1):
        whole.merge(FrechetStatistics.from_bytes(part, f"what rank {rank} sent"))
    return whole


def frechet_distance(
    a: FrechetStatistics, b: FrechetStatistics, *, allows_few: bool = False
) -> float:
    """The squared Fréchet distance of the Gaussians with the statistics of two sets.

    tr (S_a S_b)^(1/2) is the sum of the singular values of R_a^T R_b, for any factors with
    R R^T = S; here R = V e^(1/2) of the symmetric eigenvalues, or Cholesky's factor (half the time)
    where the covariance is far from singular. No root of a product's eigenvalues is taken, which
    would cost half the digits where a covariance has not full rank.

    The expected distance of two sets from one distribution is not 0 but falls like 1 / n: put
    `split_floor` beside it, or `extrapolate`.

    Args:
        allows_few: also with as many samples as dimensions or fewer, whose covariance has not full
            rank.

    Raises:
        ValueError: other features, or too few samples.
    """
    _check_same_features(a, b)
    for name, one in (("first", a), ("second", b)):
        needed = 2 if allows_few else one.dim + 1
        if one.num_samples < needed:
            raise ValueError(
                f"Expected at least {needed} samples of {one.dim} dimensions in the {name} set, "
                f"found {one.num_samples}: with fewer the covariance has not full rank, and the "
                "distance says how many samples there are. Give more clips."
            )
    factor_a, factor_b = _factor(a.covariance), _factor(b.covariance)
    traces = float(factor_a.square().sum() + factor_b.square().sum())
    shared = float(torch.linalg.svdvals(factor_a.T @ factor_b).sum())
    gap = float((a.mean - b.mean).square().sum())
    distance = gap + traces - 2 * shared
    if not distance >= -TOLERANCE * max(traces, 1e-300):
        raise ValueError(
            f"Expected a distance of at least 0, found {distance:.3g} of traces {traces:.3g}: the "
            "statistics are damaged."
        )
    return max(distance, 0.0)


def _factor(covariance: Float[Tensor, "d d"]) -> Float[Tensor, "d r"]:
    """R with R R^T = covariance, without the directions that hold only rounding."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    pivots = factor.diagonal().square()
    if not int(failed) and float(pivots.min()) > FULL_RANK * float(covariance.diagonal().max()):
        return factor
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    cut = len(values) * torch.finfo(values.dtype).eps * values[-1].clamp(min=0)
    kept = values > cut
    return vectors[:, kept] * values[kept].sqrt()


def distance_of_features(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], *, allows_few: bool = False
) -> float:
    """`frechet_distance` of two sets given as feature vectors.

    Raises:
        ValueError: as there.
    """
    a, b = FrechetStatistics.of(x), FrechetStatistics.of(y)
    return frechet_distance(a, b, allows_few=allows_few)


def split_floor(
    features: Float[Tensor, "n d"], generator: np.random.Generator, num_splits: int = 10
) -> Float[np.ndarray, " s"]:
    """Distances between random halves of one set: what n / 2 samples a side cannot tell apart.

    Raises:
        ValueError: halves of too few samples.
    """
    half = len(features) // 2
    distances = []
    for _ in range(num_splits):
        order = generator.permutation(len(features))
        distances.append(
            distance_of_features(features[order[:half]], features[order[half : 2 * half]])
        )
    return np.array(distances)


@dataclass(frozen=True)
class Extrapolation:
    """A straight line through distances over 1 / n."""

    at_infinity: float
    """Where 1 / n = 0: the distance without the bias of few samples. May fall below 0 by chance."""
    slope: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]
    """Mean over the draws, per size."""
    error: float = 0.0
    """Standard error of `at_infinity` from the scatter of the draws about the line. What other
    clips would have given is not in it: that is `frechet_error.standard_error`."""


def extrapolate(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    generator: np.random.Generator,
    sizes: Sequence[int] = (),
    num_draws: int = 4,
) -> Extrapolation:
    """The distance of two sets as if they had infinitely many samples.

    For every size, `num_draws` times as many samples are drawn from both sets without replacement;
    least squares over 1 / n.

    Args:
        sizes: at least 4 different ones; by default 6, evenly spaced in 1 / n, from a third of the
            smaller set, but more than dimensions, to all of it.

    Raises:
        ValueError: too few samples or sizes.

    Reference: Chong and Forsyth 2020 (FID infinity).
    """
    available, dim = min(len(x), len(y)), x.shape[1]
    if not sizes:
        least = max(available // 3, dim + 1)
        inverse = np.linspace(1 / least, 1 / max(available, 1), 6)
        sizes = [round(1 / value) for value in inverse]
    chosen = sorted(set(sizes))
    if len(chosen) < 4 or chosen[0] <= dim or chosen[-1] > available:
        raise ValueError(
            f"Expected at least 4 different sizes above {dim} (the dimension) and at most "
            f"{available} (the smaller set), found {chosen}: give more clips."
        )
    distances = np.zeros((len(chosen), num_draws))
    for row, size in zip(distances, chosen):
        for draw in range(num_draws):
            rows = [torch.from_numpy(generator.permutation(len(z))[:size]) for z in (x, y)]
            row[draw] = distance_of_features(x[rows[0]], y[rows[1]])
    inverse = np.repeat(1 / np.array(chosen), num_draws)
    slope, intercept = np.polyfit(inverse, distances.ravel(), 1)
    left = distances.ravel() - intercept - slope * inverse
    variance = float(left @ left) / (left.size - 2)
    spread = float(((inverse - inverse.mean()) ** 2).sum())
    error = (variance * (1 / left.size + float(inverse.mean()) ** 2 / spread)) ** 0.5
    means = tuple(float(mean) for mean in distances.mean(axis=1))
    return Extrapolation(float(intercept), float(slope), tuple(chosen), means, error)


def _check_same_features(a: FrechetStatistics, b: FrechetStatistics) -> None:
    if a.dim != b.dim or a.protocol != b.protocol:
        raise ValueError(
            f"Expected statistics of the same features, found {a.dim} dimensions of "
            f"{a.protocol!r} and {b.dim} of {b.protocol!r}: numbers of different protocols mean "
            "different things; make both with one."
        )
