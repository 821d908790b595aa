"""Claims about maskworld.objectives.flow_matching."""

from __future__ import annotations

import math

import pytest
import torch

from maskworld.objectives.flow_matching import flow_matching_loss, intermediate_loss


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


CONTEXT = torch.tensor([[True, False, False, False], [True, True, False, False]])


def test_the_loss_is_the_mean_over_what_is_to_be_predicted() -> None:
    v, target = randn(2, 4, 3), randn(2, 4, 3, seed=1)
    weight = torch.tensor([2.0, 0.5], dtype=torch.double)
    plain, weighted, count = 0.0, 0.0, 0
    for b in range(2):
        for n in range(4):
            if not CONTEXT[b, n]:
                error = sum((float(v[b, n, d]) - float(target[b, n, d])) ** 2 for d in range(3)) / 3
                plain, weighted, count = (
                    plain + error,
                    weighted + error * float(weight[b]),
                    count + 1,
                )
    assert float(flow_matching_loss(v, target, CONTEXT)) == pytest.approx(plain / count)
    for weights in (weight, weight[:, None].expand(2, 4)):
        found = flow_matching_loss(v, target, CONTEXT, weight=weights)
        assert float(found) == pytest.approx(weighted / count)
    torch.testing.assert_close(
        flow_matching_loss(v, target), torch.nn.functional.mse_loss(v, target)
    )


def test_context_and_samples_without_target_pass_no_gradient_even_from_nan() -> None:
    v, target = randn(2, 4, 3).requires_grad_(), randn(2, 4, 3, seed=1)
    has_target = torch.tensor([True, False])
    target = target.masked_fill(CONTEXT[..., None] | ~has_target[:, None, None], math.nan)
    loss = flow_matching_loss(v, target, CONTEXT, has_target)
    loss.backward()
    assert v.grad is not None
    reached = (v.grad != 0).all(-1)
    assert reached.tolist() == [[False, True, True, True], [False] * 4]
    expected = torch.nn.functional.mse_loss(v[0, 1:], target[0, 1:])
    torch.testing.assert_close(loss, expected)


def test_a_batch_that_nobody_drove_has_no_loss_but_a_graph() -> None:
    v = randn(2, 4, 3).requires_grad_()
    loss = flow_matching_loss(v, v.detach() * math.nan, has_target=torch.zeros(2, dtype=torch.bool))
    assert float(loss.detach()) == 0.0
    loss.backward()
    assert v.grad is not None
    assert not v.grad.any()


def test_only_context_is_refused() -> None:
    with pytest.raises(ValueError, match="only context"):
        flow_matching_loss(randn(2, 4, 3), randn(2, 4, 3), torch.ones(2, 4, dtype=torch.bool))


def test_half_precision_is_averaged_in_float32() -> None:
    v = torch.full((1, 4096, 1), 300.0, dtype=torch.float16)
    loss = flow_matching_loss(v, torch.zeros_like(v))
    assert loss.dtype == torch.float32
    assert float(loss) == 90000.0


def test_intermediate_losses_add_up_over_layers() -> None:
    heads = [randn(2, 4, 3, seed=seed) for seed in (2, 3)]
    target = randn(2, 4, 3, seed=1)
    expected = sum(float(flow_matching_loss(head, target, CONTEXT)) for head in heads)
    assert float(intermediate_loss(heads, target, CONTEXT)) == pytest.approx(expected)
    with pytest.raises(ValueError, match="name a layer"):
        intermediate_loss([], target)
