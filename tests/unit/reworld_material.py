"""A very small ReWorld and drives to train it on, for the tests of system and command line."""

from __future__ import annotations

from pathlib import Path

import torch

from maskworld.backbones.action_dit import ActionDiTConfig
from maskworld.backbones.ltx import LTXConfig
from maskworld.flow import SigmaSchedule
from maskworld.guidance import Guidance
from maskworld.recipes.open import save_release
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.reworld import ReWorld, ReWorldConfig
from maskworld.tokenizers.causal_patch import CausalPatchConfig
from maskworld.tokenizers.latent import encode_views
from maskworld.types import Batch, Clip, PlanSample, collate

SIZE, FPS, WINDOW, PAST = (16, 24), 5.0, 17, 9


def moving_drives(
    num_clips: int = 4, *, num_frames: int = WINDOW, size: tuple[int, int] = SIZE
) -> list[Clip]:
    """Noise that moves sideways; plans straight on, with a negative twice as fast."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    clips = []
    for number in range(num_clips):
        frames = torch.stack([picture.roll(number + t, dims=2) for t in range(num_frames)])
        speed = 3.0 + number
        path = torch.stack(
            [torch.tensor([0.5 * speed * i, 0.1 * i, 0.02 * i]) for i in range(1, 9)]
        )
        plan = PlanSample(
            torch.tensor([speed, 0.0, 0.0, 0.0]), number % 4, path, 2 * path, f"scene {number}"
        )
        actions = torch.tensor([[speed, 0.1]]).repeat(num_frames, 1)
        clips.append(Clip(frames=frames[None], actions=actions, plan=plan, fps=FPS))
    return clips


def batch_of(clips: list[Clip]) -> Batch:
    return collate(clips)


def micro_reworld(*, is_planner: bool = True, future_actions: int = 2) -> ReWorld:
    """24 wide, two blocks; its tokenizer and ranges are fitted on `moving_drives`."""
    config = ReWorldConfig(
        video=LTXConfig(
            in_channels=12,
            out_channels=12,
            num_layers=2,
            num_heads=1,
            head_dim=24,
            has_text=False,
            rope_base=(4.0, 16.0, 24.0),
            rope_theta=100.0,
        ),
        action=ActionDiTConfig(
            dim=16, num_heads=1, num_layers=2, ffn_dim=16, video_dim=24, ego_hidden_dim=16
        ),
        bank_blocks=(1, 2),
        tokenizer=CausalPatchConfig(patch_size=8, channels=12),
        text=None,
        future_actions=future_actions,
        action_scale=(10.0, 0.5) if future_actions else (),
        supervised_layers=(1,),
        alignment_layers=(1,),
        trajectory="dataset",
        delta="dataset",
        num_frames=WINDOW,
        num_past=PAST,
        frame_size=SIZE,
        fps=FPS,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ReWorld(config)
    clips = moving_drives(16)
    frames = torch.stack([clip.frames for clip in clips if clip.frames is not None])
    model.tokenizer.fit(frames[:, 0], torch.Generator().manual_seed(0))
    if is_planner:
        model.fit_latents(encode_views(model.tokenizer, frames))
        plans = collate(clips).plan
        assert plans is not None
        model.fit_plans(plans)
    return model.eval()


def save_micro_reworld(folder: Path, *, is_planner: bool = True, future_actions: int = 2) -> Path:
    few = FlowSampling(SigmaSchedule("uniform", 2), SigmaSchedule("uniform", 2), Guidance(1.4))
    model = micro_reworld(is_planner=is_planner, future_actions=future_actions)
    save_release(model, folder, few)
    return folder
