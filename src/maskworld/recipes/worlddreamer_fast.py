r"""WorldDreamer at 1B with its parameters spent in the transformer. Complete, and not run by us.

Paper: arXiv 2401.09985; the same tasks and training as worlddreamer-paper.
Command: torchrun --nproc-per-node 8 -m maskworld train worlddreamer-fast \
    --data DATASET --tokenizer VQ.safetensors --out RUN
Hardware: a GPU cluster.

What differs from worlddreamer-paper, and why: the 3-D convolution is depthwise, which costs almost
nothing (0.01 instead of 7.2 of about 12 TFLOP per forward pass at 24 x 12 x 20 tokens, a count of
ours); the budget of 1B goes into width 1280 and 36 layers with a 4x feed-forward. Regions alternate
between contiguous and dilated, so that tokens of different regions meet in every second layer. The
mask mixture shows the model the tasks that tubes alone never show (ADR 0005).
"""

from dataclasses import replace

from maskworld.masking import MaskMixture
from maskworld.recipes.worlddreamer_paper import RECIPE as PAPER

RECIPE = replace(
    PAPER,
    name="worlddreamer-fast",
    hardware="a GPU cluster",
    summary="1B parameters by depthwise convolution; not run by us",
    system=replace(
        PAPER.system,
        backbone=replace(
            PAPER.system.backbone,
            dim=1280,
            num_layers=36,
            num_heads=20,
            ffn="gelu",
            ffn_dim=5120,
            conv="depthwise",
            partition="alternate",
        ),
        masks=MaskMixture(tube=0.5, prefix=0.25, first_frame=0.15, box=0.1),
    ),
)
