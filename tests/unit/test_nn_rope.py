"""Claims about maskworld.nn.rope."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from maskworld.nn.rope import rotary_table, rotate


def positions(*values: float, axes: int = 1) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).expand(1, axes, -1)


def test_angles_are_those_of_the_formula() -> None:
    """Width 8 on one axis of base 4: theta^(k/3) pi/2 (2 x / 4 - 1) for the pairs k = 0..3."""
    table = rotary_table(positions(3.0), 8, (4,), theta=10_000)
    angles = [10_000 ** (k / 3) * math.pi / 2 * 0.5 for k in range(4)]
    expected = torch.tensor(angles, dtype=torch.float64)
    torch.testing.assert_close(table.real[0, 0], expected.cos())
    torch.testing.assert_close(table.imag[0, 0], expected.sin())


def test_pairs_alternate_between_axes_and_those_left_over_stand_still() -> None:
    grid = torch.tensor([[[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    table = rotary_table(grid, 16, (20, 2048, 2048))  # 2 frequencies x 3 axes, 2 pairs over
    assert torch.equal(table[0, :, :2], torch.ones(2, 2, dtype=torch.complex128))
    moved = (table[0, 0] - table[0, 1]).abs() > 0
    assert moved.tolist() == [False, False, True, False, False, True, False, False]


def test_products_depend_on_differences_of_positions_only() -> None:
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 8, generator=g, dtype=torch.float64)

    def product(x: float, y: float) -> Tensor:
        turned = [
            rotate(z, rotary_table(positions(p), 8, (4,), theta=50)) for z, p in ((q, x), (k, y))
        ]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(product(0.5, 2.0), product(2.0, 3.5))
    assert not torch.isclose(product(0.5, 2.0), product(0.5, 3.0))


def test_a_turn_keeps_lengths_and_dtype_and_gradients_turn_back() -> None:
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)).double()
    table = rotary_table(positions(0.0, 1.0, 2.0), 8, (4,))
    x.requires_grad_()
    turned = rotate(x, table)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    (turned.square().sum() / 2).backward()
    torch.testing.assert_close(x.grad, x.detach())
    assert rotate(x.bfloat16(), table.to(torch.complex64)).dtype == torch.bfloat16


def test_bases_that_do_not_match_the_axes_are_refused() -> None:
    with pytest.raises(ValueError, match="found 1 for 3 axes"):
        rotary_table(positions(0.0, axes=3), 12, (20,))
    with pytest.raises(ValueError, match="width 7"):
        rotary_table(positions(0.0), 7, (4,))
