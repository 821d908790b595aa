"""`maskworld generate`: the tasks, and what happens to bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_material import SIZE, WINDOW, moving_frames, save_micro_model, write_clip

import maskworld
from maskworld.cli.main import main
from maskworld.data.transforms import ResizeCrop
from maskworld.data.video_files import VideoEncoder, VideoReader
from maskworld.systems.worlddreamer import TASKS, WorldDreamer
from maskworld.types import Clip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, recordings good and bad, actions good and bad."""
    import cv2

    folder = tmp_path_factory.mktemp("generate")
    save_micro_model(folder / "model")
    clip = write_clip(folder / "clip.mp4", 6)
    write_clip(folder / "one.mp4", 1)
    write_clip(folder / "odd.mp4", 6, size=(33, 47))
    (folder / "text.mp4").write_text("not a video")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "cut.mp4").write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    for name, frame in (("first.png", 0), ("last.png", 5)):
        cv2.imwrite(str(folder / name), moving_frames(6)[frame])
    (folder / "text.png").write_text("not an image")
    mask = np.zeros((32, 48), np.uint8)
    mask[8:16, 16:32] = 255
    cv2.imwrite(str(folder / "mask.png"), mask)
    cv2.imwrite(str(folder / "black.png"), mask * 0)
    actions = np.ones((WINDOW, 2), np.float32)
    np.save(folder / "good.npy", actions)
    np.save(folder / "short.npy", actions[:3])
    np.save(folder / "wide.npy", np.ones((WINDOW, 5), np.float32))
    np.save(folder / "nan.npy", actions * np.nan)
    (folder / "good.json").write_text(json.dumps(actions.tolist()))
    (folder / "nan.json").write_text("[[1, NaN], [1, 1], [1, 1], [1, 1]]")
    (folder / "good.csv").write_text("speed,yaw_rate\n" + "1.0,0.0\n" * WINDOW)
    return folder


def run(place: Path, out: Path, *words: str) -> int:
    """Runs `generate`; words that are names in `place` become paths."""
    found = [str(place / word) if (place / word).is_file() else word for word in words]
    return main(["generate", str(place / "model"), *found, "--out", str(out)])


