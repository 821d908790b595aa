import math

import pytest
import torch

from maskworld.evaluation.baselines import (
    CopyLastMixture,
    MeanImage,
    TrivialFutures,
    Unigram,
    best_trivial,
    blurred_copy,
    copy_last,
)
from maskworld.metrics import psnr


def random_clips(b: int = 2, t: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (b, 1, t, 3, 12, 16), generator=generator, dtype=torch.uint8)


def test_copy_last_repeats_the_last_given_frame():
    clips = random_clips()
    copied = copy_last(clips, 4)
    assert copied.shape == (2, 1, 4, 3, 12, 16)
    assert all(torch.equal(copied[:, :, i], clips[:, :, -1]) for i in range(4))


def test_a_blur_keeps_a_constant_frame_and_spreads_a_point_as_a_gaussian():
    constant = torch.full((1, 1, 1, 3, 12, 16), 77, dtype=torch.uint8)
    assert torch.equal(blurred_copy(constant, 1), constant)
    point = torch.zeros(1, 1, 1, 1, 21, 21, dtype=torch.uint8)
    point[..., 10, 10] = 255
    blurred = blurred_copy(point, 1)[0, 0, 0, 0].float()
    expected = 255 / (2 * math.pi) * math.exp(-0.5 * (1 + 4))
    assert blurred[11, 12].item() == pytest.approx(expected, abs=0.51)
    assert torch.equal(blurred, blurred.T)


def test_a_blurred_copy_beats_a_copy_of_a_displaced_scene():
    """Why a copy alone is too weak a baseline."""
    scene = random_clips(1, 1).repeat_interleave(3, -1).repeat_interleave(3, -2)
    context, future = scene[..., :-1], scene[..., 1:]
    assert psnr(blurred_copy(context, 1), future).mean() > psnr(context, future).mean()


def test_the_mean_image_is_the_pixelwise_mean_whatever_the_batches():
    clips = random_clips(6, 5)
    fitted = MeanImage.fit([clips[:1], clips[1:]])
    expected = clips.double().mean((0, 2)).round().to(torch.uint8)
    assert torch.equal(fitted.image, expected)
    assert torch.equal(fitted.predict(2, 3)[1, :, 2], expected)
    with pytest.raises(ValueError, match="at least one training frame"):
        MeanImage.fit([])


def test_no_constant_beats_the_mean_image_in_squared_error():
    clips = random_clips(4, 4)
    mean = MeanImage.fit([clips]).image.double()

    def error(constant: torch.Tensor) -> float:
        return float((clips.double() - constant[:, None]).square().mean())

    assert error(mean) < min(error(mean + 2), error(mean - 2))


def test_best_trivial_picks_per_step_and_direction():
    curves = {"copy_last": [23.0, 20.0, None], "mean_image": [21.0, 21.0, None]}
    assert best_trivial(curves, "higher") == [23.0, 21.0, None]
    assert best_trivial(curves, "lower") == [21.0, 20.0, None]
    with pytest.raises(ValueError, match="one number of steps"):
        best_trivial({"a": [1.0], "b": [1.0, 2.0]}, "higher")
    with pytest.raises(ValueError, match="better"):
        best_trivial(curves, "up")


def test_unigram_bits_on_its_own_counts_are_their_entropy():
    tokens = torch.tensor([0] * 4 + [1] * 2 + [2] + [3])
    bits = Unigram.fit(tokens, 4, smoothing=1e-9).bits(tokens)
    assert bits.mean().item() == pytest.approx(1.75, abs=1e-6)


def test_unigram_probabilities_sum_to_one_and_unseen_codes_are_possible():
    unigram = Unigram.fit(torch.tensor([[0, 0], [1, 1]]), 8)
    assert unigram.probabilities.sum().item() == pytest.approx(1)
    assert torch.isfinite(unigram.bits(torch.tensor(7)))
    with pytest.raises(ValueError, match="smoothing"):
        Unigram.fit(torch.tensor([0]), 8, smoothing=0.0)
    with pytest.raises(ValueError, match=r"0\.\.7"):
        Unigram.fit(torch.tensor([8]), 8)


def markov_tokens(copy: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, 16, (400, 50), generator=generator)
    kept = torch.rand(400, 50, generator=generator) < copy
    frames = [drawn[0]]
    for t in range(1, 400):
        frames.append(torch.where(kept[t], frames[-1], drawn[t]))
    return torch.stack(frames)


def test_the_mixture_finds_the_copy_rate_of_a_source_that_is_one():
    tokens = markov_tokens(0.6)
    mixture = CopyLastMixture.fit(Unigram.fit(tokens, 16), tokens[:-1], tokens[1:])
    assert mixture.copy == pytest.approx(0.6, abs=0.02)


def test_no_other_copy_rate_is_cheaper_on_the_training_part():
    tokens = markov_tokens(0.3)
    unigram = Unigram.fit(tokens, 16)
    fitted = CopyLastMixture.fit(unigram, tokens[:-1], tokens[1:])
    cost = fitted.bits(tokens[:-1], tokens[1:]).mean()
    for step in (-0.01, 0.01):
        other = CopyLastMixture(unigram, fitted.copy + step)
        assert other.bits(tokens[:-1], tokens[1:]).mean() > cost
    assert cost < unigram.bits(tokens[1:]).mean()


def test_mixture_bits_are_a_code_and_stay_finite_after_perfect_copies():
    still = torch.zeros(5, 4, dtype=torch.long)
    mixture = CopyLastMixture.fit(Unigram.fit(still, 8), still[:-1], still[1:])
    every_code = torch.arange(8)
    bits = mixture.bits(torch.full((8,), 3), every_code)
    assert (2**-bits).sum().item() == pytest.approx(1)
    assert torch.isfinite(bits).all()


def test_trivial_futures_choose_the_blur_that_pays_and_know_each_style():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (6, 1, 3, 3, 24, 24), generator=generator, dtype=torch.uint8)
    day, night = noise // 4 + 180, noise // 4
    frames = torch.cat([day, night])
    kinds = ["day"] * 6 + ["night"] * 6
    fitted = TrivialFutures.fit(frames, 1, kinds)
    # The future is independent noise of one mean: the widest blur is nearest to that mean.
    assert fitted.blur_sigmas == (8.0, 8.0)
    still = TrivialFutures.fit(frames[:, :, :1].expand(-1, -1, 3, -1, -1, -1), 1)
    assert still.blur_sigmas == (0.5, 0.5)
    futures = fitted.predict(frames[:, :, :1], 2, kinds)
    assert {future.shape for future in futures.values()} == {(12, 1, 2, 3, 24, 24)}
    real = frames[:, :, 1:]
    by_style = psnr(futures["mean_image_of_style"], real).mean()
    assert by_style > psnr(futures["mean_image"], real).mean() + 5
    assert "mean_image_of_style" not in fitted_without_styles(frames)


def fitted_without_styles(frames):
    return TrivialFutures.fit(frames, 1).predict(frames[:, :, :1], 2)
