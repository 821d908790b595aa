"""Clips of robot episodes: the frames and rows they hold, never open, refuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskworld.data.control import ControlClips, ControlWindow, MemoryPick
from maskworld.data.control_statistics import ControlStatistics, control_statistics
from maskworld.data.episodes import ArrayEpisode, ListSource
from maskworld.data.lerobot_reader import LeRobotSource
from maskworld.data.lerobot_writer import LeRobotWriter
from maskworld.data.loader import make_loader
from maskworld.data.transforms import ColorJitter, RecolorRegions, ResizeCrop
from maskworld.data.windows import split_by_episode, split_by_time

EVERY = ControlWindow(MemoryPick(3, "every", stride=5), num_future=2, frame_stride=3, chunk=6)


@dataclass
class RobotEpisode(ArrayEpisode):
    """Frame i is grey of value i, of class i % 7; the action that leads into it is i, its state
    -i."""

    state: Any = None


class RobotSource(ListSource):
    views = ("front", "wrist")
    action_names = ("dx", "grip")
    label_names = tuple("abcdefg")


def robot_episode(length: int = 20, **changes: Any) -> RobotEpisode:
    number = np.arange(length)
    grey = np.broadcast_to(number[None, :, None, None, None], (2, length, 3, 4, 6))
    episode = RobotEpisode(
        frames=grey.astype(np.uint8),
        labels=(grey[:, :, 0] % 7).astype(np.uint8),
        actions=np.stack([number, 0.5 * number], axis=1).astype(np.float32),
        state=-np.stack([number] * 3, axis=1).astype(np.float32),
        caption="press the button",
        fps=20,
    )
    return replace(episode, segments=(), **changes) if changes else episode


def robots(*episodes: RobotEpisode) -> RobotSource:
    return RobotSource(episodes or [robot_episode()], "robots")


def values(frames: torch.Tensor | None) -> list[int]:
    assert frames is not None
    return frames.flatten(2)[0, :, 0].tolist()


def test_a_clip_holds_memory_future_masks_and_the_chunk_from_now() -> None:
    clips = ControlClips(robots(), EVERY, reads_labels=True)
    assert len(clips) == 19  # the last frame has no next
    clip = clips[8]
    assert clips.moment(8) == (0, 8)
    assert values(clip.frames) == [0, 3, 8]  # 8 - 10 is before the episode: its first frame
    assert values(clip.labels) == [11 % 7, 14 % 7]
    assert clip.labels is not None
    assert clip.labels.shape == (2, 2, 4, 6)
    assert clip.control is not None
    assert clip.control.state.tolist() == [-8.0] * 3
    # Row t leads into frame t: the action applied at frame 8 is row 9.
    assert clip.control.actions[:, 0].tolist() == [9, 10, 11, 12, 13, 14]
    assert clip.control.states[:, 0].tolist() == [-9, -10, -11, -12, -13, -14]
    assert clip.control.is_real.all()
    assert (clip.caption, clip.start) == ("press the button", 8)
    assert clip.fps == pytest.approx(20 / 3)


def test_default_future_frames_are_every_fourth_of_36_as_in_ge_act() -> None:
    window = ControlWindow()
    assert window.future(now=99, last=500) == [100 + i for i in (3, 7, 11, 15, 19, 23, 27, 31, 35)]
    assert (window.memory.num_frames, window.chunk, window.span) == (4, 36, 36)


def test_the_rgb_target_follows_the_memory_frames() -> None:
    clip = ControlClips(robots(), EVERY, reads_future=True)[8]
    assert values(clip.frames) == [0, 3, 8, 11, 14]
    assert clip.labels is None


def test_chunks_beyond_the_end_repeat_the_last_row_and_say_so() -> None:
    clip = ControlClips(robots(), EVERY, reads_labels=True)[17]
    assert clip.control is not None
    assert clip.control.actions[:, 0].tolist() == [18, 19, 19, 19, 19, 19]
    assert clip.control.states[:, 0].tolist() == [-18, -19, -19, -19, -19, -19]
    assert clip.control.is_real.tolist() == [True, True, False, False, False, False]
    assert values(clip.labels) == [19 % 7, 19 % 7]
    whole = ControlClips(robots(), EVERY, allows_padding=False)
    assert len(whole) == 14
    last = whole[13].control
    assert last is not None
    assert last.is_real.all()
    assert last.actions[-1, 0] == 19


def test_random_memory_is_sorted_within_its_window_and_never_repeats_inside() -> None:
    pick = MemoryPick(4, "random", window=10, before=2)
    rng = np.random.default_rng(0)
    seen: set[int] = set()
    for _ in range(300):
        *past, now = pick.indices(30, rng)
        assert now == 30
        assert sorted(set(past)) == past
        seen |= set(past)
    assert seen == set(range(20, 30))
    # Near the start the first frame stands in for what lies before it, and at it for everything.
    early = [pick.indices(6, rng, first=5) for _ in range(20)]
    assert all(min(found) >= 5 and found[-1] == 6 for found in early)
    assert pick.indices(5, rng, first=5) == [5, 5, 5, 5]
    assert MemoryPick(4, "every", stride=5).indices(12) == [0, 2, 7, 12]
    with pytest.raises(ValueError, match="pass rng"):
        pick.indices(6)


def test_clips_are_a_pure_function_of_number_and_seed() -> None:
    window = replace(EVERY, memory=MemoryPick(3, window=12))
    clips = ControlClips(robots(), window, transforms=[ColorJitter(hue=0.1, per_view=True)])
    again = clips.get(15, seed=3).frames
    assert again is not None
    first = clips.get(15, seed=3).frames
    assert first is not None
    assert torch.equal(first, again)
    assert not torch.equal(first, clips.get(15, seed=4).frames)  # type: ignore[arg-type]


@dataclass
class Sealed(RobotEpisode):
    """Raises where a mask, or a frame after `now`, is opened."""

    now: int = 0

    def read(self, indices: Sequence[int]) -> np.ndarray:
        assert max(indices) <= self.now, f"frame {max(indices)} was opened"
        return super().read(indices)

    def read_labels(self, indices: Sequence[int]) -> np.ndarray | None:
        raise AssertionError("a mask was opened")


def test_stage_two_opens_no_mask_and_no_future_frame() -> None:
    plain = robot_episode()
    sealed = Sealed(**{k: v for k, v in vars(plain).items() if k != "num_frames"}, now=8)
    batch = next(make_loader([ControlClips(robots(sealed), EVERY, ranges={0: [(8, 10)]})],
                             batch_size=1))  # fmt: skip
    assert batch.labels is None
    assert batch.control is not None
    for switch in ({"reads_labels": True}, {"reads_future": True}):
        with pytest.raises(AssertionError, match="was opened"):
            ControlClips(robots(sealed), EVERY, **switch)[8]  # type: ignore[arg-type]


def test_recoloring_paints_its_classes_alone_and_keeps_masks_to_itself() -> None:
    episode = robot_episode(frames=np.full((2, 20, 3, 4, 6), 90, dtype=np.uint8))
    assert episode.labels is not None
    episode.labels[:] = 1
    episode.labels[..., :3] = 5
    recolor = RecolorRegions(classes=(5,), p=1.0)
    clip = ControlClips(robots(episode), EVERY, recolor=recolor, reads_future=True).get(9, seed=1)
    assert clip.labels is None
    assert clip.frames is not None
    assert (clip.frames[..., 3:] == 90).all()
    painted = clip.frames[..., :3]
    assert not (painted == 90).any(dim=2).any()
    assert torch.equal(painted, painted[:1, :1, :, :1, :1].expand_as(painted))  # one colour
    never = ControlClips(robots(episode), EVERY, recolor=replace(recolor, p=0.0))[9].frames
    assert never is not None
    assert (never == 90).all()


def test_geometry_is_shared_and_masks_take_the_nearest_pixel() -> None:
    clips = ControlClips(robots(), EVERY, reads_labels=True, transforms=[ResizeCrop((8, 8))])
    clip = clips[8]
    assert clip.frames is not None
    assert clip.labels is not None
    assert clip.frames.shape[-2:] == clip.labels.shape[-2:] == (8, 8)
    assert values(clip.labels) == [11 % 7, 14 % 7]


def test_videos_without_actions_train_stage_one_alone() -> None:
    source = robots(robot_episode(actions=None, state=None))
    clip = ControlClips(source, EVERY, reads_control=False, reads_labels=True)[3]
    assert clip.control is None
    with pytest.raises(ValueError, match=r"Episode 0 of robots has no actions"):
        ControlClips(source, EVERY)[3]


def test_held_out_episodes_and_parts_give_no_frame_to_training() -> None:
    source = robots(*[robot_episode() for _ in range(4)])
    train, held = split_by_episode(source, 0.25, seed=1)
    parts = [ControlClips(source, EVERY, ranges=ranges) for ranges in (train, held)]
    seen = [{part.moment(i).episode for i in range(len(part))} for part in parts]
    assert [len(s) for s in seen] == [3, 1]
    assert not seen[0] & seen[1]
    train, held = split_by_time(source)
    last = ControlClips(source, EVERY, ranges=train, reads_labels=True)
    assert values(last[13].labels) == [14 % 7, 14 % 7]  # frame 15 is held out
    first = ControlClips(source, EVERY, ranges=held)
    assert values(first[0].frames) == [15, 15, 15]


def test_bad_episodes_are_named() -> None:
    bad = robot_episode()
    assert bad.actions is not None
    bad.actions[12, 1] = np.nan
    with pytest.raises(ValueError, match=r"Episode 1 of robots: the actions of frame 12 hold NaN"):
        ControlClips(robots(robot_episode(), bad), EVERY)[19 + 8]
    with pytest.raises(ValueError, match=r"Episode 1 of robots: the actions of frame 12 hold NaN"):
        control_statistics(robots(robot_episode(), bad))

    labels = robot_episode().labels
    assert labels is not None
    found = {
        r"Episode 0 of robots: expected masks of the size of the frames, \(4, 6\), found \(2, 6\)":
        robot_episode(labels=labels[:, :, :2]),
        r"Episode 0 of robots: found class 9 in a mask, expected 0 to 6 \(a, b":
        robot_episode(labels=np.full_like(labels, 9)),
        r"Episode 0 of robots has no masks": robot_episode(labels=None),
    }  # fmt: skip
    for message, episode in found.items():
        with pytest.raises(ValueError, match=message):
            ControlClips(robots(episode), EVERY, reads_labels=True)[8]
    with pytest.raises(ValueError, match="gives no clip: expected 7 frames in a row, found at"):
        ControlClips(robots(robot_episode(length=5)), EVERY, allows_padding=False)


def test_episodes_without_success_are_left_out_and_counted() -> None:
    failed = robot_episode(attributes={"success": False})
    source = robots(failed, robot_episode(attributes={"success": True}), robot_episode(length=1))
    clips = ControlClips(source, EVERY, only_successes=True)
    assert len(clips) == 19
    assert dict(clips.left_out) == {"without success": 1, "too short": 1}
    assert "left out: 1 too short, 1 without success" in str(clips)


def test_statistics_are_those_of_the_training_rows_and_survive_json(tmp_path: Path) -> None:
    source = robots(robot_episode(), robot_episode(length=50))
    found = control_statistics(source, {0: [(0, 20)]})
    rows = np.arange(1, 20)  # the step into the first frame is in no chunk
    assert found.stats["action"]["mean"] == pytest.approx([rows.mean(), rows.mean() / 2])
    assert found.stats["action"]["std"] == pytest.approx([rows.std(), rows.std() / 2])
    assert found.stats["observation.state"]["min"] == [-19.0] * 3
    assert found.stats["action"]["q99"][0] == pytest.approx(np.quantile(rows, 0.99), abs=0.2)
    found.save(tmp_path / "stats.json")
    loaded = ControlStatistics.load(tmp_path / "stats.json")
    assert loaded == found
    assert (loaded.action_dim, loaded.state_dim, loaded.fps) == (2, 3, 20.0)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="Expected statistics of actions and states in"):
        ControlStatistics.load(tmp_path / "other.json")


def test_data_of_another_robot_are_refused() -> None:
    expects = control_statistics(robots())
    episode = robot_episode()
    assert episode.actions is not None
    other: list[tuple[str, Any]] = [
        (
            r"Episode 0 of robots: expected actions 2 .* found 1",
            {"actions": episode.actions[:, :1]},
        ),
        (r"expected state numbers 3 .* found 2", {"state": episode.state[:, :2]}),
        (r"expected 20 steps per second .* found 10", {"fps": 10}),
    ]
    for message, changes in other:
        with pytest.raises(ValueError, match=message):
            ControlClips(robots(robot_episode(**changes)), EVERY, expects=expects)
    with pytest.raises(ValueError, match=r"expected cameras \['side'\]"):
        ControlClips(robots(), EVERY, expects=replace(expects, views=["side"]))


def test_a_stored_lerobot_dataset_gives_the_same_clips(tmp_path: Path) -> None:
    episode = robot_episode()
    with LeRobotWriter(
        tmp_path / "set",
        fps=20,
        size=(4, 6),
        views=["front", "wrist"],
        action_names=["dx", "grip"],
        label_names=list("abcdefg"),
    ) as writer:
        assert episode.actions is not None
        assert episode.labels is not None
        writer.add_episode(
            frames=episode.frames,
            actions=episode.actions,
            labels=episode.labels,
            caption=episode.caption,
            extra={"observation.state": episode.state},
        )
    stored: Any = LeRobotSource(tmp_path / "set")
    a, b = (ControlClips(s, EVERY, reads_labels=True)[8] for s in (stored, robots()))
    for name in ("frames", "labels"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert a.control is not None
    assert b.control is not None
    for name in ("state", "actions", "states", "is_real"):
        assert torch.equal(getattr(a.control, name), getattr(b.control, name)), name
    assert control_statistics(stored) == control_statistics(robots())
    with pytest.raises(ValueError, match=r"has no views \['top'\]"):
        LeRobotSource(tmp_path / "set", views=["top"])
