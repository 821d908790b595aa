"""Claims about clips of the driving world for planners."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from maskworld.preparation.collect import Drive, film, record_world
from maskworld.preparation.planning_clips import (
    LogFilm,
    MomentPlan,
    collect_planning_clips,
    collect_planning_pairs,
    expert_clip,
    moments,
    planning_clips_of_world,
)
from maskworld.types import Clip, collate
from maskworld.worlds.drive.ego import actions_of, rollout_poses, to_local, to_world

PLAN = MomentPlan(
    clips_per_world=4, num_past=3, num_future=2, size=(24, 36), num_steps=60, styles=("summer",)
)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return planning_clips_of_world((2, PLAN))


def now_of(clip: Clip) -> int:
    return int(clip.plan.token.split("/")[-1])


def test_expert_windows_equal_clips_filmed_on_their_own() -> None:
    scene = record_world(2, num_steps=60)
    shared = LogFilm(scene, style="dusk", style_seed=5, size=(24, 36))
    for now in (10, 12, 14):
        clip = expert_clip(shared, now, PLAN)
        poses = scene.poses[clip.start :: 2][:5]
        alone = Drive(poses, clip.actions.numpy(), clip.start, 2)
        frames, _ = film(scene, alone, style="dusk", style_seed=5, size=(24, 36))
        assert torch.equal(clip.frames, torch.from_numpy(frames))


def test_clips_end_their_past_at_the_moment_that_their_token_names(clips: list[Clip]) -> None:
    for clip in clips:
        assert clip.start + 2 * (PLAN.num_past - 1) == now_of(clip)
        assert clip.plan.token.startswith("drive/intersection/2/")
        assert clip.frames.shape == (1, 5, 3, 24, 36)
        assert clip.actions.shape == (5, 2)


def test_plan_is_the_logs_future_in_the_ego_frame_and_ghosts_have_none(clips: list[Clip]) -> None:
    scene = record_world(2, num_steps=60)
    for i, clip in enumerate(clips):
        if i % 2:
            assert clip.plan.trajectory is None
            continue
        now = now_of(clip)
        driven = to_world(clip.plan.trajectory.double().numpy(), scene.poses[now])
        np.testing.assert_allclose(driven, scene.poses[now + 5 : now + 41 : 5], atol=1e-4)


def test_ego_is_the_speed_and_acceleration_at_now(clips: list[Clip]) -> None:
    scene = record_world(2, num_steps=60)
    for clip in clips:
        now = now_of(clip)
        speed, yaw_rate = scene.actions[now]
        expected = [speed, 0.0, (speed - scene.actions[now - 1, 0]) * 10, speed * yaw_rate]
        np.testing.assert_allclose(clip.plan.ego.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_actions_lead_through_the_log_until_now_for_ghosts_too(clips: list[Clip]) -> None:
    scene = record_world(2, num_steps=60)
    for i, clip in enumerate(clips):
        start = clip.start
        past = clip.actions[:3].double().numpy()
        np.testing.assert_allclose(
            past, actions_of(scene.poses[start - 2 : start + 5 : 2], 5), atol=1e-5
        )
        future = rollout_poses(scene.poses[now_of(clip)], clip.actions[3:].double().numpy(), 5)
        log = scene.poses[now_of(clip) : now_of(clip) + 5 : 2]
        if i % 2 == 0:
            np.testing.assert_allclose(future, log, atol=1e-2)
        else:
            assert np.abs(future - log).max() > 0.1


def test_what_is_known_at_now_does_not_change_with_what_follows() -> None:
    """Two worlds that part after now: a shorter future, an expert and a ghost, share the rest."""
    scene = record_world(3, num_steps=60)
    shared = LogFilm(scene, style="summer", style_seed=1, size=(24, 36))
    expert = expert_clip(shared, 10, PLAN)
    later = replace(scene, poses=scene.poses.copy(), agents=scene.agents.copy())
    later.poses[11:] += np.arange(49)[:, None] * (0.3, 0.4, 0.02)
    later.agents[11:, :, :2] += 3.0
    other = expert_clip(LogFilm(later, style="summer", style_seed=1, size=(24, 36)), 10, PLAN)
    assert torch.equal(expert.frames[:, :3], other.frames[:, :3])
    assert torch.equal(expert.actions[:3], other.actions[:3])
    assert torch.equal(expert.plan.ego, other.plan.ego)
    assert (expert.caption, expert.plan.command) == (other.caption, other.plan.command)
    assert not torch.equal(expert.frames[:, 3:], other.frames[:, 3:])
    assert not torch.equal(expert.plan.trajectory, other.plan.trajectory)


def test_sides_of_a_pair_share_their_past_bit_for_bit_and_turn_apart() -> None:
    left, right = collect_planning_pairs([1, 2], 4, PLAN)
    assert len(left) == len(right) == 4
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a.frames[:, :3], b.frames[:, :3])
        assert torch.equal(a.actions[:3], b.actions[:3])
        assert torch.equal(a.actions[3:, 1], -b.actions[3:, 1])
        assert (a.actions[3:, 1] > 0).all()
        assert not torch.equal(a.frames[:, 3:], b.frames[:, 3:])
        assert torch.equal(a.plan.ego, b.plan.ego)
        assert a.plan.token == b.plan.token
        assert a.plan.trajectory is None


def test_clips_depend_on_the_seeds_and_not_on_the_workers() -> None:
    settings = {
        "num_past": 2,
        "num_future": 1,
        "size": (16, 24),
        "num_steps": 50,
        "styles": ("summer", "night"),
    }
    one = collect_planning_clips([4, 5], 2, **settings, num_workers=1)
    two = collect_planning_clips([4, 5], 2, **settings, num_workers=2)
    other = collect_planning_clips([4, 5], 2, **settings, seed=1)
    assert [c.plan.token for c in one] == [c.plan.token for c in two]
    assert all(torch.equal(a.frames, b.frames) for a, b in zip(one, two, strict=True))
    assert not all(torch.equal(a.frames, b.frames) for a, b in zip(one, other, strict=True))


def test_a_batch_of_clips_says_which_rows_have_an_expert(clips: list[Clip]) -> None:
    batch = collate(clips)
    assert batch.plan.has_trajectory.tolist() == [True, False, True, False]
    assert batch.plan.trajectory.shape == (4, 8, 3)


def test_kinds_take_turns_and_experts_can_be_alone() -> None:
    few = replace(PLAN, clips_per_world=3, size=(8, 12), num_future=0, kinds=("expert",))
    alone = planning_clips_of_world((2, few))
    assert all(clip.plan.trajectory is not None for clip in alone)
    assert len({clip.plan.token for clip in alone}) == 3
    assert alone[0].frames.shape[1] == 3


def test_a_recording_that_is_too_short_is_refused() -> None:
    scene = record_world(1, num_steps=40)
    with pytest.raises(ValueError, match="at least 47 steps"):
        moments(scene, PLAN)
    with pytest.raises(ValueError, match="at most"):
        planning_clips_of_world((1, replace(PLAN, clips_per_world=40)))


def test_local_and_world_frames_are_inverse() -> None:
    rng = np.random.default_rng(0)
    poses, origin = rng.normal(size=(6, 3)) * 10, rng.normal(size=3)
    np.testing.assert_allclose(to_world(to_local(poses, origin), origin), poses, atol=1e-12)
    ahead = origin + np.array([np.cos(origin[2]), np.sin(origin[2]), 0.0])
    np.testing.assert_allclose(to_local(ahead[None], origin), [[1, 0, 0]], atol=1e-12)
