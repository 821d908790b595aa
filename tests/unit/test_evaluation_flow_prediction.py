"""Claims about how flow systems are scored on the future."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from maskworld.backbones.action_dit import ActionDiTConfig
from maskworld.backbones.ltx import LTXConfig
from maskworld.evaluation.flow_prediction import (
    POSTERIOR_MEAN,
    dream,
    dream_with_gammas,
    prompt_of,
    reconstruct,
    rows_of,
    score_flow_sensitivity,
    velocity_errors,
    with_latents,
)
from maskworld.evaluation.futures import score_futures
from maskworld.evaluation.results import Results
from maskworld.flow import SigmaSchedule
from maskworld.guidance import Guidance
from maskworld.metrics.image import psnr, ssim
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.reworld import ReWorld, ReWorldConfig
from maskworld.tokenizers.causal_patch import CausalPatchConfig
from maskworld.types import Batch, PlanBatch

CHANNELS, SIZE, NUM = 6, (16, 24), 6
SAMPLING = FlowSampling(video=SigmaSchedule("uniform", 2), guidance=Guidance(gamma=1.4))


def build(**changes) -> ReWorld:
    torch.manual_seed(0)
    config = ReWorldConfig(
        video=LTXConfig(
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_layers=2,
            num_heads=1,
            head_dim=12,
            has_text=False,
        ),
        action=ActionDiTConfig(
            dim=8, num_heads=1, num_layers=2, ffn_dim=8, video_dim=12, ego_hidden_dim=8
        ),
        bank_blocks=(1, 2),
        tokenizer=CausalPatchConfig(patch_size=8, channels=CHANNELS),
        text=None,
        future_actions=2,
        supervised_layers=(1,),
        alignment_layers=(1,),
        p_drop_prompt=0.0,
        num_frames=17,
        num_past=9,
        frame_size=SIZE,
        fps=5.0,
    )
    system = ReWorld(replace(config, **changes)).eval()
    system.tokenizer.fit(batch().frames[:, 0], torch.Generator().manual_seed(0))
    with torch.no_grad():  # gates and heads start at zero, where nothing is read
        for parameter in system.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return system


def batch() -> Batch:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(NUM, 1, 17, 3, 4, 6, generator=generator)
    frames = (255 * coarse).to(torch.uint8).repeat_interleave(4, -1).repeat_interleave(4, -2)
    return Batch(
        frames=frames,
        actions=torch.randn(NUM, 17, 2, generator=generator),
        has_actions=torch.ones(NUM, dtype=torch.bool),
        plan=PlanBatch(
            torch.randn(NUM, 4, generator=generator),
            torch.tensor([0, 1, 2, 3, 0, 1]),
            tokens=[f"moment {i}" for i in range(NUM)],
        ),
        captions=[f"clip {i}" for i in range(NUM)],
        fps=torch.full((NUM,), 5.0),
    )


@pytest.fixture(scope="module")
def system() -> ReWorld:
    return build()


GROUPS = np.array([0, 0, 1, 1, 2, 2])


def test_the_velocity_error_is_the_training_loss(system: ReWorld) -> None:
    """With the same draws, on all clips at once; L_Gen of Eq. 2."""
    encoded = with_latents(system, batch())
    generator = torch.Generator().manual_seed(1000 * 7)
    loss = system.training_loss(encoded, "video", generator).terms["velocity"]
    errors = velocity_errors(system, encoded, 7)
    assert errors.total.shape == (NUM, 1)  # one future latent
    assert errors.mean == pytest.approx(float(loss), rel=1e-5)


def test_a_system_that_is_not_told_actions_does_not_answer_to_them() -> None:
    results = Results("reworld", {})
    score_flow_sensitivity(results, build(future_actions=0), batch(), GROUPS, 0)
    for name in ("shuffled", "mirrored"):
        assert results.to_dict()["metrics"][f"action_sensitivity/{name}"]["model"] == 0.0


def test_wrong_future_actions_change_the_loss_and_wrong_past_ones_do_not(system: ReWorld) -> None:
    clips = with_latents(system, batch())
    past, future = clips.actions.clone(), clips.actions.clone()
    past[:, :9] *= -1
    future[:, 9:] *= -1
    true = velocity_errors(system, clips, 0).total
    assert np.array_equal(velocity_errors(system, replace(clips, actions=past), 0).total, true)
    assert not np.allclose(velocity_errors(system, replace(clips, actions=future), 0).total, true)
    results = Results("reworld", {})
    score_flow_sensitivity(results, system, clips, GROUPS, 0)
    assert results.to_dict()["metrics"]["action_sensitivity/mirrored"]["model"] != 0.0


def test_one_step_from_noise_is_noise_minus_velocity(system: ReWorld) -> None:
    clips = with_latents(system, batch())
    made = dream(system, clips, POSTERIOR_MEAN, torch.Generator().manual_seed(5), batch_size=NUM)
    generator = torch.Generator().manual_seed(5)
    past = clips.latents[:, :, :2]
    noise = torch.randn((NUM, 1, 1, CHANNELS, 2, 3), generator=generator)
    z = torch.cat([past, noise], dim=2)
    tokens = z.permute(0, 1, 2, 4, 5, 3).reshape(NUM, 18, CHANNELS)
    t = torch.cat([torch.zeros(NUM, 12), torch.ones(NUM, 6)], dim=1)
    with torch.no_grad():
        prompt = system.prompter(prompt_of(clips), NUM, 3)
        velocity = system.run_video(tokens, t, prompt, (3, 2, 3)).velocity
        mean = (tokens - velocity)[:, 12:].reshape(NUM, 1, 2, 3, CHANNELS).permute(0, 1, 4, 2, 3)
        latents = torch.cat([past[:, 0], mean], dim=1)
        frames = system.tokenizer.decode(latents)
    expected = ((frames + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    difference = made.frames[:, 0].int() - expected.int()
    assert difference.abs().max() <= 1
    assert len(made.seconds) == 1


def test_gammas_share_their_noise_and_one_is_the_unguided_dream(system: ReWorld) -> None:
    found = dream_with_gammas(system, batch(), SAMPLING, (1.0, 1.8), seed=2)
    plain = replace(SAMPLING, guidance=Guidance())
    alone = dream(system, batch(), plain, torch.Generator().manual_seed(2)).frames
    assert torch.equal(found[1.0], alone)
    assert torch.equal(found[1.0][:, :, :9], found[1.8][:, :, :9])
    assert not torch.equal(found[1.0], found[1.8])


def test_rows_keep_what_belongs_to_a_clip(system: ReWorld) -> None:
    clips = with_latents(system, batch())
    part = rows_of(clips, torch.tensor([4, 1]))
    assert torch.equal(part.frames, clips.frames[[4, 1]])
    assert torch.equal(part.latents, clips.latents[[4, 1]])
    assert torch.equal(part.plan.ego, clips.plan.ego[[4, 1]])
    assert part.plan.tokens == ["moment 4", "moment 1"]
    assert part.captions == ["clip 4", "clip 1"]


def test_scores_stand_beside_the_best_trivial_future_at_each_step(system: ReWorld) -> None:
    real = batch().frames[:, :, 9:]
    half = (real.int() // 2).to(torch.uint8)
    late = half.clone()
    late[:, :, 4:] = real[:, :, 4:]
    results = Results("reworld", {})
    others = {"reconstruction": reconstruct(system, batch())[:, :, 9:]}
    trivial = {"copy_last": half, "mean_image": late}
    score_futures(results, real, half, others, trivial, GROUPS, 0, ssim_every=2)
    entry = results.to_dict()["metrics"]["psnr"]
    curves = entry["per_horizon"]
    assert curves["best_trivial"] == curves["mean_image"]
    assert curves["model"] == pytest.approx(curves["copy_last"])
    assert entry["model"] == pytest.approx(float(psnr(half, real).mean()))
    assert entry["n"] == NUM
    entry = results.to_dict()["metrics"]["ssim"]
    assert "mean_image" not in entry  # it has no structure to compare
    assert entry["n"] == NUM // 2
    assert entry["model"] == pytest.approx(float(ssim(half[::2], real[::2]).mean()))
