"""What each way to train ReWorld's features costs: FLOPs and time of a step beside plain training.

    python benchmarks/reworld_cost.py                 # FLOPs at the paper's size and at tiny, times
    python benchmarks/reworld_cost.py --repeats 0     # FLOPs alone, seconds
    python benchmarks/reworld_cost.py --repeats 20 --out RESULT.json
    python benchmarks/reworld_cost.py --repeats 0 --small-repeats 15   # the head's time at -small

ReWorld's Table 8 asks this at 224 x 224 x 25 frames, batch 1: 4 x 7 x 7 = 196 latent tokens, LTX 2B
without text. FLOPs there are counted on the meta device, without weights or values, by torch's
counter (products of matrices and attention; two per multiplication and addition), forward and
backward. A teacher costs the blocks up to the one that is read, forward only. REPA's encoder is the
user's: counted is a stand-in of ViT-B/14's size on every frame. "tiny" is the recipe reworld-tiny
and its stage "video" on made-up latents, batch 8, counted on the system itself; its stand-in is a
network of the video tower's size on every frame.

"small" is the recipe reworld-small and the last row of its video stages, batch 1: the head alone.

Times are processor seconds of one thread, a step with AdamW of each option in turn in random order;
the table has medians of the ratios to plain training of the same round, and a 95 % bootstrap
interval of the median. Latents are made once and for all; their making is no part of a step.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from maskworld.backbones.ltx import LTXConfig, LTXDiT, VelocityHead, grid_positions
from maskworld.objectives.representation import RepresentationConfig, RepresentationObjective
from maskworld.recipes.reworld_small import RECIPE as SMALL
from maskworld.recipes.reworld_tiny import RECIPE
from maskworld.systems.reworld import ReWorld
from maskworld.types import Batch

OPTIONS = {  # name: what is trained, and the paper's Table 8
    "vanilla": ("none", "1"),
    "intermediate head": ("none", "1.003"),
    "SRA": ("sra", "about 1.4"),
    "SRA2": ("sra2", "not given"),
    "Self-Flow": ("self_flow", "about 1.4"),
    "REPA, stand-in encoder": ("repa", "about 1.7"),
}
HEAD = "intermediate head"
PAPER_GRID, PAPER_FRAMES = (4, 7, 7), 25
VIT_B = LTXConfig(
    in_channels=588, out_channels=768, num_layers=12, num_heads=12, head_dim=64, has_text=False
)
VIT_TOKENS = 257
"""ViT-B/14 at 224 x 224: patches of 14 x 14 x 3, 16 x 16 of them and a class token."""


# ------------------------------------------------------------------------------------- FLOPs


def counted(step: Callable[[], object]) -> int:
    """FLOPs of one call."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def paper_flops(name: str) -> int:
    """A training step of LTX 2B on the meta device, composed as `ReWorld._video_terms` does."""
    kind, _ = OPTIONS[name]
    config = LTXConfig(has_text=False)
    frames, rows, columns = PAPER_GRID
    tokens = frames * rows * columns
    with torch.device("meta"):
        network = LTXDiT(config)
        head = VelocityHead(config.dim, config.out_channels)
        options = RepresentationConfig(kind)  # type: ignore[arg-type]
        objective = RepresentationObjective(options, network, 28, config.dim, config.in_channels)
        x = torch.randn(1, tokens, config.in_channels)
        positions = torch.rand(1, 3, tokens)
        encoder, patches = LTXDiT(VIT_B), torch.randn(PAPER_FRAMES, VIT_TOKENS, 588)
    # A time per latent frame; Self-Flow's student has one per token, which costs its embedding
    # and modulation. They go in as two equal halves of the tokens, since the network looks for
    # equal times among one per token, and there is no looking at values here.
    groups = tokens // 2 if kind == "self_flow" else frames
    times = torch.rand(1, groups, device="meta")

    def step() -> None:
        out = network(x, times, positions=positions, return_blocks=(8,))
        loss = out.velocity.sum()
        if name == HEAD:
            loss = loss + head(out.blocks[8], out.time).sum()
        if kind != "none":
            loss = loss + objective.projector(out.blocks[8]).sum()
        with torch.no_grad():
            if objective.config.has_teacher:
                frame_times = torch.rand(1, frames, device="meta")
                objective.teacher(x, frame_times, positions=positions, last_block=20)
            if kind == "repa":
                places = torch.rand(1, 3, VIT_TOKENS, device="meta")
                encoder(patches, torch.rand(PAPER_FRAMES, device="meta"), positions=places)
        loss.backward()

    total = counted(step)
    if kind == "self_flow":  # the other half of the times: three linear layers, three passes
        dim = config.dim
        total += 3 * 2 * (tokens - groups) * (256 * dim + dim * dim + 6 * dim * dim)
    return total


