"""Claims about maskworld.evaluation.long_horizon and metrics.frame_statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maskworld.evaluation.baselines import TrivialFutures, blurred_copy, copy_last
from maskworld.evaluation.long_horizon import LongHorizon, score_long_horizon
from maskworld.evaluation.results import Results, read_results
from maskworld.metrics.frame_statistics import frame_statistics

DRIVES, FRAMES, GIVEN = 8, 64, 2


def drives(seed: int, speed: int = 2) -> list[Tensor]:
    """Smooth random textures that drift sideways, two views."""
    g = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(DRIVES):
        coarse = torch.rand(2, 3, 3, 8 + FRAMES * speed // 8, generator=g) * 255
        texture = F.interpolate(coarse, scale_factor=8, mode="bicubic").clamp(0, 255)[..., 4:20, :]
        steps = [texture[..., i * speed : i * speed + 24] for i in range(FRAMES)]
        found.append(torch.stack(steps, dim=1).round().to(torch.uint8))
    return found


REAL = drives(0)
TRIVIAL = TrivialFutures.fit(torch.stack(drives(1)), GIVEN)


def score(dreamt: list[Tensor], window: int | None = None) -> tuple[LongHorizon, Results]:
    results = Results("maskgwm", {})
    found = score_long_horizon(
        results,
        iter(REAL),
        iter(dreamt),
        TRIVIAL,
        np.arange(DRIVES),
        num_given=GIVEN,
        fps=5,
        num_last=20,
        num_horizons=4,
        proxy_window=window,
    )
    return found, results


def after_given(future: Tensor) -> list[Tensor]:
    return [torch.cat([real[:, :GIVEN], each], 1) for real, each in zip(REAL, future)]


def test_another_drive_of_the_same_kind_lives() -> None:
    found, _ = score(drives(2))
    assert found.verdicts["model"].lives
    low, high = found.intervals["frame_change"]
    assert low < 1 < high


def test_a_copy_of_the_last_frame_freezes() -> None:
    given = torch.stack(REAL)[:, :, :GIVEN]
    for future in (copy_last(given, FRAMES - GIVEN), blurred_copy(given, FRAMES - GIVEN, 0.5)):
        verdict = score(after_given(future))[0].verdicts["model"]
        assert verdict.freezes
    assert str(score(REAL)[0].verdicts["copy_last"]) == "freezes"


def test_mean_image_noise_and_fading_dissolve() -> None:
    verdicts = score(REAL)[0].verdicts
    assert verdicts["model"].lives
    assert verdicts["mean_image"].dissolves
    noise = torch.randint(
        256, torch.stack(REAL).shape, generator=torch.Generator().manual_seed(3)
    ).to(torch.uint8)
    assert score(list(noise))[0].verdicts["model"].dissolves
    fade = torch.linspace(1, 0, FRAMES)[:, None, None, None]
    grey = [(128 + (clip.float() - 128) * fade).round().to(torch.uint8) for clip in REAL]
    assert score(grey)[0].verdicts["model"].dissolves


def test_a_slower_dream_has_the_ratio_of_its_changes() -> None:
    found, results = score(drives(4, speed=1))
    assert found.ratios["frame_change"]["model"] == pytest.approx(0.5, abs=0.05)
    assert found.verdicts["model"].freezes
    error = results.to_dict()["metrics"]["long/frame_change_error"]
    assert error["model"] == pytest.approx(1 - found.ratios["frame_change"]["model"])
    assert error["interval"][0] <= error["model"] <= error["interval"][1]


def test_the_table_has_every_horizon_with_baselines_and_the_proxy_falls_with_age(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from maskworld.metrics import frechet_proxy

    monkeypatch.setattr(frechet_proxy, "DIM_PER_VIEW", 4)
    monkeypatch.setattr(frechet_proxy.FrechetProxy, "dim", 12)
    blend = torch.linspace(0, 1, FRAMES)[:, None, None, None]
    noise = 120 * torch.randn(REAL[0].shape, generator=torch.Generator().manual_seed(5))
    aged = [(c + noise * blend).round().clamp(0, 255).to(torch.uint8) for c in REAL]
    _, results = score(aged, window=4)
    results.write(tmp_path / "metrics.json")
    content = read_results(tmp_path / "metrics.json")
    curves = content["metrics"]["long/psnr"]["per_horizon"]
    assert curves["model"] == sorted(curves["model"], reverse=True)
    assert {"copy_last", "blurred_copy", "mean_image", "best_trivial"} < set(curves)
    proxy = content["metrics"]["long/frechet_proxy"]["per_horizon"]
    assert proxy["model"][-1] > 2 * proxy["model"][0]
    assert max(proxy["real_vs_real"]) < proxy["copy_last"][-1]
    told = content["protocol"]["long_horizon"]
    assert told["horizon_seconds"] == pytest.approx([3, 6.2, 9.2, 12.4])
    assert told["verdicts"]["copy_last"] == "freezes"


def test_what_cannot_be_judged_is_refused() -> None:
    def asked(num_last: int, num_groups: int) -> None:
        score_long_horizon(
            Results("maskgwm", {}),
            REAL,
            REAL,
            TRIVIAL,
            np.arange(num_groups),
            num_given=GIVEN,
            fps=5,
            num_last=num_last,
        )

    with pytest.raises(ValueError, match="dream longer"):
        asked(FRAMES, DRIVES)
    with pytest.raises(ValueError, match="one group per drive"):
        asked(20, 3)
    with pytest.raises(ValueError, match="same moments and frames"):
        score([clip[:, :10] for clip in REAL])
    with pytest.raises(ValueError, match="uint8"):
        score([clip.float() for clip in REAL])  # type: ignore[misc]


def test_statistics_of_frames_equal_their_definitions_across_chunks() -> None:
    clip = torch.randint(256, (2, 70, 3, 5, 6), generator=torch.Generator().manual_seed(0))
    found = frame_statistics(clip.to(torch.uint8))
    x = clip.double()
    change = (x[:, 1:] - x[:, :-1]).abs().mean((0, 2, 3, 4))
    assert torch.allclose(found.change.double(), change, rtol=1e-5)
    y = 0.299 * x[:, :, 0] + 0.587 * x[:, :, 1] + 0.114 * x[:, :, 2]
    deviation = y.flatten(2).std(dim=2, correction=0).mean(0)
    assert torch.allclose(found.deviation.double(), deviation, rtol=1e-5)
    flat = frame_statistics(torch.full((1, 2, 3, 4, 4), 7, dtype=torch.uint8))
    assert float(flat.sharpness.abs().max()) < 1e-5
    assert float(flat.deviation.abs().max()) < 1e-5
