"""`maskworld score ...`: from scene files to tables and results, and clear refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pdms_scenes import agent, straight_plan, straight_road
from video_weights import randomised
from waymo_segments import write_segment

from maskworld.cli import score
from maskworld.cli.main import main
from maskworld.data.video_files import write_video
from maskworld.metrics.fid import FIDFeatures, FIDInception
from maskworld.metrics.pdms import read_scene, score_plans, write_scene
from maskworld.metrics.video_features.i3d import InceptionI3D


@pytest.fixture
def scenes(tmp_path: Path) -> list[Path]:
    """Two scenes with two plans each; in the second, a cone stands in the way."""
    plans = {"brisk": straight_plan(8.0), "slow": straight_plan(4.0)}
    cone = agent(20, 0, kind="traffic_cone")
    for i, agents in enumerate([(), (cone,)]):
        write_scene(straight_road(plans=plans, agents=agents), tmp_path / f"in/{i}.json")
    return sorted((tmp_path / "in").iterdir())


def test_help_comes_without_torch_and_numpy() -> None:
    code = (
        "import sys; from maskworld.cli.main import main; "
        "codes = [main(['score']), main(['score', '--help']), main(['score', 'pdms', '--help']), "
        "main(['score', 'fvd', '--help'])]; "
        "heavy = {'torch', 'numpy', 'shapely'} & set(sys.modules); "
        "assert codes == [0, 0, 0, 0] and not heavy, (codes, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "maskworld score pdms scene.json --out result.json" in done.stdout


def test_one_scene_gives_a_table_of_its_plans_and_a_result_file(
    scenes: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "result.json"
    assert main(["score", "pdms", str(scenes[1]), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert lines["plan"][1:8] == ["NC", "DAC", "EP", "TTC", "C", "DDC", "PDMS"]
    assert lines["brisk"][1] == "0.500"
    assert "reference (given in the scene): NC 0.5" in text
    result = json.loads(out.read_text())
    scene = read_scene(scenes[1])
    expected = score_plans(scene, straight_plan(4.0)[None])
    slow = result["results"]["slow"]
    assert slow["PDMS"] == pytest.approx(float(expected.pdms[0]), abs=1e-12)
    assert len(slow["simulated"]) == 41
    assert len(slow["simulated"][0]) == 11
    assert slow["comfort_terms"] == expected.comfort_terms[0].tolist()
    assert result["results"]["brisk"]["time_to_collision_tick"] is not None
    assert set(slow["reference"]) == {"NC", "DAC", "EP", "TTC", "C", "DDC", "PDMS", "progress_raw"}
    assert len(result["info"]["reference_tracked"]) == 41


def test_several_scenes_give_means_of_plans_of_one_name(
    scenes: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.json"
    assert main(["score", "pdms", *map(str, scenes), "--out", str(out)]) == 0
    assert "means over 2 scenes" in capsys.readouterr().out
    written = json.loads(out.read_text())
    assert list(written["scenes"]) == [str(path) for path in scenes]
    single = [written["scenes"][str(path)]["results"]["brisk"]["PDMS"] for path in scenes]
    assert single[0] != single[1]
    assert written["mean"]["brisk"]["PDMS"] == pytest.approx(sum(single) / 2)
    assert written["mean"]["brisk"]["num_scenes"] == 2


def test_the_reference_can_be_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scene.json"
    write_scene(straight_road(plans={"a": straight_plan(8.0)}, reference="idm"), path)
    out = tmp_path / "result.json"
    assert main(["score", "pdms", str(path), "--out", str(out)]) == 0
    assert "reference (PDM-Closed)" in capsys.readouterr().out
    assert len(json.loads(out.read_text())["info"]["pdm_closed_scores"]) == 15


def test_a_pool_compares_progress_among_all_plans(scenes: list[Path], tmp_path: Path) -> None:
    plans = {"brisk": straight_plan(9.0), "slow": straight_plan(4.0)}
    write_scene(straight_road(plans=plans), scenes[0])
    progress = []
    for more in ([], ["--pool"]):
        out = tmp_path / "result.json"
        assert main(["score", "pdms", str(scenes[0]), "--out", str(out), *more]) == 0
        progress.append(json.loads(out.read_text())["results"]["slow"]["EP"])
    assert progress[1] < progress[0]


def test_a_bad_scene_stops_all_unless_it_may_be_skipped(
    scenes: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes[0].write_text("{}")
    out = tmp_path / "results.json"
    line = ["score", "pdms", *map(str, scenes), "--out", str(out)]
    assert main(line) == 2
    assert "0.json: the scene: expected the keys" in capsys.readouterr().err
    assert not out.exists()
    assert main([*line, "--skip-bad"]) == 0
    said = capsys.readouterr()
    assert "means over 1 scenes" in said.out
    assert "1 of 2 scenes left out" in said.err
    assert list(json.loads(out.read_text())["scenes"]) == [str(scenes[1])]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pmds"], "Did you mean 'pdms'"),
        (["pdms"], "at least one SCENE.json"),
        (["pdms", "nowhere.json"], "nowhere.json"),
        (["pdms", "0.json", "--out", "0.json"], "it would be lost"),
        (["pdms", "0.json", "--out", "."], "found a folder"),
        (["pdms", "empty.json"], "at least one plan, found none"),
        (["pdms", "empty.json", "nowhere.json", "--skip-bad"], "2 of 2 scenes left out"),
    ],
)
def test_what_cannot_be_done_says_so(
    words: list[str],
    message: str,
    scenes: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(scenes[0].parent)
    write_scene(straight_road(), Path("empty.json"))
    before = {path: path.read_text() for path in Path().iterdir()}
    assert main(["score", *words]) == 2
    assert message in capsys.readouterr().err
    assert {path: path.read_text() for path in Path().iterdir()} == before


@pytest.mark.parametrize("command", score.COMMANDS, ids=lambda c: c.word)
def test_every_command_has_examples_that_parse(
    command: score.Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert score.main([command.word, "--help"]) == 0
    examples = capsys.readouterr().out.partition("examples:\n")[2].strip().splitlines()
    assert examples
    ran: list[object] = []
    monkeypatch.setattr(
        "maskworld.cli.score_commands.run_command", lambda options: ran.append(options) or 0
    )
    for line in examples:
        assert main(line.split()[1:]) == 0
    assert {type(options) for options in ran} == {command.options}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """real/ and dreamt/, 52 videos each of 10 frames at 10 Hz."""
    root = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for side in ("real", "dreamt"):
        (root / side).mkdir()
        for i in range(52):
            still = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
            moving = np.stack([np.roll(still, step, 1) for step in range(10)])
            write_video(root / side / f"{i:02}.mp4", moving, 10)
    return root


def score_fvd(root: Path, *words: str) -> int:
    return main(["score", "fvd", str(root / "real"), str(root / "dreamt"), *words])


def test_two_folders_without_weights_give_the_proxy_and_never_fvd(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "result.json"
    assert score_fvd(videos, "--frames", "6", "--out", str(out)) == 0
    said = capsys.readouterr().out
    assert "frechet_proxy is no FVD" in said
    result = json.loads(out.read_text())
    assert set(result["metrics"]) == {"frechet_proxy", "kernel_proxy"}
    assert result["protocol"]["frechet_proxy"]["num_frames"] == 6
    assert not [key for key in result["protocol"] if key.startswith("fvd")]
    assert main(["score", "compare", str(out), str(out)]) == 0
    assert "+0" in capsys.readouterr().out
    other = tmp_path / "other.json"
    assert score_fvd(videos, "--frames", "7", "--stride", "1", "--out", str(other)) == 0
    assert main(["score", "compare", str(out), str(other)]) == 2
    assert "num_frames: 6 and 7" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*is not (i3d|pt)_:UserWarning")
def test_weights_give_fvd_kvd_fid_and_pairs_with_the_protocol_of_each(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The networks' own arithmetic is tested elsewhere; here they are a sum and a mean."""
    torch.save(randomised(InceptionI3D(1e-5)), tmp_path / "i3d.pt")
    torch.save(randomised(FIDInception()), tmp_path / "inception.pth")
    shapes = []

    def logits(self: object, x: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(x.shape[1:]))
        return x.flatten(1)[:, :400]

    monkeypatch.setattr(InceptionI3D, "forward", logits)
    monkeypatch.setattr(FIDInception, "forward", lambda self, x: x.flatten(1)[:, :64])
    monkeypatch.setattr(FIDFeatures, "dim", 64)  # eigenvectors of 2048 would take the time
    out = tmp_path / "result.json"
    words = ["--frames", "10", "--condition-frames", "1", "--num-clips", "3", "--allow-few"]
    words += ["--weights", str(tmp_path / "i3d.pt"), "--leave-out-condition", "--paired"]
    words += ["--fid-weights", str(tmp_path / "inception.pth"), "--device", "cpu"]
    assert score_fvd(videos, *words, "--out", str(out)) == 0
    result = json.loads(out.read_text())
    assert set(result["metrics"]) == {
        *("fvd", "kvd", "fid", "kid", "psnr", "ssim", "shift_error", "frame_change_error")
    }
    assert set(shapes) == {(3, 9, 224, 224)}
    protocol = result["protocol"]
    for name in ("fvd", "kvd", "fid", "kid"):
        assert protocol[name]["metric"] == name
        assert len(protocol[name]["weights_sha256"]) == 64
        assert protocol[name]["includes_condition_frames"] is False
    assert protocol["fvd"]["backend"] == "i3d-tats"
    assert protocol["fid"]["backend"] == "inception-torchmetrics"
    assert protocol["fid_reading"]["vectors"] == [27, 27]
    assert result["metrics"]["psnr"]["n"] == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--frames", "3"], "at least 4 frames"),
        (["--frames", "11"], "too few for a clip of 11"),
        (["--frames", "6", "--num-clips", "40"], "more than 48 clips a side"),
        (["--preset", "vista"], "Did you mean 'vista-5369'"),
        (["--preset", "vista-5369", "--frames", "16"], "--frames 25 with --preset vista-5369"),
        (["--preset", "epona-1646"], "--condition-frames: Epona"),
        (["--preset", "opendwm", "--condition-frames", "1"], "too few for a clip of 16"),
        (["--frames", "6", "--backend", "i3d-tats"], "--weights with --backend"),
        (["--frames", "6", "--fid-backend", "inception-clean"], "--fid-weights"),
        (["--frames", "6", "--alexnet", "a.pth"], "--paired together"),
        (["--frames", "6", "--weights", "nowhere.pt"], "weights at nowhere.pt"),
        (["--frames", "6", "--out", "result.csv"], "end in .json"),
    ],
)
def test_what_would_make_a_meaningless_number_is_refused(
    words: list[str], message: str, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score_fvd(videos, *words) == 2
    assert message in capsys.readouterr().err


def test_real_clips_may_come_from_waymo(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_segment(tmp_path / "validation", frames=60)
    real, dreamt = str(tmp_path / "validation"), str(videos / "dreamt")
    out = tmp_path / "result.json"
    words = ["score", "fvd", real, dreamt, "--frames", "5", "--every", "1", "--out", str(out)]
    assert main([*words, "--num-clips", "52"]) == 2
    assert "(5, 3, 32, 48), found shape (4, 5, 3, 16, 16)" in capsys.readouterr().err
    assert main(["score", "fvd", real, dreamt, "--preset", "waymo-600"]) == 2
    assert "Expected 600 clips of 25 frames in waymo, found 1" in capsys.readouterr().err
