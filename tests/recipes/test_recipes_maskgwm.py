"""Every MaskGWM recipe: complete, of the stated size, able to take a step; the tiny one learns."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maskworld.backbones.mmdit import MMDiTConfig
from maskworld.conditioning.signals import VISTA_SIGNALS
from maskworld.data.dataset import MemoryDataset
from maskworld.data.loader import make_loader
from maskworld.nn.config_io import config_from_json, config_to_json
from maskworld.recipes import load_recipe_of, recipe_names
from maskworld.recipes.recipe import MaskGWMRecipe
from maskworld.systems.maskgwm import MaskGWM, MaskGWMConfig
from maskworld.tokenizers.causal_patch import CausalPatchConfig
from maskworld.training.config import Stage
from maskworld.training.loop import train
from maskworld.types import Clip, collate

NAMES = [name for name in recipe_names() if name.startswith("maskgwm")]
PAPER = ("maskgwm-long-paper", "maskgwm-mview-paper")
SD3_MEDIUM = 2_028_328_000
"""Parameters of the published image transformer."""


def recipe(name: str) -> MaskGWMRecipe:
    return load_recipe_of(MaskGWMRecipe, name)


def on_meta(name: str) -> MaskGWM:
    with torch.device("meta"):
        return MaskGWM(recipe(name).system)


def test_four_recipes_are_listed() -> None:
    assert {"maskgwm-tiny", "maskgwm-small", *PAPER} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_recipe_configs_survive_json(name: str) -> None:
    config = recipe(name).system
    assert config_from_json(MaskGWMConfig, config_to_json(config), name) == config


@pytest.mark.parametrize("name", NAMES)
def test_a_share_of_every_row_can_be_dropped(name: str) -> None:
    config = recipe(name).system
    masks = config.reconstruction
    assert masks is not None
    tokens = config.frame_size[1] // (config.tokenizer.stride * config.network.patch_size)
    assert (masks.ratio * tokens).is_integer()


@pytest.mark.parametrize("name", PAPER)
def test_paper_recipes_are_sd3_and_what_the_paper_adds(name: str) -> None:
    model = on_meta(name)
    count = {"temporal": 0, "views": 0, "image": 0}
    for key, parameter in model.network.named_parameters():
        part = next((p for p in ("temporal", "views") if f".{p}." in key), "image")
        count[part] += parameter.numel()
    dim, layers = 1536, 24
    square, ffn, frames = dim * dim, 8 * dim * dim + 5 * dim, (256 + 1 + dim + 1) * dim
    # Six modulations, four heads twice, an action to keys and values, feed-forward, frame order
    temporal = 6 * (square + dim) + 8 * (square + dim) + 2 * (square + dim) + ffn + frames
    assert count["image"] == SD3_MEDIUM
    assert count["temporal"] == layers * temporal
    views = 4 * (square + dim) + ffn + 4 * dim + 6 * dim
    assert count["views"] == (layers * views if name == "maskgwm-mview-paper" else 0)


def test_small_recipe_has_the_stated_parameters() -> None:
    count = {
        part: sum(p.numel() for p in module.parameters())
        for part, module in on_meta("maskgwm-small").named_children()
    }
    tokenizer = count.pop("tokenizer")
    assert (round(sum(count.values()) / 1e6), round(tokenizer / 1e6)) == (75, 9)


def test_long_paper_recipe_keeps_the_papers_numbers() -> None:
    found = recipe("maskgwm-long-paper")
    system, stages = found.system, found.stages
    assert system.reconstruction is not None
    assert (system.reconstruction.ratio, system.reconstruction.space_kind) == (0.25, "spatial")
    assert (system.min_given, system.max_given, system.num_frames) == (0, 3, 25)
    assert (system.frame_size, system.signals) == ((288, 512), VISTA_SIGNALS)
    assert (found.sampling.video.num_steps, found.sampling.guidance.cfg_scale) == (30, 4.0)
    steps = {
        kind: sum(s.num_steps for s in stages if s.name.startswith(kind))
        for kind in ("image", "video", "masked")
    }
    assert steps == {"image": 18_000, "video": 24_000, "masked": 40_000}
    assert [s.num_frames for s in stages] == [1, 16, 20, 24, 16, 20, 24, 25]
    assert [32 * s.batch_size for s in stages] == [768] + 7 * [64]
    for stage in stages:
        assert (stage.learning_rate, stage.warmup_steps) == (5e-5, 1_000)
        assert (stage.schedule, stage.accumulate) == ("constant", 1)
    own = {
        "given_noise": 0.0,
        "integrates_actions": False,
        "modulates_by_actions": False,
        "carries_past": False,
        "weighs_by_time": False,
    }
    assert {name: getattr(system, name) for name in own} == own
    assert not found.was_run


def test_mview_paper_recipe_is_the_long_one_with_rows_of_six_cameras() -> None:
    long, found = recipe("maskgwm-long-paper").system, recipe("maskgwm-mview-paper")
    system = found.system
    assert system.reconstruction is not None
    assert replace(system.network, view_attention="none") == long.network
    assert (system.network.view_attention, system.num_views, system.num_frames) == ("KW", 6, 8)
    assert system.reconstruction.space_kind == "spatial_rowwise"
    assert system.reconstruction.ratio == 0.25
    (stage,) = found.stages
    assert (stage.num_steps, stage.learning_rate) == (6_000, 5e-5)
    assert not found.was_run


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_finds_what_it_trains_at_full_size(name: str) -> None:
    model = on_meta(name)
    parts = {id(p): part for part, module in model.named_children() for p in module.parameters()}
    told = {"signals", "modulation"} & set(parts.values())
    expected = {
        "tokenizer": {"tokenizer"},
        "image": {"network"},
        "video": {"network"} | told,
        "masked": {"network", "mask_tokens", "branch"} | told,
    }
    for stage in recipe(name).stages:
        groups = model.parameter_groups(stage.name)
        found = {parts[id(p)] for group in groups for p in group["params"]}
        assert found - {"text_encoder"} == expected[stage.name.split("-")[0]], stage.name


# ------------------------------------------------------------------------------- tiny, learning


def micro_config() -> MaskGWMConfig:
    """maskgwm-tiny at a size that learns in seconds."""
    tiny = recipe("maskgwm-tiny").system
    masks = tiny.reconstruction
    assert masks is not None
    return replace(
        tiny,
        network=MMDiTConfig(
            in_channels=24,
            out_channels=12,
            patch_size=1,
            num_layers=2,
            num_heads=2,
            head_dim=16,
            text_dim=0,
            pooled_dim=0,
            action_dim=32,
        ),
        tokenizer=CausalPatchConfig(
            patch_size=4, temporal_stride=1, channels=12, variance_power=0.0
        ),
        reconstruction=replace(masks, ratio=0.25, decoder_layers=1),
        num_frames=4,
        num_views=1,
        frame_size=(8, 32),
    )


def drives(num_clips: int = 32) -> list[Clip]:
    """A picture that moves a patch a frame to the side that the yaw rate names."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (3, 2, 8), generator=generator, dtype=torch.uint8)
    picture = picture.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    clips = []
    for number in range(num_clips):
        side = 1 if number % 2 else -1
        start = 4 * int(torch.randint(0, 8, (), generator=generator))
        frames = torch.stack([picture.roll(start + 4 * side * t, dims=2) for t in range(4)])
        actions = torch.tensor([[5.0, 0.5 * side]]).repeat(4, 1)
        clips.append(Clip(frames=frames[None], actions=actions, fps=5.0))
    return clips


