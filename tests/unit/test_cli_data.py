"""`maskworld data ...`: every command from words to files, and clear refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from nuscenes_tables import make_nuscenes

from maskworld.cli import data, data_commands
from maskworld.cli.main import main
from maskworld.data.lerobot import LeRobotSource
from maskworld.data.sources.tokens import TokenSource
from maskworld.data.video_files import write_video


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Two moving videos of 20 frames, with captions."""
    rng = np.random.default_rng(0)
    for k in range(2):
        world = cv2.resize(rng.integers(0, 256, (4, 16, 1), dtype=np.uint8), (240, 48))
        frames = np.stack([np.stack([world[:, 2 * i : 2 * i + 64]] * 3, -1) for i in range(20)])
        write_video(tmp_path / f"in/{k}.mp4", frames, 10.0)
        (tmp_path / f"in/{k}.txt").write_text(f"video {k}")
    return tmp_path / "in"


def test_help_comes_without_torch() -> None:
    code = (
        "import sys; from maskworld.cli.data import main; "
        "codes = [main([]), main(['import']), main(['import', 'video', '--help'])]; "
        "heavy = {'torch', 'cv2', 'av', 'pyarrow'} & set(sys.modules); "
        "assert codes == [0, 0, 0] and not heavy, (codes, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "import nuscenes" in done.stdout
    assert "maskworld data import video drive.mp4" in done.stdout


@pytest.mark.parametrize("command", data.COMMANDS, ids=lambda c: " ".join(c.words))
def test_every_command_has_help_and_examples_that_parse(
    command: data.Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert data.main([*command.words, "--help"]) == 0
    shown = capsys.readouterr().out
    examples = shown.partition("examples:\n")[2]
    lines = [line.partition("#")[0] for line in examples.strip().splitlines()]
    assert lines
    ran: list[object] = []
    monkeypatch.setattr(data_commands, "run_command", lambda options: ran.append(options) or 0)
    for line in lines:
        words = line.replace('"', "").split()
        assert words[:2] == ["maskworld", "data"]
        assert data.main(words[2:]) == 0
    assert {type(options) for options in ran} == {command.options}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["colect"], "Did you mean 'collect'"),
        (["import", "vidoe", "x"], "after 'import', found 'vidoe'. Did you mean 'video'"),
        (["curate", "nowhere", "--out", "x"], "nowhere"),
        (["check", "nowhere"], "nowhere"),
        (["show", "nowhere", "--out", "x.gif"], r"\.png"),
        (["import", "video", "nowhere", "--out", "x", "--masks", "robot"], "CLASS=FILE"),
    ],
)
def test_what_cannot_be_done_says_so_and_leaves_nothing(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        data.main(words)
    assert list(tmp_path.iterdir()) == []


def test_unknown_options_are_reported_by_the_parser(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "x", "--smaple", "3"]) == 2
    assert "--smaple" in capsys.readouterr().err


def test_videos_are_imported_checked_and_shown(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    words = ["import", "video", str(videos), "--out", str(out), "--size", "24", "32", "--fps", "5"]
    assert data.main(words) == 0
    assert "2 episodes, 20 frames" in capsys.readouterr().out
    source = LeRobotSource(out)
    assert (source.size, source.fps, source.episode(1).caption) == ((24, 32), 5.0, "video 1")
    assert data.main(["check", str(out), "--num-frames", "4"]) == 0
    text = capsys.readouterr().out
    assert "14 clips of 4 frames" in text
    assert "No problem found." in text
    assert data.main(["show", str(out), "--out", str(tmp_path / "sheet.png")]) == 0
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet is not None
    assert sheet.shape[1] > 8 * 168
    with pytest.raises(ValueError, match="exists already"):
        data.main(words)
    assert data.main([*words, "--overwrite"]) == 0


def test_checking_a_folder_with_a_bad_video_lists_it_and_fails(
    videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (videos / "1.mp4").write_text("text")
    assert main(["data", "check", str(videos)]) == 2
    text = capsys.readouterr().out
    assert "1.mp4" in text
    assert "1 problem found" in text
    assert "1 episode, 20 frames" in text


def test_the_clips_of_a_recipe_are_counted(
    videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert data.main(["check", str(videos), "--recipe", "worlddreamer-tiny"]) == 0
    assert "clips of 8 frames (frame stride 2" in capsys.readouterr().out
    with pytest.raises(ValueError, match="worlddreamer-tiny"):
        data.main(["check", str(videos), "--recipe", "worlddreamer-tinny"])


def test_curation_writes_clips_and_a_report(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (videos / "metadata.csv").write_text("file_name,pwatermark\n0.mp4,0.9\n1.mp4,0.1\n")
    out, report = tmp_path / "clips", tmp_path / "report.json"
    assert data.main(["curate", str(videos), "--out", str(out), "--report", str(report)]) == 0
    assert "1 of 2 scenes kept" in capsys.readouterr().out
    assert json.loads(report.read_text())["verdicts"] == {"kept": 1, "watermark": 1}
    assert LeRobotSource(out).episode(0).caption == "video 1"
    with pytest.raises(ValueError, match="--out DIR"):
        data.main(["curate", str(videos)])


def test_tokens_and_nuscenes_are_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "a.npy", np.zeros((30, 128), dtype=np.int64))
    tokens = tmp_path / "tokens"
    assert data.main(["import", "tokens", str(tmp_path / "a.npy"), "--out", str(tokens)]) == 0
    assert TokenSource(tokens).grid == (8, 16)
    assert data.main(["show", str(tokens), "--out", str(tmp_path / "t.png")]) == 0
    root = make_nuscenes(tmp_path / "nu", num_keyframes=25)
    out = str(tmp_path / "nuscenes")
    assert data.main(["import", "nuscenes", str(root), "--out", out, "--size", "18", "32"]) == 0
    text = capsys.readouterr().out
    assert "4 clips of 24 frames (frame stride 6, clip stride 6)" in text


def test_ctrl_c_says_that_a_resumable_import_goes_on(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("maskworld.preparation.importing.import_video", stop)
    words = ["import", "video", str(videos), "--out", str(tmp_path / "out")]
    with pytest.raises(KeyboardInterrupt, match="run the same command to go on"):
        data.main([*words, "--resume"])
    with pytest.raises(KeyboardInterrupt) as plain:
        data.main(words)
    assert str(plain.value) == ""


@pytest.mark.slow
def test_the_driving_world_is_collected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["collect", "drive", "--num-worlds", "1", "--episodes-per-world", "2"]
    words += ["--num-frames", "6", "--size", "32", "48", "--out", str(tmp_path / "drives")]
    assert data.main(words) == 0
    assert "2 episodes, 12 frames" in capsys.readouterr().out
    assert data.main(["check", str(tmp_path / "drives")]) == 0
