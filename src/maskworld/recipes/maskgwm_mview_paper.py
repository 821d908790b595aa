r"""MaskGWM-mview as published: MaskGWM-long with view blocks, six cameras, 8 frames of 288 x 512.
Complete, and not run by us.

Paper: arXiv 2502.11663, sections 3.4 and 4.2, supplement 7.2.
Command: torchrun --nproc-per-node 32 -m maskworld train maskgwm-mview-paper --data nuscenes/ \
    --tokenizer sd3/vae --init LONG --out RUN
Hardware: 32 A800 GPUs; the time is not given. Batches below are for 32 processes.

The paper gives: stage 3, 6K steps on nuScenes, six cameras, 8 frames; view blocks over rows (KW),
row-wise masks at r = 0.25, which leave 24 tokens of each camera in a row; learning rate and the
rest as before. The batch is not given: 32 here. Spatial masks are row-wise, too, so that rows keep
one length (a released module of other authors does so). It starts from MaskGWM-long's weights.
"""

from maskworld.backbones.mask_branch import ReconstructionConfig
from maskworld.backbones.mmdit import MMDiTConfig
from maskworld.recipes.recipe import MaskGWMRecipe
from maskworld.systems.maskgwm import MaskGWMConfig
from maskworld.training.config import Stage

RECIPE = MaskGWMRecipe(
    name="maskgwm-mview-paper",
    summary="MaskGWM-long with view blocks, six cameras, the paper's numbers; not run by us",
    hardware="32 A800 GPUs",
    system=MaskGWMConfig(  # every default not named here is the paper's, or of maskgwm-long-paper
        network=MMDiTConfig(view_attention="KW", action_dim=1536, gradient_checkpointing=True),
        reconstruction=ReconstructionConfig(space_kind="spatial_rowwise"),
        num_frames=8,
        num_views=6,
    ),
    stages=(
        Stage(
            "masked-rig",
            num_steps=6_000,
            batch_size=1,  # x 32 GPUs
            learning_rate=5e-5,
            schedule="constant",
            warmup_steps=1_000,
            weight_decay=0.0,
            precision="bf16",
        ),
    ),
    was_run=False,
)
