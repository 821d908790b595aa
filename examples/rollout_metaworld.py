"""Success of a policy in Meta-World, one that is served or one of the world's own.

    python rollout_metaworld.py --out results/expert --policies expert random
    python rollout_metaworld.py --out results/mine --server ws://127.0.0.1:8000 \
        --perturb light distractors=0.5 --episodes 50

The server is `maskworld.serving.policy_server`. A second run with the same --out only does what is
missing, and more tasks, seeds or perturbations may be asked for then; results of another protocol
need another folder. Frames are made as large as the server says that it wants them.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from maskworld.evaluation.manipulation import CLEAN, ManipulationConfig, evaluate_manipulation
from maskworld.evaluation.manipulation_scores import add_success, markdown, robustness_table
from maskworld.evaluation.results import Results
from maskworld.evaluation.robot_episodes import StepRule
from maskworld.evaluation.robot_worlds import METAWORLD_LIMIT, MetaWorldMaker
from maskworld.policies.robot_baselines import RandomActions, WorldExpert
from maskworld.serving.policy_client import PolicyClient

TASKS = ("button-press-topdown-v3", "drawer-open-v3", "window-open-v3")
OWN = {"expert": WorldExpert, "random": partial(RandomActions, (-1,) * 4, (1,) * 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of results")
    parser.add_argument("--server", help="address of a policy server: the policy called model")
    parser.add_argument("--policies", nargs="*", choices=sorted(OWN), default=[])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--episodes", type=int, default=50, help="of every task")
    parser.add_argument("--perturb", nargs="*", default=[], help="light, distractors=0.5, ...")
    parser.add_argument("--limit", type=int, default=METAWORLD_LIMIT, help="steps of an episode")
    parser.add_argument("--checkpoint", default="last", help="how it was chosen")
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    size, policies = (128, 128), {name: OWN[name] for name in args.policies}
    cameras = MetaWorldMaker(size).cameras
    if args.server:
        policies["model"] = partial(PolicyClient, args.server)
        with PolicyClient(args.server) as client:
            size = tuple(client.metadata["frame_size"])
            cameras = tuple(client.metadata["cameras"])
    if not policies:
        raise SystemExit("Expected a policy: pass --server, or --policies expert random.")
    world = MetaWorldMaker(size, cameras)
    config = ManipulationConfig(
        tasks=tuple(args.tasks),
        seeds=tuple(range(args.episodes)),
        rule=StepRule(args.limit),
        world=world.describe(),
        perturbations=(CLEAN, *args.perturb),
        checkpoints={"model": args.checkpoint},
    )
    found = evaluate_manipulation(
        policies,
        config,
        world,
        args.out,
        num_workers=args.workers,
        on_result=lambda r, done, total: print(f"{done}/{total} {r.key} {r.ending} {r.steps}"),
    )
    model = "model" if "model" in policies else next(iter(policies))
    results = Results(model, {})
    add_success(results, found, model)
    results.write(args.out / "metrics.json")
    print(markdown(robustness_table(found, found.policies, model)))


if __name__ == "__main__":
    main()
