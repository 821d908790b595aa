"""`maskworld evaluate` with a MaskGWM model; video metrics of every system that dreams."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_material import save_micro_model, write_clip
from jaxtyping import Float, Shaped
from maskgwm_toy import SIZE, WINDOW, save_toy
from reworld_material import save_micro_reworld
from torch import Tensor

from maskworld.cli import dream_scores
from maskworld.cli.main import main
from maskworld.cli.recorded_cameras import fitted_calibration
from maskworld.data.cameras import Calibration
from maskworld.data.lerobot import LeRobotWriter
from maskworld.evaluation.results import read_results
from maskworld.preparation.collect import collect_drive


class Greys:
    """A network that knows the mean and the spread of a clip only."""

    metric, companion, dim, min_frames, is_per_frame = "fvd", "kvd", 2, 4, False
    backend, weights_sha256, resize = "greys", "0", "none"

    def features(self, clips: Shaped[Tensor, "b t c h w"]) -> Float[Tensor, "n d"]:
        flat = clips.flatten(1).float()
        return torch.stack([flat.mean(1), flat.std(1)], dim=1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two cameras, drives of both, of one, and of strange cameras."""
    folder = tmp_path_factory.mktemp("evaluate_maskgwm")
    save_toy(folder / "model")
    collect_drive(
        folder / "drives",
        num_worlds=2,
        episodes_per_world=2,
        num_frames=24,
        size=SIZE,
        num_cameras=2,
    )
    write_clip(folder / "clips" / "a.mp4", 24)
    frames = np.random.default_rng(0).integers(0, 256, (2, 24, 3, *SIZE)).astype(np.uint8)
    for name, views in (("strange", ("front", "back")), ("bare", ("front_left", "front"))):
        with LeRobotWriter(folder / name, fps=5, size=SIZE, views=views) as writer:
            writer.add_episode(frames=frames, caption="")
    (folder / "weights.pt").write_bytes(b"no weights")
    return folder


def run(place: Path, out: Path, *words: str, model: str = "model") -> int:
    found = [str(place / word) if (place / word).exists() else word for word in words]
    return main(["evaluate", str(place / model), *found, "--out", str(out), "--num-clips", "8"])


