import pytest
import torch
from einops import rearrange

from maskworld.tokenizers.patch import PatchTokenizer, PatchTokenizerConfig


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth_frames(n: int = 12, h: int = 32, w: int = 48, seed: int = 0) -> torch.Tensor:
    """uint8 frames with soft blobs: patches that a codebook can describe."""
    g = generator(seed)
    small = torch.rand(n, 3, h // 8 + 1, w // 8 + 1, generator=g)
    frames = torch.nn.functional.interpolate(small, (h, w), mode="bilinear", align_corners=True)
    return (frames * 255).to(torch.uint8)


def to_unit(frames: torch.Tensor) -> torch.Tensor:
    return frames.float() / 127.5 - 1


@pytest.fixture(scope="module")
def config() -> PatchTokenizerConfig:
    return PatchTokenizerConfig(patch_size=4, num_components=6, vocab_size=32)


@pytest.fixture(scope="module")
def fitted(config: PatchTokenizerConfig) -> PatchTokenizer:
    tokenizer = PatchTokenizer(config)
    tokenizer.fit(smooth_frames(), generator())
    return tokenizer


def test_codes_of_decoded_codes_are_the_same_codes(fitted: PatchTokenizer) -> None:
    tokens = torch.randint(0, 32, (3, 5, 7), generator=generator(1))  # a non-square grid
    frames = rearrange(
        fitted.patches[tokens], "n gh gw (c p q) -> n c (gh p) (gw q)", p=4, q=4
    )  # unclipped, since clipping may move a patch
    assert torch.equal(fitted.encode(frames), tokens)


def test_decoded_shape_follows_a_non_square_grid(fitted: PatchTokenizer) -> None:
    frames = to_unit(smooth_frames(2, 16, 40))
    tokens = fitted.encode(frames)
    assert tokens.shape == (2, 4, 10)
    assert fitted.decode(tokens).shape == frames.shape


def test_fitting_is_deterministic_under_a_seed(config: PatchTokenizerConfig) -> None:
    first, second, other = (PatchTokenizer(config) for _ in range(3))
    first.fit(smooth_frames(), generator(3))
    second.fit(smooth_frames(), generator(3))
    other.fit(smooth_frames(), generator(4))
    assert torch.equal(first.codebook, second.codebook)
    assert not torch.equal(first.codebook, other.codebook)


def test_uint8_and_float_frames_fit_the_same_codes(config: PatchTokenizerConfig) -> None:
    first, second = PatchTokenizer(config), PatchTokenizer(config)
    first.fit(smooth_frames(), generator())
    second.fit(to_unit(smooth_frames()), generator())
    assert torch.equal(first.codebook, second.codebook)


def test_restored_tokenizer_gives_identical_tokens(
    fitted: PatchTokenizer, config: PatchTokenizerConfig
) -> None:
    restored = PatchTokenizer(config)
    restored.load_state_dict(fitted.state_dict())
    frames = to_unit(smooth_frames(seed=5))
    assert torch.equal(restored.encode(frames), fitted.encode(frames))
    tokens = fitted.encode(frames)
    assert torch.equal(restored.decode(tokens), fitted.decode(tokens))


def test_every_patch_gets_its_nearest_code(fitted: PatchTokenizer) -> None:
    frames = to_unit(smooth_frames(2, seed=6))
    patches = rearrange(frames, "n c (gh p) (gw q) -> (n gh gw) (c p q)", p=4, q=4)
    latents = (patches - fitted.mean) @ fitted.basis
    slow = torch.stack([(fitted.codebook - z).norm(dim=1).argmin() for z in latents])
    assert torch.equal(fitted.encode(frames).flatten(), slow)


def test_autocast_does_not_change_tokens(fitted: PatchTokenizer) -> None:
    frames = to_unit(smooth_frames(8, seed=7))
    expected = fitted.encode(frames)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fitted.encode(frames), expected)


def test_linear_decode_is_the_mean_of_the_patches_of_a_code(config: PatchTokenizerConfig) -> None:
    tokenizer = PatchTokenizer(config)
    frames = smooth_frames()
    tokenizer.fit(frames, generator(), num_iterations=60)  # converged: assignments are stable
    unit = to_unit(frames)
    tokens = tokenizer.encode(unit).flatten()
    patches = rearrange(unit, "n c (gh p) (gw q) -> (n gh gw) (c p q)", p=4, q=4)
    code = int(tokens.bincount().argmax())
    torch.testing.assert_close(
        tokenizer.patches[code], patches[tokens == code].mean(0), atol=1e-4, rtol=0
    )


