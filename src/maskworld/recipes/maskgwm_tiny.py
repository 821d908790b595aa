"""MaskGWM on a laptop: the quickstart.

Paper: arXiv 2502.11663, stages 1b, 1c and 3 at toy size.
Command: maskworld quickstart maskgwm
Hardware: two CPU cores, no GPU. Time and results: docs/maskgwm.md.

What differs from the paper, and why:
- patch latents fitted by PCA instead of SD3's VAE: they fit in seconds, and a patch of 12 pixels is
  one token;
- actions are speed and yaw rate, beside the pose they add up to (`integrates_actions`), and also
  join the embedded time of their frame (`modulates_by_actions`): a network of this size does not
  learn to obey what it only reads;
- it starts from a still picture (`carries_past`, ADR 0010), one frame is given, and times are near
  noise;
- a finer table of positions: SD3's counts a third of a unit per token;
- r = 0.2, since rows have ten tokens; view blocks come with the second camera, as in the paper's
  stage 3, in a model of its own;
- two sampling steps, the second at t = 0.3, and long rollouts keep mean and deviation of the first
  frame in the latents' first channels (`anchored_channels`): with more steps patches flicker, with
  one they freeze, and without the anchor contrast falls to half (docs/log.md);
- no text, learning rates and numbers of steps are ours.
"""

from maskworld.backbones.mask_branch import ReconstructionConfig
from maskworld.backbones.mmdit import MMDiTConfig
from maskworld.conditioning.signals import Signal
from maskworld.flow import SigmaSchedule, TimeSampling
from maskworld.guidance import Guidance
from maskworld.recipes.recipe import MaskGWMRecipe
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.maskgwm import MaskGWMConfig
from maskworld.tokenizers.causal_patch import CausalPatchConfig
from maskworld.training.config import Stage

RECIPE = MaskGWMRecipe(
    name="maskgwm-tiny",
    summary="patch latents, two cameras, minutes on two CPU cores",
    hardware="2 CPU cores",
    system=MaskGWMConfig(
        network=MMDiTConfig(
            in_channels=96,
            out_channels=48,
            patch_size=1,
            num_layers=3,
            num_heads=2,
            head_dim=48,
            text_dim=0,
            pooled_dim=0,
            position_grid=16,
            position_base=16,
            view_attention="KW",
            max_views=2,
            action_dim=96,
        ),
        tokenizer=CausalPatchConfig(
            patch_size=12, temporal_stride=1, channels=48, variance_power=0.0, decoder="conv"
        ),
        text=None,
        signals=(Signal("speed", 1, 10.0), Signal("yaw_rate", 1, 1.0)),
        integrates_actions=True,
        modulates_by_actions=True,
        reconstruction=ReconstructionConfig(
            ratio=0.2, decoder_layers=1, space_kind="spatial_rowwise"
        ),
        carries_past=True,
        anchored_channels=12,
        times=TimeSampling("logit_normal", mean=1.5, p_pure_noise=0.2),
        min_given=1,
        max_given=1,
        p_drop_signal=0.05,
        num_frames=8,
        num_views=2,
        frame_size=(72, 120),
        fps=5.0,
    ),
    sampling=FlowSampling(
        video=SigmaSchedule("explicit", values=(1.0, 0.3, 0.0)), guidance=Guidance(gamma=1.0)
    ),
    stages=(
        Stage("tokenizer", num_steps=150, batch_size=4, learning_rate=4e-3, save_every=0),
        Stage(
            "video",
            num_steps=500,
            batch_size=8,
            learning_rate=2e-3,
            schedule="constant",
            warmup_steps=50,
            ema_decay=0.99,
            save_every=500,
        ),
        Stage(
            "masked",
            num_steps=900,
            batch_size=8,
            learning_rate=2e-3,
            warmup_steps=20,
            ema_decay=0.99,
            save_every=450,
        ),
        Stage(
            "masked-rig",
            num_steps=250,
            batch_size=4,
            learning_rate=1e-3,
            warmup_steps=20,
            ema_decay=0.98,
            save_every=0,
        ),
    ),
)