def run(folder: Path, rows: tuple[Stage, ...], *, resume: bool = False) -> MaskGWM:
    clips = drives()
    torch.manual_seed(0)
    model = MaskGWM(micro_config())
    frames = torch.cat([clip.frames for clip in clips if clip.frames is not None])
    model.tokenizer.fit(frames, torch.Generator().manual_seed(0))
    latents = model._latents_of(collate(clips))
    model.fit_latents(latents)
    told = [replace(c, frames=None, latents=z) for c, z in zip(clips, latents, strict=True)]
    train(
        model,
        rows,
        lambda stage: make_loader([MemoryDataset(told)], batch_size=stage.batch_size),
        folder,
        seed=0,
        device="cpu",
        resume=resume,
        show_progress=False,
    )
    return model


def stages(video: int, masked: int) -> tuple[Stage, ...]:
    settings = {"schedule": "constant", "log_every": 1000, "save_every": 3}
    return tuple(
        Stage(name, steps, 8, 3e-3, ema_decay=0.9, **settings)  # type: ignore[arg-type]
        for name, steps in (("video", video), ("masked", masked))
    )


def velocity(model: MaskGWM, actions: float) -> float:
    batch = collate(drives())
    assert batch.actions is not None
    told = replace(batch, actions=batch.actions * torch.tensor([1.0, actions]))
    with torch.no_grad():
        loss = model.training_loss(told, "video", torch.Generator().manual_seed(5))
    return float(loss.total)


def test_tiny_recipe_learns_and_reads_its_actions(tmp_path: Path) -> None:
    untrained = velocity(run(tmp_path / "fresh", stages(1, 1)), 1.0)
    model = run(tmp_path / "run", stages(100, 60)).eval()
    assert velocity(model, 1.0) < 0.6 * untrained
    assert velocity(model, -1.0) > 1.3 * velocity(model, 1.0)  # the other side


def test_tiny_recipe_resumes_bit_for_bit(tmp_path: Path) -> None:
    straight = run(tmp_path / "straight", stages(4, 5))
    folder = tmp_path / "straight"
    newest = max((folder / "checkpoints").iterdir(), key=lambda path: path.name)
    shutil.rmtree(newest)  # as if it was stopped before
    resumed = run(folder, stages(4, 5), resume=True)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
