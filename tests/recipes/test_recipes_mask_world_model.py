"""Every recipe of Mask World Model: complete, of the stated size, able to learn and to resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maskworld.backbones.action_dit import ActionDiTConfig
from maskworld.backbones.ltx import LTXConfig
from maskworld.conditioning.text import SmallTextConfig
from maskworld.data.dataset import MemoryDataset
from maskworld.data.loader import make_loader
from maskworld.nn.config_io import config_from_json, config_to_json
from maskworld.recipes import load_recipe_of, recipe_names
from maskworld.recipes.open import load_mask_world_model, save_release
from maskworld.recipes.recipe import MaskWorldModelRecipe
from maskworld.systems.mask_world_model import SAMPLING, MaskWorldModel, MaskWorldModelConfig
from maskworld.tokenizers.causal_patch import CausalPatchConfig
from maskworld.tokenizers.palette import all_classes
from maskworld.training.config import Stage
from maskworld.training.loop import train
from maskworld.types import Batch, Clip, ControlSample, collate

NAMES = [name for name in recipe_names() if name.startswith("mask-world-model")]


def recipe(name: str) -> MaskWorldModelRecipe:
    return load_recipe_of(MaskWorldModelRecipe, name)


def count(name: str) -> dict[str, int]:
    """Parameters by part on the meta device; the published tokenizer and T5 have none of ours."""
    with torch.device("meta"):
        model = MaskWorldModel(recipe(name).system)
    return {part: sum(p.numel() for p in m.parameters()) for part, m in model.named_children()}


def test_three_scales_are_listed() -> None:
    assert {f"mask-world-model-{scale}" for scale in ("tiny", "small", "paper")} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_recipe_configs_survive_json(name: str) -> None:
    config = recipe(name).system
    assert config_from_json(MaskWorldModelConfig, config_to_json(config), name) == config


@pytest.mark.parametrize("name", NAMES)
def test_every_action_layer_reads_the_block_of_its_depth(name: str) -> None:
    config = recipe(name).system
    assert config.bank_blocks == tuple(range(1, config.video.num_layers + 1))
    assert config.action.num_layers == config.video.num_layers
    assert config.video.joint_views_every == 3
    height, width = config.frame_size
    assert height % config.tokenizer.stride == width % config.tokenizer.stride == 0


def test_recipes_have_the_stated_parameters() -> None:
    found = count("mask-world-model-paper")
    assert found["video"] == 1_923_385_472  # LTX-Video 2B
    assert round(found["action"] / 1e6) == 164  # GE-ACT's expert
    found = count("mask-world-model-small")
    assert round(found["video"] / 1e6) == 34
    assert round(found["action"] / 1e6) == 16
    assert sum(count("mask-world-model-tiny").values()) < 1_700_000


def test_paper_recipe_keeps_the_papers_numbers() -> None:
    found = recipe("mask-world-model-paper")
    system, (dynamics, policy) = found.system, found.stages
    assert (system.num_memory, system.num_views, system.frame_size) == (4, 2, (256, 256))
    assert (system.chunk, system.action.action_dim, system.state_dim) == (36, 15, 8)
    assert (system.action.dim, system.action.num_heads, system.action.num_layers) == (512, 16, 28)
    assert (system.future_frames, system.num_future_latents, system.frame_stride) == (9, 2, 4)
    assert replace(system, future_frames=33).num_future_latents == 5
    assert system.grid == (6, 8, 8)
    assert (system.action_objective, system.trains, system.world_loss_weight) == ("flow", "all", 0)
    assert not system.carries_mean
    assert system.bank_positions == 0
    assert system.dynamics_conditions.p_drop_caption == 0.06
    assert system.dynamics_conditions.memory_noise == 0.1
    assert system.policy_conditions.p_drop_caption == 0
    assert system.policy_conditions.memory_noise == 0.01
    assert (dynamics.num_steps, policy.num_steps) == (30_000, 18_000)
    assert (dynamics.learning_rate, policy.learning_rate) == (3e-4, 5e-5)
    for stage in found.stages:
        assert 8 * stage.batch_size * stage.accumulate == 128
        assert (stage.betas, stage.weight_decay, stage.grad_clip) == ((0.9, 0.95), 1e-5, 1.0)
        assert (stage.schedule, stage.warmup_steps) == ("constant", 1_000)
    assert found.sampling.actions.num_steps == 10
    assert not found.was_run


# ------------------------------------------------------------------------------- tiny, learning


def micro_config() -> MaskWorldModelConfig:
    """mask-world-model-tiny at a size that learns in seconds."""
    tiny = recipe("mask-world-model-tiny").system
    return replace(
        tiny,
        video=LTXConfig(
            in_channels=24,
            out_channels=24,
            num_layers=3,
            num_heads=2,
            head_dim=24,
            caption_channels=16,
            rope_base=(2.0, 16.0, 24.0),
            rope_theta=100.0,
        ),
        action=ActionDiTConfig(
            action_dim=4,
            num_tokens=7,
            dim=32,
            num_heads=2,
            num_layers=3,
            ffn_dim=32,
            video_dim=48,
            ego_dim=0,
        ),
        bank_blocks=(1, 2, 3),
        tokenizer=CausalPatchConfig(patch_size=8, temporal_stride=4, channels=24),
        text=SmallTextConfig(num_buckets=64, dim=16, max_words=4, num_heads=2),
        palette=all_classes(("background", "robot", "object")),
        num_views=1,
        state_dim=2,
        frame_size=(16, 24),
        exec_steps=2,
    )


def clips(number: int = 48, seed: int = 0) -> list[Clip]:
    """A robot at the left that goes to an object: where, only the picture tells."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(number):
        row = 2 + int(torch.randint(0, 9, (), generator=generator))
        start = int(torch.randint(0, 5, (), generator=generator))
        label = torch.zeros(6, 16, 24, dtype=torch.uint8)
        label[:, row : row + 4, 18:22] = 2
        for time in range(6):
            left = start + 2 * time
            label[time, row : row + 4, left : left + 4] = 1
        colours = torch.tensor([[40, 60, 40], [200, 120, 120], [90, 200, 220]])
        frames = colours[label.long()].movedim(-1, 1).to(torch.uint8)
        steps = torch.arange(1, 7)[:, None]
        actions = torch.tensor([[0.1 * (row - 6), 1.0]]).repeat(6, 1)
        states = torch.cat([start + steps / 3.0, torch.full((6, 1), 1.0)], dim=1)
        control = ControlSample(
            torch.tensor([float(start), 1.0]), actions, states, torch.ones(6, dtype=torch.bool)
        )
        made.append(
            Clip(
                frames=frames[None, :1],
                labels=label[None, 1:],
                control=control,
                caption="go to the object",
                fps=20.0,
            )
        )
    return made


