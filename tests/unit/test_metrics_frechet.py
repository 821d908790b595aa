"""Claims about maskworld.metrics.frechet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from maskworld.metrics.frechet import (
    FrechetStatistics,
    distance_of_features,
    extrapolate,
    frechet_distance,
    merge_ranks,
    split_floor,
)
from maskworld.metrics.frechet_error import influences, normal_interval, standard_error

DIM = 24


def features(count: int, seed: int, dim: int = DIM, offset: float = 0.0) -> Tensor:
    """Correlated, with a spectrum that falls like 1 / k."""
    mixing = torch.randn(dim, dim, generator=torch.Generator().manual_seed(99)).double()
    basis = torch.linalg.qr(mixing)[0] * (1 / torch.arange(1, dim + 1).double()).sqrt()
    x = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)).double()
    return x @ basis.T + offset


def reference_distance(x: Tensor, y: Tensor) -> float:
    """Independent: raw NumPy, and the root of the product itself."""
    a, b = x.numpy(), y.numpy()
    s, r = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    try:
        from scipy.linalg import sqrtm  # type: ignore[import-untyped,unused-ignore]

        root = float(np.trace(np.real(sqrtm(s @ r))))
    except ImportError:
        root = float(np.sqrt(np.linalg.eigvals(s @ r).astype(complex)).real.sum())
    gap = a.mean(0) - b.mean(0)
    return float(gap @ gap + np.trace(s) + np.trace(r) - 2 * root)


@pytest.mark.parametrize(("count", "tolerance"), [(25, 1e-6), (400, 1e-6), (10, 1e-5)])
def test_the_distance_equals_an_independent_reference(count: int, tolerance: float) -> None:
    x, y = features(count, 0), 1.3 * features(count + 5, 1) + 0.2
    ours = distance_of_features(x, y, allows_few=True)
    assert ours == pytest.approx(reference_distance(x, y), rel=tolerance)


def test_with_fewer_samples_than_dimensions_it_equals_the_nuclear_norm_of_the_data() -> None:
    """tr (S_a S_b)^(1/2) = || A B^T ||_* / sqrt((n - 1)(m - 1)), with A and B the centred rows."""
    x, y = features(9, 0, 60), features(14, 1, 60) + 0.1
    a, b = x - x.mean(0), y - y.mean(0)
    root = float(torch.linalg.svdvals(a @ b.T).sum()) / (8 * 13) ** 0.5
    gap = float((x.mean(0) - y.mean(0)).square().sum())
    traces = float(a.square().sum() / 8 + b.square().sum() / 13)
    ours = distance_of_features(x, y, allows_few=True)
    assert ours == pytest.approx(gap + traces - 2 * root, rel=1e-9)


def test_diagonal_gaussians_have_the_closed_form() -> None:
    """With equal sample statistics up to scale: sum of (sqrt l1 - sqrt l2)^2 and the mean's gap."""
    x = features(500, 0)
    x = x - x.mean(0)
    scales = torch.linspace(0.5, 2, DIM).double()
    values, vectors = torch.linalg.eigh(torch.cov(x.T))
    y = x @ vectors * scales @ vectors.T + 0.3
    expected = float((values.sqrt() * (1 - scales)).square().sum()) + DIM * 0.3**2
    assert distance_of_features(x, y) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("count", [200, 12])
def test_identical_sets_have_distance_zero(count: int) -> None:
    x = features(count, 0, offset=1e3)
    trace = float(FrechetStatistics.of(x).covariance.trace())
    assert distance_of_features(x, x.clone(), allows_few=True) <= 1e-6 * trace
    constant = torch.ones(3, DIM)
    assert distance_of_features(constant, constant, allows_few=True) == 0


def test_the_distance_is_symmetric_and_knows_no_axes() -> None:
    x, y = features(100, 0), 1.2 * features(90, 1) + 0.1
    turned = torch.linalg.qr(features(DIM, 7))[0]
    once = distance_of_features(x, y)
    assert distance_of_features(y, x) == pytest.approx(once, rel=1e-9)
    assert distance_of_features(x @ turned + 5, y @ turned + 5) == pytest.approx(once, rel=1e-7)


