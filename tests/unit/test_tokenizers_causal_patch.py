import pytest
import torch
from einops import rearrange

from maskworld.interfaces import LatentTokenizer
from maskworld.nn.config_io import config_from_json, config_to_json
from maskworld.nn.pixels import to_unit
from maskworld.tokenizers.causal_patch import CausalPatchConfig, CausalPatchTokenizer
from maskworld.tokenizers.residual_decoder import wear
from maskworld.tokenizers.scaled_pca import principal_components
from maskworld.tokenizers.video_frames import check_latents, check_video

SMALL = CausalPatchConfig(patch_size=4, temporal_stride=4, channels=10)
SMALL_CONV = CausalPatchConfig(
    patch_size=4, temporal_stride=4, channels=10, decoder="conv", decoder_dim=16, detail_dim=4
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drifting_clips(
    n: int = 16, t: int = 9, h: int = 16, w: int = 24, seed: int = 0
) -> torch.Tensor:
    """uint8 clips of soft blobs that drift: patches that few components describe."""
    g = generator(seed)
    small = torch.rand(n, 3, h // 8 + 1, (w + t) // 8 + 2, generator=g)
    wide = torch.nn.functional.interpolate(small, (h, w + t), mode="bilinear", align_corners=True)
    return torch.stack([wide[..., i : i + w] for i in range(t)], dim=1).mul(255).to(torch.uint8)


def psnr(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(10 * torch.log10(4 / (found - expected).detach().square().mean()))


def open_decoder(tokenizer: CausalPatchTokenizer) -> None:
    """Gives the conv decoder an effect: its last layer starts at zero."""
    assert tokenizer.decoder is not None
    torch.nn.init.normal_(tokenizer.decoder.out.weight, std=0.1, generator=generator())


@pytest.fixture(scope="module")
def fitted() -> CausalPatchTokenizer:
    tokenizer = CausalPatchTokenizer(SMALL)
    tokenizer.fit(drifting_clips(), generator())
    return tokenizer


@pytest.fixture
def fitted_conv() -> CausalPatchTokenizer:
    torch.manual_seed(0)
    tokenizer = CausalPatchTokenizer(SMALL_CONV)
    tokenizer.fit(drifting_clips(), generator())
    return tokenizer


def test_it_is_a_latent_tokenizer(fitted: CausalPatchTokenizer) -> None:
    assert isinstance(fitted, LatentTokenizer)
    assert (fitted.channels, fitted.stride, fitted.temporal_stride) == (10, 4, 4)


@pytest.mark.parametrize(("num_frames", "num_latents"), [(1, 1), (5, 2), (13, 4)])
def test_sk_plus_one_frames_give_k_plus_one_latents_and_back(
    fitted: CausalPatchTokenizer, num_frames: int, num_latents: int
) -> None:
    frames = to_unit(drifting_clips(2, num_frames, 12, 20))
    latents = fitted.encode(frames)
    assert latents.shape == (2, num_latents, 10, 3, 5)
    assert fitted.decode(latents).shape == frames.shape


def test_latents_survive_a_round_trip(fitted: CausalPatchTokenizer) -> None:
    latents = 0.05 * torch.randn(2, 3, 10, 3, 5, generator=generator(1))  # too small to be clipped
    torch.testing.assert_close(fitted.encode(fitted.decode(latents)), latents, atol=1e-4, rtol=1e-4)


def test_latents_of_a_patch_are_its_principal_components(fitted: CausalPatchTokenizer) -> None:
    frames = to_unit(drifting_clips(1, 5, 8, 8, seed=3))
    latents = fitted.encode(frames)
    first = frames[0, 0, :, 4:8, 0:4].flatten()  # row 1, column 0
    expected = (first - fitted.first.mean) @ fitted.first.basis / fitted.first.scale
    torch.testing.assert_close(latents[0, 0, :, 1, 0], expected)
    later = frames[0, 1:5, :, 0:4, 4:8].flatten()  # row 0, column 1
    expected = (later - fitted.later.mean) @ fitted.later.basis / fitted.later.scale
    torch.testing.assert_close(latents[0, 1, :, 0, 1], expected)


def test_subspace_iteration_finds_the_axes_of_the_full_decomposition() -> None:
    scales = 0.8 ** torch.arange(60)
    rotation = torch.linalg.qr(torch.randn(60, 60, generator=generator(1))).Q
    x = torch.randn(500, 60, generator=generator(2)) * scales @ rotation
    x = x - x.mean(0)
    basis, std = principal_components(x, 8, generator(3))
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    torch.testing.assert_close(std, values.flip(0)[:8].sqrt(), atol=1e-4, rtol=1e-4)
    overlap = (basis * vectors.flip(1)[:, :8]).sum(0).abs()
    torch.testing.assert_close(overlap, torch.ones(8), atol=1e-3, rtol=0)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_variance_power_sets_the_spread_of_the_channels(power: float) -> None:
    clips = drifting_clips()
    config = CausalPatchConfig(patch_size=4, temporal_stride=4, channels=6, variance_power=power)
    tokenizer = CausalPatchTokenizer(config)
    tokenizer.fit(clips, generator(), max_patches=100_000)
    latents = tokenizer.encode(to_unit(clips))
    for part, pca in ((latents[:, :1], tokenizer.first), (latents[:, 1:], tokenizer.later)):
        variance = part.var(dim=(0, 1, 3, 4), correction=0)
        torch.testing.assert_close(variance.mean(), torch.tensor(1.0), atol=1e-2, rtol=0)
        std = variance.sqrt() * pca.scale  # along the axes, in pixels
        torch.testing.assert_close(
            variance / variance[0], (std / std[0]) ** (2 - 2 * power), atol=1e-2, rtol=0
        )
        assert std[0] > 2 * std[-1]  # the axes do differ


def test_a_later_frame_never_changes_an_earlier_latent(fitted: CausalPatchTokenizer) -> None:
    frames = to_unit(drifting_clips(1, 13))
    latents = fitted.encode(frames)
    for frame in range(1, 13):
        changed = frames.clone()
        changed[:, frame] = -changed[:, frame]
        group = (frame - 1) // 4 + 1
        found = fitted.encode(changed)
        assert torch.equal(found[:, :group], latents[:, :group])
        assert not torch.equal(found[:, group], latents[:, group])


def test_a_prefix_of_latents_decodes_to_the_same_frames(fitted_conv: CausalPatchTokenizer) -> None:
    open_decoder(fitted_conv)
    latents = fitted_conv.encode(to_unit(drifting_clips(2, 13)))
    whole = fitted_conv.decode(latents)
    torch.testing.assert_close(fitted_conv.decode(latents[:, :2]), whole[:, :5])
    torch.testing.assert_close(fitted_conv.decode(latents[:, :1]), whole[:, :1])


def test_fitting_is_deterministic_and_saved(fitted: CausalPatchTokenizer) -> None:
    again, restored = CausalPatchTokenizer(SMALL), CausalPatchTokenizer(SMALL)
    again.fit(drifting_clips(), generator())
    restored.load_state_dict(fitted.state_dict())
    frames = to_unit(drifting_clips(2, seed=5))
    for other in (again, restored):
        assert torch.equal(other.encode(frames), fitted.encode(frames))


def test_uint8_and_float_frames_fit_the_same_projection(fitted: CausalPatchTokenizer) -> None:
    other = CausalPatchTokenizer(SMALL)
    other.fit(to_unit(drifting_clips()), generator())
    assert torch.equal(other.later.basis, fitted.later.basis)


def test_autocast_changes_neither_latents_nor_linear_frames(fitted: CausalPatchTokenizer) -> None:
    frames = to_unit(drifting_clips(2, seed=7))
    expected = fitted.encode(frames)
    decoded = fitted.decode(expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fitted.encode(frames), expected)
        assert torch.equal(fitted.decode(expected), decoded)


def test_reconstruction_beats_the_mean_frame_and_grows_with_channels() -> None:
    clips, test = drifting_clips(32), to_unit(drifting_clips(4, seed=9))
    scores = []
    for channels in (4, 12, 40):
        config = CausalPatchConfig(patch_size=4, temporal_stride=4, channels=channels)
        tokenizer = CausalPatchTokenizer(config)
        tokenizer.fit(clips, generator())
        scores.append(psnr(tokenizer.decode(tokenizer.encode(test)), test))
    assert psnr(to_unit(clips).mean((0, 1)), test) + 6 < scores[0] < scores[1] < scores[2]


def test_flat_palette_frames_are_described_well() -> None:
    """Label maps drawn as RGB: few colours, hard edges."""
    palette = torch.tensor([[0, 0, 0], [128, 64, 128], [70, 130, 180], [220, 20, 60]])
    labels = torch.zeros(8, 9, 16, 24, dtype=torch.long)
    labels[:, :, 8:] = 1
    labels[:, :, :8] = 2
    for clip in range(8):
        for frame in range(9):
            labels[clip, frame, 6:12, clip + frame : clip + frame + 6] = 3
    frames = rearrange(palette[labels], "n t h w c -> n t c h w").to(torch.uint8)
    tokenizer = CausalPatchTokenizer(
        CausalPatchConfig(patch_size=4, temporal_stride=4, channels=24)
    )
    tokenizer.fit(frames, generator())
    unit = to_unit(frames)
    assert psnr(tokenizer.decode(tokenizer.encode(unit)), unit) > 25


def test_conv_decoder_starts_as_the_linear_decoder(
    fitted: CausalPatchTokenizer, fitted_conv: CausalPatchTokenizer
) -> None:
    latents = fitted.encode(to_unit(drifting_clips(2)))
    assert torch.equal(fitted_conv.decode(latents), fitted.decode(latents))


def test_the_residual_of_chosen_frames_is_that_of_all_frames(
    fitted_conv: CausalPatchTokenizer,
) -> None:
    open_decoder(fitted_conv)
    assert fitted_conv.decoder is not None
    frames = to_unit(drifting_clips(2))
    latents = fitted_conv.encode(frames)
    whole = fitted_conv.decoder(frames, latents)
    chosen = [0, 2, 3, 7]
    torch.testing.assert_close(fitted_conv.decoder(frames, latents, chosen), whole[:, chosen])


def test_decoder_loss_trains_all_of_the_decoder_and_leaves_the_latents(
    fitted_conv: CausalPatchTokenizer,
) -> None:
    frames = to_unit(drifting_clips(4))
    before = fitted_conv.encode(frames)
    optimizer = torch.optim.AdamW(fitted_conv.parameter_groups(), lr=1e-2)
    for step in range(2):  # the first step opens the zero-initialised output
        optimizer.zero_grad()
        fitted_conv.reconstruction_loss(frames, generator(step)).total.backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in fitted_conv.parameters())
    assert torch.equal(fitted_conv.encode(frames), before)


def test_decoder_loss_passes_frames_to_the_objective_and_sums_its_terms(
    fitted_conv: CausalPatchTokenizer,
) -> None:
    seen = []

    def objective(found: torch.Tensor, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append((found, frames))
        error = (found - frames).square().mean()
        return {"a": error, "b": 2 * error}

    clips = to_unit(drifting_clips(3))
    loss = fitted_conv.reconstruction_loss(clips, generator(), objective)
    torch.testing.assert_close(loss.total.detach(), loss.terms["a"] + loss.terms["b"])
    found, frames = seen[0]
    assert found.shape == frames.shape == (3 * (1 + 2 * 2), 3, 16, 24)
    assert torch.equal(frames[0], clips[0, 0])
    assert torch.equal(frames[5], clips[1, 0])


def test_decoder_loss_is_deterministic_under_a_generator(
    fitted_conv: CausalPatchTokenizer,
) -> None:
    frames = to_unit(drifting_clips(6))
    first, second, other = (
        fitted_conv.reconstruction_loss(frames, generator(seed)).total for seed in (1, 1, 2)
    )
    assert first == second
    assert first != other


def test_half_of_the_clips_stay_whole_in_training() -> None:
    latents = torch.randn(400, 2, 3, 2, 2, generator=generator(1))
    worn = wear(latents, 0.3, generator(2))
    is_whole = (worn == latents).flatten(1).all(dim=1)
    assert 0.4 < is_whole.float().mean() < 0.6
    assert (worn - latents)[~is_whole].std() < 0.5


@pytest.mark.slow
def test_conv_decoder_beats_linear_after_a_short_fit() -> None:
    torch.manual_seed(0)
    config = CausalPatchConfig(
        patch_size=8, temporal_stride=4, channels=6, decoder="conv", decoder_dim=32
    )
    tokenizer = CausalPatchTokenizer(config)
    train, test = drifting_clips(64, 5, 32, 48), to_unit(drifting_clips(8, 5, 32, 48, seed=9))
    tokenizer.fit(train, generator())
    latents = tokenizer.encode(test)
    linear = psnr(tokenizer.decode(latents), test)
    optimizer = torch.optim.AdamW(tokenizer.parameter_groups(), lr=3e-3)
    for step in range(80):
        optimizer.zero_grad()
        batch = to_unit(train[step * 8 % 64 :][:8])
        tokenizer.reconstruction_loss(batch, generator(step)).total.backward()
        optimizer.step()
    with torch.no_grad():
        assert psnr(tokenizer.decode(latents), test) > linear + 0.5


def test_config_survives_json() -> None:
    config = CausalPatchConfig(patch_size=12, channels=32, variance_power=0.25, decoder="conv")
    assert config_from_json(CausalPatchConfig, config_to_json(config)) == config


@pytest.mark.parametrize(("found", "needed"), [(16, 17), (10, 9), (2, 1), (8, 9), (30, 33)])
def test_a_wrong_number_of_frames_is_refused_with_the_nearest(found: int, needed: int) -> None:
    message = rf"{needed} frames needed \(8k \+ 1\), got {found}: pass --num-frames {needed}$"
    with pytest.raises(ValueError, match=message):
        check_video(torch.zeros(1, found, 3, 16, 16), 3, 8, 8)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.zeros(1, 9, 3, 16, 16, dtype=torch.uint8), "found torch.uint8: .*to_unit"),
        (torch.full((1, 9, 3, 16, 16), 255.0), "values up to 255: "),
        (torch.full((1, 9, 3, 16, 16), torch.nan), "NaN"),
        (torch.full((1, 9, 3, 16, 16), -torch.inf), "infinity"),
        (torch.zeros(1, 9, 1, 16, 16), "3 channels, found 1"),
        (torch.zeros(1, 9, 3, 18, 16), "stride 8, found 18x16: .* to 16x16"),
        (torch.zeros(1, 9, 3, 16, 5), "found 16x5: .* to 16x8"),
        (torch.zeros(9, 3, 16, 16), "n t c h w, found"),
        (torch.zeros(1, 0, 3, 16, 16), "1 frames needed"),
    ],
)
def test_wrong_frames_are_refused_with_a_fix(frames: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_video(frames, 3, 8, 8)


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (torch.zeros(1, 2, 5, 2, 2), "n tl 4 gh gw"),
        (torch.zeros(1, 0, 4, 2, 2), "tl >= 1"),
        (torch.full((1, 2, 4, 2, 2), torch.nan), "NaN or infinity"),
    ],
)
def test_wrong_latents_are_refused(latents: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_latents(latents, 4)


def test_encode_and_decode_check_what_they_get(fitted: CausalPatchTokenizer) -> None:
    with pytest.raises(ValueError, match="5 frames needed"):
        fitted.encode(torch.zeros(1, 6, 3, 8, 8))
    with pytest.raises(ValueError, match="NaN"):
        fitted.decode(torch.full((1, 1, 10, 2, 2), torch.nan))


def test_an_unfitted_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="call fit"):
        CausalPatchTokenizer(SMALL).encode(torch.zeros(1, 5, 3, 8, 8))
    with pytest.raises(ValueError, match="call fit"):
        CausalPatchTokenizer(SMALL).decode(torch.zeros(1, 2, 10, 2, 2))


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (drifting_clips(1, 5, 8, 8), "at least 20 patches"),
        (drifting_clips(64, 1, 8, 8), "pass --num-frames 5"),
        (torch.zeros(16, 5, 3, 16, 16, dtype=torch.uint8), "patches that differ"),
        (torch.full((16, 5, 3, 16, 16), torch.nan), "NaN"),
        (drifting_clips(16, 6), "5 frames needed"),
    ],
)
def test_clips_that_cannot_be_fitted_are_refused(clips: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CausalPatchTokenizer(SMALL).fit(clips, generator())


def test_training_a_linear_decoder_is_refused(fitted: CausalPatchTokenizer) -> None:
    assert fitted.parameter_groups() == []
    with pytest.raises(ValueError, match='decoder="conv"'):
        fitted.reconstruction_loss(to_unit(drifting_clips(1)), generator())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 4, "channels": 49}, "1 to 48 channels"),
        ({"variance_power": 1.5}, "from 0 to 1"),
        ({"patch_size": 5, "decoder": "conv"}, "use 6"),
    ],
)
def test_impossible_configs_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CausalPatchConfig(**changes)
