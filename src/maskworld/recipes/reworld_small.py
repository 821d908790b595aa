"""ReWorld on one GPU: a trained video autoencoder (9M), towers of 26M and 12M.

Paper: arXiv 2606.27504, all three stages.
Command: maskworld train reworld-small --data DATASET --mine-online --out RUN
Hardware: one GPU of 24 GB or more, a few hours (an estimate: not run by us).

What differs from the paper, and why:
- scale: 14 blocks for 28, 384 wide for 2048; the head is at layer 4 and the alignment at layer 6,
  the same relative depth as 8 and 12 of 28;
- a causal VAE of our own (8 x 8 pixels x 8 frames, 16 channels), trained on the same data in a
  stage of its own, where the paper takes LTX-Video's;
- no text, as in the paper's Table 2: captions of whole clips tell a planner what it will do;
- the video may be given the future actions (`future_actions`), so that it can dream what a plan
  leads to, and is trained without them half of the time, as a planner does not know them;
- 17 frames at 5 Hz, 9 of them past; plans are normalised by the ranges of the data;
- the resolution curriculum has the paper's idea, long and small before short and large, at sizes of
  ours: 33 frames of 64 x 112, then 17 of 128 x 224;
- learning rates and numbers of steps are ours.
"""

from maskworld.backbones.action_dit import ActionDiTConfig
from maskworld.backbones.ltx import LTXConfig
from maskworld.recipes.recipe import PlanningData, ReWorldRecipe
from maskworld.systems.reworld import ReWorldConfig
from maskworld.tokenizers.causal_vae import CausalVAEConfig
from maskworld.training.config import Stage

RECIPE = ReWorldRecipe(
    name="reworld-small",
    summary="49M parameters, a video autoencoder trained from scratch, one GPU; not run by us",
    hardware="1 GPU",
    system=ReWorldConfig(
        video=LTXConfig(
            in_channels=16,
            out_channels=16,
            num_layers=14,
            num_heads=6,
            head_dim=64,
            has_text=False,
            rope_base=(4.0, 128.0, 224.0),
            rope_theta=100.0,
        ),
        action=ActionDiTConfig(
            dim=256, num_heads=8, num_layers=14, ffn_dim=256, video_dim=384, ego_hidden_dim=256
        ),
        bank_blocks=tuple(range(1, 15)),
        tokenizer=CausalVAEConfig(),
        text=None,
        future_actions=2,
        supervised_layers=(4,),
        alignment_layers=(6,),
        trajectory="dataset",
        delta="dataset",
        p_drop_actions=0.5,
        num_frames=17,
        num_past=9,
        frame_size=(128, 224),
        fps=5.0,
    ),
    stages=(
        Stage(
            "tokenizer",
            num_steps=20_000,
            batch_size=4,
            learning_rate=2e-4,
            warmup_steps=500,
            precision="bf16",
            ema_decay=0.999,
        ),
        Stage(  # motion: twice the time at half the size
            "video-1",
            num_steps=20_000,
            batch_size=32,
            learning_rate=4e-4,
            warmup_steps=1_000,
            weight_decay=5e-2,
            precision="bf16",
            ema_decay=0.999,
            save_every=1_000,
            num_frames=33,
            frame_size=(64, 112),
        ),
        Stage(  # detail
            "video-2",
            num_steps=20_000,
            batch_size=16,
            learning_rate=4e-4,
            warmup_steps=1_000,
            weight_decay=5e-2,
            precision="bf16",
            ema_decay=0.999,
            save_every=1_000,
            num_frames=17,
            frame_size=(128, 224),
        ),
        Stage(
            "action",
            num_steps=6_000,
            batch_size=64,
            learning_rate=4e-4,
            warmup_steps=300,
            precision="bf16",
            ema_decay=0.999,
        ),
        Stage(
            "joint",
            num_steps=4_000,
            batch_size=64,
            learning_rate=4e-5,
            warmup_steps=300,
            precision="bf16",
            ema_decay=0.999,
        ),
    ),
    drive=PlanningData(num_worlds=2_000, clips_per_world=25),
    was_run=False,
)
