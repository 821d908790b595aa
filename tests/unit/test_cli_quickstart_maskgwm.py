"""The MaskGWM quickstart end to end, with a model and a world too small to be any good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import maskworld
from maskworld.cli import quickstart_maskgwm
from maskworld.cli.main import main
from maskworld.cli.maskgwm_material import FilmMaterial, encoded, film_material, fit_tokenizer
from maskworld.evaluation.results import read_results
from maskworld.flow import SigmaSchedule
from maskworld.recipes import load_recipe_of
from maskworld.recipes.recipe import FilmData, MaskGWMRecipe
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.maskgwm import MaskGWM
from maskworld.types import Prompt

LONG = 20
WORLD = FilmData(
    num_worlds=2,
    clips_per_world=3,
    rig_clips_per_world=2,
    num_held_out_worlds=3,
    held_out_clips_per_world=2,
    held_out_rig_clips_per_world=2,
    num_pairs=3,
    num_long=2,
    long_frames=LONG,
)


def micro() -> MaskGWMRecipe:
    recipe = load_recipe_of(MaskGWMRecipe, "maskgwm-tiny")
    stages = tuple(replace(s, num_steps=2, batch_size=2, warmup_steps=0) for s in recipe.stages)
    system, channels = recipe.system, 8
    system = replace(
        system,
        network=replace(
            system.network,
            in_channels=2 * channels,
            out_channels=channels,
            num_layers=2,
            num_heads=1,
            head_dim=16,
            action_dim=16,
        ),
        tokenizer=replace(system.tokenizer, channels=channels, decoder_dim=8, detail_dim=4),
        frame_size=(24, 60),
    )
    sampling = FlowSampling(video=SigmaSchedule("uniform", 2), guidance=recipe.sampling.guidance)
    return replace(recipe, system=system, stages=stages, film=WORLD, sampling=sampling)


@pytest.fixture(scope="module")
def material() -> FilmMaterial:
    return film_material(micro(), 0, 1)


@pytest.fixture
def quickstart(monkeypatch: pytest.MonkeyPatch, material: FilmMaterial) -> Callable[..., int]:
    monkeypatch.setattr(quickstart_maskgwm, "load_recipe_of", lambda _, name: micro())
    monkeypatch.setattr(quickstart_maskgwm, "film_material", lambda *_: material)
    return lambda *arguments: main(
        ["quickstart", "maskgwm", "--workers", "1", *map(str, arguments)]
    )


TRIVIAL = {"copy_last", "blurred_copy", "mean_image"}
PROMISED = {
    "psnr": TRIVIAL | {"reconstruction", "mean_image_of_style"},
    "psnr/all_cameras": TRIVIAL | {"reconstruction"},
    "ssim": {"reconstruction", "copy_last", "blurred_copy"},
    "action_sensitivity/shuffled": {"ignores_actions"},
    "action_sensitivity/mirrored": {"ignores_actions"},
    "steering/frame_2": {"real_renders"},
    "own_future/frame_2": {"ignores_actions"},
    "long/frame_change_error": TRIVIAL,
    "long/luminance_deviation_error": TRIVIAL,
    "long/psnr": TRIVIAL,
    "overlap/error": {"real", "shuffled", "stale", "real_shuffled"},
    "overlap/relative_error": {"real"},
    "seconds_per_clip/dream_mean": set(),
    "seconds_per_clip/dream_sampled": set(),
}


def test_a_failed_run_leaves_nothing_half_written_and_resumes_to_every_promised_number(
    quickstart: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def fail(*_: object) -> None:
        raise ValueError("out of luck")

    with monkeypatch.context() as broken:
        broken.setattr(quickstart_maskgwm, "fit_rig", fail)
        assert quickstart("--out", out) == 2
    assert [path.name for path in out.iterdir()] == ["run"]
    log = out / "run" / "metrics.jsonl"
    before = log.read_bytes()

    assert quickstart("--out", out, "--resume") == 0
    assert log.read_bytes() == before  # not trained again
    content = read_results(out / "metrics.json")
    metrics, protocol = content["metrics"], content["protocol"]
    for name, baselines in PROMISED.items():
        assert baselines <= set(metrics[name]), name
    assert len(metrics["psnr"]["per_horizon"]["model"]) == 7
    assert "best_trivial" in metrics["psnr"]["per_horizon"]
    assert protocol["long_horizon"]["frames"] == LONG
    assert protocol["long_horizon"]["verdicts"]["copy_last"] == "freezes"
    page = (out / "report.html").read_text()
    for anchor in ("long", "cameras", "horizons", "numbers"):
        assert f'<section id="{anchor}">' in page
    for title in ("Counterfactual steering", "Long dreams (twice as fast)", "Two cameras"):
        assert f"<h2>{title}</h2>" in page
    assert list((out / "videos").glob("*.mp4"))
    assert maskworld.load(out / "model").config.num_views == 1
    assert maskworld.load(out / "model-all-cameras").config.num_views == 2
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


def test_held_out_worlds_are_never_trained_on(material: FilmMaterial) -> None:
    trained = {clip.episode for clip in [*material.train, *material.train_rig]}
    held_out = {*material.groups.tolist(), *material.rig_groups.tolist()}
    held_out |= {clip.episode for clip in material.long}
    assert len(held_out) == WORLD.num_held_out_worlds
    assert not trained & held_out


def test_long_drives_still_move_at_their_end(material: FilmMaterial) -> None:
    for clip in material.long:
        assert clip.frames is not None
        assert clip.actions is not None
        assert clip.frames.shape[1] == len(clip.actions) == LONG
        assert clip.actions[-LONG // 4 :, 0].mean() > 0.9


def test_rigs_are_other_drives_than_those_of_the_front_camera(material: FilmMaterial) -> None:
    single = {(c.episode, c.start, float(c.actions[-1, 0])) for c in material.train}
    rig = {(c.episode, c.start, float(c.actions[-1, 0])) for c in material.train_rig}
    assert not single & rig
    assert all(c.frames.shape[0] == 2 for c in material.train_rig)


def test_silent_view_blocks_change_no_dream(material: FilmMaterial) -> None:
    system = micro().system
    torch.manual_seed(0)
    model = MaskGWM(quickstart_maskgwm.one_camera(system))
    fit_tokenizer(model, material.train, 0)
    for parameter in model.network.parameters():  # so that no output is zero
        torch.nn.init.normal_(parameter, std=0.1)
    grown = quickstart_maskgwm.with_view_blocks(model, system, 0)
    clip = encoded(model, material.train[:1], with_mirrored=False)[0]
    given, sampling = clip.latents[None, :, :1], micro().sampling
    dreams = [
        each.eval().generate(
            given, Prompt(None, clip.actions[None]), sampling, torch.Generator().manual_seed(1), 8
        )
        for each in (model, grown)
    ]
    assert torch.equal(dreams[0], dreams[1])


def test_mirror_images_turn_the_other_way(material: FilmMaterial) -> None:
    system = MaskGWM(quickstart_maskgwm.one_camera(micro().system))
    fit_tokenizer(system, material.train, 0)
    clips = encoded(system, material.train, with_mirrored=True)
    half = len(material.train)
    assert len(clips) == 2 * half
    for clip, image in zip(clips[:half], clips[half:], strict=True):
        assert torch.equal(image.actions, clip.actions * torch.tensor([1.0, -1.0]))
        assert not torch.equal(image.latents, clip.latents)
