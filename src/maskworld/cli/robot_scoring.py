"""The work of `maskworld evaluate` for Mask World Model: dreamt masks of held-out recordings,
success in closed loop."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import torch

from maskworld.cli.evaluate import EvaluateOptions
from maskworld.cli.quickstart_parts import spread
from maskworld.cli.robot_data import (
    STATISTICS_FILE,
    Joined,
    check_fits_model,
    open_recordings,
)
from maskworld.cli.robot_report import success_section
from maskworld.cli.robot_scores import (
    HIGH,
    LOCK_STEP,
    LOW,
    NUM_SHOWN,
    dreamt_masks_row,
    say_progress,
)
from maskworld.cli.scoring import independent_groups, write_scores
from maskworld.data.control import ControlClips, ControlWindow, MemoryPick
from maskworld.data.control_statistics import ControlStatistics
from maskworld.data.storage import write_json
from maskworld.data.transforms import ResizeCrop
from maskworld.evaluation.manipulation import (
    CLEAN,
    Evaluation,
    ManipulationConfig,
    evaluate_manipulation,
)
from maskworld.evaluation.manipulation_scores import add_pruning, add_success, robustness_table
from maskworld.evaluation.mask_rollouts import dream_masks, score_mask_rollouts
from maskworld.evaluation.results import Results
from maskworld.evaluation.robot_episodes import PolicyMaker, StepRule
from maskworld.evaluation.robot_worlds import METAWORLD_LIMIT, MetaWorldMaker
from maskworld.nn.config_io import config_to_json
from maskworld.policies.robot import ControlSpec
from maskworld.policies.robot_baselines import RandomActions, WorldExpert
from maskworld.policies.robot_world_model import world_model_policy
from maskworld.recipes.open import Release, load_mask_world_model
from maskworld.report import VideoRow
from maskworld.report.sections import Section
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.mask_world_model import MaskWorldModel
from maskworld.types import Clip, collate

Model = Release[MaskWorldModel, FlowSampling]
METAWORLD_HORIZON = 500
"""Steps after which Meta-World itself stops."""
EXPERT = "expert"
"""Of --beside: the world's own, which knows where everything is."""


def score_robot(options: EvaluateOptions) -> None:
    """Everything but the episodes, which are kept as they end, is computed before the first file
    is written."""
    _check(options)
    release = load_mask_world_model(options.model)
    config = release.system.config
    if options.data and config.target != "mask":
        raise ValueError(
            "Expected a model that predicts masks for --data, found one of pictures: try it in a "
            "world with --world metaworld --tasks TASK ..."
        )
    results = Results(release.system.name, _protocol(options, release))
    rows = _score_masks(results, options, release) if options.data else []
    sections: list[Section] = []
    if options.world is not None:
        tried = _try(options, release)
        _score_success(results, options, tried)
        sections = [success_section(tried), *_every_policy(tried)]
    write_scores(options.out, results, rows, sections, "Meta-World")


def _check(options: EvaluateOptions) -> None:
    asked: dict[str, Any] = {
        "num_context": options.num_context,
        "num_frames": options.num_frames,
        "gamma": options.gamma,
        "reactive": options.reactive,
        "train_data": options.train_data,
    }
    if given := [name for name, value in asked.items() if value]:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(
            f"Expected no {flags} for a Mask World Model, which remembers and predicts as many "
            "frames as it was trained with."
        )
    if options.world == "drive":
        raise ValueError("Expected --world metaworld for a Mask World Model, found drive.")
    if options.world is None:
        world_only = ("tasks", "perturb", "exec_steps", "step_limit", "ge_compat", "prune")
        given = [name for name in (*world_only, "beside") if getattr(options, name)]
        if given:
            flags = ", ".join("--" + name.replace("_", "-") for name in given)
            raise ValueError(f"Expected --world metaworld with {flags}, found none.")
        return
    from maskworld.worlds.metaworld import check_task, parse_perturbations

    if not options.tasks or options.episodes < 1:
        raise ValueError(
            "Expected --tasks TASK ... of Meta-World and --episodes of at least 1, found "
            f"{list(options.tasks)} and {options.episodes}: name drawer-open-v3, for instance."
        )
    for task in options.tasks:
        check_task(task)
    for text in options.perturb:
        parse_perturbations(text)
    if any(not 0 < ratio < 1 for ratio in options.prune):
        raise ValueError(f"Expected --prune between 0 and 1, found {list(options.prune)}.")


# ----------------------------------------------------------------------------------------- masks


