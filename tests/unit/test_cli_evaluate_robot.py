"""`maskworld evaluate` and `serve` of a Mask World Model: masks, success, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mask_world_model_material import FEW, SIZE, batch_of, micro_config, micro_model
from metaworld_gl import needs_gl
from robot_recordings import CLASSES, VIEWS, write_robot
from robot_toy import LineWorld

from maskworld.cli import robot_scoring
from maskworld.cli.main import main
from maskworld.cli.robot_data import STATISTICS_FILE
from maskworld.cli.serve import ServeOptions, spec_of
from maskworld.data.control_statistics import ControlStatistics
from maskworld.recipes.open import load_mask_world_model, save_release
from maskworld.systems.mask_world_model import MaskWorldModel
from maskworld.types import Observation
from maskworld.worlds.metaworld import software_gl


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with statistics of its robot, held-out recordings, and other models."""
    folder = tmp_path_factory.mktemp("evaluate_robot")
    write_robot(folder / "robot", 4, length=40, num_actions=4)
    write_robot(folder / "unmasked", 2, has_masks=False)
    write_robot(folder / "single", 2, views=("front",))
    save_model(folder / "model", awake=True)
    save_model(folder / "other")
    save_release(micro_model(micro_config(target="rgb")), folder / "rgb", FEW)
    return folder


def save_model(folder: Path, *, awake: bool = False) -> None:
    save_release(micro_model(awake=awake), folder, FEW)
    save_statistics(folder, 3, VIEWS, 20)


def save_statistics(folder: Path, state_dim: int, views: tuple[str, ...], fps: int) -> None:
    numbers = {"min": -1.0, "max": 1.0, "mean": 0.0, "std": 1.0, "q01": -1.0, "q99": 1.0}
    stats = {
        name: {key: [value] * width for key, value in numbers.items()}
        for name, width in (("action", 4), ("observation.state", state_dim))
    }
    ControlStatistics(stats, fps, list(views)).save(folder / STATISTICS_FILE)


def run(place: Path, out: Path, *words: str, model: str = "model") -> int:
    found = [str(place / word) if (place / word).exists() else word for word in words]
    return main(["evaluate", str(place / model), *found, "--out", str(out)])


def test_dreamt_masks_are_scored_beside_copying_at_every_step(place: Path, tmp_path: Path) -> None:
    words = ["--data", "robot", "--num-clips", "6", "--batch-size", "4"]
    assert run(place, tmp_path / "scores", *words) == 0
    found = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    curves = found["metrics"]["mask_iou"]["per_horizon"]
    assert {name: len(curve) for name, curve in curves.items()} == {
        "model": 5, "copy_last": 5, "reconstruction": 5,
    }  # fmt: skip
    assert curves["copy_last"][0] > curves["copy_last"][-1]  # things move
    assert curves["reconstruction"][-1] > curves["model"][-1]
    assert found["protocol"]["mask_rollouts"]["classes"] == list(CLASSES)
    assert found["protocol"]["clips"] == 6
    assert len(list((tmp_path / "scores" / "videos").iterdir())) == 6
    assert "Dreamt masks" in (tmp_path / "scores" / "report.html").read_text()


class ToyMaker:
    """Stands in for Meta-World: pictures of two cameras, a goal on a line."""

    opened = 0

    def __init__(self, size: tuple[int, int], cameras: tuple[str, ...]) -> None:
        self.size, self.cameras = size, cameras

    def describe(self) -> dict[str, Any]:
        return {"name": "toy", "size": list(self.size), "cameras": list(self.cameras)}

    def __call__(self, task: str, perturbation: str) -> Any:
        type(self).opened += 1
        return ToyWorld(task, perturbation, self.size)


