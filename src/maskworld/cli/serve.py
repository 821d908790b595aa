"""`maskworld serve`: a trained policy behind a websocket."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from maskworld.policies.robot import ControlSpec
    from maskworld.systems.mask_world_model import MaskWorldModel


@dataclass(frozen=True)
class ServeOptions:
    """Serve a Mask World Model's policy over a websocket until Ctrl-C. Clients tell what the robot
    senses and get actions in its units (docs/robot_policies.md has a client). There is no password:
    by default this machine alone is answered. Needs the extra serve.

    Examples:
      maskworld serve run/model
      maskworld serve run/model --port 9000 --exec-steps 4 --device cuda
      python examples/rollout_metaworld.py --server ws://127.0.0.1:8000 --out results
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """Folder of a trained model (RUN/model)."""
    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes a free one."""
    exec_steps: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Actions of a chunk that are carried out; default: as the model was made."""
    low: Annotated[tuple[float, ...], tyro.conf.arg(metavar="X ...", help_behavior_hint="")] = ()
    """Smallest action that the robot takes, one number per dimension; default: the smallest that
    was demonstrated."""
    high: Annotated[tuple[float, ...], tyro.conf.arg(metavar="X ...", help_behavior_hint="")] = ()
    """Largest; default: the largest that was demonstrated."""
    seed: int = 0
    """Of sampling, beside that of each episode."""
    device: str = "auto"
    """cpu, cuda, mps; auto: a GPU where there is one."""


def serve(options: ServeOptions) -> None:
    """Loads the model and answers until it is stopped.

    Raises:
        ValueError: a model that has not learnt to act, or a range that does not fit it.
    """
    from maskworld.policies.robot_world_model import world_model_policy
    from maskworld.recipes.open import load_mask_world_model
    from maskworld.serving.policy_server import PolicyServer
    from maskworld.training.distributed import choose_device, processes_from_environment

    release = load_mask_world_model(options.model)
    spec = spec_of(release.system, options)
    device = choose_device(options.device, processes_from_environment())
    policy = world_model_policy(
        release.system.to(device),
        spec,
        exec_steps=options.exec_steps,
        sampling=release.decoding,
        seed=options.seed,
    )
    try:
        server = PolicyServer(policy.twin, host=options.host, port=options.port)
    except ImportError as error:
        raise ValueError(
            f"Expected websockets and msgpack, found none ({error}): pip install maskworld[serve]."
        ) from error
    except OSError as error:
        raise ValueError(
            f"Expected a free port, found {options.host}:{options.port} taken ({error}): pass "
            "another --port."
        ) from error
    print(
        f"{options.model} at {server.url}\n"
        f"cameras {', '.join(spec.cameras)} of {spec.frame_size[0]}x{spec.frame_size[1]}, "
        f"{spec.state_dim} numbers of state, {spec.action_dim} of action, {spec.fps:g} steps/s; "
        "Ctrl-C stops",
        flush=True,
    )
    server.serve_forever()


def spec_of(system: MaskWorldModel, options: ServeOptions) -> ControlSpec:
    """What clients must send and will get: of the data that the model was trained on.

    Raises:
        ValueError: no statistics beside the model, or another number of --low or --high.
    """
    from maskworld.cli.robot_data import STATISTICS_FILE
    from maskworld.data.control_statistics import ACTION, ControlStatistics
    from maskworld.policies.robot import ControlSpec

    statistics = ControlStatistics.load(options.model / STATISTICS_FILE)
    seen = statistics.stats[ACTION]
    low, high = options.low or tuple(seen["min"]), options.high or tuple(seen["max"])
    for name, values in (("--low", low), ("--high", high)):
        if len(values) != statistics.action_dim:
            raise ValueError(
                f"Expected {statistics.action_dim} numbers of {name}, one per dimension of the "
                f"action, found {len(values)}."
            )
    if flat := [i for i, (a, b) in enumerate(zip(low, high)) if a >= b]:
        raise ValueError(
            f"Expected --low below --high in every dimension, found others in {flat} (of the "
            "demonstrations, where you pass none): pass the range of the robot."
        )
    return ControlSpec.of(statistics, system.config.frame_size, low, high)
