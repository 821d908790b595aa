"""Long dreams: do they stay alive, and what is left of them at each horizon?

A dream of many rounds has left the real drive, though it was told the same actions, so it is
compared in kind: over its last frames it must change from frame to frame, and have contrast, as
much as the real drive does. What changes too little freezes. What loses or gains contrast, or
changes too much, dissolves: into a grey mean, or into noise and flicker. A still picture under
noise of just the right strength would pass: the sharpness that is reported beside shows it.

The table by horizon has equal parts of the dreamt frames: PSNR beside the trivial futures, change,
contrast and sharpness, and the Fréchet proxy of short windows.

Reference: MaskGWM, section 4 (there 2.5 to 12.5 s).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int, UInt8
from torch import Tensor

from maskworld.evaluation.baselines import TrivialFutures, best_trivial
from maskworld.evaluation.frechet import score_frechet_proxy
from maskworld.evaluation.results import Results
from maskworld.metrics.frame_statistics import frame_statistics
from maskworld.metrics.frechet_proxy import NAME as PROXY
from maskworld.metrics.image import FrameMetric, psnr
from maskworld.metrics.intervals import Interval, bootstrap_interval
from maskworld.metrics.scores import ClipScores, concatenate

TOLERANCE = 0.3
"""Change and contrast of the last frames lie within this share of the real ones."""
NUM_LAST = 50
STATISTICS = ("frame_change", "luminance_deviation", "sharpness")
VERDICT_STATISTICS = STATISTICS[:2]


@dataclass(frozen=True)
class Verdict:
    """What became of a long video."""

    freezes: bool
    dissolves: bool

    @property
    def lives(self) -> bool:
        return not self.freezes and not self.dissolves

    def __str__(self) -> str:
        words = [word for word in ("freezes", "dissolves") if getattr(self, word)]
        return " and ".join(words) or "lives"


@dataclass(frozen=True)
class LongHorizon:
    """What `score_long_horizon` found; "model" and the trivial futures by name."""

    ratios: dict[str, dict[str, float]]
    """Statistic -> name -> dreamt over real, of the last frames."""
    intervals: dict[str, Interval]
    """Statistic -> 95 % of the model's ratio, over groups."""
    by_drive: dict[str, list[float | None]]
    """Statistic -> the model's ratio of every drive; None where the real drive has 0."""
    verdicts: dict[str, Verdict]
    psnr: dict[str, ClipScores]
    """By drive and horizon."""
    ends: list[int]
    """The last frame of each horizon, counted from the start of the clip."""


def verdict_of(change: float, deviation: float, tolerance: float = TOLERANCE) -> Verdict:
    """From the ratios of frame change and luminance deviation to those of real drives."""
    return Verdict(
        freezes=change < 1 - tolerance,
        dissolves=change > 1 + tolerance or abs(deviation - 1) > tolerance,
    )


