"""`maskworld generate` with a ReWorld model: dreams, what they say, and bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cli_material import moving_frames, save_micro_model, write_clip
from reworld_material import FPS, PAST, SIZE, WINDOW, save_micro_reworld

from maskworld.cli.main import main
from maskworld.data.video_files import VideoReader
from maskworld.systems.reworld import ReWorld


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, videos and actions, good and bad."""
    import cv2

    folder = tmp_path_factory.mktemp("generate_reworld")
    save_micro_reworld(folder / "model")
    save_micro_reworld(folder / "blind", future_actions=0)
    save_micro_model(folder / "worlddreamer")
    clip = write_clip(folder / "past.mp4", 12)
    write_clip(folder / "short.mp4", PAST - 1)
    (folder / "cut.mp4").write_bytes(clip.read_bytes()[:400])
    cv2.imwrite(str(folder / "first.png"), moving_frames(1)[0])
    future = np.tile(np.array([[5.0, 0.1]], np.float32), (WINDOW - PAST, 1))
    np.save(folder / "future.npy", future)
    np.save(folder / "window.npy", np.tile(future[:1], (WINDOW, 1)))
    np.save(folder / "odd.npy", future[:3])
    np.save(folder / "nan.npy", future * np.nan)
    return folder


def run(place: Path, out: Path, *words: str, model: str = "model") -> int:
    found = [str(place / word) if (place / word).is_file() else word for word in words]
    return main(["generate", str(place / model), *found, "--out", str(out)])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "gamma 1.4"),
        ("--gamma 1", "gamma 1,"),
        ("--gamma 1.8 --cfg-scale 2 --steps 3", "3 steps, gamma 1.8, cfg scale 2"),
        ("--actions future.npy", "8 frames after 9 given ones"),
        ("--actions window.npy", "8 frames after 9 given ones"),
    ],
)
def test_a_dream_continues_the_video_and_says_its_guidance(
    words: str, said: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dream.mp4"
    assert run(place, out, "--video", "past.mp4", *words.split()) == 0, capsys.readouterr().err
    assert said in capsys.readouterr().out
    with VideoReader(out) as reader:
        assert len(reader) == WINDOW
        assert reader.read([0]).shape[1:3] == SIZE
        assert reader.index.fps == pytest.approx(FPS)


def dreamt(monkeypatch: pytest.MonkeyPatch, place: Path, out: Path, *words: str) -> torch.Tensor:
    """Latents of the dream behind a command line."""
    kept = []
    original = ReWorld.generate

    def keeping(self: ReWorld, *given: object) -> object:
        kept.append(original(self, *given))  # type: ignore[arg-type]
        return kept[-1]

    with monkeypatch.context() as patch:
        patch.setattr(ReWorld, "generate", keeping)
        assert run(place, out, "--video", "past.mp4", *words) == 0
    return kept[0].latents


def test_the_last_past_frames_are_given(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maskworld.cli.reworld_dreaming import fitted
    from maskworld.recipes.open import load_reworld
    from maskworld.tokenizers.latent import encode_views

    system = load_reworld(place / "model").system
    with VideoReader(place / "past.mp4") as reader:
        last = fitted(reader.read(range(3, 12)), system)
    latents = dreamt(monkeypatch, place, tmp_path / "dream.mp4")
    assert torch.equal(latents[:, :, :2], encode_views(system.tokenizer, last[None]))


def test_seeds_and_gammas_change_the_dream(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "dream.mp4"
    one, again, other, bare = (
        dreamt(monkeypatch, place, out, *words.split())
        for words in ("--seed 1", "--seed 1", "--seed 2", "--seed 1 --gamma 1")
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert bare.shape == one.shape


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "--video"),
        ("--image first.png", "how fast things move"),
        ("--video past.mp4 --task inpainting", "one task"),
        ("--video past.mp4 --num-context 2", "it was trained with"),
        ("--video past.mp4 --box 0 0 8 8", "masks"),
        ("--video past.mp4 --temperature 0.5", "decodes no tokens"),
        ("--video past.mp4 --guidance-scale 2", "--gamma and --cfg-scale"),
        ("--video past.mp4 --num-frames 20", "--num-frames of 17"),
        ("--video past.mp4 --num-frames 25", "--num-frames of 17"),
        ("--video past.mp4 --steps 0", "num_steps >= 1"),
        ("--video past.mp4 --gamma inf", "finite --gamma"),
        ("--video short.mp4", "at least 9 past frames"),
        ("--video cut.mp4", "cut.mp4"),
        ("--video missing.mp4", "missing.mp4"),
        ("--video past.mp4 --actions odd.npy", "3 rows"),
        ("--video past.mp4 --actions nan.npy", "NaN"),
    ],
)
def test_bad_input_is_one_clear_line_and_writes_nothing(
    words: str, said: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, tmp_path / "dream.mp4", *words.split()) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_actions_for_a_model_without_are_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--video", "past.mp4", "--actions", "future.npy"]
    assert run(place, tmp_path / "dream.mp4", *words, model="blind") == 2
    assert "without future actions" in capsys.readouterr().err


def test_worlddreamer_refuses_self_guidance_with_the_reason(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--image", "first.png", "--gamma", "1.4"]
    assert run(place, tmp_path / "dream.mp4", *words, model="worlddreamer") == 2
    assert "--guidance-scale" in capsys.readouterr().err


def test_a_video_of_another_rate_is_warned_about(place: Path, tmp_path: Path) -> None:
    from maskworld.cli.generate import GenerateOptions, generate
    from maskworld.data.video_files import write_video

    write_video(tmp_path / "fast.mp4", moving_frames(12), 20.0)
    options = GenerateOptions(
        str(place / "model"), video=tmp_path / "fast.mp4", out=tmp_path / "dream.mp4"
    )
    with pytest.warns(UserWarning, match="20 frames per second"):
        generate(options)
