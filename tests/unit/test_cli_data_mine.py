"""`maskworld data mine`: from worlds to a pool, and clear refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from maskworld.cli.main import main
from maskworld.preparation.mining_pool import NegativePool, attach_negatives
from maskworld.preparation.planning_clips import collect_planning_clips

WORDS = ["data", "mine", "--worlds", "1", "2", "--clips-per-world", "4", "--num-past", "3",
         "--num-future", "2", "--num-steps", "75", "--num-candidates", "6", "--dim", "16",
         "--fit-steps", "5"]  # fmt: skip


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "pool"
    assert main([*WORDS, "--out", str(folder)]) == 0
    return folder


def test_help_comes_without_torch_and_numpy() -> None:
    code = (
        "import sys; from maskworld.cli.main import main; "
        "codes = [main(['data']), main(['data', 'mine', '--help'])]; "
        "heavy = {'torch', 'numpy', 'cv2', 'shapely'} & set(sys.modules); "
        "assert codes == [0, 0] and not heavy, (codes, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "hard negatives for planners" in done.stdout
    assert "--workers" in done.stdout
    assert "maskworld data mine --out pool" in done.stdout


def test_the_pool_fits_the_clips_that_a_planner_trains_on(pool: Path) -> None:
    mined = NegativePool.load(pool)
    clips = collect_planning_clips([1, 2], 4, num_past=3, num_future=2, size=(16, 24), num_steps=75)
    experts = [clip for clip in clips if clip.plan is not None and clip.plan.trajectory is not None]
    assert len(mined) == len(experts) == 4
    assert mined.candidates.shape == (4, 6, 8, 3)
    attached = attach_negatives(clips, mined, threshold=2.0)
    assert sum(c.plan is not None and c.plan.negative is not None for c in attached) == 4


def test_a_run_prints_shares_and_a_saved_generator_gives_the_same_pool(
    pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "again"
    given = ["--generator", str(pool / "generator"), "--workers", "2"]
    assert main([*WORDS, "--out", str(out), *given]) == 0
    text = capsys.readouterr().out
    assert "4 scenes, 6 candidates each" in text
    assert "scenes with an unsafe candidate (PDMS < 0.6):" in text
    assert "s per scene by the clock" in text
    assert (out / "pool.safetensors").read_bytes() == (pool / "pool.safetensors").read_bytes()
    assert not (out / "generator").exists()


def test_resume_of_a_finished_pool_mines_nothing(
    pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*WORDS, "--out", str(pool), "--resume"]) == 0
    text = capsys.readouterr().out
    assert "4 scenes were scored by an earlier run" in text
    assert "by the clock" not in text
    assert main([*WORDS, "--out", str(pool), "--resume", "--dim", "32"]) == 2
    assert "--dim" in capsys.readouterr().err


def test_refusals_come_before_the_work(
    pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*WORDS, "--out", str(pool)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    out = tmp_path / "new"
    assert main([*WORDS, "--out", str(out), "--held-out", "2", "9"]) == 2
    assert "held-out ones among --worlds: 2 to 2" in capsys.readouterr().err
    assert main(["data", "mine", "--out", str(out), "--worlds", "5", "2"]) == 2
    assert "FIRST <= LAST" in capsys.readouterr().err
    assert main([*WORDS, "--out", str(out), "--generator", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
    assert not out.exists()
