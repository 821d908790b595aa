"""MaskGWM's equations, and the rivals of its ablations, one claim each.

`tests/equations/test_maskgwm_masks.py` has the masks of section 3.3, `tests/unit/
test_backbones_mmdit.py` the view and temporal blocks, `tests/unit/test_systems_maskgwm.py` the
system.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskworld.backbones.mask_branch import MaskBranch, MaskTokens, ReconstructionConfig
from maskworld.backbones.mmdit import MMDiTConfig
from maskworld.conditioning.signals import Signal
from maskworld.flow import TimeSampling
from maskworld.masking import drop_tokens
from maskworld.objectives.contrast import (
    ContrastConfig,
    ContrastObjective,
    discrimination_loss,
)
from maskworld.objectives.teacher import follow
from maskworld.systems.maskgwm import MaskGWM, MaskGWMConfig
from maskworld.tokenizers.latent import CausalPatchConfig
from maskworld.types import Batch, Prompt

MASKS = ReconstructionConfig(space_kind="spatial_rowwise", decoder_layers=2)
CONFIG = MaskGWMConfig(
    network=MMDiTConfig(
        in_channels=6,
        out_channels=6,
        patch_size=1,
        num_layers=4,
        num_heads=2,
        head_dim=8,
        text_dim=0,
        pooled_dim=0,
        position_grid=8,
        position_base=8,
        view_attention="KW",
        action_dim=16,
    ),
    tokenizer=CausalPatchConfig(patch_size=4, channels=6),
    text=None,
    signals=(Signal("speed", 1, 10.0),),
    reconstruction=MASKS,
    times=TimeSampling("uniform"),
    p_drop_signal=0.0,
    num_frames=6,
    num_views=2,
    frame_size=(16, 32),
)
CONTRAST = ContrastConfig(num_prototypes=7, hidden_dim=8, bottleneck_dim=4, weight=0.5)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loud(config: MaskGWMConfig = CONFIG) -> MaskGWM:
    """A model in float64 in which nothing is silent."""
    model = MaskGWM(config)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=seeded()) / max(p.shape[-1], 1) ** 0.5)
    return model.double()


def masked(**changes: Any) -> MaskGWMConfig:
    return replace(CONFIG, reconstruction=replace(MASKS, **changes))


def inputs(model: MaskGWM, num_given: int = 1) -> dict[str, Any]:
    z = torch.randn(2, 6, 2, 6, 4, 8, generator=seeded(1)).double()
    t = torch.rand(2, 6, generator=seeded(2)).double()
    t[:, :num_given] = 0
    rows = torch.rand(2, 6, 1, generator=seeded(3)).double()
    told = model.conditions(Prompt(actions=rows), 2)
    return {"z": z, "t": t, "num_given": num_given, "conditions": told}


def eps() -> Tensor:
    return torch.randn(2, 6, 2, 6, 4, 8, generator=seeded(9)).double()


def batch(t: int = 6) -> Batch:
    latents = torch.randn(2, 2, t, 6, 4, 8, generator=seeded(4)).double()
    return Batch(latents=latents, actions=torch.rand(2, t, 1, generator=seeded(5)).double())


def test_eq_1_is_the_mean_over_all_tokens_but_the_given_ones() -> None:
    """Dropped tokens count like visible ones; what is said of given frames does not."""
    model = loud(replace(CONFIG, min_given=2, max_given=2))
    seen: dict[str, Tensor] = {}
    plain = model.run_masked

    def listen(z: Tensor, t: Tensor, noise: Tensor, *rest: Any) -> Any:
        out = plain(z, t, noise, *rest)
        seen.update(velocity=out.velocity, eps=noise, dropped=out.tokens.dropped)
        return out

    model.run_masked = listen  # type: ignore[method-assign]
    data = batch()
    assert data.latents is not None
    loss = model.training_loss(data, "masked", seeded()).total
    error = seen["velocity"] - (seen["eps"] - data.latents.transpose(1, 2))
    torch.testing.assert_close(loss, error[:, 2:].square().mean(), check_dtype=False)
    assert bool(seen["dropped"].any())


def test_eq_2_is_encoder_fill_branch_decoder() -> None:
    """Step by step, with tokens picked one at a time."""
    model = loud()
    given, noise = inputs(model), eps()
    out = model.run_masked(**given, eps=noise, generator=seeded(6))
    draw = seeded(6)
    is_time = torch.rand(2, generator=draw) < MASKS.p_time
    kinds = [drop_tokens(k, (2, 6, 4, 8), 0.25, draw) for k in ("spatial_rowwise", "time_rowwise")]
    dropped = torch.stack([kinds[int(late)].dropped[i] for i, late in enumerate(is_time)])
    network, actions = model.network, given["conditions"].actions
    tokens, condition = network.embed(given["z"]), network.condition(given["t"])
    left = torch.stack(
        [
            torch.stack([x[:, ~gone] for x, gone in zip(frames, lost)])
            for frames, lost in zip(tokens, dropped)
        ]
    )
    seen, _ = network.run(left, None, condition, actions, rows=4, layers=(1, 2))
    x = model.mask_tokens(noise, given["t"], network.places(4, 8)).clone()
    for b in range(2):
        for frame in range(6):
            x[b, frame][:, ~dropped[b, frame]] = seen[b, frame]
    for b, late in enumerate(is_time.tolist()):
        block = (model.branch.time if late else model.branch.space)[0]
        guessed = block(x[b : b + 1], None, condition[b : b + 1], late)[0]
        x[b] = torch.where(dropped[b][:, None, :, None], guessed, x[b])
    x, _ = network.run(x, None, condition, actions, rows=4, layers=(3, 4))
    torch.testing.assert_close(out.velocity, network.head(x, condition, (4, 8)))


def test_eq_3_mixes_noise_and_learned_token_by_the_time() -> None:
    token = MaskTokens("mixed", 6, 1, 16).double()
    nn.init.normal_(token.learned)
    t, noise = torch.rand(2, 6, generator=seeded()).double(), eps()
    places = torch.randn(32, 16, generator=seeded()).double()
    found = token(noise, t, places)
    f_m = nn.functional.pad(noise[1, 4, 1], (1, 1, 1, 1))[:, 2:5, 3:6]  # around row 2, column 3
    f_m = (token.from_noise.weight * f_m).sum((1, 2, 3)) + token.from_noise.bias
    expected = (1 - t[1, 4]) * f_m + t[1, 4] * token.learned + token.place(places[2 * 8 + 3])
    torch.testing.assert_close(found[1, 4, 1, 2 * 8 + 3], expected)


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("is_shared", [False, True])
def test_eq_4_runs_the_branch_of_the_mask_and_finishes_only_dropped_tokens(
    depth: int, is_shared: bool
) -> None:
    branch = MaskBranch(16, 2, has_text=True, depth=depth, is_shared=is_shared)
    for p in branch.parameters():
        nn.init.normal_(p, std=0.25)
    x = torch.randn(2, 3, 2, 32, 16, generator=seeded())
    text = torch.randn(12, 5, 16, generator=seeded(1))
    condition = torch.randn(2, 3, 16, generator=seeded(2))
    tokens = drop_tokens("time_rowwise", (2, 3, 4, 8), 0.25, seeded())
    out = branch(x, text, condition, torch.tensor([True, False]), tokens)
    for b, over_time in enumerate((True, False)):
        y, words = x[b : b + 1], text[6 * b : 6 * b + 6]
        for block in branch.space if is_shared or not over_time else branch.time:
            y = block(y, words, condition[b : b + 1], over_time)
        expected = torch.where(tokens.dropped[b][:, None, :, None], y[0], x[b])
        torch.testing.assert_close(out[b], expected)


def test_eq_5_modulates_given_frames_as_at_time_0_whatever_the_others_time() -> None:
    """So does every frame its own: no frame's modulation knows another's time."""
    network = loud().network
    early = network.condition(torch.tensor([[0.0, 0.0, 0.3, 0.3]]).double())
    late = network.condition(torch.tensor([[0.0, 0.0, 0.9, 0.9]]).double())
    zero = network.condition(torch.zeros(1, 4).double())
    assert torch.equal(early[:, :2], late[:, :2])
    torch.testing.assert_close(early[:, :2], zero[:, :2])
    assert not torch.allclose(early[:, 2:], late[:, 2:])
    temporal = network.layers[0].temporal
    parts = [temporal.modulation(nn.functional.silu(x)) for x in (early, late)]
    assert torch.equal(parts[0][:, :2], parts[1][:, :2])


def test_a_tokens_place_is_in_it_before_any_is_dropped() -> None:
    model = loud(masked(ratio=0.25, p_time=1.0))
    network = model.network
    z = torch.zeros(1, 1, 1, 6, 4, 8).double()
    tokens = drop_tokens("time_rowwise", (1, 1, 4, 8), 0.25, seeded())
    left = tokens.gather(network.embed(z))[0, 0, 0]
    expected = network.places(4, 8)[tokens.kept[0, 0]] + network.patch_in.bias
    torch.testing.assert_close(left, expected)


@pytest.mark.parametrize("name", ["branch", "mask_tokens"])
def test_the_plain_pass_leaves_the_branch_without_gradient(name: str) -> None:
    model = loud()
    model.training_loss(batch(), "video", seeded()).total.backward()
    assert all(p.grad is None for p in getattr(model, name).parameters())
    assert model.network.patch_in.weight.grad is not None


def test_samples_outside_of_the_tokens_times_pass_plainly() -> None:
    """The ablation's "only in [0.5, 1]": each sample against its own pass."""
    model = loud(masked(token="learned", token_times=(0.5, 1.0)))
    given, noise = inputs(model), eps()
    given["t"][:, 1:] = torch.tensor([[0.2], [0.7]]).double()
    args = (given["z"], given["z"], given["t"], noise, 1, given["conditions"])
    both = model._reconstruct(*args, seeded(7), {})
    plain = model.run(**given)
    one = torch.tensor([False, True])
    alone = {key: x[one] for key, x in given.items() if isinstance(x, Tensor)}
    told = given["conditions"].of(one)
    hidden = model.run_masked(
        **alone, num_given=1, conditions=told, eps=noise[one], generator=seeded(7)
    )
    torch.testing.assert_close(both[0], plain[0])
    torch.testing.assert_close(both[1], hidden.velocity[0])
    assert not torch.allclose(both[1], plain[1])


