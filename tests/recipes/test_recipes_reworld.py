"""Every ReWorld recipe: complete, of the stated size, able to take a step, to learn, to resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maskworld.backbones.action_dit import ActionDiTConfig
from maskworld.backbones.ltx import LTXConfig
from maskworld.data.dataset import MemoryDataset
from maskworld.data.loader import make_loader
from maskworld.nn.config_io import config_from_json, config_to_json
from maskworld.recipes import load_recipe_of, recipe_names
from maskworld.recipes.recipe import ReWorldRecipe
from maskworld.systems.reworld import ReWorld, ReWorldConfig
from maskworld.tokenizers.causal_patch import CausalPatchConfig
from maskworld.training.config import Stage
from maskworld.training.loop import train
from maskworld.types import Batch, Clip, PlanBatch, PlanSample, collate

NAMES = [name for name in recipe_names() if name.startswith("reworld")]


def recipe(name: str) -> ReWorldRecipe:
    return load_recipe_of(ReWorldRecipe, name)


def count(name: str) -> dict[str, int]:
    """Parameters by part on the meta device; the published tokenizer and T5 have none of ours."""
    with torch.device("meta"):
        model = ReWorld(recipe(name).system)
    return {part: sum(p.numel() for p in m.parameters()) for part, m in model.named_children()}


def test_three_scales_are_listed() -> None:
    assert {"reworld-tiny", "reworld-small", "reworld-paper"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_recipe_configs_survive_json(name: str) -> None:
    config = recipe(name).system
    assert config_from_json(ReWorldConfig, config_to_json(config), name) == config


@pytest.mark.parametrize("name", NAMES)
def test_heads_and_alignment_sit_at_the_papers_relative_depth(name: str) -> None:
    config = recipe(name).system
    depth, layers = config.video.num_layers, config.action.num_layers
    assert config.supervised_layers == (round(8 / 28 * depth),)
    assert config.alignment_layers == (round(12 / 28 * layers),)
    assert len(config.bank_blocks) == layers
    if layers == depth:
        assert config.bank_blocks == tuple(range(1, depth + 1))
    else:  # tiny: from the first block to the last
        assert (config.bank_blocks[0], config.bank_blocks[-1]) == (1, depth)


def test_paper_recipe_has_the_papers_parameters() -> None:
    found = count("reworld-paper")
    assert found["video"] == 1_923_385_472  # LTX-Video 2B
    assert found["action"] == 131_266_563  # DriveLaW's release; "133 M" in the paper
    assert found["heads"] == 266_368


def test_small_recipe_has_the_stated_parameters() -> None:
    found = count("reworld-small")
    assert found["tokenizer"] == 9_009_324
    assert round(found["video"] / 1e6) == 26
    assert round(found["action"] / 1e6) == 12


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_finds_what_it_trains_at_full_size(name: str) -> None:
    with torch.device("meta"):
        model = ReWorld(recipe(name).system)
    parts = {id(p): part for part, m in model.named_children() for p in m.parameters()}

    def trained(stage: str) -> set[str]:
        return {parts[id(p)] for group in model.parameter_groups(stage) for p in group["params"]}

    video = {"video", "prompter", "heads"}
    for stage in recipe(name).stages:
        kind = stage.name.split("-")[0]
        expected = {
            "tokenizer": {"tokenizer"},
            "video": video,
            "action": {"action"},
            "joint": {"video", "prompter", "action"},
        }[kind]
        assert trained(stage.name) == expected
    assert trained("standard") == {"video", "prompter", "action"}


@pytest.mark.parametrize("name", ["reworld-small", "reworld-paper"])
def test_the_video_goes_from_long_and_small_to_short_and_large(name: str) -> None:
    found = recipe(name)
    motion, detail = (stage for stage in found.stages if stage.name.startswith("video"))
    assert motion.num_frames is not None
    assert detail.num_frames is not None
    assert motion.frame_size is not None
    assert motion.num_frames > detail.num_frames == found.system.num_frames
    assert motion.frame_size < found.system.frame_size == detail.frame_size


def test_paper_recipe_keeps_the_papers_numbers() -> None:
    found = recipe("reworld-paper")
    system = found.system
    first, second, action, joint = found.stages
    assert (system.supervised_layers, system.alignment_layers) == ((8,), (12,))
    assert (system.alignment_weight, system.repulsion_weight) == (0.05, 0.04)
    assert (system.video_times.kind, system.fps) == ("uniform", 8.0)
    assert first.num_steps + second.num_steps == 20_000
    assert (first.learning_rate, first.weight_decay) == (1e-5, 5e-2)
    sizes = [8 * stage.batch_size * stage.accumulate for stage in found.stages]
    assert sizes == [64, 64, 128, 160]
    assert (action.num_steps, joint.num_steps) == (6_000, 10_000)
    assert (action.learning_rate, action.betas, action.weight_decay) == (3e-5, (0.9, 0.95), 1e-5)
    assert (joint.learning_rate, joint.betas, joint.weight_decay) == (3e-5, (0.9, 0.95), 1e-5)
    assert (first.num_frames, first.frame_size) == (121, (512, 512))
    assert (second.num_frames, second.frame_size) == (33, (704, 1280))
    assert found.sampling.video.num_steps == 30
    assert found.sampling.actions.num_steps == 5
    assert found.sampling.guidance.gamma == 1.4
    assert system.text is not None
    assert system.text.dim == system.video.caption_channels == 4096
    assert not found.was_run


@pytest.mark.parametrize("name", NAMES)
def test_windows_of_every_stage_suit_the_tokenizer(name: str) -> None:
    config = recipe(name).system
    for stage in recipe(name).stages:
        height, width = stage.frame_size or config.frame_size
        assert height % config.tokenizer.stride == width % config.tokenizer.stride == 0
        assert (stage.num_frames or config.num_frames) % config.tokenizer.temporal_stride == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reworld-paper", "reworld-small"])
@pytest.mark.parametrize("stage", ["video-1", "action", "joint"])
def test_two_layers_at_full_width_take_a_step(name: str, stage: str) -> None:
    config = recipe(name).system
    config = replace(
        config,
        video=replace(config.video, num_layers=2, has_text=False),
        action=replace(config.action, num_layers=2),
        bank_blocks=(1, 2),
        supervised_layers=(1,),
        alignment_layers=(1,),
        trajectory="navsim",
        delta="beyonddrive",
        text=None,
        num_frames=17,
    )
    torch.manual_seed(0)
    model = ReWorld(config)
    generator = torch.Generator().manual_seed(0)
    channels = config.tokenizer.channels
    plan = PlanBatch(
        torch.randn(1, 4, generator=generator),
        torch.tensor([1]),
        torch.randn(1, 8, 3, generator=generator),
        torch.tensor([True]),
        torch.randn(1, 8, 3, generator=generator),
        torch.tensor([True]),
        ["a"],
    )
    latents = torch.randn(1, 1, 3, channels, 2, 3, generator=generator)
    optimizer = torch.optim.AdamW(model.parameter_groups(stage), lr=1e-4)
    before = model.action.head.project.weight.clone() if stage != "video-1" else None
    loss = model.training_loss(Batch(latents=latents, plan=plan), stage, generator).total
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    if before is not None:
        assert not torch.equal(before, model.action.head.project.weight)


# ------------------------------------------------------------------------------- tiny, learning


def micro_config() -> ReWorldConfig:
    """reworld-tiny at a size that learns in seconds."""
    tiny = recipe("reworld-tiny").system
    return replace(
        tiny,
        video=LTXConfig(
            in_channels=24,
            out_channels=12,
            num_layers=3,
            num_heads=2,
            head_dim=24,
            has_text=False,
            rope_base=(4.0, 16.0, 24.0),
            rope_theta=100.0,
        ),
        action=ActionDiTConfig(
            dim=32, num_heads=2, num_layers=3, ffn_dim=32, video_dim=48, ego_hidden_dim=32
        ),
        bank_blocks=(1, 2, 3),
        tokenizer=CausalPatchConfig(patch_size=8, channels=12, variance_power=0.25),
        supervised_layers=(1,),
        alignment_layers=(1,),
        frame_size=(16, 24),
    )


def drives(num_clips: int = 32) -> list[Clip]:
    """A pattern that moves to one side; the car drives to the same side, at a speed of its own."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (3, 4, 24), generator=generator, dtype=torch.uint8)
    picture = picture.repeat_interleave(4, dim=1)
    clips = []
    for number in range(num_clips):
        side, speed = (1 if number % 2 else -1), 4.0 + number % 5
        start = int(torch.randint(0, 24, (), generator=generator))
        frames = torch.stack([picture.roll(start + side * t, dims=2) for t in range(17)])
        ahead = 0.5 * torch.arange(1, 9)
        path = torch.stack([speed * ahead, side * ahead, 0.1 * side * ahead], dim=1)
        near = path * torch.tensor([1.0, 0.5, 1.0])
        clips.append(
            Clip(
                frames=frames[None],
                actions=torch.tensor([[speed, 0.1 * side]]).repeat(17, 1),
                plan=PlanSample(
                    torch.tensor([speed, 0.0, 0.0, 0.0]), 3, path, near, token=f"scene {number}"
                ),
                fps=5.0,
            )
        )
    return clips


