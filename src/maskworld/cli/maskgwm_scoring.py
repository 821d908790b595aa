"""The work of `maskworld evaluate` for MaskGWM: dreams of held-out clips, of any length and number
of cameras."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from maskworld.cli.dream_scores import (
    asks_for,
    load_networks,
    score_dreamt_videos,
    scored_frames,
)
from maskworld.cli.evaluate import EvaluateOptions
from maskworld.cli.gallery import clip_rows
from maskworld.cli.maskgwm_data import (
    Recordings,
    check_rates,
    open_clips,
    open_recordings,
    read_cameras,
)
from maskworld.cli.maskgwm_report import long_section
from maskworld.cli.recorded_cameras import calibration_of_views
from maskworld.cli.scoring import independent_groups, spread_clips, write_scores
from maskworld.data.cameras import Calibration
from maskworld.data.dataset import ClipDataset
from maskworld.evaluation.baselines import TrivialFutures
from maskworld.evaluation.camera_overlap import score_camera_overlap
from maskworld.evaluation.flow_prediction import POSTERIOR_MEAN, rows_of, score_dream_speed
from maskworld.evaluation.frame_prediction import (
    AT_ONCE,
    dream,
    dream_in_rounds,
    reconstruct,
    score_frame_sensitivity,
)
from maskworld.evaluation.futures import score_futures
from maskworld.evaluation.long_horizon import NUM_LAST, score_long_horizon
from maskworld.evaluation.results import Results
from maskworld.evaluation.video_pairs import motion_errors
from maskworld.metrics.intervals import bootstrap_interval
from maskworld.metrics.scores import ClipScores, concatenate
from maskworld.nn.config_io import config_to_json
from maskworld.nn.release import find_release
from maskworld.recipes.open import load_maskgwm
from maskworld.report import VideoRow
from maskworld.report.sections import Section
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.maskgwm import MaskGWM, MaskGWMConfig
from maskworld.types import Batch, Clip, collate

MIN_LONG = 4
"""Windows from which on a dream is judged as a long one. Ours."""


@dataclass(frozen=True)
class Scored:
    """What is scored, and all that the scores need beside the model."""

    batch: Batch
    groups: Int[np.ndarray, " n"]
    units: str
    """In words, what is drawn for intervals."""
    num_given: int
    cameras: list[str]
    calibration: list[Calibration] | str
    """Per view; or why there is none."""
    trivial: dict[str, UInt8[Tensor, "b v f c h w"]]
    fitted: TrivialFutures


@dataclass(frozen=True)
class Dreams:
    """The given frames as the tokenizer draws them, then dreamt ones."""

    sampled: UInt8[Tensor, "b v t c h w"]
    mean: UInt8[Tensor, "b v t c h w"] | None
    """One step from pure noise, the mean of what may come; None beyond one window."""
    drawn: UInt8[Tensor, "b v t c h w"]
    """What the tokenizer keeps of the real clips."""


def score_maskgwm(options: EvaluateOptions) -> None:
    """Everything is computed before the first file is written."""
    release = load_maskgwm(options.model)
    system, sampling = release.system, release.decoding
    config = system.config
    cameras = read_cameras(find_release(options.model), config.num_views)
    num_frames = config.num_frames if options.num_frames is None else options.num_frames
    default = max(1, config.min_given)
    num_given = default if options.num_context is None else options.num_context
    if not 1 <= num_given <= config.max_given or num_given >= num_frames:
        raise ValueError(
            f"Expected --num-context of 1 to {min(config.max_given, num_frames - 1)}, as the model "
            f"was trained and for clips of {num_frames} frames, found {num_given}."
        )
    scored = _read(options, config, cameras, num_frames, num_given)
    num_views = scored.trivial["copy_last"].shape[1]
    networks = load_networks(
        options,
        len(scored.batch) * num_views,
        scored_frames(options, num_frames, num_given),
    )
    results = Results(system.name, _protocol(options, system, sampling, scored, num_frames))
    dreams = _dream(results, options, system, sampling, scored)
    sections = _score(results, options, system, scored, dreams)
    real = scored.batch.frames
    assert real is not None
    fps = float(scored.batch.fps[0]) if scored.batch.fps is not None else config.fps
    score_dreamt_videos(
        results,
        options,
        networks,
        real,
        dreams.sampled,
        scored.trivial,
        dreams.drawn,
        scored.groups,
        num_context=num_given,
        fps=fps,
    )
    panels = {
        "real": real,
        "reconstructed": dreams.drawn,
        "dreamt, mean": dreams.mean,
        "dreamt, sampled": dreams.sampled,
    }
    rows: list[VideoRow] = clip_rows(scored.batch, panels, num_given)
    write_scores(options.out, results, rows, sections)


# ------------------------------------------------------------------------------------------ data


def _read(
    options: EvaluateOptions,
    config: MaskGWMConfig,
    cameras: Sequence[str],
    num_frames: int,
    num_given: int,
) -> Scored:
    recordings = open_recordings(options.data, cameras)
    if len({each.num_views for each in recordings}) > 1:
        raise ValueError(
            "Expected --data of as many cameras each, found "
            + ", ".join(f"{each.num_views} in {each.path}" for each in recordings)
            + ": score them one by one."
        )
    clips, spans = _clips(recordings, config, num_frames, options.num_clips)
    train: list[Clip] = []
    if options.train_data:
        train, _ = _clips(
            open_recordings(options.train_data, cameras), config, num_frames, options.num_clips
        )
    groups, units = independent_groups(clips, spans)
    batch = collate(clips)
    assert batch.frames is not None
    shown = collate(train).frames if train else batch.frames
    assert shown is not None
    fitted = TrivialFutures.fit(shown, num_given)
    trivial = fitted.predict(batch.frames[:, :, :num_given], num_frames - num_given)
    chosen = list(cameras[: recordings[0].num_views])
    return Scored(
        batch,
        groups,
        units,
        num_given,
        chosen,
        calibration_of_views(recordings, chosen, config.frame_size),
        trivial,
        fitted,
    )


def _clips(
    recordings: Sequence[Recordings], config: MaskGWMConfig, num_frames: int, num_clips: int
) -> tuple[list[Clip], dict[str, int]]:
    """Clips, spread evenly over each source, and by path how many frames of a recording a clip
    covers."""
    clips: list[Clip] = []
    spans: dict[str, int] = {}
    for number, each in enumerate(recordings):
        check_rates(each, config.fps)
        share = num_clips // len(recordings) + (number < num_clips % len(recordings))
        dataset = open_clips(each, num_frames, config.frame_size, config.fps, config.signals)
        spans[each.path] = dataset.index.span if isinstance(dataset, ClipDataset) else 1
        for clip in islice(spread_clips(dataset, share, each.path), share):
            clips.append(replace(clip, labels=None, source=each.path))
    return clips, spans


# ---------------------------------------------------------------------------------------- dreams


def _dream(
    results: Results,
    options: EvaluateOptions,
    system: MaskGWM,
    sampling: FlowSampling,
    scored: Scored,
) -> Dreams:
    batch, given = scored.batch, scored.num_given
    assert batch.frames is not None
    drawn = reconstruct(system, batch)

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(options.seed)

    if batch.frames.shape[2] > system.config.num_frames:
        draw, parts = generator(), []
        size = min(options.batch_size, AT_ONCE)
        for start in range(0, len(batch), size):
            part = rows_of(batch, slice(start, start + size))
            rounds = dream_in_rounds(system, part, sampling, draw, num_given=given)
            parts.append(torch.cat(list(rounds), dim=2))
        return Dreams(torch.cat(parts), None, drawn)
    mean = dream(system, batch, POSTERIOR_MEAN, generator(), given)
    sampled = dream(system, batch, sampling, generator(), given)
    score_dream_speed(results, "dream_sampled", sampled.seconds, len(batch))
    return Dreams(sampled.frames, mean.frames, drawn)


def _score(
    results: Results, options: EvaluateOptions, system: MaskGWM, scored: Scored, dreams: Dreams
) -> list[Section]:
    """Adds what compares dreams with what came; returns sections of the report."""
    batch, given, groups, seed = scored.batch, scored.num_given, scored.groups, options.seed
    assert batch.frames is not None
    future = slice(given, None)
    real, sampled = batch.frames[:, :, future], dreams.sampled[:, :, future]
    if asks_for(options, "psnr") or asks_for(options, "ssim"):
        model = sampled if dreams.mean is None else dreams.mean[:, :, future]
        others = {"reconstruction": dreams.drawn[:, :, future]}
        if dreams.mean is not None:
            others["model_sampled"] = sampled
        score_futures(results, real, model, others, scored.trivial, groups, seed)
    if asks_for(options, "actions"):
        _score_actions(results, options, system, scored)
    sections: list[Section] = []
    if asks_for(options, "motion"):
        _score_motion(results, real, sampled, scored.trivial, groups, seed)
        if batch.frames.shape[2] >= MIN_LONG * system.config.num_frames:
            found = score_long_horizon(
                results,
                batch.frames,
                dreams.sampled,
                scored.fitted,
                groups,
                num_given=given,
                fps=float(batch.fps[0]) if batch.fps is not None else system.config.fps,
                num_last=min(NUM_LAST, real.shape[2]),
                proxy_window=None,
                seed=seed,
            )
            held_up = system.config.anchored_channels
            results.protocol["long_horizon"]["anchored_channels"] = held_up
            sections.append(long_section(found, results))
    if asks_for(options, "overlap"):
        _score_overlap(results, options, scored, dreams)
    return sections


def _score_actions(
    results: Results, options: EvaluateOptions, system: MaskGWM, scored: Scored
) -> None:
    """Adds "action_sensitivity/..." for speed and yaw rate that are known throughout, in one
    window."""
    names = [signal.name for signal in system.config.signals]
    actions, window = scored.batch.actions, system.config.num_frames
    is_told = actions is not None and bool(actions.isfinite().all())
    if names != ["speed", "yaw_rate"] or not is_told:
        if "actions" in options.metrics:
            raise ValueError(
                "Expected speed and yaw rate in every frame of --data, and a model that reads "
                f"them, for --metrics actions, found a model of {', '.join(names) or 'none'} and "
                f"data {'with unknown actions' if actions is not None else 'without actions'}."
            )
        return
    assert actions is not None
    assert scored.batch.frames is not None
    frames = scored.batch.frames[:, :, :window]
    first = replace(scored.batch, frames=frames, latents=None, actions=actions[:, :window])
    score_frame_sensitivity(
        results, system, first, scored.groups, options.seed, num_given=scored.num_given
    )


def _score_motion(
    results: Results,
    real: UInt8[Tensor, "b v f c h w"],
    dreamt: UInt8[Tensor, "b v f c h w"],
    trivial: Mapping[str, UInt8[Tensor, "b v f c h w"]],
    groups: Int[np.ndarray, " b"],
    seed: int,
) -> None:
    """Adds "motion/shift_error" and "motion/frame_change_error" of the first camera, beside a
    standing copy: see `evaluation/video_pairs.py`."""
    if real.shape[2] < 2:
        return
    sides = {"model": dreamt, "copy_last": trivial["copy_last"]}
    found: dict[str, dict[str, ClipScores]] = {}
    for who, frames in sides.items():
        rows = [motion_errors(frames[i, 0], real[i, 0]) for i in range(len(real))]
        for name in rows[0]:
            parts = [ClipScores(row[name], np.ones_like(row[name])) for row in rows]
            found.setdefault(name, {})[who] = concatenate(parts)
    for name, by_side in found.items():
        results.add(
            f"motion/{name}",
            model=by_side["model"].mean,
            interval=bootstrap_interval(
                by_side["model"], np.random.default_rng(seed), groups=groups
            ),
            n=len(by_side["model"]),
            better="lower",
            baselines={"copy_last": by_side["copy_last"].mean},
            per_horizon={who: scores.per_horizon for who, scores in by_side.items()},
        )


def _score_overlap(
    results: Results, options: EvaluateOptions, scored: Scored, dreams: Dreams
) -> None:
    """Adds "overlap/..." where several cameras are calibrated; says why not."""
    is_asked = "overlap" in options.metrics
    if isinstance(scored.calibration, str):
        if is_asked:
            raise ValueError(
                f"Expected calibrated cameras for --metrics overlap: {scored.calibration}."
            )
        if len(scored.cameras) > 1:
            warnings.warn(f"no overlap error: {scored.calibration}", stacklevel=2)
            results.protocol["overlap"] = f"not computed: {scored.calibration}"
        return
    assert scored.batch.frames is not None
    try:
        score_camera_overlap(
            results,
            scored.batch.frames,
            dreams.sampled,
            scored.calibration,
            scored.groups,
            num_given=scored.num_given,
            seed=options.seed,
        )
    except ValueError as error:
        if is_asked:
            raise
        warnings.warn(f"no overlap error: {error}", stacklevel=2)
        results.protocol["overlap"] = f"not computed. {error}"


def _protocol(
    options: EvaluateOptions,
    system: MaskGWM,
    sampling: FlowSampling,
    scored: Scored,
    num_frames: int,
) -> dict[str, Any]:
    config, batch = system.config, scored.batch
    known = batch.actions is not None
    return {
        "model": options.model,
        "data": list(options.data),
        "train_data": list(options.train_data),
        "mean_image_of": "training data" if options.train_data else "the scored clips",
        "split": "as the user says: --data was never trained on",
        "clips": len(batch),
        "intervals": f"95 % bootstrap over {scored.units}",
        "frames": num_frames,
        "given_frames": scored.num_given,
        "rounds_overlap": config.max_given if num_frames > config.num_frames else None,
        "frame_size": list(config.frame_size),
        "fps": float(batch.fps[0]) if batch.fps is not None else config.fps,
        "cameras": scored.cameras,
        "actions": [signal.name for signal in config.signals] if known else [],
        "sampling": config_to_json(sampling),
        "seed": options.seed,
        "parameters": sum(p.numel() for p in system.parameters()),
        "torch_threads": torch.get_num_threads(),
    }