def test_any_order_and_any_split_over_processes_gives_the_same() -> None:
    """Features far from zero, where raw moments would lose the covariance."""
    x = features(1000, 0, offset=1e4)
    whole = np.cov(x.numpy(), rowvar=False)
    batched = FrechetStatistics(DIM)
    for batch in x[torch.randperm(1000, generator=torch.Generator().manual_seed(1))].split(37):
        batched.update(batch)
    merged = FrechetStatistics(DIM)
    for rank in range(4):
        of_rank = FrechetStatistics(DIM)
        for batch in x[rank::4].split(50):
            of_rank.update(batch)
        merged.merge(of_rank)
    merged.merge(FrechetStatistics(DIM))
    merged.update(x[:0])
    for one in (batched, merged):
        assert len(one) == 1000
        np.testing.assert_allclose(one.mean.numpy(), x.numpy().mean(0), rtol=1e-12)
        np.testing.assert_allclose(one.covariance.numpy(), whole, atol=1e-11)
    raw = (x.float().T @ x.float()) / 1000 - torch.outer(x.float().mean(0), x.float().mean(0))
    assert float((raw - torch.from_numpy(whole)).abs().max()) > 1e-2  # what is avoided


def test_covariances_are_over_n_minus_one() -> None:
    x = torch.tensor([[0.0, 0.0], [2.0, 4.0]])
    expected = torch.tensor([[2.0, 4.0], [4.0, 8.0]], dtype=torch.float64)
    torch.testing.assert_close(FrechetStatistics.of(x).covariance, expected)


def test_statistics_survive_a_file_and_damaged_ones_are_named(tmp_path: Path) -> None:
    path = tmp_path / "real.safetensors"
    saved = FrechetStatistics.of(features(50, 0), "proxy, 8 frames")
    saved.save(path)
    loaded = FrechetStatistics.load(path)
    assert (loaded.num_samples, loaded.protocol) == (50, "proxy, 8 frames")
    assert torch.equal(loaded.mean, saved.mean)
    assert torch.equal(loaded.scatter, saved.scatter)
    assert [file.name for file in tmp_path.iterdir()] == ["real.safetensors"]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"real\.safetensors"):
        FrechetStatistics.load(path)


def test_too_few_samples_and_other_features_are_refused_with_the_reason() -> None:
    enough, few = features(DIM + 1, 0), features(DIM, 1)
    distance_of_features(enough, enough)
    with pytest.raises(ValueError, match=f"at least {DIM + 1} samples .* found {DIM}"):
        distance_of_features(enough, few)
    with pytest.raises(ValueError, match="at least 2 samples"):
        distance_of_features(enough, few[:1], allows_few=True)
    a, b = FrechetStatistics.of(enough, "16 frames"), FrechetStatistics.of(enough, "25 frames")
    with pytest.raises(ValueError, match="25 frames"):
        frechet_distance(a, b)
    with pytest.raises(ValueError, match="25 frames"):
        a.merge(b)
    with pytest.raises(ValueError, match="found 23"):
        a.update(enough[:, 1:])
    enough[3, 4] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        a.update(enough)


def test_the_floor_falls_with_the_samples_and_the_extrapolation_removes_it() -> None:
    """Two sets whose true distance is known: a shift of every mean by 0.1."""
    x, y = features(3000, 0), features(3000, 1) + 0.1
    true = DIM * 0.1**2
    rng = np.random.default_rng(0)
    small, large = (split_floor(x[:n], rng, 5).mean() for n in (200, 2000))
    assert small / large == pytest.approx(10, rel=0.25)
    found = extrapolate(x, y, rng, sizes=(100, 150, 200, 400, 800), num_draws=6)
    assert found.distances[0] > 1.5 * true
    assert found.at_infinity == pytest.approx(true, rel=0.15)
    assert found.sizes == (100, 150, 200, 400, 800)
    with pytest.raises(ValueError, match="4 different sizes"):
        extrapolate(x[: DIM + 2], y, rng)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 7])
def test_any_number_of_ranks_and_any_batches_give_the_same_distance(num_ranks: int) -> None:
    """As processes do it: every world-size-th clip, sent as bytes, folded in order of the ranks."""
    x, y = features(203, 0, offset=100.0), 1.2 * features(150, 1, offset=83.0)
    once = distance_of_features(x, y)
    sent = []
    for rank in range(num_ranks):
        statistics = FrechetStatistics(DIM, "proxy")
        for batch in x[rank::num_ranks].split(11 + rank):
            statistics.update(batch)
        sent.append(statistics.to_bytes())
    merged = merge_ranks(sent)
    assert len(merged) == 203
    found = frechet_distance(merged, FrechetStatistics.of(y, "proxy"))
    assert found == pytest.approx(once, rel=1e-9)
    again = merge_ranks(sent)
    assert torch.equal(again.scatter, merged.scatter)  # the same bits on every rank


