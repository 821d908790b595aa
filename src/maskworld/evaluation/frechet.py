"""Dreams scored by the Fréchet proxy: as a set of clips, do they look and move like real ones?

A dream compared with the very clips that it continues shares their scenes, and scores better than
independent real clips would. So every distance here is between two halves of the evaluation set
without a common world or recording: one half dreamt (or copied, or real), the other half real. The
floor, real against real, has the same clips, numbers and splits.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from maskworld.evaluation.results import Results
from maskworld.metrics.frechet import FrechetStatistics, frechet_distance
from maskworld.metrics.frechet_proxy import NAME, FrechetProxy
from maskworld.metrics.intervals import Interval

FLOOR = "real_vs_real"

Halves = tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]


def score_frechet_proxy(
    results: Results,
    real: UInt8[Tensor, "b v f c h w"],
    dreamt: UInt8[Tensor, "_ _ _ _ _ _"],
    trivial: Mapping[str, UInt8[Tensor, "_ _ _ _ _ _"]],
    groups: Int[np.ndarray, " b"],
    *,
    seed: int = 0,
    num_splits: int = 6,
    num_resamples: int = 200,
    confidence: float = 0.95,
) -> dict[str, float]:
    """Adds "frechet_proxy": dreams, trivial futures and "real_vs_real" against other real clips.

    Views count as clips of their own. The protocol gets an entry of the same name.

    Args:
        real: what came, without the given frames.
        dreamt: the model's, row by row of the same moments.
        trivial: "copy_last", "blurred_copy", ...; also "reconstruction", which bounds the model.
        groups: world or recording of each row; halves and resamples take whole groups.
        num_splits: random halvings to average, each both ways.

    Returns:
        Distances by name, the model's as "model".

    Raises:
        ValueError: too few clips for halves of more than `FrechetProxy.dim`, fewer than 4 groups,
            sets of other shapes.
    """
    sets = {"model": dreamt, **trivial, FLOOR: real}
    for name, clips in sets.items():
        if clips.shape != real.shape:
            raise ValueError(
                f"Expected {name} of the real clips' shape {tuple(real.shape)}, found "
                f"{tuple(clips.shape)}: score the same moments and frames."
            )
    num_views = real.shape[1]
    labels = np.repeat(groups, num_views)
    proxy = FrechetProxy(real.shape[2], (real.shape[-2], real.shape[-1]))
    features = {
        name: proxy.features(rearrange(clips, "b v f c h w -> (b v) f c h w"))
        for name, clips in sets.items()
    }
    rng = np.random.default_rng(seed)
    splits = [split_groups(labels, rng) for _ in range(num_splits)]
    values = {
        name: float(np.mean([_both_ways(found, features[FLOOR], halves) for halves in splits]))
        for name, found in features.items()
    }
    interval = _interval(
        values["model"], features["model"], features[FLOOR], labels, rng, num_resamples, confidence
    )
    clips_per_side = [len(half) for halves in splits for half in halves]
    results.add(
        NAME,
        model=values["model"],
        interval=interval,
        n=len(labels),
        better="lower",
        baselines={name: value for name, value in values.items() if name != "model"},
    )
    results.protocol[NAME] = {
        "features": proxy.protocol,
        "frames": proxy.num_frames,
        "size": list(proxy.size),
        "seed": proxy.seed,
        "given_frames": "left out",
        "sides": "halves without a common group, both ways",
        "splits": num_splits,
        "clips_per_side": [min(clips_per_side), max(clips_per_side)],
        "split_seed": seed,
        "interval": "bootstrap over groups, centred",
    }
    return values


def split_groups(labels: Int[np.ndarray, " n"], rng: np.random.Generator) -> Halves:
    """Rows of two random halves of the groups.

    Raises:
        ValueError: fewer than 4 groups.
    """
    names = np.unique(labels)
    if len(names) < 4:
        raise ValueError(
            f"Expected at least 4 worlds or recordings to halve, found {len(names)}: halves of "
            "fewer compare one scene with another. Evaluate on more of them."
        )
    chosen = rng.permutation(names)[: len(names) // 2]
    is_first = np.isin(labels, chosen)
    return np.flatnonzero(is_first), np.flatnonzero(~is_first)


def _both_ways(found: Float[Tensor, "n d"], real: Float[Tensor, "n d"], halves: Halves) -> float:
    """Mean of first half found against second half real, and the reverse."""
    pairs = (halves, halves[::-1])
    return float(
        np.mean(
            [
                frechet_distance(
                    FrechetStatistics.of(found[torch.from_numpy(one.copy())]),
                    FrechetStatistics.of(real[torch.from_numpy(other.copy())]),
                )
                for one, other in pairs
            ]
        )
    )


def _interval(
    value: float,
    found: Float[Tensor, "n d"],
    real: Float[Tensor, "n d"],
    labels: Int[np.ndarray, " n"],
    rng: np.random.Generator,
    num_resamples: int,
    confidence: float,
) -> Interval:
    """Bootstrap over groups, each time of one random split, within its halves.

    A resample holds groups twice, so its distances are too large, all alike: their spread is put
    around the value. One split varies more than the mean of several: rather wide than narrow.
    """
    members = {name: np.flatnonzero(labels == name) for name in np.unique(labels)}
    drawn: list[float] = []
    num_small = 0
    while len(drawn) < num_resamples:
        halves = []
        for half in split_groups(labels, rng):
            names = np.unique(labels[half])
            chosen = rng.choice(names, size=len(names))
            halves.append(np.concatenate([members[name] for name in chosen]))
        if min(len(half) for half in halves) <= found.shape[1] and num_small < num_resamples:
            num_small += 1  # by chance few clips: their covariance has not full rank
            continue
        drawn.append(_both_ways(found, real, (halves[0], halves[1])))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.array(drawn) - np.mean(drawn), [tail, 1 - tail])
    return max(value + float(low), 0.0), value + float(high)
