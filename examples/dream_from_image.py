"""Dream what follows one image.

python examples/dream_from_image.py quickstart/model street.png dream.mp4
"""

import sys

import cv2
import torch
from einops import rearrange

from maskworld.data.transforms import ResizeCrop
from maskworld.data.video_files import write_video
from maskworld.recipes.open import load_release
from maskworld.systems.worlddreamer import task_mask
from maskworld.types import Clip, Prompt


def main(model: str, image: str, out: str) -> None:
    release = load_release(model)  # maskworld.load(model) and how it was released to be sampled
    system = release.system
    pixels = cv2.imread(image)
    if pixels is None:
        raise SystemExit(f"Expected an image at {image}, found none.")
    first = torch.from_numpy(pixels[..., ::-1].copy())
    generator = torch.Generator().manual_seed(0)
    clip = ResizeCrop(system.config.frame_size)(
        Clip(frames=rearrange(first, "h w c -> 1 1 c h w")), generator
    )
    assert clip.frames is not None

    codes = system.tokenize(clip.frames[None])[:, 0]  # b t gh gw, with t = 1
    tokens = codes.repeat(1, system.config.num_frames, 1, 1)  # what is hidden does not matter
    hidden = task_mask("image-to-video", tuple(tokens.shape), generator)
    dream = system.generate(Prompt(), tokens, hidden, release.decoding, generator)
    assert dream.frames is not None
    write_video(out, rearrange(dream.frames[0, 0], "t c h w -> t h w c").numpy(), system.config.fps)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
