"""Open-loop prediction: given the first frames and the actions, how near is the dream to what came?

Every score stands beside the trivial predictions that fool it (copying, a blurred copy, the mean
image), per horizon step, with a bootstrap interval over clips of whole worlds or recordings.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from maskworld.evaluation.futures import score_futures
from maskworld.evaluation.results import Results
from maskworld.evaluation.sensitivity import add_action_sensitivity, disturbed_actions
from maskworld.metrics.codebook import CodebookUse
from maskworld.metrics.intervals import bootstrap_interval
from maskworld.metrics.scores import ClipScores, concatenate
from maskworld.metrics.tokens import (
    MASK_RATIOS,
    NATS_PER_BIT,
    TokenMetric,
    changed_tokens,
    fixed_masks,
    token_bits,
)
from maskworld.samplers.parallel import ParallelDecoding, decode_parallel
from maskworld.systems.worlddreamer import Dream, WorldDreamer
from maskworld.types import Batch, Prompt

GREEDY = ParallelDecoding(num_steps=1, temperature=0.0, choice_temperature=0.0)
"""One pass, most likely tokens: its distributions are the marginals given the context alone."""


@dataclass(frozen=True)
class Prediction:
    """Dreams of a whole evaluation set and what they cost."""

    dream: Dream
    sampler_seconds: list[float]
    """Per clip, of every batch."""
    decoder_seconds: list[float]
    """Per clip, of every batch."""


def split_batch(batch: Batch, size: int) -> Iterator[Batch]:
    """The batch in pieces of at most `size` clips."""
    for start in range(0, len(batch), size):
        yield slice_batch(batch, slice(start, start + size))


def slice_batch(batch: Batch, rows: slice | Int[Tensor, " n"]) -> Batch:
    """Some clips of a batch."""
    indices = torch.arange(len(batch))[rows].tolist()
    tensors = {
        name: value[rows]
        for name in ("frames", "tokens", "labels", "actions", "has_actions", "fps")
        if (value := getattr(batch, name)) is not None
    }
    return replace(batch, **tensors, captions=[batch.captions[i] for i in indices])


def prompt_of(batch: Batch) -> Prompt:
    """Text and actions of a batch."""
    return Prompt(batch.captions or None, batch.actions, batch.has_actions, batch.fps)


def tokens_of(system: WorldDreamer, batch: Batch) -> Int[Tensor, "b t gh gw"]:
    """Tokens of a single-view batch on the system's device, encoded if it holds frames only."""
    tokens = batch.tokens
    if tokens is None:
        if batch.frames is None:
            raise ValueError("Expected frames or tokens in the batch, found neither.")
        tokens = system.tokenize(batch.frames.to(system.null_text.device))
    if tokens.shape[1] != 1:
        raise ValueError(f"Expected one view, found {tokens.shape[1]}: score views one by one.")
    return tokens[:, 0].to(system.null_text.device)


def future_mask(tokens: Int[Tensor, "b t gh gw"], num_context: int) -> Tensor:
    """Hides everything after the first `num_context` frames."""
    hidden = torch.ones_like(tokens, dtype=torch.bool)
    hidden[:, :num_context] = False
    return hidden


@torch.no_grad()
def predict(
    system: WorldDreamer,
    batch: Batch,
    num_context: int,
    decoding: ParallelDecoding,
    generator: torch.Generator,
    batch_size: int = 32,
    expected: bool = False,
) -> Prediction:
    """Dreams the future of every clip from its first `num_context` frames and its prompt."""
    system.eval()
    dreams: list[Dream] = []
    sampling: list[float] = []
    drawing: list[float] = []
    for part in split_batch(batch, batch_size):
        tokens = tokens_of(system, part)
        hidden = future_mask(tokens, num_context)
        model = system.guided_model(
            prompt_of(part), len(tokens), tokens.shape[1], decoding.guidance_scale
        )
        started = time.perf_counter()
        decoded = decode_parallel(model, tokens, hidden, decoding, generator, expected)
        sampled = time.perf_counter()
        dreams.append(system.render(decoded))
        sampling.append((sampled - started) / len(part))
        drawing.append((time.perf_counter() - sampled) / len(part))
    joined = Dream(
        torch.cat([d.tokens for d in dreams]).cpu(),
        _join([d.frames for d in dreams]),
        _join([d.expected_frames for d in dreams]),
    )
    return Prediction(joined, sampling, drawing)


def _join(parts: list[UInt8[Tensor, "b v t c h w"] | None]) -> Tensor | None:
    if any(part is None for part in parts):
        return None
    return torch.cat([part for part in parts if part is not None]).cpu()


def score_frames(
    results: Results,
    batch: Batch,
    expected: UInt8[Tensor, "b v t c h w"],
    argmax: UInt8[Tensor, "b v t c h w"],
    reconstructed: UInt8[Tensor, "b v t c h w"],
    trivial: Mapping[str, UInt8[Tensor, "b v f c h w"]],
    num_context: int,
    groups: Int[np.ndarray, " n"],
    seed: int,
) -> dict[str, ClipScores]:
    """Adds "psnr" and "ssim": the model is the probability-weighted decode, `model_argmax` the
    most likely tokens, `reconstruction` what the tokenizer can reach at all.

    Args:
        trivial: futures of `TrivialFutures.predict`.

    Returns the PSNR scores by name.
    """
    if batch.frames is None:
        raise ValueError("Expected frames to compare with, found a batch of tokens.")
    real, model, likely, ceiling = (
        frames[:, :, num_context:] for frames in (batch.frames, expected, argmax, reconstructed)
    )
    others = {"model_argmax": likely, "reconstruction": ceiling}
    return score_futures(results, real, model, others, trivial, groups, seed)