def test_the_masked_baseline_joins_places_and_shifted_attention_slots() -> None:
    """They differ where frames lost different tokens, and only there."""
    for p_time in (0.0, 1.0):
        shifted = loud(masked(p_time=p_time))
        baseline = loud(masked(p_time=p_time, time_attention="places"))
        given = inputs(shifted)
        one, two = (
            m.run_masked(**given, eps=eps(), generator=seeded()).velocity
            for m in (shifted, baseline)
        )
        assert torch.allclose(one, two) == (p_time == 0)


def test_the_rivals_empty_places_hold_the_noisy_latent() -> None:
    """With a branch of depth 0 and an encoder that says nothing, dropping changes nothing."""
    model = loud(
        replace(masked(token="latent", branch_depth=0, decoder_layers=3), contrast=CONTRAST)
    )
    model.network.layers[0] = _Nothing()
    given = inputs(model)
    out = model.run_masked(**given, eps=eps(), generator=seeded())
    torch.testing.assert_close(out.velocity, model.run(**given))
    assert not hasattr(model, "mask_tokens")


class _Nothing(nn.Module):
    def forward(self, x: Tensor, text: Any, *_: Any) -> tuple[Tensor, Any]:
        return x, text


def test_the_rivals_term_is_a_cross_entropy_of_centred_sharpened_prototypes() -> None:
    student, teacher = (torch.randn(5, 7, generator=seeded(i)) for i in (0, 1))
    centre = torch.randn(7, generator=seeded(2))
    expected = 0.0
    for row in range(5):
        p = torch.exp((teacher[row] - centre) / 0.04)
        q = torch.exp(student[row] / 0.1)
        expected -= float((p / p.sum() * (q / q.sum()).log()).sum()) / 5
    found = discrimination_loss(student, teacher, centre, 0.1, 0.04)
    torch.testing.assert_close(float(found), expected, rtol=1e-4, atol=1e-4)


