"""The ReWorld quickstart end to end, with a model and a world too small to be any good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import maskworld
from maskworld.cli import quickstart_reworld, reworld_planning, reworld_scores
from maskworld.cli.main import main
from maskworld.cli.reworld_material import (
    PlanningMaterial,
    encode_clips,
    fit_system,
    is_expert,
    planning_material,
)
from maskworld.evaluation.results import read_results
from maskworld.flow import SigmaSchedule
from maskworld.recipes import load_recipe_of
from maskworld.recipes.recipe import PlanningData, ReWorldRecipe
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.reworld import ReWorld

WORLD = PlanningData(
    num_worlds=3,
    clips_per_world=6,
    log_windows_per_world=3,
    recovery_windows_per_world=4,
    num_held_out_worlds=4,
    held_out_clips_per_world=26,
    num_pairs=4,
    num_scenes=8,
    num_candidates=4,
)


def micro() -> ReWorldRecipe:
    recipe = load_recipe_of(ReWorldRecipe, "reworld-tiny")
    stages = tuple(replace(s, num_steps=2, batch_size=2, warmup_steps=0) for s in recipe.stages)
    system = recipe.system
    channels = 8
    system = replace(
        system,
        video=replace(
            system.video,
            in_channels=2 * channels,
            out_channels=channels,
            num_layers=2,
            num_heads=1,
            head_dim=16,
        ),
        action=replace(
            system.action,
            dim=16,
            num_heads=1,
            num_layers=2,
            ffn_dim=16,
            video_dim=16,
            ego_hidden_dim=16,
        ),
        bank_blocks=(1, 2),
        tokenizer=replace(system.tokenizer, channels=channels, decoder_dim=8, detail_dim=4),
        supervised_layers=(1,),
        alignment_layers=(1,),
        frame_size=(24, 36),
    )
    sampling = FlowSampling(
        video=SigmaSchedule("uniform", 2),
        actions=SigmaSchedule("uniform", 2),
        guidance=recipe.sampling.guidance,
    )
    return replace(recipe, system=system, stages=stages, drive=WORLD, sampling=sampling)


@pytest.fixture(scope="module")
def material() -> PlanningMaterial:
    return planning_material(micro(), 0, 1)


@pytest.fixture
def quickstart(monkeypatch: pytest.MonkeyPatch, material: PlanningMaterial) -> Callable[..., int]:
    monkeypatch.setattr(quickstart_reworld, "load_recipe_of", lambda _, name: micro())
    monkeypatch.setattr(quickstart_reworld, "planning_material", lambda *_: material)
    monkeypatch.setattr(quickstart_reworld, "GENERATOR_STEPS", 3)
    monkeypatch.setattr(reworld_planning, "NUM_DRIVES", 2)
    monkeypatch.setattr(reworld_planning, "EGO_STATUS_STEPS", 3)
    monkeypatch.setattr(reworld_scores, "GAMMAS", (1.0, 1.4))
    return lambda *arguments: main(
        ["quickstart", "reworld", "--workers", "1", *map(str, arguments)]
    )


PLANNERS = {
    "no_world_model",
    "constant_velocity",
    "constant_turn_rate",
    "ego_status",
    "expert",
    "random",
}
PROMISED = {
    "psnr": {"model_sampled", "reconstruction", "copy_last", "blurred_copy", "mean_image"},
    "ssim": {"model_sampled", "reconstruction", "copy_last", "blurred_copy"},
    "frechet_proxy": {"real_vs_real", "copy_last", "model_gamma_1", "model_gamma_1.4"},
    "psnr_sampled/gamma_1": set(),
    "psnr_sampled/gamma_1.4": {"unguided"},
    "action_sensitivity/shuffled": {"ignores_actions"},
    "action_sensitivity/mirrored": {"ignores_actions"},
    "steering/frame_2": {"real_renders"},
    "steering/frame_4": {"real_renders"},
    "own_future/frame_2": {"ignores_actions"},
    "own_future/frame_4": {"ignores_actions"},
    **dict.fromkeys(("pdms", "nc", "dac", "ttc", "comfort", "ep"), PLANNERS),
    "pdms_gain/constant_velocity": {"no_difference"},
    "planner_displacement/ade": PLANNERS,
    "planner_displacement/fde": PLANNERS,
    "closed_loop/pdms": {"constant_velocity", "expert", "no_world_model"},
    "closed_loop/collision": {"constant_velocity", "expert", "no_world_model"},
    "seconds_per_clip/dream_mean": set(),
    "seconds_per_clip/dream_sampled": set(),
    "seconds_per_clip/plan": set(),
}


def test_a_failed_run_leaves_nothing_half_written_and_resumes_to_every_promised_number(
    quickstart: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def fail(*_: object) -> None:
        raise ValueError("out of luck")

    with monkeypatch.context() as broken:
        broken.setattr(quickstart_reworld, "fit_without_world_model", fail)
        assert quickstart("--out", out) == 2
    assert [path.name for path in out.iterdir()] == ["run"]
    log = out / "run" / "metrics.jsonl"
    pool = out / "run" / "negatives" / "pool.safetensors"
    before = log.read_bytes(), pool.stat().st_mtime_ns

    assert quickstart("--out", out, "--resume") == 0
    assert (log.read_bytes(), pool.stat().st_mtime_ns) == before  # neither trained nor mined again
    content = read_results(out / "metrics.json")
    metrics, protocol = content["metrics"], content["protocol"]
    for name, baselines in PROMISED.items():
        assert baselines <= set(metrics[name]), name
    assert len(metrics["psnr"]["per_horizon"]["model"]) == 8
    assert "best_trivial" in metrics["psnr"]["per_horizon"]
    assert metrics["psnr"]["n"] == 104
    assert protocol["gamma"] == 1.0
    assert 0 <= protocol["hard_negatives"]["share_with_negative"] <= 1
    assert protocol["planning"]["num_scenes"] == 8
    page = (out / "report.html").read_text()
    for anchor in ("plans", "planners", "negatives", "gamma", "numbers"):
        assert f'<section id="{anchor}">' in page
    assert page.count('<svg class="above"') == page.count('<svg class="camera"') >= 6
    assert list((out / "videos").glob("*.mp4"))
    assert maskworld.load(out / "model").name == "reworld"
    # A folder with results is the user's: it is not overwritten unasked.
    written = (out / "metrics.json").read_bytes()
    assert quickstart("--out", out) == 2
    assert (out / "metrics.json").read_bytes() == written


def test_the_users_own_video_is_refused_with_the_way_to_go(
    quickstart: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quickstart("--data", tmp_path / "a.mp4", "--out", tmp_path / "out") == 2
    assert "maskworld train" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_held_out_worlds_are_never_trained_on(material: PlanningMaterial) -> None:
    trained = {clip.episode for clip in material.train}
    held_out = {int(world) for world in material.groups} | {s.world for s in material.scenes}
    assert held_out <= set(material.worlds)
    assert not trained & held_out


def test_mirror_images_have_mirrored_negatives(material: PlanningMaterial) -> None:
    system = ReWorld(micro().system)
    fit_system(system, material.train, 0)
    clips = encode_clips(system, material.train)
    assert len(clips.all) == 2 * len(material.train)
    told = [
        replace(clip, plan=replace(clip.plan, negative=clip.plan.trajectory + 1.0))
        if is_expert(clip)
        else clip
        for clip in clips.plain
    ]
    experts = clips.experts(told)
    assert len(experts) == 2 * len(material.experts) > 0
    for clip, image in zip(experts[::2], experts[1::2], strict=True):
        flip = torch.tensor([1.0, -1.0, -1.0])
        assert torch.equal(image.plan.negative, clip.plan.negative * flip)
        assert torch.equal(image.plan.trajectory, clip.plan.trajectory * flip)
        assert not torch.equal(image.latents, clip.latents)
    # Without a pool there are none.
    assert all(clip.plan.negative is None for clip in clips.experts())
