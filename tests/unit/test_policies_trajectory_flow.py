"""Claims about the trajectory generator: what it learns, and what spreads its proposals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maskworld.interfaces import Planner
from maskworld.policies.trajectory_flow import (
    TrajectoryFlow,
    TrajectoryFlowConfig,
    fit_trajectory_flow,
)
from maskworld.types import Batch, PlanBatch

TINY = TrajectoryFlowConfig(dim=32, num_heads=4)
LEFT, RIGHT = 0, 2


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def toy_batch(num: int = 256, seed: int = 0, with_frames: bool = False) -> Batch:
    """Speeds of 4 to 12 m/s; the command says left or right, 4 m to the side in 4 s, and the driver
    differs by 2 m. Frames: white where it goes slowly, at half speed."""
    draw = seeded(seed)
    speed = 4 + 8 * torch.rand(num, generator=draw)
    command = torch.where(torch.rand(num, generator=draw) < 0.5, LEFT, RIGHT)
    slow = torch.rand(num, generator=draw) < 0.5
    driven = torch.where(slow, speed / 2, speed) if with_frames else speed
    time = 0.5 * torch.arange(1, 9)
    side = torch.where(command == LEFT, 4.0, -4.0) + 2.0 * torch.randn(num, generator=draw)
    share = time / 4
    x, y = driven[:, None] * time, side[:, None] * share**2
    heading = torch.atan2(y.diff(prepend=y[:, :1] * 0), x.diff(prepend=x[:, :1] * 0))
    ego = torch.stack([speed, 0 * speed, 0 * speed, 0 * speed], dim=1)
    plans = PlanBatch(
        ego,
        command,
        torch.stack([x, y, heading], dim=-1),
        torch.ones(num, dtype=torch.bool),
        tokens=[str(i) for i in range(num)],
    )
    frames = None
    if with_frames:
        frames = torch.zeros(num, 1, 3, 3, 16, 24, dtype=torch.uint8)
        frames[slow, :, 1] = 255  # now; the frame after it says nothing
        frames[:, :, 2] = torch.randint(0, 256, frames[:, :, 2].shape, generator=draw).byte()
    return Batch(frames=frames, plan=plans)


@pytest.fixture(scope="module")
def flow() -> TrajectoryFlow:
    return fit_trajectory_flow(toy_batch(), seeded(), config=TINY, num_steps=500)


def test_proposals_have_the_mean_and_spread_of_the_drivers(flow: TrajectoryFlow) -> None:
    test = toy_batch(64, seed=5)
    assert test.plan is not None
    assert test.plan.trajectory is not None
    found = flow.propose(test, 64, seeded(), cfg_scale=1, noise_scale=0.2)
    assert found.shape == (64, 64, 8, 3)
    mean = found.mean(dim=1)[:, -1]
    expected_y = torch.where(test.plan.command == LEFT, 4.0, -4.0)
    assert float((mean[:, 1] - expected_y).abs().mean()) < 0.8
    assert float((mean[:, 0] - 4 * test.plan.ego[:, 0]).abs().mean()) < 1.5
    spread = float(found[:, :, -1, 1].std(dim=1).mean())
    assert 1.0 < spread < 3.0  # the drivers': 2.0


def test_the_loss_falls_below_that_of_the_mean_trajectory(flow: TrajectoryFlow) -> None:
    batch = toy_batch(64, seed=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        untrained = TrajectoryFlow(TINY)
    assert batch.plan is not None
    untrained.fit_statistics(batch.plan)
    trained = float(flow.training_loss(batch, "any", seeded(1)).total.detach())
    first = float(untrained.training_loss(batch, "any", seeded(1)).total.detach())
    assert trained < first / 3


def test_guidance_below_one_and_more_noise_spread_the_proposals(flow: TrajectoryFlow) -> None:
    batch = toy_batch(32, seed=7)

    def spread(cfg_scale: float, noise_scale: float) -> float:
        found = flow.propose(batch, 64, seeded(), cfg_scale, noise_scale)
        return float(found[:, :, -1, :2].std(dim=1).mean())

    assert spread(0.5, 0.2) > 1.3 * spread(1.0, 0.2)
    assert spread(0.0, 0.2) > 1.3 * spread(0.5, 0.2)
    assert spread(1.0, 0.4) > 1.2 * spread(1.0, 0.2)


def test_a_dropped_context_is_zeros_and_knows_no_command(flow: TrajectoryFlow) -> None:
    batch = toy_batch(8, seed=3)
    assert batch.plan is not None
    dropped = torch.arange(8) < 4
    context = flow.context(batch.plan, None, dropped)
    assert not context[:4].any()
    assert torch.equal(context[4:], flow.context(batch.plan, None)[4:])
    other = replace(batch.plan, command=2 - batch.plan.command)
    for scale, equal in ((0.0, True), (1.0, False)):
        a = flow.propose(batch, 4, seeded(), cfg_scale=scale)
        b = flow.propose(Batch(plan=other), 4, seeded(), cfg_scale=scale)
        assert torch.equal(a, b) is equal


def test_all_contexts_dropped_leave_no_gradient_to_the_encoder() -> None:
    for p_drop, has_gradient in ((1.0, False), (0.0, True)):
        model = TrajectoryFlow(replace(TINY, p_drop_context=p_drop))
        batch = toy_batch(8)
        assert batch.plan is not None
        model.fit_statistics(batch.plan)
        torch.nn.init.normal_(model.head.project.weight, generator=seeded())
        model.training_loss(batch, "any", seeded()).total.backward()
        weight = model.embed_ego[0].weight
        assert isinstance(weight, torch.nn.Parameter)
        assert weight.grad is not None
        assert bool(weight.grad.any()) is has_gradient


def test_the_loss_is_beyonddrives_in_our_time(flow: TrajectoryFlow) -> None:
    """|x_hat - x| / max(t, 0.05): theirs is |(x_hat - z) - (x - z)| / max(1 - t, 0.05)."""
    z, x, guess = (torch.randn(2, 3, 32, generator=seeded(i)) for i in range(3))
    t = torch.tensor([[0.01, 0.05, 0.5], [1.0, 0.2, 0.04]])
    ours = (flow.velocity(z, guess, t) - flow.velocity(z, x, t)).abs()
    expected = (guess - x).abs() / t.clamp(min=0.05)[..., None]
    assert torch.allclose(ours, expected, rtol=1e-3, atol=1e-3)


def test_the_last_euler_step_lands_on_what_the_network_predicts(flow: TrajectoryFlow) -> None:
    batch = toy_batch(4)
    assert batch.plan is not None
    found = flow.propose(batch, 3, seeded(), cfg_scale=1, noise_scale=0.2, num_steps=1)
    noise = 0.2 * torch.randn(4, 3, 32, generator=seeded())
    context = flow.context(batch.plan, None)
    with torch.no_grad():
        x = flow.denoise(noise, torch.ones(4, 3), context)
    assert torch.allclose(found, flow.delta.inverse(x.unflatten(-1, (8, 4))), atol=1e-4)


def test_candidates_do_not_see_each_other(flow: TrajectoryFlow) -> None:
    batch = toy_batch(2)
    assert batch.plan is not None
    context = flow.context(batch.plan, None)
    z, t = torch.randn(2, 5, 32, generator=seeded()), torch.rand(2, 5, generator=seeded())
    with torch.no_grad():
        together = flow.denoise(z, t, context)
        alone = torch.cat([flow.denoise(z[:, i : i + 1], t[:, i : i + 1], context)
                           for i in range(5)], dim=1)  # fmt: skip
    assert torch.allclose(together, alone, atol=1e-5)


def test_a_generator_that_looks_uses_the_frame_of_now_and_none_after_it() -> None:
    config = replace(TINY, picture="frame", num_past=2, picture_size=(8, 12), picture_grid=(2, 2))
    batch = toy_batch(with_frames=True)
    model = fit_trajectory_flow(batch, seeded(), config=config, num_steps=300)
    test = toy_batch(64, seed=9, with_frames=True)
    assert test.frames is not None
    assert test.plan is not None
    assert test.plan.trajectory is not None
    found = model.plan(test, seeded())
    error = (found - test.plan.trajectory)[:, -1, 0].abs().mean()
    assert float(error) < 4.0  # half speed or full is 16 m apart on average
    future = test.frames.clone()
    future[:, :, 2] = 0
    assert torch.equal(found, model.plan(replace(test, frames=future), seeded()))
    with pytest.raises(ValueError, match=r"Expected 2 past frame .* found none"):
        model.plan(replace(test, frames=None), seeded())


def test_latents_can_be_looked_at_too() -> None:
    config = replace(TINY, picture="latents", picture_channels=5, picture_grid=(2, 2))
    batch = replace(toy_batch(16), latents=torch.randn(16, 1, 2, 5, 3, 4, generator=seeded()))
    model = fit_trajectory_flow(batch, seeded(), config=config, num_steps=2)
    assert model.propose(batch, 3, seeded()).shape == (16, 3, 8, 3)
    with pytest.raises(ValueError, match="3 picture_channels"):
        replace(config, picture="frame")


def test_it_is_a_planner_that_one_seed_makes_twice_and_a_file_keeps(tmp_path: Path) -> None:
    one, two = (fit_trajectory_flow(toy_batch(), seeded(4), config=TINY, num_steps=3) for _ in "ab")
    assert isinstance(one, Planner)
    batch = toy_batch(4)
    plan = one.plan(batch, seeded())
    assert plan.shape == (4, 8, 3)
    assert torch.equal(plan, two.plan(batch, seeded()))
    loaded = TrajectoryFlow.from_pretrained(one.save_pretrained(tmp_path))
    assert torch.equal(plan, loaded.plan(batch, seeded()))


def test_ghosts_do_not_train_and_nobody_to_imitate_is_refused() -> None:
    batch = toy_batch(8)
    assert batch.plan is not None
    model = TrajectoryFlow(TINY)
    model.fit_statistics(batch.plan)
    known = torch.arange(8) < 5
    spoilt = batch.plan.trajectory.clone() if batch.plan.trajectory is not None else None
    assert spoilt is not None
    spoilt[5:] = 77.0
    ghosts = replace(batch, plan=replace(batch.plan, has_trajectory=known, trajectory=spoilt))
    clean = replace(batch, plan=replace(batch.plan, has_trajectory=known))
    losses = [float(model.training_loss(b, "", seeded()).total.detach()) for b in (ghosts, clean)]
    assert losses[0] == losses[1]
    nobody = replace(batch, plan=replace(batch.plan, trajectory=None, has_trajectory=None))
    assert float(model.training_loss(nobody, "", seeded()).total.detach()) == 0
    with pytest.raises(ValueError, match="at least one plan sample with a trajectory"):
        fit_trajectory_flow(nobody, seeded(), config=TINY, num_steps=1)
