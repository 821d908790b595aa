"""`maskworld train mask-world-model-...`: stages in turn or alone, with masks or without."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from robot_recordings import write_robot

from maskworld.cli import robot_training
from maskworld.cli.main import main
from maskworld.cli.robot_data import STATISTICS_FILE
from maskworld.data.control_statistics import ControlStatistics
from maskworld.data.video_files import write_video
from maskworld.nn.weights_io import read_safetensors
from maskworld.recipes.open import load_mask_world_model
from maskworld.training.checkpoint import list_checkpoints

NAME = "mask-world-model-tiny"
TINY = [NAME, "--steps", "2", "--batch-size", "2", "--device", "cpu"]
WORDS = ["--data", "robot", "--sample-every", "2", "--save-every", "1", "--color-jitter"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train_robot")
    write_robot(folder / "robot", failed=(1,))
    write_robot(folder / "unmasked", 2, has_masks=False)
    write_robot(folder / "other", 2, num_actions=3)
    write_robot(folder / "single", 2, views=("front",))
    write_robot(folder / "slow", 2, fps=10)
    write_robot(folder / "watched", 2, has_control=False)
    videos = folder / "videos" / "one"
    frames = np.random.default_rng(0).integers(0, 255, (24, 32, 32, 3)).astype(np.uint8)
    write_video(videos / "video.mp4", frames, 10.0)
    for name in ("robot", "objects"):
        mask = np.zeros((24, 32, 32, 3), np.uint8)
        mask[:, 4:12, 4 if name == "robot" else 20 :] = 255
        write_video(videos / f"mask_{name}.mp4", mask, 10.0)
    return folder


@pytest.fixture(autouse=True)
def quick_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robot_training, "FIT_CLIPS", 100)


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    out = place / "trained"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robot_training, "FIT_CLIPS", 100)
        assert run(place, out, *WORDS) == 0
    return out


def run(place: Path, out: Path, *words: str) -> int:
    found = [str(place / word) if (place / word).exists() else word for word in words]
    return main(["train", *TINY, *found, "--out", str(out)])


def weights(run_folder: Path) -> dict[str, torch.Tensor]:
    return read_safetensors(run_folder / "model" / "model.safetensors")


def test_the_config_follows_the_data(trained: Path) -> None:
    system = load_mask_world_model(trained / "model").system
    config = system.config
    assert (config.num_views, config.frame_size, config.fps) == (2, (32, 32), 5.0)
    assert (config.state_dim, config.action.action_dim) == (3, 5)
    assert config.palette.names == ("background", "robot", "object")
    assert system.normaliser.is_fitted
    assert [p.name for p in sorted((trained / "samples").iterdir())] == ["step-00000002.mp4"]
    found = ControlStatistics.load(trained / "model" / STATISTICS_FILE)
    assert (found.action_dim, found.state_dim, found.fps) == (2, 3, 20)
    assert found.stats["action"]["count"] == [2 * 25]  # the failed episode is left out


def test_a_stopped_run_goes_on_bit_for_bit(place: Path, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "again")
    checkpoints = list_checkpoints(tmp_path / "again" / "checkpoints")
    assert [step for step, _ in checkpoints] == [3, 4]  # amid and at the end of stage policy
    shutil.rmtree(checkpoints[-1][1])
    shutil.rmtree(tmp_path / "again" / "model")
    assert run(place, tmp_path / "again", *WORDS, "--resume") == 0
    resumed = weights(tmp_path / "again")
    assert all(torch.equal(value, resumed[name]) for name, value in weights(trained).items())


def test_videos_with_mask_videos_train_a_world_that_any_robot_learns_to_act_in(
    place: Path, tmp_path: Path
) -> None:
    watched, acting = tmp_path / "watched", tmp_path / "acting"
    assert run(place, watched, "--data", "videos", "--stages", "dynamics") == 0
    assert not (watched / "model" / STATISTICS_FILE).exists()
    words = ["--data", "single", "--start-at", "policy", "--init", str(watched / "model")]
    with pytest.warns(UserWarning, match="20 steps per second, the model learnt how masks evolve"):
        assert run(place, acting, *words) == 0
    before, after = weights(watched), weights(acting)
    assert torch.equal(before["future_prior.mean"], after["future_prior.mean"])
    config = load_mask_world_model(acting / "model").system.config
    assert (config.num_views, config.state_dim, config.action.action_dim) == (1, 3, 5)
    assert ControlStatistics.load(acting / "model" / STATISTICS_FILE).fps == 20


def test_a_policy_needs_no_masks_and_opens_none(place: Path, trained: Path, tmp_path: Path) -> None:
    words = ["--stages", "policy", "--init", str(trained / "model")]
    assert run(place, tmp_path / "run", "--data", "unmasked", *words) == 0
    kept = weights(trained)["normaliser.actions.statistics.offset"]
    assert torch.equal(weights(tmp_path / "run")["normaliser.actions.statistics.offset"], kept)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "unmasked"], "maskworld data segment"),
        (["--data", "unmasked"], "--stages policy --init RUN/model"),
        (["--data", "watched"], "train how masks evolve alone, with --stages dynamics"),
        (["--data", "robot", "single"], "Expected the same cameras in all --data"),
        (["--data", "robot", "slow"], "Expected the same steps per second"),
        (["--data", "robot", "other"], "expected action of 2 numbers"),
        (["--data", "other", "--init", "MODEL"], "expected actions 2 as in the training data"),
        (["--data", "slow", "--init", "MODEL"], "expected 20 steps per second"),
        (["--data", "single", "--init", "MODEL"], "Expected 2 cameras as the model"),
        (["--data", "robot", "--recolor", "tabel"], "classes of background, robot, object"),
        (["--data", "robot", "--stages", "policy"], "pass --init RUN/model"),
        (["--data", "robot", "--stages", "dynamic"], "Did you mean 'dynamics'"),
        (["--data", "robot", "--fps", "5"], "Expected no --fps with mask-world-model-tiny"),
        (["--data", "robot", "--frame-size", "40", "40"], "in multiples of 32"),
        (["--data", "robot", "--tokenizer", "vae"], "which trains its own"),
    ],
)
def test_what_does_not_fit_is_said_before_a_folder_is_made(
    place: Path,
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    words = [str(trained / "model") if word == "MODEL" else word for word in words]
    assert run(place, tmp_path / "run", *words) != 0
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_options_of_robots_are_refused_for_other_systems(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["worlddreamer-tiny", "--data", str(place / "robot"), "--out", str(tmp_path / "run")]
    assert main(["train", *words, "--color-jitter"]) != 0
    assert "--color-jitter with a recipe of Mask World Model only" in capsys.readouterr().err
