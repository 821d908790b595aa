"""Success of a served policy on RLBench, by the protocol of Mask World Model's table.

    python rollout_rlbench.py --server ws://127.0.0.1:8000 --out results/rlbench

Six tasks, 20 randomised episodes each, a front and a wrist camera. The paper does not say how
actions are carried out, nor when an episode is given up: --actions chooses, and stands with the
scores (docs/robot_data.md). You bring RLBench with PyRep and CoppeliaSim, and a display or
Xvfb; whatever is missing is named. A second run with the same --out only does what is missing.

In an environment that cannot hold maskworld, copy `maskworld/serving/policy_client.py` there and
drive the loop yourself: it needs NumPy, msgpack and websockets alone.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from maskworld.evaluation.manipulation import ManipulationConfig, evaluate_manipulation
from maskworld.evaluation.manipulation_scores import add_success
from maskworld.evaluation.results import Results
from maskworld.evaluation.rlbench import LIMITS, NUM_EPISODES, TASKS, RLBenchMaker, rlbench_rule
from maskworld.evaluation.robot_episodes import StepRule
from maskworld.serving.policy_client import PolicyClient


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of results")
    parser.add_argument("--server", default="ws://127.0.0.1:8000", help="of the policy")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), help="the paper's six if none")
    parser.add_argument("--episodes", type=int, default=NUM_EPISODES, help="of every task")
    parser.add_argument("--actions", choices=sorted(LIMITS), default="pose")
    parser.add_argument("--step-limit", type=int, help="actions; 10 of keyframes, else 400")
    parser.add_argument("--state", choices=("joints", "pose", "joints+pose"), default="joints")
    parser.add_argument("--checkpoint", default="last", help="how it was chosen")
    parser.add_argument("--workers", type=int, default=1, help="a crash ends a worker alone")
    args = parser.parse_args()
    with PolicyClient(args.server) as client:
        size = tuple(client.metadata["frame_size"])
        cameras = tuple(client.metadata["cameras"])
    world = RLBenchMaker(size, cameras, args.actions, args.state)
    config = ManipulationConfig(
        tasks=tuple(args.tasks),
        seeds=tuple(range(args.episodes)),
        rule=StepRule(args.step_limit) if args.step_limit else rlbench_rule(args.actions),
        world=world.describe(),
        checkpoints={"model": args.checkpoint},
    )
    found = evaluate_manipulation(
        {"model": partial(PolicyClient, args.server)},
        config,
        world,
        args.out,
        num_workers=args.workers,
        on_result=lambda r, done, total: print(f"{done}/{total} {r.key} {r.ending} {r.steps}"),
    )
    results = Results("model", {})
    add_success(results, found)
    results.write(args.out / "metrics.json")
    for name, entry in results.to_dict()["metrics"].items():
        low, high = entry["interval"]
        print(f"{name}: {entry['model']:.1%} ({low:.1%} to {high:.1%}, n = {entry['n']})")


if __name__ == "__main__":
    main()
