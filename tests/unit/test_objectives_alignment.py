"""Claims about maskworld.objectives.alignment."""

from __future__ import annotations

import pytest
import torch

from maskworld.objectives.alignment import alignment_loss


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def pair() -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
    return (
        {2: randn(3, 4, 6), 5: randn(3, 4, 6, seed=1)},
        {2: randn(3, 4, 6, seed=2), 5: randn(3, 4, 6, seed=3)},
    )


def test_equation_11_with_loops() -> None:
    states, readouts = pair()
    total = 0.0
    for b in range(3):
        for k in (2, 5):
            for i in range(4):
                a, r = states[k][b, i], readouts[k][b, i]
                total += 1 - float(a @ r) / float(a.norm() * r.norm())
    assert float(alignment_loss(states, readouts)) == pytest.approx(total / 3)
    assert float(alignment_loss(states, readouts, "mean")) == pytest.approx(total / 24)


def test_equal_directions_cost_nothing_and_opposite_ones_two_per_token() -> None:
    states, _ = pair()
    assert float(alignment_loss(states, {k: 3 * s for k, s in states.items()})) == pytest.approx(0)
    opposite = {k: -s for k, s in states.items()}
    assert float(alignment_loss(states, opposite)) == pytest.approx(2 * 4 * 2)


def test_the_gradient_reaches_the_states_and_never_the_readouts() -> None:
    states, readouts = pair()
    for tensor in (*states.values(), *readouts.values()):
        tensor.requires_grad_()
    alignment_loss(states, readouts).backward()
    assert all(state.grad is not None and state.grad.any() for state in states.values())
    assert all(readout.grad is None for readout in readouts.values())


def test_only_kept_samples_count() -> None:
    states, readouts = pair()
    keep = torch.tensor([True, False, True])
    kept = alignment_loss(*({k: x[keep] for k, x in side.items()} for side in (states, readouts)))
    torch.testing.assert_close(alignment_loss(states, readouts, keep=keep), kept)
    states[2].requires_grad_()
    nobody = alignment_loss(states, readouts, keep=torch.zeros(3, dtype=torch.bool))
    assert float(nobody.detach()) == 0.0
    nobody.backward()


def test_what_cannot_be_compared_is_refused() -> None:
    states, readouts = pair()
    with pytest.raises(ValueError, match="same layers"):
        alignment_loss(states, {2: readouts[2]})
    with pytest.raises(ValueError, match="same layers"):
        alignment_loss({}, {})
