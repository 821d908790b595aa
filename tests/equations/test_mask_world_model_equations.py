"""Mask World Model's equations (arXiv 2604.19683, section 3), each against slow code."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maskworld.flow import linear_velocity
from maskworld.nn.rope import grid_positions
from maskworld.objectives.score_matching import (
    ScoreMatching,
    score_matching_loss,
    score_velocity,
    sigma_of,
    time_of,
)
from maskworld.objectives.time_weight import time_weight
from maskworld.systems.mask_world_model import StageConditions
from maskworld.types import Prompt

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))  # where the micro model is
from mask_world_model_material import (
    ACTIONS,
    CHUNK,
    FEW,
    MEMORY,
    STATES,
    batch_of,
    micro_config,
    micro_model,
)

QUIET = StageConditions(p_drop_caption=0.0, memory_noise=0.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_mixed_sequence_has_a_clean_memory_and_a_noisy_mask() -> None:
    """x_s = b z_o + (1 - b) z_s with z_s = (1 - s) z_m + s eps; L = w(s) |v - (eps - z_m)|^2 on
    the future alone."""
    for kind in ("none", "cosmap"):
        config = micro_config(dynamics_conditions=QUIET, time_weight=kind)
        model, data = micro_model(config, awake=True), batch_of(3)
        (k, gh, gw), per_latent = config.grid, config.grid[1] * config.grid[2]
        out = model.training_loss(data, "dynamics", seeded())

        # Remembered frames alone, the palette's pictures of the future together, view by view.
        pictures = model.palette.render(data.labels).float() / 127.5 - 1
        frames = data.frames.float() / 127.5 - 1
        rows = []
        for sample in range(3):
            for view in range(2):
                parts = [
                    model.tokenizer.encode(frames[sample, view, i][None, None])[0]
                    for i in range(MEMORY)
                ]
                parts.append(model.tokenizer.encode(pictures[sample, view][None])[0])
                rows.append(torch.cat(parts).movedim(1, -1).flatten(0, 2))
        z0 = torch.stack(rows)
        generator = seeded()
        eps = torch.randn(z0.shape, generator=generator)
        s = torch.rand(3, 1, generator=generator).repeat_interleave(2, dim=0)
        b = torch.arange(z0.shape[1]) < MEMORY * per_latent
        x = torch.where(b[:, None], z0, (1 - s[..., None]) * z0 + s[..., None] * eps)
        times = torch.where(b, 0.0, s)
        prompt = model.prompter(Prompt(data.captions), 3, 1)
        positions = grid_positions(k, gh, gw, 30 / 8, 1, 8, is_causal=False)
        passed = model.video(
            x,
            times,
            positions=positions,
            text=prompt.text,
            text_mask=prompt.text_mask,
            condition=model.view_embedding.weight.repeat(3, 1)[:, None],
            num_views=2,
        )
        w = 2 / (torch.pi * (1 - 2 * s + 2 * s**2)) if kind == "cosmap" else torch.ones_like(s)
        errors = (passed.velocity - (eps - z0))[:, ~b].square().mean(dim=-1)
        torch.testing.assert_close(out.terms["velocity"], (w * errors).mean())


def test_rotary_time_has_the_interpolation_scale_of_the_paper() -> None:
    """gamma = (8 / 30, 32, 32): latents lie 0.267 s apart, from 0 on, tokens 32 pixels."""
    places = grid_positions(9, 2, 3, 1 / (8 / 30), 1, 32, is_causal=False)[0]
    expected = [
        (8 / 30 * i, 32.0 * y, 32.0 * x) for i in range(9) for y in range(2) for x in range(3)
    ]
    torch.testing.assert_close(places.T, torch.tensor(expected))


def test_the_bank_holds_every_block_after_pure_noise_at_time_one() -> None:
    model, data = micro_model(awake=True), batch_of(2)
    (k, gh, gw), per_latent = model.config.grid, model.config.grid[1] * model.config.grid[2]
    generator = seeded()
    torch.rand(2, generator=generator)  # captions
    bank = model.encode_once(data, seeded())
    memory = model.clips.encode(data, with_future=False)
    noise = torch.randn(2, 2, k - MEMORY, 12, gh, gw, generator=generator)
    z = torch.cat([memory, noise], dim=2).flatten(0, 1).movedim(2, -1).flatten(1, 3)
    t = (torch.arange(k * gh * gw) >= MEMORY * per_latent).float().expand(4, -1)
    prompt = model.prompter(Prompt(data.captions), 2, 1)
    passed = model.run_video(z, t, prompt, (k, gh, gw), (1, 2, 3))
    for layer, states in enumerate(bank.states, start=1):
        expected = passed.blocks[layer].view(2, 2 * k * gh * gw, 24)
        torch.testing.assert_close(states, expected)


def test_flow_matching_of_actions_counts_real_steps_of_u() -> None:
    """u = [action, state after it], normalised; |v - (eps - u)|^2, the state's token clean."""
    model, data = micro_model(micro_config(policy_conditions=QUIET), awake=True), batch_of(4)
    control = data.control
    out = model.training_loss(data, "policy", seeded())
    u = torch.cat(
        [
            model.normaliser.actions.normalise(control.actions),
            model.normaliser.states.normalise(control.states),
        ],
        dim=-1,
    )
    generator = seeded()
    eps = torch.randn(u.shape, generator=generator)
    s = torch.rand(4, 1, generator=generator)
    bank = model.encode_once(data, generator)
    state = model.normaliser.states.normalise(control.state)
    token = torch.cat([torch.zeros(4, ACTIONS), state], dim=-1)[:, None]
    z = (1 - s[..., None]) * u + s[..., None] * eps
    t = torch.cat([torch.zeros(4, 1), s.expand(-1, CHUNK)], dim=1)
    velocity = model.action(torch.cat([token, z], dim=1), t, bank).velocity[:, 1:]
    errors = (velocity - (eps - u)).square().mean(dim=-1)
    expected = errors[control.is_real].mean()
    torch.testing.assert_close(out.terms["action"], expected)