class ToyWorld(LineWorld):
    def __init__(self, task: str, perturbation: str, size: tuple[int, int]) -> None:
        super().__init__(task, "dark" if perturbation == "light=0.5" else "")
        self.size = size

    def _observe(self) -> Observation:
        seen = super()._observe()
        frames = seen.frames[:, :, :1, :1].expand(2, 3, *self.size).contiguous()
        return Observation(frames, seen.state.expand(3).contiguous(), seen.instruction)


def test_success_is_told_clean_perturbed_and_pruned_and_no_episode_runs_twice(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(robot_scoring, "MetaWorldMaker", ToyMaker)
    monkeypatch.setattr(robot_scoring, "WorldExpert", ToyExpert)
    words = ["--world", "metaworld", "--tasks", "drawer-open-v3", "--episodes", "3"]
    words += ["--workers", "0", "--step-limit", "12", "--exec-steps", "3", "--seed", "1"]
    more = ["--perturb", "light=0.5", "--prune", "0.5", "--beside", "expert", "twin=OTHER"]
    more = [word.replace("OTHER", str(place / "other")) for word in more]
    out = tmp_path / "scores"
    assert run(place, out, *words, *more) == 0, capsys.readouterr().err
    found = json.loads((out / "metrics.json").read_text())
    success = found["metrics"]["success"]
    assert success["n"] == 3
    assert success["expert"] == 1.0
    assert {"expert", "random", "twin"} <= set(success)
    assert found["metrics"]["success_under/light-0.5"]["n"] == 3
    told = found["protocol"]["manipulation"]
    assert told["policies"]["model"]["exec_steps"] == 3
    assert told["policies"]["pruned 0.5"]["p_prune"] == 0.5
    assert told["steps"] == {"limit": 12, "counts": "env_steps", "horizon": None}
    page = (out / "report.html").read_text()
    assert "scripted expert" in page
    assert "light=0.5" in page

    opened = ToyMaker.opened
    assert run(place, out, *words, *more) == 0
    assert ToyMaker.opened == opened
    assert run(place, out, *words, model="other") != 0
    assert "some of other weights called model" in capsys.readouterr().err


class ToyExpert:
    """Knows the way, in the first of four numbers."""

    def bind(self, world: ToyWorld) -> None:
        self.world = world

    def reset(self, seed: int) -> None:
        pass

    def act(self, observation: Observation) -> Any:
        return self.world.expert_action()


@needs_gl
def test_a_model_acts_in_metaworld_itself(tmp_path: Path) -> None:
    for name in ("model", "other"):
        save_for_metaworld(tmp_path / name)
    words = ["--world", "metaworld", "--tasks", "drawer-open-v3", "--episodes", "2"]
    words += ["--workers", "0", "--step-limit", "5", "--perturb", "light+camera-shift"]
    words += ["--prune", "0.5", "--beside", "expert", "twin=OTHER"]
    words = [word.replace("OTHER", str(tmp_path / "other")) for word in words]
    out = tmp_path / "scores"
    assert run(tmp_path, out, *words) == 0
    found = json.loads((out / "metrics.json").read_text())
    assert found["metrics"]["success"]["n"] == 2
    assert found["metrics"]["success_under/light.camera-shift"]["twin"] == 0.0
    told = found["protocol"]["manipulation"]
    assert told["world"]["cameras"] == ["corner4", "gripperPOV"]
    assert told["world"]["size"] == list(SIZE)
    assert told["endings"]["model"] == {"limit": 4}
    assert told["endings"]["expert"] == {"limit": 2}
    assert "no episode succeeds without dropping" in found["protocol"]["pruning"]
    lines = (out / "episodes" / "episodes.jsonl").read_text().splitlines()
    assert len(lines) == 2 * (2 * 2 + 1 + 1 + 1)  # clean and perturbed twice; once the others
    assert run(tmp_path, out, *words) == 0
    assert (out / "episodes" / "episodes.jsonl").read_text().splitlines() == lines


def test_without_opengl_nothing_is_written_and_the_advice_is_given(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for probe in ("_has_egl", "_has_osmesa"):
        monkeypatch.setattr(software_gl, probe, lambda: False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    software_gl.find_backend.cache_clear()
    try:
        words = ["--world", "metaworld", "--tasks", "reach-v3"]
        assert run(place, tmp_path / "scores", *words) != 0
        collect = ["data", "collect", "metaworld", "--tasks", "reach-v3", "--out"]
        assert main([*collect, str(tmp_path / "demos")]) != 0
        quickstart = ["quickstart", "mask-world-model", "--out", str(tmp_path / "quick")]
        assert main(quickstart) != 0
    finally:
        software_gl.find_backend.cache_clear()
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri") == 3
    assert not (tmp_path / "scores").exists()
    assert not (tmp_path / "demos").exists()


def save_for_metaworld(folder: Path) -> None:
    """Four numbers of state, as Meta-World has."""
    config = micro_config()
    config = replace(config, state_dim=4, action=replace(config.action, action_dim=8))
    model = MaskWorldModel(config)
    data = batch_of(24, has_future=True)
    model.fit_tokenizer(data, torch.Generator().manual_seed(0))
    model.fit_latents(model.clips.encode(data, with_future=True))
    assert data.control is not None
    wide = {n: getattr(data.control, n)[..., [0, 1, 2, 0]] for n in ("state", "states")}
    model.fit_control(replace(data.control, **wide))
    save_release(model.eval(), folder, FEW)
    save_statistics(folder, 4, ("corner4", "gripperPOV"), 80)


def test_chunks_are_counted_as_ge_act_does_when_asked(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robot_scoring, "MetaWorldMaker", ToyMaker)
    words = ["--world", "metaworld", "--tasks", "reach-v3", "--episodes", "2", "--workers", "0"]
    assert run(place, tmp_path / "a", *words, "--ge-compat", "--step-limit", "2") == 0
    steps = json.loads((tmp_path / "a" / "metrics.json").read_text())["protocol"]["manipulation"]
    assert steps["steps"] == {"limit": 2, "counts": "chunks", "horizon": 500}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "unmasked"], "Expected masks to score dreams by"),
        (["--data", "single"], "Expected 2 cameras as the model"),
        (["--data", "robot", "--num-context", "2"], "Expected no --num-context"),
        (["--data", "robot", "--perturb", "light"], "Expected --world metaworld with --perturb"),
        (["--world", "drive"], "Expected --world metaworld for a Mask World Model"),
        (["--world", "metaworld"], "Expected --tasks TASK"),
        (["--world", "metaworld", "--tasks", "drawer-opn-v3"], "drawer-open-v3"),
        (["--world", "metaworld", "--tasks", "reach-v3", "--perturb", "lihgt"], "'light'"),
        (["--world", "metaworld", "--tasks", "reach-v3", "--prune", "1.5"], "between 0 and 1"),
        (["--model", "rgb", "--data", "robot"], "found one of pictures"),
    ],
)
def test_what_cannot_be_scored_is_said_before_anything_is_written(
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    model = "model"
    if words[0] == "--model":
        model, words = words[1], words[2:]
    assert run(place, tmp_path / "scores", *words, model=model) != 0
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "scores").exists()


def test_a_served_policy_takes_the_range_that_was_demonstrated_or_told(place: Path) -> None:
    system = load_mask_world_model(place / "model").system
    assert spec_of(system, ServeOptions(place / "model")).low == (-1.0,) * 4
    wide = ServeOptions(place / "model", low=(-2.0,) * 4, high=(2.0,) * 4)
    spec = spec_of(system, wide)
    assert (spec.low, spec.high, spec.cameras) == ((-2.0,) * 4, (2.0,) * 4, VIEWS)
    with pytest.raises(ValueError, match="Expected 4 numbers of --low"):
        spec_of(system, ServeOptions(place / "model", low=(-2.0,)))
    with pytest.raises(ValueError, match="Expected --low below --high"):
        spec_of(system, ServeOptions(place / "model", low=(2.0,) * 4))
