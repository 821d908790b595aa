"""What one step does, and what the loop shows and refuses."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training_toys import STAGES, ToyBatches, ToySystem, one_stage, run

from maskworld.training.checkpoint import list_checkpoints
from maskworld.training.config import Stage, lr_factor
from maskworld.training.ema import WeightAverage
from maskworld.training.loop import train
from maskworld.types import Batch, LossOutput


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def exact() -> ToySystem:
    return ToySystem(dropout=0.0, noise=0.0).double()


class SplitBatches(ToyBatches):
    """The clips of `ToyBatches`, in parts of the sizes given."""

    def __init__(self, batch_size: int, sizes: tuple[int, ...]) -> None:
        super().__init__(batch_size)
        self.sizes = sizes
        self.parts: list[Batch] = []

    def __next__(self) -> Batch:
        if not self.parts:
            frames = super().__next__().frames
            assert frames is not None
            self.parts = [Batch(frames=part) for part in frames.split(list(self.sizes))]
        return self.parts.pop(0)


@pytest.mark.parametrize("sizes", [(4, 4), (2, 2, 2, 2), (5, 2, 1)])
def test_accumulation_equals_one_large_batch(tmp_path, sizes):
    whole, split = exact(), exact()
    stages = one_stage(batch_size=8, grad_clip=0.1)
    train(whole, stages, lambda s: ToyBatches(8), tmp_path / "whole", seed=0, device="cpu")
    stages = one_stage(batch_size=8 // len(sizes), accumulate=len(sizes), grad_clip=0.1)
    batches = SplitBatches(8, sizes)
    train(split, stages, lambda s: batches, tmp_path / "split", seed=0, device="cpu")
    for (name, a), b in zip(whole.named_parameters(), split.named_parameters()):
        torch.testing.assert_close(a, b[1], rtol=1e-10, atol=1e-12, msg=name)


def test_a_step_is_adamw_by_hand(tmp_path):
    stage = one_stage(num_steps=2, warmup_steps=2, grad_clip=0.3, weight_decay=0.1)[0]
    trained, by_hand = exact(), exact()
    train(trained, [stage], lambda s: ToyBatches(4), tmp_path, seed=0, device="cpu")
    groups = by_hand.parameter_groups("all")
    peaks = [stage.learning_rate, 0.02]
    optimizer = torch.optim.AdamW(groups, lr=stage.learning_rate, weight_decay=0.1)
    batches, generator = ToyBatches(4), torch.Generator()
    for step in range(2):
        optimizer.zero_grad()
        by_hand.training_loss(next(batches), "all", generator).total.backward()
        gradients = [p.grad for p in by_hand.parameters() if p.grad is not None]
        norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        for gradient in gradients:
            gradient *= min(1.0, 0.3 / float(norm))
        for group, peak in zip(optimizer.param_groups, peaks):
            group["lr"] = peak * (step + 1) / 2
        optimizer.step()
    for (name, a), b in zip(trained.named_parameters(), by_hand.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8, msg=name)


def test_training_lowers_the_loss(tmp_path):
    system = ToySystem(dropout=0.0, noise=0.0)
    run(tmp_path, system, stages=one_stage(num_steps=60, batch_size=32, save_every=0))
    losses = [row["loss"] for row in rows(tmp_path)]
    assert losses[-1] < 0.2 * losses[0]


def test_the_learning_rate_warms_up_and_ends_at_its_ratio():
    for schedule in ("cosine", "linear"):
        stage = Stage("a", 100, 1, 1.0, schedule=schedule, warmup_steps=10, final_lr_ratio=0.1)
        factors = [lr_factor(stage, step) for step in range(100)]
        assert factors[0] == pytest.approx(0.1)
        assert factors[9] == factors[10] == 1.0
        assert factors[99] == pytest.approx(0.1)
        assert all(a >= b for a, b in pairwise(factors[10:]))
    middle = Stage("a", 101, 1, 1.0, schedule="cosine")
    assert lr_factor(middle, 50) == pytest.approx(0.5)
    assert {lr_factor(Stage("a", 9, 1, 1.0, schedule="constant"), s) for s in range(9)} == {1.0}


def test_only_the_stages_parameters_train_and_the_others_are_unfrozen_afterwards(tmp_path):
    system = ToySystem()
    head = system.head.weight.detach().clone()
    seen: list[tuple[bool, bool]] = []
    inner = system.training_loss

    def watched(batch: Batch, stage: str, generator: torch.Generator) -> LossOutput:
        seen.append((system.head.weight.requires_grad, system.head.training))
        assert system.encoder.training
        return inner(batch, stage, generator)

    system.training_loss = watched  # type: ignore[method-assign]
    encoder = system.encoder[0].weight.detach().clone()
    run(tmp_path, system, stages=one_stage(name="encoder"))
    assert set(seen) == {(False, False)}
    assert torch.equal(system.head.weight, head)
    assert not torch.equal(system.encoder[0].weight, encoder)
    assert all(p.requires_grad and p.grad is None for p in system.parameters())


def test_average_follows_its_formula_and_gives_the_weights_back():
    weight = nn.Parameter(torch.zeros(2))
    average = WeightAverage({"w": weight}, decay=0.5)
    expected = 0.0
    for n, value in enumerate((1.0, 4.0, 9.0, 2.0, 7.0, 5.0, 5.0, 3.0, 1.0, 6.0, 0.0)):
        weight.data.fill_(value)
        average.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    with average.applied():
        torch.testing.assert_close(weight.data, torch.full((2,), expected))
    assert torch.equal(weight.data, torch.zeros(2))


def test_a_stage_that_averages_ends_with_the_averaged_weights(tmp_path):
    plain, _ = run(tmp_path / "plain", stages=one_stage())
    averaged, result = run(tmp_path / "averaged", stages=one_stage(ema_decay=0.9))
    from maskworld.nn.weights_io import read_safetensors

    own = read_safetensors(result.checkpoint / "model.safetensors")
    ema = read_safetensors(result.checkpoint / "ema.safetensors")
    assert torch.equal(own["head.weight"], plain.head.weight)
    assert torch.equal(ema["head.weight"], averaged.head.weight)
    assert not torch.equal(own["head.weight"], ema["head.weight"])


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    class Breaks(ToySystem):
        def training_loss(self, batch: Batch, stage: str, generator: torch.Generator) -> LossOutput:
            loss = super().training_loss(batch, stage, generator)
            if self.num_seen < 20:
                return loss
            bad = torch.tensor(float("nan"))
            terms = {"error": loss.total.detach(), "commit": bad}
            return LossOutput(loss.total * bad, terms)

    system = Breaks()
    message = r"step 5 \(stage 'all'\), found loss nan \(error = .*commit = nan\).*step-00000004"
    with pytest.raises(FloatingPointError, match=message):
        run(tmp_path, system, stages=one_stage())
    assert [step for step, _ in list_checkpoints(tmp_path / "checkpoints")] == [2, 4]
    assert all(p.isfinite().all() for p in system.parameters())


def test_samples_are_drawn_from_averaged_weights_without_changing_the_run(tmp_path):
    seen: list[tuple[int, bool, bool]] = []

    def on_sample(system: nn.Module, step: int) -> None:
        torch.rand(3)  # a sampler may draw as it likes
        seen.append((step, system.training, torch.is_grad_enabled()))
        samples.append(system.head.weight.detach().clone())

    samples: list[torch.Tensor] = []
    stages = one_stage(ema_decay=0.9, sample_every=2)
    sampled, _ = run(tmp_path / "a", stages=stages, on_sample=on_sample)
    plain, _ = run(tmp_path / "b", stages=one_stage(ema_decay=0.9))
    assert seen == [(2, False, False), (4, False, False), (6, False, False)]
    assert torch.equal(samples[-1], sampled.head.weight)
    assert torch.equal(sampled.head.weight, plain.head.weight)
    with pytest.warns(UserWarning, match="sample_every has no effect"):
        run(tmp_path / "c", stages=stages)


def test_metrics_are_written_once_per_step_also_after_a_resume(tmp_path):
    class Killed(BaseException):
        pass

    def at(stage: str, position: int) -> None:
        if (stage, position) == ("all", 4):  # four steps in, one after the last checkpoint
            raise Killed

    stages = one_stage(save_every=3)
    with pytest.raises(Killed):
        run(tmp_path, stages=stages, at=at)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # killed while writing
    run(tmp_path, stages=stages, resume=True)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]
    row = rows(tmp_path)[-1]
    assert row["stage"] == "all"
    assert row["loss"] == pytest.approx(row["loss/error"])
    assert row["tokens_per_second"] == pytest.approx(4 * row["clips_per_second"])
    assert list((tmp_path / "tensorboard").glob("events.out.*"))


def test_the_config_beside_the_run_says_what_it_was(tmp_path):
    run(tmp_path, config={"name": "toy-tiny"})
    document = json.loads((tmp_path / "config.json").read_text())
    assert document["system"] == "ToySystem"
    assert document["recipe"] == {"name": "toy-tiny"}
    assert document["seed"] == 0
    assert document["torch"] == torch.__version__
    assert [stage["name"] for stage in document["stages"]] == ["encoder", "all"]
    assert document["stages"][0]["betas"] == [0.9, 0.999]


def test_plain_lines_are_shown_where_there_is_no_terminal(tmp_path, capsys):
    run(tmp_path, stages=one_stage(), show_progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    assert lines[-1].startswith("all 6/6  loss ")
    assert all(word in lines[-1] for word in ("clips/s", "tokens/s", "ETA 0:00:00"))


def test_a_bar_is_shown_on_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    run(tmp_path, stages=one_stage(), show_progress=True)
    shown = capsys.readouterr().err
    assert "6/6" in shown
    assert "clips/s" in shown


def test_networks_are_compiled_where_asked_and_released_afterwards(tmp_path, monkeypatch):
    compiled: list[str] = []

    def compile(self: nn.Module) -> None:
        compiled.append(type(self).__name__)
        self._compiled_call_impl = self._call_impl

    monkeypatch.setattr(nn.Module, "compile", compile)
    system, _ = run(tmp_path, stages=one_stage(compile=True))
    assert compiled == ["Sequential", "Linear"]
    assert all(module._compiled_call_impl is None for module in system.modules())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "num_steps to be at least 1, found 0"),
        ({"learning_rate": float("nan")}, "learning_rate above 0 and finite, found nan"),
        ({"ema_decay": 1.0}, r"ema_decay in \[0, 1\)"),
        ({"warmup_steps": 7}, "warmup_steps <= 6 steps, found 7"),
        ({"schedule": "step"}, "schedule in .*found 'step'"),
        ({"precision": "fp16"}, "precision in .*found 'fp16'"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"accumulate": 0}, "accumulate"),
        ({"name": " "}, "name not empty"),
    ],
)
def test_a_setting_out_of_range_is_refused(changes, message):
    if "schedule" in changes or "precision" in changes:
        stage = one_stage()[0]
        object.__setattr__(stage, *next(iter(changes.items())))  # past the annotations' check
        with pytest.raises(ValueError, match=message):
            stage.__post_init__()
        return
    with pytest.raises(ValueError, match=message):
        one_stage(**changes)


def test_stages_need_names_of_their_own(tmp_path):
    with pytest.raises(ValueError, match="different names"):
        run(tmp_path, stages=one_stage() + one_stage())
    with pytest.raises(ValueError, match="at least one training stage"):
        run(tmp_path, stages=())
    assert list(tmp_path.iterdir()) == []


def test_batches_that_end_are_an_error_that_says_where(tmp_path):
    class Ends(ToyBatches):
        def __next__(self) -> Batch:
            if self.position == 3:
                raise StopIteration
            return super().__next__()

    with pytest.raises(ValueError, match=r"found their end in step 4 of 6"):
        train(ToySystem(), one_stage(), lambda s: Ends(4), tmp_path, seed=0, device="cpu")


def test_parameter_groups_must_be_the_systems_own(tmp_path):
    system = ToySystem()
    system.parameter_groups = lambda stage: [{"params": []}]  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="parameters to train in stage 'all', found none"):
        run(tmp_path / "a", system, stages=one_stage())
    stranger = nn.Parameter(torch.zeros(7))
    system.parameter_groups = lambda stage: [{"params": [stranger]}]  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"found others of shapes \[\(7,\)\]"):
        run(tmp_path / "b", system, stages=one_stage())


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_written(tmp_path):
    if __import__("importlib.util").util.find_spec("trackio"):
        pytest.skip("trackio is installed")
    with pytest.raises(ValueError, match="pip install trackio"):
        run(tmp_path, tracker="trackio")
    assert list(tmp_path.iterdir()) == []


def test_a_service_gets_the_config_and_every_row(tmp_path, monkeypatch):
    from types import ModuleType

    calls: list[tuple[str, Any]] = []
    service = ModuleType("trackio")
    service.init = lambda **options: calls.append(("init", options))  # type: ignore[attr-defined]
    service.log = lambda row, step: calls.append(("log", (step, row)))  # type: ignore[attr-defined]
    service.finish = lambda: calls.append(("finish", None))  # type: ignore[attr-defined]
    service.__spec__ = __import__("importlib.machinery").machinery.ModuleSpec("trackio", None)
    monkeypatch.setitem(sys.modules, "trackio", service)
    run(tmp_path, stages=one_stage(), tracker="trackio")
    assert [name for name, _ in calls] == ["init", *["log"] * 6, "finish"]
    assert calls[0][1]["config"]["seed"] == 0
    assert calls[1][1][0] == 1
    assert "all/loss" in calls[1][1][1]


def test_bf16_on_a_cpu_warns_that_it_has_no_effect(tmp_path):
    with pytest.warns(UserWarning, match="bf16 has no effect on a CPU"):
        low, _ = run(tmp_path / "a", stages=one_stage(precision="bf16"))
    plain, _ = run(tmp_path / "b", stages=one_stage())
    assert torch.equal(low.head.weight, plain.head.weight)


def test_a_config_that_json_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match="made of JSON values"):
        run(tmp_path, stages=STAGES, config={"path": tmp_path})
