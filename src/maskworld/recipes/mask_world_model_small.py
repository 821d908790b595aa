"""Mask World Model on one GPU: a trained video autoencoder (9M), towers of 34M and 16M.

Paper: arXiv 2604.19683, both stages.
Command: maskworld train mask-world-model-small --data DATASET --out RUN
Hardware: one GPU of 24 GB or more, a few hours (an estimate: not run by us).

What differs from the paper, and why:
- scale: 14 blocks for 28, 384 wide for 2048; views are joined in every third block, as there;
- a causal VAE of our own (8 x 8 pixels x 8 frames, 16 channels), trained in a stage of its own on
  pictures and palette frames, then frozen, where the paper takes LTX-Video's;
- a small text encoder, trained with the model;
- 128 x 128 pixels; Meta-World's 80 Hz: a chunk of 36 actions, 9 future frames, one every 4 actions;
  7 classes with a colour each, 4 + 4 numbers per step;
- stage 2 keeps a tenth of the world loss, so that rollouts can still be scored after it;
- learning rates and numbers of steps are ours.
"""

from maskworld.backbones.action_dit import ActionDiTConfig
from maskworld.backbones.ltx import LTXConfig
from maskworld.conditioning.text import SmallTextConfig
from maskworld.recipes.recipe import MaskWorldModelRecipe, RobotData
from maskworld.systems.mask_world_model import MaskWorldModelConfig
from maskworld.tokenizers.causal_vae import CausalVAEConfig
from maskworld.tokenizers.palette import all_classes
from maskworld.training.config import Stage
from maskworld.worlds.metaworld.labels import CLASSES

RECIPE = MaskWorldModelRecipe(
    name="mask-world-model-small",
    summary="60M parameters, a video autoencoder trained from scratch, one GPU; not run by us",
    hardware="1 GPU",
    system=MaskWorldModelConfig(
        video=LTXConfig(
            in_channels=16,
            out_channels=16,
            num_layers=14,
            num_heads=6,
            head_dim=64,
            caption_channels=64,
            rope_base=(4.0, 128.0, 128.0),
            rope_theta=100.0,
        ),
        action=ActionDiTConfig(
            action_dim=8,
            num_tokens=37,
            dim=256,
            num_heads=8,
            num_layers=14,
            ffn_dim=683,
            video_dim=384,
            ego_dim=0,
            rope_base_length=57.0,
        ),
        bank_blocks=tuple(range(1, 15)),
        tokenizer=CausalVAEConfig(),
        text=SmallTextConfig(),
        palette=all_classes(CLASSES),
        num_memory=2,
        state_dim=4,
        world_loss_weight=0.1,
        frame_size=(128, 128),
        fps=20.0,
    ),
    stages=(
        Stage(
            "tokenizer",
            num_steps=20_000,
            batch_size=8,
            learning_rate=2e-4,
            warmup_steps=500,
            precision="bf16",
            ema_decay=0.999,
        ),
        Stage(
            "dynamics",
            num_steps=40_000,
            batch_size=32,
            learning_rate=4e-4,
            warmup_steps=1_000,
            precision="bf16",
            ema_decay=0.999,
            save_every=1_000,
        ),
        Stage(
            "policy",
            num_steps=20_000,
            batch_size=32,
            learning_rate=2e-4,
            warmup_steps=1_000,
            precision="bf16",
            ema_decay=0.999,
            save_every=1_000,
        ),
    ),
    robot=RobotData(episodes_per_task=100, clip_stride=1),
    was_run=False,
)
