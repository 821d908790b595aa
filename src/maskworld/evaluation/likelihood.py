"""How many bits a frame of tokens costs, given all true past frames: an exact code length.

The tokens of a frame are revealed in one fixed random order, a few per pass; every pass is charged
for the tokens that it reveals (chain rule). More passes can only help a good model: tokens of one
pass are coded as if independent.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from maskworld.evaluation.baselines import CopyLastMixture, Unigram
from maskworld.evaluation.results import Results
from maskworld.metrics.intervals import bootstrap_interval
from maskworld.metrics.scores import ClipScores
from maskworld.metrics.tokens import ChainRule, TokenMetric, token_bits
from maskworld.systems.worlddreamer import WorldDreamer
from maskworld.types import Batch, Clip, Prompt

COMMAVQ_PUBLISHED = 2.5
"""Bits per token of commaVQ's gpt2m, a model of GPT-2-medium size trained on far more driving: its
arithmetic coding reaches a published ratio of 4.0 over 10-bit tokens."""


@torch.no_grad()
def frame_bits(
    system: WorldDreamer,
    tokens: Int[Tensor, "b t gh gw"],
    num_passes: int,
    seed: int,
    batch_size: int = 25,
) -> ClipScores:
    """Bits per token of the last frame of every window, given the frames before it."""
    system.eval()
    gh, gw = tokens.shape[2:]
    order = torch.randperm(gh * gw, generator=torch.Generator().manual_seed(seed))
    metric = TokenMetric()
    for window in tokens.split(batch_size):
        b, t = window.shape[:2]
        model = system.guided_model(Prompt(), b, t, 1.0)
        hidden = torch.zeros(window.shape, dtype=torch.bool)
        hidden[:, -1] = True
        rule = ChainRule(window[:, None])
        for chunk in order.chunk(num_passes):
            revealed = torch.zeros(window.shape, dtype=torch.bool)
            revealed[:, -1].view(b, -1)[:, chunk] = True
            logits = model(window, hidden)[revealed[hidden]]
            rule.record_bits(token_bits(logits, window[revealed]), revealed[:, None])
            hidden &= ~revealed
        counted = torch.zeros(window.shape, dtype=torch.bool)
        counted[:, -1] = True
        metric.update(rule.bits(counted[:, None]), counted[:, None])
    return metric.compute()


def score_likelihood(
    results: Results,
    system: WorldDreamer,
    train: list[Clip],
    held_out: Batch,
    seed: int,
    num_passes: int = 32,
    num_frames: int = 100,
) -> None:
    """Adds "bits_per_token" of held-out frames, beside a unigram and a copy-last mixture that are
    fitted on the training part, and commaVQ's published figure."""
    assert held_out.tokens is not None
    windows = held_out.tokens[:, 0].long()
    chosen = torch.linspace(0, len(windows) - 1, min(num_frames, len(windows))).long()
    scores = frame_bits(system, windows[chosen], num_passes, seed)
    past = torch.stack([clip.tokens[0] for clip in train if clip.tokens is not None]).long()
    unigram = Unigram.fit(past[:, -1], system.tokenizer.vocab_size)
    mixture = CopyLastMixture.fit(unigram, past[:, -2], past[:, -1])
    baselines = {
        "unigram": float(unigram.bits(windows[:, -1]).mean()),
        "copy_last_mixture": float(mixture.bits(windows[:, -2], windows[:, -1]).mean()),
        "commavq_published": COMMAVQ_PUBLISHED,
    }
    blocks = (np.arange(len(chosen)) * 10) // len(chosen)
    results.add(
        "bits_per_token",
        model=scores.mean,
        interval=bootstrap_interval(scores, np.random.default_rng(seed), groups=blocks),
        n=len(chosen),
        better="lower",
        baselines=baselines,
    )
    results.protocol["chain_rule_passes_per_frame"] = num_passes
    results.protocol["given_true_frames"] = windows.shape[1] - 1
