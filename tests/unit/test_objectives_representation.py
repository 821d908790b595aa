"""Claims about maskworld.objectives.representation, alone and inside ReWorld."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskworld.backbones.action_dit import ActionDiTConfig
from maskworld.backbones.ltx import LTXConfig
from maskworld.nn.config_io import config_from_json, config_to_json
from maskworld.objectives.flow_matching import flow_matching_loss
from maskworld.objectives.representation import RepresentationConfig, RepresentationObjective
from maskworld.systems.reworld import ReWorld, ReWorldConfig
from maskworld.tokenizers.causal_patch import CausalPatchConfig
from maskworld.training.config import Stage
from maskworld.training.interrupt import TrainingInterrupted
from maskworld.training.loop import train
from maskworld.types import Batch, PlanBatch, Prompt

GRID, CHANNELS, DIM, PAST = (3, 2, 3), 6, 16, 12
"""Latent frames, rows and columns; the first two latent frames, 12 tokens, are given."""
ALL = ("sra", "sra2", "self_flow", "repa")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def options(kind: str) -> RepresentationConfig:
    return RepresentationConfig(kind, layer=1, teacher_layer=2, weight=0.7, feature_dim=5)  # type: ignore[arg-type]


def system(kind: str = "none", awake: bool = True) -> ReWorld:
    torch.manual_seed(0)
    model = ReWorld(
        ReWorldConfig(
            video=LTXConfig(
                in_channels=CHANNELS,
                out_channels=CHANNELS,
                num_layers=3,
                num_heads=2,
                head_dim=8,
                has_text=False,
            ),
            action=ActionDiTConfig(
                dim=16, num_heads=2, num_layers=3, ffn_dim=16, video_dim=16, ego_hidden_dim=16
            ),
            bank_blocks=(1, 2, 3),
            tokenizer=CausalPatchConfig(patch_size=4, channels=CHANNELS),
            text=None,
            supervised_layers=(2,),
            alignment_layers=(2,),
            p_drop_prompt=0.0,
            num_frames=17,
            num_past=9,
            frame_size=(8, 12),
            representation=options(kind),
        )
    )
    if awake:  # off the zeros of the initialisation, alike for every kind
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=seeded(len(name)))
                parameter.add_(0.2 * noise)
    model.representation.use_encoder(encode)
    return model.train()


def encode(frames: Tensor) -> Tensor:
    """A stand-in: mean colours of 4 x 4 patches, and two constants."""
    patches = frames.double().unfold(-2, 4, 4).unfold(-2, 4, 4).mean((-1, -2)).movedim(2, -1)
    return torch.cat([patches, torch.ones_like(patches[..., :2])], dim=-1) / 255


def batch(seed: int = 1) -> Batch:
    g = seeded(seed)
    return Batch(
        latents=torch.randn(3, 1, GRID[0], CHANNELS, *GRID[1:], generator=g),
        frames=torch.randint(256, (3, 1, 17, 3, 8, 12), generator=g).to(torch.uint8),
        plan=PlanBatch(
            ego=torch.randn(3, 4, generator=g),
            command=torch.tensor([0, 1, 2]),
            trajectory=torch.randn(3, 8, 3, generator=g).cumsum(dim=1),
            has_trajectory=torch.ones(3, dtype=torch.bool),
        ),
        captions=[""] * 3,
        fps=torch.full((3,), 8.0),
    )


def clean_and_noise() -> tuple[Tensor, Tensor, torch.Generator]:
    """z0 and eps as the loss draws them, and the generator after that."""
    latents = batch().latents
    assert latents is not None
    z0, generator = latents[:, 0].permute(0, 1, 3, 4, 2).flatten(1, 3), seeded()
    return z0, torch.randn(z0.shape, generator=generator), generator


def states_at(model: ReWorld, t: Tensor, layer: int, network: nn.Module | None = None) -> Tensor:
    """States of a block where token n of sample b has the time t[b, n], the past none."""
    z0, eps, _ = clean_and_noise()
    t = t.clone()
    t[:, :PAST] = 0
    z = (1 - t[..., None]) * z0 + t[..., None] * eps
    prompt = model.prompter(Prompt(None, plan=batch().plan, fps=batch().fps), 3, GRID[0])
    with torch.no_grad():
        return model.run_video(z, t, prompt, GRID, return_blocks=(layer,), network=network).blocks[
            layer
        ]


def slow_cosine(x: Tensor, y: Tensor) -> Tensor:
    """Mean cosine of the tokens after the past."""
    pairs = zip(x[:, PAST:].flatten(0, 1), y[:, PAST:].flatten(0, 1), strict=True)
    return torch.stack([a @ b / (a.norm() * b.norm()) for a, b in pairs]).mean()


def slow_smooth_l1(x: Tensor, y: Tensor) -> Tensor:
    """x^2 / (2 beta) below beta, |x| - beta / 2 above, with SRA's beta of 0.05."""
    gap = (x - y)[:, PAST:].abs()
    return torch.where(gap < 0.05, gap.square() / 0.1, gap - 0.025).mean()


