"""Train the tiny recipe on a video of yours, in Python instead of by `maskworld train`.

maskworld data import video drive.mp4 --out drive --size 72 120 --fps 5    # decode it once
python examples/train_on_my_video.py drive run [STEPS]

The last quarter of every recording is left out of training.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from maskworld.data.dataset import ClipDataset
from maskworld.data.lerobot import LeRobotSource
from maskworld.data.loader import make_loader
from maskworld.data.transforms import ResizeCrop
from maskworld.data.windows import ClipIndex, split_by_time
from maskworld.recipes import load_recipe
from maskworld.recipes.open import save_release, stride_to
from maskworld.systems.worlddreamer import WorldDreamer
from maskworld.tokenizers.patch import PatchTokenizer
from maskworld.training.loop import train


def main(data: str, run: str, steps: str = "600") -> None:
    recipe = load_recipe("worlddreamer-tiny")
    config = recipe.system
    stages = [replace(s, num_steps=int(steps), warmup_steps=0) for s in recipe.stages]

    source = LeRobotSource(data)
    train_part, _ = split_by_time(source, held_out=0.25)
    index = ClipIndex(source, config.num_frames, stride_to(config.fps, source), 1, train_part)
    clips = ClipDataset(source, index, [ResizeCrop(config.frame_size)])
    print(index)

    torch.manual_seed(0)
    system = WorldDreamer(config)
    assert isinstance(system.tokenizer, PatchTokenizer)
    some = [clips[i].frames for i in range(0, len(clips), max(1, len(clips) // 100))]
    frames = torch.cat([pixels[0] for pixels in some if pixels is not None])
    system.tokenizer.fit(frames, torch.Generator().manual_seed(0))  # codes first, by k-means

    # Stage "tokenizer" trains the decoder of the codes, stage "world" the transformer.
    train(
        system,
        stages,
        lambda stage: make_loader([clips], batch_size=stage.batch_size, seed=0),
        run,
        seed=0,
        device="cpu",
    )
    save_release(system, Path(run) / "model", recipe.decoding)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
