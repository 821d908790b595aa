"""Mask World Model on a laptop: the quickstart.

Paper: arXiv 2604.19683, both stages at toy size.
Command: maskworld quickstart mask-world-model
Hardware: two CPU cores, no GPU. Time and results: docs/mask_world_model.md.

What differs from the paper, and why:
- patch latents fitted by PCA on pictures and palette frames alike, instead of LTX-Video's VAE: they
  fit in seconds and recover 99.9 % of the labels two pixels or more from an edge (docs/log.md);
  patches of 32 pixels, because a step costs as many tokens as there are patches;
- one remembered frame, not four, and a future of 5 frames (2 latents) over 20 actions at 80 Hz;
- a colour for each of Meta-World's seven classes;
- a small text encoder, trained with the model;
- masks and chunks start from the average of the training data, errors of actions are weighed by
  what that leaves open, and states of the video are told their place (`carries_mean`,
  `bank_positions`; ADR 0011): a network of this size does not get that far by itself;
- times near noise, because a policy reads the states of the first step;
- stage 2 leaves the video tower as it is (`trains="action_only"`, the paper's appendix): features
  are made once, a step costs a third, and rollouts stay as good as they were. Trained on with the
  actions alone, the tower forgets masks: .68 mIoU at the last step fell to .41;
- the expert is recorded with noise on its actions, so that it shows ways back: of 50 windows 19
  were opened without, 41 with it;
- a chunk is what is expected on average, one step from noise; 2 of its 20 actions are executed;
- learning rates and numbers of steps are ours.
"""

from maskworld.backbones.action_dit import ActionDiTConfig
from maskworld.backbones.ltx import LTXConfig
from maskworld.conditioning.text import SmallTextConfig
from maskworld.flow import SigmaSchedule, TimeSampling
from maskworld.guidance import Guidance
from maskworld.recipes.recipe import MaskWorldModelRecipe, RobotData
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.mask_world_model import MaskWorldModelConfig
from maskworld.tokenizers.causal_patch import CausalPatchConfig
from maskworld.tokenizers.palette import all_classes
from maskworld.training.config import Stage
from maskworld.worlds.metaworld.labels import CLASSES

RECIPE = MaskWorldModelRecipe(
    name="mask-world-model-tiny",
    summary="1.6M parameters, patch latents, minutes on two CPU cores",
    hardware="2 CPU cores",
    system=MaskWorldModelConfig(
        video=LTXConfig(
            in_channels=96,
            out_channels=96,
            num_layers=6,
            num_heads=2,
            head_dim=48,
            caption_channels=32,
            rope_base=(2.0, 128.0, 128.0),
            rope_theta=100.0,
        ),
        action=ActionDiTConfig(
            action_dim=8,
            num_tokens=21,
            dim=64,
            num_heads=4,
            num_layers=6,
            ffn_dim=128,
            video_dim=96,
            ego_dim=0,
            rope_base_length=21.0,
            rope_theta=100.0,
        ),
        bank_blocks=(1, 2, 3, 4, 5, 6),
        tokenizer=CausalPatchConfig(
            patch_size=32, temporal_stride=4, channels=96, variance_power=0.0
        ),
        text=SmallTextConfig(num_buckets=512, dim=32, max_words=8, num_heads=2),
        palette=all_classes(CLASSES),
        num_memory=1,
        future_frames=5,
        state_dim=4,
        trains="action_only",
        carries_mean=True,
        bank_positions=3,
        video_times=TimeSampling("logit_normal", mean=1.0, p_pure_noise=0.3),
        action_times=TimeSampling("uniform", p_pure_noise=0.3),
        frame_size=(128, 128),
        fps=20.0,
        seconds_per_latent=0.2,
        exec_steps=2,
    ),
    sampling=FlowSampling(
        video=SigmaSchedule("uniform", 8),
        actions=SigmaSchedule("uniform", 1),
        guidance=Guidance(),
    ),
    robot=RobotData(action_noise=0.3, step_limit=160, num_perturbed_trials=5),
    stages=(
        Stage(
            "dynamics",
            num_steps=1300,
            batch_size=24,
            learning_rate=2e-3,
            warmup_steps=30,
            ema_decay=0.99,
            save_every=500,
        ),
        Stage(
            "policy",
            num_steps=3500,
            batch_size=32,
            learning_rate=2e-3,
            warmup_steps=30,
            ema_decay=0.99,
            save_every=500,
        ),
    ),
)
