"""Claims about evaluation.zero_shot and the domains of preparation.driving_domains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from maskworld.evaluation.baselines import TrivialFutures
from maskworld.evaluation.results import Results, read_results
from maskworld.evaluation.zero_shot import score_domain, zero_shot_table
from maskworld.metrics import frechet_proxy
from maskworld.preparation.driving_domains import (
    CAMERA,
    EVERYTHING,
    SEEN,
    SHIFTS,
    TOWNS,
    WEATHER,
    DomainPlan,
    collect_domain,
    real_clips,
)
from maskworld.worlds.drive import SCENARIOS, camera_rig, parse_style

REAL = Path(__file__).parents[3] / "shared/data/driving_real"
SMALL = {"clips_per_world": 2, "num_frames": 3, "size": (24, 40), "num_cameras": 2}


def test_each_shift_changes_its_part_and_shares_nothing_there_with_what_was_seen() -> None:
    assert not set(SEEN.scenarios) & set(TOWNS.scenarios)
    assert set(SEEN.scenarios) | set(TOWNS.scenarios) == set(SCENARIOS)
    assert TOWNS.styles == SEEN.styles
    assert not {parse_style(x) for x in SEEN.styles} & {parse_style(x) for x in WEATHER.styles}
    assert WEATHER.scenarios == SEEN.scenarios
    assert SEEN.cameras(6) == camera_rig(6)
    assert CAMERA.cameras(2)[1].yaw == camera_rig(2)[1].yaw
    moved = EVERYTHING.cameras(1)[0]
    assert (moved.pitch, moved.height) == (CAMERA.pitch, CAMERA.height)
    assert (EVERYTHING.scenarios, EVERYTHING.styles) == (TOWNS.scenarios, WEATHER.styles)
    assert len({domain.name for domain in (SEEN, *SHIFTS)}) == 5


def test_a_moved_camera_films_the_same_drive_from_elsewhere() -> None:
    seen, moved = (collect_domain(DomainPlan(domain, **SMALL), [900]) for domain in (SEEN, CAMERA))
    assert [clip.episode for clip in seen] == [900, 900]
    for one, other in zip(seen, moved):
        assert one.frames.shape == (2, 3, 3, 24, 40)
        assert torch.equal(one.actions, other.actions)
        assert (one.frames.float() - other.frames.float()).abs().mean() > 5
    towns = collect_domain(DomainPlan(TOWNS, **SMALL), [900, 901])
    assert {clip.source.split("/")[-1] for clip in towns} == {"merge", "roundabout"}


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/driving_real is not on this machine")
def test_real_video_is_a_domain_without_actions() -> None:
    clips = real_clips(REAL, num_frames=8, size=(24, 40), fps=5, clip_stride=60)
    assert clips[0].frames.shape == (1, 8, 3, 24, 40)
    assert all(clip.actions is None for clip in clips)
    assert len({clip.episode for clip in clips}) > 2
    with pytest.raises(ValueError, match="frame rate that 7 divides"):
        real_clips(REAL, num_frames=8, size=(24, 40), fps=7)


CLIPS, FRAMES, GIVEN = 60, 5, 1


def drifting(seed: int, shade: int) -> Tensor:
    """Random textures that drift sideways; a lower `shade` is a darker domain."""
    g = torch.Generator().manual_seed(seed)
    texture = torch.rand(CLIPS, 1, 3, 16, 24 + 2 * FRAMES, generator=g) * shade
    steps = [texture[..., 2 * i : 2 * i + 24] for i in range(FRAMES)]
    return torch.stack(steps, dim=2).round().to(torch.uint8)


def noisy(frames: Tensor, size: float) -> Tensor:
    noise = size * torch.randn(frames.shape, generator=torch.Generator().manual_seed(1))
    return (frames.float() + noise).round().clamp(0, 255).to(torch.uint8)


def test_the_margin_ranks_domains_where_psnr_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(frechet_proxy, "DIM_PER_VIEW", 4)
    monkeypatch.setattr(frechet_proxy.FrechetProxy, "dim", 12)
    bright, dark = drifting(0, 250), drifting(1, 60)
    trivial = TrivialFutures.fit(drifting(2, 250), GIVEN)
    groups, results = np.arange(CLIPS) // 5, Results("maskgwm", {})
    near, far = noisy(bright, 30), noisy(dark, 24)
    for name, real, model in (("seen", bright, near), ("night", dark, far)):
        found = score_domain(results, name, real, model, model, trivial, groups, num_given=GIVEN)
        assert found.margin.mean == pytest.approx(
            results.to_dict()["metrics"][f"zero_shot/{name}/psnr_margin"]["model"]
        )
    results.write(tmp_path / "metrics.json")
    metrics = read_results(tmp_path / "metrics.json")["metrics"]
    assert metrics["zero_shot/night/psnr"]["model"] > metrics["zero_shot/seen/psnr"]["model"]
    assert (
        metrics["zero_shot/night/psnr_margin"]["interval"][1]
        < metrics["zero_shot/seen/psnr_margin"]["interval"][0]
    )
    table = zero_shot_table(read_results(tmp_path / "metrics.json")).splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == ["| seen", "| night"]


def test_the_best_guess_is_chosen_step_by_step_and_a_copy_of_it_has_no_margin() -> None:
    real = drifting(3, 250)
    trivial = TrivialFutures.fit(drifting(4, 250), GIVEN)
    guess = trivial.predict(real[:, :, :GIVEN], FRAMES - GIVEN)["mean_image"]
    model = torch.cat([real[:, :, :GIVEN], guess], dim=2)
    results = Results("maskgwm", {})
    groups = np.arange(CLIPS)
    found = score_domain(results, "seen", real, model, None, trivial, groups, num_given=GIVEN)
    assert max(found.margin.per_horizon) <= 0.0
    assert "zero_shot/seen/frechet_proxy" not in results.to_dict()["metrics"]
    with pytest.raises(ValueError, match="same moments and frames"):
        score_domain(results, "b", real, model[:, :, :2], None, trivial, groups, num_given=GIVEN)
