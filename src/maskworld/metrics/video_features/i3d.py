"""I3D, the inflated Inception-v1 whose 400 Kinetics logits FVD compares; for inference only.

Layers carry the names of the published state dict (`Mixed_3b.b1a.conv3d.weight`). Convolutions and
max-poolings pad as TensorFlow's SAME does: unevenly, the odd pixel behind.

Reference: Carreira and Zisserman 2017, Quo Vadis, Action Recognition?, figure 3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

NUM_CLASSES = 400
SIDE = 224
MIN_FRAMES = 9
"""The last pooling takes two steps after a temporal stride of eight."""

# Output channels: b0, then the two convolutions of b1 and b2, then the one behind b3's pooling.
_MIXED: tuple[tuple[str, int, tuple[int, int, int, int, int, int]], ...] = (
    ("Mixed_3b", 192, (64, 96, 128, 16, 32, 32)),
    ("Mixed_3c", 256, (128, 128, 192, 32, 96, 64)),
    ("Mixed_4b", 480, (192, 96, 208, 16, 48, 64)),
    ("Mixed_4c", 512, (160, 112, 224, 24, 64, 64)),
    ("Mixed_4d", 512, (128, 128, 256, 24, 64, 64)),
    ("Mixed_4e", 512, (112, 144, 288, 32, 64, 64)),
    ("Mixed_4f", 528, (256, 160, 320, 32, 128, 128)),
    ("Mixed_5b", 832, (256, 160, 320, 32, 128, 128)),
    ("Mixed_5c", 832, (384, 192, 384, 48, 128, 128)),
)
_POOLS = {  # before the layer of that name: kernel and stride
    "Conv3d_2b_1x1": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}


def same_padding(
    size: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...]
) -> list[int]:
    """What F.pad needs for ceil(size / stride) outputs: last axis first, the odd pixel behind."""
    pads: list[int] = []
    for n, k, s in zip(reversed(size), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        pads += [total // 2, total - total // 2]
    return pads


class _Unit(nn.Module):
    """Convolution with SAME padding, batch normalisation and ReLU; or a convolution with bias."""

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        epsilon: float = 0.0,
        is_last: bool = False,
    ) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(dim_in, dim_out, kernel, stride, bias=is_last)
        self.bn = None if is_last else nn.BatchNorm3d(dim_out, eps=epsilon)

    def forward(self, x: Tensor) -> Tensor:
        size = (int(x.shape[2]), int(x.shape[3]), int(x.shape[4]))
        kernel, stride = self.conv3d.kernel_size, self.conv3d.stride
        x = self.conv3d(F.pad(x, same_padding(size, kernel, stride)))
        return x if self.bn is None else F.relu(self.bn(x))


class _Mixed(nn.Module):
    """Four branches side by side, joined over channels."""

    def __init__(
        self, dim_in: int, dims: tuple[int, int, int, int, int, int], epsilon: float
    ) -> None:
        super().__init__()
        d0, d1a, d1b, d2a, d2b, d3 = dims
        self.b0 = _Unit(dim_in, d0, epsilon=epsilon)
        self.b1a = _Unit(dim_in, d1a, epsilon=epsilon)
        self.b1b = _Unit(d1a, d1b, 3, epsilon=epsilon)
        self.b2a = _Unit(dim_in, d2a, epsilon=epsilon)
        self.b2b = _Unit(d2a, d2b, 3, epsilon=epsilon)
        self.b3b = _Unit(dim_in, d3, epsilon=epsilon)

    def forward(self, x: Tensor) -> Tensor:
        pooled = _pool(x, (3, 3, 3), (1, 1, 1))
        branches = (self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled))
        return torch.cat(branches, dim=1)


class InceptionI3D(nn.Module):
    """Clips to 400 logits, averaged over the time steps that remain. Always in eval mode.

    Args:
        epsilon: of batch normalisation. The two published conversions of one TensorFlow graph
            differ in it, so it belongs to the backend.
    """

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.add_module("Conv3d_1a_7x7", _Unit(3, 64, 7, 2, epsilon=epsilon))
        self.add_module("Conv3d_2b_1x1", _Unit(64, 64, epsilon=epsilon))
        self.add_module("Conv3d_2c_3x3", _Unit(64, 192, 3, epsilon=epsilon))
        for name, dim_in, dims in _MIXED:
            self.add_module(name, _Mixed(dim_in, dims, epsilon))
        self.logits = _Unit(1024, NUM_CLASSES, is_last=True)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> InceptionI3D:
        """Stays in eval mode: batch statistics of the clips would make each number another one."""
        return super().train(False)

    def forward(self, x: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b k"]:
        """Pixels in [-1, 1], 224 x 224, at least 9 frames."""
        for name, layer in self.named_children():
            if name == "logits":
                break
            if name in _POOLS:
                x = _pool(x, *_POOLS[name])
            x = layer(x)
        x = self.logits(F.avg_pool3d(x, (2, 7, 7), stride=1))
        return x.mean(dim=(2, 3, 4))


def published_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the names of this module, from either public naming of I3D.

    The one is this module's own; the other writes `mixed_3b.branch_1.0.batch3d.weight` for
    `Mixed_3b.b1a.bn.weight`. Any common prefix before the first layer is dropped. Names of neither
    kind stay, so that loading can name them.
    """
    prefix = ""
    for name in tensors:
        found = re.match(r"(.*?)conv3d_1a_7x7\.", name, flags=re.IGNORECASE)
        if found:
            prefix = found[1]
            break
    return {_own_name(name.removeprefix(prefix)): value for name, value in tensors.items()}


def _own_name(name: str) -> str:
    name = name.replace(".batch3d.", ".bn.").replace("conv3d_0c_1x1.", "logits.")
    name = re.sub(r"^(conv3d|mixed)_", lambda found: found[0].capitalize(), name)
    name = re.sub(r"\.branch_0\.", ".b0.", name)
    name = re.sub(r"\.branch_([12])\.0\.", r".b\1a.", name)
    return re.sub(r"\.branch_([123])\.1\.", r".b\1b.", name)


def _pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Max-pooling with SAME padding. After a ReLU, padding with 0 is padding with nothing."""
    size = (int(x.shape[2]), int(x.shape[3]), int(x.shape[4]))
    return F.max_pool3d(F.pad(x, same_padding(size, kernel, stride)), kernel, stride)
