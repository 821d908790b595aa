"""`maskworld train maskgwm-...`: stages in turn, cameras and signals by name, and bad input."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from cli_material import moving_frames, write_clip
from maskgwm_toy import CONFIG, RECIPE, SIZE
from nuscenes_tables import SPEED, YAW_RATE, make_nuscenes

from maskworld.cli import maskgwm_training
from maskworld.cli.main import main
from maskworld.cli.maskgwm_data import CAMERAS_FILE, open_clips, open_recordings
from maskworld.conditioning.signals import VISTA_SIGNALS, Signal
from maskworld.data.lerobot import LeRobotWriter
from maskworld.data.video_files import write_video
from maskworld.nn.weights_io import read_safetensors
from maskworld.preparation.collect import collect_drive
from maskworld.recipes.open import load_maskgwm
from maskworld.systems.maskgwm import MaskGWM
from maskworld.training.checkpoint import list_checkpoints
from maskworld.weights.sd3 import to_published

MICRO = ["maskgwm-micro", "--steps", "2", "--batch-size", "2", "--sample-every", "0"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drives of two cameras, videos of one, pictures, and what cannot be trained on."""
    folder = tmp_path_factory.mktemp("train_maskgwm")
    collect_drive(
        folder / "drives",
        num_worlds=1,
        episodes_per_world=2,
        num_frames=12,
        size=SIZE,
        num_cameras=2,
    )
    write_clip(folder / "clips" / "a.mp4", 12, SIZE)
    np.save(folder / "clips" / "a.npy", np.full((12, 2), np.nan, np.float32))
    for name, rate in (("slow", 3.0), ("mixed", 5.0), ("mixed", 10.0)):
        write_video(folder / name / f"{rate:g}.mp4", moving_frames(12, SIZE), rate)
    (folder / "images").mkdir()
    for number in range(3):
        cv2.imwrite(str(folder / "images" / f"{number}.png"), moving_frames(9, SIZE)[3 * number])
    np.save(folder / "codes.npy", np.random.default_rng(0).integers(0, 1024, (12, 128)))
    write_rig(folder / "strange", ("front", "back"))
    write_rig(folder / "robot", ("front",), ["shoulder", "elbow"])
    write_rig(folder / "arm", ("front",), ["wrist", "elbow"])
    return folder


def write_rig(root: Path, views: tuple[str, ...], names: list[str] | None = None) -> Path:
    """Noise, with actions 0, 1, ... in the columns of these names, growing by 1 per frame."""
    frames = np.random.default_rng(0).integers(0, 256, (len(views), 12, 3, *SIZE)).astype(np.uint8)
    with LeRobotWriter(root, fps=5, size=SIZE, views=views, action_names=names) as writer:
        rows = np.arange(12)[:, None] + np.arange(len(names or ()))[None]
        actions = {"actions": rows.astype(np.float32)} if names else {}
        writer.add_episode(frames=frames, caption="", **actions)
    return root


@pytest.fixture(autouse=True)
def micro(monkeypatch: pytest.MonkeyPatch) -> None:
    use_micro(monkeypatch)


def use_micro(patch: pytest.MonkeyPatch, recipe: Any = RECIPE) -> None:
    from maskworld.recipes import load_recipe

    def found(name: str) -> Any:
        return recipe if name.startswith("maskgwm-") else load_recipe(name)

    patch.setattr("maskworld.cli.training.load_recipe", found)
    patch.setattr(maskgwm_training, "FIT_FRAMES", 40)


def run(place: Path, out: Path, *words: str) -> int:
    found = [str(place / word) if (place / word).exists() else word for word in words]
    return main(["train", *found, "--out", str(out)])


