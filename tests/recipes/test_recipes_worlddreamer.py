"""Every WorldDreamer recipe: complete, of the stated size, and able to take a step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maskworld.data.dataset import MemoryDataset
from maskworld.data.loader import make_loader
from maskworld.nn.config_io import config_from_json, config_to_json
from maskworld.recipes import load_recipe, recipe_names
from maskworld.systems.worlddreamer import WorldDreamer, WorldDreamerConfig
from maskworld.tokenizers.token_grid import TokenGridConfig
from maskworld.training.config import Stage
from maskworld.training.loop import train
from maskworld.types import Batch, Clip

FULL_SIZE = ("worlddreamer-paper", "worlddreamer-fast")


def without_pixels(config: WorldDreamerConfig) -> WorldDreamerConfig:
    """The config without tokenizer and text weights, which are the user's."""
    codes = TokenGridConfig(vocab_size=config.backbone.vocab_size)
    return replace(config, tokenizer=codes, adversarial=None)


def count(name: str) -> int:
    """Parameters of a recipe's system on the meta device, tokenizer and T5 left out."""
    with torch.device("meta"):
        model = WorldDreamer(without_pixels(load_recipe(name).system))
    return sum(p.numel() for p in model.parameters())


def test_recipes_are_listed_and_loaded_by_their_own_names() -> None:
    names = recipe_names()
    assert {*FULL_SIZE, "worlddreamer-tiny", "worlddreamer-small"} <= set(names)
    for name in names:
        assert load_recipe(name).name == name


def test_an_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'worlddreamer-tiny'"):
        load_recipe("worlddremer-tiny")


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_configs_survive_json(name: str) -> None:
    config = load_recipe(name).system
    assert config_from_json(type(config), config_to_json(config), name) == config


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("worlddreamer-paper", 1_069_351_936),
        ("worlddreamer-fast", 1_051_276_032),
    ],
)
def test_full_size_recipes_have_a_billion_parameters(name: str, parameters: int) -> None:
    assert count(name) == parameters


def test_paper_recipe_keeps_the_papers_numbers() -> None:
    recipe = load_recipe("worlddreamer-paper")
    system, (pretrain, finetune) = recipe.system, recipe.stages
    assert (system.backbone.vocab_size, system.backbone.partition_stride) == (8192, 2)
    assert (system.num_frames, system.frame_size) == (24, (192, 320))
    assert (pretrain.num_frames, pretrain.frame_size) == (16, (256, 256))
    assert system.p_drop_prompt == 0.1
    assert system.masks.tube == 1.0
    assert sum(vars(system.masks).values()) == 1.0
    assert not system.backbone.carry_forward
    assert not system.backbone.action_modulation
    assert not system.integrate_actions
    assert (pretrain.num_steps, pretrain.learning_rate) == (2_000_000, 5e-5)
    assert (finetune.num_steps, finetune.learning_rate) == (20_000, 1e-5)
    assert pretrain.weight_decay == finetune.weight_decay == 0.01
    assert recipe.decoding.num_steps == 10
    assert not recipe.was_run


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_SIZE)
def test_two_layers_at_full_width_take_a_step(name: str) -> None:
    config = without_pixels(load_recipe(name).system)
    config = replace(config, backbone=replace(config.backbone, num_layers=2), text=None)
    model = WorldDreamer(config)
    generator = torch.Generator().manual_seed(0)
    batch = Batch(
        tokens=torch.randint(0, 8192, (1, 1, 2, 4, 4), generator=generator),
        actions=torch.randn(1, 2, 2, generator=generator),
        has_actions=torch.ones(1, dtype=torch.bool),
        fps=torch.full((1,), 2.0),
    )
    before = model.backbone.project.weight.clone()
    optimizer = torch.optim.AdamW(model.parameter_groups("pretrain"), lr=1e-4)
    loss = model.training_loss(batch, "pretrain", generator).total
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    assert not torch.equal(before, model.backbone.project.weight)


def moving_pattern(generator: torch.Generator, num_clips: int = 64) -> list[Clip]:
    """Frames of one code, which goes up or down by one per frame as the yaw rate says."""
    clips = []
    for index in range(num_clips):
        side = 1 if index % 2 else -1
        first = torch.randint(0, 8, (), generator=generator)
        codes = (first + side * torch.arange(4)) % 8
        tokens = codes[:, None, None].expand(4, 4, 6).clone()
        actions = torch.tensor([[5.0, 0.5 * side]]).repeat(4, 1)
        clips.append(Clip(tokens=tokens[None], actions=actions, caption="day", fps=5.0))
    return clips


def tiny_model(seed: int) -> WorldDreamer:
    config = load_recipe("worlddreamer-tiny").system
    config = replace(
        config,
        backbone=replace(config.backbone, num_layers=2, dim=32, ffn_dim=64),
        tokenizer=TokenGridConfig(vocab_size=512),
        num_frames=4,
    )
    torch.manual_seed(seed)
    return WorldDreamer(config)


def run(folder: Path, num_steps: int, clips: list[Clip], resume: bool = False) -> WorldDreamer:
    stage = Stage("world", num_steps, 8, 5e-3, schedule="constant", save_every=10, log_every=1000)
    model = tiny_model(0)
    train(
        model,
        (stage,),
        lambda stage: make_loader([MemoryDataset(clips)], batch_size=stage.batch_size),
        folder,
        seed=0,
        device="cpu",
        resume=resume,
        show_progress=False,
    )
    return model


@pytest.mark.slow
def test_tiny_recipe_learns_more_than_copying(tmp_path: Path) -> None:
    clips = moving_pattern(torch.Generator().manual_seed(0))
    model = run(tmp_path / "run", 400, clips).eval()
    tokens = torch.cat([clip.tokens for clip in clips if clip.tokens is not None])
    actions = torch.stack([clip.actions for clip in clips if clip.actions is not None])
    hidden = torch.ones_like(tokens, dtype=torch.bool)
    hidden[:, 0] = False
    from maskworld.types import Prompt

    prompt = Prompt(["day"] * len(clips), actions, None, torch.full((len(clips),), 5.0))
    with torch.no_grad():
        logits = model.guided_model(prompt, len(clips), 4, 1.0)(tokens, hidden)
    accuracy = (logits.argmax(-1) == tokens[hidden]).float().mean()
    copied = (tokens[:, :1].expand_as(tokens) == tokens)[hidden].float().mean()
    assert copied == 0
    assert accuracy > 0.4  # eight codes: chance is 0.125


def test_tiny_recipe_resumes_bit_for_bit(tmp_path: Path) -> None:
    clips = moving_pattern(torch.Generator().manual_seed(1), 16)
    straight = run(tmp_path / "straight", 20, clips)
    run(tmp_path / "stopped", 10, clips)
    resumed = run(tmp_path / "stopped", 20, clips, resume=True)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
