import itertools
from pathlib import Path

import pytest
import torch

from maskworld.tokenizers.codebook import (
    FiniteScalarQuantizer,
    FSQConfig,
    VectorQuantizer,
    VectorQuantizerConfig,
)
from maskworld.tokenizers.kmeans import kmeans, nearest_codes


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clusters(num: int = 16, per: int = 40, dim: int = 4) -> torch.Tensor:
    """`num` tight, far clusters."""
    g = generator(1)
    centres = 10 * torch.randn(num, dim, generator=g)
    return (centres[:, None] + 0.01 * torch.randn(num, per, dim, generator=g)).flatten(0, 1)


def as_grid(points: torch.Tensor) -> torch.Tensor:
    return points.view(len(points) // 8, 2, 4, -1)


def small(**changes: object) -> VectorQuantizer:
    config = {"vocab_size": 16, "dim": 4, "revive_after": 3} | changes
    return VectorQuantizer(VectorQuantizerConfig(**config))  # type: ignore[arg-type]


def test_kmeans_finds_every_cluster() -> None:
    points = clusters()
    codes, assignment = kmeans(points, 16, generator())
    assert sorted(assignment.bincount().tolist()) == [40] * 16
    means = torch.stack([points[assignment == k].mean(0) for k in range(16)])
    torch.testing.assert_close(codes, means)


def test_kmeans_assignment_is_the_nearest_code_in_chunks_too() -> None:
    points, codes = torch.randn(100, 3, generator=generator()), torch.randn(7, 3)
    expected = torch.cdist(points, codes).argmin(1)
    assert torch.equal(nearest_codes(points, codes, chunk=9), expected)


def test_kmeans_of_few_distinct_points_still_terminates() -> None:
    points = torch.tensor([[0.0], [1.0]]).repeat(10, 1)
    codes, assignment = kmeans(points, 4, generator())
    assert torch.isfinite(codes).all()
    assert (points - codes[assignment]).abs().max() == 0


def test_kmeans_of_too_few_points_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 points"):
        kmeans(torch.zeros(3, 2), 4, generator())


def test_start_uses_all_codes_on_clustered_data() -> None:
    quantizer = small()
    quantized = quantizer(as_grid(clusters()), generator())
    assert quantized.tokens.unique().numel() == 16
    assert quantizer.usage()["codebook_use"] == 1
    torch.testing.assert_close(quantized.latents, as_grid(clusters()), atol=0.1, rtol=0)


def test_start_spreads_over_batches_that_are_too_small() -> None:
    quantizer = small(vocab_size=64)
    points = clusters(64, 1)
    for expected in (16, 32, 48, 64):
        quantized = quantizer(as_grid(points), generator())
        assert int(quantizer.num_started) == expected
        assert int(quantized.tokens.max()) < expected


def test_unstarted_codebook_is_refused() -> None:
    with pytest.raises(ValueError, match="started codebook"):
        small().eval().encode(torch.zeros(1, 2, 2, 4))


def test_dead_codes_are_revived_from_current_latents() -> None:
    quantizer = small(revive_after=3)
    quantizer(as_grid(clusters()), generator())
    far = as_grid(100 + torch.rand(64, 4, generator=generator()))
    seen = [quantizer(far, generator(step)).tokens.unique().numel() for step in range(12)]
    assert seen[0] < 4  # the codes are elsewhere
    assert seen[-1] > 8
    assert quantizer.codes.min() > 50


def test_codes_in_use_are_not_revived() -> None:
    quantizer = small(revive_after=2)
    points = as_grid(clusters())
    quantizer(points, generator())
    before = quantizer.codes.clone()
    for step in range(6):
        quantizer(points, generator(step))
    torch.testing.assert_close(quantizer.codes, before, atol=1e-2, rtol=0)


def test_moving_average_codes_follow_their_latents() -> None:
    quantizer = small(decay=0.5)
    points = as_grid(clusters())
    quantizer(points, generator())
    shifted = points + 0.5
    for step in range(20):
        quantizer(shifted, generator(step))
    nearest = quantizer.eval()(shifted).latents
    torch.testing.assert_close(nearest, shifted, atol=0.1, rtol=0)


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_straight_through_gradient_reaches_the_encoder(update: str) -> None:
    quantizer = small(update=update)
    quantizer(as_grid(clusters()), generator())
    latents = as_grid(clusters()).requires_grad_()
    weight = torch.randn(latents.shape, generator=generator())
    (quantizer.eval()(latents).latents * weight).sum().backward()
    torch.testing.assert_close(latents.grad, weight)


def test_commitment_gradient_reaches_the_encoder_and_not_the_codebook() -> None:
    quantizer = small(update="gradient")
    latents = as_grid(clusters()).requires_grad_()
    quantized = quantizer(latents, generator())
    quantized.terms["commitment"].backward(retain_graph=True)
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0
    assert quantizer.codes.grad is None
    latents.grad = None
    quantized.terms["codebook"].backward()
    assert latents.grad is None
    assert quantizer.codes.grad is not None
    assert quantizer.codes.grad.abs().sum() > 0


def test_reviving_codes_leaves_the_backward_pass_alone() -> None:
    quantizer = small(update="gradient", is_normalized=True, revive_after=1)
    quantizer(as_grid(clusters()), generator())
    latents = as_grid(-clusters()).requires_grad_()
    quantized = quantizer(latents, generator())
    assert (quantizer.steps_since_revival == 0).any()
    sum(quantized.terms.values()).backward()
    assert latents.grad is not None


@pytest.mark.parametrize(
    "changes", [{"is_normalized": True}, {"code_dim": 2}, {"update": "gradient"}]
)
def test_lookup_of_tokens_is_what_training_gave_the_decoder(changes: dict[str, object]) -> None:
    torch.manual_seed(0)
    quantizer = small(**changes)
    points = as_grid(clusters())
    quantizer(points, generator())
    quantizer.eval()
    quantized = quantizer(points)
    assert torch.equal(quantizer.encode(points), quantized.tokens)
    torch.testing.assert_close(quantizer.lookup(quantized.tokens), quantized.latents)
    one_hot = torch.nn.functional.one_hot(quantized.tokens, 16).float()
    torch.testing.assert_close(quantizer.expectation(one_hot), quantized.latents)


def test_evaluation_changes_no_state() -> None:
    quantizer = small()
    quantizer(as_grid(clusters()), generator())
    quantizer.eval()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(as_grid(clusters()) + 3)
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


def test_training_resumes_bit_for_bit_from_a_state() -> None:
    batches = [as_grid(torch.randn(64, 4, generator=generator(i)) + i) for i in range(10)]
    whole, first, second = small(), small(), small()
    for step, batch in enumerate(batches):
        whole(batch, generator(step))
        first(batch, generator(step)) if step < 5 else None
    second.load_state_dict(first.state_dict())
    for step in range(5, 10):
        second(batches[step], generator(step))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_training_without_a_generator_is_refused() -> None:
    with pytest.raises(ValueError, match="generator"):
        small()(as_grid(clusters()))


@pytest.mark.parametrize("levels", [(8, 5, 5), (2, 3), (7,), (4, 4, 4)])
def test_fsq_index_and_code_are_a_bijection(levels: tuple[int, ...]) -> None:
    quantizer = FiniteScalarQuantizer(FSQConfig(levels=levels, dim=6))
    tokens = torch.arange(quantizer.vocab_size)
    codes = quantizer.codes(tokens)
    assert codes.unique(dim=0).shape == (quantizer.vocab_size, len(levels))
    assert codes.abs().max() <= 1
    assert torch.equal(quantizer._index(codes * (quantizer.levels // 2)), tokens)
    # the first channel counts fastest
    grid = [range(n) for n in reversed(levels)]
    digits = torch.tensor([tuple(reversed(d)) for d in itertools.product(*grid)])
    half = torch.tensor(levels) // 2
    torch.testing.assert_close(codes, (digits - half) / half)


@pytest.mark.parametrize("levels", [(8, 5), (2, 3)])
def test_fsq_rounding_reaches_every_level_and_no_other(levels: tuple[int, ...]) -> None:
    quantizer = FiniteScalarQuantizer(FSQConfig(levels=levels, dim=2))
    z = torch.linspace(-20, 20, 4001)[:, None].expand(-1, 2)
    rounded = quantizer._bound(z).round()
    for channel, count in enumerate(levels):
        assert sorted(rounded[:, channel].unique().tolist()) == [
            float(i - count // 2) for i in range(count)
        ]


def test_fsq_gradient_reaches_the_encoder() -> None:
    torch.manual_seed(0)
    quantizer = FiniteScalarQuantizer(FSQConfig(levels=(5, 5), dim=4))
    latents = torch.randn(2, 3, 5, 4, requires_grad=True)
    quantized = quantizer(latents)
    quantized.latents.square().sum().backward()
    assert latents.grad is not None
    assert (latents.grad != 0).all()
    torch.testing.assert_close(quantizer.lookup(quantized.tokens), quantized.latents)
    assert torch.equal(quantizer.encode(latents), quantized.tokens)


def _quantize_on_rank(rank: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    quantizer = small(revive_after=2, decay=0.0)  # counts are those of the last batch
    for step in range(8):
        batch = torch.randn(8, 2, 4, 4, generator=generator(10 * step + rank)) + 3 * (step // 4)
        quantizer(batch, generator(100 * rank + step))
    torch.save(quantizer.state_dict(), f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_ranks_keep_one_codebook_and_count_the_tokens_of_all(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_quantize_on_rank, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"rank{i}.pt", weights_only=True) for i in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert first["counts"].sum() >= 128  # 64 tokens of each rank
