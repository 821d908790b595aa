"""The quickstart end to end, with a model and a world too small to be any good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_material import write_clip

import maskworld
from maskworld.cli import quickstart_worlddreamer, worlddreamer_scores
from maskworld.cli.main import main
from maskworld.evaluation.results import read_results
from maskworld.recipes import load_recipe_of
from maskworld.recipes.recipe import DriveData, WorldDreamerRecipe

WORLD = DriveData(
    num_worlds=3,
    clips_per_world=6,
    num_held_out_worlds=2,
    held_out_clips_per_world=5,
    num_pairs=3,
    num_restyled=2,
)


def micro(name: str) -> WorldDreamerRecipe:
    recipe = load_recipe_of(WorldDreamerRecipe, name)
    stages = tuple(replace(s, num_steps=2, batch_size=2, warmup_steps=0) for s in recipe.stages)
    backbone = replace(recipe.system.backbone, dim=16, num_heads=1, num_layers=1, ffn_dim=16)
    system = replace(recipe.system, backbone=backbone)
    if name == "worlddreamer-tiny":
        tokenizer = replace(recipe.system.tokenizer, vocab_size=32)
        backbone = replace(backbone, vocab_size=32)
        system = replace(system, tokenizer=tokenizer, backbone=backbone, num_frames=5)
    return replace(recipe, system=system, stages=stages, drive=WORLD, user_steps=2)


@pytest.fixture
def quickstart(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setattr(quickstart_worlddreamer, "load_recipe_of", lambda _, name: micro(name))
    monkeypatch.setattr(worlddreamer_scores, "CLIPS_PER_STYLE", 4)
    return lambda *arguments: main(["quickstart", *map(str, arguments)])


def check_outputs(out: Path) -> dict:
    assert "<html" in (out / "report.html").read_text()
    assert (out / "model" / "config.json").is_file()
    assert maskworld.load(out / "model").name == "worlddreamer"
    return read_results(out / "metrics.json")["metrics"]


@pytest.mark.slow
def test_the_driving_world_gives_every_promised_number(
    quickstart: Callable[..., int], tmp_path: Path
) -> None:
    assert quickstart("--out", tmp_path / "out", "--workers", 1) == 0
    metrics = check_outputs(tmp_path / "out")
    promised = {
        "psnr",
        "ssim",
        "token_accuracy",
        "changed_token_accuracy",
        "codebook_use",
        "steering/frame_2",
        "own_future/frame_2",
        "own_future/frame_4",
        "action_sensitivity/shuffled",
        "action_sensitivity/mirrored",
        "stylization/layout",
        "seconds_per_clip/sampler",
    }
    assert promised <= set(metrics)
    assert {"copy_last", "blurred_copy", "mean_image"} <= set(metrics["psnr"])
    assert len(metrics["psnr"]["per_horizon"]["model"]) == 4
    assert sum(name.startswith("style/text-to-video/") for name in metrics) == 5
    assert list((tmp_path / "out" / "videos").glob("*.mp4"))
    # A folder with results is the user's: it is not overwritten unasked.
    before = (tmp_path / "out" / "metrics.json").read_bytes()
    assert quickstart("--out", tmp_path / "out") == 2
    assert (tmp_path / "out" / "metrics.json").read_bytes() == before


def test_a_users_video_is_split_in_time_and_scored(
    quickstart: Callable[..., int], tmp_path: Path
) -> None:
    video = write_clip(tmp_path / "drive.mp4", 48, (72, 120))
    assert quickstart("--data", video, "--out", tmp_path / "out") == 0
    metrics = check_outputs(tmp_path / "out")
    assert metrics["psnr"]["n"] == 12 - 4  # last quarter of 48 frames, windows of 5
    assert "steering/frame_2" not in metrics


def test_tokens_are_scored_by_their_code_length(
    quickstart: Callable[..., int], tmp_path: Path
) -> None:
    tokens = np.random.default_rng(0).integers(0, 1024, (60, 128))
    np.save(tmp_path / "codes.npy", tokens)
    assert quickstart("--data", tmp_path / "codes.npy", "--out", tmp_path / "out") == 0
    entry = check_outputs(tmp_path / "out")["bits_per_token"]
    assert {"unigram", "copy_last_mixture"} <= set(entry)
    # Nothing can predict uniform noise: 10 bits, and an untrained model is near that.
    assert 9.5 < entry["model"] < 12


def test_a_video_too_short_for_both_parts_says_so_and_leaves_nothing(
    quickstart: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_clip(tmp_path / "short.mp4", 12, (72, 120))
    assert quickstart("--data", video, "--out", tmp_path / "out") == 2
    assert "No clip of 5 frames" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_system_suggests_the_nearest(
    quickstart: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert quickstart("worlddremer") == 2
    assert "Did you mean 'worlddreamer'?" in capsys.readouterr().err
