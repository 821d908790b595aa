"""Scores of Mask World Model's quickstart: closed loop beside baselines, and dreamt masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from maskworld.cli.quickstart_parts import spread
from maskworld.cli.robot_material import (
    RobotMaterial,
    control_clips,
    future_frames,
    labels_now,
)
from maskworld.evaluation.manipulation import (
    CLEAN,
    Evaluation,
    ManipulationConfig,
    evaluate_manipulation,
)
from maskworld.evaluation.manipulation_scores import add_success
from maskworld.evaluation.mask_rollouts import score_mask_rollouts
from maskworld.evaluation.results import Results
from maskworld.evaluation.robot_episodes import PolicyMaker, StepRule
from maskworld.evaluation.robot_worlds import MetaWorldMaker
from maskworld.policies.robot import ChunkPolicy, ControlSpec
from maskworld.policies.robot_baselines import RandomActions, Replay, WorldExpert
from maskworld.policies.robot_chunk_net import (
    ChunkNet,
    ChunkNetConfig,
    fit_chunk_net,
    read_demonstrations,
)
from maskworld.policies.robot_world_model import world_model_policy
from maskworld.recipes.recipe import MaskWorldModelRecipe
from maskworld.report import VideoRow
from maskworld.systems.mask_world_model import MaskWorldModel
from maskworld.types import Batch

LOW, HIGH = (-1.0,) * 4, (1.0,) * 4
"""Meta-World's actions."""
NUM_ROLLOUTS = 96
"""Held-out clips on which dreamt masks are scored."""
NUM_SHOWN = 6
LOCK_STEP = 10
"""Episodes that share a forward pass."""
PERTURBED = ("model", "no_world_model")
"""Policies that are tried under perturbations."""
OVERLAY = 0.55
"""Opacity of a mask over the camera's picture."""


@dataclass(frozen=True)
class RobotPolicies:
    """Everyone who is tried on the same initial states."""

    makers: dict[str, PolicyMaker]
    model: ChunkPolicy
    parameters: dict[str, int] = field(default_factory=dict)


def fit_baselines(
    recipe: MaskWorldModelRecipe, material: RobotMaterial, seed: int
) -> dict[str, ChunkNet]:
    """The two policies without a world model: one sees hand and gripper alone, the other the same
    pictures too; regression on the same demonstrations."""
    system, steps = recipe.system, recipe.robot.baseline_steps
    sources = [material.train.episode(i) for i in range(len(material.train))]
    instructions = tuple(sorted({episode.caption for episode in sources}))
    data = read_demonstrations(material.train, system.chunk)
    nets: dict[str, ChunkNet] = {}
    for name, views in (("blind", 0), ("no_world_model", system.num_views)):
        config = ChunkNetConfig(
            instructions,
            material.statistics.state_dim,
            material.statistics.action_dim,
            system.chunk,
            num_views=views,
            frame_size=system.frame_size,
        )
        generator = torch.Generator().manual_seed(seed)
        nets[name] = fit_chunk_net(data, config, generator, num_steps=steps, batch_size=32)
    return nets


def robot_policies(
    model: MaskWorldModel,
    nets: Mapping[str, ChunkNet],
    recipe: MaskWorldModelRecipe,
    material: RobotMaterial,
    seed: int,
) -> RobotPolicies:
    """The model's policy beside the baselines; all of them execute as many steps of a chunk."""
    spec = ControlSpec.of(material.statistics, recipe.system.frame_size, LOW, HIGH)
    own = world_model_policy(model, spec, sampling=recipe.sampling, seed=seed)
    makers: dict[str, PolicyMaker] = {"model": own.twin}
    for name, net in nets.items():
        policy = ChunkPolicy(
            net, spec, memory=own.memory, exec_steps=own.exec_steps, frame_stride=own.frame_stride
        )
        makers[name] = policy.twin
    recordings: dict[str, np.ndarray] = {}
    for number in range(len(material.train)):
        episode: Any = material.train.episode(number)
        recordings.setdefault(episode.caption, np.asarray(episode.actions[1:], np.float32))
    makers |= {
        "replay": partial(Replay, recordings),
        "random": partial(RandomActions, LOW, HIGH),
        "expert": WorldExpert,
    }
    sizes = {name: sum(p.numel() for p in net.parameters()) for name, net in nets.items()}
    sizes["model"] = sum(p.numel() for p in model.parameters())
    return RobotPolicies(makers, own, sizes)


def try_policies(
    policies: RobotPolicies,
    recipe: MaskWorldModelRecipe,
    folder: Path,
    num_workers: int,
) -> Evaluation:
    """All policies on the same unseen initial states, two of them perturbed too. Episodes are kept
    in `folder` as they end."""
    robot = recipe.robot
    world = MetaWorldMaker(recipe.system.frame_size)
    found: list[Evaluation] = []
    clean = ManipulationConfig(
        robot.tasks,
        tuple(range(robot.num_trials)),
        StepRule(robot.step_limit),
        world.describe(),
        checkpoints={"model": "last", "blind": "last", "no_world_model": "last"},
    )
    perturbed = ManipulationConfig(
        robot.tasks,
        tuple(range(robot.num_perturbed_trials)),
        clean.rule,
        clean.world,
        robot.perturbations or (CLEAN,),
        clean.checkpoints,
    )
    few = {name: policies.makers[name] for name in PERTURBED}
    for config, makers, part in ((clean, policies.makers, "clean"), (perturbed, few, "perturbed")):
        if part == "perturbed" and not robot.perturbations:
            continue
        found.append(
            evaluate_manipulation(
                makers,
                config,
                world,
                folder / part,
                num_workers=num_workers,
                batch_size=LOCK_STEP,
                on_result=_progress,
            )
        )
    both = {key: result for each in found for key, result in each.results.items()}
    failures = [failure for each in found for failure in each.failures]
    return Evaluation(found[0].protocol, both, failures, found[0].crashes)


