r"""MaskGWM-long as published: SD3-medium grown to videos, 25 frames of 288 x 512. Complete, and not
run by us.

Paper: arXiv 2502.11663, sections 3 and 4.2, supplement 7.2 and 7.3.
Command: torchrun --nproc-per-node 32 -m maskworld train maskgwm-long-paper --data opendv/ \
    --tokenizer sd3/vae --out RUN
Hardware: 32 A800 GPUs, about three days for stage 1. Batches below are for 32 processes.

The paper gives: SD3-medium and its VAE, a temporal block after each of the 24 blocks, r = 0.25, 0
to 3 given frames, Adam at 5e-5 with 1K warm-up steps and constant after, stages 1a (18K steps of
single frames, batch 768), 1b (24K, clips of 16, 20 or 24 frames, batch 64), 1c (20K, hidden tokens)
and 2 (20K, 25 frames, actions, OpenDV-2K and nuScenes 1 : 1), 30 steps and guidance 4.0.

What it does not give, and what we took (ADR 0012):
- the batch of stages 1c and 2: 64, as in 1b; decoder of 5 layers, spatial and row-wise masks alike
  often (a released module of other authors, and ours);
- how lengths are mixed in 1b and 1c: in turn, a third of the steps each;
- logit-normal (0, 1) times, text dropped in 10 %, each signal in 15 % (OpenDWM, Vista);
- 10 Hz, no weight decay, no averaged weights, bf16.

Stage "masked-2" asks for data with actions beside the first: train its stage by itself, from what
the others left, with --init and both data sets at equal weights.
"""

from dataclasses import replace

from maskworld.backbones.mmdit import MMDiTConfig
from maskworld.recipes.recipe import MaskGWMRecipe
from maskworld.systems.maskgwm import MaskGWMConfig
from maskworld.training.config import Stage

IMAGES = Stage(
    "image",
    num_steps=18_000,
    batch_size=24,  # x 32 GPUs = 768
    learning_rate=5e-5,
    schedule="constant",
    warmup_steps=1_000,
    weight_decay=0.0,
    precision="bf16",
    num_frames=1,
)
CLIPS = replace(IMAGES, name="video-16", num_steps=8_000, batch_size=2, num_frames=16)
"""x 32 GPUs = 64."""

RECIPE = MaskGWMRecipe(
    name="maskgwm-long-paper",
    summary="SD3-medium and temporal blocks, 25 frames of one camera, the paper's numbers; not run",
    hardware="32 A800 GPUs",
    system=MaskGWMConfig(  # every default is the paper's, or as said above
        network=MMDiTConfig(action_dim=1536, gradient_checkpointing=True),
    ),
    stages=(
        IMAGES,
        CLIPS,
        replace(CLIPS, name="video-20", num_frames=20),
        replace(CLIPS, name="video-24", num_frames=24),
        replace(CLIPS, name="masked-16", num_steps=6_667),
        replace(CLIPS, name="masked-20", num_steps=6_667, num_frames=20),
        replace(CLIPS, name="masked-24", num_steps=6_666, num_frames=24),
        replace(CLIPS, name="masked-2", num_steps=20_000, num_frames=25),
    ),
    was_run=False,
)
