"""Several noisy plans of one sample in a step."""

from dataclasses import replace

import pytest
import torch

from maskworld.backbones.action_dit import ActionDiTConfig
from maskworld.backbones.ltx import LTXConfig
from maskworld.systems.reworld import ReWorld, ReWorldConfig
from maskworld.tokenizers.causal_patch import CausalPatchConfig
from maskworld.types import Batch, PlanBatch

CONFIG = ReWorldConfig(
    video=LTXConfig(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_heads=2,
        head_dim=12,
        has_text=False,
    ),
    action=ActionDiTConfig(
        dim=16, num_heads=2, num_layers=2, ffn_dim=16, video_dim=24, ego_hidden_dim=16
    ),
    bank_blocks=(1, 2),
    tokenizer=CausalPatchConfig(channels=4),
    text=None,
    supervised_layers=(),
    alignment_layers=(1,),
    num_frames=17,
    num_past=9,
    frame_size=(16, 16),
)


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    plan = PlanBatch(
        ego=torch.randn(3, 4, generator=generator),
        command=torch.tensor([0, 1, 2]),
        trajectory=torch.randn(3, 8, 3, generator=generator),
        has_trajectory=torch.tensor([True, False, True]),
        negative=torch.randn(3, 8, 3, generator=generator),
        has_negative=torch.tensor([False, False, True]),
        tokens=["a", "b", "c"],
    )
    latents = torch.randn(3, 1, 3, 4, 2, 2, generator=generator)
    return Batch(latents=latents, plan=plan, captions=["", "", ""])


@pytest.mark.parametrize("stage", ["action", "joint"])
def test_many_draws_estimate_the_same_loss_with_less_spread(stage: str) -> None:
    torch.manual_seed(0)
    systems = {draws: ReWorld(replace(CONFIG, action_draws=draws)) for draws in (1, 16)}
    systems[16].load_state_dict(systems[1].state_dict())
    found = {}
    for draws, system in systems.items():
        generator = torch.Generator().manual_seed(1)
        losses = [system.training_loss(batch(), stage, generator).total for _ in range(40)]
        found[draws] = torch.stack([loss.detach() for loss in losses])
    assert found[16].std() < 0.5 * found[1].std()
    standard_error = float(found[1].std()) / 40**0.5
    assert abs(float(found[16].mean() - found[1].mean())) < 4 * standard_error


def test_half_precision_features_train_a_full_precision_planner() -> None:
    torch.manual_seed(0)
    system = ReWorld(replace(CONFIG, action_draws=2))
    given = replace(batch(), features=torch.randn(3, 2, 12, 24).half())
    system.training_loss(given, "action", torch.Generator().manual_seed(0)).total.backward()
    gradient = system.action.proj_in.weight.grad
    assert gradient is not None
    assert gradient.dtype == torch.float32


def test_no_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="action_draws of at least 1"):
        replace(CONFIG, action_draws=0)