def test_kind_none_is_the_plain_loss_bit_for_bit_and_adds_nothing_to_the_state() -> None:
    model = system()
    out = model.training_loss(batch(), "video", seeded())
    z0, eps, generator = clean_and_noise()
    t = model.config.video_times.sample(3, GRID[0], 6, generator)
    context = (torch.arange(18) < PAST).expand(3, 18)
    t = t.masked_fill(context, 0.0)
    z = torch.where(context[..., None], z0, (1 - t[..., None]) * z0 + t[..., None] * eps)
    prompt = model.prompter(Prompt(None, plan=batch().plan, fps=batch().fps), 3, GRID[0])
    passed = model.run_video(z, t, prompt, GRID, 1, (2,))
    assert passed.velocity is not None
    assert torch.equal(
        out.terms["velocity"], flow_matching_loss(passed.velocity, eps - z0, context)
    )
    assert set(out.terms) == {"velocity", "intermediate_2"}
    assert not [name for name in model.state_dict() if name.startswith("representation")]


@pytest.mark.parametrize("kind", ALL)
def test_only_the_video_stages_change(kind: str) -> None:
    """The other stages are bitwise those of kind none, and train neither projector nor teacher."""
    plain, model = system(), system(kind)
    load = model.load_state_dict(plain.state_dict(), strict=False)
    assert all(name.startswith("representation.") for name in load.missing_keys)
    for stage in ("action", "joint", "standard"):
        pair = [one.training_loss(batch(), stage, seeded()) for one in (plain, model)]
        assert torch.equal(pair[0].total, pair[1].total)
        assert set(pair[1].terms) == set(pair[0].terms)
        assert not trained(model, stage)
    assert set(model.training_loss(batch(), "video-2", seeded()).terms) == {
        "velocity",
        "intermediate_2",
        kind,
    }
    assert trained(model, "video-2") == {
        f"representation.{name}"
        for name, _ in model.representation.named_parameters()
        if name.startswith("projector.")
    }


def trained(model: ReWorld, stage: str) -> set[str]:
    chosen = {id(p) for group in model.parameter_groups(stage) for p in group["params"]}
    named = [name for name, p in model.named_parameters() if id(p) in chosen]
    return {name for name in named if name.startswith("representation.")}


def test_sra_is_smooth_l1_to_the_teachers_deeper_states_at_an_earlier_time() -> None:
    model = system("sra")
    model.representation.num_updates.fill_(10**6)  # a teacher far from its student
    found = model.training_loss(batch(), "video", seeded()).terms["sra"]
    _, _, generator = clean_and_noise()
    t = model.config.video_times.sample(3, GRID[0], 6, generator)
    earlier = (t - 0.2 * torch.rand(3, generator=generator)[:, None]).clamp(min=0)
    target = states_at(model, earlier, 2, model.representation.teacher)
    projected = model.representation.projector(states_at(model, t, 1))
    torch.testing.assert_close(found, 0.7 * slow_smooth_l1(projected, target).detach())


