"""Releases: what was saved comes back, and anything else is refused with its name."""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from maskworld.nn.config_io import config_from_json, config_to_json
from maskworld.nn.release import ReleaseMixin
from maskworld.weights.hub import load_release


@dataclass(frozen=True)
class PatchConfig:
    size: int = 8


@dataclass(frozen=True)
class GridConfig:
    vocab_size: int = 16
    decoder: Literal["linear", "conv"] = "linear"


@dataclass(frozen=True)
class ToyConfig:
    dim: int
    tokenizer: PatchConfig | GridConfig = field(default_factory=PatchConfig)
    text: PatchConfig | None = None
    scale: tuple[float, ...] = (1.0, 0.5)
    frame_size: tuple[int, int] = (4, 6)
    layers: tuple[GridConfig, ...] = ()
    p_drop: float = 0.1
    has_bias: bool = True
    limit: int | None = None
    weights: dict[str, float] = field(default_factory=dict)


class Toy(nn.Module, ReleaseMixin):
    name = "toy"

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(5, config.dim)
        self.head = nn.Linear(config.dim, 5, bias=config.has_bias)
        self.head.weight = self.embed.weight  # tied
        self.register_buffer("codes", torch.arange(3))
        self.codes: Tensor


class OtherToy(Toy):
    name = "other"


FULL = ToyConfig(
    dim=3,
    tokenizer=GridConfig(32, "conv"),
    text=PatchConfig(2),
    scale=(10.0, 2, 0.5),
    frame_size=(8, 12),
    layers=(GridConfig(), GridConfig(4)),
    p_drop=1.0,
    has_bias=False,
    limit=7,
    weights={"a": 0.5},
)


@pytest.mark.parametrize("config", [ToyConfig(dim=3), FULL])
def test_a_config_survives_the_round_trip_through_json(config):
    text = json.dumps(config_to_json(config))
    assert config_from_json(ToyConfig, json.loads(text)) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"p_dorp": 0.2}, r"found 'p_dorp' \(did you mean 'p_drop'\?\)"),
        ({"dim": 3.5}, r"Expected int at config.dim, found 3.5"),
        ({"dim": True}, r"Expected int at config.dim, found True"),
        ({"has_bias": 1}, r"Expected bool at config.has_bias, found 1"),
        ({"frame_size": [4]}, r"Expected 2 values at config.frame_size"),
        ({"scale": [1.0, "a"]}, r"Expected float at config.scale\[1\], found 'a'"),
        ({"text": {"type": "GridConfig"}}, r"a type among \['PatchConfig'\] at config.text"),
        ({"tokenizer": {"type": "GridConfg"}}, r"did you mean 'GridConfig'"),
        ({"tokenizer": {"type": "GridConfig", "decoder": "cnv"}}, r"did you mean 'conv'"),
        ({"layers": [{"type": "GridConfig", "vocab": 3}]}, r"config.layers\[0\], found 'vocab'"),
        ({"limit": "many"}, r"int \| NoneType at config.limit, found 'many'"),
    ],
)
def test_a_wrong_config_says_where_and_what(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        config_from_json(ToyConfig, {**config_to_json(ToyConfig(dim=3)), **changes})


def test_a_field_added_later_takes_its_default_and_a_required_one_is_missed():
    data = config_to_json(ToyConfig(dim=3))
    del data["p_drop"]
    assert config_from_json(ToyConfig, data).p_drop == 0.1
    del data["dim"]
    with pytest.raises(ValueError, match=r"ToyConfig.dim at config, found it missing"):
        config_from_json(ToyConfig, data)


def test_a_config_with_nan_or_an_object_is_refused():
    with pytest.raises(ValueError, match=r"found nan at config.p_drop"):
        config_to_json(ToyConfig(dim=3, p_drop=float("nan")))
    with pytest.raises(ValueError, match=r"found set at config.dim"):
        config_to_json(ToyConfig(dim={1}))  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Toy(FULL).save_pretrained(tmp_path / "model")


def test_a_release_is_two_files_and_comes_back_equal(tmp_path):
    toy = Toy(FULL)
    toy.codes += 4
    folder = toy.save_pretrained(tmp_path / "model")
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    document = json.loads((folder / "config.json").read_text())
    assert document["system"] == "toy"
    assert document["version"]
    again = Toy.from_pretrained(folder)
    assert again.config == FULL
    assert not again.training
    assert again.head.weight is again.embed.weight
    for (name, a), b in zip(toy.state_dict().items(), again.state_dict().values()):
        assert torch.equal(a, b), name


def test_the_system_is_chosen_by_the_name_in_the_release(folder):
    loaded = load_release(str(folder), {"other": OtherToy, "toy": Toy})
    assert type(loaded) is Toy
    with pytest.raises(ValueError, match=r"among \['toys'\].*found 'toy' \(did you mean 'toys'"):
        load_release(folder, {"toys": Toy})


def test_a_model_of_another_system_is_refused(folder):
    with pytest.raises(ValueError, match=r"a model of other .*found one of toy.*maskworld.load"):
        OtherToy.from_pretrained(folder)


def test_a_truncated_or_missing_weights_file_is_named(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"model.safetensors, found a damaged one"):
        Toy.from_pretrained(folder)
    weights.write_bytes(b"not safetensors at all")
    with pytest.raises(ValueError, match=r"model.safetensors, found a damaged one"):
        Toy.from_pretrained(folder)
    weights.unlink()
    with pytest.raises(ValueError, match=r"model.safetensors, found none"):
        Toy.from_pretrained(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"model_type": "bert"}'])
def test_a_config_file_that_is_not_ours_is_named(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config.json"):
        Toy.from_pretrained(folder)


def test_weights_that_do_not_fit_the_config_are_listed(folder):
    document = json.loads((folder / "config.json").read_text())
    document["config"] |= {"dim": 4, "has_bias": True}
    (folder / "config.json").write_text(json.dumps(document))
    with pytest.raises(ValueError) as error:
        Toy.from_pretrained(folder)
    assert "missing: head.bias" in str(error.value)
    assert "embed.weight (expected (5, 4), found (5, 3))" in str(error.value)


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "/nowhere/else", "a/b/c"])
def test_a_path_to_nothing_is_refused_without_asking_the_network(name):
    with pytest.raises(ValueError, match="which is neither"):
        load_release(name, {"toy": Toy})


