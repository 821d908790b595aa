"""What an action of Mask World Model costs, in parts, and what more views cost beside one.

    python benchmarks/policy_latency.py                     # FLOPs at 2B, times at tiny
    python benchmarks/policy_latency.py --repeats 0         # FLOPs and counted passes alone
    python benchmarks/policy_latency.py --render --out RESULT.json

A chunk is: render the cameras (`--render`, Meta-World at 64 x 64), encode the remembered frames,
one pass of the video tower, ten steps of the action tower; `exec_steps` actions share it. Passes
are counted by hooks on the towers while `act_chunk` runs. "dream first" is what MWM-C1 does before
it acts, with two views: denoise the video in ten steps, and decode it.

Times are processor seconds of one thread with random weights, options in turn in random order; the
tables have medians, and ratios round by round with a 95 % bootstrap interval. FLOPs are counted on
the towers alone, by torch's counter, at the paper's size on the meta device: 28 blocks, 2048 wide,
4 + 2 latent frames of 8 x 8 tokens a view, 36 actions.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from maskworld.backbones.action_dit import ActionDiT, ActionDiTConfig
from maskworld.backbones.ltx import LTXConfig, LTXDiT, grid_positions
from maskworld.conditioning.text import SmallTextConfig
from maskworld.flow import SigmaSchedule
from maskworld.guidance import Guidance
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.mask_world_model import SAMPLING, MaskWorldModel, MaskWorldModelConfig
from maskworld.tokenizers.causal_patch import CausalPatchConfig
from maskworld.types import Batch, ControlBatch, FeatureBank

VIEWS = (1, 2, 3)
PAPER_GRID = (6, 8, 8)
"""Latent frames, rows and columns of a view."""
DREAM = FlowSampling(SigmaSchedule("uniform", 10), SigmaSchedule("uniform", 10), Guidance())


def tiny_config(num_views: int) -> MaskWorldModelConfig:
    """6 blocks, 96 wide, 64 x 64 frames: as many tokens a view as in the paper."""
    layers, dim = 6, 96
    return MaskWorldModelConfig(
        video=LTXConfig(
            in_channels=48,
            out_channels=48,
            num_layers=layers,
            num_heads=4,
            head_dim=dim // 4,
            caption_channels=64,
        ),
        action=ActionDiTConfig(
            action_dim=8,
            num_tokens=17,
            dim=dim,
            num_heads=4,
            num_layers=layers,
            ffn_dim=2 * dim,
            video_dim=dim,
            ego_dim=0,
        ),
        bank_blocks=tuple(range(1, layers + 1)),
        tokenizer=CausalPatchConfig(patch_size=8, temporal_stride=8, channels=48),
        text=SmallTextConfig(dim=64),
        num_views=num_views,
        state_dim=4,
        frame_size=(64, 64),
    )


def tiny_system(num_views: int) -> MaskWorldModel:
    """Random weights; tokenizer and ranges fitted to noise."""
    torch.manual_seed(0)
    system = MaskWorldModel(tiny_config(num_views)).eval()
    batch = tiny_batch(num_views, num_frames=13)
    assert batch.control is not None
    system.fit_tokenizer(batch, torch.Generator().manual_seed(0))
    system.fit_control(batch.control)
    return system


def tiny_batch(num_views: int, num_frames: int = 4) -> Batch:
    """One moment of noise, with labels and actions for fitting where it has a future."""
    draw = torch.Generator().manual_seed(1)
    size = 8 if num_frames > 4 else 1
    frames = torch.randint(256, (size, num_views, num_frames, 3, 64, 64), generator=draw)
    labels = torch.randint(3, (size, num_views, 9, 64, 64), generator=draw).byte()
    rows = torch.rand(size, 16, 8, generator=draw)
    real = torch.ones(size, 16, dtype=torch.bool)
    return Batch(
        frames=frames.byte(),
        labels=labels if num_frames > 4 else None,
        control=ControlBatch(rows[:, 0, :4], rows[..., :4], rows[..., 4:], real),
        captions=["open the drawer"] * size,
    )


# ------------------------------------------------------------------------------------- passes


@contextmanager
def watched(system: MaskWorldModel) -> Iterator[dict[str, list[float]]]:
    """Processor seconds of every pass of the two towers."""
    passes: dict[str, list[float]] = {"video": [], "action": []}
    handles = []
    for name in passes:
        module, started = getattr(system, name), [0.0]

        def before(*_: Any, started: list[float] = started) -> None:
            started[0] = time.process_time()

        def after(*_: Any, started: list[float] = started, name: str = name) -> None:
            passes[name].append(time.process_time() - started[0])

        handles += [
            module.register_forward_pre_hook(before),
            module.register_forward_hook(after),
        ]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


def chunk_parts(system: MaskWorldModel, batch: Batch) -> dict[str, float]:
    """Seconds of a chunk and of its parts."""
    draw = torch.Generator().manual_seed(2)
    start = time.process_time()
    with torch.no_grad():
        system.clips.encode(batch, with_future=False)
    encoding = time.process_time() - start
    start = time.process_time()
    with watched(system) as passes:
        system.act_chunk(batch, draw, SAMPLING)
    total = time.process_time() - start
    video, action = sum(passes["video"]), sum(passes["action"])
    rest = total - encoding - video - action
    return {"chunk": total, "encode": encoding, "video": video, "action": action, "rest": rest}


def counted_passes(system: MaskWorldModel, batch: Batch) -> dict[str, int]:
    """How often each tower runs for a chunk.

    Raises:
        RuntimeError: the video tower does not run exactly once.
    """
    with watched(system) as passes:
        system.act_chunk(batch, torch.Generator().manual_seed(2), SAMPLING)
    counts = {name: len(found) for name, found in passes.items()}
    if counts["video"] != 1:
        raise RuntimeError(f"Expected one video pass per chunk, counted {counts}.")
    return counts


# -------------------------------------------------------------------------------------- FLOPs


def counted_flops(step: Callable[[], object]) -> int:
    """Floating-point operations of one call, two per multiplication and addition."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def paper_flops(num_views: int) -> dict[str, int]:
    """The towers at the paper's size, without text and weights: one video pass, the keys of the
    bank, one action step."""
    config = MaskWorldModelConfig()
    video_config = LTXConfig(has_text=False)
    frames, rows, columns = PAPER_GRID
    count = frames * rows * columns
    with torch.device("meta"):
        video, action = LTXDiT(video_config), ActionDiT(config.action)
        z = torch.randn(num_views, count, video_config.in_channels)
        t = torch.rand(num_views, frames)
        state = torch.randn(1, num_views * count, video_config.dim)
        u = torch.randn(1, config.action.num_tokens, config.action.action_dim)
        u_t = torch.rand(1, config.action.num_tokens)
    positions = grid_positions(*PAPER_GRID, 30 / 8, 1, 32, is_causal=False).to("meta")
    bank = FeatureBank((state,) * config.action.num_layers)
    with torch.no_grad():
        projected = action.project(bank)
        return {
            "video": counted_flops(lambda: video(z, t, positions=positions, num_views=num_views)),
            "keys": counted_flops(lambda: action.project(bank)),
            "action_step": counted_flops(lambda: action(u, u_t, projected)),
        }


