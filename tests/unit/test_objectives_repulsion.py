"""Claims about maskworld.objectives.repulsion."""

from __future__ import annotations

import math

import pytest
import torch

from maskworld.objectives.repulsion import repulsion_loss, select_hard_negative


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def pool(num_scenes: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The last scene has no unsafe candidate."""
    scores = torch.rand(num_scenes, 16, generator=torch.Generator().manual_seed(3)).double()
    scores[-1] = 0.6
    return randn(num_scenes, 16, 8, 3), scores, randn(num_scenes, 8, 3, seed=1)


@pytest.mark.parametrize("wrap_heading", [False, True])
def test_the_hard_negative_is_the_one_of_a_search_by_hand(wrap_heading: bool) -> None:
    candidates, scores, expert = pool()
    candidates[..., 2] *= 3  # headings beyond pi, so that wrapping matters
    found, has_negative = select_hard_negative(
        candidates, scores, expert, wrap_heading=wrap_heading
    )
    chosen = []
    for b in range(len(candidates)):
        best, index = math.inf, None
        for n in range(candidates.shape[1]):
            if not float(scores[b, n]) < 0.6:
                continue
            total = 0.0
            for waypoint, wanted in zip(candidates[b, n].tolist(), expert[b].tolist()):
                dx, dy, turn = (a - w for a, w in zip(waypoint, wanted))
                if wrap_heading:
                    turn = (turn + math.pi) % math.tau - math.pi
                total += dx**2 + dy**2 + turn**2
            if total / 8 < best:
                best, index = total / 8, n
        assert bool(has_negative[b]) == (index is not None)
        chosen.append(index)
        expected = torch.zeros(8, 3).double() if index is None else candidates[b, index]
        assert torch.equal(found[b], expected)
    assert chosen[-1] is None
    assert len(set(chosen)) > 3


def test_wrapping_the_heading_can_change_the_choice() -> None:
    expert = torch.tensor([[[0.0, 0.0, 3.1]]])
    candidates = torch.tensor([[[[0.0, 0.0, -3.1]], [[1.0, 0.0, 3.1]]]])
    scores = torch.zeros(1, 2)
    plain, _ = select_hard_negative(candidates, scores, expert)
    wrapped, _ = select_hard_negative(candidates, scores, expert, wrap_heading=True)
    assert torch.equal(plain, candidates[:, 1])
    assert torch.equal(wrapped, candidates[:, 0])


def test_padding_is_never_chosen_and_broken_pools_are_refused() -> None:
    candidates, scores, expert = pool()
    candidates[:, 5:] = math.nan
    scores[:, 5:] = math.inf
    found, has_negative = select_hard_negative(candidates, scores, expert)
    short = select_hard_negative(candidates[:, :5], scores[:, :5], expert)
    assert torch.equal(found, short[0])
    assert torch.equal(has_negative, short[1])
    scores[0, 0] = math.nan
    with pytest.raises(ValueError, match="NaN: score"):
        select_hard_negative(candidates, scores, expert)
    scores[0, 0], candidates[0, 0, 0, 0] = 0.1, math.nan
    with pytest.raises(ValueError, match="finite waypoints"):
        select_hard_negative(candidates, scores, expert)


def test_equation_18_with_loops() -> None:
    delta, negative = randn(5, 8, 4), randn(5, 8, 4, seed=1)
    has_negative = torch.tensor([True, False, True, True, False])
    total, count = 0.0, 0
    for b in range(5):
        if has_negative[b]:
            count += 1
            for waypoint in range(8):
                for d in range(4):
                    difference = float(delta[b, waypoint, d]) - float(negative[b, waypoint, d])
                    total += abs(difference) / 4 / 8
    found = repulsion_loss(delta, negative, has_negative)
    assert float(found) == pytest.approx(-total / count)


def test_a_step_against_the_gradient_moves_away_from_the_negative() -> None:
    delta, negative = randn(2, 8, 4).requires_grad_(), randn(2, 8, 4, seed=1)
    everyone = torch.ones(2, dtype=torch.bool)
    repulsion_loss(delta, negative, everyone).backward()
    assert delta.grad is not None
    moved = delta.detach() - 0.1 * delta.grad
    assert repulsion_loss(moved, negative, everyone) < repulsion_loss(delta, negative, everyone)


def test_scenes_without_negative_are_left_alone_even_with_nan() -> None:
    delta = randn(2, 8, 4).requires_grad_()
    negative = randn(2, 8, 4, seed=1).requires_grad_()
    broken = torch.cat([negative[:1], negative[1:] * math.nan])
    loss = repulsion_loss(delta, broken, torch.tensor([True, False]))
    torch.testing.assert_close(loss, -(delta[0] - negative[0]).abs().mean())
    loss.backward()
    assert delta.grad is not None
    assert delta.grad[0].all()
    assert not delta.grad[1].any()
    assert negative.grad is None


def test_no_negative_in_the_batch_is_exactly_zero_with_a_graph() -> None:
    delta = randn(2, 8, 4).requires_grad_()
    loss = repulsion_loss(delta, torch.zeros(2, 8, 4).double(), torch.zeros(2, dtype=torch.bool))
    assert float(loss.detach()) == 0.0
    loss.backward()
    assert delta.grad is not None
    assert not delta.grad.any()