def test_the_rival_trains_beside_eq_1_and_its_teacher_never_by_gradient() -> None:
    model = loud(replace(masked(token="latent"), contrast=CONTRAST))
    out = model.training_loss(batch(), "masked", seeded())
    assert set(out.terms) == {"velocity", "contrast"}
    torch.testing.assert_close(out.total, sum(out.terms.values()), check_dtype=False)
    out.total.backward()
    groups = model.parameter_groups("masked")
    trained = {id(p) for group in groups for p in group["params"]}
    assert all(id(p) not in trained for p in model.contrast.teacher.parameters())
    assert all(p.grad is None for p in model.contrast.teacher.parameters())
    assert all(id(p) in trained and p.grad is not None for p in model.contrast.head.parameters())
    assert bool(model.contrast.centre.any())
    weights = zip(model.network.parameters(), model.contrast.teacher[0].parameters())
    assert all(torch.equal(a, b) for a, b in weights)  # its first use


def test_the_rivals_teacher_sees_the_visible_tokens_of_clean_latents() -> None:
    """With the student's own weights, nothing dropped and t = 0 both see the same."""
    model = loud(replace(masked(token="latent", ratio=0.0), contrast=CONTRAST)).eval()
    given = inputs(model)
    z0, t = given["z"], torch.zeros(2, 6).double()
    out = model.run_masked(z0, t, eps(), 1, given["conditions"], seeded())
    taught = model._taught(model.network, z0, eps(), 1, given["conditions"])
    torch.testing.assert_close(out.seen, taught)


