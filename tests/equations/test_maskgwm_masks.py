"""MaskGWM, section 3.3: which tokens are dropped, one claim per rule."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from maskworld.masking import DropKind, drop_tokens

SHAPE = (3, 4, 5, 8)
KINDS: list[Any] = ["spatial", "spatial_rowwise", "time_rowwise", "time_random"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_loses_the_same_share_and_keeps_raster_order(kind: DropKind) -> None:
    tokens = drop_tokens(kind, SHAPE, 0.25, seeded())
    assert tokens.kept.shape == (3, 4, 30)
    assert bool((tokens.dropped.sum(dim=-1) == 10).all())
    assert bool((tokens.kept.diff(dim=-1) > 0).all())
    assert not bool(tokens.dropped.gather(2, tokens.kept).any())


@pytest.mark.parametrize("kind", ["spatial_rowwise", "time_rowwise"])
def test_a_row_loses_exactly_its_share(kind: DropKind) -> None:
    dropped = drop_tokens(kind, SHAPE, 0.25, seeded()).dropped
    assert bool((dropped.view(3, 4, 5, 8).sum(dim=-1) == 2).all())


@pytest.mark.parametrize("kind", KINDS)
def test_only_spatial_kinds_are_alike_in_all_frames(kind: DropKind) -> None:
    dropped = drop_tokens(kind, SHAPE, 0.25, seeded()).dropped
    assert bool((dropped == dropped[:, :1]).all()) == kind.startswith("spatial")
    assert not torch.equal(dropped[0], dropped[1])


def test_slots_of_neighbouring_frames_lie_in_the_same_row_and_near() -> None:
    kept = drop_tokens("time_rowwise", (64, 4, 5, 8), 0.25, seeded()).kept
    rows, columns = kept // 8, kept % 8
    assert bool((rows.diff(dim=1) == 0).all())
    assert bool((rows == torch.arange(30) // 6).all())  # what view blocks take for a row is one
    assert int(columns.diff(dim=1).abs().max()) <= 2  # at most the tokens dropped in a row


def test_scatter_undoes_gather_and_nothing_dropped_is_the_identity() -> None:
    x = torch.randn(3, 4, 2, 40, 6, generator=seeded(1))
    fill = torch.randn(3, 4, 2, 40, 6, generator=seeded(2))
    tokens = drop_tokens("time_rowwise", SHAPE, 0.25, seeded())
    back = tokens.scatter(tokens.gather(x), fill)
    gone = tokens.dropped[:, :, None, :, None].expand_as(x)
    assert torch.equal(back, torch.where(gone, fill, x))
    whole = drop_tokens("spatial", SHAPE, 0.0, seeded())
    assert torch.equal(whole.gather(x), x)


@pytest.mark.parametrize("ratio", [0.3, 1.0, -0.25])
def test_a_share_that_drops_no_whole_tokens_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="whole tokens of a row of 8"):
        drop_tokens("spatial", SHAPE, ratio, seeded())
