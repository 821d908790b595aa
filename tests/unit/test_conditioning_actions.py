"""Claims about maskworld.conditioning.actions."""

from __future__ import annotations

import math

import pytest
import torch

from maskworld.conditioning.actions import ActionEncoder, integrate_unicycle


def test_constant_speed_without_turning_is_a_straight_line() -> None:
    actions = torch.tensor([[9.0, 0.0]]).repeat(5, 1)[None]
    pose = integrate_unicycle(actions, torch.tensor([2.0]))
    assert torch.allclose(pose[0, :, 0], torch.arange(5) * 4.5)
    assert torch.equal(pose[0, :, 1:], torch.zeros(5, 2))


def test_constant_turning_is_a_circle_to_the_left() -> None:
    speed, yaw_rate, fps = 5.0, 0.2, 50.0
    actions = torch.tensor([speed, yaw_rate], dtype=torch.float64).repeat(400, 1)[None]
    pose = integrate_unicycle(actions, torch.tensor([fps], dtype=torch.float64))[0]
    angle = torch.arange(400) * yaw_rate / fps
    radius = speed / yaw_rate
    torch.testing.assert_close(pose[:, 2], angle.double())
    assert (pose[:, 0] - radius * angle.sin()).abs().max() < 1e-3
    assert (pose[:, 1] - radius * (1 - angle.cos())).abs().max() < 1e-3
    assert pose[-1, 1] > 0, "positive yaw rate turns to positive y, left"


def test_the_step_into_the_first_frame_does_not_count() -> None:
    actions = torch.rand(2, 4, 2, generator=torch.Generator().manual_seed(0))
    other = actions.clone()
    other[:, 0] += 3
    fps = torch.tensor([2.0, 5.0])
    assert torch.equal(integrate_unicycle(actions, fps), integrate_unicycle(other, fps))
    assert not integrate_unicycle(actions, fps)[:, 0].any()


def test_pose_depends_on_the_frame_rate_of_each_clip() -> None:
    actions = torch.ones(2, 3, 2)
    pose = integrate_unicycle(actions, torch.tensor([1.0, 10.0]))
    assert pose[0, 1, 2] == pytest.approx(1.0)
    assert pose[1, 1, 2] == pytest.approx(0.1)


def test_a_frames_token_is_a_function_of_that_frames_action() -> None:
    encoder = ActionEncoder(3, 8, False, (1.0, 2.0, 4.0))
    actions = torch.randn(2, 5, 3)
    out = encoder(actions, torch.ones(2))
    assert out.shape == (2, 5, 8)
    torch.testing.assert_close(out[1, 3], encoder.mlp(actions[1, 3] / torch.tensor([1, 2, 4])))


def test_integration_lets_later_tokens_see_earlier_actions() -> None:
    torch.manual_seed(0)
    for integrate in (False, True):
        encoder = ActionEncoder(2, 8, integrate, (10.0, 0.5))
        actions = torch.ones(1, 5, 2)
        other = actions.clone()
        other[0, 1, 0] = 7.0
        moved = (encoder(actions, torch.ones(1)) - encoder(other, torch.ones(1))).abs().amax(-1)[0]
        assert (moved > 0).tolist() == [False, True, integrate, integrate, integrate]


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="integrate"):
        ActionEncoder(3, 8, True, (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="scales"):
        ActionEncoder(2, 8, False, (1.0,))


def test_full_turn_returns_home() -> None:
    steps = 360
    actions = torch.tensor([1.0, math.tau / steps], dtype=torch.float64).repeat(steps + 1, 1)[None]
    pose = integrate_unicycle(actions, torch.ones(1, dtype=torch.float64))
    assert pose[0, -1, :2].abs().max() < 1e-9
