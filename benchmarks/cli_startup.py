"""Seconds until `maskworld` has printed its help, beside bare Python and beside importing torch.

    python benchmarks/cli_startup.py [REPEATS]

Each line is the best of the repeats in a fresh process: what the machine can do when nothing else
runs. The goal is under one second for every help.
"""

from __future__ import annotations

import subprocess
import sys
import time

GOAL = 1.0  # seconds
VERBS = ("quickstart", "data", "train", "generate", "evaluate", "recipes", "doctor")
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import maskworld": ["-c", "import maskworld"],
    "maskworld --help": ["-m", "maskworld", "--help"],
    **{f"maskworld {verb} --help": ["-m", "maskworld", verb, "--help"] for verb in VERBS},
    "maskworld recipes": ["-m", "maskworld", "recipes"],
}


def best_of(arguments: list[str], repeats: int) -> float:
    """Seconds of the fastest run of Python with `arguments`."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def main() -> int:
    """Prints the table; 1 if a help takes longer than the goal."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    slow = []
    for name, arguments in COMMANDS.items():
        seconds = best_of(arguments, repeats)
        print(f"{name:28} {seconds:6.2f} s", flush=True)
        if name.startswith("maskworld") and seconds > GOAL:
            slow.append(name)
    if slow:
        print(f"over {GOAL:g} s: {', '.join(slow)}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