def micro_model(data: Batch) -> MaskWorldModel:
    torch.manual_seed(0)
    model = MaskWorldModel(micro_config())
    model.fit_tokenizer(data, torch.Generator().manual_seed(0))
    model.fit_latents(model.clips.encode(data, with_future=True))
    assert data.control is not None
    model.fit_control(data.control)
    return model


def stages(dynamics: int, policy: int) -> tuple[Stage, ...]:
    settings = {"schedule": "constant", "log_every": 1000, "save_every": 5}
    return (
        Stage("dynamics", dynamics, 16, 4e-3, ema_decay=0.9, **settings),  # type: ignore[arg-type]
        Stage("policy", policy, 16, 4e-3, **settings),  # type: ignore[arg-type]
    )


def run(
    folder: Path, rows: tuple[Stage, ...], data: list[Clip], *, resume: bool = False
) -> MaskWorldModel:
    model = micro_model(collate(data))
    train(
        model,
        rows,
        lambda stage: make_loader([MemoryDataset(data)], batch_size=stage.batch_size),
        folder,
        seed=0,
        device="cpu",
        resume=resume,
        show_progress=False,
    )
    return model.eval()


@pytest.mark.slow
def test_tiny_recipe_learns_to_dream_masks_and_to_act_on_what_it_sees(tmp_path: Path) -> None:
    model = run(tmp_path / "run", stages(200, 200), clips())
    unseen = collate(clips(32, seed=1))
    bare = replace(unseen, labels=None)
    few = recipe("mask-world-model-tiny").sampling
    generator = torch.Generator().manual_seed(0)
    chunk = model.act_chunk(bare, generator, few)
    assert unseen.control is not None
    assert unseen.control.actions is not None
    error = (chunk.actions - unseen.control.actions)[..., 0].abs().mean()
    spread = unseen.control.actions[..., 0]
    assert error < 0.35 * (spread - spread.mean()).abs().mean()  # blind: the average action


def test_tiny_recipe_resumes_bit_for_bit_through_its_stages(tmp_path: Path) -> None:
    data = clips(16)
    straight = run(tmp_path / "straight", stages(6, 6), data)
    folder, rows = tmp_path / "stopped", stages(6, 6)
    run(folder, rows[:1], data)
    config = folder / "config.json"  # the same run, of which a stage is still to come
    described = json.loads(config.read_text())
    described["stages"] = json.loads((tmp_path / "straight" / "config.json").read_text())["stages"]
    config.write_text(json.dumps(described))
    resumed = run(folder, rows, data, resume=True)
    assert straight.state_dict().keys() == resumed.state_dict().keys()
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    save_release(straight, tmp_path / "model", SAMPLING)
    release = load_mask_world_model(tmp_path / "model")
    assert release.decoding == SAMPLING
    assert release.system.config == straight.config