def test_sra2_is_smooth_l1_to_the_clean_latents_and_costs_the_other_terms_nothing() -> None:
    model = system("sra2")
    out = model.training_loss(batch(), "video", seeded())
    z0, _, generator = clean_and_noise()
    t = model.config.video_times.sample(3, GRID[0], 6, generator)
    projected = model.representation.projector(states_at(model, t, 1))
    torch.testing.assert_close(out.terms["sra2"], 0.7 * slow_smooth_l1(projected, z0).detach())
    plain = system()
    plain.load_state_dict(model.state_dict(), strict=False)
    other = plain.training_loss(batch(), "video", seeded())
    assert all(torch.equal(other.terms[name], out.terms[name]) for name in other.terms)


def test_self_flow_mixes_the_students_times_and_the_teacher_sees_the_cleaner() -> None:
    model = system("self_flow")
    model.representation.num_updates.fill_(10**6)  # a teacher far from its student
    out = model.training_loss(batch(), "video", seeded())
    z0, eps, generator = clean_and_noise()
    t, s = (model.config.video_times.sample(3, GRID[0], 6, generator) for _ in range(2))
    masked = torch.rand(3, 18, generator=generator) < 0.25
    mixed = torch.where(masked, s, t)
    target = states_at(model, torch.minimum(t, s), 2, model.representation.teacher)
    projected = model.representation.projector(states_at(model, mixed, 1))
    torch.testing.assert_close(
        out.terms["self_flow"], 0.7 * (1 - slow_cosine(projected, target)).detach()
    )
    mixed[:, :PAST] = 0
    z = (1 - mixed[..., None]) * z0 + mixed[..., None] * eps
    prompt = model.prompter(Prompt(None, plan=batch().plan, fps=batch().fps), 3, GRID[0])
    velocity = model.run_video(z, mixed, prompt, GRID).velocity
    assert velocity is not None
    error = (velocity - (eps - z0))[:, PAST:].square().mean()
    torch.testing.assert_close(out.terms["velocity"], error.detach())


def test_repa_is_minus_the_cosine_to_the_users_encoder_on_the_grid_of_the_latents() -> None:
    model = system("repa")
    found = model.training_loss(batch(), "video", seeded()).terms["repa"]
    _, _, generator = clean_and_noise()
    t = model.config.video_times.sample(3, GRID[0], 6, generator)
    frames = batch().frames
    assert frames is not None
    features = encode(frames[:, 0]).float()  # 17 frames: 1, then 8, then 8
    groups = [features[:, :1], features[:, 1:9], features[:, 9:]]
    target = torch.stack([group.mean(1) for group in groups], dim=1).flatten(1, 3)
    projected = model.representation.projector(states_at(model, t, 1))
    torch.testing.assert_close(found, -0.7 * slow_cosine(projected, target).detach())


@pytest.mark.parametrize("kind", ALL)
def test_the_gradient_reaches_the_student_up_to_its_layer_and_the_projector_only(kind: str) -> None:
    model = system(kind)
    states = {1: torch.randn(3, 18, DIM, generator=seeded(5), requires_grad=True)}
    target = torch.randn(3, 18, DIM, generator=seeded(6), requires_grad=True)
    latents = torch.randn(3, 18, CHANNELS, generator=seeded(7), requires_grad=True)
    context = (torch.arange(18) < PAST).expand(3, 18)
    frames = batch().frames
    assert frames is not None
    terms = model.representation.terms(
        model.video, states, latents, context, lambda *_: target * 1, frames[:, 0], GRID
    )
    terms[kind].backward()
    assert states[1].grad is not None
    assert (states[1].grad != 0).any(-1).equal(~context)
    assert target.grad is None
    assert latents.grad is None
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name in dict(model.named_parameters()) if ".teacher." in name}
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert reached == trained(model, "video")
    model.zero_grad()
    model.training_loss(batch(), "video", seeded()).total.backward()
    assert not [n for n, p in model.named_parameters() if "teacher" in n and p.grad is not None]


