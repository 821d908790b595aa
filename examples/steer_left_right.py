"""Dream a left and a right turn from one first frame, beside the real pictures of both.

python examples/steer_left_right.py quickstart/model turns.mp4

Left to right in the video: real left, dreamt left, real right, dreamt right. Captions would
tell the turn, so the dreams get none: only the actions steer.
"""

import sys
from dataclasses import replace

import torch
from einops import rearrange

from maskworld.data.video_files import write_video
from maskworld.evaluation.prediction import predict
from maskworld.preparation.counterfactuals import collect_pairs
from maskworld.recipes.open import load_release
from maskworld.types import collate

WORLD = 700_000
"""A seed that the quickstart neither trains on nor is scored on."""


def main(model: str, out: str) -> None:
    release = load_release(model)
    config = release.system.config
    sides = collect_pairs(
        [WORLD], 1, num_frames=config.num_frames, size=config.frame_size, fps=config.fps
    )
    shown = []
    for clips in sides:
        batch = replace(collate(clips), captions=[""])
        generator = torch.Generator().manual_seed(0)
        dream = predict(release.system, batch, 1, release.decoding, generator).dream
        assert batch.frames is not None
        assert dream.frames is not None
        shown += [batch.frames[0, 0], dream.frames[0, 0]]
    video = rearrange(torch.stack(shown), "k t c h w -> t h (k w) c")
    write_video(out, video.contiguous().numpy(), config.fps)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
