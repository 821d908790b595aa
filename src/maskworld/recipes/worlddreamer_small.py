"""WorldDreamer on one GPU: a trained VQ tokenizer (19M) and a 58M-parameter STPT.

Paper: arXiv 2401.09985, all tasks of section 3.1.
Command: maskworld train worlddreamer-small --data DATASET --out RUN
Hardware: one GPU of 24 GB or more, about an hour (an estimate: not run by us).

What differs from the paper, and why: scale; our own VQ-GAN (16x, 1024 codes) trained on the same
data in a stage of its own; a small text encoder trained from scratch, as captions of the driving
world have few words; the mask mixture of ADR 0005; the carry and modulation of ADR 0006, which cost
little and let a small model steer.
"""

from maskworld.backbones.stpt import STPTConfig
from maskworld.conditioning.text import SmallTextConfig
from maskworld.masking import MaskMixture
from maskworld.objectives.adversarial import AdversarialConfig
from maskworld.recipes.recipe import DriveData, WorldDreamerRecipe
from maskworld.samplers.parallel import ParallelDecoding
from maskworld.systems.worlddreamer import WorldDreamerConfig
from maskworld.tokenizers.codebook import VectorQuantizerConfig
from maskworld.tokenizers.vq import VQTokenizerConfig
from maskworld.training.config import Stage

RECIPE = WorldDreamerRecipe(
    name="worlddreamer-small",
    summary="58M parameters and a VQ-GAN trained from scratch, one GPU; not run by us",
    hardware="1 GPU",
    system=WorldDreamerConfig(
        backbone=STPTConfig(
            vocab_size=1024,
            dim=448,
            num_layers=12,
            num_heads=7,
            ffn="gelu",
            ffn_dim=1792,
            partition="alternate",
            conv="depthwise",
            num_conv_blocks=1,
            position="learned",
            action_modulation=True,
            carry_forward=True,
            reference=True,
        ),
        tokenizer=VQTokenizerConfig(
            widths=(64, 128, 128, 256, 256),
            num_res_blocks=2,
            quantizer=VectorQuantizerConfig(vocab_size=1024, dim=64, code_dim=16),
        ),
        adversarial=AdversarialConfig(),
        text=SmallTextConfig(dim=128),
        integrate_actions=True,
        p_drop_text=0.3,
        masks=MaskMixture(tube=0.25, first_frame=0.25, prefix=0.25, frame_by_frame=0.15, box=0.1),
        num_frames=16,
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
        Stage(
            "world",
            num_steps=30_000,
            batch_size=16,
            learning_rate=4e-4,
            warmup_steps=1_000,
            precision="bf16",
            ema_decay=0.999,
            save_every=1_000,
            sample_every=2_000,
        ),
    ),
    decoding=ParallelDecoding(num_steps=10, temperature=0.9, scope="clip"),
    drive=DriveData(num_worlds=2_000, clips_per_world=25),
    was_run=False,
)
