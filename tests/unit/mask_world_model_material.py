"""A very small Mask World Model and robot clips to train it on, for tests of several parts."""

from __future__ import annotations

from typing import Any

import torch

from maskworld.backbones.action_dit import ActionDiTConfig
from maskworld.backbones.inverse_dynamics import InverseDynamicsConfig
from maskworld.backbones.ltx import LTXConfig
from maskworld.conditioning.text import SmallTextConfig
from maskworld.flow import SigmaSchedule
from maskworld.guidance import Guidance
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.mask_world_model import (
    MaskWorldModel,
    MaskWorldModelConfig,
    StageConditions,
)
from maskworld.tokenizers.causal_patch import CausalPatchConfig
from maskworld.tokenizers.palette import all_classes
from maskworld.types import Batch, Clip, ControlSample, collate

SIZE, MEMORY, FUTURE, CHUNK, ACTIONS, STATES = (16, 24), 2, 5, 6, 4, 3
FEW = FlowSampling(SigmaSchedule("uniform", 2), SigmaSchedule("uniform", 3), Guidance())


def robot_clips(
    num_clips: int = 6,
    *,
    num_views: int = 2,
    has_labels: bool = True,
    has_future: bool = False,
    seed: int = 0,
) -> list[Clip]:
    """A block that moves sideways over noise; the action says how far."""
    generator = torch.Generator().manual_seed(seed)
    background = torch.randint(0, 100, (num_views, 3, *SIZE), generator=generator)
    clips = []
    for number in range(num_clips):
        step, start = 1 + number % 3, int(torch.randint(0, 8, (), generator=generator))
        frames, labels = [], []
        for time in range(-MEMORY + 1, FUTURE + 1):
            label = torch.zeros(num_views, *SIZE, dtype=torch.uint8)
            left = max(0, start + step * time)
            label[:, 6:12, left : left + 6] = 1
            label[:, 2:4, 18:22] = 2
            frame = background.clone()
            frame = torch.where(label[:, None] == 1, 220, frame)
            frames.append(torch.where(label[:, None] == 2, 150, frame).to(torch.uint8))
            labels.append(label)
        shown = frames if has_future else frames[:MEMORY]
        real = torch.arange(CHUNK) < CHUNK - number % 2
        places = start + step * torch.arange(1, CHUNK + 1)[:, None] * torch.ones(STATES)
        clips.append(
            Clip(
                frames=torch.stack(shown, dim=1),
                labels=torch.stack(labels[MEMORY:], dim=1) if has_labels else None,
                control=ControlSample(
                    state=torch.full((STATES,), float(start)),
                    actions=torch.full((CHUNK, ACTIONS), float(step)),
                    states=places,
                    is_real=real,
                ),
                caption=("push the block", "push it far")[number % 2],
                fps=5.0,
            )
        )
    return clips


def batch_of(num_clips: int = 6, **settings: Any) -> Batch:
    return collate(robot_clips(num_clips, **settings))


def micro_config(**changes: Any) -> MaskWorldModelConfig:
    """24 wide, three blocks, of which the first joins views."""
    settings: dict[str, Any] = {
        "video": LTXConfig(
            in_channels=12,
            out_channels=12,
            num_layers=3,
            num_heads=1,
            head_dim=24,
            caption_channels=16,
            rope_base=(2.0, 16.0, 24.0),
            rope_theta=100.0,
        ),
        "action": ActionDiTConfig(
            action_dim=ACTIONS + STATES,
            num_tokens=CHUNK + 1,
            dim=16,
            num_heads=1,
            num_layers=3,
            ffn_dim=16,
            video_dim=24,
            ego_dim=0,
        ),
        "bank_blocks": (1, 2, 3),
        "tokenizer": CausalPatchConfig(patch_size=8, temporal_stride=4, channels=12),
        "text": SmallTextConfig(num_buckets=64, dim=16, max_words=4, num_heads=2),
        "palette": all_classes(("background", "robot", "object")),
        "inverse_dynamics": InverseDynamicsConfig(dim=8, hidden_dim=16),
        "num_memory": MEMORY,
        "future_frames": FUTURE,
        "state_dim": STATES,
        "dynamics_conditions": StageConditions(p_drop_caption=0.5, memory_noise=0.1),
        "frame_size": SIZE,
        "exec_steps": 2,
    }
    return MaskWorldModelConfig(**settings | changes)


def micro_model(
    config: MaskWorldModelConfig | None = None, *, awake: bool = False
) -> MaskWorldModel:
    """Tokenizer and statistics fitted on `robot_clips`.

    Args:
        awake: every parameter moved off its zeros, so that nothing is hidden by an initialisation.
    """
    config = config or micro_config()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MaskWorldModel(config)
    data = batch_of(24, num_views=config.num_views, has_future=True)
    model.fit_tokenizer(data, torch.Generator().manual_seed(0))
    model.fit_latents(model.clips.encode(data, with_future=True))
    assert data.control is not None
    model.fit_control(data.control)
    if awake:
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()