@pytest.mark.parametrize("seed", range(3))
def test_score_matching_is_the_papers_formula(seed: int) -> None:
    """L = E[lambda(sigma) |phi(u~) + eps / sigma|^2], u~ = u + sigma eps, lambda = sigma^2."""
    generator = seeded(seed)
    n, length, width = (int(x) for x in torch.randint(2, 6, (3,), generator=generator))
    u, eps, output = torch.randn(3, n, length, width, generator=generator)
    score = ScoreMatching(0.1, 5.0)
    sigma = score.sample(n, generator)
    assert bool(((sigma >= 0.1) & (sigma <= 5.0)).all())
    terms = []
    for i in range(n):
        phi = -output[i] / sigma[i]
        terms.append(sigma[i] ** 2 * (phi + eps[i] / sigma[i]).square().mean())
    torch.testing.assert_close(score_matching_loss(output, eps, sigma), torch.stack(terms).mean())
    # A perfect network's score leads to the velocity of rectified flow at the same point.
    t = time_of(sigma)[:, None].expand(n, length)
    torch.testing.assert_close(sigma_of(t)[:, 0], sigma)
    z = (u + sigma[:, None, None] * eps) / (1 + sigma[:, None, None])
    torch.testing.assert_close(z, (1 - t[..., None]) * u + t[..., None] * eps)
    torch.testing.assert_close(score_velocity(z, t, eps), eps - u, atol=1e-4, rtol=1e-3)


def test_the_system_trains_and_acts_by_score_matching() -> None:
    config = micro_config(action_objective="score", policy_conditions=QUIET)
    model, data = micro_model(config, awake=True), batch_of(4)
    out = model.training_loss(data, "policy", seeded())
    u = model.normaliser.normalise(data.control.actions, data.control.states)
    generator = seeded()
    eps = torch.randn(u.shape, generator=generator)
    sigma = config.score.sample(4, generator)
    bank = model.encode_once(data, generator)
    noisy = u + sigma[:, None, None] * eps
    t = time_of(sigma)[:, None].expand(-1, CHUNK)
    output = model.run_action(noisy / (1 + sigma[:, None, None]), t, bank, data.control)
    phi = -output / sigma[:, None, None]
    errors = sigma[:, None, None] ** 2 * (phi + eps / sigma[:, None, None]).square()
    expected = errors[data.control.is_real].mean()
    torch.testing.assert_close(out.terms["action"], expected)
    assert model.act_chunk(data, seeded(), FEW).states.shape == (4, CHUNK, STATES)