def _progress(result: Any, done: int, total: int) -> None:
    if done % 50 == 0 or done == total:
        print(f"episode {done}/{total}", flush=True)


def score_success(results: Results, evaluation: Evaluation) -> None:
    """Clean scores of everyone, then scores of the perturbed two."""
    clean = {key: r for key, r in evaluation.results.items() if key.perturbation == CLEAN}
    add_success(
        results,
        Evaluation(evaluation.protocol, clean, evaluation.failures, evaluation.crashes),
    )
    protocol = dict(results.protocol["manipulation"])
    rest = {key: r for key, r in evaluation.results.items() if key.perturbation != CLEAN}
    if rest:
        add_success(results, Evaluation(evaluation.protocol, rest))
        told = results.protocol["manipulation"]
        protocol["num_states"] |= told["num_states"]
        protocol["mcnemar_p"] |= told["mcnemar_p"]
    results.protocol["manipulation"] = protocol


@torch.no_grad()
def score_masks(
    results: Results,
    model: MaskWorldModel,
    recipe: MaskWorldModelRecipe,
    material: RobotMaterial,
    seed: int,
) -> list[VideoRow]:
    """Dreamt masks of held-out clips beside the mask of now, copied. Returns clips to show."""
    config = model.config
    if config.target != "mask":
        return []
    source = material.held_out
    clips = control_clips(config, source, 1)
    chosen = spread(len(clips), NUM_ROLLOUTS)
    generator = torch.Generator().manual_seed(seed)
    batch = future_frames(source, clips, chosen)
    assert batch.frames is not None
    assert batch.labels is not None
    memory = batch.frames[:, :, : config.num_memory]
    dreamt: list[torch.Tensor] = []
    for start in range(0, len(chosen), 32):
        rows = slice(start, start + 32)
        asked = Batch(memory[rows], captions=batch.captions[rows])
        labels = model.rollout(asked, generator, recipe.sampling).labels
        assert labels is not None
        dreamt.append(labels)
    guess, real = torch.cat(dreamt), model.palette.group(batch.labels)
    now = model.palette.group(labels_now(source, clips, chosen))
    groups = np.array([clips.moment(i).episode for i in chosen])
    score_mask_rollouts(
        results, real, guess, now, config.palette.names, groups, seed, background=("background",)
    )
    whole = Batch(memory, labels=batch.labels)
    results.protocol["labels_recovered"] = model.clips.recovery(whole)
    return [
        _row(model, batch, real, guess, i, f"{batch.captions[i]} ({chosen[i]})", config.num_memory)
        for i in spread(len(chosen), NUM_SHOWN)
    ]


def _row(
    model: MaskWorldModel,
    batch: Batch,
    real: torch.Tensor,
    guess: torch.Tensor,
    index: int,
    name: str,
    num_memory: int,
) -> VideoRow:
    """Camera, masks that came and dreamt masks over the camera's last given picture."""
    assert batch.frames is not None
    frames = batch.frames[index]
    now, future = frames[:, num_memory - 1 : num_memory], frames[:, num_memory:]
    still = now.expand_as(future)
    panels = {
        "camera": _side_by_side(torch.cat([now, future], dim=1)),
        "masks that came": _side_by_side(torch.cat([now, _over(model, still, real[index])], 1)),
        "dreamt masks": _side_by_side(torch.cat([now, _over(model, still, guess[index])], 1)),
    }
    return VideoRow(name, panels, num_context=1, fps=4, section="Dreamt masks")


def _over(
    model: MaskWorldModel, frames: UInt8[torch.Tensor, "v f c h w"], groups: torch.Tensor
) -> torch.Tensor:
    """Colours of the palette over pictures, but for the background."""
    colours = model.palette.colours.float()
    painted = colours[groups.long()].permute(0, 1, 4, 2, 3)
    mixed = (1 - OVERLAY) * frames.float() + OVERLAY * painted
    return torch.where((groups == 0)[:, :, None], frames, mixed.round().to(torch.uint8))


def _side_by_side(frames: UInt8[torch.Tensor, "v f c h w"]) -> np.ndarray:
    return frames.permute(1, 3, 0, 4, 2).flatten(2, 3).contiguous().numpy()


def film_episodes(policies: RobotPolicies, recipe: MaskWorldModelRecipe) -> list[VideoRow]:
    """One executed episode per task, clean and under each perturbation, to look at."""
    rows = []
    robot, size = recipe.robot, recipe.system.frame_size
    for task in robot.tasks:
        for perturbation in (CLEAN, *robot.perturbations[:2]):
            world: Any = MetaWorldMaker(size)(task, perturbation)
            policy = policies.model.twin()
            policy.reset(0)
            observation, _ = world.reset(seed=0)
            frames, info = [], {"success": False}
            for step in range(robot.step_limit):
                if step % 4 == 0:
                    frames.append(observation.frames)
                observation, _, over, truncated, info = world.step(policy.act(observation))
                if over or truncated:
                    break
            frames.append(observation.frames)
            world.close()
            ending = "success" if info["success"] else "no success"
            rows.append(
                VideoRow(
                    f"{task.removesuffix('-v3')}, {perturbation or 'clean'}",
                    {"executed": _side_by_side(torch.stack(frames, dim=1))},
                    f"{ending} after {step + 1} steps",
                    fps=10,
                    section="Executed episodes",
                )
            )
    return rows
