"""The work of `maskworld evaluate` for ReWorld: dreams of held-out clips, plans in scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from maskworld.cli.dream_scores import load_networks, score_dreamt_videos, scored_frames
from maskworld.cli.evaluate import EvaluateOptions
from maskworld.cli.gallery import clip_rows
from maskworld.cli.quickstart_parts import spread
from maskworld.cli.reworld_data import with_plans
from maskworld.cli.reworld_dreaming import with_guidance
from maskworld.cli.scoring import independent_groups, spread_clips, write_scores
from maskworld.data.dataset import ClipDataset
from maskworld.data.sources.tokens import TokenSource
from maskworld.evaluation.baselines import TrivialFutures
from maskworld.evaluation.closed_loop import ClosedLoopConfig, add_closed_loop, drive
from maskworld.evaluation.flow_prediction import (
    POSTERIOR_MEAN,
    dream,
    reconstruct,
    score_dream_speed,
    score_flow_sensitivity,
)
from maskworld.evaluation.futures import score_futures
from maskworld.evaluation.planning import score_planning, standard_planners
from maskworld.evaluation.results import Results
from maskworld.interfaces import Planner
from maskworld.nn.config_io import config_to_json
from maskworld.policies import ConstantVelocity
from maskworld.preparation.collect import SCENE_FPS
from maskworld.preparation.planning_clips import MomentPlan, collect_planning_clips
from maskworld.preparation.planning_scenes import collect_planning_scenes
from maskworld.recipes.open import drives_of, load_reworld, open_dataset, open_source
from maskworld.report import VideoRow
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.reworld import ReWorld, ReWorldConfig
from maskworld.types import Batch, Clip, collate

SCENES_FROM, NUM_WORLDS = 500_000, 24
"""Held-out worlds of the driving world, which `maskworld data collect` numbers from 0. Ours."""
EGO_WORLDS, EGO_CLIPS = 64, 8
"""Worlds and moments of each on which the planner of ego states alone is trained. Ours."""


def score_reworld(options: EvaluateOptions) -> None:
    """Everything is computed before the first file is written."""
    if options.num_context is not None:
        raise ValueError(
            "Expected no --num-context for a model of ReWorld: it is given as many past frames as "
            "it was trained with."
        )
    if options.world is not None and options.scenes < 2:
        raise ValueError(f"Expected --scenes of at least 2, found {options.scenes}.")
    if options.world is None and (options.reactive or options.beside):
        raise ValueError("Expected --world with --reactive and --beside, found none.")
    if options.reactive and not 2 <= options.drives <= NUM_WORLDS:
        raise ValueError(f"Expected --drives of 2 to {NUM_WORLDS}, found {options.drives}.")
    release = load_reworld(options.model)
    system, config = release.system, release.system.config
    if options.num_frames not in (None, config.num_frames):
        raise ValueError(
            f"Expected clips of {config.num_frames} frames, as the model was trained, found "
            f"--num-frames {options.num_frames}: leave it out."
        )
    sampling = with_guidance(release.decoding, gamma=options.gamma)
    results = Results(system.name, _protocol(options, system, sampling))
    rows = _score_dreams(results, options, system, sampling) if options.data else []
    if options.world is not None:
        score_in_drive(results, options, system, sampling)
    write_scores(options.out, results, rows)


def _score_dreams(
    results: Results, options: EvaluateOptions, system: ReWorld, sampling: FlowSampling
) -> list[VideoRow]:
    """Adds PSNR and SSIM per horizon step beside the trivial futures, and what the actions do."""
    config, seed = system.config, options.seed
    now = config.num_past
    clips, spans = read_recordings(options.data, config, options.num_clips)
    train, _ = read_recordings(options.train_data, config, options.num_clips)
    groups, units = independent_groups(clips, spans)
    batch = _told(collate(clips), config)
    assert batch.frames is not None
    results.protocol |= {
        "clips": len(clips),
        "intervals": f"95 % bootstrap over {units}",
        "fps": clips[0].fps,
        "clips_with_ego": len(clips) if batch.plan is not None else 0,
        "actions": batch.actions is not None,
    }
    networks = load_networks(options, len(clips), scored_frames(options, config.num_frames, now))
    shown = collate(train).frames if train else batch.frames
    assert shown is not None
    trivial = TrivialFutures.fit(shown, now).predict(
        batch.frames[:, :, :now], batch.frames.shape[2] - now
    )

    def drawn(how: FlowSampling) -> Any:
        generator = torch.Generator().manual_seed(seed)
        return dream(system, batch, how, generator, options.batch_size)

    mean, sampled, kept = drawn(POSTERIOR_MEAN), drawn(sampling), reconstruct(system, batch)
    others = {"model_sampled": sampled.frames[:, :, now:], "reconstruction": kept[:, :, now:]}
    real = batch.frames[:, :, now:]
    score_futures(results, real, mean.frames[:, :, now:], others, trivial, groups, seed)
    if batch.actions is not None and config.future_actions == 2:
        score_flow_sensitivity(results, system, batch, groups, seed)
    score_dream_speed(results, "dream_sampled", sampled.seconds, len(batch))
    score_dreamt_videos(
        results,
        options,
        networks,
        batch.frames,
        sampled.frames,
        trivial,
        kept,
        groups,
        num_context=now,
        fps=clips[0].fps,
    )
    panels = {
        "real": batch.frames,
        "reconstructed": kept,
        "dreamt, mean": mean.frames,
        "dreamt, sampled": sampled.frames,
    }
    return clip_rows(batch, panels, now)


def read_recordings(
    paths: tuple[str, ...], config: ReWorldConfig, num_clips: int
) -> tuple[list[Clip], dict[str, int]]:
    """Up to `num_clips` clips, spread evenly over each of `paths`, of their first view only; and
    by path how many frames of a recording a clip covers.

    Raises:
        ValueError: tokens or images, or recordings that are too short.
    """
    clips: list[Clip] = []
    spans: dict[str, int] = {}
    for number, path in enumerate(paths):
        share = num_clips // len(paths) + (number < num_clips % len(paths))
        source = open_source(path)
        if isinstance(source, TokenSource):
            raise ValueError(f"Expected pixels for this model, found tokens in {path}.")

        def opened(plan_frame: int | None, source: Any = source) -> Any:
            return open_dataset(
                source, config.num_frames, config.frame_size, config.fps, plan_frame=plan_frame
            )

        is_drive = not isinstance(source, list) and drives_of(source) is not None
        dataset = with_plans(opened, config.num_past - 1) if is_drive else opened(None)
        spans[path] = dataset.index.span if isinstance(dataset, ClipDataset) else 1
        for clip in islice(spread_clips(dataset, share, path), share):
            assert clip.frames is not None
            clips.append(replace(clip, frames=clip.frames[:1], labels=None, source=path))
    return clips, spans


def _told(batch: Batch, config: ReWorldConfig) -> Batch:
    """The batch without what the model cannot be told.

    Raises:
        ValueError: actions of another width than the model's.
    """
    if not config.future_actions:
        return replace(batch, actions=None, has_actions=None)
    if batch.actions is not None and batch.actions.shape[-1] != config.future_actions:
        raise ValueError(
            f"Expected actions of {config.future_actions} numbers, as the model was trained, "
            f"found {batch.actions.shape[-1]} in --data."
        )
    return batch


# ----------------------------------------------------------------------------------------- plans


@dataclass(frozen=True)
class ReleasedPlanner:
    """A system as a planner, sampled as it was released."""

    system: ReWorld
    sampling: FlowSampling

    def plan(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "b l 3"]:
        """One sampled plan per row."""
        return self.system.plan(batch, generator, self.sampling)


def score_in_drive(
    results: Results, options: EvaluateOptions, system: ReWorld, sampling: FlowSampling
) -> None:
    """Adds PDM scores in held-out scenes of the driving world beside the standard planners, and
    at the wheel where asked for.

    Raises:
        ValueError: a model of the video alone, or a frame rate that the world does not have.
    """
    config = system.config
    check_planner(system, options.model)
    rivals = rivals_of(options, config)
    plan = MomentPlan(
        num_past=config.num_past, num_future=0, size=config.frame_size, fps=config.fps
    )
    worlds = range(SCENES_FROM, SCENES_FROM + min(NUM_WORLDS, options.scenes))
    scenes = collect_planning_scenes(worlds, options.scenes, plan, min_manoeuvres=0.0)
    train = collate(
        collect_planning_clips(
            range(EGO_WORLDS),
            EGO_CLIPS,
            num_past=1,
            num_future=0,
            size=(8, 12),  # only ego states are read
            fps=config.fps,
            kinds=("expert",),
        )
    ).plan
    assert train is not None
    generator = torch.Generator().manual_seed(options.seed)
    standard = standard_planners(train, scenes, generator)
    if twice := sorted(standard.keys() & rivals.keys()):
        raise ValueError(f"Expected another name than {twice[0]} for a model of --beside.")
    others = rivals | standard
    score_planning(
        results,
        scenes,
        ReleasedPlanner(system, sampling),
        others,
        config.num_past,
        generator,
        seed=options.seed,
    )
    results.protocol["planning"] |= {
        "worlds": f"{worlds.start} to {worlds.stop - 1}, not trained on unless you did",
        "ego_status_trained_on": f"{EGO_WORLDS * EGO_CLIPS} moments of {EGO_WORLDS} worlds",
        "beside": list(options.beside),
    }
    if options.reactive:
        chosen = [worlds[i] for i in spread(len(worlds), options.drives)]
        planners: dict[str, Planner | None] = {"model": ReleasedPlanner(system, sampling), **rivals}
        planners |= {"constant_velocity": ConstantVelocity(), "ego_status": others["ego_status"]}
        score_drives(results, {**planners, "expert": None}, chosen, plan, options.seed)


def score_drives(
    results: Results,
    planners: Mapping[str, Planner | None],
    worlds: Sequence[int],
    seen: MomentPlan,
    seed: int,
) -> None:
    """Adds "closed_loop/...": every planner drives every world, and traffic reacts to it."""
    config = ClosedLoopConfig(seen=seen)
    records = {
        name: drive(planner, worlds, config, torch.Generator().manual_seed(seed))
        for name, planner in planners.items()
    }
    add_closed_loop(results, records, config, seed=seed)
    results.protocol["closed_loop"] = {
        "worlds": list(worlds),
        "traffic": "reacts",
        "seconds": config.num_steps / SCENE_FPS,
        "new_plan_every_s": config.replan_every / SCENE_FPS,
    }


def rivals_of(options: EvaluateOptions, config: ReWorldConfig) -> dict[str, Planner]:
    """The models of --beside, by name.

    Raises:
        ValueError: no NAME=MODEL, a name twice, or a planner that sees other pictures.
    """
    found: dict[str, Planner] = {}
    for text in options.beside:
        name, is_pair, path = text.partition("=")
        if not (name and is_pair and path) or name in {"model", *found}:
            raise ValueError(
                f"Expected --beside NAME=MODEL with names that differ, found {text!r}."
            )
        release = load_reworld(path)
        other = release.system.config
        for key in ("num_past", "frame_size", "fps"):
            if getattr(other, key) != getattr(config, key):
                raise ValueError(
                    f"Expected models beside each other to see the same past, found {key} "
                    f"{getattr(other, key)} in {path} and {getattr(config, key)} in "
                    f"{options.model}: evaluate them one by one."
                )
        check_planner(release.system, path)
        found[name] = ReleasedPlanner(release.system, release.decoding)
    return found


def check_planner(system: ReWorld, path: str) -> None:
    """Raises a ValueError for a model of the video alone."""
    if not bool(system.normaliser.statistics.is_fitted):
        raise ValueError(
            f"Expected a trained planner for --world, found a model of the video alone in "
            f"{path}: train it on with --start-at action."
        )


def _protocol(options: EvaluateOptions, system: ReWorld, sampling: FlowSampling) -> dict[str, Any]:
    config = system.config
    return {
        "model": options.model,
        "data": list(options.data),
        "train_data": list(options.train_data),
        "mean_image_of": "training data" if options.train_data else "the scored clips",
        "split": "as the user says: --data was never trained on",
        "frames": config.num_frames,
        "given_frames": config.num_past,
        "frame_size": list(config.frame_size),
        "sampling": config_to_json(sampling),
        "gamma": sampling.guidance.gamma,
        "seed": options.seed,
        "parameters": sum(p.numel() for p in system.parameters()),
        "torch_threads": torch.get_num_threads(),
    }