def score_long_horizon(
    results: Results,
    real: Iterable[UInt8[Tensor, "v t c h w"]],
    dreamt: Iterable[UInt8[Tensor, "v t c h w"]],
    trivial: TrivialFutures,
    groups: Int[np.ndarray, " n"],
    *,
    num_given: int,
    fps: float | int,
    num_last: int = NUM_LAST,
    num_horizons: int = 5,
    tolerance: float = TOLERANCE,
    proxy_window: int | None = 8,
    seed: int = 0,
) -> LongHorizon:
    """Adds the "long/..." metrics; the protocol's "long_horizon" holds ratios and verdicts.

    long/frame_change_error, luminance_deviation_error, sharpness_error: how far from 1 the ratio of
        the dreamt last frames to the real ones is (1 for a frozen dream's change); per horizon too;
    long/psnr: of all dreamt frames, per horizon;
    long/frechet_proxy: of windows of the last horizon, per horizon.

    Args:
        real: drives of one length, the given frames first; read one by one.
        dreamt: the same moments under the same actions.
        trivial: fitted on training clips.
        groups: world or recording of each drive.
        num_given: frames that the dream was given.
        num_last: frames at the end that are judged.
        proxy_window: frames of a window, one starting every quarter of it; None = no proxy, and
            nothing is kept in memory. It needs 4 groups, and more windows in half of them than the
            proxy has dimensions.

    Raises:
        ValueError: drives of other shapes or numbers, too few frames, fewer than 2 groups.
    """
    parts = _Parts(trivial, num_given, proxy_window is not None)
    for one, other in zip(real, dreamt, strict=True):
        _check(one, other, num_given, max(num_last, num_horizons), parts.num_frames)
        parts.add(one, other)
    if len(groups) != len(parts.kept_psnr["model"]):
        raise ValueError(
            f"Expected one group per drive ({len(parts.kept_psnr['model'])}), found {len(groups)}."
        )
    count = parts.num_frames
    cuts = num_given + (count - num_given) * np.arange(num_horizons + 1) // num_horizons
    pieces = [slice(a - num_given, b - num_given) for a, b in pairwise(cuts.tolist())]
    last = slice(count - num_given - num_last, count - num_given)
    rng = np.random.default_rng(seed)
    ratios: dict[str, dict[str, float]] = {}
    intervals: dict[str, Interval] = {}
    by_drive: dict[str, list[float | None]] = {}
    for name in STATISTICS:
        scores = {who: parts.ratio(name, who, [last]) for who in parts.names}
        ratios[name] = {who: found.mean for who, found in scores.items()}
        intervals[name] = bootstrap_interval(scores["model"], rng, groups=groups)
        total, weight = scores["model"].per_clip
        by_drive[name] = [x / w if w > 0 else None for x, w in zip(total.tolist(), weight.tolist())]
        _add_error(
            results,
            name,
            ratios[name],
            intervals[name],
            {who: parts.ratio(name, who, pieces).per_horizon for who in parts.names},
            len(groups),
        )
    by_horizon = _add_psnr(results, parts, pieces, groups, rng)
    if proxy_window is not None:
        _add_proxy(results, parts, pieces, groups, proxy_window, seed)
    change, deviation = (ratios[name] for name in VERDICT_STATISTICS)
    verdicts = {who: verdict_of(change[who], deviation[who], tolerance) for who in parts.names}
    ends = [int(end) for end in cuts[1:]]
    results.protocol["long_horizon"] = {
        "frames": count,
        "given_frames": num_given,
        "judged_last_frames": num_last,
        "tolerance": tolerance,
        "horizon_seconds": [(end - num_given) / fps for end in ends],
        "ratios": ratios,
        "intervals": {name: list(ends_) for name, ends_ in intervals.items()},
        "ratios_by_drive": by_drive,
        "drives_within_tolerance": sum(
            one is not None and other is not None and verdict_of(one, other, tolerance).lives
            for one, other in zip(*(by_drive[name] for name in VERDICT_STATISTICS))
        ),
        "verdicts": {who: str(verdict) for who, verdict in verdicts.items()},
    }
    return LongHorizon(ratios, intervals, by_drive, verdicts, by_horizon, ends)


class _Parts:
    """What is kept of each drive: numbers per frame; clips only where windows are cut of them."""

    def __init__(self, trivial: TrivialFutures, num_given: int, keeps_clips: bool) -> None:
        self.trivial, self.num_given, self.keeps_clips = trivial, num_given, keeps_clips
        self.kept_psnr: dict[str, list[ClipScores]] = {"model": []}
        self.statistics: dict[str, dict[str, list[np.ndarray]]] = {}
        self.clips: dict[str, list[Tensor]] = {}
        self.num_frames = 0

    @property
    def names(self) -> list[str]:
        return list(self.kept_psnr)

    def add(self, real: Tensor, dreamt: Tensor) -> None:
        """Measures a drive, its dream and the trivial futures."""
        self.num_frames, past = real.shape[1], slice(self.num_given - 1, self.num_given)
        future = real[:, self.num_given :]
        guesses = self.trivial.predict(real[None, :, : self.num_given], future.shape[1])
        shown = {"real": real[:, self.num_given - 1 :], "model": dreamt[:, self.num_given - 1 :]}
        shown |= {who: torch.cat([real[:, past], each[0]], 1) for who, each in guesses.items()}
        for who, clip in shown.items():
            found = frame_statistics(clip)
            values = (found.change, found.deviation[1:], found.sharpness[1:])
            for name, value in zip(STATISTICS, values):
                rows = self.statistics.setdefault(name, {}).setdefault(who, [])
                rows.append(value.double().cpu().numpy())
            if who != "real":
                metric = FrameMetric(psnr)
                metric.update(clip[None, :, 1:], future[None])
                self.kept_psnr.setdefault(who, []).append(metric.compute())
        if self.keeps_clips:
            for who, clip in (("real", future), ("model", dreamt[:, self.num_given :])):
                self.clips.setdefault(who, []).append(clip.cpu())
            for who, each in guesses.items():
                self.clips.setdefault(who, []).append(each[0])

    def ratio(self, name: str, who: str, pieces: list[slice]) -> ClipScores:
        """Dreamt over real in each piece; `mean` is the ratio of the means over drives."""
        over, under = (
            np.array(
                [[row[piece].mean() for piece in pieces] for row in self.statistics[name][one]]
            )
            for one in (who, "real")
        )
        return ClipScores(over, under)