@pytest.mark.parametrize("kind", ["sra", "self_flow"])
def test_the_teacher_follows_by_averages_once_per_step_and_never_in_evaluation(kind: str) -> None:
    model = system(kind)
    weight, average = model.video.proj_in.weight, model.representation.teacher.proj_in.weight
    model.eval().training_loss(batch(), "video", seeded())
    assert not torch.equal(average, weight)  # the copy was made before the weights were changed
    model.train().training_loss(batch(), "video", seeded())
    assert torch.equal(average, weight)
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)  # leaves no trace but the values
    for count in (1, 2):
        before = average.clone()
        optimizer.zero_grad()
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        for _ in range(3):  # accumulated batches
            model.training_loss(batch(), "video", seeded())
        decay = (1 + count) / (10 + count)
        torch.testing.assert_close(average, decay * before + (1 - decay) * weight)
    assert int(model.representation.num_updates) == 3
    late = system(kind)
    late.representation.num_updates.fill_(10**6)
    before = late.representation.teacher.proj_in.weight.clone()
    late.training_loss(batch(), "video", seeded())
    expected = 0.9999 * before + 1e-4 * late.video.proj_in.weight
    torch.testing.assert_close(late.representation.teacher.proj_in.weight, expected)


class Batches:
    """Endless batches that know where they are; a signal to this process before batch `kill_at`."""

    def __init__(self, kill_at: int | None) -> None:
        self.position, self.kill_at = 0, kill_at

    def __next__(self) -> Batch:
        if self.position == self.kill_at:
            os.kill(os.getpid(), signal.SIGTERM)
        self.position += 1
        return batch(seed=self.position)

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


@pytest.mark.parametrize("kind", ["sra", "self_flow"])
@pytest.mark.parametrize("kill", [("video-1", 3), ("video-1", 5), ("video-2", 0)])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    kind: str, kill: tuple[str, int], tmp_path: Path
) -> None:
    """Under the real trainer: fused AdamW, accumulated batches, averages at a stage's end."""
    stages = (
        Stage("video-1", 3, 3, 0.01, warmup_steps=2, accumulate=2, ema_decay=0.9, save_every=0),
        Stage("video-2", 2, 3, 0.01, save_every=0),
    )

    def run(folder: str, kills: bool = False, resume: bool = False) -> ReWorld:
        model = system(kind, awake=not resume)

        def batches(stage: Stage) -> Batches:
            return Batches(kill[1] if kills and stage.name == kill[0] else None)

        options: dict[str, Any] = {"seed": 0, "device": "cpu", "show_progress": False}
        train(model, stages, batches, tmp_path / folder, resume=resume, **options)
        return model

    whole = run("whole")
    with pytest.raises(TrainingInterrupted):
        run("parts", kills=True)
    resumed = run("parts", resume=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert int(whole.representation.num_updates) >= 4
    fresh = system(kind)
    for name in ("video", "representation.teacher", "representation.projector"):
        pairs = zip(whole.get_submodule(name).parameters(), fresh.get_submodule(name).parameters())
        assert any(not torch.equal(p, q) for p, q in pairs), name


def test_the_encoder_is_neither_saved_nor_trained() -> None:
    model = system("repa")
    names = set(model.state_dict())
    model.representation.use_encoder(nn.Linear(3, 5))
    assert set(model.state_dict()) == names
    assert sum(isinstance(module, nn.Linear) for module in model.representation.modules()) == 3


def test_options_survive_the_config_file() -> None:
    config = system("self_flow").config
    assert config_from_json(ReWorldConfig, config_to_json(config)) == config


def test_what_does_not_fit_is_refused() -> None:
    student = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"layers from 1 to 4 for sra, found \(8, 20\)"):
        RepresentationObjective(RepresentationConfig("sra"), student, 4, 8, 3)
    with pytest.raises(ValueError, match="sra2"):
        config_from_json(RepresentationConfig, {"kind": "sra3"})
    with pytest.raises(ValueError, match="ema_decay"):
        RepresentationConfig("sra", ema_decay=1.0)
    model = system("repa")
    with pytest.raises(ValueError, match="found latents alone"):
        model.training_loss(replace(batch(), frames=None), "video", seeded())
    model.representation._encoder = ()
    with pytest.raises(ValueError, match="use_encoder"):
        model.training_loss(batch(), "video", seeded())
    objective = RepresentationObjective(options("self_flow"), student, 4, 8, 3)
    with pytest.raises(ValueError, match="one time per sample"):
        objective.times(torch.rand(2, 5), lambda: torch.rand(2, 5), seeded())
    assert math.isclose(RepresentationConfig().weight, 0.5)
