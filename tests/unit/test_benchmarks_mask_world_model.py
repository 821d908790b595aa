"""Benchmarks of Mask World Model: the robustness table, and masks of recordings of the user's."""

from __future__ import annotations

import importlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mask_world_model_material import FEW, micro_config
from metaworld_gl import needs_gl
from robot_recordings import write_robot

from maskworld.evaluation.episode_log import EpisodeLog
from maskworld.evaluation.robot_episodes import EpisodeKey, EpisodeResult
from maskworld.recipes import load_recipe_of
from maskworld.recipes.recipe import MaskWorldModelRecipe

FOLDER = Path(__file__).parents[2] / "benchmarks"
TINY = load_recipe_of(MaskWorldModelRecipe, "mask-world-model-tiny")
WORLD = {
    "world": {
        "versions": {"metaworld": "3.1.1"},
        "split": "eval",
        "cameras": ["corner4"],
        "size": [8, 8],
    },
    "steps": {"limit": 20, "counts": "env_steps", "horizon": None},
}
ABOUT = {"exec_steps": 4, "cameras": ["corner4"], "frame_size": [8, 8], "checkpoint": "last"}


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(FOLDER))
    names = ("", "_cells", "_tables")
    found = [importlib.import_module(f"mask_world_model_robustness{name}") for name in names]
    real: ModuleType = importlib.import_module("real_robot_masks")
    return SimpleNamespace(main=found[0], cells=found[1], tables=found[2], real=real)


def write_cell(
    out: Path, seed: int, variant: str, outcomes: dict[tuple[str, str], str], **changes: Any
) -> None:
    """A trained cell and its episodes, of (policy, perturbation) and one mark for every state of
    task a, then b; "-" = task not tried yet."""
    folder = out / f"seed-{seed}" / variant
    folder.mkdir(parents=True)
    cell = {"parameters": {"model": 10}, "processor_seconds": 60.0, "episode_seconds": 120.0}
    (folder / "cell.json").write_text(json.dumps(cell))
    policies = {policy: ABOUT for policy, _ in outcomes}
    with EpisodeLog(folder / "episodes", {**WORLD, "policies": policies, **changes}) as log:
        for (policy, perturbation), text in outcomes.items():
            for task, marks in zip("ab", text.split(), strict=True):
                for number, mark in enumerate(marks.strip("-")):
                    key = EpisodeKey(policy, perturbation, task, number)
                    log.add(EpisodeResult(key, "success" if mark == "1" else "limit", 5))


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_tables_pair_training_seeds_and_initial_states(
    modules: SimpleNamespace, tmp_path: Path
) -> None:
    pruned = {("pruned 0.5", ""): "1100 1000"}
    for seed, (mask, rgb) in enumerate((("1110 1100", "1000 1000"), ("1000 1000", "1000 0000"))):
        clean = {("model", ""): "1111 1110"}
        write_cell(tmp_path, seed, "mask", {**clean, ("model", "light"): mask, **pruned})
        write_cell(tmp_path, seed, "rgb", {**clean, ("model", "light"): rgb})
    blind = {("blind", ""): "1000 0000", ("expert", ""): "1111 1111"}
    under_way = {("model", "light"): "1000 -"}
    write_cell(tmp_path, 0, "none", {("model", ""): "1000 1000", **under_way, **blind})
    (tmp_path / "seed-1" / "none").mkdir()  # still training
    (tmp_path / "ablation.json").write_text(
        json.dumps(
            {
                "stages": [{"name": "policy", "num_steps": 7, "batch_size": 2}],
                "robot": {
                    "tasks": ["a", "b"],
                    "episodes_per_task": 9,
                    "held_out_per_task": 1,
                    "baseline_steps": 5,
                },
                "data_seed": 0,
                "commits": ["abc"],
            }
        )
    )
    found = modules.tables.all_tables(TINY, tmp_path, (0.5,))
    success = {row[0]: row[1:] for row in rows(found["success"])}
    assert success["mask target"][0] == "88 [64, 97] (88, 88)"  # 14 of 16, Wilson
    assert success["no world model"][-1] == "0"
    assert success["no image"][0].startswith("12 [")
    assert success["scripted expert"][0].startswith("100 [")
    perturbed = {row[0]: row[1:] for row in rows(found["perturbed"])}
    assert perturbed["light"][0].startswith("44 [")  # 7 of 16
    assert perturbed["light"][1].endswith("(25, 12)")
    assert perturbed["light"][2] == "not run"
    assert perturbed["light"][3:] == ["0.50", "0.21", "-"]  # of 14 clean successes
    gains = {(row[0], row[1]): row[2:] for row in rows(found["differences"])}
    light = gains["mask target - RGB target", "light"]
    assert light[0].startswith("+25 [")
    assert light[1] == "+38, +12"
    assert light[2] == "0.25, 1"  # three states tell the first pair apart, one the second
    assert gains["mask target - RGB target", "clean"][0] == "+0 [+0, +0]"
    assert ("mask target - no world model", "clean") in gains
    pruning = rows(found["pruning"])
    assert [row[:2] for row in pruning[2:]] == [["mask target", "0"], ["mask target", "1"]]
    assert pruning[2][2].startswith("0.42 [")  # (2/4 + 1/3) / 2
    assert pruning[2][3:] == ["88", "38"]
    assert "8 recorded episodes of each of a, b" in found["protocol"]
    assert "1.0 processor minutes of training and 2.0 minutes of episodes" in found["protocol"]
    assert len(rows(found["by-task"])) == 2 + 2 * 2

    other = {**WORLD["steps"], "limit": 30}
    write_cell(tmp_path, 2, "mask", {("model", ""): "1 1"}, steps=other)
    with pytest.raises(ValueError, match="limit"):
        modules.tables.all_tables(TINY, tmp_path, (0.5,))
    shutil.rmtree(tmp_path / "seed-0")
    empty = modules.tables.all_tables(TINY, tmp_path / "nothing", (0.5,))
    assert set(empty.values()) == {"Not run."}


