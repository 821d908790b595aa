"""Claims about recording Meta-World: rows, resuming, replacing failures, crashes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from metaworld_gl import needs_gl

from maskworld.data.lerobot import LeRobotSource
from maskworld.preparation.collect_metaworld import collect_metaworld
from maskworld.preparation.metaworld_episodes import MetaWorldPlan, record_episode
from maskworld.preparation.metaworld_staging import Staging
from maskworld.preparation.seed_queue import SeedQueue
from maskworld.worlds.metaworld import CLASSES, TASKS, MetaWorld

TASK = "handle-press-v3"
WHOLE = MetaWorldPlan((TASK,), 2, cameras=("gripperPOV",), size=(16, 16), action_noise=0.1)
SMALL = replace(WHOLE, max_steps=6, keep_failures=True)
DONE: dict[str, Any] = {"success_step": 5, "num_frames": 10}
FAILED: dict[str, Any] = {"success_step": None, "num_frames": 10}


@needs_gl
def test_row_t_is_what_was_seen_and_done_at_frame_t() -> None:
    world = MetaWorld(
        TASK, cameras=WHOLE.cameras, size=(16, 16), split="train", ends_on_success=False
    )
    episode = record_episode(world, 3, WHOLE)
    length = len(episode.actions)
    assert episode.success_step == length - WHOLE.steps_after_success
    assert episode.frames.shape == (1, length, 3, 16, 16)
    observation, _ = world.reset(seed=3)
    for t in range(length):
        np.testing.assert_array_equal(episode.states[t], observation.state)
        np.testing.assert_array_equal(episode.expert_actions[t], world.expert_action())
        if t % 10 == 0:
            frames, labels = world.render()
            np.testing.assert_array_equal(episode.frames[:, t], frames)
            np.testing.assert_array_equal(episode.labels[:, t], labels)
        observation = world.step(episode.actions[t])[0]
    noise = (episode.actions - episode.expert_actions)[:, :3]
    assert 0.02 < noise.std() < 0.2
    np.testing.assert_array_equal(episode.actions[:6], record_episode(world, 3, SMALL).actions)


@needs_gl
def test_a_perturbation_changes_the_look_and_nothing_else(tmp_path: Path) -> None:
    episodes = []
    for name in ("", "light"):
        plan = replace(SMALL, episodes_per_task=1, perturbation=name)
        collect_metaworld(tmp_path / f"data-{name}", plan)
        episodes.append(LeRobotSource(tmp_path / f"data-{name}").episode(0))
    clean, lit = episodes
    rows = range(clean.num_frames)
    np.testing.assert_array_equal(clean.actions, lit.actions)
    np.testing.assert_array_equal(clean.read_labels(rows), lit.read_labels(rows))
    assert np.abs(clean.read(rows).astype(float) - lit.read(rows)).mean() > 5
    with pytest.raises(ValueError, match="Did you mean 'light'"):
        replace(SMALL, perturbation="lights")


@needs_gl
def test_an_interrupted_collection_goes_on_to_the_same_dataset(tmp_path: Path) -> None:
    def stop_after_one(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    with pytest.raises(KeyboardInterrupt):
        collect_metaworld(stopped, SMALL, report=stop_after_one)
    assert not stopped.exists()
    with pytest.raises(ValueError, match="episodes_per_task: 2 then, 3 now"):
        collect_metaworld(stopped, replace(SMALL, episodes_per_task=3))
    seen: list[int] = []
    summary = collect_metaworld(stopped, SMALL, report=lambda done, _: seen.append(done))
    assert seen == [1, 2]
    collect_metaworld(whole, SMALL)
    assert_equal(stopped, whole)
    assert summary.num_episodes == 2
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with pytest.raises(ValueError, match="--overwrite"):
        collect_metaworld(whole, SMALL)


def assert_equal(one: Path, two: Path) -> None:
    a, b = LeRobotSource(one), LeRobotSource(two)
    assert len(a) == len(b) == SMALL.episodes_per_task
    for i in range(len(a)):
        left, right = a.episode(i), b.episode(i)
        assert left.attributes == right.attributes
        assert (left.attributes["seed"], left.attributes["split"]) == (i, "train")
        assert left.caption == TASKS[TASK]
        every = list(range(left.num_frames))
        np.testing.assert_array_equal(left.read(every), right.read(every))
        np.testing.assert_array_equal(left.read_labels(every), right.read_labels(every))
        np.testing.assert_array_equal(left.extra("action"), right.extra("action"))
        # Stored as LeRobot does, at its frame; our readers ask for the step into a frame.
        np.testing.assert_array_equal(left.actions[1:], left.extra("action")[:-1])
        np.testing.assert_array_equal(left.state, right.state)
    assert a.label_names == list(CLASSES)
    report = json.loads((one / "meta/collection.json").read_text())
    assert report["plan"]["tasks"] == [TASK]


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from maskworld.preparation.collect_metaworld import collect_metaworld
from test_preparation_collect_metaworld import SMALL
if __name__ == "__main__":
    collect_metaworld(Path(sys.argv[1]), SMALL, num_workers=2)
"""