def test_parts_of_other_features_and_damaged_ones_are_not_merged() -> None:
    one = FrechetStatistics.of(features(5, 0), "16 frames").to_bytes()
    other = FrechetStatistics.of(features(5, 0), "25 frames").to_bytes()
    with pytest.raises(ValueError, match="25 frames"):
        merge_ranks([one, other])
    with pytest.raises(ValueError, match="what rank 1 sent"):
        merge_ranks([one, one[:100]])
    with pytest.raises(ValueError, match="at least one process"):
        merge_ranks([])


def test_a_nearly_singular_covariance_gives_the_same_by_either_factor() -> None:
    """Cholesky where it is safe, eigenvectors elsewhere: no jump where one takes over."""
    x, y = features(400, 0), 1.1 * features(400, 1)
    for smallest in (1e-3, 1e-5, 1e-7, 1e-12):
        scales = torch.logspace(0, float(np.log10(smallest)), DIM).double()
        ours = distance_of_features(x * scales, y * scales)
        assert ours == pytest.approx(reference_distance(x * scales, y * scales), rel=1e-6)


def test_influences_say_what_a_distance_does_when_one_clip_counts_more() -> None:
    """Finite difference: the statistics with clip i weighted by 1 + e."""
    x, y = features(60, 0), 1.3 * features(80, 1) + 2.0
    own, other = FrechetStatistics.of(x), FrechetStatistics.of(y)
    found = influences(x, own, other)
    assert abs(found.mean()) < 1e-9 * np.abs(found).max()
    for i in (0, 17):
        e = 1e-5
        weights = torch.ones(60, 1).double()
        weights[i] += e
        mean = (weights * x).sum(0) / weights.sum()
        shifted = FrechetStatistics(DIM)
        shifted.num_samples, shifted.mean = 60, mean
        # The covariance over n - 1 of weights that sum to n.
        shifted.scatter = (weights * (x - mean)).T @ (x - mean) * 60 / weights.sum()
        slope = (frechet_distance(shifted, other) - frechet_distance(own, other)) / e
        # Beside its influence a clip changes the n of n - 1 by O(1 / n).
        assert float(slope) * 60 == pytest.approx(float(found[i]), rel=0.05)


def test_the_standard_error_is_that_of_fresh_draws() -> None:
    distances, errors = [], []
    for seed in range(40):
        x, y = features(150, 2 * seed, 6), 1.5 * features(150, 2 * seed + 1, 6) + 0.3
        a, b = FrechetStatistics.of(x), FrechetStatistics.of(y)
        distances.append(frechet_distance(a, b))
        if seed < 5:
            sides = [influences(x, a, b), influences(y, b, a)]
            errors.append(standard_error([(sides[0], RANGE), (sides[1], OTHERS)]))
    assert np.mean(errors) == pytest.approx(np.std(distances, ddof=1), rel=0.35)


RANGE, OTHERS = [str(i) for i in range(150)], [f"d{i}" for i in range(150)]


def test_dreams_that_follow_their_clips_leave_a_smaller_error_and_copies_none_the_less() -> None:
    x = features(150, 0, 6)
    y = 1.5 * x + 0.3
    a, b = FrechetStatistics.of(x), FrechetStatistics.of(y)
    sides = [influences(x, a, b), influences(y, b, a)]
    apart = standard_error([(sides[0], RANGE), (sides[1], OTHERS)])
    assert standard_error([(sides[0], RANGE), (sides[1], RANGE)]) < 0.5 * apart
    # Every vector ten times over, under its own name: no more is known.
    repeated = [(np.tile(side, 10), 10 * names) for side, names in zip(sides, (RANGE, OTHERS))]
    assert standard_error(repeated) == pytest.approx(apart, rel=1e-9)
    low, high = normal_interval(1.0, 0.8)
    assert (low, round(high, 3)) == (0.0, 2.568)
