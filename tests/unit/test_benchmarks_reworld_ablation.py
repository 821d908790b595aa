"""The ablations of ReWorld from one command, with a model and a world too small to be any good."""

from __future__ import annotations

import importlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from test_cli_quickstart_reworld import micro

from maskworld.cli import quickstart_reworld
from maskworld.cli.reworld_material import PlanningMaterial, planning_material
from maskworld.metrics import frechet_proxy
from maskworld.recipes.recipe import ReWorldRecipe
from maskworld.systems.reworld import ReWorld

FOLDER = Path(__file__).parents[2] / "benchmarks"


def small() -> ReWorldRecipe:
    """As short as the quickstart's test, with fewer clips and draws."""
    recipe = micro()
    drive = replace(recipe.drive, num_worlds=2, clips_per_world=4, held_out_clips_per_world=7)
    sampling = replace(recipe.sampling, num_averaged=1)
    return replace(recipe, sampling=sampling, drive=replace(drive, num_scenes=4))


@pytest.fixture(scope="module")
def material() -> PlanningMaterial:
    return planning_material(small(), 0, 1)


@pytest.fixture
def ablation(monkeypatch: pytest.MonkeyPatch, material: PlanningMaterial) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    cells = importlib.import_module("reworld_ablation_cells")
    data = importlib.import_module("reworld_ablation_data")
    module = importlib.import_module("reworld_ablation")
    monkeypatch.setattr(module, "load_recipe_of", lambda *_: small())
    monkeypatch.setattr(data, "planning_material", lambda *_: material)
    # A proxy of 12 dimensions is content with 14 clips a side.
    monkeypatch.setattr(frechet_proxy, "DIM_PER_VIEW", 4)
    monkeypatch.setattr(frechet_proxy.FrechetProxy, "dim", 12)
    monkeypatch.setattr(data, "PROXY_RESAMPLES", 3)
    monkeypatch.setattr(cells, "EGO_STATUS_STEPS", 3)
    monkeypatch.setattr(quickstart_reworld, "GENERATOR_STEPS", 3)
    return module


def numbers(out: Path) -> dict[str, dict]:
    """Every cell without its times."""
    found = {}
    for file in sorted(out.glob("seed-*/*/cell.json")):
        cell = json.loads(file.read_text())
        found[file.parent.name] = {k: v for k, v in cell.items() if "seconds" not in k}
    return found


def test_a_killed_ablation_goes_on_to_the_same_numbers(
    ablation: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    page = tmp_path / "page.md"
    names = ["protocol", "planners", "terms", "head", "equal-loss", "gammas", "weights"]
    names += ["head-layers", "alignment-layers", "rivals"]
    page.write_text(
        "\n".join(
            f"<!-- ablation-{name}:begin -->\n<!-- ablation-{name}:end -->\nprose of {name}"
            for name in names
        )
    )
    steps = ["--steps", "4", "2", "2"]
    asked = ["--seeds", "3", *steps, "--only", "planners"]
    ablation.main(["--out", str(whole), *asked, "head", "gammas"])
    ablation.main(["--out", str(whole), *steps, "--table-only", "--doc", str(page)])

    shutil.copytree(whole / "data", broken / "data")

    # Killed in the middle of every kind of stage, one after the other.
    learn = ReWorld.training_loss
    for stage, at in (("video", 3), ("action", 2), ("joint", 2)):
        calls = 0

        def fail(self: ReWorld, batch: object, name: str, *rest: object) -> object:
            nonlocal calls
            calls += name == stage  # noqa: B023
            if calls == at:  # noqa: B023
                raise KeyboardInterrupt
            return learn(self, batch, name, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(ReWorld, "training_loss", fail)
            with pytest.raises(KeyboardInterrupt):
                ablation.main(["--out", str(broken), *asked])
    ablation.main(["--out", str(broken), *asked])
    cells = numbers(whole)
    assert numbers(broken) == {name: cells[name] for name in numbers(broken)}
    # Equal steps, one stage 1 and one stage 2 for both stages 3; off is off.
    assert "alignment" not in cells["action-plain"]["terms"]
    assert cells["action-align-1"]["terms"]["alignment"] > 0
    assert "repulsion" not in cells["planner-align-1-rde-0"]["terms"]
    assert "repulsion" in cells["planner-align-1-rde-0.04"]["terms"]
    steps = [step for step, _ in cells["video-no-head"]["curve"]]
    assert steps == [1, 2, 3, 4]
    assert list(cells["dreams-no-head"]["dreams"]) == ["mean", "gamma 1"]
    assert len(cells["dreams-head-1"]["dreams"]) == 6
    text = page.read_text()
    assert "| + align + RDE | 0." in text
    assert "prose of rivals" in text
    assert "| expert |" in text

    # Finished cells are left alone, and those of another recipe are not mixed in.
    before = {file: file.stat().st_mtime_ns for file in whole.rglob("cell.json")}
    ablation.main(["--out", str(whole), *asked])
    assert before == {file: file.stat().st_mtime_ns for file in whole.rglob("cell.json")}
    with pytest.raises(ValueError, match="Expected the stages"):
        ablation.main(["--out", str(whole), *asked, "--steps", "4", "2", "3"])


def test_all_variants_of_a_seed_begin_with_the_same_weights(
    ablation: ModuleType, material: PlanningMaterial
) -> None:
    parts = importlib.import_module("reworld_ablation_data")
    base = ReWorld(small().system)
    data = parts.Data(small(), base, material, None, None)
    plain = parts.system_of(data, replace(small().system, supervised_layers=()), 5).state_dict()
    headed = parts.system_of(data, small().system, 5).state_dict()
    other = parts.system_of(data, small().system, 6).state_dict()
    assert all(torch.equal(value, headed[name]) for name, value in plain.items())
    name = "video.blocks.0.attention.query.weight"
    assert not torch.equal(headed[name], other[name])
    assert torch.equal(headed["tokenizer.decoder.out.weight"], base.tokenizer.decoder.out.weight)


def test_the_interval_draws_whole_worlds_and_whole_seeds(ablation: ModuleType) -> None:
    tables = importlib.import_module("reworld_ablation_tables")
    rng = np.random.default_rng(0)
    worlds = np.repeat(np.arange(20), 10)
    by_world = rng.normal(size=20)[worlds]
    shared = tables.Samples(np.stack([by_world] * 3), worlds, (0, 1, 2))
    low, high = shared.interval()
    error = rng.normal(size=20).std() / np.sqrt(20)
    assert 0.6 < (high - low) / (2 * 1.96 * error) < 1.6  # not of 200, nor of 600 values
    seeds = tables.Samples(np.zeros((3, 200)) + np.array([[-1.0], [0.0], [1.0]]), worlds, (0, 1, 2))
    assert seeds.interval() == pytest.approx((-1.0, 1.0), abs=0.4)
    assert shared.minus(shared).interval() == (0.0, 0.0)
