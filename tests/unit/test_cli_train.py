"""`maskworld train` and `evaluate`: a run from start to scores, and what happens to bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_material import moving_frames, save_micro_model, write_clip

from maskworld.cli import worlddreamer_training
from maskworld.cli.adapt import token_stride
from maskworld.cli.main import main
from maskworld.evaluation.results import read_results
from maskworld.nn.weights_io import read_safetensors
from maskworld.recipes import load_recipe
from maskworld.training.checkpoint import list_checkpoints

TINY = ["worlddreamer-tiny", "--tokenizer-steps", "1", "--batch-size", "2", "--frame-size"]
STRIDE = token_stride(load_recipe("worlddreamer-tiny").system)
HEIGHT, WIDTH = str(2 * STRIDE), str(3 * STRIDE)
SMALL = [*TINY, HEIGHT, WIDTH, "--num-frames", "4", "--sample-every", "2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of data, good and bad, and a model."""
    import cv2

    folder = tmp_path_factory.mktemp("train")
    save_micro_model(folder / "model")
    clip = write_clip(folder / "clips" / "a.mp4", 16)
    np.save(folder / "clips" / "a.npy", np.ones((16, 2), np.float32))
    (folder / "clips" / "a.txt").write_text("turning left")
    write_clip(folder / "clips" / "b.mp4", 16, size=(33, 47))
    for number, image in enumerate(moving_frames(4)):
        (folder / "images").mkdir(exist_ok=True)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), image)
    np.save(folder / "codes.npy", np.random.default_rng(0).integers(0, 1024, (12, 128)))
    (folder / "nothing").mkdir()
    (folder / "words").mkdir()
    (folder / "words" / "notes.doc").write_text("hello")
    for name, content in (("text", b"no video"), ("cut", clip.read_bytes()[:2000])):
        (folder / name).mkdir()
        (folder / name / f"{name}.mp4").write_bytes(content)
    write_clip(folder / "one" / "one.mp4", 1)
    write_clip(folder / "nan" / "nan.mp4", 16)
    np.save(folder / "nan" / "nan.npy", np.full((16, 2), np.nan, np.float32))
    write_clip(folder / "six" / "six.mp4", 16)
    np.save(folder / "six" / "six.npy", np.ones((16, 6), np.float32))
    return folder


