"""Claims about maskworld.nn: attention, feed-forward, grid convolutions, pixel scaling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from maskworld.nn.attention import SelfAttention, attend
from maskworld.nn.convolution import GridConv3d, SeparableGridConv, grid_conv
from maskworld.nn.feedforward import FeedForward, GatedFeedForward
from maskworld.nn.pixels import to_uint8, to_unit


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_attention_equals_torchs_own_multihead_attention() -> None:
    torch.manual_seed(0)
    ours = SelfAttention(8, 2).double()
    reference = nn.MultiheadAttention(8, 2, bias=False, batch_first=True).double()
    reference.in_proj_weight.data = ours.qkv.weight.data
    reference.out_proj.weight.data = ours.out.weight.data
    x = torch.randn(2, 5, 8, generator=seeded(), dtype=torch.float64)
    allowed = torch.rand(5, 5, generator=seeded()) < 0.6
    allowed |= torch.eye(5, dtype=torch.bool)
    for mask in (None, allowed):
        expected, _ = reference(x, x, x, attn_mask=None if mask is None else ~mask)
        torch.testing.assert_close(ours(x, mask), expected)


def test_attend_takes_keys_of_another_length() -> None:
    q, k = torch.randn(2, 3, 8), torch.randn(2, 6, 8)
    same = k[:, :1].expand(2, 6, 8)
    assert torch.allclose(attend(q, same, same, 4), k[:, :1].expand(2, 3, 8), atol=1e-6)


def test_separable_convolution_is_a_3d_one_whose_kernel_is_a_product() -> None:
    torch.manual_seed(0)
    layer = SeparableGridConv(4).double()
    x = torch.randn(2, 3, 5, 4, 4, generator=seeded(), dtype=torch.float64)
    kernel = layer.temporal.T[:, None, :, None, None] * layer.spatial.weight[:, :, None]
    bias, layer.spatial.bias.data = layer.spatial.bias.data, torch.zeros(4, dtype=torch.float64)
    slow = F.conv3d(x.permute(0, 4, 1, 2, 3), kernel, padding=1, groups=4)
    torch.testing.assert_close(layer(x), slow.permute(0, 2, 3, 4, 1))
    layer.spatial.bias.data = bias
    assert layer(x[:, :1]).shape == (2, 1, 5, 4, 4), "a single image has no neighbours in time"


@pytest.mark.parametrize("kind", ["dense", "depthwise", "separable"])
def test_convolutions_reach_one_step_in_each_direction(kind: str) -> None:
    torch.manual_seed(0)
    layer = grid_conv(kind, 4)  # type: ignore[arg-type]
    assert layer is not None
    x = torch.zeros(1, 5, 5, 5, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x)[0, 2, 2, 2].sum(), x)
    reached = gradient[0].abs().sum(-1) > 0
    expected = torch.zeros(5, 5, 5, dtype=torch.bool)
    expected[1:4, 1:4, 1:4] = True
    assert torch.equal(reached, expected)


def test_convolution_kinds_cost_what_they_say() -> None:
    def count(layer: nn.Module | None) -> int:
        return 0 if layer is None else sum(p.numel() for p in layer.parameters())

    assert count(grid_conv("dense", 8)) == 27 * 64 + 8
    assert count(grid_conv("depthwise", 8)) == 27 * 8 + 8
    assert count(grid_conv("separable", 8)) == 9 * 8 + 8 + 3 * 8
    assert grid_conv("none", 8) is None
    assert isinstance(grid_conv("dense", 8), GridConv3d)


def test_feed_forwards_are_their_formulas() -> None:
    x = torch.randn(3, 8)
    plain, gated = FeedForward(8, 12), GatedFeedForward(8, 12)
    torch.testing.assert_close(plain(x), plain.down(F.gelu(plain.up(x))))
    value, gate = x @ gated.up.weight[:12].T, x @ gated.up.weight[12:].T
    torch.testing.assert_close(gated(x), (value * F.gelu(gate)) @ gated.down.weight.T)


def test_pixels_survive_the_round_trip() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    unit = to_unit(pixels)
    assert unit[0] == -1
    assert unit[-1] == 1
    assert torch.equal(to_uint8(unit), pixels)
    assert torch.equal(to_unit(unit), unit), "float passes through"
    assert to_uint8(torch.tensor([-9.0, 9.0, 0.0])).tolist() == [0, 255, 128]
