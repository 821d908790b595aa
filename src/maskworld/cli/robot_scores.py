"""Scores of Mask World Model's quickstart: closed loop beside baselines, and dreamt masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from maskworld.cli.quickstart_parts import spread
from maskworld.cli.robot_material import RobotMaterial, control_clips
from maskworld.data.control import ControlClips, MemoryPick
from maskworld.evaluation.manipulation import (
    CLEAN,
    Evaluation,
    ManipulationConfig,
    evaluate_manipulation,
)
from maskworld.evaluation.mask_rollouts import DreamtMasks, dream_masks, score_mask_rollouts
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
from maskworld.systems.mask_world_model import MaskWorldModel, MaskWorldModelConfig
from maskworld.types import collate

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
    parameters: dict[str, int]
    """Of those with a network."""


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


def baseline_policies(
    recipe: MaskWorldModelRecipe, material: RobotMaterial, seed: int
) -> RobotPolicies:
    """Everyone beside the model; those with a network are trained here, and all of them execute as
    many steps of a chunk as the model."""
    nets = fit_baselines(recipe, material, seed)
    makers: dict[str, PolicyMaker] = {
        name: net_policy(net, _spec(recipe, material), recipe.system).twin
        for name, net in nets.items()
    }
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
    return RobotPolicies(makers, sizes)


def with_model(
    baselines: RobotPolicies,
    model: MaskWorldModel,
    recipe: MaskWorldModelRecipe,
    material: RobotMaterial,
    seed: int,
) -> RobotPolicies:
    """The model's policy before the baselines."""
    spec = _spec(recipe, material)
    own = world_model_policy(model, spec, sampling=recipe.sampling, seed=seed)
    size = sum(p.numel() for p in model.parameters())
    return RobotPolicies(
        {"model": own.twin, **baselines.makers}, {**baselines.parameters, "model": size}
    )


def _spec(recipe: MaskWorldModelRecipe, material: RobotMaterial) -> ControlSpec:
    return ControlSpec.of(material.statistics, recipe.system.frame_size, LOW, HIGH)


def net_policy(net: ChunkNet, spec: ControlSpec, config: MaskWorldModelConfig) -> ChunkPolicy:
    """A policy without a world model that executes as much of a chunk as the model does."""
    memory = MemoryPick(config.num_memory, "every", stride=config.memory_stride)
    return ChunkPolicy(
        net, spec, memory=memory, exec_steps=config.exec_steps, frame_stride=config.frame_stride
    )


def try_policies(
    policies: RobotPolicies,
    recipe: MaskWorldModelRecipe,
    folder: Path,
    num_workers: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """All policies on the same unseen initial states, those of `PERTURBED` perturbed too. Episodes
    are kept in `folder` as they end, and none is run twice.

    Raises:
        InterruptedError: `should_stop` said so, asked after every episode.
    """
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
    few = {name: policies.makers[name] for name in PERTURBED if name in policies.makers}

    def on_result(result: Any, done: int, total: int) -> None:
        if should_stop():
            raise InterruptedError("Told to stop; the episodes so far are kept.")
        say_progress(result, done, total)

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
                on_result=on_result,
            )
        )
    both = {key: result for each in found for key, result in each.results.items()}
    failures = [failure for each in found for failure in each.failures]
    return Evaluation(found[0].protocol, both, failures, found[0].crashes)


def say_progress(result: Any, done: int, total: int) -> None:
    """Prints every fiftieth episode and the last."""
    if done % 50 == 0 or done == total:
        print(f"episode {done}/{total}", flush=True)


def score_masks(
    results: Results,
    model: MaskWorldModel,
    recipe: MaskWorldModelRecipe,
    material: RobotMaterial,
    seed: int,
) -> list[VideoRow]:
    """Dreamt masks of held-out clips beside the mask of now, copied. Returns clips to show."""
    if model.config.target != "mask":
        return []
    clips = control_clips(model.config, material.held_out, 1)
    chosen = spread(len(clips), NUM_ROLLOUTS)
    dreamt = dream_masks(model, clips, chosen, seed, sampling=recipe.sampling)
    score_mask_rollouts(
        results,
        dreamt.real,
        dreamt.model,
        dreamt.now,
        dreamt.names,
        dreamt.episodes,
        seed,
        others={"reconstruction": dreamt.reconstruction},
    )
    batch = collate([clips[i] for i in chosen])
    results.protocol["labels_recovered"] = model.clips.recovery(batch)
    return [_row(model, material, clips, chosen, dreamt, i) for i in spread(len(chosen), NUM_SHOWN)]


def _row(
    model: MaskWorldModel,
    material: RobotMaterial,
    clips: ControlClips,
    chosen: list[int],
    dreamt: DreamtMasks,
    index: int,
) -> VideoRow:
    """The camera's own future, then masks that came and dreamt ones over its last given picture."""
    moment = clips.moment(chosen[index])
    episode = material.held_out.episode(moment.episode)
    rows = [moment.start, *clips.window.future(moment.start, episode.num_frames - 1)]
    frames = torch.from_numpy(episode.read(rows))
    return dreamt_masks_row(model, f"{episode.caption}, step {moment.start}", frames, dreamt, index)


def dreamt_masks_row(
    model: MaskWorldModel,
    title: str,
    frames: UInt8[torch.Tensor, "v t c h w"],
    dreamt: DreamtMasks,
    index: int,
) -> VideoRow:
    """Pictures of now and the future; masks that came and dreamt ones over the picture of now."""
    now, still = frames[:, :1], frames[:, :1].expand_as(frames[:, 1:])
    panels = {"camera": _beside_each_other(frames)}
    for name, maps in (("masks that came", dreamt.real), ("dreamt masks", dreamt.model)):
        painted = _over_pictures(model, still, maps[index])
        panels[name] = _beside_each_other(torch.cat([now, painted], dim=1))
    return VideoRow(title, panels, num_context=1, fps=4, section="Dreamt masks")


def _over_pictures(
    model: MaskWorldModel, frames: UInt8[torch.Tensor, "v f c h w"], groups: torch.Tensor
) -> torch.Tensor:
    """Colours of the palette over pictures, but for the background."""
    colours = model.palette.colours.float()
    painted = colours[groups.long()].permute(0, 1, 4, 2, 3)
    mixed = (1 - OVERLAY) * frames.float() + OVERLAY * painted
    return torch.where((groups == 0)[:, :, None], frames, mixed.round().to(torch.uint8))


def _beside_each_other(frames: UInt8[torch.Tensor, "v f c h w"]) -> np.ndarray:
    """Cameras side by side, as a video to write."""
    return frames.permute(1, 3, 0, 4, 2).flatten(2, 3).contiguous().numpy()


def film_episodes(maker: PolicyMaker, recipe: MaskWorldModelRecipe) -> list[VideoRow]:
    """One executed episode per task, clean and under the first perturbation, to look at."""
    rows = []
    robot, size = recipe.robot, recipe.system.frame_size
    for task in robot.tasks:
        for perturbation in (CLEAN, *robot.perturbations[:1]):
            world: Any = MetaWorldMaker(size)(task, perturbation)
            policy = maker()
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
                    {"executed": _beside_each_other(torch.stack(frames, dim=1))},
                    f"{ending} after {step + 1} steps",
                    fps=10,
                    section="Executed episodes",
                )
            )
    return rows
