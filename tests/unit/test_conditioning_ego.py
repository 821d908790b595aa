"""Claims about maskworld.conditioning.ego."""

from __future__ import annotations

import math

import pytest
import torch

from maskworld.conditioning.ego import COMMANDS, EgoEncoder, describe_ego

STATUS = torch.tensor([[8.0, -0.5, 1.0, 0.25], [3.0, 0.0, -2.0, 0.5]])
COMMAND = torch.tensor([2, 0])


def test_bare_numbers_are_the_status_then_the_one_hot_command() -> None:
    encoder = EgoEncoder()
    assert encoder.width == 8
    expected = torch.tensor([[8, -0.5, 1, 0.25, 0, 0, 1, 0], [3, 0, -2, 0.5, 1, 0, 0, 0]])
    assert torch.equal(encoder(STATUS, COMMAND), expected)
    scaled = EgoEncoder(scale=(8.0, 1.0, 2.0, 0.5))(STATUS, COMMAND)
    torch.testing.assert_close(scaled[0, :4], torch.tensor([1.0, -0.5, 0.5, 0.5]))
    assert torch.equal(EgoEncoder(command="none")(STATUS), STATUS)


def test_an_embedding_depends_on_status_and_command() -> None:
    torch.manual_seed(0)
    for command in ("one_hot", "learned"):
        encoder = EgoEncoder(dim=6, command=command)
        out = encoder(STATUS[:1].expand(4, 4), torch.arange(4))
        assert out.shape == (4, 6)
        assert len({tuple(row.tolist()) for row in out}) == 4
        assert not torch.equal(encoder(STATUS, COMMAND), encoder(STATUS + 1, COMMAND))
    encoder = EgoEncoder(dim=6, command="learned")
    assert encoder.embedding is not None
    difference = encoder(STATUS, COMMAND) - encoder.mlp(STATUS)
    torch.testing.assert_close(difference, encoder.embedding(COMMAND))


def test_a_dropped_condition_becomes_the_null_vector_and_trains_only_it() -> None:
    encoder = EgoEncoder(dim=6, command="learned")
    with torch.no_grad():
        encoder.null.copy_(torch.arange(6.0))
    dropped = encoder(STATUS, COMMAND, torch.tensor([True, False]))
    assert torch.equal(dropped[0], torch.arange(6.0))
    assert torch.equal(dropped[1], encoder(STATUS, COMMAND)[1])
    encoder.zero_grad()
    dropped[0].sum().backward()
    moved = [n for n, p in encoder.named_parameters() if p.grad is not None and p.grad.any()]
    assert moved == ["null"]


def test_bare_numbers_have_nothing_to_learn_and_drop_to_zeros() -> None:
    encoder = EgoEncoder()
    assert not list(encoder.parameters())
    assert not encoder.state_dict()
    dropped = encoder(STATUS, COMMAND, torch.tensor([True, False]))
    assert not dropped[0].any()
    assert torch.equal(dropped[1], encoder(STATUS, COMMAND)[1])


def test_what_a_planner_cannot_know_is_refused() -> None:
    encoder = EgoEncoder()
    for bad in (math.nan, math.inf):
        broken = STATUS.clone()
        broken[1, 2] = bad
        with pytest.raises(ValueError, match="finite"):
            encoder(broken, COMMAND)
    for command in (-1, 4):
        with pytest.raises(ValueError, match=rf"found \[{command}\]"):
            encoder(STATUS, torch.tensor([0, command]))
    with pytest.raises(ValueError, match="command per sample"):
        encoder(STATUS)
    with pytest.raises(ValueError, match="4 status numbers, found 3"):
        encoder(STATUS[:, :3], COMMAND)
    with pytest.raises(ValueError, match="dim for learned"):
        EgoEncoder(command="learned")
    with pytest.raises(ValueError, match="4 scales"):
        EgoEncoder(scale=(1.0, 0.0, 1.0, 1.0))


def test_words_follow_the_numbers() -> None:
    standing = describe_ego((0.0, 0.0, 0.0, 0.0), 3)
    assert "standing still" in standing
    assert "unknown way" in standing
    braking = describe_ego(torch.tensor([20.0, 0.0, -3.0, -1.0]), 0)
    assert all(w in braking for w in ("driving fast", "braking hard", "bending right", "20.0 m/s"))
    assert "turn left" in braking
    assert "reversing" in describe_ego((-2.0, 0.0, 0.0, 0.0), 1)
    assert not any(c.isdigit() for c in describe_ego((9.0, 0.0, 1.0, 1.0), 2, numbers=False))
    phrases = {describe_ego((9.0, 0.0, 0.0, 0.0), command) for command in range(len(COMMANDS))}
    assert len(phrases) == 4
    with pytest.raises(ValueError, match="found 4"):
        describe_ego((9.0, 0.0, 0.0, 0.0), 4)
    with pytest.raises(ValueError, match="four finite"):
        describe_ego((9.0, math.nan, 0.0, 0.0), 1)
