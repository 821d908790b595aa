"""Two sets of clips scored against each other: Fréchet and kernel distances with what they need to
be read: the real-against-real floor, the value for infinitely many clips, intervals, the protocol.

Memory does not grow with the videos: clips are decoded, turned into features and forgotten; the
features lie in a temporary file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from maskworld.evaluation.results import Results
from maskworld.evaluation.video_sets import ClipSet, check_pair
from maskworld.metrics import frechet_proxy
from maskworld.metrics.frechet import (
    ROWS_AT_ONCE,
    FrechetStatistics,
    extrapolate,
    frechet_distance,
    merge_ranks,
)
from maskworld.metrics.frechet_error import influences, normal_interval, standard_error
from maskworld.metrics.kvd import kernel_distance_interval
from maskworld.metrics.protocol import VideoProtocol, check_comparable
from maskworld.training.distributed import Processes, gather_blobs

FLOOR = "real_vs_real"
MAX_VECTORS = 10_000
"""Vectors a side for the kernel distance and the extrapolation; of more, this many are drawn.
Ours."""


@runtime_checkable
class Features(Protocol):
    """Clips to vectors: `FVDFeatures`, `FIDFeatures` or `ProxyFeatures`."""

    metric: str
    companion: str
    """Name of the kernel distance on the same vectors."""
    dim: int
    min_frames: int
    is_per_frame: bool
    backend: str
    weights_sha256: str
    resize: str

    def features(self, clips: Shaped[Tensor, "b t c h w"]) -> Float[Tensor, "n d"]: ...


class ProxyFeatures:
    """`frechet_proxy` where no weights are given. Its numbers are no FVD."""

    metric, companion = frechet_proxy.NAME, "kernel_proxy"
    dim, min_frames, is_per_frame = (
        frechet_proxy.FrechetProxy.dim,
        frechet_proxy.MIN_FRAMES,
        False,
    )
    weights_sha256, resize = "", "mean over cells of a grid"

    def __init__(self, num_frames: int, size: tuple[int, int], seed: int = 0) -> None:
        self._proxy = frechet_proxy.FrechetProxy(num_frames, size, seed)
        self.backend = f"{frechet_proxy.NAME} v{frechet_proxy.VERSION}, seed {seed}"

    def features(self, clips: Shaped[Tensor, "b t c h w"]) -> Float[Tensor, "n d"]:
        """One vector per clip."""
        return self._proxy.features(clips)


@dataclass
class Collected:
    """The vectors of one set, and their statistics."""

    statistics: FrechetStatistics
    features: Float[Tensor, "n d"]
    """float32, in a temporary file."""
    units: list[str]
    """Per vector."""
    file: IO[bytes]


def collect(
    clips: ClipSet,
    features: Features,
    *,
    sampled_frames: int = 0,
    seed: int = 0,
    batch_size: int = 8,
    processes: Processes | None = None,
    device: torch.device | None = None,
    on_clips: Callable[[int], None] | None = None,
) -> Collected:
    """Reads every clip once. Of several processes each reads every world-size-th clip, none twice,
    and all have the whole result, in the order of the clips.

    Args:
        sampled_frames: per-frame features of so many frames, drawn from all clips; 0 = all.
        on_clips: told how many clips have just been done, for a display of progress.

    Raises:
        ValueError: fewer frames than are to be drawn, or what the clips and the network forbid.
    """
    processes = processes or Processes()
    where = device or torch.device("cpu")
    chosen = _frames_to_score(clips, features, sampled_frames, seed)
    own = range(processes.rank, len(clips), processes.num_processes)
    statistics = FrechetStatistics(features.dim, features.backend)
    mine = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the vectors
    for start in range(0, len(own), 1 if chosen else batch_size):
        batch = own[start : start + (1 if chosen else batch_size)]
        frames = torch.stack([clips.clip(i) for i in batch])
        if chosen:
            frames = frames[:, torch.from_numpy(chosen[batch[0]])]
        if frames.numel():
            vectors = features.features(frames).float()
            statistics.update(vectors)
            mine.write(vectors.contiguous().numpy().tobytes())
        if on_clips is not None:
            on_clips(len(batch))
    counts = [_vectors_of(i, clips, features, chosen) for i in range(len(clips))]
    units = [unit for unit, count in zip(clips.units, counts, strict=True) for _ in range(count)]
    if processes.num_processes == 1:
        return Collected(statistics, _mapped(mine, len(units), features.dim), units, mine)
    mine.seek(0)
    whole = _in_order(gather_blobs(mine.read(), processes, where), counts, features.dim)
    mine.close()
    merged = merge_ranks(gather_blobs(statistics.to_bytes(), processes, where))
    return Collected(merged, _mapped(whole, len(units), features.dim), units, whole)


def _frames_to_score(
    clips: ClipSet, features: Features, sampled: int, seed: int
) -> list[Int[np.ndarray, " _"]]:
    """Per clip the frames that were drawn; none at all where all count."""
    if not (sampled and features.is_per_frame):
        return []
    total = len(clips) * clips.num_scored
    if total < sampled:
        raise ValueError(f"Expected at least {sampled} frames to draw from, found {total}.")
    drawn = np.random.default_rng(seed).choice(total, sampled, replace=False)
    drawn.sort()
    clip, frame = drawn // clips.num_scored, drawn % clips.num_scored
    return [frame[clip == i] for i in range(len(clips))]


def _vectors_of(
    index: int, clips: ClipSet, features: Features, chosen: list[Int[np.ndarray, " _"]]
) -> int:
    if chosen:
        return len(chosen[index])
    return clips.num_scored if features.is_per_frame else 1


def _mapped(file: IO[bytes], rows: int, dim: int) -> Float[Tensor, "n d"]:
    file.flush()
    if not rows:
        return torch.zeros(0, dim)
    return torch.from_numpy(np.memmap(file, dtype=np.float32, mode="r+", shape=(rows, dim)))


def _in_order(parts: Sequence[bytes], counts: Sequence[int], dim: int) -> IO[bytes]:
    """What the ranks found, clip by clip."""
    whole = tempfile.TemporaryFile()  # noqa: SIM115
    places = [0] * len(parts)
    for index, count in enumerate(counts):
        rank = index % len(parts)
        size = 4 * dim * count
        whole.write(parts[rank][places[rank] : places[rank] + size])
        places[rank] += size
    return whole


@dataclass(frozen=True)
class ScoreSettings:
    """How distances are put into context. All numbers ours."""

    seed: int = 0
    confidence: float = 0.95
    num_splits: int = 4
    """Random halvings of the real set for the floor."""
    num_resamples: int = 200
    """For the interval of the kernel distance."""
    allows_few: bool = False
    """Also with no more vectors than dimensions."""


def score_sets(
    results: Results,
    real: Collected,
    dreamt: Collected,
    features: Features,
    protocol: VideoProtocol,
    settings: ScoreSettings | None = None,
    trivial: Mapping[str, Collected] | None = None,
) -> None:
    """Adds the Fréchet distance ("fvd"), the kernel distance on the same vectors ("kvd") and, where
    there are enough vectors, the distance at infinity ("fvd_infinity"); each with its protocol.

    "real_vs_real" beside the distance is what two sets of so many clips from one source would have:
    distances between random halves of the real set, halved, since they fall like 1 / n. Those of
    `trivial` sets ("copy_last", ...) stand there too.

    Raises:
        ValueError: too few vectors, unless allowed.
    """
    settings = settings or ScoreSettings()
    name, rng = features.metric, np.random.default_rng(settings.seed)
    value = frechet_distance(real.statistics, dreamt.statistics, allows_few=settings.allows_few)
    pairs = ((real, dreamt), (dreamt, real))
    error = standard_error(
        [
            (influences(one.features, one.statistics, other.statistics), one.units)
            for one, other in pairs
        ]
    )
    halves = _halves(real, rng, settings.num_splits)
    beside = {FLOOR: float(np.mean(halves)) / 2} if halves else {}
    for other, found in (trivial or {}).items():
        beside[other] = frechet_distance(
            real.statistics, found.statistics, allows_few=settings.allows_few
        )
    results.add(
        name,
        model=value,
        interval=normal_interval(value, error, settings.confidence),
        n=len(dreamt.units),
        better="lower",
        baselines=beside,
    )
    entry = protocol.of(name).to_dict()
    results.protocol[name] = entry
    few = min(len(real.units), len(dreamt.units)) <= features.dim
    results.protocol[f"{name}_reading"] = {
        "vectors": [len(real.units), len(dreamt.units)],
        "dimensions": features.dim,
        "covariance_has_full_rank": not few,
        "floor_of_halves": halves,
        "interval": "influence of clips, normal; without the bias of few clips",
    }
    x, y = (_subset(one, rng) for one in (real, dreamt))
    kernel = kernel_distance_interval(
        x[0], y[0], rng, (x[1], y[1]), num_resamples=settings.num_resamples
    )
    results.add(
        features.companion,
        model=kernel.value,
        interval=kernel.interval,
        n=len(y[1]),
        better="lower",
    )
    results.protocol[features.companion] = protocol.of(features.companion).to_dict()
    _add_infinity(results, name, x[0], y[0], error, rng, settings, entry)


def _add_infinity(
    results: Results,
    name: str,
    x: Tensor,
    y: Tensor,
    error: float,
    rng: np.random.Generator,
    settings: ScoreSettings,
    entry: dict[str, Any],
) -> None:
    """Where there are at least twice as many vectors as dimensions: a shorter lever arm tells
    nothing about infinity."""
    if min(len(x), len(y)) < 2 * x.shape[1]:
        return
    found = extrapolate(x, y, rng)
    both = (error**2 + found.error**2) ** 0.5
    results.add(
        f"{name}_infinity",
        model=found.at_infinity,
        interval=normal_interval(found.at_infinity, both, settings.confidence, -np.inf),
        n=min(len(x), len(y)),
        better="lower",
    )
    results.protocol[f"{name}_infinity"] = {**entry, "metric": f"{name}_infinity"}
    results.protocol[f"{name}_infinity_reading"] = {
        "sizes": list(found.sizes),
        "distances": list(found.distances),
    }


def _halves(real: Collected, rng: np.random.Generator, num_splits: int) -> list[float]:
    """Distances between random halves of the videos; none where halves are too small."""
    names = sorted(set(real.units))
    numbers = {name: i for i, name in enumerate(names)}
    unit = np.array([numbers[name] for name in real.units])
    found = []
    for _ in range(num_splits):
        first = np.isin(unit, rng.permutation(len(names))[: len(names) // 2])
        sides = [np.flatnonzero(first), np.flatnonzero(~first)]
        if min(len(side) for side in sides) <= real.features.shape[1]:
            return []
        statistics = []
        for rows in sides:  # in parts: an index would copy half of the file into memory
            one = FrechetStatistics(real.features.shape[1])
            for part in torch.from_numpy(rows).split(ROWS_AT_ONCE):
                one.update(real.features[part])
            statistics.append(one)
        found.append(frechet_distance(statistics[0], statistics[1]))
    return found


def _subset(one: Collected, rng: np.random.Generator) -> tuple[Float[Tensor, "n d"], list[str]]:
    if len(one.units) <= MAX_VECTORS:
        return one.features, one.units
    rows = np.sort(rng.choice(len(one.units), MAX_VECTORS, replace=False))
    return one.features[torch.from_numpy(rows)], [one.units[i] for i in rows]


def make_protocol(
    real: ClipSet, dreamt: ClipSet, features: Features, **settings: Any
) -> VideoProtocol:
    """The protocol of two sets and the features; `settings` are its other fields.

    Raises:
        ValueError: sets of other lengths or frame rates.
    """
    check_pair(real, dreamt)
    return VideoProtocol(
        metric=features.metric,
        backend=features.backend,
        weights_sha256=features.weights_sha256,
        resize=features.resize,
        fps=real.fps,
        real_size=real.size,
        dreamt_size=dreamt.size,
        num_real=len(real),
        num_dreamt=len(dreamt),
        clips_sha256=real.sha256(),
        **settings,
    )


def compare_results(
    first: dict[str, Any], second: dict[str, Any]
) -> list[tuple[str, float, float]]:
    """Values of the video metrics that two results share.

    Raises:
        ValueError: none in common, or different protocols; names the fields.
    """
    rows = []
    for name, entry in first["metrics"].items():
        if name not in second["metrics"]:
            continue
        protocols = [one["protocol"].get(name) for one in (first, second)]
        if not all(isinstance(one, dict) and "clips_sha256" in one for one in protocols):
            continue
        check_comparable(*(VideoProtocol.from_dict(one) for one in protocols))
        rows.append((name, float(entry["model"]), float(second["metrics"][name]["model"])))
    if not rows:
        raise ValueError(
            "Expected at least one video metric in both results, found "
            f"{sorted(first['metrics'])} and {sorted(second['metrics'])}."
        )
    return rows