@torch.no_grad()
def score_tokens(
    results: Results,
    system: WorldDreamer,
    batch: Batch,
    dreamt: Int[Tensor, "b t gh gw"],
    num_context: int,
    groups: Int[np.ndarray, " n"],
    seed: int,
) -> None:
    """Adds token accuracy, changed-token accuracy, bits per token at fixed mask ratios, and the
    codebook use of the real clips. Copying the last given frame is the baseline of accuracy."""
    tokens = tokens_of(system, batch).cpu()
    last, future = tokens[:, num_context - 1], tokens[:, num_context:]
    copied = last[:, None].expand_as(future)
    changed = changed_tokens(future[:, None], last[:, None])
    for name, counted in (("token_accuracy", None), ("changed_token_accuracy", changed)):
        model, copy = TokenMetric(), TokenMetric()
        model.update((dreamt[:, num_context:] == future)[:, None], counted)
        copy.update((copied == future)[:, None], counted)
        scores = model.compute()
        results.add(
            name,
            model=scores.mean,
            interval=bootstrap_interval(scores, np.random.default_rng(seed), groups=groups),
            n=len(batch),
            better="higher",
            baselines={"copy_last": copy.compute().mean},
            per_horizon={"model": scores.per_horizon, "copy_last": copy.compute().per_horizon},
        )
    for ratio in MASK_RATIOS:
        generator = torch.Generator().manual_seed(seed)
        scores = masked_bits(system, batch, ratio, num_context, generator)
        results.add(
            f"bits_per_token/ratio_{ratio:g}",
            model=scores.mean,
            interval=bootstrap_interval(scores, np.random.default_rng(seed), groups=groups),
            n=len(batch),
            better="lower",
        )
    use = CodebookUse(system.tokenizer.vocab_size)
    use.update(tokens)
    usage = use.compute()
    results.add(
        "codebook_use",
        model=usage.share,
        interval=(usage.share, usage.share),
        n=tokens.numel(),
        better="higher",
        baselines={"perplexity_over_vocabulary": usage.perplexity / system.tokenizer.vocab_size},
    )


@torch.no_grad()
def masked_bits(
    system: WorldDreamer,
    batch: Batch,
    mask_ratio: float,
    num_context: int,
    generator: torch.Generator,
    batch_size: int = 32,
) -> ClipScores:
    """Bits per hidden token at a fixed mask ratio of the future, in one pass, with fixed masks."""
    system.eval()
    parts = []
    for part in split_batch(batch, batch_size):
        tokens = tokens_of(system, part)
        grid = (1, *tokens.shape[1:])
        hidden = fixed_masks(len(tokens), grid, mask_ratio, num_context, generator)[:, 0]
        parts.append(_bits(system, part, prompt_of(part), tokens, hidden, num_context))
    return concatenate(parts)


def _bits(
    system: WorldDreamer,
    batch: Batch,
    prompt: Prompt,
    tokens: Int[Tensor, "b t gh gw"],
    hidden: Tensor,
    num_context: int,
) -> ClipScores:
    hidden = hidden.to(tokens.device)
    logits = system.guided_model(prompt, len(batch), tokens.shape[1], 1.0)(tokens, hidden)
    bits = torch.zeros(tokens.shape, device=tokens.device)
    bits[hidden] = token_bits(logits, tokens[hidden])
    metric = TokenMetric()
    metric.update(bits[:, None, num_context:], hidden[:, None, num_context:])
    return metric.compute()


@torch.no_grad()
def score_action_sensitivity(
    results: Results,
    system: WorldDreamer,
    batch: Batch,
    num_context: int,
    groups: Int[np.ndarray, " n"],
    seed: int,
    batch_size: int = 32,
) -> None:
    """Adds "action_sensitivity/shuffled" and "/mirrored": how many nats per token worse the model
    is when it is told another clip's actions, or its own with the yaw rate's sign flipped.

    The future is all hidden and predicted in one pass. A model that ignores the wheel scores 0.
    """
    if batch.actions is None:
        raise ValueError("Expected actions to disturb, found a batch without.")
    actions = disturbed_actions(batch.actions, 0, seed)
    nats = {
        name: concatenate(
            [
                _bits(
                    system,
                    part,
                    prompt_of(part),
                    tokens := tokens_of(system, part),
                    future_mask(tokens, num_context),
                    num_context,
                )
                for part in split_batch(replace(batch, actions=told), batch_size)
            ]
        ).scaled(NATS_PER_BIT)
        for name, told in actions.items()
    }
    add_action_sensitivity(results, nats, groups, seed)


def score_speed(results: Results, prediction: Prediction, num_clips: int) -> None:
    """Adds "seconds_per_clip/sampler" and "/decoder" of this machine: the median batch, and as the
    interval the fastest and the slowest."""
    for name, seconds in (
        ("sampler", prediction.sampler_seconds),
        ("decoder", prediction.decoder_seconds),
    ):
        results.add(
            f"seconds_per_clip/{name}",
            model=float(np.median(seconds)),
            interval=(min(seconds), max(seconds)),
            n=num_clips,
            better="lower",
        )


def reconstruct(system: WorldDreamer, batch: Batch, batch_size: int = 32) -> Tensor:
    """What the tokenizer keeps of real clips: encoded and decoded frames."""
    drawn = [system.draw(tokens_of(system, part)) for part in split_batch(batch, batch_size)]
    return torch.cat(drawn).cpu()
