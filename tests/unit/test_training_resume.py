"""A stopped and resumed run is the run that was never stopped, bit for bit."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from training_toys import STAGES, ToySystem, kill_at, one_stage, run

from maskworld.data.dataset import MemoryDataset
from maskworld.data.loader import make_loader
from maskworld.nn.weights_io import read_safetensors
from maskworld.training.checkpoint import list_checkpoints, unpack
from maskworld.training.config import Stage
from maskworld.training.interrupt import TrainingInterrupted
from maskworld.training.loop import train
from maskworld.training.stage_run import BatchIterator
from maskworld.types import Batch, Clip


def assert_same_checkpoint(a: Path, b: Path) -> None:
    assert sorted(p.name for p in a.iterdir()) == sorted(p.name for p in b.iterdir())
    for name in ("model", "optimizer", "ema"):
        left = read_safetensors(a / f"{name}.safetensors")
        right = read_safetensors(b / f"{name}.safetensors")
        assert left.keys() == right.keys()
        assert left
        for key in left:
            assert torch.equal(left[key], right[key]), (name, key)
    left, right = (unpack(f / "process-00000.safetensors") for f in (a, b))
    assert left["loader"] == right["loader"]
    for key in ("generator", "global"):
        assert torch.equal(left["random"][key], right["random"][key]), key


# Global steps at which the process is killed: within the first stage (an odd number of batches
# fetched), on a saved step, on the border between stages, within the second.
@pytest.mark.parametrize(
    ("stage", "batch"), [("encoder", 3), ("encoder", 4), ("encoder", 12), ("all", 0), ("all", 2)]
)
def test_resume_is_bit_for_bit(tmp_path, stage, batch):
    straight, result = run(tmp_path / "straight")
    with pytest.raises(TrainingInterrupted) as stopped:
        run(tmp_path / "stopped", at=kill_at(stage, batch))
    expected = batch // 2 + 1 if stage == "encoder" else 7 + batch + 1
    assert stopped.value.step == expected
    resumed, again = run(tmp_path / "stopped", resume=True)
    assert again.step == result.step == 13
    assert again.loss == result.loss
    for (name, a), b in zip(straight.state_dict().items(), resumed.state_dict().values()):
        assert torch.equal(a, b), name
    assert_same_checkpoint(result.checkpoint, again.checkpoint)


def test_resume_after_a_kill_without_warning_continues_from_the_last_checkpoint(tmp_path):
    class Killed(BaseException):
        pass

    def at(stage: str, position: int) -> None:
        if (stage, position) == ("all", 5):
            raise Killed

    straight, _ = run(tmp_path / "straight")
    with pytest.raises(Killed):
        run(tmp_path / "stopped", at=at)
    assert list_checkpoints(tmp_path / "stopped/checkpoints")[-1][0] == 11
    resumed, _ = run(tmp_path / "stopped", resume=True)
    for a, b in zip(straight.state_dict().values(), resumed.state_dict().values()):
        assert torch.equal(a, b)


def test_another_seed_gives_other_weights(tmp_path):
    a, _ = run(tmp_path / "a")
    b, _ = run(tmp_path / "b", seed=1)
    assert not torch.equal(a.head.weight, b.head.weight)


def test_resuming_a_finished_run_gives_the_same_averaged_weights(tmp_path):
    straight, _ = run(tmp_path)
    again, result = run(tmp_path, resume=True)
    assert result.step == 13
    for a, b in zip(straight.state_dict().values(), again.state_dict().values()):
        assert torch.equal(a, b)


def test_a_run_can_be_made_longer(tmp_path):
    longer = one_stage(num_steps=9, schedule="constant")
    straight, _ = run(tmp_path / "straight", stages=longer)
    run(tmp_path / "short", stages=one_stage(num_steps=5, schedule="constant"))
    resumed, result = run(tmp_path / "short", stages=longer, resume=True)
    assert result.step == 9
    assert torch.equal(straight.head.weight, resumed.head.weight)


def test_ctrl_c_saves_at_the_step_border_and_restores_the_handlers(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        run(tmp_path, at=kill_at("encoder", 2, signal.SIGINT))
    assert [step for step, _ in list_checkpoints(tmp_path / "checkpoints")] == [2]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_ctrl_c_that_also_kills_the_loader_still_saves(tmp_path):
    def at(stage: str, position: int) -> None:
        if position == 5:  # within the third step: one of its two batches is already fetched
            kill_at("encoder", 5, signal.SIGINT)(stage, position)
            raise RuntimeError("DataLoader worker exited unexpectedly")

    with pytest.raises(TrainingInterrupted) as stopped:
        run(tmp_path / "stopped", at=at)
    assert stopped.value.step == 2
    straight, _ = run(tmp_path / "straight")
    resumed, _ = run(tmp_path / "stopped", resume=True)
    for a, b in zip(straight.state_dict().values(), resumed.state_dict().values()):
        assert torch.equal(a, b)


def test_a_second_ctrl_c_stops_at_once_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    import safetensors.torch

    def interrupted(tensors, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.torch, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_two_ctrl_c_stop_at_once_without_a_checkpoint(tmp_path):
    def at(stage: str, position: int) -> None:
        if position == 4:
            for _ in range(2):
                kill_at("encoder", 4, signal.SIGINT)(stage, position)

    with pytest.raises(KeyboardInterrupt) as stopped:
        run(tmp_path, at=at)
    assert not isinstance(stopped.value, TrainingInterrupted)
    assert list_checkpoints(tmp_path / "checkpoints") == []


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_resume_is_bit_for_bit_with_the_clip_loader(tmp_path, num_workers):
    frames = torch.arange(40, dtype=torch.uint8).reshape(10, 1, 1, 1, 2, 2) * 6
    clips = MemoryDataset([Clip(frames=clip) for clip in frames])

    def trained(folder: str, stop_at: int) -> ToySystem:
        system, resume, left = ToySystem(), False, [stop_at] if stop_at else []

        def batches(stage: Stage) -> BatchIterator:
            loader = make_loader([clips], batch_size=4, num_workers=num_workers)
            return Interrupted(loader, left)

        for _ in range(2):
            try:
                options = {"seed": 0, "device": "cpu", "show_progress": False, "resume": resume}
                train(system, stages, batches, tmp_path / folder, **options)
            except TrainingInterrupted:
                system, resume = ToySystem(), True
            else:
                return system
        raise AssertionError("stopped twice")

    stages = one_stage(num_steps=9, accumulate=2, save_every=0)
    straight, resumed = trained("straight", 0), trained("stopped", 7)
    for a, b in zip(straight.state_dict().values(), resumed.state_dict().values()):
        assert torch.equal(a, b)


class Interrupted:
    """A loader; the process gets a SIGTERM when `left[0]` more batches have been given."""

    def __init__(self, loader: Any, left: list[int]) -> None:
        self.loader, self.left = loader, left
        self.state_dict, self.load_state_dict = loader.state_dict, loader.load_state_dict

    def __next__(self) -> Batch:
        if self.left:
            self.left[0] -= 1
            if not self.left[0]:
                self.left.clear()
                signal.raise_signal(signal.SIGTERM)
        return next(self.loader)


def test_training_leaves_the_callers_global_random_state_alone(tmp_path):
    system = ToySystem()
    before = torch.get_rng_state()
    run(tmp_path, system)
    assert torch.equal(before, torch.get_rng_state())


def test_a_run_is_not_started_over_without_being_asked(tmp_path):
    run(tmp_path)
    with pytest.raises(ValueError, match=r"at step 13.*--resume"):
        run(tmp_path)


def test_a_different_run_is_refused_even_on_resume(tmp_path):
    run(tmp_path, config={"dim": 6})
    for changes in ({"seed": 1}, {"config": {"dim": 7}}, {"stages": STAGES[:1]}):
        with pytest.raises(ValueError, match=r"different run.*choose another folder"):
            run(tmp_path, **{"config": {"dim": 6}, "resume": True, **changes})


def test_a_checkpoint_of_another_shape_names_the_weights(tmp_path):
    run(tmp_path)
    with pytest.raises(ValueError, match=r"encoder.0.weight \(expected \(5, 4\), found \(6, 4\)\)"):
        run(tmp_path, system=ToySystem(dim=5), resume=True)


def test_resume_without_a_checkpoint_starts_and_says_so(tmp_path, capsys):
    _, result = run(tmp_path, resume=True, show_progress=True)
    assert result.step == 13
    assert "starting from step 0" in capsys.readouterr().err
