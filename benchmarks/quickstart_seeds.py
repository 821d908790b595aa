"""The quickstart over several seeds, as a Markdown table: mean and range of every metric.

    python benchmarks/quickstart_seeds.py --seeds 0 1 2 --out runs/seeds      # runs what is missing
    python benchmarks/quickstart_seeds.py --runs runs/seeds/seed-*            # only prints

Each seed has its own worlds, weights, batches and dreams. See docs/worlddreamer.md for results.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from maskworld.evaluation.results import RESERVED, read_results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--runs", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    runs = list(options.runs)
    for seed in options.seeds:
        run = options.out / f"seed-{seed}"
        if not (run / "metrics.json").is_file():
            command = ["-m", "maskworld", "quickstart", "--seed", str(seed), "--out", str(run)]
            subprocess.run([sys.executable, *command], check=True)
        runs.append(run)
    results = [read_results(run / "metrics.json") for run in runs]
    print(table(results))
    print()
    print(horizon_table(results))
    print()
    seconds = [result["protocol"]["seconds"] for result in results]
    for result, phases in zip(results, seconds):
        print(f"seed {result['protocol']['seed']}: {phases}, sum {sum(phases.values()):.0f} s")


def spread(values: list[float]) -> str:
    mean = sum(values) / len(values)
    return f"{mean:.3g} ({min(values):.3g} to {max(values):.3g})"


def table(results: list[dict]) -> str:
    """One line per metric: the model over the seeds, and its baselines."""
    lines = ["| metric | model: mean (range over seeds) | beside it | n |", "|---|---|---|---|"]
    for name, first in results[0]["metrics"].items():
        entries = [result["metrics"].get(name, first) for result in results]
        others = [key for key in first if key not in RESERVED]
        beside = ", ".join(f"{key} {spread([entry[key] for entry in entries])}" for key in others)
        model = spread([entry["model"] for entry in entries])
        lines.append(f"| {name} | {model} | {beside or '-'} | {first['n']} |")
    return "\n".join(lines)


def horizon_table(results: list[dict]) -> str:
    """PSNR at every horizon step, averaged over the seeds; the margin as the worst seed."""
    curves = [result["metrics"]["psnr"]["per_horizon"] for result in results]
    steps = len(curves[0]["model"])
    lines = [
        "| PSNR, dB | " + " | ".join(str(step + 1) for step in range(steps)) + " |",
        "|---" * (steps + 1) + "|",
    ]
    for name in curves[0]:
        means = [sum(curve[name][i] for curve in curves) / len(curves) for i in range(steps)]
        lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in means) + " |")
    for label, ours, theirs in (
        ("model over best_trivial, worst seed", "model", "best_trivial"),
        ("model_argmax over copy_last, worst seed", "model_argmax", "copy_last"),
    ):
        margins = [min(c[ours][i] - c[theirs][i] for c in curves) for i in range(steps)]
        lines.append(f"| {label} | " + " | ".join(f"{value:+.2f}" for value in margins) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