def micro_model(clips: list[Clip], seed: int = 0) -> ReWorld:
    torch.manual_seed(seed)
    model = ReWorld(micro_config())
    frames = torch.stack([clip.frames for clip in clips if clip.frames is not None])
    model.tokenizer.fit(frames.flatten(0, 1), torch.Generator().manual_seed(0))
    from maskworld.tokenizers.latent import encode_views

    model.fit_latents(encode_views(model.tokenizer, frames))
    plans = collate(clips).plan
    assert plans is not None
    model.fit_plans(plans)
    return model


def stages(video: int, action: int, joint: int) -> tuple[Stage, ...]:
    settings = {"schedule": "constant", "log_every": 1000, "save_every": 5}
    return (
        Stage("video", video, 8, 5e-3, ema_decay=0.9, **settings),  # type: ignore[arg-type]
        Stage("action", action, 16, 5e-3, **settings),  # type: ignore[arg-type]
        Stage("joint", joint, 16, 1e-3, **settings),  # type: ignore[arg-type]
    )


def run(
    folder: Path, rows: tuple[Stage, ...], clips: list[Clip], *, resume: bool = False
) -> ReWorld:
    model = micro_model(clips)
    train(
        model,
        rows,
        lambda stage: make_loader([MemoryDataset(clips)], batch_size=stage.batch_size),
        folder,
        seed=0,
        device="cpu",
        resume=resume,
        show_progress=False,
    )
    return model


