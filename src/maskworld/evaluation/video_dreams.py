"""Video metrics of dreams that an evaluation holds in memory: what `maskworld evaluate` needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxtyping import UInt8
from torch import Tensor

from maskworld.evaluation.results import Results
from maskworld.evaluation.video_metrics import (
    Features,
    ScoreSettings,
    collect,
    make_protocol,
    score_sets,
)
from maskworld.evaluation.video_sets import TensorClips


def score_dreams(
    results: Results,
    real: UInt8[Tensor, "b v f c h w"],
    dreamt: UInt8[Tensor, "b v f c h w"],
    groups: Sequence[str],
    features: Features,
    *,
    num_context: int,
    trivial: Mapping[str, UInt8[Tensor, "b v f c h w"]] | None = None,
    includes_context: bool = False,
    fps: float | None = None,
    settings: ScoreSettings | None = None,
) -> None:
    """Adds the metrics of `features` ("fvd", "kvd", "fvd_infinity"; or "fid", ...), with trivial
    futures beside the Fréchet distance, and their protocols. Views count as clips of their own.

    Args:
        real: the clips from their first given frame on.
        dreamt: the same clips, their first `num_context` frames given.
        groups: world or recording of each row.
        trivial: "copy_last", ...: clips of the same shape.
        includes_context: also score the given frames.

    Raises:
        ValueError: too few frames or clips for the network, wrong pixels or shapes.
    """
    start = 0 if includes_context else num_context
    sides = {"real": real, "dreamt": dreamt, **(trivial or {})}
    clips = {name: TensorClips(one[:, :, start:], groups, fps) for name, one in sides.items()}
    protocol = make_protocol(
        clips["real"],
        clips["dreamt"],
        features,
        num_frames=real.shape[2],
        frame_stride=1,
        selection="first",
        condition_frames=num_context,
        includes_condition_frames=includes_context,
        sampled_frames=0,
    )
    found = {name: collect(one, features) for name, one in clips.items()}
    others = {name: found[name] for name in trivial or {}}
    score_sets(
        results, found["real"], found["dreamt"], features, protocol, settings, trivial=others
    )
