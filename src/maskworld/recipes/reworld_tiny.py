"""ReWorld on a laptop: the quickstart.

Paper: arXiv 2606.27504, all three stages at toy size.
Command: maskworld quickstart reworld
Hardware: two CPU cores, no GPU. Time and results: docs/reworld.md.

What differs from the paper, and why:
- patch latents fitted by PCA instead of LTX-Video's VAE: they fit in seconds;
- the video starts from "nothing moves" (`carries_past`) and trains at times near noise: a network
  of this size does not get that far by itself (docs/log.md);
- the video may be given the future actions, so that one can ask whether it obeys them; it is
  trained without them too, as a planner does not know them;
- plans start from constant velocity (`carries_motion`, `weighs_motion`), states are told their
  place (`bank_positions`), and a plan is one step from t = 1, the mean of what may be driven: five
  steps score no better, and single draws of a small planner are jagged (docs/log.md);
- the planner trains on more moments than are dreamt, also of drives that stray from the route;
- no text; 17 frames at 5 Hz, 9 of them past; plans are normalised by the ranges of the data;
- head at layer 2 of 6 (8 of 28), weight of the head 0.25; the planner has four layers, reads four
  blocks' states of the last past latent and the future, and is aligned at its second (12 of 28):
  as good as six layers that read everything, in half the time; the alignment weighs 0.01: the
  paper's 0.05 holds a planner of this width back (docs/log.md).
"""

from maskworld.backbones.action_dit import ActionDiTConfig
from maskworld.backbones.ltx import LTXConfig
from maskworld.flow import SigmaSchedule, TimeSampling
from maskworld.guidance import Guidance
from maskworld.recipes.recipe import PlanningData, ReWorldRecipe
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.reworld import ReWorldConfig
from maskworld.tokenizers.causal_patch import CausalPatchConfig
from maskworld.training.config import Stage

RECIPE = ReWorldRecipe(
    name="reworld-tiny",
    summary="1.6M parameters, patch latents, minutes on two CPU cores",
    hardware="2 CPU cores",
    system=ReWorldConfig(
        video=LTXConfig(
            in_channels=96,
            out_channels=48,
            num_layers=6,
            num_heads=2,
            head_dim=48,
            has_text=False,
            rope_base=(4.0, 72.0, 120.0),
            rope_theta=100.0,
        ),
        action=ActionDiTConfig(
            dim=64, num_heads=4, num_layers=4, ffn_dim=64, video_dim=96, ego_hidden_dim=64
        ),
        bank_blocks=(1, 2, 4, 6),
        bank_latents=2,
        tokenizer=CausalPatchConfig(patch_size=12, channels=48, variance_power=0.0, decoder="conv"),
        text=None,
        future_actions=2,
        supervised_layers=(2,),
        intermediate_weight=0.25,
        alignment_layers=(2,),
        alignment_weight=0.01,
        carries_past=True,
        carries_motion=True,
        weighs_motion=True,
        bank_positions=3,
        action_draws=3,
        trajectory="dataset",
        delta="dataset",
        video_times=TimeSampling("logit_normal", mean=1.5, p_pure_noise=0.2),
        action_times=TimeSampling("logit_normal", mean=1.0, p_pure_noise=0.3),
        p_drop_actions=0.15,
        num_frames=17,
        num_past=9,
        frame_size=(72, 120),
        fps=5.0,
    ),
    sampling=FlowSampling(
        video=SigmaSchedule("uniform", 10),
        actions=SigmaSchedule("uniform", 1),
        guidance=Guidance(gamma=1.0),
        num_averaged=4,
    ),
    drive=PlanningData(log_windows_per_world=10, recovery_windows_per_world=13),
    stages=(
        Stage("tokenizer", num_steps=200, batch_size=4, learning_rate=4e-3, save_every=0),
        Stage(
            "video",
            num_steps=1200,
            batch_size=8,
            learning_rate=2e-3,
            warmup_steps=50,
            ema_decay=0.99,
            save_every=600,
        ),
        Stage(
            "action",
            num_steps=900,
            batch_size=32,
            learning_rate=4e-3,
            warmup_steps=20,
            ema_decay=0.99,
            save_every=0,
        ),
        Stage(
            "joint",
            num_steps=60,
            batch_size=16,
            learning_rate=1e-4,
            warmup_steps=20,
            ema_decay=0.98,
            save_every=0,
        ),
    ),
)
