"""Speed and memory of STPT beside what users would pick instead, at equal parameter count.

    python benchmarks/stpt_speed.py                       # small, CPU, about three minutes
    python benchmarks/stpt_speed.py --device cuda --dtype bfloat16 \
        --dim 1024 --num-layers 22 --num-heads 16 --vocab-size 8192 --conv dense \
        --grids 16x16x16 24x12x20                         # the paper's size

Every model lives in its own process, so that its peak memory is its own; the parent asks them in
turn (interleaved) and reports medians. The prompt, the sampler (cosine schedule) and the number of
parameters are the same for all; the ratios are within one run. Writes nothing without --out.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODELS = ("stpt", "full-attention", "uvit2d-frames", "autoregressive")
MIB = 2**20
MASKED_SHARE = 0.64
"""Mean of the cosine mask law."""


@dataclass
class Rival:
    """One model on one grid: its process and what it has reported."""

    name: str
    grid: str
    process: subprocess.Popen[str]
    facts: dict[str, Any] = field(default_factory=dict)
    step_seconds: list[float] = field(default_factory=list)
    clip_seconds: list[float] = field(default_factory=list)

    def ask(self, question: str) -> dict[str, Any]:
        """Sends one word, waits for one line of JSON."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(question, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} on {self.grid} ended while asked to {question}.")
        answer: dict[str, Any] = json.loads(line)
        return answer


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grids", nargs="+", default=["8x8x8", "8x8x12", "16x16x16"], help="TxHxW")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--num-layers", type=int, default=4)
    parser.add_argument("--num-heads", type=int, default=4)
    parser.add_argument("--vocab-size", type=int, default=512)
    parser.add_argument("--conv", default="separable", help="STPT's: dense, depthwise, separable")
    parser.add_argument("--num-steps", type=int, default=10, help="of parallel decoding")
    parser.add_argument("--batch-size", type=int, default=2, help="clips per training step")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument(
        "--clock",
        default="wall",
        choices=["wall", "cpu"],
        help="cpu: processor seconds of the process, for a machine that is busy with other work",
    )
    parser.add_argument("--threads", type=int, default=1, help="per process, on a CPU")
    parser.add_argument("--out", type=Path, help="folder for stpt_speed.json and stpt_speed.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


# ---------------------------------------------------------------------------------- the child


def resident() -> float:
    """Resident memory of this process now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MIB


def serve(options: argparse.Namespace) -> None:
    """Builds one model and answers `generate`, `train` and `stop`."""
    import torch
    from stpt_rivals import Size, build_model, seconds, warm_up

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    name, grid_text = options.child.split("@")
    t, h, w = (int(side) for side in grid_text.split("x"))
    shape = (options.vocab_size, options.dim, options.num_layers, options.num_heads)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    size = Size((t, h, w), *shape, options.conv, options.num_steps)
    warm_up(name, size)
    baseline = resident()
    model = build_model(name, size).to(device, dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens = torch.randint(options.vocab_size, (options.batch_size, t, h, w), device=device)
    places = torch.rand(options.batch_size, h * w, device=device).argsort(1)
    tube = (places < round(MASKED_SHARE * h * w)).view(-1, 1, h, w)
    hidden = tube.expand_as(tokens).contiguous()

    def generate() -> None:
        model.eval()
        with torch.inference_mode():
            clip = model.generate()
        assert clip.shape == (1, t, h, w)

    def train() -> None:
        model.train()
        optimizer.zero_grad(set_to_none=True)
        model.training_loss(tokens, hidden).backward()
        optimizer.step()

    def peak() -> float:
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated(device) / MIB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - baseline

    seconds(generate, device, options.clock)
    facts: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "generate_mib": peak(),
    }
    seconds(train, device, options.clock)
    facts["train_mib"] = peak()
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        question = line.strip()
        if question == "stop":
            return
        call = {"generate": generate, "train": train}[question]
        print(json.dumps({"seconds": seconds(call, device, options.clock)}), flush=True)


# --------------------------------------------------------------------------------- the parent


def start(name: str, grid: str) -> Rival:
    command = [sys.executable, __file__, *sys.argv[1:], "--child", f"{name}@{grid}"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    rival = Rival(name, grid, process)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{name} on {grid} did not start; its error stands above.")
    rival.facts = json.loads(line)
    return rival


def measure(options: argparse.Namespace, grid: str) -> list[Rival]:
    """All models on one grid, asked in turn."""
    rivals: list[Rival] = []
    try:
        for name in options.models:
            rivals.append(start(name, grid))
        for _ in range(options.repeats):
            for rival in rivals:
                rival.clip_seconds.append(rival.ask("generate")["seconds"])
                rival.step_seconds.append(rival.ask("train")["seconds"])
    finally:
        for rival in rivals:
            rival.process.communicate("stop\n")
    return rivals


def table(options: argparse.Namespace, rivals: list[Rival]) -> list[dict[str, Any]]:
    """One row per model; ratios to the first model of the grid (STPT unless left out)."""
    rows: list[dict[str, Any]] = []
    for rival in rivals:
        t, h, w = (int(side) for side in rival.grid.split("x"))
        step, clip = (statistics.median(x) for x in (rival.step_seconds, rival.clip_seconds))
        rows.append(
            {
                "grid": rival.grid,
                "model": rival.name,
                "parameters": rival.facts["parameters"],
                "passes": t * h * w if rival.name == "autoregressive" else options.num_steps,
                "train_tokens_per_s": options.batch_size * t * h * w / step,
                "seconds_per_clip": clip,
                "generate_mib": rival.facts["generate_mib"],
                "train_mib": rival.facts["train_mib"],
                "step_seconds": rival.step_seconds,
                "clip_seconds": rival.clip_seconds,
            }
        )
    for row in rows:
        row["train_ratio"] = row["train_tokens_per_s"] / rows[0]["train_tokens_per_s"]
        row["clip_ratio"] = row["seconds_per_clip"] / rows[0]["seconds_per_clip"]
    return rows


HEADER = (
    "| grid t x h x w | model | params M | train tokens/s | ratio | passes | s / clip | ratio "
    "| MiB generate | MiB train |\n|---|---|---|---|---|---|---|---|---|---|"
)


def as_markdown(row: dict[str, Any]) -> str:
    return (
        f"| {row['grid']} | {row['model']} | {row['parameters'] / 1e6:.2f} "
        f"| {row['train_tokens_per_s']:,.0f} | {row['train_ratio']:.2f} | {row['passes']} "
        f"| {row['seconds_per_clip']:.3f} | {row['clip_ratio']:.2f} "
        f"| {row['generate_mib']:,.0f} | {row['train_mib']:,.0f} |"
    )


def main() -> None:
    options = parse_arguments()
    if options.child:
        serve(options)
        return
    print(HEADER, flush=True)
    rows: list[dict[str, Any]] = []
    for grid in options.grids:
        for row in table(options, measure(options, grid)):
            rows.append(row)
            print(as_markdown(row), flush=True)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
        record = {"settings": settings, "machine": platform.platform(), "rows": rows}
        (options.out / "stpt_speed.json").write_text(json.dumps(record, indent=2))
        (options.out / "stpt_speed.md").write_text("\n".join([HEADER, *map(as_markdown, rows)]))


if __name__ == "__main__":
    main()