def test_a_teacher_follows_once_per_step_of_its_student() -> None:
    student = nn.Linear(3, 2)
    objective = ContrastObjective(CONTRAST, student, 3)
    norms, count = torch.full((2,), -1.0), torch.zeros((), dtype=torch.int64)
    teacher = nn.Linear(3, 2).requires_grad_(False)
    follow(teacher, student, norms, count, 0.9)
    assert torch.equal(teacher.weight, student.weight)
    before = student.weight.detach().clone()
    with torch.no_grad():
        student.weight += 1
    follow(teacher, student, norms, count, 0.9)
    moved = teacher.weight.clone()
    torch.testing.assert_close(moved, before + (1 - 2 / 11))  # decay (1 + 1) / (10 + 1)
    follow(teacher, student, norms, count, 0.9)
    assert torch.equal(teacher.weight, moved)
    assert not any(p.requires_grad for p in objective.teacher.parameters())


def test_one_model_trains_on_clips_of_several_lengths() -> None:
    """Each batch is cut to a drawn length: the loss is that of the clip cut by hand."""
    lengths = (4, 5, 6)
    model, plain = loud(replace(CONFIG, clip_lengths=lengths)), loud()
    seen = set()
    for seed in range(8):
        draw = seeded(seed)
        found = model.training_loss(batch(), "masked", seeded(seed)).total
        length = lengths[int(torch.randint(3, (1,), generator=draw))]
        seen.add(length)
        data = batch()
        assert data.latents is not None
        assert data.actions is not None
        cut = Batch(latents=data.latents[:, :, :length], actions=data.actions[:, :length])
        torch.testing.assert_close(found, plain.training_loss(cut, "masked", draw).total)
    assert seen == set(lengths)
    with pytest.raises(ValueError, match="at least 6 frames"):
        model.training_loss(batch(5), "masked", seeded())


def test_rivals_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="masks by rows"):
        masked(time_kind="time_random")
    with pytest.raises(ValueError, match="token_times"):
        replace(MASKS, token_times=(0.5, 0.5))
    with pytest.raises(ValueError, match="reconstruction with contrast"):
        replace(CONFIG, reconstruction=None, contrast=CONTRAST)
    with pytest.raises(ValueError, match="clip_lengths above max_given 3"):
        replace(CONFIG, clip_lengths=(3, 6))
    with pytest.raises(ValueError, match="temperatures"):
        replace(CONTRAST, teacher_temperature=0.0)
