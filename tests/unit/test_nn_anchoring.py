"""Long rollouts that keep the look of the frame they began with."""

from __future__ import annotations

import torch

from maskworld.nn.anchoring import anchored


def latents(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) * 3 + 1


def test_no_channels_leave_a_window_as_it_is() -> None:
    window = latents(2, 1, 4, 5, 3, 6, seed=0)
    assert anchored(window, 1, latents(2, 1, 5, 3, 6, seed=1), 0) is window


def test_dreamt_frames_get_mean_and_deviation_of_the_anchor_in_the_first_channels_alone() -> None:
    window, anchor = latents(2, 1, 4, 5, 3, 6, seed=0), latents(2, 1, 5, 3, 6, seed=1)
    before = window.clone()
    found = anchored(window, 1, anchor, 2)
    assert torch.equal(window, before)
    assert torch.equal(found[:, :, :1], window[:, :, :1])  # given
    assert torch.equal(found[:, :, :, 2:], window[:, :, :, 2:])
    for frame in range(1, 4):
        for statistic in (torch.mean, torch.std):
            torch.testing.assert_close(
                statistic(found[:, :, frame, :2], (-2, -1)), statistic(anchor[:, :, :2], (-2, -1))
            )
    # Nothing else of a picture changes: it is scaled and shifted.
    one, other = found[0, 0, 1, 0].flatten(), window[0, 0, 1, 0].flatten()
    assert torch.corrcoef(torch.stack([one, other]))[0, 1] > 0.9999


def test_anchoring_a_picture_to_itself_changes_nothing() -> None:
    window = latents(1, 1, 2, 5, 3, 6, seed=0)
    torch.testing.assert_close(anchored(window, 1, window[:, :, 1], 5), window)