# -------------------------------------------------------------------------------------- times


def render_seconds(num_views: int, repeats: int) -> list[float]:
    """Processor seconds of drawing a moment of Meta-World, software GL, 64 x 64."""
    from maskworld.worlds.metaworld import CAMERAS, MetaWorld

    world = MetaWorld("drawer-open-v3", cameras=CAMERAS[:num_views], size=(64, 64))
    observation, _ = world.reset(seed=0)
    _ = observation.frames
    seconds = []
    for _ in range(repeats):
        observation, *_ = world.step(np.zeros(4, np.float32))
        start = time.process_time()
        _ = observation.frames
        seconds.append(time.process_time() - start)
    world.close()
    return seconds


def measured(repeats: int) -> dict[str, list[dict[str, float]]]:
    """Parts of a chunk for every number of views, and of dreaming first, in random order."""
    systems = {views: tiny_system(views) for views in VIEWS}
    batches = {views: tiny_batch(views) for views in VIEWS}

    def dream() -> dict[str, float]:
        start = time.process_time()
        systems[2].rollout(batches[2], torch.Generator().manual_seed(2), DREAM)
        return {"chunk": time.process_time() - start}

    steps: dict[str, Callable[[], dict[str, float]]] = {
        **{str(v): lambda v=v: chunk_parts(systems[v], batches[v]) for v in VIEWS},
        "dream first": dream,
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in steps}
    rng = np.random.default_rng(0)
    for step in steps.values():
        step()
    for _ in range(repeats):
        for name in rng.permutation(list(steps)):
            found[name].append(steps[name]())
    return found


def ratio_interval(values: list[float], base: list[float]) -> tuple[float, float, float]:
    """Median of the ratios round by round, and a 95 % bootstrap interval of it."""
    ratios = np.array(values) / np.array(base)
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)


def report_times(found: dict[str, list[dict[str, float]]], exec_steps: int) -> dict[str, Any]:
    """Prints medians in milliseconds and ratios to one view."""
    record: dict[str, Any] = {}
    print(f"\nms of processor time a chunk; an action is 1/{exec_steps} of it (exec_steps)\n")
    print("| views | chunk | encode | video pass | 10 action steps | rest | beside 1 view (95 %) |")
    print("|---|---|---|---|---|---|---|")
    base = [row["chunk"] for row in found["1"]]
    for name, rows in found.items():
        ratio = ratio_interval([row["chunk"] for row in rows], base)
        parts = {key: float(np.median([row[key] for row in rows])) for key in rows[0]}
        record[name] = {"median_seconds": parts, "ratio_to_one_view": ratio}
        cells = [
            f"{1000 * parts[key]:.1f}" if key in parts else ""
            for key in ("chunk", "encode", "video", "action", "rest")
        ]
        print(f"| {name} | {' | '.join(cells)} | " + "{:.2f} ({:.2f} to {:.2f}) |".format(*ratio))
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15, help="rounds of timing; 0 = none")
    parser.add_argument("--render", action="store_true", help="time Meta-World's cameras too")
    parser.add_argument("--out", type=Path, help="write a JSON file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    record: dict[str, Any] = {"machine": platform.platform(), "repeats": options.repeats}
    record["passes"] = counted_passes(tiny_system(2), tiny_batch(2))
    print(f"passes for a chunk: {record['passes']}")
    print("\n| views, 2B | video pass, TFLOP | keys | one action step | video beside 1 view |")
    print("|---|---|---|---|---|")
    record["paper_flops"] = {views: paper_flops(views) for views in VIEWS}
    for views, flops in record["paper_flops"].items():
        share = flops["video"] / record["paper_flops"][1]["video"]
        cells = [f"{flops[key] / 1e12:.3f}" for key in ("video", "keys", "action_step")]
        print(f"| {views} | {' | '.join(cells)} | {share:.3f} |")
    if options.repeats:
        exec_steps = tiny_config(1).exec_steps
        record["times"] = report_times(measured(options.repeats), exec_steps)
    if options.render:
        record["render"] = {v: render_seconds(v, max(options.repeats, 5)) for v in VIEWS}
        for views, seconds in record["render"].items():
            print(f"render {views} views: {1000 * np.median(seconds):.1f} ms of processor time")
    if options.out:
        options.out.write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
