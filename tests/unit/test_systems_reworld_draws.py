"""Several noisy plans of one sample in a step."""

from dataclasses import replace

import pytest
import torch

from maskworld.backbones.action_dit import ActionDiTConfig
from maskworld.backbones.ltx import LTXConfig
from maskworld.systems.reworld import ReWorld, ReWorldConfig
from maskworld.tokenizers.causal_patch import CausalPatchConfig
from maskworld.types import Batch, FeatureBank, PlanBatch, Prompt

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


def told() -> ReWorldConfig:
    return replace(
        CONFIG,
        bank_positions=2,
        carries_motion=True,
        weighs_motion=True,
        trajectory="dataset",
        action_draws=4,
    )


def test_an_untrained_planner_errs_by_one_unit_at_every_time_and_waypoint() -> None:
    system = ReWorld(told())
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(1, 9) * 0.5
    ego = torch.tensor([8.0, 0.0, 0.0, 0.0]) + torch.randn(400, 4, generator=generator)
    ahead = torch.stack([time, 0 * time, 0 * time], dim=-1)
    spread = torch.stack([time, 0.3 * time**2, 0.1 * time], dim=-1)
    miss = torch.randn(400, 8, 3, generator=generator) * spread
    plan = PlanBatch(ego=ego, command=torch.zeros(400).long(), trajectory=8 * ahead + miss)
    plan = replace(plan, has_trajectory=torch.ones(400, dtype=torch.bool))
    system.fit_plans(plan)
    bank = torch.randn(400, 2, 12, 36, generator=generator)
    given = Batch(latents=torch.zeros(400, 1, 3, 4, 2, 2), plan=plan, features=bank)
    loss = system.training_loss(replace(given, captions=[""] * 400), "action", generator)
    assert float(loss.terms["action_velocity"]) == pytest.approx(1.0, abs=0.25)


def test_the_bank_tells_places_beside_states() -> None:
    torch.manual_seed(0)
    plain, system = ReWorld(CONFIG), ReWorld(told())
    system.video.load_state_dict(plain.video.state_dict())
    system.prompter.load_state_dict(plain.prompter.state_dict())
    past, prompt = batch().latents[:, :, :2], Prompt([""] * 3, plan=batch().plan)
    banks = [
        s.feature_bank(past, prompt, torch.Generator().manual_seed(0)) for s in (plain, system)
    ]
    for without, given in zip(banks[0].states, banks[1].states, strict=True):
        torch.testing.assert_close(given[..., :24], without)
        places = given[0, :, 24:]
        assert len(torch.unique(places, dim=0)) == len(places)
        torch.testing.assert_close(given[1, :, 24:], places)


def test_plans_of_one_moment_share_its_bank() -> None:
    torch.manual_seed(0)
    system = ReWorld(CONFIG)
    for parameter in system.action.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    generator = torch.Generator().manual_seed(0)
    states = FeatureBank(tuple(torch.randn(2, 12, 24, generator=generator) for _ in range(2)))
    a, t = torch.randn(6, 8, 3, generator=generator), torch.full((6,), 0.5)
    ego = torch.randn(6, 8, generator=generator)
    shared = system.action.project(states)
    found = system.action(a, t, shared, ego).velocity
    torch.testing.assert_close(found, system.action(a, t, shared.repeated(3), ego).velocity)
    with pytest.raises(ValueError, match="whole number of plans per moment"):
        system.action(a[:5], t[:5], shared, ego[:5])


def test_a_planner_may_read_the_last_latents_alone() -> None:
    torch.manual_seed(0)
    full = ReWorld(told())
    part = ReWorld(replace(told(), bank_latents=2))
    part.load_state_dict(full.state_dict())
    past, prompt = batch().latents[:, :, :2], Prompt([""] * 3, plan=batch().plan)
    banks = [s.feature_bank(past, prompt, torch.Generator().manual_seed(0)) for s in (full, part)]
    for every, last in zip(banks[0].states, banks[1].states, strict=True):
        torch.testing.assert_close(last, every[:, -2 * 4 :])
    with pytest.raises(ValueError, match="at least the 1 of the future"):
        replace(CONFIG, bank_latents=0)
