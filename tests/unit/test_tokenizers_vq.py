import pytest
import torch

from maskworld.tokenizers.codebook import FSQConfig, VectorQuantizerConfig
from maskworld.tokenizers.vq import VQTokenizer, VQTokenizerConfig, small_vq_config


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(
    quantizer: VectorQuantizerConfig | FSQConfig | None = None, **changes: object
) -> VQTokenizer:
    torch.manual_seed(0)
    config = {"patch_size": 2, "widths": (8, 16), "num_res_blocks": 1, "num_groups": 4} | changes
    quantizer = quantizer or VectorQuantizerConfig(vocab_size=16, dim=8, revive_after=20)
    return VQTokenizer(VQTokenizerConfig(quantizer=quantizer, **config))  # type: ignore[arg-type]


def frames(n: int = 6, h: int = 16, w: int = 24, seed: int = 0) -> torch.Tensor:
    small = torch.rand(n, 3, 3, 4, generator=generator(seed)) * 2 - 1
    return torch.nn.functional.interpolate(small, (h, w), mode="bilinear")


@pytest.fixture
def started() -> VQTokenizer:
    tokenizer = build()
    with torch.no_grad():
        tokenizer.reconstruction_loss(frames(), generator())
    return tokenizer.eval()


def test_non_square_frames_give_a_non_square_grid_and_come_back(started: VQTokenizer) -> None:
    tokens = started.encode(frames())
    assert tokens.shape == (6, 4, 6)
    assert started.decode(tokens).shape == frames().shape


def test_decoding_tokens_equals_the_forward_reconstruction(started: VQTokenizer) -> None:
    with torch.no_grad():
        reconstruction, quantized = started(frames())
        decoded = started.decode(started.encode(frames()))
        one_hot = torch.nn.functional.one_hot(quantized.tokens, 16).float()
        expected = started.decode_probabilities(one_hot)
    torch.testing.assert_close(decoded, reconstruction.clamp(-1, 1))
    torch.testing.assert_close(expected, decoded)


@pytest.mark.parametrize("quantizer", [None, FSQConfig(levels=(4, 4), dim=8)])
def test_a_few_steps_lower_the_loss(quantizer: FSQConfig | None) -> None:
    tokenizer = build(quantizer)
    optimizer = torch.optim.AdamW(tokenizer.parameter_groups(), lr=3e-3)
    losses = []
    for step in range(25):
        optimizer.zero_grad()
        loss = tokenizer.reconstruction_loss(frames(), generator(step))
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.terms["l1"]))
    assert losses[-1] < 0.75 * losses[0]
    assert 0 < loss.terms["codebook_use"] <= 1


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_the_gradient_reaches_every_parameter(update: str) -> None:
    tokenizer = build(
        VectorQuantizerConfig(vocab_size=16, dim=8, code_dim=4, update=update),  # type: ignore[arg-type]
        has_attention=True,
    )
    tokenizer.reconstruction_loss(frames(), generator()).total.backward()
    without = [name for name, p in tokenizer.named_parameters() if p.grad is None]
    assert without == []
    named = {id(p) for group in tokenizer.parameter_groups() for p in group["params"]}
    assert named == {id(p) for p in tokenizer.parameters()}


def test_an_objective_replaces_the_pixel_term(started: VQTokenizer) -> None:
    def objective(reconstruction: torch.Tensor, real: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mine": 3 * (reconstruction - real).square().mean()}

    loss = started.reconstruction_loss(frames(), generator(), objective)
    assert "l1" not in loss.terms
    torch.testing.assert_close(loss.total, loss.terms["mine"] + loss.terms["commitment"])


def test_restored_tokenizer_gives_identical_tokens(started: VQTokenizer) -> None:
    restored = build().eval()
    restored.load_state_dict(started.state_dict())
    assert torch.equal(restored.encode(frames(seed=2)), started.encode(frames(seed=2)))


def test_bfloat16_decodes_near_float32(started: VQTokenizer) -> None:
    tokens = started.encode(frames())
    with torch.no_grad():
        expected = started.decode(tokens)
        found = started.to(torch.bfloat16).decode(tokens)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0)


def test_indivisible_sizes_are_refused_with_a_fix(started: VQTokenizer) -> None:
    with pytest.raises(ValueError, match="16x24"):
        started.encode(torch.zeros(1, 3, 18, 27))


@pytest.mark.parametrize("stride", [8, 16])
def test_small_presets_have_half_a_million_parameters(stride: int) -> None:
    tokenizer = VQTokenizer(small_vq_config(stride))
    assert tokenizer.stride == stride
    assert 0.45e6 < sum(p.numel() for p in tokenizer.parameters()) < 0.65e6


def test_the_full_model_has_stride_16_and_8192_codes() -> None:
    with torch.device("meta"):
        tokenizer = VQTokenizer()
    assert (tokenizer.stride, tokenizer.vocab_size) == (16, 8192)
    assert sum(p.numel() for p in tokenizer.parameters()) == 127_317_699
