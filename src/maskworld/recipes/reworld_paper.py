r"""ReWorld as published: a 1.9B video tower and a 131M action tower. Complete, and not run by us.

Paper: arXiv 2606.27504, sections 3 and 4.1; DriveLaW (arXiv 2512.23421), on which it builds.
Command: torchrun --nproc-per-node 8 -m maskworld train reworld-paper --data nuscenes/ nuplan/logs \
    --tokenizer ltx/vae --video-weights ltx/transformer --pool pool --out RUN
Hardware: a GPU cluster; unknown in the paper. Batches below are for 8 processes.

The paper gives: LTX-Video 2B and its VAE, a head on block 8 of 28, alignment on layer 12, their
weights but lambda_Mid, AdamW, 20k steps at batch 64, lr 1e-5 and weight decay 5e-2 for the video,
6k at batch 128 for actions, 10k at batch 160 for both, uniform times, 8 Hz, 30 and 5 sampling
steps, gamma 1.4. DriveLaW's release gives the action tower (131.27M), its times, betas, learning
rate, decay and warm-up of the stages action and joint, the normalisation of plans, and clipping.

What is neither, and what we took (ADR 0009):
- the sizes of the "two-phase resolution curriculum": DriveLaW's README hints at 121 frames of
  512 x 512 for motion, then 33 of 1280 x 704 for detail; its 20k steps are cut in halves;
- the schedule: linear decay for the video, as DriveLaW trains its own; constant for the rest;
- lambda_Mid 0.5, from Internal Guidance; constants of the delta map, from BeyondDrive;
- T5-XXL with 128 tokens, as LTX-Video is sampled.

What differs: the planner reads the same 9 past frames at 8 Hz as the video (two latents and three
of noise), DriveLaW's four frames at 2 Hz, each on its own, and two of noise; and it is shown them
at t = 1 in training too.
"""

from maskworld.backbones.ltx import LTXConfig
from maskworld.conditioning.text import T5TextConfig
from maskworld.recipes.recipe import ReWorldRecipe
from maskworld.systems.reworld import ReWorldConfig
from maskworld.training.config import Stage

RECIPE = ReWorldRecipe(
    name="reworld-paper",
    summary="1.9B + 131M parameters, the paper's numbers; not run by us",
    hardware="a GPU cluster",
    system=ReWorldConfig(  # every default not named here is the paper's or DriveLaW's
        video=LTXConfig(gradient_checkpointing=True),
        text=T5TextConfig(path="google/t5-v1_1-xxl", dim=4096, max_tokens=128),
    ),
    stages=(
        Stage(
            "video-1",
            num_steps=10_000,  # 20k in both phases
            batch_size=1,
            accumulate=8,  # x 8 GPUs = 64
            learning_rate=1e-5,
            schedule="linear",
            weight_decay=5e-2,
            precision="bf16",
            num_frames=121,
            frame_size=(512, 512),
        ),
        Stage(
            "video-2",
            num_steps=10_000,
            batch_size=1,
            accumulate=8,
            learning_rate=1e-5,
            schedule="linear",
            weight_decay=5e-2,
            precision="bf16",
            num_frames=33,
            frame_size=(704, 1280),
        ),
        Stage(
            "action",
            num_steps=6_000,
            batch_size=4,
            accumulate=4,  # x 8 GPUs = 128
            learning_rate=3e-5,
            schedule="constant",
            warmup_steps=1_000,
            weight_decay=1e-5,
            betas=(0.9, 0.95),
            ema_decay=0.999,
            precision="bf16",
        ),
        Stage(
            "joint",
            num_steps=10_000,
            batch_size=2,
            accumulate=10,  # x 8 GPUs = 160
            learning_rate=3e-5,
            schedule="constant",
            warmup_steps=1_000,
            weight_decay=1e-5,
            betas=(0.9, 0.95),
            ema_decay=0.999,
            precision="bf16",
        ),
    ),
    was_run=False,
)
