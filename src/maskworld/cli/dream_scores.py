"""Video metrics of the dreams of any system, for `maskworld evaluate`: FVD, KVD and FID with the
user's weights, a proxy under its own name without."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from maskworld.cli.errors import nearest
from maskworld.cli.evaluate import METRICS, EvaluateOptions
from maskworld.cli.video_features import (
    DEFAULT_FVD,
    FeatureFiles,
    check_number,
    check_settings,
    default_fid,
    fid_features,
    fvd_features,
)
from maskworld.evaluation.frechet import score_frechet_proxy
from maskworld.evaluation.results import Results
from maskworld.evaluation.video_dreams import score_dreams
from maskworld.evaluation.video_metrics import Features, ScoreSettings
from maskworld.metrics.frechet_proxy import NAME as FRECHET_PROXY

NEEDS = {"fvd": "--fvd-weights", "kvd": "--fvd-weights", "fid": "--fid-weights"}


def asks_for(options: EvaluateOptions, name: str) -> bool:
    """Whether a metric is wanted: all are unless the user names some."""
    return not options.metrics or name in options.metrics


def check_metrics(options: EvaluateOptions) -> None:
    """Checks names and weights before any work.

    Raises:
        ValueError: an unknown metric, or one whose weights are not given; weights without use.
    """
    for name in options.metrics:
        if name not in METRICS:
            raise ValueError(
                f"Expected --metrics of {', '.join(METRICS)}, found {name!r}."
                f"{nearest(name, METRICS)}"
            )
        needed = NEEDS.get(name)
        if needed is not None and getattr(options, needed[2:].replace("-", "_")) is None:
            raise ValueError(
                f"Expected {needed} with --metrics {name}, found none: give the network's weights "
                "(docs/video_metrics.md), or ask for the proxy."
            )
    if options.fid_backend is not None and options.fid_weights is None:
        raise ValueError("Expected --fid-weights with --fid-backend, found none.")
    check_settings(_files(options), ("--fvd-weights", "--fvd-backend"))


def load_networks(options: EvaluateOptions, num_clips: int, num_frames: int) -> list[Features]:
    """The networks whose weights are given, checked against the clips before they are dreamt.

    Args:
        num_clips: views counted as clips of their own.
        num_frames: of a clip that are scored.

    Raises:
        ValueError: weights that do not load, too short or too few clips.
    """
    files, found = _files(options), []
    device = torch.device("cpu")
    if files.weights is not None and (asks_for(options, "fvd") or asks_for(options, "kvd")):
        found.append(fvd_features(files, num_frames, (8, 8), device))
    inception = fid_features(files, device) if asks_for(options, "fid") else None
    if inception is not None:
        found.append(inception)
    for features in found:
        check_number(features, num_clips, num_frames, options.allow_few)
    return found


def score_dreamt_videos(
    results: Results,
    options: EvaluateOptions,
    networks: list[Features],
    real: UInt8[Tensor, "b v t c h w"],
    dreamt: UInt8[Tensor, "b v t c h w"],
    trivial: Mapping[str, UInt8[Tensor, "b v f c h w"]],
    reconstructed: UInt8[Tensor, "b v t c h w"],
    groups: Int[np.ndarray, " b"],
    *,
    num_context: int,
    fps: float | int,
) -> None:
    """Adds the metrics of all networks, with the trivial futures beside, and the proxy.

    Args:
        dreamt: the real clips' first `num_context` frames, then dreamt ones.
        trivial: futures after these.
        reconstructed: what the tokenizer keeps of the clips; bounds the proxy.
    """
    given = real[:, :, :num_context]
    dreamt = torch.cat([given, dreamt[:, :, num_context:]], dim=2)
    copies = {name: torch.cat([given, frames], dim=2) for name, frames in trivial.items()}
    for features in networks:
        score_dreams(
            results,
            real,
            dreamt,
            [str(group) for group in groups],
            features,
            num_context=num_context,
            trivial=copies,
            includes_context=not options.leave_out_condition,
            fps=float(fps),
            settings=ScoreSettings(seed=options.seed, allows_few=options.allow_few),
        )
    if not asks_for(options, "proxy"):
        return
    future = slice(num_context, None)
    others = {"reconstruction": reconstructed[:, :, future], **trivial}
    try:
        score_frechet_proxy(results, real[:, :, future], dreamt[:, :, future], others, groups)
    except ValueError as error:
        if "proxy" in options.metrics:
            raise
        results.protocol[FRECHET_PROXY] = f"not computed. {error}"
        warnings.warn(f"no {FRECHET_PROXY}: {error}", stacklevel=2)


def scored_frames(options: EvaluateOptions, num_frames: int, num_context: int) -> int:
    """Frames of a clip that networks see."""
    return num_frames - num_context if options.leave_out_condition else num_frames


def _files(options: EvaluateOptions) -> FeatureFiles:
    return FeatureFiles(
        weights=options.fvd_weights,
        backend=options.fvd_backend or DEFAULT_FVD,
        resize=options.resize,
        runs_program=options.run_program,
        fid_weights=options.fid_weights,
        fid_backend=options.fid_backend or default_fid(),
        is_backend_said=options.fvd_backend is not None,
    )
