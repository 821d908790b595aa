import math

import pytest
import torch

from maskworld.metrics import (
    MASK_RATIOS,
    ChainRule,
    CodebookUse,
    TokenMetric,
    changed_tokens,
    fixed_masks,
    token_bits,
)

GRID = (2, 1, 3, 2, 4)  # b v t gh gw


def random_tokens(vocab_size: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, vocab_size, GRID, generator=torch.Generator().manual_seed(seed))


def test_uniform_logits_cost_log2_of_the_vocabulary():
    torch.testing.assert_close(
        token_bits(torch.zeros(*GRID, 8), random_tokens()), torch.full(GRID, 3.0)
    )


def test_bits_are_minus_log2_of_the_softmax_probability():
    logits = torch.randn(*GRID, 8, generator=torch.Generator().manual_seed(3))
    tokens = random_tokens()
    expected = -logits.softmax(-1).gather(-1, tokens[..., None]).squeeze(-1).log2()
    torch.testing.assert_close(token_bits(logits, tokens), expected)


def test_a_mask_id_among_the_targets_is_refused():
    with pytest.raises(ValueError, match=r"0\.\.7, found 0\.\.8"):
        token_bits(torch.zeros(2, 8), torch.tensor([0, 8]))


@pytest.mark.parametrize("ratio", MASK_RATIOS)
def test_fixed_masks_hide_an_exact_share_of_the_future_and_nothing_of_the_context(ratio):
    masks = fixed_masks(5, (2, 4, 3, 5), ratio, 1, torch.Generator().manual_seed(0))
    assert masks.shape == (5, 2, 4, 3, 5)
    assert not masks[:, :, :1].any()
    assert masks.sum((1, 2, 3, 4)).tolist() == [round(ratio * 2 * 3 * 15)] * 5
    again = fixed_masks(5, (2, 4, 3, 5), ratio, 1, torch.Generator().manual_seed(0))
    assert torch.equal(masks, again)


@pytest.mark.parametrize(("ratio", "context"), [(0.0, 1), (1.1, 1), (0.5, 4), (0.5, -1)])
def test_fixed_masks_refuse_impossible_requests(ratio, context):
    with pytest.raises(ValueError, match="Expected"):
        fixed_masks(1, (1, 4, 2, 2), ratio, context, torch.Generator())


def test_copying_the_last_given_frame_scores_exactly_zero_on_changed_tokens():
    last, future = random_tokens(3)[:, :, 0], random_tokens(3, seed=1)
    copied = last[:, :, None].expand_as(future)
    metric = TokenMetric()
    metric.update(copied == future, changed_tokens(future, last))
    assert metric.compute().mean == 0.0
    everything = TokenMetric()
    everything.update(copied == future)
    assert everything.compute().mean > 0.1


def test_changed_token_accuracy_counts_by_hand():
    last = torch.tensor([[[[0, 1]]]])  # b v gh gw
    future = torch.tensor([[[[[0, 2]], [[3, 1]]]]])  # b v t gh gw
    prediction = torch.tensor([[[[[9, 2]], [[0, 9]]]]])
    metric = TokenMetric()
    metric.update(prediction == future, changed_tokens(future, last))
    scores = metric.compute()
    assert scores.per_horizon == [1.0, 0.0]
    assert scores.weight.tolist() == [[1.0, 1.0]]


def test_a_step_without_changed_tokens_is_undefined_not_zero():
    last = torch.zeros(1, 1, 2, 2, dtype=torch.long)
    future = torch.zeros(1, 1, 2, 2, 2, dtype=torch.long)
    future[:, :, 1] = 1
    metric = TokenMetric()
    metric.update(future == 1, changed_tokens(future, last))
    assert metric.compute().per_horizon == [None, 1.0]


def test_the_pooled_mean_weighs_tokens_not_clips():
    scores = torch.ones(2, 1, 1, 1, 4)
    scores[1] = 0
    counted = torch.ones(2, 1, 1, 1, 4, dtype=torch.bool)
    counted[1, ..., 1:] = False
    metric = TokenMetric()
    metric.update(scores, counted)
    assert metric.compute().mean == pytest.approx(4 / 5)


