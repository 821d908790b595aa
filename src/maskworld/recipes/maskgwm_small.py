"""MaskGWM on one GPU: an image autoencoder of our own, a network of 75M parameters.

Paper: arXiv 2502.11663, stages 1a to 2.
Command: maskworld train maskgwm-small --data DATASET --out RUN
Hardware: one GPU of 24 GB or more, a day (an estimate: not run by us).

What differs from the paper, and why:
- scale: 12 blocks for 24, 384 wide for 1536, decoder of 3 blocks; frames of 128 x 256;
- an image autoencoder of our own (8 x 8 pixels, 16 channels), trained on the same frames in a stage
  of its own, where the paper takes SD3's;
- no text: its encoder is larger than the rest, and clips of one source say little;
- actions are speed and yaw rate, which the driving world and most recordings have;
- 16 frames at 5 Hz: rounds of three seconds;
- learning rates and numbers of steps are ours.
"""

from maskworld.backbones.mask_branch import ReconstructionConfig
from maskworld.backbones.mmdit import MMDiTConfig
from maskworld.conditioning.signals import Signal
from maskworld.recipes.recipe import FilmData, MaskGWMRecipe
from maskworld.systems.maskgwm import MaskGWMConfig
from maskworld.tokenizers.causal_vae import CausalVAEConfig
from maskworld.training.config import Stage

RECIPE = MaskGWMRecipe(
    name="maskgwm-small",
    summary="84M parameters, an image autoencoder trained from scratch, one GPU; not run by us",
    hardware="1 GPU",
    system=MaskGWMConfig(
        network=MMDiTConfig(
            num_layers=12,
            num_heads=6,
            head_dim=64,
            text_dim=0,
            pooled_dim=0,
            qk_norm=True,
            action_dim=384,
        ),
        tokenizer=CausalVAEConfig(halves_time=(False, False, False)),
        text=None,
        signals=(Signal("speed", 1, 10.0), Signal("yaw_rate", 1, 1.0)),
        reconstruction=ReconstructionConfig(decoder_layers=3),
        num_frames=16,
        frame_size=(128, 256),
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
        Stage(
            "image",
            num_steps=10_000,
            batch_size=128,
            learning_rate=4e-4,
            warmup_steps=1_000,
            precision="bf16",
            ema_decay=0.999,
            num_frames=1,
        ),
        Stage(
            "video",
            num_steps=30_000,
            batch_size=16,
            learning_rate=4e-4,
            warmup_steps=1_000,
            precision="bf16",
            ema_decay=0.999,
            save_every=1_000,
        ),
        Stage(
            "masked",
            num_steps=30_000,
            batch_size=16,
            learning_rate=4e-4,
            warmup_steps=1_000,
            precision="bf16",
            ema_decay=0.999,
            save_every=1_000,
        ),
    ),
    film=FilmData(num_worlds=2_000, clips_per_world=25),
    was_run=False,
)
