"""`maskworld generate` with a MaskGWM model: rounds, several cameras, stopping, and bad input."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_material import moving_frames, write_clip
from maskgwm_toy import CONFIG, FPS, SIZE, WINDOW, save_toy

from maskworld.cli import maskgwm_dreaming
from maskworld.cli.main import main
from maskworld.data.video_files import VideoReader, write_video

LENGTH = 12


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, videos and actions, good and bad."""
    import cv2

    folder = tmp_path_factory.mktemp("generate_maskgwm")
    save_toy(folder / "model")
    network = replace(CONFIG.network, action_dim=0)
    save_toy(folder / "blind", replace(CONFIG, signals=(), network=network))
    write_clip(folder / "past.mp4", 6, SIZE)
    for name, first in (("rig", 0), ("uneven", 0)):
        (folder / name).mkdir()
        for camera in ("front", "front_left"):
            write_clip(folder / name / f"{camera}.mp4", 6 + first, SIZE)
            first += name == "uneven"
    write_video(folder / "rig" / "front_left.mp4", moving_frames(6, SIZE) // 4, FPS)
    shutil.copytree(folder / "rig", folder / "fast")
    write_video(folder / "fast" / "front_left.mp4", moving_frames(6, SIZE), 2 * FPS)
    shutil.copytree(folder / "rig", folder / "lacking")
    (folder / "lacking" / "front_left.mp4").rename(folder / "lacking" / "back.mp4")
    for name, value in (("front", 200), ("front_left", 40)):
        cv2.imwrite(str(folder / f"{name}.png"), np.full((*SIZE, 3), value, np.uint8))
    rows = np.tile(np.array([[5.0, 0.1]], np.float32), (LENGTH, 1))
    np.save(folder / "drive.npy", rows)
    np.save(folder / "future.npy", rows[:-1])
    np.save(folder / "unknown.npy", rows * np.array([1, np.nan], np.float32))
    np.save(folder / "odd.npy", rows[:3])
    np.save(folder / "wide.npy", np.zeros((LENGTH, 3), np.float32))
    return folder


def run(place: Path, out: Path, *words: str, model: str = "model") -> int:
    found = [str(place / word) if (place / word).exists() else word for word in words]
    return main(["generate", str(place / model), *found, "--out", str(out)])


def test_a_long_dream_comes_round_by_round_and_leaves_no_rounds(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dream.mp4"
    words = ["--video", "past.mp4", "--num-frames", str(LENGTH), "--num-context", "2"]
    assert run(place, out, *words, "--steps", "1") == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    # 2 given, then 3 of each window of 5
    assert [line for line in said.splitlines() if line.endswith(f"of {LENGTH} frames")] == [
        f"{done} of {LENGTH} frames" for done in (2, 5, 8, 11, 12)
    ]
    assert "10 frames after 2 given, 1 steps" in said
    with VideoReader(out) as reader:
        assert len(reader) == LENGTH
        assert reader.read([0]).shape[1:3] == SIZE
        assert reader.index.fps == pytest.approx(FPS)
    assert list(tmp_path.iterdir()) == [out]


def stopping_after(rounds: int) -> Callable[..., None]:
    """`RolloutFolder.add` that is interrupted after so many rounds."""
    add, count = maskgwm_dreaming.RolloutFolder.add, [0]

    def interrupted(folder: object, one: object) -> None:
        add(folder, one)  # type: ignore[arg-type]
        count[0] += 1
        if count[0] == rounds:
            raise KeyboardInterrupt

    return interrupted


def test_a_stopped_dream_goes_on_to_the_same_video(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--video", "rig", "--actions", "drive.npy", "--num-frames", str(LENGTH)]
    whole, stopped = tmp_path / "whole.mp4", tmp_path / "stopped.mp4"
    assert run(place, whole, *words) == 0, capsys.readouterr().err
    for rounds in (1, 2):  # stopped twice
        with monkeypatch.context() as patch:
            patch.setattr(maskgwm_dreaming.RolloutFolder, "add", stopping_after(rounds))
            assert run(place, stopped, *words) == 130
        assert "the same command goes on" in capsys.readouterr().err
        assert not stopped.exists()
    assert run(place, stopped, *words, "--seed", "3") == 2  # not another dream's
    assert "seed was 0, is 3" in capsys.readouterr().err
    assert run(place, stopped, *words[:2], *words[4:]) == 2
    assert "actions was" in capsys.readouterr().err
    assert run(place, stopped, *words) == 0
    assert "going on after" in capsys.readouterr().out
    assert stopped.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stopped.mp4", "whole.mp4"]


def test_a_damaged_round_is_named(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, words = tmp_path / "dream.mp4", ["--image", "front.png", "--num-frames", "9"]
    with monkeypatch.context() as patch:
        patch.setattr(maskgwm_dreaming.RolloutFolder, "add", stopping_after(1))
        assert run(place, out, *words) == 130
    kept = tmp_path / "dream.mp4.rounds" / "round-00000.npz"
    kept.write_bytes(kept.read_bytes()[:100])
    capsys.readouterr()
    assert run(place, out, *words) == 2
    assert "round-00000.npz, found a damaged file" in capsys.readouterr().err


def first_frame(path: Path) -> np.ndarray:
    with VideoReader(path) as reader:
        return reader.read([0])[0].astype(float)


@pytest.mark.parametrize("words", ["--image front_left.png front.png", "--video rig"])
def test_cameras_stand_side_by_side_in_the_models_order_whatever_the_order_of_files(
    words: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dream.mp4"
    assert run(place, out, *words.split()) == 0, capsys.readouterr().err
    assert "of front, front_left" in capsys.readouterr().out
    frame = first_frame(out)
    assert frame.shape[:2] == (SIZE[0], 2 * SIZE[1])
    left, right = frame[:, : SIZE[1]], frame[:, SIZE[1] :]
    assert left.mean() > right.mean() + 30  # front is the lighter one
    again = tmp_path / "again.mp4"  # what it writes it also reads
    assert run(place, again, "--video", str(out), "--num-frames", str(WINDOW)) == 0
    assert first_frame(again).shape == frame.shape


def test_actions_change_the_dream_and_may_be_the_future_alone_or_not_known(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--image", "front.png", "--num-frames", str(LENGTH)]
    found = {}
    for name in ("drive", "future", "unknown", ""):
        told = ["--actions", f"{name}.npy"] if name else []
        assert run(place, tmp_path / "d.mp4", *words, *told) == 0, capsys.readouterr().err
        found[name] = (tmp_path / "d.mp4").read_bytes()
    assert len(set(found.values())) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--num-frames 9", "--image or --video"),
        ("--image front.png --video past.mp4", "--image or --video"),
        ("--image front.png --num-frames 1", "above the 1 given"),
        ("--video past.mp4 --num-context 3", "--num-context of 1 to 2"),
        ("--video lacking", "no front_left (back.mp4, front.mp4)"),
        ("--video uneven", "to end at one moment"),
        ("--video fast", "front.mp4 5, front_left.mp4 10"),
        ("--image front.png --actions odd.npy --num-frames 12", "columns are speed, yaw_rate"),
        ("--image front.png --actions wide.npy --num-frames 12", "columns are speed, yaw_rate"),
        ("--image front.png --gamma 2", "no --gamma"),
        ("--image front.png --temperature 1", "no --temperature"),
        ("--image front.png front_left.png front.png", "files of other cameras too"),
    ],
)
def test_bad_input_is_told_before_anything_is_written(
    words: str, said: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, tmp_path / "dream.mp4", *words.split()) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_model_without_actions_takes_none(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--image", "front.png", "--actions", "drive.npy", "--num-frames", "12"]
    assert run(place, tmp_path / "dream.mp4", *words, model="blind") == 2
    assert "trained without actions" in capsys.readouterr().err