def test_one_hot_probabilities_decode_like_tokens(config: PatchTokenizerConfig) -> None:
    for decoder in ("linear", "conv"):
        tokenizer = PatchTokenizer(
            PatchTokenizerConfig(patch_size=4, num_components=6, vocab_size=32, decoder=decoder)
        )
        tokenizer.fit(smooth_frames(), generator())
        if tokenizer.decoder is not None:
            torch.nn.init.normal_(tokenizer.decoder.out.weight, generator=generator())
        tokens = tokenizer.encode(to_unit(smooth_frames(2)))
        one_hot = torch.nn.functional.one_hot(tokens, 32).float()
        torch.testing.assert_close(
            tokenizer.decode_probabilities(one_hot), tokenizer.decode(tokens), atol=1e-5, rtol=0
        )


def test_conv_decoder_starts_as_the_linear_decoder() -> None:
    conv = PatchTokenizer(PatchTokenizerConfig(patch_size=4, vocab_size=32, decoder="conv"))
    conv.fit(smooth_frames(), generator())
    linear = PatchTokenizer(PatchTokenizerConfig(patch_size=4, vocab_size=32))
    linear.fit(smooth_frames(), generator())
    tokens = conv.encode(to_unit(smooth_frames(2)))
    assert torch.equal(conv.decode(tokens), linear.decode(tokens))


def test_decoder_loss_trains_the_decoder_and_leaves_the_codes() -> None:
    tokenizer = PatchTokenizer(PatchTokenizerConfig(patch_size=4, vocab_size=32, decoder="conv"))
    tokenizer.fit(smooth_frames(), generator())
    frames = to_unit(smooth_frames(4))
    before = tokenizer.encode(frames)
    optimizer = torch.optim.AdamW(tokenizer.parameter_groups(), lr=1e-2)
    for step in range(2):  # the first step opens the zero-initialised output
        optimizer.zero_grad()
        tokenizer.reconstruction_loss(frames, generator(step)).total.backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tokenizer.parameters())
    assert torch.equal(tokenizer.encode(frames), before)


def test_decoder_loss_is_deterministic_under_a_generator() -> None:
    tokenizer = PatchTokenizer(PatchTokenizerConfig(patch_size=4, vocab_size=32, decoder="conv"))
    tokenizer.fit(smooth_frames(), generator())
    frames = to_unit(smooth_frames(6))
    first, second, other = (
        tokenizer.reconstruction_loss(frames, generator(seed)).total for seed in (1, 1, 2)
    )
    assert first == second
    assert first != other


@pytest.mark.slow
def test_conv_decoder_beats_linear_after_a_short_fit() -> None:
    """The best of many reconstructions of smooth frames crosses patch borders."""
    tokenizer = PatchTokenizer(PatchTokenizerConfig(patch_size=8, vocab_size=64, decoder="conv"))
    train, test = smooth_frames(64), to_unit(smooth_frames(16, seed=9))
    tokenizer.fit(train, generator())
    tokens = tokenizer.encode(test)

    def psnr() -> float:
        with torch.no_grad():
            error = (tokenizer.decode(tokens) - test).square().mean()
        return float(10 * torch.log10(4 / error))

    linear = psnr()
    optimizer = torch.optim.AdamW(tokenizer.parameter_groups(), lr=3e-3)
    for step in range(60):
        optimizer.zero_grad()
        batch = to_unit(train[step * 8 % 64 :][:8])
        tokenizer.reconstruction_loss(batch, generator(step)).total.backward()
        optimizer.step()
    assert psnr() > linear + 0.5


@pytest.mark.parametrize("shape", [(1, 3, 30, 48), (1, 3, 32, 47)])
def test_indivisible_sizes_are_refused_with_a_fix(
    fitted: PatchTokenizer, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="divisible by the tokenizer's stride 4"):
        fitted.encode(torch.zeros(shape))


def test_an_unfitted_tokenizer_is_refused(config: PatchTokenizerConfig) -> None:
    with pytest.raises(ValueError, match="call fit"):
        PatchTokenizer(config).encode(torch.zeros(1, 3, 8, 8))


def test_fewer_patches_than_codes_are_refused(config: PatchTokenizerConfig) -> None:
    with pytest.raises(ValueError, match="at least 32 patches"):
        PatchTokenizer(config).fit(smooth_frames(1, 8, 8), generator())


def test_training_a_linear_decoder_is_refused(fitted: PatchTokenizer) -> None:
    assert fitted.parameter_groups() == []
    with pytest.raises(ValueError, match='decoder="conv"'):
        fitted.reconstruction_loss(to_unit(smooth_frames(1)), generator())