def test_actions_are_carried_by_their_average_in_units_of_what_it_leaves_open() -> None:
    model = micro_model(micro_config(carries_mean=True), awake=True)
    prior, width = model.action_prior, ACTIONS + STATES
    mean, variance = torch.randn(CHUNK, width), torch.rand(CHUNK, width) + 0.1
    prior.mean.copy_(mean)
    prior.variance.copy_(variance)
    draws, t = 200_000, 0.6
    u = mean[0] + variance[0].sqrt() * torch.randn(draws, width, generator=seeded())
    eps = torch.randn(draws, width, generator=seeded(1))
    z = (1 - t) * u + t * eps
    time = torch.full((draws, 1), t)
    guess = linear_velocity(z[:, None], time, mean[:1].expand(draws, 1, -1), variance[:1])[:, 0]
    left = (eps - u - guess).std(dim=0)
    unit = prior.unit(torch.full((1, CHUNK), t))[0, 0]
    torch.testing.assert_close(left, unit, atol=0.01, rtol=0.01)
    given = prior.whitened(z[:CHUNK][None], torch.full((1, CHUNK), t))
    assert given.shape == (1, CHUNK, width)
    spread = ((z - (1 - t) * mean[0]) / ((1 - t) ** 2 * variance[0] + t**2).sqrt()).std(dim=0)
    torch.testing.assert_close(spread, torch.ones(width), atol=0.02, rtol=0.02)


def test_ranges_run_from_q01_to_q99_and_flat_numbers_keep_their_units() -> None:
    from maskworld.conditioning.control import ControlNormaliser
    from maskworld.types import ControlBatch

    rows = torch.rand(1000, 3, generator=seeded())
    rows[:, 1] = 0.5
    rows[:, 2] = (torch.arange(1000) == 7).float()
    control = ControlBatch(
        state=torch.zeros(1000, 1),
        actions=rows[:, None],
        states=torch.rand(1000, 1, 1, generator=seeded(1)),
        is_real=torch.ones(1000, 1, dtype=torch.bool),
    )
    normaliser = ControlNormaliser(3, 1)
    normaliser.fit(control)
    low, high = rows[:, 0].double().quantile(torch.tensor([0.01, 0.99]).double())
    found = normaliser.actions.normalise(rows)
    expected = 2 * (rows[:, 0].double() - low) / (high - low) - 1
    torch.testing.assert_close(found[:, 0], expected.float(), atol=1e-4, rtol=1e-4)
    assert found[:, 1].abs().max() == 0
    assert found[:, 2].unique().tolist() == [-1, 1]
    again, _ = normaliser.denormalise(normaliser.normalise(control.actions, control.states))
    torch.testing.assert_close(again, control.actions, atol=1e-5, rtol=1e-5)


def test_weights_of_times_are_those_of_stable_diffusion_3() -> None:
    t = torch.tensor([[0.1, 0.5, 1.0]])
    assert time_weight(t, "none").tolist() == [[1, 1, 1]]
    torch.testing.assert_close(time_weight(t, "sigma_sqrt"), torch.tensor([[100.0, 4.0, 1.0]]))
    expected = [[2 / (torch.pi * (1 - 2 * x + 2 * x * x)) for x in (0.1, 0.5, 1.0)]]
    torch.testing.assert_close(time_weight(t, "cosmap"), torch.tensor(expected))


def test_exec_steps_and_memory_of_a_running_policy_are_config() -> None:
    config = micro_config(exec_steps=1, memory_pick="every", memory_stride=30)
    assert (config.exec_steps, config.memory_pick, config.memory_stride) == (1, "every", 30)
    with pytest.raises(ValueError, match="exec_steps"):
        replace(config, exec_steps=0)
