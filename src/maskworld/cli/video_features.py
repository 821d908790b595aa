"""What `maskworld score fvd` and `maskworld evaluate` compare videos by: networks whose weights the
user has, or the proxy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from maskworld.evaluation.video_metrics import Features, ProxyFeatures
from maskworld.metrics.fid import load_fid
from maskworld.metrics.fvd import load_fvd
from maskworld.metrics.protocol import Preset

DEFAULT_FVD = "i3d-tats"


@dataclass(frozen=True)
class FeatureFiles:
    """Weights that the user gives, and how they are used."""

    weights: Path | None = None
    """I3D's; None = the proxy."""
    backend: str = DEFAULT_FVD
    resize: str | None = None
    runs_program: bool = False
    fid_weights: Path | None = None
    fid_backend: str = ""
    is_backend_said: bool = False
    """Whether the user named the backend."""


def default_fid() -> str:
    """The backend of FID unless the user or a preset says another."""
    return Preset("", "", 1, None, None, None).fid_backend


def fvd_features(
    files: FeatureFiles,
    num_scored: int,
    size: tuple[int, int],
    device: torch.device,
    batch_size: int = 4,
) -> Features:
    """I3D, or the proxy where no weights are given.

    Args:
        num_scored, size: frames of a clip, and their height and width, for the proxy.

    Raises:
        ValueError: other weights, or settings of I3D without any.
    """
    if files.weights is not None:
        return load_fvd(
            files.backend,
            files.weights,
            resize=files.resize,
            device=device,
            clips_at_once=batch_size,
            runs_program=files.runs_program,
        )
    check_settings(files)
    return ProxyFeatures(num_scored, size)


def check_settings(
    files: FeatureFiles, words: tuple[str, str] = ("--weights", "--backend")
) -> None:
    """Raises ValueError for settings of I3D without its weights.

    Args:
        words: what the options for weights and backend are called.
    """
    given = {
        words[1]: files.is_backend_said,
        "--resize": files.resize is not None,
        "--run-program": files.runs_program,
    }
    useless = [word for word, is_given in given.items() if is_given]
    if useless and files.weights is None:
        raise ValueError(f"Expected {words[0]} with {', '.join(useless)}, found none: give I3D's.")


def fid_features(files: FeatureFiles, device: torch.device) -> Features | None:
    """The Inception network; None where no weights are given."""
    if files.fid_weights is None:
        return None
    return load_fid(files.fid_backend or default_fid(), files.fid_weights, device=device)


def check_number(
    features: Features,
    num_clips: int,
    num_scored: int,
    allows_few: bool,
    *,
    sampled_frames: int = 0,
) -> None:
    """Before hours of work, what `frechet_distance` would refuse after them.

    Raises:
        ValueError: too short clips, or too few.
    """
    if num_scored < features.min_frames:
        raise ValueError(
            f"Expected at least {features.min_frames} scored frames for {features.metric}, found "
            f"{num_scored}: score longer clips."
        )
    vectors = num_clips * num_scored if features.is_per_frame else num_clips
    if features.is_per_frame and sampled_frames:
        vectors = sampled_frames
    if vectors <= features.dim and not allows_few:
        raise ValueError(
            f"Expected more than {features.dim} {'frames' if features.is_per_frame else 'clips'} "
            f"a side for {features.metric}, found {vectors}: with fewer the number says how many "
            "there are. Give more videos, cut several clips of each with --every, or say "
            "--allow-few."
        )