def _score_masks(results: Results, options: EvaluateOptions, release: Model) -> list[VideoRow]:
    """Adds IoU and boundary F of dreamt masks per future frame, beside the mask of now copied and
    the real masks through the tokenizer. Whole futures only: none is padded."""
    system, config = release.system, release.system.config
    recordings = open_recordings(options.data)
    for each in recordings:
        if not each.has_masks:
            raise ValueError(
                f"Expected masks to score dreams by, found none in {each.path}: make them with "
                f"`maskworld data segment {each.path}`."
            )
    check_fits_model(config, recordings, None)
    memory = MemoryPick(config.num_memory, "every", stride=config.memory_stride)
    window = ControlWindow(memory, config.future_frames, config.frame_stride, chunk=1)
    source = Joined([each.source for each in recordings])

    def opened(*, reads_future: bool) -> ControlClips:
        return ControlClips(
            source,
            window,
            transforms=[ResizeCrop(config.frame_size)],
            reads_control=False,
            reads_labels=True,
            reads_future=reads_future,
            allows_padding=False,
        )

    clips = opened(reads_future=False)
    chosen = spread(len(clips), options.num_clips)
    found = dream_masks(
        system,
        clips,
        chosen,
        options.seed,
        sampling=release.decoding,
        batch_size=options.batch_size,
    )
    moments = [clips.moment(i) for i in chosen]
    places = [Clip(source=source.name, episode=m.episode, start=m.start) for m in moments]
    groups, units = independent_groups(places, {source.name: window.span})
    score_mask_rollouts(
        results,
        found.real,
        found.model,
        found.now,
        found.names,
        groups,
        options.seed,
        others={"reconstruction": found.reconstruction},
        background=found.names[:1],
    )
    results.protocol |= {
        "clips": len(chosen),
        "intervals": f"95 % bootstrap over {units}",
        "future_fps": recordings[0].fps / config.frame_stride,
    }
    shown = spread(len(chosen), NUM_SHOWN)
    whole = opened(reads_future=True)
    batch = collate([whole.get(chosen[i], seed=chosen[i]) for i in shown])
    assert batch.frames is not None
    seen = batch.frames[:, :, config.num_memory - 1 :]  # from the last remembered one on
    return [
        dreamt_masks_row(system, f"{batch.captions[k]} ({chosen[i]})".strip(), seen[k], found, i)
        for k, i in enumerate(shown)
    ]


# --------------------------------------------------------------------------------------- success


def _try(options: EvaluateOptions, release: Model) -> Evaluation:
    """All policies from the same unseen initial states: clean, then those that see under
    perturbations and with tokens dropped. What OUT/episodes holds is not run again."""
    statistics = _statistics(options.model)
    config = release.system.config
    world = MetaWorldMaker(config.frame_size, tuple(statistics.views))
    described = world.describe()  # raises where nothing can be drawn, before anything is written
    models = {"model": (options.model, release), **_beside(options)}
    seeing: dict[str, PolicyMaker] = {
        name: _policy(options, each, path) for name, (path, each) in models.items()
    }
    others: dict[str, PolicyMaker] = {"random": partial(RandomActions, LOW, HIGH)}
    if EXPERT in options.beside:
        others[EXPERT] = WorldExpert
    pruned = {
        _pruned(ratio): _policy(options, release, options.model, ratio) for ratio in options.prune
    }
    folder = options.out / "episodes"
    _claim(folder, {name: _fingerprint(each.system) for name, (_, each) in models.items()})
    limit = options.step_limit or METAWORLD_LIMIT
    rule = StepRule(limit, "chunks", METAWORLD_HORIZON) if options.ge_compat else StepRule(limit)
    clean = ManipulationConfig(
        tuple(options.tasks),
        tuple(range(options.episodes)),
        rule,
        described,
        checkpoints=dict.fromkeys((*seeing, *pruned), "last"),
    )
    rounds = [(clean, {**seeing, **others, **pruned})]
    if options.perturb:
        rounds.append((replace(clean, perturbations=tuple(options.perturb)), seeing))
    found = [
        evaluate_manipulation(
            makers,
            asked,
            world,
            folder,
            num_workers=options.workers,
            batch_size=LOCK_STEP,
            on_result=say_progress,
        )
        for asked, makers in rounds
    ]
    failures = [failure for each in found for failure in each.failures]
    crashes = {k: v for each in found for k, v in each.crashes.items()}
    kept = _asked(found[-1], options, {*seeing, *others, *pruned})
    return replace(kept, failures=failures, crashes=crashes)


