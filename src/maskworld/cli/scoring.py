"""The work of `maskworld evaluate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from maskworld.cli.dream_scores import (
    check_metrics,
    load_networks,
    score_dreamt_videos,
    scored_frames,
)
from maskworld.cli.evaluate import EvaluateOptions
from maskworld.cli.gallery import clip_rows
from maskworld.cli.inputs import check_writable
from maskworld.data.dataset import ClipDataset, ImageDataset
from maskworld.data.sources.tokens import TokenSource
from maskworld.data.video_files import write_video
from maskworld.evaluation.baselines import TrivialFutures
from maskworld.evaluation.likelihood import score_likelihood
from maskworld.evaluation.prediction import (
    GREEDY,
    predict,
    reconstruct,
    score_action_sensitivity,
    score_frames,
    score_speed,
    score_tokens,
    tokens_of,
)
from maskworld.evaluation.results import Results
from maskworld.evaluation.video_metrics import Features
from maskworld.recipes.open import (
    Dataset,
    Release,
    load_worlddreamer,
    open_dataset,
    open_source,
    system_name,
)
from maskworld.report import VideoRow
from maskworld.report.sections import Section, write_sectioned_report
from maskworld.report.tables import best_baseline
from maskworld.samplers.parallel import ParallelDecoding
from maskworld.systems.mask_world_model import MaskWorldModel
from maskworld.systems.maskgwm import MaskGWM
from maskworld.systems.reworld import ReWorld
from maskworld.systems.worlddreamer import WorldDreamer
from maskworld.tokenizers.token_grid import TokenGrid
from maskworld.types import Batch, Clip, collate

REWORLD_OPTIONS = ("world", "gamma", "reactive", "beside")
"""Of `EvaluateOptions`."""
ROBOT_OPTIONS = ("tasks", "perturb", "exec_steps", "step_limit", "ge_compat", "prune")
"""Of `EvaluateOptions`."""
MIN_RECORDINGS = 10
"""From this many recordings on, intervals draw whole recordings; below, clips."""


def score_model(options: EvaluateOptions) -> None:
    """Everything is computed before the first file is written."""
    if not options.data and options.world is None:
        raise ValueError("Expected --data to score, found none: see `maskworld evaluate --help`.")
    if options.num_clips < 2 or options.batch_size < 1:
        raise ValueError(
            f"Expected --num-clips of at least 2 and --batch-size of at least 1, found "
            f"{options.num_clips} and {options.batch_size}."
        )
    check_writable(options.out)
    check_metrics(options)
    name = system_name(options.model)
    if name != MaskGWM.name:
        _refuse_metrics(options, name)
    if name == MaskWorldModel.name:
        from maskworld.cli.robot_scoring import score_robot

        score_robot(options)
        return
    given = [option for option in ROBOT_OPTIONS if getattr(options, option)]
    if given or options.world == "metaworld":
        flags = ", ".join("--" + option.replace("_", "-") for option in given)
        raise ValueError(
            f"Expected no {flags or '--world metaworld'} for a model of {name}: Meta-World is for "
            "Mask World Model."
        )
    if name == ReWorld.name:
        from maskworld.cli.reworld_scoring import score_reworld

        score_reworld(options)
        return
    given = [option for option in REWORLD_OPTIONS if getattr(options, option)]
    if given:
        flags = ", ".join(f"--{option}" for option in given)
        title = "MaskGWM" if name == MaskGWM.name else "WorldDreamer"
        raise ValueError(
            f"Expected no {flags} for a model of {title}: it plans nothing, and has no head "
            "to guide itself with."
        )
    if name == MaskGWM.name:
        from maskworld.cli.maskgwm_scoring import score_maskgwm

        score_maskgwm(options)
        return
    options = replace(options, num_context=options.num_context or 1)
    assert options.num_context is not None
    release = load_worlddreamer(options.model)
    window = release.system.config.num_frames
    num_frames = window if options.num_frames is None else options.num_frames
    if not 1 <= options.num_context < num_frames:
        raise ValueError(
            f"Expected --num-context of 1 to {num_frames - 1}, for clips of {num_frames} frames, "
            f"found {options.num_context}."
        )
    clips, spans = read_clips(options.data, release, num_frames, options.num_clips)
    train, _ = read_clips(options.train_data, release, num_frames, options.num_clips)
    batch = collate(clips)
    if batch.actions is not None and batch.actions.shape[-1] != release.system.config.action_dim:
        raise ValueError(
            f"Expected actions of {release.system.config.action_dim} numbers, as the model was "
            f"trained, found {batch.actions.shape[-1]} in --data."
        )
    groups, units = independent_groups(clips, spans)
    networks: list[Features] = []
    if batch.frames is not None:
        scored = scored_frames(options, num_frames, options.num_context)
        networks = load_networks(options, len(clips), scored)
    results = Results(release.system.name, _protocol(options, release, clips, units))
    rows = _score(results, release, batch, groups, train, networks, options)
    write_scores(options.out, results, rows)


def _refuse_metrics(options: EvaluateOptions, name: str) -> None:
    """Raises ValueError for metrics that a system does not have."""
    if name == MaskWorldModel.name:
        given = [
            word for word in ("metrics", "fvd_weights", "fid_weights") if getattr(options, word)
        ]
        if given:
            flags = ", ".join("--" + word.replace("_", "-") for word in given)
            raise ValueError(
                f"Expected no {flags} for a model of Mask World Model: masks are scored by their "
                "overlap."
            )
    others = [word for word in ("motion", "overlap") if word in options.metrics]
    if others:
        raise ValueError(
            f"Expected --metrics {' '.join(others)} with a model of MaskGWM only, found {name}: "
            "leave them out."
        )


def read_clips(
    paths: tuple[str, ...],
    release: Release[WorldDreamer, ParallelDecoding],
    num_frames: int,
    num_clips: int,
) -> tuple[list[Clip], dict[str, int]]:
    """Up to `num_clips` clips, spread evenly over each of `paths`, of their first view only; and
    by path how many frames of a recording a clip covers.

    Raises:
        ValueError: images, which have no future, or data that does not suit the model.
    """
    config = release.system.config
    clips: list[Clip] = []
    spans: dict[str, int] = {}
    for number, path in enumerate(paths):
        share = num_clips // len(paths) + (number < num_clips % len(paths))
        source = open_source(path)
        if isinstance(source, TokenSource) != isinstance(release.system.tokenizer, TokenGrid):
            needed = "tokens" if isinstance(release.system.tokenizer, TokenGrid) else "pixels"
            raise ValueError(f"Expected {needed} for this model, found others in {path}.")
        dataset = open_dataset(source, num_frames, config.frame_size, config.fps)
        spans[path] = dataset.index.span if isinstance(dataset, ClipDataset) else 1
        for clip in islice(spread_clips(dataset, share, path), share):
            frames = None if clip.frames is None else clip.frames[:1]
            tokens = None if clip.tokens is None else clip.tokens[:1]
            clips.append(replace(clip, frames=frames, tokens=tokens, labels=None, source=path))
    return clips, spans


def spread_clips(dataset: Dataset, count: int, path: str) -> Iterator[Clip]:
    """About `count` clips, spread evenly over a dataset; of a stream its first ones.

    Raises:
        ValueError: images, which have no future.
    """
    if isinstance(dataset, ImageDataset):
        raise ValueError(f"Expected recordings to predict, found single images in {path}.")
    if isinstance(dataset, ClipDataset):
        chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
        yield from (dataset[int(index)] for index in chosen)
    else:
        yield from (clip for clip in dataset if not clip.is_image)


def independent_groups(
    clips: list[Clip], spans: dict[str, int]
) -> tuple[Int[np.ndarray, " n"], str]:
    """A number per clip, equal where clips are not independent, and in words what they are.

    Args:
        spans: by source, how many frames of a recording a clip covers.

    Raises:
        ValueError: fewer than two groups.
    """
    recordings = [(clip.source, clip.episode) for clip in clips]
    what, keys = "recordings", [(*recording, 0) for recording in recordings]
    if len(set(recordings)) < MIN_RECORDINGS:
        what = "stretches as long as a clip"
        keys = [(*r, clip.start // spans[clip.source]) for r, clip in zip(recordings, clips)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    if len(numbers) < 2:
        raise ValueError(
            f"Expected at least 2 clips that do not overlap, found {len(numbers)} in --data: give "
            "longer or more recordings, or shorter clips with --num-frames."
        )
    return np.array([numbers[key] for key in keys]), what


def _score(
    results: Results,
    release: Release[WorldDreamer, ParallelDecoding],
    batch: Batch,
    groups: Int[np.ndarray, " n"],
    train: list[Clip],
    networks: list[Features],
    options: EvaluateOptions,
) -> list[VideoRow]:
    """Adds every metric that the data allows; returns clips to show."""
    system, context, seed = release.system, options.num_context or 1, options.seed
    size = options.batch_size
    batch = replace(batch, tokens=tokens_of(system, batch)[:, None])
    generator = torch.Generator().manual_seed(seed)
    real = batch.frames
    greedy = predict(system, batch, context, GREEDY, generator, size, expected=real is not None)
    sampled = predict(system, batch, context, release.decoding, generator, size)
    rows = []
    if real is not None:
        expected, argmax = greedy.dream.expected_frames, greedy.dream.frames
        assert expected is not None
        assert argmax is not None
        drawn = reconstruct(system, batch, size)
        shown = [clip.frames for clip in train if clip.frames is not None]
        fitted = TrivialFutures.fit(torch.stack(shown) if shown else real, context)
        futures = fitted.predict(real[:, :, :context], real.shape[2] - context)
        score_frames(results, batch, expected, argmax, drawn, futures, context, groups, seed)
        assert sampled.dream.frames is not None
        score_dreamt_videos(
            results,
            options,
            networks,
            real,
            sampled.dream.frames,
            futures,
            drawn,
            groups,
            num_context=context,
            fps=1.0 if batch.fps is None else float(batch.fps[0]),
        )
        panels = {
            "real": real,
            "reconstructed": drawn,
            "dreamt": sampled.dream.frames,
            "dreamt, expected": expected,
        }
        rows = clip_rows(batch, panels, context)
    score_tokens(results, system, batch, greedy.dream.tokens, context, groups, seed)
    if batch.actions is not None and system.config.action_dim == 2:
        score_action_sensitivity(results, system, batch, context, groups, seed, size)
    if real is None and train:
        score_likelihood(results, system, train, batch, seed)
    score_speed(results, sampled, len(batch))
    return rows


def _protocol(
    options: EvaluateOptions,
    release: Release[WorldDreamer, ParallelDecoding],
    clips: list[Clip],
    units: str,
) -> dict[str, Any]:
    config = release.system.config
    return {
        "model": options.model,
        "data": list(options.data),
        "train_data": list(options.train_data),
        "mean_image_of": "training data" if options.train_data else "the scored clips",
        "split": "as the user says: --data was never trained on",
        "clips": len(clips),
        "intervals": f"95 % bootstrap over {units}",
        "frames": options.num_frames or config.num_frames,
        "given_frames": options.num_context,
        "frame_size": list(config.frame_size),
        "fps": clips[0].fps,
        "decoding": asdict(release.decoding),
        "seed": options.seed,
        "parameters": sum(p.numel() for p in release.system.parameters()),
        "torch_threads": torch.get_num_threads(),
    }


def write_scores(
    out: Path,
    results: Results,
    rows: list[VideoRow],
    sections: Sequence[Section] = (),
    world: str = "the driving world",
) -> None:
    """metrics.json, report.html and videos, each whole or not at all.

    Args:
        sections: of the report, beside videos and numbers.
        world: where it was scored, if not on data.
    """
    content = results.to_dict()
    results.write(out / "metrics.json")
    for row in rows:
        strip = np.concatenate(list(row.panels.values()), axis=2)
        write_video(out / "videos" / f"{row.name.replace(' ', '-')}.mp4", strip, row.fps)
    write_sectioned_report(
        out / "report.html",
        sections=sections,
        title="Evaluation",
        summary=f"{content['protocol']['model']} on "
        f"{', '.join(content['protocol']['data']) or world}",
        results=content,
        videos=rows,
        curves={},
        notes=(),
    )
    print(f"{'':34}     model  best baseline")
    for name, entry in content["metrics"].items():
        best = best_baseline(entry)
        beside = f"{best[1]:9.3f} ({best[0]})" if best else ""
        print(f"{name:34} {entry['model']:9.3f}  {beside}")
    print(f"\n{out / 'metrics.json'}\n{out / 'report.html'}")
