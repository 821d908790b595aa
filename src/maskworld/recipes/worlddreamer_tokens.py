"""WorldDreamer on ready-made tokens: commaVQ's 8 x 16 codes of real driving.

Paper: arXiv 2401.09985, Eq. 2-5; the data is commaVQ's (20 Hz, 1024 codes).
Command: maskworld quickstart worlddreamer --data commavq_minute.npy
Hardware: two CPU cores. Time and results: docs/worlddreamer.md.

Scored by the exact code length of held-out frames given all true past frames, so it trains on what
it is asked: the frames before are visible, the last one is hidden by the cosine law.
"""

from maskworld.backbones.stpt import STPTConfig
from maskworld.masking import MaskMixture
from maskworld.recipes.recipe import WorldDreamerRecipe
from maskworld.systems.worlddreamer import WorldDreamerConfig
from maskworld.tokenizers.token_grid import TokenGridConfig
from maskworld.training.config import Stage

RECIPE = WorldDreamerRecipe(
    name="worlddreamer-tokens",
    summary="next-frame likelihood of ready-made tokens, minutes on two CPU cores",
    hardware="2 CPU cores",
    system=WorldDreamerConfig(
        backbone=STPTConfig(
            vocab_size=1024,
            dim=96,
            num_layers=3,
            num_heads=4,
            ffn="gelu",
            ffn_dim=384,
            partition="full",
            conv="separable",
            num_conv_blocks=0,
            position="learned",
            max_frames=16,
            max_side=32,
            carry_forward=True,
            tie_head=True,
        ),
        tokenizer=TokenGridConfig(vocab_size=1024, name="commaVQ"),
        text=None,
        action_dim=0,
        masks=MaskMixture(tube=0.0, last_frame=1.0),
        num_frames=4,
        frame_size=(128, 256),
        fps=20.0,
    ),
    stages=(
        Stage(
            "world",
            num_steps=900,
            batch_size=8,
            learning_rate=2e-3,
            warmup_steps=50,
            weight_decay=0.05,
            save_every=300,
        ),
    ),
)
