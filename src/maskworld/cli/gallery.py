"""Clips beside their dreams, for the reports of `maskworld evaluate`."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import UInt8
from torch import Tensor

from maskworld.cli.quickstart_parts import as_video, spread
from maskworld.report import VideoRow
from maskworld.types import Batch

NUM_SHOWN = 6


def clip_rows(
    batch: Batch, panels: Mapping[str, UInt8[Tensor, "b v t c h w"] | None], num_context: int
) -> list[VideoRow]:
    """A few clips, spread evenly over the batch, with the panels that there are."""
    return [
        VideoRow(
            name=f"clip {i}",
            panels={
                name: as_video(frames[i]) for name, frames in panels.items() if frames is not None
            },
            caption=batch.captions[i],
            num_context=num_context,
            fps=5.0 if batch.fps is None else float(batch.fps[i]),
        )
        for i in spread(len(batch), NUM_SHOWN)
    ]
