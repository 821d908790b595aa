"""Claims about maskworld.metrics.frechet_proxy, on moving stripes and discs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maskworld.metrics.frechet import frechet_distance
from maskworld.metrics.frechet_proxy import CLIPS_AT_ONCE, FrechetProxy

FRAMES, SIZE = 8, (24, 32)


def moving_patterns(count: int, seed: int) -> Tensor:
    """Fine stripes drift under a disc that crosses the picture; colours and speeds vary."""
    g = torch.Generator().manual_seed(seed)
    h, w = SIZE
    y, x = torch.meshgrid(torch.arange(h).float(), torch.arange(w).float(), indexing="ij")
    clips = torch.zeros(count, FRAMES, 3, h, w)
    for clip in clips:
        draw = torch.rand(9, generator=g)
        angle, drift = float(draw[0]) * 3.14, 1.5 * float(draw[1]) - 0.5
        speed, start = 1 + 2 * float(draw[2]), 12 * float(draw[3])
        for step in range(FRAMES):
            phase = x * torch.cos(draw[0] * 3.14) + y * torch.sin(torch.tensor(angle))
            stripes = ((phase + drift * step) * 1.6).sin() * 0.2 + 0.5
            disc = (x - start - speed * step) ** 2 + (y - h * draw[4]) ** 2 < 20
            clip[step] = torch.where(disc, draw[5:8, None, None], stripes)
    return (clips * 255).round().to(torch.uint8)


def blurred(clips: Tensor) -> Tensor:
    flat = F.pad(clips.float().flatten(0, 1), (1, 1, 1, 1), mode="replicate")
    return F.avg_pool2d(flat, 3, 1).round().to(torch.uint8).view_as(clips)


def static(clips: Tensor) -> Tensor:
    return clips[:, :1].expand_as(clips).contiguous()


def noisy(clips: Tensor) -> Tensor:
    g = torch.Generator().manual_seed(5)
    noise = 25 * torch.randn(clips.shape, generator=g)
    return (clips.float() + noise).round().clamp(0, 255).to(torch.uint8)


def shuffled(clips: Tensor) -> Tensor:
    g = torch.Generator().manual_seed(6)
    return torch.stack([clip[torch.randperm(FRAMES, generator=g)] for clip in clips])


@pytest.fixture(scope="module")
def real() -> Tensor:
    return moving_patterns(360, 0)


@pytest.mark.parametrize("spoil", [static, blurred, noisy, shuffled])
def test_spoilt_clips_are_farther_from_real_than_real_ones(
    real: Tensor, spoil: Callable[[Tensor], Tensor]
) -> None:
    """The spoilt clips are those that make the floor: only the fault differs."""
    proxy = FrechetProxy(FRAMES, SIZE)
    one, other = real[:180], real[180:]
    floor = frechet_distance(proxy.statistics(one), proxy.statistics(other))
    spoilt = frechet_distance(proxy.statistics(spoil(one)), proxy.statistics(other))
    assert spoilt > 1.5 * floor


def test_more_of_a_fault_is_farther(real: Tensor) -> None:
    proxy = FrechetProxy(FRAMES, SIZE)
    other = proxy.statistics(real[180:])
    once = blurred(real[:180])
    distances = [
        frechet_distance(proxy.statistics(clips), other)
        for clips in (real[:180], once, blurred(blurred(once)))
    ]
    assert distances == sorted(distances)


def test_features_are_the_same_in_every_run_and_in_any_batch(real: Tensor) -> None:
    proxy = FrechetProxy(FRAMES, SIZE)
    clips = real[: CLIPS_AT_ONCE + 5]
    whole = proxy.features(clips)
    assert whole.shape == (len(clips), proxy.dim)
    assert torch.equal(FrechetProxy(FRAMES, SIZE).features(clips), whole)
    apart = torch.cat([proxy.features(clip[None]) for clip in clips])
    torch.testing.assert_close(apart, whole, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(FrechetProxy(FRAMES, SIZE, seed=1).features(clips), whole)


GOLDEN = (0.264474, 7.100938, -5.313096)


def test_features_are_those_of_this_version() -> None:
    """Golden: the ramp's first features of every view. A change needs a new VERSION."""
    ramp = (
        (torch.arange(FRAMES * 3 * 24 * 32) * 37 // 5 % 256)
        .to(torch.uint8)
        .view(1, FRAMES, 3, *SIZE)
    )
    found = FrechetProxy(FRAMES, SIZE).features(ramp)[0, [0, 16, 32]]
    expected = torch.tensor(GOLDEN, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_sets_of_other_protocols_are_not_compared(real: Tensor) -> None:
    one = FrechetProxy(FRAMES, SIZE).statistics(real)
    for other in (
        FrechetProxy(FRAMES, SIZE, seed=1).statistics(real),
        FrechetProxy(6, SIZE).statistics(real[:, :6]),
        FrechetProxy(FRAMES, (24, 24)).statistics(real[..., :24]),
    ):
        with pytest.raises(ValueError, match="frechet_proxy v1"):
            frechet_distance(one, other)
    assert "fvd" not in one.protocol.lower()


def test_wrong_types_ranges_and_lengths_are_refused_with_the_reason(real: Tensor) -> None:
    proxy = FrechetProxy(FRAMES, SIZE)
    with pytest.raises(ValueError, match="none above 1"):
        proxy.features(real[:2] // 255)
    with pytest.raises(ValueError, match=r"found shape \(2, 5, 3, 24, 32\)"):
        proxy.features(real[:2, :5])
    with pytest.raises(ValueError, match="at least 4 frames"):
        FrechetProxy(3, SIZE)
    with pytest.raises(ValueError, match="16 pixels"):
        FrechetProxy(FRAMES, (8, 32))
    with pytest.raises(ValueError, match="Expected uint8 pixels"):
        proxy.features(real[:2].float() / 255)
    with pytest.raises(ValueError, match="at least 49 samples"):
        frechet_distance(proxy.statistics(real[:48]), proxy.statistics(real))