@pytest.fixture(scope="module")
def trained(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run through all stages on everything at once."""
    out = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        use_micro(patch)
        words = [*MICRO[:-1], "2", "--data", "drives", "clips", "images"]
        assert run(place, out, *words) == 0
    return out


def test_all_stages_run_on_images_one_camera_and_several(trained: Path) -> None:
    lines = (trained / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["stage"] for line in lines] == ["image", "video", "masked"]
    assert len(list((trained / "samples").iterdir())) == 2  # images have no future to draw
    release = load_maskgwm(trained / "model")
    assert release.system.config.num_views == 2
    assert json.loads((trained / "model" / CAMERAS_FILE).read_text()) == {
        "cameras": ["front", "front_left"]
    }


def test_a_stopped_run_goes_on_bit_for_bit(trained: Path, place: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(trained, again)
    checkpoints = list_checkpoints(again / "checkpoints")
    for _, folder in checkpoints[1:]:
        shutil.rmtree(folder)
    shutil.rmtree(again / "model")
    words = [*MICRO[:-1], "2", "--data", "drives", "clips", "images", "--resume"]
    assert run(place, again, *words) == 0
    straight, resumed = (
        read_safetensors(run_ / "model" / "model.safetensors") for run_ in (trained, again)
    )
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_the_baseline_has_the_same_network_without_the_branch(place: Path, tmp_path: Path) -> None:
    words = [*MICRO, "--data", "drives", "--no-reconstruction", "--stages", "video", "masked"]
    assert run(place, tmp_path / "run", *words, "--init", str(save(tmp_path))) == 0
    config = load_maskgwm(tmp_path / "run" / "model").system.config
    assert config.reconstruction is None
    assert config.network == CONFIG.network
    names = read_safetensors(tmp_path / "run" / "model" / "model.safetensors")
    assert not [name for name in names if name.startswith(("branch.", "mask_tokens."))]


def save(folder: Path) -> Path:
    from maskgwm_toy import save_toy

    return save_toy(folder / "toy")


def test_later_stages_grow_a_model_of_one_camera_without_actions(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--learning-rate", "1e-12"]
    (tmp_path / "plain").mkdir()
    shutil.copy(place / "clips" / "a.mp4", tmp_path / "plain")
    small = tmp_path / "small"
    begin = [*MICRO, *words, "--data", str(tmp_path / "plain"), "--stages", "image", "video"]
    with pytest.warns(UserWarning, match=r"have 1 \(front\): it is trained with 1"):
        assert run(place, small, *begin) == 0
    capsys.readouterr()
    config = load_maskgwm(small / "model").system.config
    assert (config.num_views, config.signals) == (1, ())
    grown = [*MICRO, *words, "--data", "drives", "--init", f"{small}/model", "--stages", "masked"]
    assert run(place, tmp_path / "grown", *grown) == 0
    assert "new beside --init: signals, temporal, views" in capsys.readouterr().err
    after = load_maskgwm(tmp_path / "grown" / "model").system
    assert after.config.num_views == 2
    assert [signal.name for signal in after.config.signals] == ["speed", "yaw_rate"]
    before = read_safetensors(small / "model" / "model.safetensors")
    kept = dict(after.state_dict())
    for name, value in before.items():
        torch.testing.assert_close(kept[name], value, atol=1e-6, rtol=0, msg=name)


def test_published_weights_start_the_network(place: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(3)
    network = MaskGWM(CONFIG).network
    tensors = {k: v.contiguous() for k, v in to_published(network.state_dict()).items()}
    save_file(tensors, tmp_path / "sd3.safetensors")
    words = [*MICRO, "--data", "drives", "--stages", "image", "--learning-rate", "1e-12"]
    words += ["--video-weights", str(tmp_path / "sd3.safetensors")]
    assert run(place, tmp_path / "run", *words) == 0
    found = load_maskgwm(tmp_path / "run" / "model").system.network
    torch.testing.assert_close(found.patch_in.weight, network.patch_in.weight, atol=1e-6, rtol=0)


def test_several_lengths_are_the_models_and_data_come_as_long_as_the_longest(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*MICRO, "--data", "drives", "--num-frames", "4", "6", "5", "--stages", "masked"]
    assert run(place, tmp_path / "run", *words, "--init", str(save(tmp_path))) == 0
    assert "clips of 6 frames" in capsys.readouterr().err
    config = load_maskgwm(tmp_path / "run" / "model").system.config
    assert (config.num_frames, config.clip_lengths) == (6, (4, 5, 6))


# -------------------------------------------------------------------------------------- signals


def rows_of(path: Path, signals: tuple[Signal, ...], camera: str = "front") -> torch.Tensor:
    recordings = open_recordings([str(path)], [camera])[0]
    fps = 6.0 if (path / "v1.0-mini").exists() else 5.0
    actions = open_clips(recordings, 4, SIZE, fps, signals)[0].actions
    assert actions is not None
    return actions


def test_signals_are_found_by_name_whatever_the_order_of_the_columns(tmp_path: Path) -> None:
    wanted = (Signal("speed", 1), Signal("yaw_rate", 1))
    straight = rows_of(write_rig(tmp_path / "a", ("front",), ["speed", "yaw_rate"]), wanted)
    swapped = rows_of(write_rig(tmp_path / "b", ("front",), ["yaw_rate_rad", "Speed"]), wanted)
    assert torch.equal(straight, swapped.flip(1))
    alone = rows_of(write_rig(tmp_path / "c", ("front",), ["speed", "gear"]), wanted)
    assert torch.equal(alone[:, 0], straight[:, 0])
    assert bool(alone[:, 1].isnan().all())  # not known
    with pytest.raises(ValueError, match=r"speed \(1\), yaw_rate \(1\).*gear, brake"):
        rows_of(write_rig(tmp_path / "d", ("front",), ["gear", "brake"]), wanted)


def test_poses_tell_the_papers_signals(tmp_path: Path) -> None:
    """A car on a circle: its chord and arc are known."""
    rows = rows_of(make_nuscenes(tmp_path, num_keyframes=9), VISTA_SIGNALS)
    command, waypoints, speed, rest = rows[0, :1], rows[0, 1:9], rows[0, 9:13], rows[:, 13:]
    assert bool(command.isnan().all())  # no route is there
    turned = YAW_RATE * torch.tensor([0.5, 1.0, 1.5, 2.0])
    radius = SPEED / YAW_RATE
    expected = torch.stack([radius * turned.sin(), radius * (1 - turned.cos())], dim=1)
    torch.testing.assert_close(waypoints.view(4, 2), expected, atol=0.05, rtol=0)
    torch.testing.assert_close(speed, torch.full((4,), SPEED), atol=0.05, rtol=0)
    assert bool(rest.isnan().all())  # steering and goal are in no pose
    late = rows_of(make_nuscenes(tmp_path / "short", num_keyframes=4), VISTA_SIGNALS)[-1]
    assert bool(late[7:9].isnan().all())  # 2 s on, the drive has ended
    assert bool(late[1:3].isfinite().all())


def test_a_new_model_takes_the_actions_that_the_data_have(place: Path, tmp_path: Path) -> None:
    words = [*MICRO, "--data", "robot", "--stages", "image", "video"]
    assert run(place, tmp_path / "run", *words) == 0
    signals = load_maskgwm(tmp_path / "run" / "model").system.config.signals
    assert [signal.name for signal in signals] == ["shoulder", "elbow"]
    assert signals[0].scale == pytest.approx(np.arange(12).std())


# ------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--data drives --cameras front back", "no back (it has front, front_left)"),
        ("--data drives strange", "found no front_left"),
        ("--data drives --cameras front FRONT", "different cameras"),
        ("--data clips --cameras front front_left", "one without a name"),
        ("--data slow", "found 3 in"),
        ("--data mixed", "5 to 10 per second"),
        ("--data images", "--stages image"),
        ("--data codes.npy", "found tokens"),
        ("--data robot arm", "one layout"),
        ("--data drives --num-frames 2", "above 2"),
        ("--data drives --num-frames 40", "at most 12 frames"),
        ("--data drives --frame-size 16 40", "--frame-size 16 32"),
        ("--data drives --frame-size 20 32", "multiples of 8"),
        ("--data drives --stages masked", "--init"),
        ("--data drives --stages maskd", "Did you mean 'masked'?"),
        ("--data drives --pool x", "of ReWorld only"),
        ("--data drives --tokenizer x", "trains its own"),
        ("--data nothing", "found nothing"),
    ],
)
def test_bad_input_is_told_before_the_run_folder_is_made(
    words: str, said: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, tmp_path / "run", "maskgwm-micro", *words.split()) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("worlddreamer-tiny --cameras front", "--cameras with a recipe of MaskGWM only"),
        ("reworld-tiny --no-reconstruction", "--no-reconstruction with a recipe of MaskGWM only"),
        ("worlddreamer-tiny --num-frames 8 9", "one --num-frames"),
    ],
)
def test_other_systems_refuse_its_options(
    words: str, said: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, tmp_path / "run", *words.split(), "--data", "drives") == 2
    assert said in capsys.readouterr().err


def test_a_recipe_of_one_camera_says_that_it_joins_none(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = replace(CONFIG.network, view_attention="none")
    alone = replace(RECIPE, system=replace(CONFIG, network=network, num_views=1))
    use_micro(monkeypatch, alone)
    words = [*MICRO, "--data", "drives", "--cameras", "front", "front_left"]
    assert run(place, tmp_path / "run", *words) == 2
    assert "which joins none" in capsys.readouterr().err