def test_a_name_is_downloaded_and_only_the_two_files(folder, monkeypatch):
    import huggingface_hub

    asked: dict[str, Any] = {}

    def download(repo_id: str, **options: Any) -> str:
        asked.update(options, repo_id=repo_id)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert Toy.from_pretrained("someone/toy", revision="v1").config == FULL
    assert asked["repo_id"] == "someone/toy"
    assert asked["revision"] == "v1"
    assert asked["allow_patterns"] == ["*.json", "model.safetensors"]


def test_a_download_that_fails_says_so(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def download(repo_id: str, **options: Any) -> str:
        raise LocalEntryNotFoundError("cannot reach the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ValueError, match=r"someone/toy.*cannot reach the hub"):
        Toy.from_pretrained("someone/toy")


def test_push_to_hub_uploads_the_release(monkeypatch):
    import huggingface_hub

    uploaded: dict[str, Any] = {}

    class Api:
        def create_repo(self, repo_id: str, private: bool | None, exist_ok: bool) -> None:
            uploaded.update(private=private, exist_ok=exist_ok)

        def upload_folder(self, repo_id: str, folder_path: str, commit_message: str) -> str:
            uploaded["files"] = sorted(p.name for p in Path(folder_path).iterdir())
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert Toy(FULL).push_to_hub("someone/toy", private=True) == "https://hub/someone/toy"
    assert uploaded["files"] == ["config.json", "model.safetensors"]
    assert uploaded["private"] is True


def test_a_full_disk_keeps_the_model_that_was_there(folder, monkeypatch):
    import safetensors.torch

    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        path.write_bytes(b"part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match=r"No space left while writing the model"):
        Toy(FULL).save_pretrained(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
