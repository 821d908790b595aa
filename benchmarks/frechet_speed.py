"""The Fréchet distance of two sets of features: ours beside the public ways, equal numbers first.

    python benchmarks/frechet_speed.py                  # 400 dimensions, as FVD
    python benchmarks/frechet_speed.py --dim 2048 --counts 4096 --repeats 1     # as FID; minutes

Every way gets the same features and computes everything from them, written here from its published
formula:

    ours            Chan-merged mean and scatter, Cholesky or eigenvector factors, singular values
    scipy product   raw moments in float64, scipy.linalg.sqrtm of S_a S_b, real part
                    (StyleGAN-V, pytorch-fid, clean-fid, cd-fvd)
    eigenvalues     raw moments in float64, square roots of the eigenvalues of S_a S_b
                    (torchmetrics, OpenDWM)
    svd float32     symmetric root by SVD, twice, in float32 (VideoGPT, TATS, LVDM)

Counted is processor time of this process on one thread; the ways take turns within every repeat.
Medians and their ratios to ours are printed, with the difference from the exact value (the nuclear
norm of the data, in float64). `offset` is added to all features: real features are not centred, and
there raw moments lose digits. Writes nothing.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from maskworld.metrics.frechet import FrechetStatistics, frechet_distance

BATCH = 64


def features(count: int, dim: int, seed: int, offset: float) -> Tensor:
    """Gaussian, variances 40 / k along hidden axes, float32 as a network gives them."""
    axes = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(9)))[0]
    scales = (40 / torch.arange(1, dim + 1)).sqrt()
    x = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) * scales
    return (1 + 0.1 * seed) * x @ axes + 0.05 * seed + offset


def ours(x: Tensor, y: Tensor) -> float:
    sides = []
    for z in (x, y):
        one = FrechetStatistics(z.shape[1])
        for batch in z.split(BATCH):
            one.update(batch)
        sides.append(one)
    return frechet_distance(sides[0], sides[1], allows_few=True)


def _raw(z: Tensor) -> tuple[np.ndarray, np.ndarray]:
    total = np.zeros(z.shape[1])
    products = np.zeros((z.shape[1], z.shape[1]))
    for batch in z.split(BATCH):
        rows = batch.double().numpy()
        total += rows.sum(0)
        products += rows.T @ rows
    n = len(z)
    mean = total / n
    return mean, (products - n * np.outer(mean, mean)) / (n - 1)


def scipy_product(x: Tensor, y: Tensor) -> float:
    from scipy.linalg import sqrtm

    (a, s), (b, r) = _raw(x), _raw(y)
    root = np.real(sqrtm(s @ r))
    return float(((a - b) ** 2).sum() + np.trace(s) + np.trace(r) - 2 * np.trace(root))


def eigenvalues(x: Tensor, y: Tensor) -> float:
    (a, s), (b, r) = _raw(x), _raw(y)
    values = torch.linalg.eigvals(torch.from_numpy(s @ r))
    root = float(values.sqrt().real.sum())
    return float(((a - b) ** 2).sum() + np.trace(s) + np.trace(r) - 2 * root)


def svd_float32(x: Tensor, y: Tensor) -> float:
    def root(matrix: Tensor) -> Tensor:
        u, s, v = torch.linalg.svd(matrix)
        return u * torch.where(s < 1e-10, s, s.sqrt()) @ v

    s, r = torch.cov(x.T), torch.cov(y.T)
    half = root(s)
    trace = float((s + r).trace() - 2 * root(half @ r @ half).trace())
    return trace + float((x.mean(0) - y.mean(0)).square().sum())


def exact(x: Tensor, y: Tensor) -> float:
    """From the data itself: no covariance, no root."""
    a, b = (z.double() - z.double().mean(0) for z in (x, y))
    qa, qb = (torch.linalg.qr(z, mode="r")[1] for z in (a, b))
    scale = ((len(x) - 1) * (len(y) - 1)) ** 0.5
    root = float(torch.linalg.svdvals(qa @ qb.T).sum()) / scale
    traces = float(a.square().sum() / (len(x) - 1) + b.square().sum() / (len(y) - 1))
    return float((x.double().mean(0) - y.double().mean(0)).square().sum()) + traces - 2 * root


WAYS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "ours": ours,
    "scipy product": scipy_product,
    "eigenvalues": eigenvalues,
    "svd float32": svd_float32,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dim", type=int, default=400)
    parser.add_argument("--counts", type=int, nargs="+", default=[256, 2048])
    parser.add_argument("--offsets", type=float, nargs="+", default=[0.0, 1000.0])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{arguments.dim} dimensions, medians of {arguments.repeats}, one thread")
    heads = ("vectors", "offset", "way", "distance", "difference", "seconds", "x ours")
    print("{:>8} {:>7}  {:<14}{:>12} {:>11} {:>9} {:>7}".format(*heads))
    for count in arguments.counts:
        for offset in arguments.offsets:
            x, y = (features(count, arguments.dim, seed, offset) for seed in (0, 1))
            right = exact(x, y)
            seconds: dict[str, list[float]] = {name: [] for name in WAYS}
            values = {}
            for _ in range(arguments.repeats):
                for name, way in WAYS.items():
                    start = time.process_time()
                    values[name] = way(x, y)
                    seconds[name].append(time.process_time() - start)
            own = statistics.median(seconds["ours"])
            for name, taken in seconds.items():
                middle = statistics.median(taken)
                print(
                    f"{count:>8} {offset:>7g}  {name:<14}{values[name]:>12.5f} "
                    f"{values[name] - right:>11.1e} {middle:>9.3f} {middle / own:>7.1f}"
                )


if __name__ == "__main__":
    main()
