"""Claims about maskworld.samplers.parallel."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from maskworld.samplers.parallel import (
    Order,
    ParallelDecoding,
    Scope,
    cosine_schedule,
    decode_parallel,
    draw_tokens,
    halton_order,
)

VOCAB = 7
ORDERS: tuple[Order, ...] = get_args(Order)
SCOPES: tuple[Scope, ...] = get_args(Scope)
ALL = list(itertools.product(SCOPES, ORDERS))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Recorder:
    """A model with fixed logits per place that keeps what it was shown."""

    def __init__(self, shape: tuple[int, ...], vocab: int = VOCAB, seed: int = 4) -> None:
        self.logits = torch.randn(*shape, vocab, generator=seeded(seed)) * 2
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __call__(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        self.seen.append((tokens.clone(), hidden.clone()))
        return self.logits[hidden]


def random_case(seed: int) -> tuple[Tensor, Tensor]:
    """A clip of random size, not square, with a random share of it hidden."""
    g = seeded(seed)
    b, t, h, w = (int(torch.randint(1, high, (), generator=g)) for high in (4, 6, 6, 9))
    tokens = torch.randint(VOCAB, (b, t, h, w), generator=g)
    hidden = torch.rand(b, t, h, w, generator=g) < torch.rand((), generator=g)
    if seed % 3 == 0:
        hidden = hidden[:, :1].expand(b, t, h, w).clone()  # a tube
    return tokens, hidden


def test_schedule_of_240_tokens_in_ten_steps() -> None:
    schedule = cosine_schedule(torch.tensor([240]), 10)[:, 0]
    assert schedule.tolist() == [237, 228, 213, 194, 169, 141, 108, 74, 37, 0]


def test_schedule_always_advances_and_ends_at_zero() -> None:
    n = torch.arange(700)
    for num_steps in (1, 2, 3, 8, 10, 31):
        schedule = torch.cat([n[None], cosine_schedule(n, num_steps)])
        assert (schedule[-1] == 0).all()
        fixed = -schedule.diff(dim=0)
        assert (fixed >= 0).all()
        assert (fixed[schedule[:-1] > 0] >= 1).all(), "no step of an unfinished group is idle"
        planned = [
            math.floor(600 * math.cos(math.pi * k / 2 / num_steps) + 1e-6)
            for k in range(1, num_steps)
        ]
        assert schedule[1:-1, 600].tolist() == planned


@pytest.mark.parametrize(("scope", "order"), ALL)
def test_the_scheduled_number_is_kept_in_every_step(scope: Scope, order: Order) -> None:
    tokens = torch.zeros(2, 4, 6, 10, dtype=torch.long)
    hidden = torch.ones_like(tokens, dtype=torch.bool)
    hidden[1, :, :2] = False
    model = Recorder(tuple(tokens.shape))
    decoding = ParallelDecoding(num_steps=7, scope=scope, order=order)
    decode_parallel(model, tokens, hidden, decoding, seeded())
    masks = torch.stack([seen for _, seen in model.seen])  # step b t h w
    assert len(masks) == 7
    if scope == "tube":
        assert torch.equal(masks, masks[:, :, :1].expand_as(masks))
        counts, start = masks[:, :, 0].flatten(2).sum(-1), torch.tensor([60, 40])
    elif scope == "frame":
        counts = masks.flatten(3).sum(-1).flatten(1)
        start = torch.tensor([60] * 4 + [40] * 4)
    else:
        counts, start = masks.flatten(2).sum(-1), torch.tensor([240, 160])
    assert torch.equal(counts[0], start)
    assert torch.equal(counts[1:], cosine_schedule(start, 7)[:-1])


@pytest.mark.parametrize(("scope", "order"), ALL)
def test_known_tokens_never_change_and_kept_ones_stay(scope: Scope, order: Order) -> None:
    for seed in range(25):
        tokens, hidden = random_case(seed)
        model = Recorder(tuple(tokens.shape))
        decoding = ParallelDecoding(num_steps=1 + seed % 9, scope=scope, order=order)
        given = tokens.clone()
        out = decode_parallel(model, tokens, hidden, decoding, seeded(seed)).tokens
        assert torch.equal(out[~hidden], given[~hidden])
        assert torch.equal(tokens, given), "the input itself is left alone"
        assert ((out >= 0) & (out < VOCAB)).all()
        for (before, was), (after, now) in itertools.pairwise(model.seen):
            assert not (now & ~was).any(), "nothing is hidden again"
            assert torch.equal(before[~was], after[~was])
        if model.seen:
            last_tokens, last_hidden = model.seen[-1]
            assert torch.equal(out[~last_hidden], last_tokens[~last_hidden])
            assert len(model.seen) <= decoding.num_steps
        assert bool(model.seen) == bool(hidden.any()), "no pass where nothing is hidden"


@pytest.mark.parametrize(("scope", "order"), ALL)
def test_everything_is_filled_from_the_model(scope: Scope, order: Order) -> None:
    # A model that is certain of another token at every place.
    for seed in range(6):
        tokens, hidden = random_case(seed)
        model = Recorder(tuple(tokens.shape))
        model.logits = 1e4 * torch.nn.functional.one_hot((tokens + 1) % VOCAB, VOCAB).float()
        decoding = ParallelDecoding(num_steps=4, scope=scope, order=order)
        out = decode_parallel(model, tokens, hidden, decoding, seeded()).tokens
        assert torch.equal(out, torch.where(hidden, (tokens + 1) % VOCAB, tokens))


@pytest.mark.parametrize(("scope", "order"), ALL)
def test_decoding_is_seeded(scope: Scope, order: Order) -> None:
    tokens, hidden = torch.zeros(2, 3, 4, 5, dtype=torch.long), torch.ones(2, 3, 4, 5).bool()
    decoding = ParallelDecoding(num_steps=4, scope=scope, order=order)

    def run(seed: int) -> Tensor:
        state = torch.get_rng_state()
        out = decode_parallel(Recorder((2, 3, 4, 5)), tokens, hidden, decoding, seeded(seed))
        assert torch.equal(state, torch.get_rng_state()), "the global generator is not used"
        return out.tokens

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_fewer_hidden_tokens_than_steps_finish_early() -> None:
    tokens, hidden = torch.zeros(1, 1, 2, 4, dtype=torch.long), torch.zeros(1, 1, 2, 4).bool()
    hidden[0, 0, 0, :3] = True
    model = Recorder((1, 1, 2, 4))
    decode_parallel(model, tokens, hidden, ParallelDecoding(num_steps=10), seeded())
    assert [int(seen.sum()) for _, seen in model.seen] == [3, 2, 1]


def test_most_confident_tokens_are_kept_first_without_choice_noise() -> None:
    tokens, hidden = torch.zeros(1, 2, 4, 5, dtype=torch.long), torch.ones(1, 2, 4, 5).bool()
    greedy = ParallelDecoding(num_steps=5, temperature=0.0, choice_temperature=0.0)
    for scope in SCOPES:
        model = Recorder((1, 2, 4, 5))
        confidence = model.logits.log_softmax(-1).max(-1).values
        if scope == "tube":
            confidence = confidence.mean(dim=1, keepdim=True).expand(1, 2, 4, 5)
        decode_parallel(model, tokens, hidden, replace(greedy, scope=scope), seeded())
        for (_, was), (_, now) in itertools.pairwise(model.seen):
            frames = range(2) if scope == "frame" else [slice(None)]
            for f in frames:
                kept, left = (was & ~now)[:, f], now[:, f]
                assert confidence[:, f][kept].min() > confidence[:, f][left].max()


def test_a_places_confidence_is_the_mean_over_its_hidden_frames() -> None:
    shape = (1, 4, 4, 5)
    tokens = torch.zeros(shape, dtype=torch.long)
    hidden = torch.rand(shape, generator=seeded(2)) < 0.5
    model = Recorder(shape)
    greedy = ParallelDecoding(num_steps=4, temperature=0.0, choice_temperature=0.0)
    decode_parallel(model, tokens, hidden, greedy, seeded())
    log_p = model.logits.log_softmax(-1).max(-1).values
    mean = (log_p * hidden).sum(1) / hidden.sum(1).clamp(min=1)
    assert len(model.seen) == 4
    for (_, was), (_, now) in itertools.pairwise(model.seen):
        kept, left = (was & ~now).any(dim=1), now.any(dim=1)
        assert not (kept & left).any(), "all hidden frames of a place are kept at once"
        assert mean[kept].min() > mean[left].max()


def test_choice_noise_changes_the_order_but_greedy_tokens_stay() -> None:
    tokens, hidden = torch.zeros(1, 2, 4, 5, dtype=torch.long), torch.ones(1, 2, 4, 5).bool()
    masks, outs = [], []
    for noise in (0.0, 4.5):
        model = Recorder((1, 2, 4, 5))
        decoding = ParallelDecoding(num_steps=5, temperature=0.0, choice_temperature=noise)
        outs.append(decode_parallel(model, tokens, hidden, decoding, seeded()).tokens)
        masks.append(model.seen[2][1])
    assert torch.equal(*outs)
    assert not torch.equal(*masks)


def test_drawn_frequencies_are_softmax_of_logits_over_temperature() -> None:
    logits = torch.randn(1, VOCAB, generator=seeded(1)) * 2
    many = logits.expand(40_000, -1)
    entropies = []
    for temperature in (0.3, 1.0, 3.0):
        drawn, log_p, p = draw_tokens(many, temperature, seeded())
        frequency = torch.bincount(drawn, minlength=VOCAB).double() / len(drawn)
        expected = (logits[0].double() / temperature).softmax(-1)
        assert frequency.sub(expected).abs().max() < 0.01
        entropies.append(float(-(frequency * frequency.clamp(min=1e-9).log()).sum()))
        torch.testing.assert_close(p[0], logits[0].softmax(-1))
        torch.testing.assert_close(log_p, logits[0].log_softmax(-1)[drawn])
    assert entropies[0] + 0.3 < entropies[1] < entropies[2] - 0.3


def test_temperature_to_zero_is_argmax() -> None:
    logits = torch.randn(500, VOCAB, generator=seeded(1))
    for temperature in (0.0, 1e-6):
        assert torch.equal(draw_tokens(logits, temperature, seeded())[0], logits.argmax(-1))


def test_temperature_acts_through_the_whole_decoder() -> None:
    tokens, hidden = torch.zeros(50, 2, 4, 5, dtype=torch.long), torch.ones(50, 2, 4, 5).bool()
    model = Recorder((1, 2, 4, 5))
    model.logits = model.logits.expand(50, -1, -1, -1, -1)
    share = []
    for temperature in (0.0, 0.5, 2.0):
        decoding = ParallelDecoding(num_steps=4, temperature=temperature)
        out = decode_parallel(model, tokens, hidden, decoding, seeded()).tokens
        share.append(float((out == model.logits.argmax(-1)).double().mean()))
    assert share[0] == 1
    assert share[0] > share[1] + 0.05 > share[2] + 0.1


@pytest.mark.parametrize("shape", [(8, 8), (12, 20), (5, 7), (1, 9), (3, 5, 4), (7,), (1, 1)])
def test_halton_order_visits_every_cell_once(shape: tuple[int, ...]) -> None:
    ranks = halton_order(shape)
    assert sorted(ranks.tolist()) == list(range(math.prod(shape)))


def star_discrepancy(points: Tensor) -> float:
    """Largest gap between the share of points in a box from the origin and its area."""
    corners = torch.cartesian_prod(*[torch.linspace(0.1, 1, 10)] * 2)
    inside = (points[:, None] < corners[None]).all(dim=-1).double().mean(dim=0)
    return float((inside - corners.prod(dim=-1)).abs().max())


@pytest.mark.parametrize(("h", "w"), [(16, 16), (12, 20)])
def test_halton_prefixes_are_spread_better_than_random_ones(h: int, w: int) -> None:
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    cells = torch.stack([(y + 0.5) / h, (x + 0.5) / w], dim=-1).view(-1, 2)
    order = halton_order((h, w)).argsort()
    for length in (20, 50, 100):
        random = [
            star_discrepancy(cells[torch.randperm(h * w, generator=seeded(i))[:length]])
            for i in range(30)
        ]
        typical = sorted(random)[len(random) // 2]
        assert star_discrepancy(cells[order[:length]]) < 0.75 * typical, length


@pytest.mark.parametrize("scope", SCOPES)
def test_halton_decoding_follows_the_halton_order(scope: Scope) -> None:
    shape = (1, 3, 4, 5)
    tokens, hidden = torch.zeros(shape, dtype=torch.long), torch.ones(shape).bool()
    model = Recorder(shape)
    decode_parallel(
        model, tokens, hidden, ParallelDecoding(num_steps=5, order="halton", scope=scope), seeded()
    )
    if scope == "clip":
        ranks = halton_order((4, 5, 3)).view(4, 5, 3).permute(2, 0, 1)[None]
    else:
        ranks = halton_order((4, 5)).view(1, 1, 4, 5).expand(shape)
    for _, seen in model.seen[1:]:
        assert ranks[~seen].max() < ranks[seen].min()


@pytest.mark.parametrize("scope", SCOPES)
def test_random_order_is_uniform(scope: Scope) -> None:
    shape = (800, 2, 2, 3)
    tokens, hidden = torch.zeros(shape, dtype=torch.long), torch.ones(shape).bool()
    model = Recorder((1, 2, 2, 3))
    model.logits = model.logits.expand(800, -1, -1, -1, -1)
    decoding = ParallelDecoding(num_steps=2, order="random", scope=scope)
    decode_parallel(model, tokens, hidden, decoding, seeded())
    share = model.seen[1][1].double().mean(dim=0)
    assert share.sub(share.mean()).abs().max() < 0.08


def test_kept_probabilities_are_those_each_token_was_drawn_from() -> None:
    tokens, hidden = random_case(3)
    model = Recorder(tuple(tokens.shape))
    decoded = decode_parallel(
        model, tokens, hidden, ParallelDecoding(num_steps=4), seeded(), keep_probabilities=True
    )
    p = decoded.probabilities
    assert p is not None
    torch.testing.assert_close(p[hidden], model.logits[hidden].softmax(-1))
    one_hot = torch.nn.functional.one_hot(tokens[~hidden], VOCAB).float()
    assert torch.equal(p[~hidden], one_hot)


def test_probabilities_are_none_unless_asked_for() -> None:
    tokens, hidden = random_case(3)
    decoding = ParallelDecoding(num_steps=2)
    assert (
        decode_parallel(
            Recorder(tuple(tokens.shape)), tokens, hidden, decoding, seeded()
        ).probabilities
        is None
    )


def test_tokens_of_narrow_integers_are_decoded_too() -> None:
    tokens, hidden = random_case(3)
    out = decode_parallel(
        Recorder(tuple(tokens.shape)), tokens.short(), hidden, ParallelDecoding(), seeded()
    )
    assert torch.equal(out.tokens[~hidden], tokens[~hidden])


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_steps": 0},
        {"temperature": -1.0},
        {"choice_temperature": -0.1},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Expected"):
        ParallelDecoding(**wrong)