@pytest.mark.parametrize(
    ("words", "task", "num_frames"),
    [
        ("--prompt night", "text-to-video", WINDOW),
        ("--prompt night --num-frames 7", "text-to-video", 7),
        ("--image first.png", "image-to-video", WINDOW),
        ("--video odd.mp4 --num-context 2 --num-frames 9", "image-to-video", 9),
        ("--image first.png --actions good.npy", "action-to-video", WINDOW),
        ("--image first.png --actions good.csv", "action-to-video", WINDOW),
        ("--video clip.mp4 --actions good.json", "action-to-video", WINDOW),
        ("--video clip.mp4 --box 0 0 16 16", "inpainting", WINDOW),
        ("--video clip.mp4 --mask mask.png", "inpainting", WINDOW),
        ("--task stylization --video clip.mp4 --prompt night", "stylization", WINDOW),
        ("--image first.png last.png --guidance-scale 2", "interpolation", WINDOW),
        ("--task interpolation --video clip.mp4", "interpolation", WINDOW),
    ],
)
def test_each_task_writes_a_video_of_the_asked_length(
    words: str,
    task: str,
    num_frames: int,
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "new" / "dream.mp4"
    assert run(place, out, *words.split()) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.startswith(f"{task}: {num_frames} frames")
    with VideoReader(out) as reader:
        assert len(reader) == num_frames
        assert reader.read([0]).shape[1:3] == SIZE
    assert [path.name for path in out.parent.iterdir()] == ["dream.mp4"]


def tokens_of_clip(place: Path) -> torch.Tensor:
    """Of all six frames, as the model of `place` sees them."""
    system: Any = maskworld.load(str(place / "model"))
    with VideoReader(place / "clip.mp4") as reader:
        frames = reader.read(range(6))
    pixels = torch.from_numpy(frames.transpose(0, 3, 1, 2)[None].copy())
    clip = ResizeCrop(SIZE)(Clip(frames=pixels), torch.Generator())
    assert clip.frames is not None
    return system.tokenize(clip.frames[None])[0, 0]


@pytest.mark.parametrize(
    ("words", "places", "columns"),
    [
        ("--num-context 2 --num-frames 9", [0, 1], slice(None)),
        ("--task interpolation", [0, -1], slice(None)),
        ("--box 0 0 16 32", [0, 1, 2, 3], slice(1, None)),
    ],
)
def test_given_tokens_stay(
    words: str, places: list[int], columns: slice, place: Path, tmp_path: Path
) -> None:
    assert run(place, tmp_path / "dream.npy", "--video", "clip.mp4", *words.split()) == 0
    dreamt = torch.from_numpy(np.load(tmp_path / "dream.npy"))
    given = tokens_of_clip(place)[places][..., columns]
    assert torch.equal(dreamt[places][..., columns], given)
    assert dreamt.numel() > given.numel()


def test_the_seed_decides_the_dream(place: Path, tmp_path: Path) -> None:
    dreams = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        out = tmp_path / f"{name}.npy"
        assert run(place, out, "--image", "first.png", "--seed", seed) == 0
        dreams.append(np.load(out))
    assert (dreams[0] == dreams[1]).all()
    assert (dreams[0] != dreams[2]).any()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--task image-to-vido --image first.png", "Did you mean 'image-to-video'?"),
        ("--task text-to-video", "Expected --prompt"),
        ("--task inpainting --video clip.mp4", "--box"),
        ("--task inpainting --video clip.mp4 --box 40 0 16 16", "within the 48x32"),
        ("--task inpainting --video clip.mp4 --mask first.png --box 0 0 8 8", "one."),
        ("--video clip.mp4 --mask black.png", "white pixels"),
        ("--task stylization --video clip.mp4", "--prompt"),
        ("--image first.png --box 0 0 8 8 --task image-to-video", "inpainting only"),
        ("--image first.png last.png --task image-to-video", "one --image"),
        ("--image text.png", "Expected an image"),
        ("--image nothing.png", "found nothing"),
        ("--image first.png --actions nan.npy", "NaN"),
        ("--image first.png --actions nan.json", "NaN"),
        ("--image first.png --actions short.npy", "3 rows"),
        ("--image first.png --actions wide.npy", "found 5"),
        ("--image first.png --actions first.png", ".csv"),
        ("--video text.mp4", "text.mp4"),
        ("--video empty.mp4", "empty"),
        ("--video cut.mp4", "truncated"),
        ("--video one.mp4 --task stylization --prompt night", "found 1"),
        ("--video clip.mp4 --box 0 0 8 8 --num-frames 9", "beyond one window"),
        ("--video clip.mp4 --num-context 4", "--num-context"),
        ("--image first.png --num-frames 1", "--num-frames"),
        ("--image first.png --steps 0", "num_steps"),
        ("--image first.png --temperature -1", "temperatures"),
        ("--image first.png --device cuda:99", "GPU"),
    ],
)
def test_bad_input_is_one_clear_line_and_writes_nothing(
    words: str, said: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, tmp_path / "new" / "dream.mp4", *words.split()) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_damaged_or_foreign_model_is_named(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "dream.mp4"

    def damaged(change: str) -> str:
        model = tmp_path / change
        shutil.copytree(place / "model", model)
        weights = model / "model.safetensors"
        if change == "cut":
            weights.write_bytes(weights.read_bytes()[:1000])
        elif change == "other":
            config = json.loads((model / "config.json").read_text())
            (model / "config.json").write_text(json.dumps(config | {"system": "worlddreamr"}))
        elif change == "weights":
            weights.unlink()
        elif change == "decoding":
            (model / "generation_config.json").write_text('{"num_steps": 0}')
        assert main(["generate", str(model), "--prompt", "night", "--out", str(out)]) == 2
        return capsys.readouterr().err

    assert "model.safetensors" in damaged("cut")
    assert "'worlddreamr'" in damaged("other")
    assert "model.safetensors" in damaged("weights")
    assert "generation_config.json" in damaged("decoding")
    assert main(["generate", str(tmp_path / "no"), "--prompt", "x", "--out", str(out)]) == 2
    assert "config.json" in capsys.readouterr().err
    assert not out.parent.exists()


def test_the_output_is_checked_before_the_work(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "dream.avi", tmp_path / "file" / "dream.mp4"):
        assert run(place, out, "--image", "first.png") == 2
        assert "--out" in capsys.readouterr().err


def test_ctrl_c_while_writing_leaves_nothing(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(self: VideoEncoder) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoEncoder, "close", interrupt)
    assert run(place, tmp_path / "dream.mp4", "--image", "first.png") == 130
    assert "Ctrl-C" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_names_every_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(task in shown for task in TASKS)


def test_load_gives_a_system_in_eval_mode(place: Path) -> None:
    system = maskworld.load(str(place / "model"))
    assert isinstance(system, WorldDreamer)
    assert not system.training
