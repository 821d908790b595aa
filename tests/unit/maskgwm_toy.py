"""A very small MaskGWM of two cameras, for the tests of the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from maskworld.backbones.mask_branch import ReconstructionConfig
from maskworld.backbones.mmdit import MMDiTConfig
from maskworld.cli.maskgwm_data import write_cameras
from maskworld.conditioning.signals import Signal
from maskworld.flow import SigmaSchedule
from maskworld.guidance import Guidance
from maskworld.recipes.open import save_release
from maskworld.recipes.recipe import MaskGWMRecipe
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.maskgwm import MaskGWM, MaskGWMConfig
from maskworld.tokenizers.causal_patch import CausalPatchConfig
from maskworld.training.config import Stage

WINDOW, SIZE, FPS, CAMERAS = 5, (16, 32), 5.0, ["front", "front_left"]
CONFIG = MaskGWMConfig(
    network=MMDiTConfig(
        in_channels=6,
        out_channels=6,
        patch_size=1,
        num_layers=2,
        num_heads=2,
        head_dim=8,
        text_dim=0,
        pooled_dim=0,
        position_grid=8,
        position_base=8,
        view_attention="KW",
        max_views=2,
        action_dim=16,
    ),
    tokenizer=CausalPatchConfig(patch_size=8, temporal_stride=2, channels=6),
    text=None,
    signals=(Signal("speed", 1, 10.0), Signal("yaw_rate", 1)),
    reconstruction=ReconstructionConfig(space_kind="spatial_rowwise", decoder_layers=1),
    max_given=2,
    num_frames=WINDOW,
    num_views=2,
    frame_size=SIZE,
    fps=FPS,
)
SAMPLING = FlowSampling(video=SigmaSchedule("uniform", 2), guidance=Guidance())
ROW = Stage("image", num_steps=2, batch_size=2, learning_rate=1e-3, save_every=1)
RECIPE = MaskGWMRecipe(
    name="maskgwm-micro",
    summary="for tests",
    hardware="any",
    system=CONFIG,
    sampling=SAMPLING,
    stages=(ROW, replace(ROW, name="video"), replace(ROW, name="masked")),
)


def loud(config: MaskGWMConfig = CONFIG) -> MaskGWM:
    """A model in which nothing is silent, its tokenizer fitted on noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        system = MaskGWM(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in system.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / max(p.shape[-1], 1) ** 0.5)
    light = torch.randint(0, 200, (8, 3, 3, 1, 1), generator=generator)
    noise = torch.randint(0, 55, (8, 3, 3, *SIZE), generator=generator)
    frames = (light + noise).to(torch.uint8)
    system.tokenizer.fit(frames, generator)  # type: ignore[operator]
    return system.eval()


def save_toy(folder: Path, config: MaskGWMConfig = CONFIG) -> Path:
    save_release(loud(config), folder, SAMPLING)
    write_cameras(folder, CAMERAS[: config.num_views])
    return folder
