"""ReWorld as a system: what each stage moves, guidance, planning, releases, bad batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from reworld_material import batch_of, micro_reworld, moving_drives

from maskworld.flow import SigmaSchedule
from maskworld.guidance import Guidance
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.reworld import ReWorld
from maskworld.tokenizers.latent import encode_views
from maskworld.types import Batch, Prompt

FEW = FlowSampling(SigmaSchedule("uniform", 2), SigmaSchedule("uniform", 2), Guidance())


def moved_by(stage: str) -> set[str]:
    """Names of the parameters that one optimizer step of a stage changes."""
    model = micro_reworld()
    with torch.no_grad():  # outputs start at zero, and would block gradients on the way back
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=seeded(1)))
    before = {name: value.clone() for name, value in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    groups = model.parameter_groups(stage)
    optimizer = torch.optim.SGD([{"params": group["params"]} for group in groups], lr=1.0)
    model.training_loss(batch_of(moving_drives()), stage, generator).total.backward()
    optimizer.step()
    return {
        name for name, value in model.named_parameters() if not torch.equal(value, before[name])
    }


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def parts(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_stage_video_moves_the_video_its_heads_and_prompts_only() -> None:
    assert parts(moved_by("video")) == {"video", "heads", "prompter"}


def test_stage_action_moves_no_video_parameter() -> None:
    assert parts(moved_by("action")) == {"action"}


def test_stage_action_gives_the_video_no_gradient() -> None:
    model = micro_reworld()
    model.training_loss(batch_of(moving_drives()), "action", seeded(0)).total.backward()
    assert all(p.grad is None for name, p in model.named_parameters() if name.startswith("video."))


def test_stage_joint_moves_both_towers_and_leaves_the_unread_heads() -> None:
    moved = moved_by("joint")
    assert {"video", "action"} <= parts(moved)
    assert "heads" not in parts(moved)
    assert not any(name.startswith("video.head.") for name in moved)


def test_a_stage_of_no_name_is_refused() -> None:
    model = micro_reworld()
    with pytest.raises(ValueError, match="tokenizer, video, action, joint"):
        model.parameter_groups("planning")
    with pytest.raises(ValueError, match="'planning'"):
        model.training_loss(batch_of(moving_drives()), "planning", seeded(0))


def test_gamma_one_is_the_unguided_model_bit_for_bit() -> None:
    model = micro_reworld()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=seeded(2)))
    data = batch_of(moving_drives())
    assert data.frames is not None
    past = data.frames[:, :, :9]

    def dreamt(system: ReWorld, gamma: float) -> torch.Tensor:
        sampling = replace(FEW, guidance=Guidance(gamma=gamma))
        return system.generate(past, Prompt(plan=data.plan), sampling, seeded(0)).latents

    bare = ReWorld(replace(model.config, supervised_layers=()))
    tensors = {n: v for n, v in model.state_dict().items() if not n.startswith("heads.")}
    bare.load_state_dict(tensors)
    assert torch.equal(dreamt(model, 1.0), dreamt(bare.eval(), 1.0))
    assert not torch.equal(dreamt(model, 1.0), dreamt(model, 1.4))
    with pytest.raises(ValueError, match="supervised_layers"):
        dreamt(bare, 1.4)


def test_dreams_begin_with_the_given_past() -> None:
    model, data = micro_reworld(), batch_of(moving_drives())
    assert data.frames is not None
    dream = model.generate(data.frames[:, :, :9], Prompt(), FEW, seeded(0))
    assert dream.frames.shape == data.frames.shape
    kept = model.tokenizer.encode(data.frames[:, 0, :9].float() / 127.5 - 1)
    assert torch.allclose(dream.latents[:, 0, :2], kept)


def test_planning_reads_the_past_alone() -> None:
    model, data = micro_reworld(), batch_of(moving_drives())
    assert data.frames is not None
    assert data.plan is not None
    other = data.frames.clone()
    other[:, :, 9:] = 255
    told = replace(data.plan, trajectory=None, has_trajectory=None)
    plans = [model.plan(b, seeded(0), FEW) for b in (data, replace(data, frames=other, plan=told))]
    assert torch.equal(*plans)


def test_many_plans_of_one_moment_stand_side_by_side() -> None:
    model, data = micro_reworld(), batch_of(moving_drives(2))
    plans = model.plan(data, seeded(0), FEW, num_plans=3)
    assert plans.shape == (6, 8, 3)


def test_windows_of_a_curriculum_train_the_same_model() -> None:
    model = micro_reworld()
    longer, wider = moving_drives(2, num_frames=25), moving_drives(2, size=(16, 32))
    for clips in (longer, wider):
        loss = model.training_loss(batch_of(clips), "video-1", seeded(0)).total
        assert torch.isfinite(loss)


def test_a_batch_without_experts_is_refused_with_the_fix() -> None:
    data = batch_of(moving_drives())
    with pytest.raises(ValueError, match="leave clips that no expert drove out"):
        micro_reworld().training_loss(replace(data, plan=None), "action", seeded(0))


def test_nan_in_actions_and_latents_is_refused() -> None:
    model, data = micro_reworld(), batch_of(moving_drives())
    assert data.actions is not None
    actions = data.actions.clone()
    actions[0, 12] = torch.nan
    with pytest.raises(ValueError, match="finite actions"):
        model.training_loss(replace(data, actions=actions), "video", seeded(0))
    broken = torch.full((1, 1, 3, 12, 2, 3), torch.nan)
    loss = model.training_loss(Batch(latents=broken), "video", seeded(0)).total
    assert not torch.isfinite(loss)  # the trainer stops on it and names the step


def test_a_release_brings_statistics_and_gives_the_same_plans(tmp_path: Path) -> None:
    model, data = micro_reworld(), batch_of(moving_drives())
    model.save_pretrained(tmp_path / "model")
    again = ReWorld.from_pretrained(tmp_path / "model")
    assert torch.equal(model.plan(data, seeded(0), FEW), again.plan(data, seeded(0), FEW))


def test_joint_without_a_negative_has_no_repulsion_and_no_nan() -> None:
    model, data = micro_reworld(), batch_of(moving_drives())
    assert data.plan is not None
    plan = replace(data.plan, negative=None, has_negative=None)
    out = model.training_loss(replace(data, plan=plan), "joint", seeded(0))
    assert out.terms["repulsion"] == 0
    assert torch.isfinite(out.total)


def test_an_untrained_model_that_carries_dreams_a_still_video_and_drives_straight_on() -> None:
    base, batch = micro_reworld(), batch_of(moving_drives())
    assert batch.plan is not None
    assert batch.frames is not None
    channels = base.tokenizer.channels
    config = replace(
        base.config,
        video=replace(base.config.video, in_channels=2 * channels),
        carries_past=True,
        carries_motion=True,
    )
    model = ReWorld(config).eval()
    model.tokenizer.load_state_dict(base.tokenizer.state_dict())
    model.fit_latents(encode_views(model.tokenizer, batch.frames))
    model.fit_plans(batch.plan)
    one = FlowSampling(SigmaSchedule("uniform", 1), SigmaSchedule("uniform", 1), Guidance())
    low, high = (model.normaliser.denormalise(torch.full((1, 1, 3), side)) for side in (-1.0, 1.0))
    time = 0.5 * torch.arange(1, 9)
    straight = torch.cat(
        [batch.plan.ego[:, None, :2] * time[:, None], torch.zeros(len(batch), 8, 1)], dim=-1
    )
    expected = straight.clamp(low, high)
    torch.testing.assert_close(model.plan(batch, seeded(0), one), expected, atol=1e-3, rtol=1e-4)
    past = batch.frames[:, :, : config.num_past]
    dreamt = model.generate(past, Prompt(plan=batch.plan), one, seeded(0)).latents
    still = model.tokenizer.still(dreamt[:, 0, : model.num_past_latents])
    torch.testing.assert_close(dreamt[:, 0, -1], still, atol=1e-4, rtol=1e-4)


def test_carrying_the_past_needs_room_for_it_and_patch_latents() -> None:
    config = micro_reworld().config
    with pytest.raises(ValueError, match="input channels"):
        replace(config, carries_past=True)
