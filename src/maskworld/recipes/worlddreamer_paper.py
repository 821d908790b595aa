r"""WorldDreamer as published: 1B parameters. Complete, and not run by us.

Paper: arXiv 2401.09985, sections 3.2, 3.3 and 4.2.
Command: torchrun --nproc-per-node 8 -m maskworld train worlddreamer-paper \
    --data DATASET --tokenizer VQ.safetensors --out RUN
Hardware: unknown in the paper; about 2,300 H200-hours for pre-training at 40 % of peak (an
estimate of ours from the token count), 16 H200-hours for fine-tuning.

The paper gives: 16x tokenizer with 8192 codes, T5, s = 2, AdamW, learning rates, weight decay,
batch sizes, steps, frame sizes and counts, 10 % condition drop, cosine masks, about 10 steps. It
gives no width, depth, heads, feed-forward, T5 size or guidance scale: those follow aMUSEd, and the
dense 3 x 3 x 3 convolution brings the total to the stated 1B (ADR 0004).
"""

from maskworld.backbones.stpt import STPTConfig
from maskworld.conditioning.text import T5TextConfig
from maskworld.masking import MaskMixture
from maskworld.recipes.recipe import WorldDreamerRecipe
from maskworld.samplers.parallel import ParallelDecoding
from maskworld.systems.worlddreamer import WorldDreamerConfig
from maskworld.tokenizers.pretrained import PretrainedVQConfig
from maskworld.training.config import Stage

RECIPE = WorldDreamerRecipe(
    name="worlddreamer-paper",
    summary="1B parameters, the paper's numbers; not run by us",
    hardware="a GPU cluster",
    system=WorldDreamerConfig(
        backbone=STPTConfig(),  # every default is the paper's or aMUSEd's
        tokenizer=PretrainedVQConfig(),  # f16, 8192 codes; --tokenizer names the file
        text=T5TextConfig(),
        masks=MaskMixture(tube=1.0),  # section 3.3
        num_frames=24,  # section 4.2
        frame_size=(192, 320),  # section 4.2
        fps=2.0,
    ),
    stages=(
        Stage(
            "pretrain",
            num_steps=2_000_000,
            batch_size=8,  # x 8 GPUs = 64
            learning_rate=5e-5,
            schedule="constant",
            weight_decay=0.01,
            precision="bf16",
            save_every=5_000,
            num_frames=16,
            frame_size=(256, 256),
        ),
        Stage(
            "finetune",
            num_steps=20_000,
            batch_size=4,  # x 8 GPUs = 32
            learning_rate=1e-5,
            schedule="constant",
            weight_decay=0.01,
            precision="bf16",
            save_every=1_000,
        ),
    ),
    decoding=ParallelDecoding(num_steps=10, guidance_scale=4.0),  # scale: open-muse, paper silent
    frame_stride=6,  # section 4.1: "frame interval of 6"; read as 2 Hz (ADR 0004)
    clip_stride=6,
    was_run=False,
)
