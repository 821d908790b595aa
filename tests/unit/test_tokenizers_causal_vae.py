import math

import pytest
import torch

from maskworld.interfaces import LatentTokenizer
from maskworld.nn.config_io import config_from_json, config_to_json
from maskworld.nn.pixels import to_uint8, to_unit
from maskworld.objectives.adversarial import AdversarialConfig, AdversarialLoss
from maskworld.objectives.vq import TokenizerObjective, TokenizerObjectiveConfig
from maskworld.tokenizers.causal_vae import CausalVAE, CausalVAEConfig, Doubling, kl_divergence

MICRO = CausalVAEConfig(
    channels=4, widths=(8, 12, 16), halves_space=(True, False), halves_time=(True, True)
)
"""4 x 4 pixels x 4 frames."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clips(n: int = 2, t: int = 9, h: int = 8, w: int = 12, seed: int = 0) -> torch.Tensor:
    """Float clips of soft blobs that drift."""
    small = torch.rand(n, 3, 3, (w + t) // 4 + 2, generator=generator(seed)) * 2 - 1
    wide = torch.nn.functional.interpolate(small, (h, w + t), mode="bilinear", align_corners=True)
    return torch.stack([wide[..., i : i + w] for i in range(t)], dim=1)


@pytest.fixture
def vae() -> CausalVAE:
    torch.manual_seed(0)
    return CausalVAE(MICRO)


@pytest.fixture
def measured(vae: CausalVAE) -> CausalVAE:
    vae.fit_statistics(clips(8))
    return vae


def train(vae: CausalVAE, steps: int, objective: TokenizerObjective | None = None) -> list[float]:
    """Losses of a few steps on one batch."""
    groups = vae.parameter_groups() + (objective.parameter_groups() if objective else [])
    optimizer = torch.optim.AdamW(groups, lr=6e-3)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = vae.reconstruction_loss(clips(4), generator(step), objective)
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.total.detach()))
    return losses


def test_the_default_is_8_by_8_by_8_with_16_channels() -> None:
    with torch.device("meta"):
        vae = CausalVAE()
    assert isinstance(vae, LatentTokenizer)
    assert (vae.channels, vae.stride, vae.temporal_stride) == (16, 8, 8)
    assert 8.5e6 < sum(p.numel() for p in vae.parameters()) < 9.5e6


@pytest.mark.parametrize(("num_frames", "num_latents"), [(1, 1), (5, 2), (13, 4)])
def test_sk_plus_one_frames_give_k_plus_one_latents_and_back(
    measured: CausalVAE, num_frames: int, num_latents: int
) -> None:
    frames = clips(2, num_frames)
    latents = measured.encode(frames)
    assert latents.shape == (2, num_latents, 4, 2, 3)
    assert measured.decode(latents).shape == frames.shape


@torch.no_grad()
def test_a_later_frame_never_changes_an_earlier_latent(measured: CausalVAE) -> None:
    frames = clips(1, 13)
    latents = measured.encode(frames)
    for frame in range(13):
        changed = frames.clone()
        changed[:, frame] = torch.rand(3, 8, 12, generator=generator(frame)) * 2 - 1
        found = measured.encode(changed)
        group = math.ceil(frame / 4)
        assert torch.equal(found[:, :group], latents[:, :group])
        assert not torch.allclose(found[:, group], latents[:, group], atol=1e-5)


@torch.no_grad()
def test_a_prefix_of_frames_or_of_latents_gives_a_prefix(measured: CausalVAE) -> None:
    frames = clips(2, 13)
    latents = measured.encode(frames)
    torch.testing.assert_close(measured.encode(frames[:, :5]), latents[:, :2])
    decoded = measured.decode(latents)
    torch.testing.assert_close(measured.decode(latents[:, :2]), decoded[:, :5])
    torch.testing.assert_close(measured.decode(latents[:, :1]), decoded[:, :1])


@torch.no_grad()
def test_every_latent_reaches_its_own_frames_and_none_before(measured: CausalVAE) -> None:
    latents = measured.encode(clips(1, 13))
    decoded = measured.decode(latents)
    for group in range(1, 4):
        changed = latents.clone()
        changed[:, group] += 3
        differs = (measured.decode(changed) != decoded).flatten(2).any(-1)[0]
        first = 4 * (group - 1) + 1
        assert not differs[:first].any()
        assert differs[first : first + 4].all()


def test_doubling_in_time_keeps_frame_zero_single() -> None:
    doubling = Doubling(3, space=True, time=True)
    assert doubling(torch.zeros(1, 3, 4, 5, 6)).shape == (1, 3, 7, 10, 12)
    assert Doubling(3, space=False, time=False)(torch.zeros(1, 3, 4, 5, 6)).shape[2:] == (4, 5, 6)


def test_kl_divergence_equals_that_of_torch_distributions() -> None:
    mean, log_variance = torch.randn(2, 50, generator=generator())
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected.mean())


def test_loss_falls_in_a_few_steps(vae: CausalVAE) -> None:
    losses = train(vae, 60)
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


def test_the_loss_reaches_every_parameter(vae: CausalVAE) -> None:
    vae.reconstruction_loss(clips(), generator()).total.backward()
    idle = [n for n, p in vae.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert idle == []
    grouped = [p for group in vae.parameter_groups() for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in vae.parameters()}
    assert len(grouped) == len(list(vae.parameters()))


def test_total_is_the_sum_of_the_terms_with_a_weighted_kl(vae: CausalVAE) -> None:
    loss = vae.reconstruction_loss(clips(), generator(1))
    reconstruction, divergence = vae(clips(), generator(1))
    torch.testing.assert_close(loss.terms["kl"], (1e-4 * divergence).detach())
    expected = (reconstruction - clips()).abs().mean() + 1e-4 * divergence
    torch.testing.assert_close(loss.total, expected)


def test_adversarial_terms_train_the_discriminator_too(vae: CausalVAE) -> None:
    torch.manual_seed(1)
    adversarial = AdversarialLoss(AdversarialConfig(width=8, num_layers=1))
    objective = TokenizerObjective(TokenizerObjectiveConfig(perceptual=0.0), None, adversarial)
    loss = vae.reconstruction_loss(clips(), generator(), objective)
    assert set(loss.terms) == {"l1", "l2", "edge", "adversarial", "discriminator", "kl"}
    loss.total.backward()
    kernels = [p for p in adversarial.parameters() if p.ndim > 1]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in kernels)
    assert all(math.isfinite(value) for value in train(vae, 3, objective))


def test_statistics_give_zero_mean_and_unit_variance(vae: CausalVAE) -> None:
    train(vae, 5)
    frames = clips(10, seed=4)
    vae.fit_statistics(frames, batch_size=3)
    latents = vae.encode(frames)
    torch.testing.assert_close(latents.mean((0, 1, 3, 4)), torch.zeros(4), atol=1e-4, rtol=0)
    spread = latents.std((0, 1, 3, 4), correction=0)
    torch.testing.assert_close(spread, torch.ones(4), atol=1e-3, rtol=0)


def test_statistics_of_uint8_equal_those_of_float(vae: CausalVAE) -> None:
    frames = to_uint8(clips(4))
    vae.fit_statistics(frames)
    mean = vae.mean.clone()
    vae.fit_statistics(to_unit(frames))
    assert torch.equal(vae.mean, mean)


@torch.no_grad()
def test_decoding_undoes_the_normalisation(measured: CausalVAE) -> None:
    frames = clips()
    raw, _ = measured._posterior(frames)
    expected = measured._render(raw).clamp(-1, 1)
    torch.testing.assert_close(
        measured.decode(measured.encode(frames)), expected, atol=1e-4, rtol=1e-4
    )


def test_a_generator_samples_the_posterior_around_its_mean(measured: CausalVAE) -> None:
    frames = clips(1).expand(2000, -1, -1, -1, -1)[:, :1]
    samples = measured.encode(frames, generator())
    _, log_variance = measured._posterior(frames[:1])
    mean = measured.encode(frames[:1])[0]
    torch.testing.assert_close(samples.mean(0), mean, atol=0.05, rtol=0.05)
    spread = (0.5 * log_variance[0]).exp() / measured.std[:, None, None]
    torch.testing.assert_close(samples.std(0), spread.detach(), atol=0, rtol=0.1)
    assert torch.equal(samples, measured.encode(frames, generator()))


def test_weights_and_statistics_are_saved(measured: CausalVAE) -> None:
    restored = CausalVAE(MICRO)
    restored.load_state_dict(measured.state_dict())
    frames = clips(seed=3)
    assert torch.equal(restored.encode(frames), measured.encode(frames))


def test_bfloat16_gives_float32_latents_and_frames(measured: CausalVAE) -> None:
    half = measured.to(torch.bfloat16)
    latents = half.encode(clips())
    assert latents.dtype == torch.float32
    assert half.decode(latents).dtype == torch.float32


def test_config_survives_json_and_checks_its_lengths() -> None:
    config = CausalVAEConfig(channels=8, kl_weight=1e-3)
    assert config_from_json(CausalVAEConfig, config_to_json(config)) == config
    with pytest.raises(ValueError, match="found 3 and 3: give 1 each"):
        CausalVAEConfig(widths=(8, 8))


def test_wrong_clips_are_refused(measured: CausalVAE) -> None:
    with pytest.raises(ValueError, match="9 frames needed"):
        measured.encode(torch.zeros(1, 8, 3, 8, 12))
    with pytest.raises(ValueError, match="stride 4, found 10x12"):
        measured.encode(torch.zeros(1, 5, 3, 10, 12))
    with pytest.raises(ValueError, match="stride 4, found 8x13"):
        measured.reconstruction_loss(torch.zeros(1, 5, 3, 8, 13), generator())
    with pytest.raises(ValueError, match="NaN"):
        measured.encode(torch.full((1, 5, 3, 8, 12), torch.nan))
    with pytest.raises(ValueError, match="n tl 4 gh gw"):
        measured.decode(torch.zeros(1, 2, 5, 2, 3))


def test_latents_without_statistics_are_refused(vae: CausalVAE) -> None:
    with pytest.raises(ValueError, match="fit_statistics"):
        vae.encode(clips())
    with pytest.raises(ValueError, match="fit_statistics"):
        vae.decode(torch.zeros(1, 1, 4, 2, 3))


def test_a_constant_channel_is_refused(vae: CausalVAE) -> None:
    torch.nn.init.zeros_(vae.encoder.conv_out.weight)
    with pytest.raises(ValueError, match="found 4 of 4 constant"):
        vae.fit_statistics(clips())
