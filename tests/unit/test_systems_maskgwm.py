"""Claims about maskworld.systems.maskgwm and backbones.mask_branch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from maskworld.backbones.mask_branch import MaskTokens, ReconstructionConfig
from maskworld.backbones.mmdit import MMDiTConfig
from maskworld.conditioning.sd3_text import SD3TextConfig
from maskworld.conditioning.signals import Signal
from maskworld.flow import SigmaSchedule
from maskworld.guidance import Guidance
from maskworld.masking import drop_tokens
from maskworld.nn.config_io import config_from_json, config_to_json
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.maskgwm import MaskGWM, MaskGWMConfig
from maskworld.tokenizers.latent import CausalPatchConfig
from maskworld.types import Batch, Prompt

NETWORK = MMDiTConfig(
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
)
CONFIG = MaskGWMConfig(
    network=NETWORK,
    tokenizer=CausalPatchConfig(patch_size=4, channels=6),
    text=None,
    signals=(Signal("speed", 1, 10.0), Signal("turn", 1)),
    reconstruction=ReconstructionConfig(space_kind="spatial_rowwise", decoder_layers=2),
    num_frames=6,
    num_views=2,
    frame_size=(16, 32),
)
SAMPLING = FlowSampling(video=SigmaSchedule("shifted", 2, 3.0), guidance=Guidance(gamma=1.0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loud(config: MaskGWMConfig = CONFIG, seed: int = 0) -> MaskGWM:
    """A model in which nothing is silent."""
    torch.manual_seed(seed)
    model = MaskGWM(config)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=seeded(seed)) / max(p.shape[-1], 1) ** 0.5)
    frames = torch.randint(0, 255, (4, 9, 3, 16, 32), generator=seeded(3), dtype=torch.uint8)
    model.tokenizer.fit(frames, seeded())  # type: ignore[operator]
    return model


def batch(t: int = 6, seed: int = 1) -> Batch:
    g = seeded(seed)
    latents = torch.randn(2, 2, t, 6, 4, 8, generator=g)
    return Batch(latents=latents, actions=torch.rand(2, t, 2, generator=g))


def noisy(model: MaskGWM, seed: int = 1) -> dict[str, Any]:
    latents = batch(seed=seed).latents
    assert latents is not None
    z = latents.transpose(1, 2)
    t = torch.rand(2, 6, generator=seeded(seed))
    told = model.conditions(Prompt(actions=batch(seed=seed).actions), 2)
    return {"z": z, "t": t, "num_given": 1, "conditions": told}


def eps() -> Tensor:
    return torch.randn(2, 6, 2, 6, 4, 8, generator=seeded(9))


def test_nothing_dropped_is_the_plain_model() -> None:
    """r = 0: the masked pass equals the plain one, whatever the branch says."""
    masks = replace(CONFIG.reconstruction, ratio=0.0)  # type: ignore[type-var]
    model = loud(replace(CONFIG, reconstruction=masks))
    given = noisy(model)
    plain = model.run(**given)
    masked = model.run_masked(**given, eps=eps(), generator=seeded())
    torch.testing.assert_close(masked.velocity, plain)


def test_inference_never_touches_the_branch() -> None:
    model = loud()
    before = model.run(**noisy(model))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.startswith(("branch.", "mask_tokens.")):
                p.fill_(torch.nan)
    assert torch.equal(model.run(**noisy(model)), before)
    window = model.generate(batch().latents[:, :, :2], Prompt(), SAMPLING, seeded())  # type: ignore[index]
    assert bool(window.isfinite().all())


@pytest.mark.parametrize("p_time", [0.0, 1.0])
def test_only_the_branch_of_the_drawn_kind_learns(p_time: float) -> None:
    masks = replace(CONFIG.reconstruction, p_time=p_time)  # type: ignore[type-var]
    model = loud(replace(CONFIG, reconstruction=masks))
    model.training_loss(batch(), "masked", seeded()).total.backward()
    branches = {"space": model.branch.space, "time": model.branch.time}
    learns = {
        name: any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
        for name, part in branches.items()
    }
    assert learns == {"space": p_time == 0, "time": p_time == 1}
    assert model.mask_tokens.learned.grad is not None


def test_visible_tokens_keep_what_the_encoder_said() -> None:
    """The masked shortcut, Eq. 2: F's word counts at dropped places alone."""
    model = loud()
    x = torch.randn(2, 6, 2, 32, 16, generator=seeded(4))
    tokens = drop_tokens("time_rowwise", (2, 6, 4, 8), 0.25, seeded())
    is_time = torch.tensor([True, False])
    out = model.branch(x, None, torch.randn(2, 6, 16), is_time, tokens)
    gone = tokens.dropped[:, :, None, :, None].expand_as(x)
    assert torch.equal(out[~gone], x[~gone])
    assert bool((out != x)[gone].any(dim=-1).all())


