"""The Mask World Model quickstart from recording to report, at a size that learns nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from metaworld_gl import needs_gl

from maskworld.cli import quickstart_mask_world_model as quickstart
from maskworld.cli import robot_material, robot_scores
from maskworld.cli.quickstart import QuickstartOptions
from maskworld.recipes import load_recipe_of
from maskworld.recipes.open import load_release
from maskworld.recipes.recipe import MaskWorldModelRecipe


def micro() -> MaskWorldModelRecipe:
    recipe = load_recipe_of(MaskWorldModelRecipe, quickstart.RECIPE)
    robot = replace(
        recipe.robot,
        tasks=("drawer-open-v3",),
        episodes_per_task=4,
        held_out_per_task=2,
        clip_stride=8,
        num_trials=1,
        num_perturbed_trials=1,
        perturbations=("light",),
        step_limit=10,
        baseline_steps=2,
    )
    stages = [
        replace(s, num_steps=2, warmup_steps=1, batch_size=4, save_every=0) for s in recipe.stages
    ]
    return replace(recipe, robot=robot, stages=tuple(stages))


@needs_gl
@pytest.mark.slow  # records Meta-World and tries six policies in it: 40 s
def test_it_records_trains_tries_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quickstart, "load_recipe_of", lambda *_: micro())
    monkeypatch.setattr(robot_scores, "NUM_ROLLOUTS", 4)
    monkeypatch.setattr(robot_scores, "NUM_SHOWN", 2)
    monkeypatch.setattr(robot_material, "FIT_CLIPS", 16)
    out = tmp_path / "robot"
    quickstart.run(QuickstartOptions("mask-world-model", out=out, workers=1))
    found = json.loads((out / "metrics.json").read_text())
    policies = set(found["protocol"]["manipulation"]["policies"])
    assert policies == {"model", "blind", "no_world_model", "replay", "random", "expert"}
    assert found["metrics"]["success"]["n"] == 1
    assert found["metrics"]["success_under/light"]["n"] == 1
    assert len(found["metrics"]["mask_iou"]["per_horizon"]["copy_last"]) == 5
    assert found["protocol"]["labels_recovered"] > 0.8
    page = (out / "report.html").read_text()
    assert "scripted expert (knows the state)" in page
    assert "pull the drawer open" in page
    release = load_release(out / "model")
    assert release.system.name == "mask_world_model"
    assert (out / "model" / quickstart.STATISTICS_FILE).is_file()
    again = QuickstartOptions("mask-world-model", out=out, workers=1, resume=True)
    quickstart.run(again)  # nothing is recorded, trained or tried twice
    assert json.loads((out / "metrics.json").read_text())["metrics"] == found["metrics"]


def test_data_of_the_users_is_refused_with_the_way_to_use_it(tmp_path: Path) -> None:
    options = QuickstartOptions("mask-world-model", data=tmp_path, out=tmp_path / "robot")
    with pytest.raises(ValueError, match="maskworld train mask-world-model-tiny --data"):
        quickstart.run(options)
    assert not (tmp_path / "robot").exists()