@pytest.fixture(autouse=True)
def quick_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits codes on few frames: 6 patches each, for 512 codes."""
    monkeypatch.setattr(worlddreamer_training, "FIT_FRAMES", 100)


def run(place: Path, out: Path, *words: str) -> int:
    found = [str(place / word) if (place / word).exists() else word for word in words]
    return main(["train", *found, "--out", str(out)])


def test_a_run_ends_in_a_model_that_is_scored_and_resumed(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", "clips", "images", "--weights", "3", "1"]
    out = tmp_path / "run"
    assert run(place, out, *SMALL, *data, "--steps", "2") == 0, capsys.readouterr().err
    assert {path.name for path in out.iterdir()} == {
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "model",
        "samples",
        "tensorboard",
    }
    assert [path.name for path in (out / "samples").iterdir()] == ["step-00000003.mp4"]
    config = json.loads((out / "config.json").read_text())
    assert config["recipe"]["weights"] == [3, 1]
    assert config["recipe"]["system_config"]["num_frames"] == 4
    capsys.readouterr()

    assert run(place, out, *SMALL, *data, "--steps", "2") == 2
    assert "--resume" in capsys.readouterr().err
    assert run(place, out, *SMALL, *data, "--steps", "2", "--resume") == 0
    assert [step for step, _ in list_checkpoints(out / "checkpoints")] == [1, 3]

    before = read_safetensors(out / "model" / "model.safetensors")
    longer = [*TINY, WIDTH, WIDTH, "--num-frames", "6", "--steps", "1", "--init", f"{out}/model"]
    assert run(place, tmp_path / "long", *longer, "--data", "clips") == 0
    after = read_safetensors(tmp_path / "long" / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    assert (before["tokenizer.codebook"] == after["tokenizer.codebook"]).all()
    assert any((before[name] != after[name]).any() for name in before)

    scores = tmp_path / "scores"
    line = ["evaluate", str(out / "model"), "--data", str(place / "clips"), "--num-clips", "6"]
    assert main([*line, "--train-data", str(place / "clips"), "--out", str(scores)]) == 0
    results = read_results(scores / "metrics.json")
    assert {"psnr", "ssim", "token_accuracy", "bits_per_token/ratio_0.5"} <= set(results["metrics"])
    assert "copy_last" in results["metrics"]["psnr"]
    assert results["protocol"]["clips"] == 6
    assert (scores / "report.html").stat().st_size > 1000
    assert len(list((scores / "videos").iterdir())) == 6


def test_tokens_are_learnt_and_scored_without_pixels(place: Path, tmp_path: Path) -> None:
    line = ["worlddreamer-tiny", "--data", "codes.npy", "--steps", "1", "--batch-size", "2"]
    assert run(place, tmp_path / "run", *line, "--num-frames", "3") == 0
    model, codes = str(tmp_path / "run" / "model"), str(place / "codes.npy")
    out = tmp_path / "dream.npy"
    assert main(["generate", model, "--video", codes, "--out", str(out), "--steps", "2"]) == 0
    dreamt = np.load(out)
    assert dreamt.shape == (3, 8, 16)
    assert (dreamt[0].ravel() == np.load(codes)[0]).all()
    assert main(["generate", model, "--video", codes, "--out", str(tmp_path / "dream.mp4")]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("worlddreamer-tinny --data clips", "Did you mean 'worlddreamer-tiny'?"),
        ("worlddreamer-tiny", "--data"),
        ("worlddreamer-tiny --data clips images --weights 1", "--weights"),
        ("worlddreamer-tiny --data missing", "found nothing"),
        ("worlddreamer-tiny --data nothing", "an empty folder"),
        ("worlddreamer-tiny --data words", ".doc"),
        ("worlddreamer-tiny --data text", "text.mp4"),
        ("worlddreamer-tiny --data cut", "cut.mp4"),
        ("worlddreamer-tiny --data one", "the longest stretch without a cut has 1"),
        ("worlddreamer-tiny --data clips --num-frames 17", "has 16"),
        ("worlddreamer-tiny --data clips --num-frames 1", "at least 2"),
        (
            f"worlddreamer-tiny --data clips --frame-size {2 * STRIDE + 1} {WIDTH}",
            f"size {HEIGHT} {WIDTH}",
        ),
        ("worlddreamer-tiny --data nan", "NaN"),
        ("worlddreamer-tiny --data clips six", "[2, 6]"),
        ("worlddreamer-tiny --data clips codes.npy", "only tokens"),
        ("worlddreamer-tiny --data clips --steps 0", "num_steps"),
        ("worlddreamer-tiny --data clips --batch-size 0", "batch_size"),
        ("worlddreamer-tiny --data clips --init nothing", "config.json"),
        ("worlddreamer-tiny --data codes.npy --init model", "Expected tokens"),
        ("worlddreamer-tiny --data six --init model", "found 6"),
        ("worlddreamer-paper --data clips", "--tokenizer"),
    ],
)
def test_bad_input_is_one_clear_line_and_makes_no_folder(
    words: str, said: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, tmp_path / "run", *words.split()) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_run_that_fails_before_its_first_checkpoint_leaves_no_folder(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from maskworld.systems.worlddreamer import WorldDreamer

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(WorldDreamer, "training_loss", interrupt)
    line = ["worlddreamer-tiny", "--data", "codes.npy", "--num-frames", "3", "--batch-size", "1"]
    assert run(place, tmp_path / "run", *line) == 130
    assert "Ctrl-C" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("model", "--data"),
        ("model --data images", "single images"),
        ("model --data codes.npy", "Expected pixels"),
        ("model --data one", "has 1"),
        ("model --data six", "found 6"),
        ("model --data clips --num-context 4", "--num-context"),
        ("model --data clips --num-clips 1", "--num-clips"),
        ("nothing --data clips", "config.json"),
    ],
)
def test_evaluate_refuses_bad_input_and_writes_nothing(
    words: str, said: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [str(place / word) if (place / word).exists() else word for word in words.split()]
    assert main(["evaluate", *found, "--out", str(tmp_path / "scores")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