def losses(model: ReWorld, clips: list[Clip], stage: str) -> float:
    from maskworld.types import collate

    with torch.no_grad():
        found = model.training_loss(collate(clips), stage, torch.Generator().manual_seed(5))
    return float(found.terms["velocity" if stage == "video" else "action_velocity"])


@pytest.mark.slow
def test_tiny_recipe_learns_to_dream_and_to_plan(tmp_path: Path) -> None:
    from maskworld.metrics.image import psnr
    from maskworld.types import Prompt, collate

    clips = drives()
    fresh = micro_model(clips)
    model = run(tmp_path / "run", stages(300, 200, 20), clips).eval()
    assert losses(model, clips, "video") < 0.5 * losses(fresh, clips, "video")
    assert losses(model, clips, "action") < 0.5 * losses(fresh, clips, "action")

    batch = collate(clips)
    assert batch.frames is not None
    sampling = recipe("reworld-tiny").sampling
    prompt = Prompt(None, batch.actions, batch.has_actions, batch.fps, batch.plan)
    past = batch.frames[:, :, :9]
    generator = torch.Generator().manual_seed(0)
    dreamt = model.generate(past, prompt, sampling, generator).frames[:, :, 9:]
    still = batch.frames[:, :, 8:9].expand_as(dreamt)
    real = batch.frames[:, :, 9:]
    assert psnr(dreamt, real).mean() > psnr(still, real).mean() + 1  # copying the last frame

    assert batch.plan is not None
    assert batch.plan.trajectory is not None
    plans = model.plan(batch, generator, sampling)
    error = (plans - batch.plan.trajectory)[..., 1].abs().mean()
    ahead = batch.plan.trajectory[..., 1].abs().mean()  # straight on, at any speed
    assert error < 0.5 * ahead


def test_tiny_recipe_resumes_bit_for_bit_through_its_stages(tmp_path: Path) -> None:
    clips = drives(16)
    straight = run(tmp_path / "straight", stages(6, 6, 6), clips)
    folder = tmp_path / "stopped"
    rows = stages(6, 6, 6)
    run(folder, (rows[0],), clips)  # ends with the video stage
    import json

    config = folder / "config.json"  # the same run, of which two stages are still to come
    described = json.loads(config.read_text())
    described["stages"] = json.loads((tmp_path / "straight" / "config.json").read_text())["stages"]
    config.write_text(json.dumps(described))
    resumed = run(folder, rows, clips, resume=True)
    assert straight.state_dict().keys() == resumed.state_dict().keys()
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_stage_that_averages_ends_with_averaged_weights(tmp_path: Path) -> None:
    clips = drives(8)
    rows = stages(5, 1, 1)[:1]
    averaged = run(tmp_path / "averaged", rows, clips)
    last = run(tmp_path / "last", (replace(rows[0], ema_decay=0.0),), clips)
    start = micro_model(clips)
    name = "video.proj_in.weight"
    moved, ended = (
        (m.state_dict()[name] - start.state_dict()[name]).norm() for m in (averaged, last)
    )
    assert 0 < moved < ended
