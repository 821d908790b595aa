"""A very small trained model and small recordings, for the tests of the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from maskworld.backbones.stpt import STPTConfig
from maskworld.conditioning.text import SmallTextConfig
from maskworld.data.video_files import write_video
from maskworld.recipes.open import save_release
from maskworld.samplers.parallel import ParallelDecoding
from maskworld.systems.worlddreamer import WorldDreamer, WorldDreamerConfig
from maskworld.tokenizers.patch import PatchTokenizerConfig

WINDOW, SIZE, FPS = 4, (16, 24), 5.0


def moving_frames(
    num_frames: int, size: tuple[int, int] = (32, 48)
) -> UInt8[np.ndarray, "t h w 3"]:
    """Coloured noise that moves one pixel to the right per frame."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    return np.stack([np.roll(image, shift, axis=1) for shift in range(num_frames)])


def write_clip(path: Path, num_frames: int, size: tuple[int, int] = (32, 48)) -> Path:
    write_video(path, moving_frames(num_frames, size), FPS)
    return path


def micro_system() -> WorldDreamer:
    """16 wide, one layer, 16 codes fitted on noise."""
    config = WorldDreamerConfig(
        backbone=STPTConfig(
            vocab_size=16, dim=16, num_layers=1, num_heads=1, ffn_dim=32, num_conv_blocks=0
        ),
        tokenizer=PatchTokenizerConfig(patch_size=8, num_components=4, vocab_size=16),
        text=SmallTextConfig(num_buckets=32),
        num_frames=WINDOW,
        frame_size=SIZE,
        fps=FPS,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        system = WorldDreamer(config)
    frames = torch.from_numpy(moving_frames(20, SIZE)).permute(0, 3, 1, 2)
    system.tokenizer.fit(frames, torch.Generator().manual_seed(0))
    return system.eval()


def save_micro_model(folder: Path) -> Path:
    save_release(micro_system(), folder, ParallelDecoding(num_steps=2))
    return folder