@pytest.mark.parametrize(("t", "expected"), [(0.0, "noise"), (1.0, "learned")])
def test_the_mask_token_at_the_ends_of_time(t: float, expected: Any) -> None:
    """Eq. 3: f_m(eps) at tau = 0, p at tau = 1."""
    mixed, pure = (MaskTokens(kind, 6, 1, 16) for kind in ("mixed", expected))
    pure.load_state_dict(mixed.state_dict())
    places = torch.randn(32, 16, generator=seeded())
    for part in (mixed, pure):
        torch.nn.init.ones_(part.learned)
    time = torch.full((2, 6), t)
    torch.testing.assert_close(mixed(eps(), time, places), pure(eps(), time, places))
    half = mixed(eps(), torch.full((2, 6), 0.5), places)
    assert not torch.allclose(half, pure(eps(), time, places))


def test_given_frames_are_clean_at_every_time_and_do_not_count() -> None:
    model = loud(replace(CONFIG, min_given=2, max_given=2, p_drop_signal=0.0))
    seen: dict[str, Tensor] = {}
    plain = model.run

    def listen(z: Tensor, t: Tensor, given: int, conditions: Any) -> Tensor:
        seen.update(z=z, t=t)
        return plain(z, t, given, conditions)

    model.run = listen  # type: ignore[method-assign]
    data = batch()
    assert data.latents is not None
    loss = model.training_loss(data, "video", seeded()).total
    assert torch.equal(seen["z"][:, :2], data.latents.transpose(1, 2)[:, :2])
    assert bool((seen["t"][:, :2] == 0).all())
    assert bool((seen["t"][:, 2:] > 0).all())
    assert loss.requires_grad


def test_noise_on_given_frames_is_a_small_share_drawn_per_sample_at_time_0() -> None:
    """The future, its times and its targets stay what they are without it."""
    data, seen = batch(), []
    assert data.latents is not None
    for share in (0.0, 0.4):
        model = loud(replace(CONFIG, min_given=2, max_given=2, given_noise=share))

        def listen(z: Tensor, t: Tensor, given: int, conditions: Any) -> Tensor:
            seen.append((z, t))
            return z

        model.run = listen  # type: ignore[method-assign]
        model.training_loss(data, "video", seeded())
    (clean, t_clean), (noisy_, t_noisy) = seen
    assert torch.equal(t_clean, t_noisy)
    assert torch.equal(clean[:, 2:], noisy_[:, 2:])
    z0, apart = clean[:, :2], (noisy_ - clean)[:, :2]
    # (1 - s) z0 + s eps lies s (eps - z0) apart, and eps has variance 1
    share_of = [
        float((apart[i].square().mean() / (1 + z0[i].square().mean())).sqrt()) for i in (0, 1)
    ]
    assert all(0 < found < 0.44 for found in share_of)
    assert abs(share_of[0] - share_of[1]) > 0.02


@pytest.mark.parametrize("stage", ["image", "video", "masked"])
def test_each_stage_trains_its_parts_and_no_others(stage: str) -> None:
    model = loud()
    trained = {id(p) for group in model.parameter_groups(stage) for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in trained}
    assert any("joint" in name for name in names)
    assert any("temporal" in name for name in names) == (stage != "image")
    assert any("signals" in name for name in names) == (stage != "image")
    assert any(name.startswith("branch.") for name in names) == (stage == "masked")
    loss = model.training_loss(batch(), stage, seeded())
    assert bool(loss.total.isfinite())