@pytest.fixture(scope="module")
def scores(place: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of one window, with a network."""
    out = tmp_path_factory.mktemp("scores")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dream_scores, "fvd_features", lambda *given, **named: Greys())
        assert run(place, out, "--data", "drives", "--fvd-weights", "weights.pt") == 0
    assert (out / "report.html").is_file()
    assert list((out / "videos").iterdir())
    return read_results(out / "metrics.json")


def test_dreams_are_scored_step_by_step_beside_trivial_futures(scores: dict[str, Any]) -> None:
    psnr = scores["metrics"]["psnr"]
    assert len(psnr["per_horizon"]["model"]) == WINDOW - 1
    assert {"copy_last", "blurred_copy", "mean_image", "model_sampled"} <= set(psnr)
    assert "ssim" in scores["metrics"]
    assert scores["protocol"]["cameras"] == ["front", "front_left"]
    assert scores["protocol"]["actions"] == ["speed", "yaw_rate"]


def test_actions_motion_and_the_cameras_agreement_are_scored(scores: dict[str, Any]) -> None:
    metrics = scores["metrics"]
    assert metrics["action_sensitivity/shuffled"]["model"] != 0
    assert metrics["motion/frame_change_error"]["copy_last"] == pytest.approx(1)
    # two real cameras agree better than cameras of different worlds
    assert metrics["overlap/error"]["real"] < metrics["overlap/error"]["shuffled"]


def test_video_metrics_stand_with_their_protocol_and_beside_copies(scores: dict[str, Any]) -> None:
    fvd = scores["metrics"]["fvd"]
    assert fvd["n"] == 16  # views count as clips
    assert {"copy_last", "mean_image"} <= set(fvd)
    assert scores["protocol"]["fvd"]["backend"] == "greys"
    assert scores["protocol"]["fvd"]["includes_condition_frames"] is True
    assert "kvd" in scores["metrics"]


def test_longer_clips_are_dreamt_in_rounds_and_judged(place: Path, tmp_path: Path) -> None:
    words = ["--data", "drives", "--num-frames", "20", "--num-context", "2"]
    assert run(place, tmp_path, *words, "--metrics", "psnr", "motion", "--batch-size", "3") == 0
    scores = read_results(tmp_path / "metrics.json")
    assert len(scores["metrics"]["psnr"]["per_horizon"]["model"]) == 18
    assert set(scores["protocol"]["long_horizon"]["verdicts"]) >= {"model", "copy_last"}
    assert "action_sensitivity/shuffled" not in scores["metrics"]
    assert "overlap/error" not in scores["metrics"]


def test_recordings_of_the_first_camera_alone_and_without_actions_are_scored(
    place: Path, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert run(place, tmp_path, "--data", "clips") == 0
    scores = read_results(tmp_path / "metrics.json")
    assert scores["protocol"]["cameras"] == ["front"]
    assert scores["protocol"]["actions"] == []
    assert "action_sensitivity/shuffled" not in scores["metrics"]
    assert scores["protocol"]["frechet_proxy"].startswith("not computed")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--data strange", "found no front_left"),
        ("--data bare --metrics overlap", "calibration of camera front"),
        ("--data drives clips", "as many cameras each, found 2 in"),
        ("--data drives --metrics fvd", "--fvd-weights with --metrics fvd"),
        ("--data drives --metrics fvdd", "Did you mean 'fvd'?"),
        ("--data drives --fvd-backend i3d-tats", "--fvd-weights with --fvd-backend"),
        ("--data drives --fid-backend x", "--fid-weights with --fid-backend"),
        ("--data drives --num-context 4", "--num-context of 1 to 2"),
        ("--data drives --world drive", "no --world for a model of MaskGWM"),
        ("--data clips --metrics actions", "speed and yaw rate in every frame"),
        ("--data drives --fvd-weights weights.pt", "weights.pt"),
    ],
)
def test_bad_input_is_told(
    words: str, said: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, tmp_path / "out", *words.split()) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_too_few_clips_for_a_network_are_refused_before_they_are_dreamt(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Wide(Greys):
        dim = 400

    monkeypatch.setattr(dream_scores, "fvd_features", lambda *given, **named: Wide())
    words = ["--data", "drives", "--fvd-weights", "weights.pt"]
    assert run(place, tmp_path / "out", *words) == 2
    assert "more than 400 clips a side for fvd, found 16" in capsys.readouterr().err


@pytest.mark.parametrize("system", ["worlddreamer", "reworld"])
def test_other_systems_dreams_get_video_metrics_too(
    system: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = {"worlddreamer": save_micro_model, "reworld": save_micro_reworld}[system]
    save(tmp_path / "model")
    monkeypatch.setattr(dream_scores, "fvd_features", lambda *given, **named: Greys())
    words = ["--data", str(place / "drives"), "--fvd-weights", str(place / "weights.pt")]
    assert run(tmp_path, tmp_path / "out", *words, "--metrics", "overlap") == 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert run(tmp_path, tmp_path / "out", *words) == 0
    scores = read_results(tmp_path / "out" / "metrics.json")
    assert scores["protocol"]["fvd"]["num_dreamt"] == 8
    assert {"fvd", "kvd", "psnr"} <= set(scores["metrics"])


def test_calibration_follows_the_pictures_that_are_cut_to_the_models_shape() -> None:
    wide = Calibration(np.array([[100.0, 0, 100], [0, 100, 50], [0, 0, 1]]), np.eye(4), (100, 200))
    cut = fitted_calibration(wide, (50, 50))  # the middle 100 x 100, halved
    np.testing.assert_allclose(cut.intrinsics, [[50, 0, 25], [0, 50, 25], [0, 0, 1]])