def _check(real: Tensor, dreamt: Tensor, num_given: int, num_needed: int, known: int) -> None:
    if real.shape != dreamt.shape:
        raise ValueError(
            f"Expected dreams of the drives' shape {tuple(real.shape)}, found "
            f"{tuple(dreamt.shape)}: score the same moments and frames."
        )
    if num_given < 1 or real.shape[1] < num_given + num_needed:
        raise ValueError(
            f"Expected 1 given frame or more and {num_needed} dreamt ones, found {num_given} given "
            f"of {real.shape[1]}: dream longer, or judge fewer last frames."
        )
    if known not in (0, real.shape[1]):
        raise ValueError(f"Expected drives of one length ({known} frames), found {real.shape[1]}.")


def _off(ratio: float | None) -> float | None:
    return None if ratio is None else abs(ratio - 1)


def _add_error(
    results: Results,
    name: str,
    ratios: Mapping[str, float],
    interval: Interval,
    curves: Mapping[str, list[float | None]],
    n: int,
) -> None:
    """How far ratios are from 1; 0 is in the interval where 1 is in the ratio's."""
    ends = [abs(end - 1) for end in interval]
    low = 0.0 if interval[0] <= 1 <= interval[1] else min(ends)
    results.add(
        f"long/{name}_error",
        model=_off(ratios["model"]),
        interval=(low, max(ends)),
        n=n,
        better="lower",
        baselines={who: _off(value) for who, value in ratios.items() if who != "model"},
        per_horizon={who: [_off(x) for x in curve] for who, curve in curves.items()},
    )


def _add_psnr(
    results: Results,
    parts: _Parts,
    pieces: list[slice],
    groups: Int[np.ndarray, " n"],
    rng: np.random.Generator,
) -> dict[str, ClipScores]:
    """All frames count alike in the mean; returned by horizon."""
    scores = {who: concatenate(found) for who, found in parts.kept_psnr.items()}
    by_horizon = {
        who: np.stack([found.total[:, piece].mean(axis=1) for piece in pieces], axis=1)
        for who, found in scores.items()
    }
    found_by_horizon = {who: ClipScores(x, np.ones_like(x)) for who, x in by_horizon.items()}
    curves = {who: found.per_horizon for who, found in found_by_horizon.items()}
    curves["best_trivial"] = best_trivial(
        {who: curve for who, curve in curves.items() if who != "model"}, "higher"
    )
    results.add(
        "long/psnr",
        model=scores["model"].mean,
        interval=bootstrap_interval(scores["model"], rng, groups=groups),
        n=len(groups),
        better="higher",
        baselines={who: found.mean for who, found in scores.items() if who != "model"},
        per_horizon=curves,
    )
    return found_by_horizon


def _add_proxy(
    results: Results,
    parts: _Parts,
    pieces: list[slice],
    groups: Int[np.ndarray, " n"],
    window: int,
    seed: int,
) -> None:
    """The proxy of each horizon's windows against other drives' windows of the same horizon."""
    found = []
    for piece in pieces:
        sets = {who: _windows(clips, piece, window) for who, clips in parts.clips.items()}
        real, model = sets.pop("real"), sets.pop("model")
        labels = np.repeat(groups, len(real) // len(groups))
        scratch = Results("long", {})
        score_frechet_proxy(
            scratch, real, model, sets, labels, seed=seed, num_splits=4, num_resamples=100
        )
        found.append((scratch.to_dict()["metrics"][PROXY], scratch.protocol[PROXY]))
    entries = [entry for entry, _ in found]
    last = entries[-1]
    names = [key for key in last if key not in ("model", "interval", "n", "better")]
    results.add(
        f"long/{PROXY}",
        model=last["model"],
        interval=last["interval"],
        n=last["n"],
        better="lower",
        baselines={name: last[name] for name in names},
        per_horizon={name: [entry[name] for entry in entries] for name in ("model", *names)},
    )
    results.protocol[f"long/{PROXY}"] = found[-1][1] | {"window": window, "step": _step(window)}


def _step(window: int) -> int:
    """Frames between windows: a dozen drives are few, and each of them has to give many."""
    return max(1, window // 4)


def _windows(clips: list[Tensor], piece: slice, window: int) -> UInt8[Tensor, "n v f c h w"]:
    """Overlapping windows of one horizon of every drive, drive by drive."""
    length = piece.stop - piece.start
    if length < window:
        raise ValueError(
            f"Expected horizons of at least {window} frames for the proxy's windows, found "
            f"{length}: dream longer, or ask for fewer horizons or no proxy."
        )
    cut = [clip[:, piece].unfold(1, window, _step(window)) for clip in clips]
    return torch.cat([rearrange(each, "v n c h w f -> n v f c h w") for each in cut]).contiguous()
