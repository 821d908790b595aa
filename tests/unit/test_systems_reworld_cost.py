"""Claims about what ReWorld's intermediate supervision costs (`benchmarks/reworld_cost.py`)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from maskworld.objectives.representation import RepresentationConfig
from maskworld.recipes.reworld_tiny import RECIPE
from maskworld.systems.reworld import ReWorld
from maskworld.types import Batch

GRID = (6, 10)
"""Of reworld-tiny: 72 x 120 pixels in patches of 12."""


def step_flops(
    layers: tuple[int, ...], rival: RepresentationConfig | None = None, size: int = 2
) -> int:
    """Forward and backward of reworld-tiny's stage "video" on latents."""
    config = replace(
        RECIPE.system,
        supervised_layers=layers,
        representation=rival or RepresentationConfig(),
    )
    torch.manual_seed(0)
    model = ReWorld(config).train()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (24, 17, 3, *config.frame_size), generator=generator).byte()
    model.tokenizer.fit(pixels, generator)
    batch = Batch(
        latents=torch.randn(size, 1, 3, config.tokenizer.channels, *GRID, generator=generator),
        captions=[""] * size,
        fps=torch.full((size,), config.fps),
    )
    with FlopCounterMode(display=False) as counter:
        model.training_loss(batch, "video", generator).total.backward()
    return counter.get_total_flops()


def test_the_intermediate_head_costs_at_most_three_percent_at_tiny() -> None:
    plain, supervised = step_flops(()), step_flops((2,))
    assert 1 < supervised / plain <= 1.03
    video = RECIPE.system.video
    tokens = 2 * 3 * GRID[0] * GRID[1]
    by_hand = 3 * 2 * tokens * video.dim * video.out_channels  # forward, to x, to the weight
    assert supervised - plain == by_hand


def test_a_teacher_costs_its_blocks_forward_only_and_the_latents_as_target_cost_little() -> None:
    plain = step_flops(())
    teacher = step_flops((), RepresentationConfig("sra", layer=2, teacher_layer=4)) / plain
    latents = step_flops((), RepresentationConfig("sra2", layer=2)) / plain
    assert 1 + 0.9 * (4 / 6) / 3 < teacher < 1 + 0.9 * (4 / 6)
    assert 1 < latents < 1.05 < teacher
