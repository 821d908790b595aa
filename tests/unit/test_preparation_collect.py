"""Claims about collecting clips of the driving world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from maskworld.data.lerobot import LeRobotSource
from maskworld.preparation.collect import collect_clips, collect_drive, record_world, sample_clip
from maskworld.types import Clip
from maskworld.worlds.drive import CLASSES, rollout_poses

SMALL = {"num_frames": 3, "size": (32, 48), "num_steps": 40}


@pytest.mark.slow
def test_clips_do_not_depend_on_the_number_of_workers() -> None:
    one = collect_clips([0, 2], 2, **SMALL, num_workers=1)
    assert_equal(one, collect_clips([0, 2], 2, **SMALL, num_workers=2))


def test_clips_do_not_depend_on_what_was_built_before() -> None:
    # highway-env's intersection (world 2) rewrites constants of its drivers for the whole process.
    first = collect_clips([0], 2, **SMALL)
    collect_clips([2], 1, **SMALL)
    assert_equal(first, collect_clips([0], 2, **SMALL))


def assert_equal(one: list[Clip], two: list[Clip]) -> None:
    assert [clip.caption for clip in one] == [clip.caption for clip in two]
    for a, b in zip(one, two):
        assert torch.equal(a.frames, b.frames)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.actions, b.actions)


def test_clips_carry_their_world_and_half_are_ghosts() -> None:
    clips = collect_clips([7], 4, **SMALL)
    assert {clip.episode for clip in clips} == {7}
    assert clips[0].frames.shape == (1, 3, 3, 32, 48)
    assert clips[0].labels.shape == (1, 3, 32, 48)
    assert clips[0].actions.shape == (3, 2)


def test_a_scene_too_short_for_the_clip_says_how_long_it_must_be() -> None:
    scene = record_world(0, num_steps=6)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="Expected at least 19 steps for 9 frames at 5 Hz"):
        sample_clip(scene, rng, num_frames=9, size=(32, 48), style="summer", kind="ghost")


def test_a_dataset_holds_the_drives_with_everything_exact(tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    root = collect_drive(
        tmp_path / "set",
        num_worlds=2,
        episodes_per_world=2,
        num_frames=4,
        size=(24, 36),
        seed=5,
        num_cameras=2,
        report=lambda done, total: reports.append((done, total)),
    )
    source = LeRobotSource(root)
    assert reports == [(1, 2), (2, 2)]
    assert len(source) == 4
    assert source.label_names == list(CLASSES)
    assert [int(source.episode(i).extra("world")[0]) for i in range(4)] == [5, 5, 6, 6]
    for i in range(4):
        episode = source.episode(i)
        state, actions = episode.extra("ego"), episode.actions
        assert episode.read([0, 3]).shape == (2, 2, 3, 24, 36)
        assert episode.read_labels([0]).max() < len(CLASSES)
        # The actions lead from each stored pose to the next.
        poses = rollout_poses(state[0, :3].astype(float), actions[1:].astype(float), 5)
        np.testing.assert_allclose(poses, state[:, :3], atol=0.02)


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        collect_drive(tmp_path / "set", num_worlds=1, episodes_per_world=1, num_frames=3)


def test_wrong_numbers_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected num_worlds of at least 1, found 0"):
        collect_drive(tmp_path / "set", num_worlds=0)
    with pytest.raises(ValueError, match="Expected a frame rate that divides 10, found 3"):
        collect_drive(tmp_path / "set", num_worlds=1, fps=3)
    assert not (tmp_path / "set").exists()