@pytest.mark.slow  # three times several processes
@needs_gl
def test_kill_minus_nine_loses_nothing(tmp_path: Path) -> None:
    out, whole, script = tmp_path / "out", tmp_path / "whole", tmp_path / "run.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), str(out), str(Path(__file__).parent)]
    process = subprocess.Popen(command, env=os.environ)
    parts = tmp_path / ".out.collecting" / "parts"
    while process.poll() is None and not list(parts.glob("*.npz")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    while _is_locked(tmp_path / ".out.collecting"):
        time.sleep(0.1)
    subprocess.run(command, check=True)
    collect_metaworld(whole, SMALL)
    assert_equal(out, whole)


def _is_locked(folder: Path) -> bool:
    try:
        with Staging(folder, SMALL).locked():
            return False
    except ValueError:
        return True


def test_every_order_of_finishing_records_the_same_seeds() -> None:
    plan = MetaWorldPlan(("reach-v3", "push-v3"), 4)
    bad = {("reach-v3", 1): FAILED, ("reach-v3", 4): FAILED, ("push-v3", 0): {"crash": "boom"}}
    wanted = [("reach-v3", s) for s in (0, 2, 3, 5)] + [("push-v3", s) for s in (1, 2, 3, 4)]
    for shuffle in range(5):
        rng, queue, running = random.Random(shuffle), SeedQueue(plan, {}), []
        while True:
            while len(running) < 3 and (job := queue.take()) is not None:
                running.append(job)
            if not running:
                break
            job = running.pop(rng.randrange(len(running)))
            queue.finish(job, bad.get(job, DONE))
            assert queue.ready() == wanted[: len(queue.ready())]
        assert queue.ready() == wanted
        assert queue.num_done == 8
        assert SeedQueue(plan, queue.outcomes).take() is None


def test_kept_failures_take_the_place_of_successes() -> None:
    queue = SeedQueue(MetaWorldPlan((TASK,), 2, keep_failures=True), {(TASK, 0): FAILED})
    assert queue.take() == (TASK, 1)
    assert queue.take() is None


def test_a_crashed_seed_is_tried_twice_and_then_replaced() -> None:
    queue = SeedQueue(MetaWorldPlan((TASK,), 1), {})
    job = queue.take()
    assert job == (TASK, 0)
    assert queue.crash(job)
    assert queue.take() == job
    assert queue.take() is None
    assert not queue.crash(job)
    queue.finish(job, {"crash": "boom"})
    assert queue.take() == (TASK, 1)


def test_a_task_that_never_succeeds_stops_with_advice() -> None:
    queue = SeedQueue(MetaWorldPlan((TASK,), 1), {})
    for seed in range(11):
        queue.finish((TASK, seed), FAILED)
    with pytest.raises(ValueError, match="11 of 11 attempts"):
        queue.take()


def test_crashes_after_the_last_episode_are_tried_again_next_time(tmp_path: Path) -> None:
    staging = Staging(tmp_path, SMALL)
    staging.parts.mkdir()
    for seed, outcome in enumerate([{"crash": "a"}, DONE, {"crash": "b"}, {"crash": "c"}]):
        staging.save_crash((TASK, seed), outcome)
    assert staging.outcomes() == {(TASK, 0): {"crash": "a"}, (TASK, 1): DONE}
    assert SeedQueue(SMALL, staging.outcomes()).take() == (TASK, 2)


def test_plans_that_make_no_sense_are_named() -> None:
    with pytest.raises(ValueError, match="Did you mean 'reach-v3'"):
        MetaWorldPlan(("reach",), 1)
    with pytest.raises(ValueError, match="different tasks"):
        MetaWorldPlan((TASK, TASK), 1)
    with pytest.raises(ValueError, match="action_noise"):
        MetaWorldPlan((TASK,), 1, action_noise=-1.0)
