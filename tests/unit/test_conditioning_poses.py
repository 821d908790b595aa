"""Signals that also tell the pose which speed and yaw rate add up to."""

from __future__ import annotations

import torch

from maskworld.conditioning.actions import integrate_unicycle
from maskworld.conditioning.driving_prompt import POSE, POSE_SCALE, embed_signals
from maskworld.conditioning.signals import Signal, SignalEncoder
from maskworld.types import Prompt

SIGNALS = (Signal("speed", 1, 100.0), Signal("yaw_rate", 1, 10.0), POSE)


def setting() -> tuple[SignalEncoder, torch.Tensor]:
    torch.manual_seed(0)
    encoder = SignalEncoder(SIGNALS, 16)
    torch.nn.init.normal_(encoder.null)
    rows = torch.tensor([[[9.0, 0.3], [5.0, 0.1], [5.0, 0.2], [6.0, -0.1]]]).repeat(3, 1, 1)
    return encoder, rows


def told(encoder: SignalEncoder, rows: torch.Tensor, dropped: torch.Tensor) -> torch.Tensor:
    found = embed_signals(encoder, Prompt(None, rows), dropped, rows.device, 5.0)
    assert found is not None
    return found


def test_the_pose_is_that_of_driving_the_actions_from_the_first_frame() -> None:
    encoder, rows = setting()
    poses = integrate_unicycle(rows, torch.full((3,), 5.0)) / torch.tensor(POSE_SCALE)
    expected = encoder(torch.cat([rows, poses], dim=-1))
    torch.testing.assert_close(told(encoder, rows, torch.zeros(3, 2).bool()), expected)


def test_a_dropped_signal_takes_the_pose_with_it() -> None:
    encoder, rows = setting()
    dropped = torch.tensor([[True, False], [False, True], [False, False]])
    other = rows + torch.tensor([0.0, 0.4])  # another yaw rate
    first, second = told(encoder, rows, dropped), told(encoder, other, dropped)
    assert not torch.equal(first[0], second[0])  # the yaw rate itself is told
    assert torch.equal(first[1], second[1])  # neither it nor where it leads
    faster = told(encoder, rows + torch.tensor([2.0, 0.0]), dropped)
    assert torch.equal(first[0], faster[0])
    assert not torch.equal(first[2], faster[2])
