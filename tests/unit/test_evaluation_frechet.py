"""Claims about maskworld.evaluation.frechet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maskworld.evaluation.baselines import blurred_copy, copy_last
from maskworld.evaluation.frechet import score_frechet_proxy, split_groups
from maskworld.evaluation.results import Results, read_results
from maskworld.preparation.planning_clips import collect_planning_clips

CLIPS, VIEWS, FRAMES = 140, 1, 5


def clips(seed: int = 0) -> Tensor:
    """Random textures that drift sideways; the first frame is given."""
    g = torch.Generator().manual_seed(seed)
    texture = torch.rand(CLIPS, VIEWS, 3, 16, 20 + 2 * FRAMES, generator=g)
    texture = (texture * 0.7 + 0.3 * torch.rand(CLIPS, 1, 3, 1, 1, generator=g)) * 255
    steps = [texture[..., 2 * i : 2 * i + 20] for i in range(FRAMES + 1)]
    return torch.stack(steps, dim=2).round().to(torch.uint8)


@pytest.fixture(scope="module")
def scored() -> tuple[Results, dict[str, float]]:
    frames = clips()
    given, real = frames[:, :, :1], frames[:, :, 1:]
    noise = 20 * torch.randn(real.shape, generator=torch.Generator().manual_seed(1))
    dreamt = (real.float() + noise).round().clamp(0, 255).to(torch.uint8)
    trivial = {
        "copy_last": copy_last(given, FRAMES),
        "blurred_copy": blurred_copy(given, FRAMES),
        "reconstruction": real,
    }
    results = Results("reworld", {})
    groups = np.arange(CLIPS) // 7
    return results, score_frechet_proxy(results, real, dreamt, trivial, groups, num_resamples=40)


def test_the_floor_is_lowest_and_a_perfect_dream_scores_it(
    scored: tuple[Results, dict[str, float]],
) -> None:
    _, values = scored
    assert values["reconstruction"] == values["real_vs_real"]
    assert values["model"] > values["real_vs_real"]
    assert values["copy_last"] > 1.5 * values["real_vs_real"]
    assert values["blurred_copy"] > values["copy_last"]


def test_results_hold_baselines_interval_and_protocol(
    scored: tuple[Results, dict[str, float]], tmp_path: Path
) -> None:
    results, values = scored
    results.write(tmp_path / "metrics.json")
    content = read_results(tmp_path / "metrics.json")
    entry = content["metrics"]["frechet_proxy"]
    assert entry["model"] == pytest.approx(values["model"])
    assert entry["interval"][0] < entry["model"] < entry["interval"][1]
    assert (entry["n"], entry["better"]) == (CLIPS, "lower")
    assert {"copy_last", "blurred_copy", "real_vs_real"} < set(entry)
    protocol = content["protocol"]["frechet_proxy"]
    assert (protocol["frames"], protocol["size"], protocol["seed"]) == (FRAMES, [16, 20], 0)
    assert protocol["clips_per_side"] == [70, 70]
    assert "fvd" not in json.dumps(content).lower()


def test_halves_share_no_group_and_leave_none_out() -> None:
    labels = np.repeat(np.arange(7), 3)
    one, other = split_groups(labels, np.random.default_rng(0))
    assert not set(labels[one]) & set(labels[other])
    assert sorted([*one, *other]) == list(range(21))
    with pytest.raises(ValueError, match="at least 4 worlds"):
        split_groups(np.repeat(np.arange(3), 9), np.random.default_rng(0))


def test_too_few_clips_and_other_moments_are_refused() -> None:
    frames = clips()[:60, :, 1:]
    groups = np.arange(60) // 3
    with pytest.raises(ValueError, match="at least 49 samples"):
        score_frechet_proxy(Results("reworld", {}), frames, frames, {}, groups)
    short = {"copy_last": torch.cat([frames, frames], dim=1)}
    with pytest.raises(ValueError, match="copy_last"):
        score_frechet_proxy(Results("reworld", {}), frames, frames, short, groups)


@pytest.mark.slow
def test_on_driving_clips_every_fault_is_farther_than_other_real_clips() -> None:
    """Eight futures of each of 20 worlds; the fault is all that the sets differ in."""
    found = collect_planning_clips(range(5000, 5020), 8, num_past=1, num_future=8, size=(48, 72))
    frames = torch.stack([clip.frames for clip in found if clip.frames is not None])
    given, real = frames[:, :, :1], frames[:, :, 1:]
    g = torch.Generator().manual_seed(0)
    noise = 8 * torch.randn(real.shape, generator=g)
    flat = real.flatten(0, 2).float()
    faults = {
        "copy_last": copy_last(given, 8),
        "blurred_copy": blurred_copy(given, 8),
        "noise": (real.float() + noise).round().clamp(0, 255).to(torch.uint8),
        "shuffled": torch.stack([clip[:, torch.randperm(8, generator=g)] for clip in real]),
        "blurred": F.avg_pool2d(flat, 3, 1, 1, count_include_pad=False).byte().view_as(real),
    }
    groups = np.array([clip.episode for clip in found])
    results = Results("reworld", {})
    values = score_frechet_proxy(results, real, real, faults, groups, num_resamples=100)
    low, high = results.to_dict()["metrics"]["frechet_proxy"]["interval"]
    assert low < values["real_vs_real"] < high
    for name in faults:
        assert values[name] > 1.3 * values["real_vs_real"], name
