"""Success of a served policy on a suite of LIBERO, by the standard protocol.

    python rollout_libero.py --suite libero_goal --server ws://127.0.0.1:8000 --out results/goal

Ten tasks, 50 fixed initial states each, limits in steps of the world; --ge-compat counts chunks as
GE-ACT's script does, which is more lenient, and its scores need a folder of their own. You bring
LIBERO: a checkout with its assets, robosuite 1.4.0, bddl 1.0.1 and gym 0.25.2 installed with
--no-deps, MuJoCo 3.2.7 to 3.3, and a config.yaml (in ~/.libero, or where LIBERO_CONFIG_PATH says);
whatever is missing is named. A second run with the same --out only does what is missing.

In an environment that cannot hold maskworld (LIBERO's own pins are of Python 3.8), copy
`maskworld/serving/policy_client.py` there and drive the loop yourself: it needs NumPy, msgpack and
websockets alone.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from maskworld.evaluation.libero import LIMITS, NUM_STATES, LiberoMaker, libero_rule
from maskworld.evaluation.manipulation import ManipulationConfig, evaluate_manipulation
from maskworld.evaluation.manipulation_scores import add_success
from maskworld.evaluation.results import Results
from maskworld.serving.policy_client import PolicyClient


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", choices=sorted(LIMITS), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of results")
    parser.add_argument("--server", default="ws://127.0.0.1:8000", help="of the policy")
    parser.add_argument("--tasks", nargs="*", default=[], help="names; all if none are given")
    parser.add_argument("--episodes", type=int, default=NUM_STATES, help="of every task")
    parser.add_argument("--ge-compat", action="store_true", help="count chunks, not steps")
    parser.add_argument("--gripper", choices=("libero", "zero_closes"), default="libero")
    parser.add_argument("--checkpoint", default="last", help="how it was chosen")
    parser.add_argument("--workers", type=int, default=1, help="a crash ends a worker alone")
    args = parser.parse_args()
    with PolicyClient(args.server) as client:
        size = tuple(client.metadata["frame_size"])
        cameras = tuple(client.metadata["cameras"])
    world = LiberoMaker(args.suite, size, cameras, args.gripper)
    config = ManipulationConfig(
        tasks=tuple(args.tasks or world.tasks()),
        seeds=tuple(range(args.episodes)),
        rule=libero_rule(args.suite, ge_compat=args.ge_compat),
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