def test_a_long_video_goes_on_from_the_last_frames_of_each_round() -> None:
    model = loud()
    data = batch(t=20)
    assert data.latents is not None
    prompt = Prompt(actions=data.actions)
    asked: list[Tensor] = []
    plain = model.generate

    def listen(given: Tensor, *rest: Any) -> Tensor:
        asked.append(given)
        return plain(given, *rest)

    model.generate = listen  # type: ignore[method-assign,assignment]
    parts = list(model.roll_out(data.latents[:, :, :1], prompt, SAMPLING, seeded(), 13))
    video = torch.cat(parts, dim=2)
    assert [part.shape[2] for part in parts] == [1, 5, 3, 3, 1]
    assert torch.equal(video[:, :, :1], data.latents[:, :, :1])
    assert torch.equal(asked[1], video[:, :, 3:6])
    assert torch.equal(asked[3], video[:, :, 9:12])


def test_guidance_moves_away_from_frames_of_which_no_signal_is_known() -> None:
    """No actions, unknown ones and dropped ones are the same to the network."""
    model = loud()
    given = noisy(model)
    rows = torch.full((2, 6, 2), torch.nan)
    absent = Prompt(actions=torch.rand(2, 6, 2), has_actions=torch.zeros(2, dtype=torch.bool))
    dropped = torch.ones(2, 2, dtype=torch.bool)
    said = [
        model.run(given["z"], given["t"], 1, told)
        for told in (
            model.conditions(Prompt(), 2),
            model.conditions(Prompt(actions=rows), 2),
            model.conditions(absent, 2),
            model.conditions(Prompt(actions=torch.rand(2, 6, 2)), 2, None, dropped),
        )
    ]
    for other in said[1:]:
        torch.testing.assert_close(other, said[0])
    assert not torch.allclose(model.run(**given), said[0])


def test_the_defaults_are_sd3_mediums_and_survive_a_file() -> None:
    config = MaskGWMConfig()
    assert config.text == SD3TextConfig()
    assert (config.network.text_dim, config.network.pooled_dim) == (4096, 2048)
    assert config_from_json(MaskGWMConfig, config_to_json(config)) == config


def test_carrying_starts_from_nothing_moves() -> None:
    config = replace(CONFIG, carries_past=True, network=replace(NETWORK, in_channels=12))
    torch.manual_seed(0)
    model = MaskGWM(config)
    for p in (model.network.proj_out.weight, model.network.proj_out.bias):
        torch.nn.init.zeros_(p)
    model.prior_variance.fill_(1e-4)
    given = batch().latents
    assert given is not None
    one = FlowSampling(video=SigmaSchedule("uniform", 1), guidance=Guidance(gamma=1.0))
    dreamt = model.generate(given[:, :, :1], Prompt(), one, seeded())
    torch.testing.assert_close(dreamt, given[:, :, :1].expand_as(dreamt), atol=2e-3, rtol=0)


def test_what_does_not_fit_is_refused() -> None:
    model = loud()
    with pytest.raises(ValueError, match="a network of 12 input"):
        replace(CONFIG, carries_past=True)
    with pytest.raises(ValueError, match="multiples of 4"):
        replace(CONFIG, frame_size=(18, 32))
    with pytest.raises(ValueError, match="1 to 3 decoder layers"):
        replace(CONFIG, reconstruction=ReconstructionConfig(decoder_layers=4))
    with pytest.raises(ValueError, match=r"2 finite numbers per frame \(speed \(1\), turn \(1\)\)"):
        model.conditions(Prompt(actions=torch.zeros(2, 6, 3)), 2)
    short = model.conditions(Prompt(actions=torch.zeros(2, 5, 2)), 2)
    with pytest.raises(ValueError, match="6 frames, found 2 and 5: give one row per frame"):
        model.run(**noisy(model) | {"conditions": short})
    with pytest.raises(ValueError, match="a stage of"):
        model.training_loss(batch(), "joint", seeded())
    with pytest.raises(ValueError, match="gamma 1"):
        model.generate(batch().latents[:, :, :1], Prompt(), FlowSampling(), seeded())  # type: ignore[index]
