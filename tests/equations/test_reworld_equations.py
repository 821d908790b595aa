"""One test per numbered equation of ReWorld (arXiv 2606.27504), each against slow code."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from maskworld.backbones.action_dit import ActionDiTConfig
from maskworld.backbones.ltx import LTXConfig, grid_positions
from maskworld.conditioning.trajectory import DeltaMap
from maskworld.flow import SigmaSchedule, add_noise, interpolate, velocity_target
from maskworld.guidance import Guidance
from maskworld.objectives.alignment import alignment_loss
from maskworld.objectives.repulsion import repulsion_loss, select_hard_negative
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.reworld import ReWorld, ReWorldConfig
from maskworld.tokenizers.causal_patch import CausalPatchConfig
from maskworld.types import Batch, FeatureBank, PlanBatch, Prompt

GRID, CHANNELS = (2, 3), 6
PLAIN = FlowSampling(video=SigmaSchedule("uniform", 3), guidance=Guidance())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def config() -> ReWorldConfig:
    return ReWorldConfig(
        video=LTXConfig(
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_layers=3,
            num_heads=2,
            head_dim=8,
            has_text=False,
        ),
        action=ActionDiTConfig(
            dim=16, num_heads=2, num_layers=3, ffn_dim=16, video_dim=16, ego_hidden_dim=16
        ),
        bank_blocks=(1, 2, 3),
        tokenizer=CausalPatchConfig(patch_size=4, channels=CHANNELS),
        text=None,
        future_actions=2,
        supervised_layers=(1, 2),
        alignment_layers=(2,),
        p_drop_prompt=0.0,
        num_frames=17,
        num_past=9,
        frame_size=(8, 12),
        fps=5.0,
    )


def awake(model: torch.nn.Module, seed: int = 3) -> None:
    """Moves every parameter off its zeros, so that nothing is hidden by an initialisation."""
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


def system(settings: ReWorldConfig | None = None) -> ReWorld:
    torch.manual_seed(0)
    model = ReWorld(settings or config())
    awake(model)
    return model.eval()


def batch(size: int = 3) -> Batch:
    generator = seeded(1)
    actions = torch.rand(size, 17, 2, generator=generator) * torch.tensor([10.0, 0.3])
    expert = torch.randn(size, 8, 3, generator=generator).cumsum(dim=1)
    return Batch(
        latents=torch.randn(size, 1, 3, CHANNELS, *GRID, generator=generator),
        actions=actions,
        has_actions=torch.ones(size, dtype=torch.bool),
        plan=PlanBatch(
            ego=torch.randn(size, 4, generator=generator),
            command=torch.tensor([0, 1, 2])[:size],
            trajectory=expert,
            has_trajectory=torch.ones(size, dtype=torch.bool),
            negative=expert + 0.5,
            has_negative=torch.tensor([True, False, True])[:size],
            tokens=[str(i) for i in range(size)],
        ),
        captions=[""] * size,
        fps=torch.full((size,), 5.0),
    )


def video_inputs(model: ReWorld, data: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """z0, eps and t exactly as the loss draws them from generator 0."""
    assert data.latents is not None
    z0 = data.latents[:, 0].permute(0, 1, 3, 4, 2).flatten(1, 3)  # b (k gh gw) d
    generator = seeded()
    eps = torch.randn(z0.shape, generator=generator)
    t = model.config.video_times.sample(len(z0), 3, GRID[0] * GRID[1], generator)
    return z0, eps, t


def test_eq_1_noisy_latents_lie_on_the_line_from_data_to_noise() -> None:
    """z_t = (1 - t) z_0 + t eps; the past stays clean at t = 0."""
    z0, eps = torch.randn(2, 4, 3, generator=seeded()), torch.randn(2, 4, 3, generator=seeded(1))
    t = torch.tensor([0.25, 0.75])
    for row, time in enumerate(t.tolist()):
        expected = (1 - time) * z0[row] + time * eps[row]
        torch.testing.assert_close(interpolate(z0, eps, t)[row], expected)
    past = torch.tensor([True, True, False, False]).expand(2, 4)
    noisy = add_noise(z0, eps, t, past)
    assert torch.equal(noisy.z[:, :2], z0[:, :2])
    assert noisy.t[:, :2].abs().max() == 0
    assert torch.equal(noisy.t[:, 2:], t[:, None].expand(2, 2))


def test_eq_2_generation_loss_is_the_squared_error_of_the_velocity_of_the_future() -> None:
    """L_Gen = E || v(z_t, t, c) - (eps - z_0) ||^2, here token by token of the future only."""
    model, data = system(), batch()
    terms = model.training_loss(data, "video", seeded()).terms
    z0, eps, t = video_inputs(model, data)
    is_future = torch.arange(z0.shape[1]) >= 2 * GRID[0] * GRID[1]
    time = torch.where(is_future, t, 0.0)
    z = torch.where(is_future[:, None], (1 - t[..., None]) * z0 + t[..., None] * eps, z0)
    prompt = model.prompter(
        Prompt(None, data.actions, data.has_actions, data.fps, data.plan), len(z0), 3
    )
    velocity = model.run_video(z, time, prompt, (3, *GRID)).velocity
    assert velocity is not None
    errors = []
    for row, token in torch.ones(z0.shape[:2]).nonzero().tolist():
        if is_future[token]:
            target = eps[row, token] - z0[row, token]
            errors.append((velocity[row, token] - target).square().mean())
    torch.testing.assert_close(terms["velocity"], torch.stack(errors).mean())


def test_eq_3_and_4_plans_are_noised_and_their_velocity_is_regressed_given_the_features() -> None:
    model, data = system(), batch()
    assert data.plan is not None
    assert data.plan.trajectory is not None
    assert data.latents is not None
    out = model.training_loss(data, "joint", seeded())
    a0 = model.normaliser.normalise(data.plan.trajectory)
    generator = seeded()
    eps = torch.randn(a0.shape, generator=generator)
    t = model.config.action_times.sample(len(a0), 1, 8, generator)
    bank = model.feature_bank(data.latents[:, :, :2], Prompt(plan=data.plan), generator)
    ego = model.action_ego(data.plan.ego, data.plan.command)
    a_t = (1 - t[..., None]) * a0 + t[..., None] * eps  # Eq. 3
    velocity = model.action(a_t, t[:, 0], bank, ego).velocity
    expected = (velocity - velocity_target(a0, eps)).square().mean()  # Eq. 4
    torch.testing.assert_close(out.terms["action_velocity"], expected)


def test_features_made_once_give_the_loss_of_features_made_in_the_step() -> None:
    model, data = system(), batch()
    assert data.plan is not None
    assert data.latents is not None
    generator = seeded()  # drawn from as the loss does: noise, times, then the future's noise
    torch.randn(3, 8, 3, generator=generator)
    model.config.action_times.sample(3, 1, 8, generator)
    bank = model.feature_bank(data.latents[:, :, :2], Prompt(plan=data.plan), generator)
    kept = replace(data, features=torch.stack(bank.states, dim=1))
    terms = [model.training_loss(part, "action", seeded()).terms for part in (data, kept)]
    assert terms[0].keys() == terms[1].keys()
    for name in terms[0]:
        torch.testing.assert_close(terms[0][name], terms[1][name])
    other = replace(kept, features=2 * kept.features)
    assert not torch.equal(
        model.training_loss(other, "action", seeded()).total, sum(terms[0].values())
    )


def test_eq_5_standard_training_adds_the_two_output_losses_and_nothing_else() -> None:
    terms = system().training_loss(batch(), "standard", seeded())
    assert set(terms.terms) == {"velocity", "action_velocity"}
    torch.testing.assert_close(terms.total.detach(), sum(terms.terms.values()))


def test_eq_6_to_8_every_supervised_layer_predicts_the_same_velocity() -> None:
    """v^(l) = q_l(h^(l)); L_Mid = sum_l || v^(l) - v* ||^2; L_Video = L_Gen + lambda L_Mid."""
    model, data = system(), batch()
    out = model.training_loss(data, "video", seeded())
    assert set(out.terms) == {"velocity", "intermediate_1", "intermediate_2"}
    z0, eps, t = video_inputs(model, data)
    is_future = torch.arange(z0.shape[1]) >= 2 * GRID[0] * GRID[1]
    noisy = add_noise(z0, eps, t, ~is_future.expand(z0.shape[:2]))
    prompt = model.prompter(
        Prompt(None, data.actions, data.has_actions, data.fps, data.plan), len(z0), 3
    )
    passed = model.video(
        noisy.z,
        noisy.t,
        positions=grid_positions(3, *GRID, 5.0, 8, 4),
        condition=prompt.condition.repeat_interleave(GRID[0] * GRID[1], dim=1),
        return_blocks=(1, 2),
    )
    total = out.terms["velocity"]
    for layer in (1, 2):
        guess = model.heads[str(layer)](passed.blocks[layer], passed.time)
        error = (guess - (eps - z0))[:, is_future].square().mean()
        weight = model.config.intermediate_weight
        torch.testing.assert_close(out.terms[f"intermediate_{layer}"], weight * error)
        total = total + weight * error
    torch.testing.assert_close(out.total.detach(), total.detach())


@pytest.mark.parametrize("gamma", [0.6, 1.4])
def test_eq_9_guided_velocity_extrapolates_from_the_intermediate_through_the_final(
    gamma: float,
) -> None:
    model, data = system(), batch()
    prompt = Prompt(None, data.actions, data.has_actions, data.fps, data.plan)
    sampling = replace(PLAIN, guidance=Guidance(gamma=gamma))
    z, t = torch.randn(3, 18, CHANNELS, generator=seeded()), torch.full((3, 18), 0.5)
    with torch.no_grad():
        guided = model.velocity_model(prompt, 3, (3, *GRID), 1, sampling)(z, t)
        passed = model.run_video(z, t, model.prompter(prompt, 3, 3), (3, *GRID), 1, (1, 2))
        v_i = passed.intermediate[1]
    assert passed.velocity is not None
    torch.testing.assert_close(guided, v_i + gamma * (passed.velocity - v_i))


def test_an_averaged_plan_is_the_mean_of_single_draws() -> None:
    model, data = system(), batch()
    single = model.plan(data, seeded(), PLAIN, num_plans=4)
    averaged = model.plan(data, seeded(), replace(PLAIN, num_averaged=4))
    torch.testing.assert_close(averaged, single.view(3, 4, 8, 3).mean(dim=1))
    assert not torch.equal(single[0], single[1])


def test_eq_9_with_gamma_one_is_the_unguided_model_bit_for_bit() -> None:
    model, data = system(), batch()
    assert data.latents is not None
    unsupervised = system(replace(config(), supervised_layers=()))
    unsupervised.load_state_dict(model.state_dict(), strict=False)
    prompt = Prompt(None, data.actions, data.has_actions, data.fps, data.plan)
    dreams = []
    for one in (model, unsupervised):
        one.tokenizer.fit(
            torch.randint(256, (24, 17, 3, 8, 12), generator=seeded()).byte(), seeded()
        )
        dreams.append(one.generate(data.latents[:, :, :2], prompt, PLAIN, seeded()).latents)
    assert torch.equal(*dreams)
    guided = replace(PLAIN, guidance=Guidance(gamma=1.4))
    moved = model.generate(data.latents[:, :, :2], prompt, guided, seeded()).latents
    assert not torch.equal(moved, dreams[0])


def test_eq_10_readout_is_the_attention_weighted_sum_of_video_values() -> None:
    """r_i = sum_j alpha_ij v_j, head by head, before the output projection."""
    model, data = system(), batch()
    bank = FeatureBank(tuple(torch.randn(3, 5, 16, generator=seeded(i)) for i in range(3)))
    assert data.plan is not None
    ego = model.action_ego(data.plan.ego, data.plan.command)
    a, t = torch.randn(3, 8, 3, generator=seeded()), torch.full((3,), 0.5)
    out = model.action(a, t, bank, ego, (2,))
    cross = model.action.blocks[1].cross
    before = out.states[2] - cross.out(out.readouts[2])  # the stream that asked
    query = cross.norm_q(cross.to_q(before))
    key, value = cross.norm_k(cross.to_k(bank.states[1])), cross.to_v(bank.states[1])
    for head in (slice(0, 8), slice(8, 16)):
        alpha = (query[..., head] @ key[..., head].transpose(1, 2) / 8**0.5).softmax(dim=-1)
        expected = alpha @ value[..., head]
        torch.testing.assert_close(out.readouts[2][..., head], expected, atol=1e-5, rtol=1e-4)


def test_eq_11_and_12_alignment_is_one_minus_cosine_and_stops_at_the_readout() -> None:
    states = torch.randn(2, 8, 4, generator=seeded(), requires_grad=True)
    readouts = torch.randn(2, 8, 4, generator=seeded(1), requires_grad=True)
    loss = alignment_loss({2: states}, {2: readouts})
    expected = torch.zeros(())
    for row in range(2):
        for token in range(8):
            a, r = states[row, token], readouts[row, token]
            expected = expected + (1 - a @ r / (a.norm() * r.norm())) / 2
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert readouts.grad is None
    assert states.grad is not None
    model = system()
    out = model.training_loss(batch(), "action", seeded())
    assert set(out.terms) == {"action_velocity", "alignment"}
    weightless = system(replace(config(), alignment_weight=0.0))
    weightless.load_state_dict(model.state_dict())
    plain = weightless.training_loss(batch(), "action", seeded())
    torch.testing.assert_close(plain.terms["action_velocity"], out.terms["action_velocity"])
    assert set(plain.terms) == {"action_velocity"}


def test_eq_13_to_15_the_hard_negative_is_the_unsafe_candidate_nearest_to_the_expert() -> None:
    generator = seeded()
    candidates = torch.randn(5, 16, 8, 3, generator=generator)
    scores, expert = torch.rand(5, 16, generator=generator), torch.randn(5, 8, 3)
    scores[3] = 0.9
    negative, has_negative = select_hard_negative(candidates, scores, expert)
    for scene in range(5):
        unsafe = [n for n in range(16) if scores[scene, n] < 0.6]  # Eq. 13
        assert bool(has_negative[scene]) == bool(unsafe)
        if unsafe:
            gap = {}
            for n in unsafe:
                pairs = zip(candidates[scene, n], expert[scene], strict=True)
                gap[n] = sum(float((ours - theirs).square().sum()) for ours, theirs in pairs) / 8
            nearest = min(gap, key=lambda n: gap[n])  # Eq. 14
            assert torch.equal(negative[scene], candidates[scene, nearest])  # Eq. 15


def test_eq_16_to_19_repulsion_is_minus_the_distance_in_delta_space() -> None:
    model, data = system(), batch()
    assert data.plan is not None
    assert data.plan.trajectory is not None
    assert data.plan.negative is not None
    assert data.latents is not None
    out = model.training_loss(data, "joint", seeded())
    a0, generator = model.normaliser.normalise(data.plan.trajectory), seeded()
    eps = torch.randn(a0.shape, generator=generator)
    t = model.config.action_times.sample(3, 1, 8, generator)[..., None]
    bank = model.feature_bank(data.latents[:, :, :2], Prompt(plan=data.plan), generator)
    ego = model.action_ego(data.plan.ego, data.plan.command)
    a_t = (1 - t) * a0 + t * eps
    estimate = a_t - t * model.action(a_t, t[:, 0, 0], bank, ego).velocity
    tau = model.normaliser.denormalise(estimate, clamp=False)  # Eq. 16

    def delta(trajectory: Tensor) -> Tensor:  # Eq. 17, BeyondDrive's constants
        rows = []
        for x0, x1 in zip([torch.zeros(3), *trajectory[:-1]], trajectory):
            dx, dy = ((x1 - x0)[:2] - torch.tensor([2.950226, 0.060729])) / torch.tensor(
                [4.525338, 5.072810]
            )
            rows.append(torch.stack([dx, dy, x1[2].sin(), x1[2].cos()]))
        return torch.stack(rows)

    distances = [
        (delta(tau[b]) - delta(data.plan.negative[b])).abs().sum() / (8 * 4)
        for b in range(3)
        if data.plan.has_negative is not None and data.plan.has_negative[b]
    ]
    expected = -torch.stack(distances).mean()  # Eq. 18
    torch.testing.assert_close(out.terms["repulsion"], 0.04 * expected)
    torch.testing.assert_close(out.total.detach(), sum(out.terms.values()))  # Eq. 19
    assert (
        repulsion_loss(DeltaMap()(tau), DeltaMap()(tau), torch.zeros(3, dtype=torch.bool)).item()
        == 0
    )
