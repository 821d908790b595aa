"""Claims about maskworld.tokenizers.token_grid."""

from __future__ import annotations

import pytest
import torch

from maskworld.tokenizers.token_grid import TokenGrid, TokenGridConfig


def test_tokens_without_a_tokenizer_neither_encode_nor_draw_and_say_so() -> None:
    grid = TokenGrid(TokenGridConfig(vocab_size=7, name="commavq"))
    assert grid.vocab_size == 7
    assert list(grid.parameters()) == []
    with pytest.raises(ValueError, match=r"commavq.*pass tokens"):
        grid.encode(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"draws 'commavq'"):
        grid.decode(torch.zeros(1, 2, 2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"draws 'commavq'"):
        grid.decode_probabilities(torch.zeros(1, 2, 2, 7))