def tiny_system(name: str) -> ReWorld:
    """reworld-tiny with one option, weights alike where they are shared."""
    kind, _ = OPTIONS[name]
    config = replace(
        RECIPE.system,
        supervised_layers=RECIPE.system.supervised_layers if name == HEAD else (),
        representation=RepresentationConfig(
            kind,  # type: ignore[arg-type]
            layer=2,
            teacher_layer=4,
            feature_dim=96,
        ),
    )
    torch.manual_seed(0)
    system = ReWorld(config).train()
    height, width = config.frame_size
    shape = (24, config.num_frames, 3, height, width)
    generator = torch.Generator().manual_seed(0)
    system.tokenizer.fit(torch.randint(256, shape, generator=generator).byte(), generator)
    system.representation.use_encoder(StandInEncoder(config.video))
    return system


class StandInEncoder(nn.Module):
    """A video tower's blocks over the 12 x 12 patches of single frames."""

    def __init__(self, like: LTXConfig) -> None:
        super().__init__()
        self.network = LTXDiT(replace(like, in_channels=432, out_channels=like.dim))

    def forward(self, frames: Tensor) -> Tensor:
        b, t = frames.shape[:2]
        patches = frames.float().unfold(-2, 12, 12).unfold(-2, 12, 12)  # b t c gh gw 12 12
        gh, gw = patches.shape[3:5]
        tokens = patches.permute(0, 1, 3, 4, 2, 5, 6).reshape(b * t, gh * gw, -1) / 255
        places = grid_positions(1, gh, gw, 5.0, 1, 12)
        states = self.network(tokens, torch.zeros(b * t), positions=places).velocity
        return states.view(b, t, gh, gw, -1)


