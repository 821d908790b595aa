"""`maskworld plan`: waypoints, scores, the dream behind them, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_material import moving_frames, save_micro_model, write_clip
from pdms_scenes import straight_road
from reworld_material import PAST, WINDOW, save_micro_reworld

from maskworld.cli.main import main
from maskworld.cli.planning import actions_of_plan
from maskworld.data.video_files import VideoReader
from maskworld.metrics.pdms import score_plans, write_scene
from maskworld.types import Batch

EGO = ["--ego", "5", "0", "0.5", "0"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, pasts and scenes, good and bad."""
    import cv2

    folder = tmp_path_factory.mktemp("plan")
    save_micro_reworld(folder / "model")
    save_micro_reworld(folder / "video", is_planner=False)
    save_micro_reworld(folder / "blind", future_actions=0)
    save_micro_model(folder / "worlddreamer")
    write_clip(folder / "past.mp4", 12)
    write_clip(folder / "short.mp4", PAST - 1)
    for name, count in (("frames", 10), ("few", 2)):
        (folder / name).mkdir()
        for number, image in enumerate(moving_frames(count)):
            cv2.imwrite(str(folder / name / f"{number}.png"), image)
    write_scene(straight_road(), folder / "scene.json")
    (folder / "bad.json").write_text("{}")
    return folder


def run(place: Path, *words: str, model: str = "model") -> int:
    found = [str(place / word) if (place / word).exists() else word for word in words]
    return main(["plan", str(place / model), *found])


def test_a_scene_gives_eight_waypoints_and_their_score(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.json"
    words = ["--scene", "scene.json", "--video", "past.mp4", "--num-plans", "2"]
    assert run(place, *words, "--out", str(out)) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert said.count(" s ") == 16
    assert "4.0 s" in said
    assert "PDMS" in said
    found = json.loads(out.read_text())
    scene = straight_road()
    assert found["ego"] == pytest.approx([scene.ego.vx, scene.ego.vy, scene.ego.ax, scene.ego.ay])
    plans = np.array(found["plans"])
    assert plans.shape == (2, 8, 3)
    assert found["scores"]["PDMS"] == pytest.approx(score_plans(scene, plans).pdms.tolist())


def test_frames_and_ego_do_without_a_scene(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.json"
    assert run(place, "--frames", "frames", *EGO, "--command", "left", "--out", str(out)) == 0
    assert "command left" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert (found["ego"], found["command"], found["scores"]) == ([5, 0, 0.5, 0], "left", None)


def test_what_the_planner_is_told_reaches_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from maskworld.systems.reworld import ReWorld

    told: list[Batch] = []
    original = ReWorld.plan

    def noting(self: ReWorld, batch: Batch, *rest: object) -> torch.Tensor:
        told.append(batch)
        return original(self, batch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(ReWorld, "plan", noting)
    assert run(place, "--scene", "scene.json", "--video", "past.mp4") == 0
    assert run(place, "--scene", "scene.json", "--video", "past.mp4", "--command", "right") == 0
    plans = [batch.plan for batch in told]
    assert all(plan is not None for plan in plans)
    assert [int(plan.command) for plan in plans if plan is not None] == [
        1,
        2,
    ]  # the route, the user
    assert told[0].frames is not None
    assert told[0].frames.shape[2] == PAST


def test_the_dream_behind_a_plan_is_told_its_actions(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maskworld.systems.reworld import ReWorld
    from maskworld.types import Prompt

    prompts: list[Prompt] = []
    original = ReWorld.generate

    def noting(self: ReWorld, past: torch.Tensor, prompt: Prompt, *rest: object) -> object:
        prompts.append(prompt)
        return original(self, past, prompt, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(ReWorld, "generate", noting)
    out, dream = tmp_path / "plan.json", tmp_path / "dream.mp4"
    words = ["--video", "past.mp4", *EGO, "--out", str(out), "--video-out", str(dream)]
    assert run(place, *words, "--gamma", "1.2") == 0
    plan = np.array(json.loads(out.read_text())["plans"][0])
    assert prompts[0].actions is not None
    expected = actions_of_plan(plan, WINDOW - PAST, 5.0)
    assert np.allclose(prompts[0].actions[0, PAST:].numpy(), expected, atol=1e-5)
    with VideoReader(dream) as reader:
        assert len(reader) == WINDOW


def test_actions_of_a_plan_drive_it_again() -> None:
    from maskworld.worlds.drive import rollout_poses

    speed, yaw_rate, fps = 6.0, 0.2, 10
    arc = rollout_poses(np.zeros(3), np.tile([speed, yaw_rate], (40, 1)), fps)
    actions = actions_of_plan(arc[5::5], 40, fps)
    assert actions.shape == (40, 2)
    assert np.allclose(actions[:, 1], yaw_rate, atol=1e-6)
    assert np.allclose(actions[:, 0], speed, rtol=2e-3)  # chords are shorter than arcs
    assert np.allclose(rollout_poses(np.zeros(3), actions, fps)[5::5], arc[5::5], atol=0.03)


def test_a_dream_longer_than_the_plan_is_refused() -> None:
    with pytest.raises(ValueError, match="within 0 to 4 s"):
        actions_of_plan(np.zeros((8, 3)), 41, 10)


def test_a_model_without_actions_dreams_and_says_so(place: Path, tmp_path: Path) -> None:
    from maskworld.cli.plan import PlanOptions, plan

    options = PlanOptions(
        str(place / "blind"),
        video=place / "past.mp4",
        ego=(5.0, 0.0, 0.0, 0.0),
        video_out=tmp_path / "dream.mp4",
    )
    with pytest.warns(UserWarning, match="and not the plan"):
        plan(options)
    assert (tmp_path / "dream.mp4").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--ego 5 0 0 0", "--video FILE or --frames DIR"),
        ("--video past.mp4 --frames frames --ego 5 0 0 0", "one of them"),
        ("--video past.mp4", "--scene FILE or --ego"),
        ("--video past.mp4 --scene scene.json --ego 5 0 0 0", "one of them"),
        ("--video short.mp4 --ego 5 0 0 0", "at least 9 past frames"),
        ("--frames few --ego 5 0 0 0", "found 2 images"),
        ("--frames missing --ego 5 0 0 0", "missing"),
        ("--video past.mp4 --scene bad.json", "bad.json"),
        ("--video past.mp4 --scene missing.json", "missing.json"),
        ("--video past.mp4 --ego 5 0 inf 0", "finite"),
        ("--video past.mp4 --ego 5 0 0 0 --num-plans 0", "--num-plans"),
        ("--video past.mp4 --ego 5 0 0 0 --steps 0", "num_steps >= 1"),
        ("--video past.mp4 --ego 5 0 0 0 --out plan.txt", ".json"),
        ("--video past.mp4 --ego 5 0 0 0 --video-out dream.gif", ".mp4"),
        ("--video past.mp4 --scene scene.json --out scene.json", "it would be lost"),
    ],
)
def test_bad_input_is_one_clear_line(
    words: str, said: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, *words.split()) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("model", "said"),
    [("video", "--start-at action"), ("worlddreamer", "a model of reworld"), ("none", "folder")],
)
def test_a_model_that_plans_nothing_is_refused(
    model: str, said: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, "--video", "past.mp4", *EGO, model=model) == 2
    assert said in capsys.readouterr().err


def test_help_is_shown_without_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from maskworld.cli.main import main; main(['plan', '--help']); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--video-out" in done.stdout
