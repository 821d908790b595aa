"""Plan samples from timed poses: by time stamp, in the ego frame, never from the future."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from maskworld.data.episodes import ArrayEpisode, ListSource
from maskworld.data.resampling import ResampledEpisode, ResampledSource, resample_frames
from maskworld.data.trajectories import (
    LEFT,
    RIGHT,
    STRAIGHT,
    UNKNOWN,
    TimedPoses,
    UncutMoment,
    command_from_route,
    ego_status,
    from_ego_frame,
    headings,
    plan_sample,
    plan_samples,
    speed_and_yaw_rate,
    to_ego_frame,
)

SPEED, YAW_RATE = 8.0, 0.2


def circle(time: np.ndarray, start: float = 3.0) -> np.ndarray:
    """Poses of a constant left turn whose heading passes through pi and is wrapped."""
    heading = start + YAW_RATE * time
    radius = SPEED / YAW_RATE
    wrapped = (heading + np.pi) % (2 * np.pi) - np.pi
    return np.stack([600 + radius * np.sin(heading), -radius * np.cos(heading), wrapped], axis=1)


def jittered(seconds: float = 10.0, fps: float = 12.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    step = 1 / fps
    return np.arange(0, seconds, step) + rng.uniform(0, step / 3, int(np.ceil(seconds / step)))


def test_waypoints_are_at_their_times_whatever_the_times_of_the_frames() -> None:
    """A turn through pi at 0.7 s, irregular stamps: only interpolation by time gives the circle."""
    time = jittered()
    sample = plan_sample(TimedPoses(time, circle(time)), 0.5, command=LEFT, token="scene")
    turned = YAW_RATE * 0.5 * np.arange(1, 9)
    radius = SPEED / YAW_RATE
    expected = np.stack([radius * np.sin(turned), radius * (1 - np.cos(turned)), turned], axis=1)
    assert sample.trajectory is not None
    # Chords lie inside the circle by s^2 / 8 r, 0.3 cm at a tenth of a second.
    np.testing.assert_allclose(sample.trajectory, expected, atol=6e-3)
    assert (sample.command, sample.token) == (LEFT, "scene")


def test_the_frame_of_the_map_does_not_matter() -> None:
    time = jittered()
    poses = circle(time)
    moved = from_ego_frame(poses, np.array([1e5, -3e4, 2.1]))
    one, other = (plan_sample(TimedPoses(time, p), 3.1) for p in (poses, moved))
    assert one.trajectory is not None
    assert other.trajectory is not None
    np.testing.assert_allclose(one.trajectory, other.trajectory, atol=1e-5)
    np.testing.assert_allclose(one.ego, other.ego, atol=1e-4)


def test_the_ego_frame_and_back() -> None:
    poses = circle(np.arange(5.0))
    origin = poses[2]
    there = to_ego_frame(poses, origin)
    np.testing.assert_allclose(there[2], 0, atol=1e-12)
    np.testing.assert_allclose(from_ego_frame(there, origin), poses)
    assert there[3, 0] > 0 > there[1, 0]  # what comes is in front
    assert there[3, 1] > 0  # and to the left


def test_the_status_of_a_turn_is_speed_and_centripetal_acceleration() -> None:
    time = jittered()
    ego = ego_status(TimedPoses(time, circle(time)), 5.0)
    np.testing.assert_allclose(ego[:2], [SPEED, 0], atol=0.03)
    np.testing.assert_allclose(ego[2:], [0, SPEED * YAW_RATE], atol=0.15)


def test_the_status_never_looks_ahead() -> None:
    """A wall of braking after now must not be felt before it."""
    time = np.arange(0, 10, 0.05)
    calm = np.stack([SPEED * time, 0 * time, 0 * time], axis=1)
    jolted = calm.copy()
    jolted[time > 5.0] += [30.0, 5.0, 1.0]
    for velocity in (None, np.tile([SPEED, 0.0], (len(time), 1))):
        changed = None if velocity is None else velocity + 9.0 * (time > 5.0)[:, None]
        before = ego_status(TimedPoses(time, calm, velocity), time[100])
        after = ego_status(TimedPoses(time, jolted, changed), time[100])
        np.testing.assert_allclose(before, after, atol=1e-9)
        np.testing.assert_allclose(before, [SPEED, 0, 0, 0], atol=1e-6)


def test_recorded_status_is_used_as_it_stands() -> None:
    time = np.arange(0, 10, 0.1)
    velocity = np.stack([time, 0 * time + 0.5], axis=1)
    acceleration = np.stack([0 * time + 1, -time], axis=1)
    poses = TimedPoses(time, circle(time), velocity, acceleration)
    np.testing.assert_allclose(ego_status(poses, 0.0), [0, 0.5, 1, 0])
    np.testing.assert_allclose(ego_status(poses, 4.25), [4.25, 0.5, 1, -4.25])


def test_acceleration_from_recorded_velocities_turns_with_the_car() -> None:
    time = np.arange(0, 10, 0.05)
    velocity = np.tile([SPEED, 0.0], (len(time), 1))
    ego = ego_status(TimedPoses(time, circle(time), velocity), 5.0)
    np.testing.assert_allclose(ego[:2], [SPEED, 0])
    np.testing.assert_allclose(ego[2:], [0, SPEED * YAW_RATE], atol=0.1)


def test_moments_that_give_no_sample_say_why() -> None:
    time = np.concatenate([np.arange(0, 6, 0.1), np.arange(6.5, 12, 0.1)])
    poses = TimedPoses(time, circle(time), name="log 7")
    with pytest.raises(UncutMoment, match=r"log 7: expected a pose every 0\.3 s"):
        plan_sample(poses, 4.0)
    with pytest.raises(UncutMoment, match=r"found the last at 11\.9"):
        plan_sample(poses, 8.5)
    with pytest.raises(UncutMoment, match="expected 3 poses or more"):
        plan_sample(poses, 0.1)
    with pytest.raises(UncutMoment, match="asked for -1"):
        plan_sample(poses, -1.0)
    plan_sample(poses, 4.0, max_gap=0.7)
    plan_sample(poses, 1.0)  # its last waypoint is at 5 s, before the gap
    moments = [-1.0, 0.1, 1.0, 4.0, 6.8, 8.5, 20.0]
    with pytest.raises(ValueError, match="log 7"):
        plan_samples(poses, moments)
    cut = plan_samples(poses, moments, skip=True, commands=[0, 0, 1, 0, 2, 0, 0])
    assert cut.moments.tolist() == [1.0, 6.8]
    assert [sample.command for sample in cut.samples] == [1, 2]
    assert cut.skipped == {
        "outside the drive": 2,
        "too little past": 1,
        "gap": 1,
        "future too short": 1,
    }


def test_a_gap_between_two_waypoints_is_refused_too() -> None:
    time = np.concatenate([np.arange(0, 3.05, 0.1), np.arange(3.45, 9, 0.1)])
    with pytest.raises(UncutMoment, match=r"gap of 0\.4"):
        plan_sample(TimedPoses(time, circle(time)), 1.0)


def test_broken_recordings_are_refused_with_their_row() -> None:
    time = np.arange(0, 10, 0.1)
    poses = circle(time)
    for row, wrong in ((7, time[6]), (7, time[3])):
        stamps = time.copy()
        stamps[row] = wrong
        with pytest.raises(ValueError, match=r"log: expected increasing time stamps.*row 7"):
            TimedPoses(stamps, poses, name="log")
    poses[4, 1] = np.nan
    with pytest.raises(ValueError, match="pose of row 4 is NaN"):
        TimedPoses(time, poses)
    with pytest.raises(ValueError, match="at least 2 poses"):
        TimedPoses(time[:1], circle(time[:1]))


def test_commands_follow_the_route_and_not_the_drive() -> None:
    s = np.arange(0, 100.0)
    straight = np.stack([s, 0 * s], axis=1)
    left = np.stack([s, np.maximum(s - 20, 0) ** 2 / 40], axis=1)
    here = np.array([18.0, 0.3, 0.02])
    assert command_from_route(straight, here) == STRAIGHT
    assert command_from_route(left, here) == LEFT
    assert command_from_route(left * [1, -1], here) == RIGHT
    assert command_from_route(left, np.array([5.0, 0.0, 0.0])) == STRAIGHT  # 25 m ahead: 0.6 m
    # Facing 30 degrees off the lane is no turn of the route.
    assert command_from_route(straight, np.array([18.0, 0.0, 0.5])) == STRAIGHT
    assert command_from_route(straight, np.array([85.0, 0.0, 0.0])) == UNKNOWN  # it ends
    assert command_from_route(straight, np.array([18.0, 30.0, 0.0])) == UNKNOWN  # not on it
    assert command_from_route(straight, np.array([50.0, 0.0, 3.1])) == UNKNOWN  # against it
    turned = from_ego_frame(np.column_stack([left, 0 * s]), np.array([10.0, 20.0, 2.0]))[:, :2]
    assert command_from_route(turned, from_ego_frame(here[None], np.array([10.0, 20, 2]))[0]) == 0


def test_yaw_of_a_quaternion_of_any_length() -> None:
    yaw = np.array([-3.0, 0.2, 1.0, 3.1])
    q = np.stack([np.cos(yaw / 2), 0 * yaw, 0 * yaw, np.sin(yaw / 2)], axis=1)
    np.testing.assert_allclose(headings(q), yaw)
    np.testing.assert_allclose(headings(-2 * q), yaw)


# resampling


def test_eight_hertz_from_twelve_takes_the_nearest_frames() -> None:
    time = np.arange(0, 5, 1 / 12)
    (run,) = resample_frames(time, 8.0)
    assert run[:5].tolist() == [0, 1, 3, 4, 6]  # 1.5 source frames a step; ties to the earlier
    wanted = np.arange(len(run)) / 8
    assert np.abs(time[run] - wanted).max() <= 1 / 24 + 1e-9
    (tenth,) = resample_frames(np.arange(0, 5, 0.1), 8.0)
    assert tenth[:6].tolist() == [0, 1, 2, 4, 5, 6]


def test_resampling_does_not_drift() -> None:
    """Ten minutes of a camera of 11.9 Hz: counting frames would be 5 s off at the end."""
    time = np.arange(0, 600, 1 / 11.9)
    (run,) = resample_frames(time, 8.0)
    assert np.abs(time[run] - np.arange(len(run)) / 8).max() < 0.043
    np.testing.assert_allclose(len(run), 600 * 8, atol=1)


def test_a_hole_ends_a_run_and_a_small_one_does_not() -> None:
    time = np.arange(0, 5, 1 / 12)
    (whole,) = resample_frames(np.delete(time, 2), 8.0)  # never wanted
    assert len(whole) == 40
    first, second = resample_frames(np.delete(time, slice(12, 20)), 8.0)
    assert (first[0], first[-1], second[0]) == (0, 10, 12)  # resumes at the first frame after
    assert len(resample_frames(time, 8.0, tolerance=0.01)) > 5  # what was asked for is kept


def test_frames_are_not_invented() -> None:
    with pytest.raises(ValueError, match=r"8 Hz or more, found 2\.00 Hz"):
        resample_frames(np.arange(0, 5, 0.5), 8.0)
    with pytest.raises(ValueError, match="increasing"):
        resample_frames(np.array([0, 0.1, 0.1]), 8.0)
    assert resample_frames(np.zeros(0), 8.0) == []


def stamped(num_frames: int = 48) -> Any:
    """12 Hz, odd frames 5 ms late; grey value and speed of frame i are i; a cut after 23."""
    frames = np.zeros((1, num_frames, 3, 4, 4), np.uint8)
    frames += np.arange(num_frames, dtype=np.uint8)[None, :, None, None, None]
    speed = np.arange(num_frames, dtype=np.float32)
    episode: Any = ArrayEpisode(
        frames, fps=12.0, actions=np.stack([speed, -speed], 1), segments=[(0, 24), (24, num_frames)]
    )
    late = 5_000 * (np.arange(num_frames) % 2)
    episode.timestamps = (np.arange(num_frames) * 1e6 / 12 + 1.5e15 + late).astype(np.int64)
    return episode


def test_a_resampled_episode_shows_the_right_frames_within_its_cuts() -> None:
    source = ResampledSource(ListSource([stamped()], "twelve"), 8.0)
    episode = source.episode(0)
    assert (episode.fps, source.name, len(source)) == (8.0, "twelve", 1)
    assert episode.segments == [(0, 16), (16, 32)]
    assert episode.source_indices[[0, 15, 16]].tolist() == [0, 22, 24]
    assert episode.read([2, 16])[0, :, 0, 0, 0].tolist() == [3, 24]


def test_resampled_actions_cover_the_same_way() -> None:
    """Speed times time, summed over the frames of a segment, is what the recording has."""
    recorded = stamped()
    episode = ResampledEpisode(recorded, 8.0)
    assert episode.actions is not None
    last = int(episode.source_indices[15])
    way = (episode.actions[1:16, 0] * np.diff(episode.timestamps[:16]) / 1e6).sum()
    seconds = np.diff(recorded.timestamps[: last + 1]) / 1e6
    expected = (recorded.actions[1 : last + 1, 0] * seconds).sum()
    np.testing.assert_allclose(way, expected, rtol=1e-6)
    np.testing.assert_allclose(episode.actions[16], recorded.actions[24])


def test_only_recordings_with_stamps_are_resampled() -> None:
    with pytest.raises(ValueError, match="time stamps"):
        ResampledEpisode(ArrayEpisode(np.zeros((1, 3, 3, 4, 4), np.uint8)), 8.0)


def test_speed_backwards_is_negative() -> None:
    time = np.arange(0, 3, 0.1)
    rows = speed_and_yaw_rate(time, np.stack([-2 * time, 0 * time, 0 * time], axis=1))
    np.testing.assert_allclose(rows, np.tile([-2.0, 0.0], (30, 1)), atol=1e-5)
