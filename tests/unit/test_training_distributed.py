"""Several processes train as one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_toys import ToySystem, one_stage, run

from maskworld.nn.weights_io import read_safetensors
from maskworld.training.checkpoint import list_checkpoints, load_checkpoint, unpack
from maskworld.training.distributed import (
    Processes,
    choose_device,
    derive_seed,
    gather_blobs,
    processes_from_environment,
)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs that training_torchrun.py describes."""
    folder = tmp_path_factory.mktemp("torchrun")
    script = Path(__file__).with_name("training_torchrun.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, "--nproc-per-node", "2", str(script), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def weights(run_dir: Path, name: str) -> dict[str, torch.Tensor]:
    folder = list_checkpoints(run_dir / "checkpoints")[-1][1]
    return read_safetensors(folder / f"{name}.safetensors")


@pytest.mark.slow
def test_two_processes_with_half_batches_equal_one_with_whole_batches(two_processes, tmp_path):
    run(tmp_path, ToySystem(dropout=0.0, noise=0.0).double())
    for name in ("ema", "model"):
        one, two = weights(tmp_path, name), weights(two_processes / "exact", name)
        assert one.keys() == two.keys()
        for key, value in one.items():
            if key != "num_seen":  # each process counts its own clips
                torch.testing.assert_close(two[key], value, rtol=1e-10, atol=1e-12)
    assert torch.equal(two["spare"], torch.ones(2, dtype=torch.float64))  # unused: left alone


@pytest.mark.slow
def test_two_processes_resume_bit_for_bit_after_one_of_them_is_stopped(two_processes):
    assert [(two_processes / f"stopped-{rank}").read_text() for rank in (0, 1)] == ["9", "9"]
    for name in ("model", "ema", "optimizer"):
        straight, resumed = (weights(two_processes / f, name) for f in ("straight", "stopped"))
        for key, value in straight.items():
            assert torch.equal(resumed[key], value), key


@pytest.mark.slow
def test_processes_draw_their_own_random_numbers(two_processes):
    folder = list_checkpoints(two_processes / "straight/checkpoints")[-1][1]
    first, second = (
        unpack(folder / f"process-0000{rank}.safetensors")["random"] for rank in (0, 1)
    )
    assert not torch.equal(first["generator"], second["generator"])


def test_resuming_with_another_number_of_processes_is_refused(tmp_path):
    run(tmp_path)
    folder = list_checkpoints(tmp_path / "checkpoints")[-1][1]
    with pytest.raises(ValueError, match=r"2 process.*found one of 1.*torchrun"):
        load_checkpoint(folder, num_processes=2)


def test_seeds_differ_by_rank_and_purpose_only():
    seeds = [derive_seed(0, r, p) for r in range(4) for p in ("generator", "global")]
    assert len(set(seeds)) == 8
    assert seeds[0] == derive_seed(0, 0, "generator")


def test_torchrun_variables_are_read_and_a_part_of_them_refused(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert processes_from_environment() == Processes()
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(ValueError, match=r"found \['RANK'\]"):
        processes_from_environment()
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert processes_from_environment() == Processes(3, 4, 1)


def test_fsdp2_says_that_it_is_not_there_yet(tmp_path):
    with pytest.raises(ValueError, match="fsdp2 is not yet available, use ddp"):
        run(tmp_path, stages=one_stage(), strategy="fsdp2")
    assert not tmp_path.joinpath("config.json").exists()


def test_one_process_gathers_only_its_own_state():
    assert gather_blobs(b"abc", Processes(), torch.device("cpu")) == [b"abc"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_asking_for_an_absent_gpu_is_refused():
    with pytest.raises(ValueError, match="found none: pass cpu"):
        choose_device("cuda", Processes())
