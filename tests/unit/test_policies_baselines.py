"""Claims about planners that need no picture."""

from __future__ import annotations

import math

import pytest
import torch

from maskworld.interfaces import Planner
from maskworld.policies import (
    ConstantTurnRate,
    ConstantVelocity,
    EgoStatusConfig,
    EgoStatusPlanner,
    FramePlanner,
    FramePlannerConfig,
    KnownPlans,
    RandomPlans,
    StandStill,
    fit_ego_status,
)
from maskworld.types import Batch, PlanBatch


def batch_of(ego: list[list[float]], **more: object) -> Batch:
    plans = PlanBatch(torch.tensor(ego), torch.ones(len(ego), dtype=torch.long), **more)
    return Batch(plan=plans)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_all_of_them_are_planners() -> None:
    known = KnownPlans({"a": torch.zeros(8, 3)})
    ego = EgoStatusPlanner(EgoStatusConfig())
    random = RandomPlans(torch.zeros(2, 8, 3))
    frames = FramePlanner(FramePlannerConfig())
    for planner in (
        ConstantVelocity(),
        ConstantTurnRate(),
        StandStill(),
        random,
        known,
        ego,
        frames,
    ):
        assert isinstance(planner, Planner)


def test_constant_velocity_is_a_straight_line_of_half_second_steps() -> None:
    plan = ConstantVelocity().plan(batch_of([[6.0, 0.0, 1.0, 2.0]]), generator())
    assert torch.allclose(plan[0, :, 0], torch.arange(1, 9) * 3.0)
    assert not plan[..., 1:].any()


def test_constant_turn_rate_closes_a_circle_and_is_straight_at_rest() -> None:
    rate, speed = math.pi / 2, 4.0  # a full turn in 4 s
    plan = ConstantTurnRate().plan(
        batch_of([[speed, 0.0, 0.0, speed * rate], [0.1, 0.0, 0.0, 1.0]]), generator()
    )
    radius = speed / rate
    assert torch.allclose(plan[0, 7], torch.tensor([0.0, 0.0, 2 * math.pi]), atol=1e-5)
    assert torch.allclose(plan[0, 3], torch.tensor([0.0, 2 * radius, math.pi]), atol=1e-5)
    assert not plan[1, :, 2].any()


def test_random_plans_are_rows_of_the_training_set_and_follow_the_generator() -> None:
    rows = torch.arange(5.0)[:, None, None].expand(5, 8, 3)
    batch = batch_of([[1.0, 0.0, 0.0, 0.0]] * 20)
    one, two = (RandomPlans(rows).plan(batch, generator(3)) for _ in range(2))
    assert torch.equal(one, two)
    assert len(one[:, 0, 0].unique()) > 2
    with pytest.raises(ValueError, match="at least one trajectory"):
        RandomPlans(rows[:0])


def test_known_plans_are_found_by_token_and_missing_ones_named() -> None:
    plans = {"a": torch.zeros(8, 3), "b": torch.ones(8, 3)}
    batch = batch_of([[1.0, 0.0, 0.0, 0.0]] * 2, tokens=["b", "a"])
    assert KnownPlans(plans).plan(batch, generator())[:, 0, 0].tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match="'c'"):
        KnownPlans(plans).plan(batch_of([[1.0, 0.0, 0.0, 0.0]], tokens=["c"]), generator())


def samples(n: int = 200) -> PlanBatch:
    """Arcs whose direction only the command tells."""
    draw = generator(1)
    ego = torch.rand(n, 4, generator=draw) * torch.tensor([10.0, 0.0, 1.0, 0.0])
    command = torch.randint(0, 3, (n,), generator=draw)
    time = 0.5 * torch.arange(1, 9)
    turn = (1.0 - command.float())[:, None] * 0.2 * time
    trajectory = torch.stack([ego[:, :1] * time, ego[:, :1] * time * turn / 2, turn], dim=-1)
    has = torch.arange(n) % 2 == 0
    trajectory = torch.where(has[:, None, None], trajectory, torch.full_like(trajectory, 1e3))
    return PlanBatch(ego, command, trajectory, has)