def test_scores_that_do_not_count_may_be_infinite_and_others_may_not():
    scores = torch.zeros(1, 1, 1, 1, 2)
    scores[..., 0] = float("inf")
    counted = torch.tensor([[[[[False, True]]]]])
    metric = TokenMetric()
    metric.update(scores, counted)
    assert metric.compute().mean == 0.0
    with pytest.raises(ValueError, match="finite"):
        metric.update(scores)


def test_merging_is_the_same_as_seeing_everything():
    scores = torch.rand(GRID, generator=torch.Generator().manual_seed(0))
    whole, first, second = TokenMetric(), TokenMetric(), TokenMetric()
    whole.update(scores)
    first.update(scores[:1])
    second.update(scores[1:])
    first.merge(second)
    assert first.compute().mean == pytest.approx(whole.compute().mean, abs=1e-12)


def test_paired_differences_subtract_clip_by_clip_and_refuse_other_masks():
    bits = torch.rand(GRID, generator=torch.Generator().manual_seed(0))
    a, b, c = TokenMetric(), TokenMetric(), TokenMetric()
    a.update(bits + 0.25)
    b.update(bits)
    c.update(bits, bits > 0.5)
    difference = a.compute().minus(b.compute())
    torch.testing.assert_close(
        torch.from_numpy(difference.total / difference.weight), torch.full((2, 3), 0.25).double()
    )
    assert difference.scaled(math.log(2)).mean == pytest.approx(0.25 * math.log(2))
    with pytest.raises(ValueError, match="paired"):
        a.compute().minus(c.compute())


def test_chain_rule_bits_are_minus_log2_of_the_joint_probability():
    """Two binary tokens with a known joint table, revealed in either order, cost the same."""
    joint = torch.tensor([[0.5, 0.125], [0.125, 0.25]])
    tokens = torch.tensor([[[[[0, 1]]]]])
    for order in ((0, 1), (1, 0)):
        chain = ChainRule(tokens)
        table = joint if order == (0, 1) else joint.T
        first = table.sum(1)
        given = table[tokens[..., order[0]].item()]
        for position, probabilities in zip(order, (first, given / given.sum())):
            logits = torch.zeros(1, 1, 1, 1, 2, 2)
            logits[..., position, :] = probabilities.log()
            revealed = torch.zeros(1, 1, 1, 1, 2, dtype=torch.bool)
            revealed[..., position] = True
            chain.record(logits, revealed)
        assert chain.bits().sum().item() == pytest.approx(-math.log2(0.125), abs=1e-5)


def test_chain_rule_charges_every_token_exactly_once():
    tokens = random_tokens()
    chain = ChainRule(tokens)
    half = torch.zeros(GRID, dtype=torch.bool)
    half[:, :, 1:] = True
    chain.record(torch.zeros(*GRID, 8), half)
    assert chain.bits(half).sum() == pytest.approx(3 * half.sum())
    with pytest.raises(ValueError, match="16 are missing"):
        chain.bits()
    with pytest.raises(ValueError, match="32 recorded again"):
        chain.record(torch.zeros(*GRID, 8), half)


def test_equally_used_codes_have_a_perplexity_of_their_number():
    use = CodebookUse(16)
    use.update(torch.arange(8).repeat(5).view(2, 20))
    usage = use.compute()
    assert (usage.num_used, usage.share, usage.num_tokens) == (8, 0.5, 40)
    assert usage.perplexity == pytest.approx(8)


def test_a_single_code_has_perplexity_one():
    use = CodebookUse(4)
    use.update(torch.zeros(3, dtype=torch.long))
    assert use.compute().perplexity == 1.0


def test_merged_code_counts_add_up_and_vocabularies_must_agree():
    first, second = CodebookUse(4), CodebookUse(4)
    first.update(torch.tensor([0, 0]))
    second.update(torch.tensor([1, 1]))
    first.merge(second)
    assert first.compute().perplexity == pytest.approx(2)
    with pytest.raises(ValueError, match="one vocabulary"):
        first.merge(CodebookUse(5))
    with pytest.raises(ValueError, match=r"0\.\.3"):
        first.update(torch.tensor([4]))
    with pytest.raises(ValueError, match="at least one token"):
        CodebookUse(4).compute()