def _asked(evaluation: Evaluation, options: EvaluateOptions, policies: set[str]) -> Evaluation:
    """The episodes that were asked for; the folder may hold more, of earlier calls."""
    results = {
        key: result
        for key, result in evaluation.results.items()
        if key.policy in policies
        and key.task in options.tasks
        and key.seed < options.episodes
        and key.perturbation in (CLEAN, *options.perturb)
    }
    return replace(evaluation, results=results)


def _policy(
    options: EvaluateOptions, release: Model, path: str, p_prune: float = 0.0
) -> PolicyMaker:
    system = release.system
    if not system.normaliser.is_fitted:
        raise ValueError(
            f"Expected a model that has learnt to act, found one of masks alone in {path}: train "
            "its stage policy (`maskworld train --start-at policy --init`)."
        )
    spec = ControlSpec.of(_statistics(path), system.config.frame_size, LOW, HIGH)
    policy = world_model_policy(
        system,
        spec,
        exec_steps=options.exec_steps,
        sampling=release.decoding,
        p_prune=p_prune,
        seed=options.seed,
    )
    return policy.twin


def _pruned(ratio: float) -> str:
    return f"pruned {ratio:g}"


def _beside(options: EvaluateOptions) -> dict[str, tuple[str, Model]]:
    """Other models to try, by name."""
    found = {}
    for text in options.beside:
        if text == EXPERT:
            continue
        name, sign, path = text.partition("=")
        if not (name and sign and path) or name in ("model", "random", EXPERT):
            raise ValueError(
                f"Expected --beside as NAME=MODEL, or the word {EXPERT}, found {text!r}."
            )
        found[name] = (path, load_mask_world_model(path))
    return found


def _statistics(model: str) -> ControlStatistics:
    return ControlStatistics.load(Path(model) / STATISTICS_FILE)


def _fingerprint(system: MaskWorldModel) -> str:
    """Tells weights apart."""
    digest = hashlib.sha256()
    for name, value in sorted(system.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _claim(folder: Path, models: Mapping[str, str]) -> None:
    """Makes sure that episodes of other weights are never taken for those of these models."""
    path = folder / "models.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if other := [name for name, mark in models.items() if kept.get(name, mark) != mark]:
        raise ValueError(
            f"Expected episodes of the same models in {folder}, found some of other weights called "
            f"{', '.join(other)}: pass another --out, or remove the folder."
        )
    write_json(path, {**kept, **models})


def _score_success(results: Results, options: EvaluateOptions, tried: Evaluation) -> None:
    """Adds success clean and perturbed, and what is left of it as tokens are dropped."""
    pruned = {float(ratio): _pruned(ratio) for ratio in options.prune}
    whole = {k: r for k, r in tried.results.items() if k.policy not in pruned.values()}
    add_success(results, replace(tried, results=whole))
    if pruned and tried.successes("model", tried.states(["model"])).any():
        add_pruning(results, tried, "model", pruned, seed=options.seed)
    elif pruned:
        results.protocol["pruning"] = "nothing to lose: no episode succeeds without dropping"


def _every_policy(tried: Evaluation) -> list[Section]:
    """Every policy that was tried under everything, against the model."""
    rows = robustness_table(tried, tried.policies, "model")
    cells = [
        (
            row.policy,
            row.perturbation,
            f"{row.rate:.0%} [{row.interval[0]:.0%}, {row.interval[1]:.0%}] of {row.n}",
            "–" if row.retained is None else f"{row.retained:.2f}",
            f"{100 * row.gain:+.0f} [{100 * row.gain_interval[0]:+.0f}, "
            f"{100 * row.gain_interval[1]:+.0f}]",
        )
        for row in rows
    ]
    head = ("policy", "perturbation", "success", "of its clean success", "over the model, points")
    lines = [f"<tr>{''.join(f'<th>{escape(c)}</th>' for c in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in row)}</tr>" for row in cells]
    return [
        Section(
            "All policies",
            "policies",
            f'<table class="scores">{"".join(lines)}</table>',
            "Differences are paired over the same initial states, with 95 % intervals.",
        )
    ]


def _protocol(options: EvaluateOptions, release: Model) -> dict[str, Any]:
    config = release.system.config
    return {
        "model": options.model,
        "data": list(options.data),
        "beside": list(options.beside),
        "split": "as the user says: --data was never trained on; Meta-World's initial states of "
        "the split eval",
        "frame_size": list(config.frame_size),
        "remembered_frames": config.num_memory,
        "future_frames": config.future_frames,
        "frame_stride": config.frame_stride,
        "sampling": config_to_json(release.decoding),
        "seed": options.seed,
        "parameters": sum(p.numel() for p in release.system.parameters()),
        "torch_threads": torch.get_num_threads(),
    }
