r"""Mask World Model as published: towers of 1.9B and 164M parameters. Complete, and not run by us.

Paper: arXiv 2604.19683, sections 3 and 4; GE-ACT's release (Genie Envisioner), of which its code is
a fork.
Command: torchrun --nproc-per-node 8 -m maskworld train mask-world-model-paper --data DATASET \
    --tokenizer ltx/vae --video-weights ltx/transformer --out RUN
Hardware: 8 A100 of 80 GB: about 3.5 days for the dynamics and 1.5 for a policy (the paper's).
Batches below are for 8 processes.

The paper gives: LTX-Video's VAE and transformer, 256 x 256, four remembered frames, two cameras,
28 blocks of 512 for actions, chunks of 36, AdamW with (0.9, 0.95), constant rates of 3e-4 and 5e-5
after 1000 steps, weight decay 1e-5, clipping at 1, batch 128, 30k and 18k steps, caption dropout
0.06 in stage 1, noise on remembered frames 0.1 and 0.01, 10 Euler steps. Its release gives the
rest: 9 future frames, one every 4 actions, 7 + 8 numbers per step, flow matching, uniform times,
both towers trained in stage 2, the state's token.

Where text and code disagree we take the code; the config has a field for each reading (ADR 0011):
future_frames=33 (five latents), action_objective="score", trains="action_only", exec_steps=1.

What differs: the action tower's feed-forward is a SwiGLU of as many parameters; the palette is ours
and w(s) is 1, as neither is published.
"""

from maskworld.backbones.ltx import LTXConfig
from maskworld.recipes.recipe import MaskWorldModelRecipe
from maskworld.systems.mask_world_model import MaskWorldModelConfig
from maskworld.training.config import Stage

RECIPE = MaskWorldModelRecipe(
    name="mask-world-model-paper",
    summary="1.9B + 164M parameters, the paper's numbers; not run by us",
    hardware="8 GPUs of 80 GB",
    system=MaskWorldModelConfig(  # every default not named here is the paper's or GE-ACT's
        video=LTXConfig(gradient_checkpointing=True),
    ),
    stages=(
        Stage(
            "dynamics",
            num_steps=30_000,
            batch_size=16,  # x 8 GPUs = 128
            learning_rate=3e-4,
            schedule="constant",
            warmup_steps=1_000,
            weight_decay=1e-5,
            betas=(0.9, 0.95),
            precision="bf16",
        ),
        Stage(
            "policy",
            num_steps=18_000,  # per suite of LIBERO
            batch_size=16,
            learning_rate=5e-5,
            schedule="constant",
            warmup_steps=1_000,
            weight_decay=1e-5,
            betas=(0.9, 0.95),
            precision="bf16",
        ),
    ),
    was_run=False,
)
