"""Checkpoints appear whole or not at all, and say what is wrong with a damaged one."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_toys import one_stage, run

from maskworld.training.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    pack,
    save_checkpoint,
    unpack,
)

STATE = {"system": "Toy", "num_processes": 1, "stage": 0, "stage_step": 1}


def save(root: Path, step: int, **options: Any) -> Path:
    tensors = {"model": {"weight": torch.full((3,), float(step))}, "optimizer": {}}
    return save_checkpoint(root, step, STATE, tensors, [pack({"loader": step})], **options)


def test_loader_states_survive_the_round_trip(tmp_path):
    generator = np.random.default_rng(3)
    state = {
        "position": 3,
        "sampler": {"yielded": None, "generator": torch.Generator().get_state()},
        "workers": {0: (1, "a", [2.5, True]), 1: {"%odd": b"\x00\xff"}},
        "numpy": generator.bit_generator.state,
        "order": np.arange(6, dtype=np.int32).reshape(2, 3),
        "scalar": np.float32(0.5),
        "transposed": torch.arange(6).reshape(2, 3).T,
    }
    path = tmp_path / "state.safetensors"
    path.write_bytes(pack(state))
    again = unpack(path)
    for key in ("position", "workers", "numpy", "scalar"):
        assert again[key] == state[key], key
    assert type(again["workers"][0]) is tuple
    assert again["order"].dtype == np.int32
    assert np.array_equal(again["order"], state["order"])
    assert torch.equal(again["sampler"]["generator"], state["sampler"]["generator"])
    assert torch.equal(again["transposed"], state["transposed"])


def test_an_object_in_a_state_is_refused_with_its_place():
    with pytest.raises(ValueError, match=r"at state.a\[1\], found Path|found PosixPath"):
        pack({"a": [1, Path("x")]})
    with pytest.raises(ValueError, match="found objects"):
        pack({"a": np.array([object()])})


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    for step in (1, 2, 30, 4):
        save(tmp_path, step)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [4, 30]
    assert len(list(tmp_path.iterdir())) == 2


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 5)
    folder = save(tmp_path, 5)
    assert len(list(tmp_path.iterdir())) == 1
    assert load_checkpoint(folder).step == 5


@pytest.mark.parametrize("name", ["model", "optimizer", "process-00000"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_file_is_named(tmp_path, name, damage):
    path = save(tmp_path, 7) / f"{name}.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        data[-1] ^= 1
        path.write_bytes(data[:-1] if damage == "truncated" else data)
    with pytest.raises(ValueError, match=rf"{name}.safetensors, found a damaged one"):
        load_checkpoint(path.parent)


@pytest.mark.parametrize("text", ["", '{"step": 7, "files"', "[]", '{"step": 7}'])
def test_a_damaged_state_file_is_named(tmp_path, text):
    folder = save(tmp_path, 7)
    (folder / "state.json").write_text(text)
    with pytest.raises(ValueError, match=r"state.json, found a damaged one"):
        load_checkpoint(folder)


def test_a_checkpoint_of_another_system_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a checkpoint of Other .*found one of Toy"):
        load_checkpoint(save(tmp_path, 7), system="Other")


def test_a_newer_format_is_refused(tmp_path):
    folder = save(tmp_path, 7)
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "format": 99}))
    with pytest.raises(ValueError, match=r"format 1 .*found 99"):
        load_checkpoint(folder)


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    import safetensors.torch

    def full(tensors: dict[str, Any], path: Path) -> None:
        path.write_bytes(b"part")
        raise OSError(errno.ENOSPC, "No space left on device")

    run(tmp_path, stages=one_stage(num_steps=4, schedule="constant"))
    monkeypatch.setattr(safetensors.torch, "save_file", full)
    longer = one_stage(num_steps=8, schedule="constant")
    with pytest.raises(OSError, match=r"No space left while writing the checkpoint of step 6"):
        run(tmp_path, stages=longer, resume=True)
    monkeypatch.undo()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "step-00000002",
        "step-00000004",
    ]
    assert run(tmp_path, stages=longer, resume=True)[1].step == 8


def damage_newest(folder: Path) -> Path:
    newest = list_checkpoints(folder / "checkpoints")[-1][1]
    path = newest / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    return newest


def test_a_damaged_checkpoint_stops_the_resume_unless_falling_back_was_asked(tmp_path, capsys):
    straight, _ = run(tmp_path)
    newest = damage_newest(tmp_path)
    with pytest.raises(ValueError, match=r"model.safetensors, found a damaged one.*falling back"):
        run(tmp_path, resume=True)
    resumed, result = run(tmp_path, resume=True, fall_back=True, show_progress=True)
    assert "falling back to the checkpoint before" in capsys.readouterr().err
    assert result.step == 13
    assert torch.equal(straight.head.weight, resumed.head.weight)
    assert newest.with_name(f"damaged-{newest.name}").is_dir()


def test_falling_back_with_no_whole_checkpoint_left_is_an_error(tmp_path):
    run(tmp_path, keep_checkpoints=1)
    damage_newest(tmp_path)
    with pytest.raises(ValueError, match="found a damaged one"):
        run(tmp_path, resume=True, fall_back=True)


def test_leftovers_of_a_killed_process_are_never_taken_for_checkpoints(tmp_path):
    run(tmp_path, stages=one_stage())
    root = tmp_path / "checkpoints"
    shutil.copytree(root / "step-00000006", root / ".step-00000009.tmp-abcd")
    assert [step for step, _ in list_checkpoints(root)] == [4, 6]
    run(tmp_path, stages=one_stage(), resume=True)
    assert not (root / ".step-00000009.tmp-abcd").exists()