def tiny_batch(size: int = 8) -> Batch:
    """Made-up latents of the recipe's shape, with frames for REPA."""
    config = RECIPE.system
    height, width = config.frame_size
    patch = config.tokenizer.patch_size  # type: ignore[union-attr]
    generator = torch.Generator().manual_seed(1)
    grid = (height // patch, width // patch)
    frames = torch.randint(256, (size, 1, config.num_frames, 3, height, width), generator=generator)
    return Batch(
        latents=torch.randn(size, 1, 3, config.tokenizer.channels, *grid, generator=generator),
        frames=frames.byte(),
        actions=torch.rand(size, config.num_frames, 2, generator=generator),
        has_actions=torch.ones(size, dtype=torch.bool),
        captions=[""] * size,
        fps=torch.full((size,), config.fps),
    )


def small_system(name: str) -> ReWorld:
    """reworld-small with the head or without; its tokenizer is not asked for anything."""
    layers = SMALL.system.supervised_layers if name == HEAD else ()
    torch.manual_seed(0)
    return ReWorld(replace(SMALL.system, supervised_layers=layers)).train()


def small_batch() -> Batch:
    """Made-up latents of one clip."""
    config, generator = SMALL.system, torch.Generator().manual_seed(1)
    height, width = config.frame_size
    stride, frames = config.tokenizer.stride, config.tokenizer.temporal_stride
    tokens = (config.num_frames - 1) // frames + 1
    shape = (1, 1, tokens, config.tokenizer.channels, height // stride, width // stride)
    return Batch(
        latents=torch.randn(shape, generator=generator),
        actions=torch.rand(1, config.num_frames, 2, generator=generator),
        has_actions=torch.ones(1, dtype=torch.bool),
        captions=[""],
        fps=torch.full((1,), config.fps),
    )


def training_step(system: ReWorld, batch: Batch) -> Callable[[], None]:
    """Loss, gradient and AdamW of the stage "video"."""
    groups = system.parameter_groups("video")
    trained = {id(p) for group in groups for p in group["params"]}
    for parameter in system.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    optimizer = torch.optim.AdamW(groups, lr=1e-4, fused=True)
    generator = torch.Generator().manual_seed(2)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        system.training_loss(batch, "video", generator).total.backward()
        optimizer.step()

    return step


# ------------------------------------------------------------------------------------- times


def interleaved(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Processor seconds of every step, each round in another order."""
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(repeats):
        for name in rng.permutation(list(steps)):
            start = time.process_time()
            steps[name]()
            seconds[name].append(time.process_time() - start)
    return seconds


def ratio_interval(times: list[float], base: list[float]) -> tuple[float, float, float]:
    """Median of the ratios round by round, and a 95 % bootstrap interval of it."""
    ratios = np.array(times) / np.array(base)
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15, help="rounds of timing; 0 = none")
    parser.add_argument("--small-repeats", type=int, default=0, help="rounds of timing at -small")
    parser.add_argument("--out", type=Path, help="write a JSON file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    batch = tiny_batch()
    steps = {name: training_step(tiny_system(name), batch) for name in OPTIONS}
    paper = {name: paper_flops(name) for name in OPTIONS}
    tiny = {name: counted(step) for name, step in steps.items()}
    seconds = interleaved(steps, options.repeats) if options.repeats else {}
    plain = f"{paper['vanilla'] / 1e12:.3f} TFLOP at 2B, {tiny['vanilla'] / 1e9:.2f} GFLOP at tiny"
    if seconds:
        plain += f", {statistics.median(seconds['vanilla']):.3f} s of processor time"
    print(f"a plain step: {plain}")
    print("\n| option | FLOPs, 2B | FLOPs, tiny | time, tiny (95 %) | paper's Table 8 |")
    print("|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for name, (_, published) in OPTIONS.items():
        row: dict[str, Any] = {
            "option": name,
            "flops_2b": paper[name] / paper["vanilla"],
            "flops_tiny": tiny[name] / tiny["vanilla"],
        }
        told = "not run"
        if seconds:
            row["time"] = ratio_interval(seconds[name], seconds["vanilla"])
            row["seconds"] = seconds[name]
            told = "{:.3f} ({:.3f} to {:.3f})".format(*row["time"])
        rows.append(row)
        print(
            f"| {name} | {row['flops_2b']:.4f} | {row['flops_tiny']:.4f} | {told} | {published} |"
        )
    if options.small_repeats:
        batch = small_batch()
        pair = {name: training_step(small_system(name), batch) for name in ("vanilla", HEAD)}
        found = interleaved(pair, options.small_repeats)
        ratio = ratio_interval(found[HEAD], found["vanilla"])
        told = "{:.3f} ({:.3f} to {:.3f})".format(*ratio)
        plain_seconds = statistics.median(found["vanilla"])
        print(f"\nthe head's time at -small, batch 1: {told} of {plain_seconds:.2f} s")
        rows.append({"option": "head at -small", "time": ratio, "seconds": found[HEAD]})
    if options.out:
        record = {"machine": platform.platform(), "repeats": options.repeats, "rows": rows}
        options.out.write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