def test_ego_status_planner_learns_from_speed_and_command_and_skips_ghosts() -> None:
    plans = samples()
    planner = fit_ego_status(plans, generator(), num_steps=300)
    rows = plans.has_trajectory
    error = (planner.plan(Batch(plan=plans), generator()) - plans.trajectory)[rows].abs().mean()
    mean = (plans.trajectory[rows].mean(0) - plans.trajectory[rows]).abs().mean()
    assert error < 0.15 * mean


def test_ego_status_planner_depends_on_its_seed_alone() -> None:
    plans = samples()
    torch.manual_seed(1)
    one = fit_ego_status(plans, generator(4), num_steps=5)
    torch.manual_seed(2)
    two = fit_ego_status(plans, generator(4), num_steps=5)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)


def test_ego_status_loss_ignores_rows_without_expert_and_batches_of_ghosts_alone() -> None:
    plans = samples()
    planner = EgoStatusPlanner(EgoStatusConfig())
    planner.statistics.fit(plans)
    rows = plans.has_trajectory
    known = PlanBatch(plans.ego[rows], plans.command[rows], plans.trajectory[rows])
    whole = planner.training_loss(Batch(plan=plans), "planner", generator()).total
    part = planner.training_loss(Batch(plan=known), "planner", generator()).total
    assert torch.allclose(whole, part)
    ghosts = PlanBatch(plans.ego, plans.command)
    nothing = planner.training_loss(Batch(plan=ghosts), "planner", generator()).total
    nothing.backward()
    assert nothing == 0
    assert not any(p.grad.any() for p in planner.parameters())
    with pytest.raises(ValueError, match="collect expert clips"):
        fit_ego_status(ghosts, generator())


def seen_batch(n: int = 24) -> Batch:
    """Plans that a bright stripe in the last past frame tells: where it stands is where to go."""
    draw = generator(2)
    frames = torch.randint(0, 60, (n, 1, 5, 3, 16, 32), generator=draw).to(torch.uint8)
    place = torch.randint(0, 32, (n,), generator=draw)
    for i, x in enumerate(place.tolist()):
        frames[i, :, 2, :, :, x] = 255
    plans = batch_of([[5.0, 0.0, 0.0, 0.0]] * n).plan
    trajectory = torch.zeros(n, 8, 3)
    trajectory[..., 1] = place[:, None] * torch.arange(1, 9)
    return Batch(frames=frames, plan=PlanBatch(plans.ego, plans.command, trajectory))


FRAMES = FramePlannerConfig(frame_size=(16, 32), num_past=3, seen=(0, 2), dim=8)


def test_frame_planner_learns_what_only_the_picture_tells() -> None:
    torch.manual_seed(0)
    batch, planner = seen_batch(), FramePlanner(FRAMES)
    planner.statistics.fit(batch.plan)
    optimizer = torch.optim.AdamW(planner.parameter_groups("planner"), lr=3e-3)
    first = planner.training_loss(batch, "planner", generator()).total
    for _ in range(120):
        optimizer.zero_grad()
        loss = planner.training_loss(batch, "planner", generator()).total
        loss.backward()
        optimizer.step()
    assert loss < 0.2 * first


def test_frame_planner_reads_its_past_frames_and_none_after() -> None:
    batch, planner = seen_batch(), FramePlanner(FRAMES)
    plan = planner.plan(batch, generator())
    for frame, is_read in ((0, True), (1, False), (2, True), (3, False), (4, False)):
        changed = batch.frames.clone()
        changed[:, :, frame] = 255 - changed[:, :, frame]
        again = planner.plan(Batch(frames=changed, plan=batch.plan), generator())
        assert torch.equal(again, plan) != is_read
    short = Batch(frames=batch.frames[:, :, :3], plan=batch.plan)
    assert torch.equal(planner.plan(short, generator()), plan)
    with pytest.raises(ValueError, match="at least 3 frames"):
        planner.plan(Batch(frames=batch.frames[:, :, :2], plan=batch.plan), generator())


def test_a_batch_without_plans_is_refused() -> None:
    with pytest.raises(ValueError, match="plan samples"):
        ConstantVelocity().plan(Batch(), generator())
