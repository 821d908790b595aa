"""MaskGWM's ablation from one command, with a model and a world too small to be any good."""

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

from maskworld.flow import SigmaSchedule
from maskworld.recipes import load_recipe_of
from maskworld.recipes.recipe import FilmData, MaskGWMRecipe
from maskworld.systems.maskgwm import MaskGWM
from maskworld.types import Batch

FOLDER = Path(__file__).parents[2] / "benchmarks"


def micro() -> MaskGWMRecipe:
    recipe = load_recipe_of(MaskGWMRecipe, "maskgwm-tiny")
    system, channels = recipe.system, 8
    masks = system.reconstruction
    assert masks is not None
    names = ("tokenizer", "video", "masked", "masked-rig")
    stages = tuple(replace(recipe.stages[0], name=n, num_steps=2, batch_size=2) for n in names)
    network = replace(
        system.network,
        in_channels=2 * channels,
        out_channels=channels,
        num_layers=2,
        num_heads=1,
        head_dim=24,
        action_dim=16,
    )
    system = replace(
        system,
        network=network,
        tokenizer=replace(system.tokenizer, channels=channels, temporal_stride=1),
        reconstruction=replace(masks, ratio=0.25, decoder_layers=1),
        num_frames=5,
        frame_size=(24, 48),
    )
    film = FilmData(num_worlds=2, clips_per_world=3, num_held_out_worlds=3, long_frames=12)
    sampling = replace(recipe.sampling, video=SigmaSchedule("uniform", 1))
    return replace(recipe, system=system, stages=stages, film=film, sampling=sampling)


@pytest.fixture
def ablation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    data = importlib.import_module("maskgwm_reconstruction_data")
    module = importlib.import_module("maskgwm_reconstruction")
    monkeypatch.setattr(module, "load_recipe_of", lambda *_: micro())
    monkeypatch.setattr(data, "CLIPS_PER_WORLD", 1)
    monkeypatch.setattr(data, "MIN_LONG", 2)
    monkeypatch.setattr(data, "SHIFTS", data.SHIFTS[-1:])
    monkeypatch.setattr(data, "NUM_HORIZONS", 2)
    film, filmed = data._film, {}

    def once(*arguments: object) -> object:
        if not filmed:
            filmed[0] = film(*arguments)
        train, domains, long = filmed[0]
        return train, dict(domains), long

    monkeypatch.setattr(data, "_film", once)
    return module


def numbers(out: Path) -> dict[str, dict]:
    """Every cell without its times."""
    found = {}
    for file in sorted(out.glob("seed-*/*/cell.json")):
        cell = json.loads(file.read_text())
        name = f"{file.parent.parent.name}/{file.parent.name}"
        found[name] = {k: v for k, v in cell.items() if "seconds" not in k}
    return found


@pytest.mark.slow  # films nine worlds
def test_a_killed_ablation_goes_on_to_the_same_numbers_and_tables(
    ablation: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken, page = tmp_path / "whole", tmp_path / "broken", tmp_path / "page.md"
    names = ("protocol", "domains", "long", "horizons", "cost")
    page.write_text(
        "\n".join(f"<!-- ablation-{n}:begin -->\n<!-- ablation-{n}:end -->\n{n}" for n in names)
    )
    asked = ["--seeds", "3", "--steps", "2", "4", "--no-proxy"]
    ablation.main(["--out", str(whole), *asked, "--cost-rounds", "2", "--doc", str(page)])
    shutil.copytree(whole / "data", broken / "data")
    learn, calls = MaskGWM.training_loss, []

    def fail(self: MaskGWM, batch: object, stage: str, *rest: object) -> object:
        calls.append(stage)
        if calls.count("masked") == 3:
            calls.append("masked")
            raise KeyboardInterrupt
        return learn(self, batch, stage, *rest)

    asked += ["--cost-rounds", "0"]
    with monkeypatch.context() as patch:
        patch.setattr(MaskGWM, "training_loss", fail)
        with pytest.raises(KeyboardInterrupt):
            ablation.main(["--out", str(broken), *asked])
    assert set(calls) == {"video", "masked"}
    assert list(numbers(broken)) == ["seed-3/off", "seed-3/start"]
    ablation.main(["--out", str(broken), *asked])
    cells = numbers(whole)
    assert numbers(broken) == cells
    assert list(cells) == ["seed-3/off", "seed-3/on", "seed-3/start"]
    cell = cells["seed-3/on"]
    assert cell["steps"] == cells["seed-3/off"]["steps"] == 4
    assert list(cell["domains"]) == ["seen", "everything"]
    assert cell["long"]["trivial_verdicts"]["copy_last"].startswith("freezes")
    text = page.read_text()
    assert "| seen | on |" in text
    assert "| on: against off | " in text
    assert "| on | 0." in text.split("ablation-cost:begin")[1]
    before = {file: file.stat().st_mtime_ns for file in whole.rglob("cell.json")}
    ablation.main(["--out", str(whole), *asked])
    assert before == {file: file.stat().st_mtime_ns for file in whole.rglob("cell.json")}
    with pytest.raises(ValueError, match="Expected the stages"):
        ablation.main(["--out", str(whole), *asked, "--steps", "2", "5"])


def test_variants_share_first_weights_and_differ_where_they_say(ablation: ModuleType) -> None:
    parts = importlib.import_module("maskgwm_reconstruction_data")
    recipe = ablation.prepared(micro(), None)
    assert recipe.system.num_views == 1
    assert [stage.name for stage in recipe.stages] == ["tokenizer", "video", "masked"]
    data = parts.Data(recipe, [], {}, [], MaskGWM(recipe.system))
    off = data.system(ablation.OFF.config(recipe), 5)
    on = data.system(ablation.ON.config(recipe), 5)
    own = on.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in off.state_dict().items())
    assert not any(name.startswith("branch.") for name in off.state_dict())
    other = data.system(ablation.ON.config(recipe), 6).state_dict()
    assert any(not torch.equal(value, other[name]) for name, value in own.items())
    configs = [variant.config(recipe) for variant in ablation.VARIANTS if variant.name != "on"]
    assert recipe.system not in configs
    assert len({repr(config) for config in configs}) == len(configs)


def test_every_variant_trains(ablation: ModuleType) -> None:
    parts = importlib.import_module("maskgwm_reconstruction_data")
    recipe = ablation.prepared(micro(), None)
    data = parts.Data(recipe, [], {}, [], MaskGWM(recipe.system))
    generator = torch.Generator().manual_seed(0)
    batch = Batch(
        latents=torch.randn(2, 1, 5, 8, 2, 4, generator=generator),
        actions=torch.zeros(2, 5, 2),
        captions=["", ""],
    )
    losses = {}
    for variant in ablation.VARIANTS:
        if variant.name.startswith("ratio"):  # rows of 4 tokens have no tenth
            continue
        generator.manual_seed(1)
        system = data.system(variant.config(recipe), 0)
        loss = system.training_loss(batch, variant.stage, generator).total
        losses[variant.name] = loss.item()
    assert len(losses) == 14
    assert all(np.isfinite(loss) for loss in losses.values()), losses