def test_the_page_has_a_place_for_every_table(modules: SimpleNamespace, tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "mask_world_model_robustness.md"
    text = page.read_text(encoding="utf-8")
    for name in modules.tables.all_tables(TINY, tmp_path, (0.5,)):
        assert f"<!-- ablation-robustness-{name}:begin -->" in text


@needs_gl
@pytest.mark.slow  # records Meta-World, trains two policies and tries them: 30 s
def test_cells_are_trained_and_tried_once(
    modules: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["--out", str(tmp_path / "runs"), "--seeds", "0", "--variants", "mask-recolor", "none"]
    asked += ["--tasks", "drawer-open-v3", "--demonstrations", "5", "--steps", "2", "2", "2"]
    asked += ["--episodes", "1", "--perturbations", "light", "--ratios", "--step-limit", "5"]
    page = tmp_path / "page.md"
    marks = ["protocol", "success", "perturbed", "differences", "pruning", "by-task"]
    page.write_text(
        "\n".join(
            f"<!-- ablation-robustness-{m}:begin --><!-- ablation-robustness-{m}:end -->"
            for m in marks
        )
    )
    modules.main.main([*asked, "--doc", str(page)])
    cells = sorted((tmp_path / "runs").glob("seed-*/*/cell.json"))
    assert [file.parent.name for file in cells] == ["mask-recolor", "none"]
    assert "| mask target, recoloured | 0 [0, 79] |" in page.read_text()
    before = {file: file.stat().st_mtime_ns for file in cells}
    modules.main.main(asked)
    assert before == {file: file.stat().st_mtime_ns for file in cells}
    with pytest.raises(ValueError, match="Expected the robot, stages"):
        modules.main.main([*asked, "--steps", "3", "2", "3"])


def test_masks_of_a_recording_are_learnt_before_and_scored_after_the_cut(
    modules: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_robot(tmp_path / "robot", 2, length=60, views=("front",), has_control=False)
    stage = replace(TINY.stages[0], batch_size=4, warmup_steps=1, save_every=0)
    small = micro_config(num_memory=1, frame_stride=2)
    recipe = replace(TINY, system=small, stages=(stage,), sampling=FEW)
    monkeypatch.setattr(modules.real, "load_recipe_of", lambda *_: recipe)
    seen: dict[bool, set[int]] = {True: set(), False: set()}
    clips_of = modules.real.clips_of

    def spy(source: Any, config: Any, ranges: Any, *, learns: bool) -> Any:
        clips = clips_of(source, config, ranges, learns=learns)
        span = clips.window.span
        for index in range(len(clips)):
            start = clips.moment(index).start
            seen[learns] |= set(range(start, start + span + 1))
        return clips

    monkeypatch.setattr(modules.real, "clips_of", spy)
    words = ["--data", str(tmp_path / "robot"), "--out", str(tmp_path / "run"), "--steps", "2"]
    modules.real.main(words)
    assert seen[True] == set(range(45))
    assert seen[False] == set(range(45, 60))
    shown = capsys.readouterr().out
    assert "| copy_last | " in shown
    assert "better at future frames" in shown
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found["protocol"]["held_out"] == "the last 0.25 of each recording"
    assert len(found["metrics"]["mask_iou"]["per_horizon"]["model"]) == 5
    assert np.isfinite(found["metrics"]["mask_iou_gain/copy_last"]["model"])
