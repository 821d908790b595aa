"""Inception-v3 as TensorFlow's FID graph of 2015-12-05 has it; for inference only.

It is not the classifier of the same name in torchvision: average poolings leave the padding out of
their mean, the last block's pooling branch takes the maximum, and the classes are 1008. Layers
carry the names of the published conversion (`Mixed_6b.branch7x7_2.conv.weight`).

Reference: Szegedy et al. 2015, Rethinking the Inception Architecture; Heusel et al. 2017 (FID).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

DIM = 2048
NUM_CLASSES = 1008
SIDE = 299
EPSILON = 1e-3  # of batch normalisation, in the TensorFlow graph

Size = int | tuple[int, int]


class _Conv(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(
        self, dim_in: int, dim_out: int, kernel: Size = 1, stride: int = 1, padding: Size = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim_in, dim_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(dim_out, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def _mean_pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class _BlockA(nn.Module):
    """35 x 35: 1x1, 5x5, double 3x3, pooling."""

    def __init__(self, dim_in: int, dim_pool: int) -> None:
        super().__init__()
        self.branch1x1 = _Conv(dim_in, 64)
        self.branch5x5_1 = _Conv(dim_in, 48)
        self.branch5x5_2 = _Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = _Conv(dim_in, 64)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, padding=1)
        self.branch_pool = _Conv(dim_in, dim_pool)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        five = self.branch5x5_2(self.branch5x5_1(x))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(_mean_pool(x))], 1)


class _BlockB(nn.Module):
    """35 x 35 to 17 x 17."""

    def __init__(self, dim_in: int) -> None:
        super().__init__()
        self.branch3x3 = _Conv(dim_in, 384, 3, stride=2)
        self.branch3x3dbl_1 = _Conv(dim_in, 64)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], 1)


class _BlockC(nn.Module):
    """17 x 17: 1x1, 7x7 in rows and columns, the same twice, pooling."""

    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        row: tuple[tuple[int, int], tuple[int, int]] = ((1, 7), (0, 3))
        column: tuple[tuple[int, int], tuple[int, int]] = ((7, 1), (3, 0))
        self.branch1x1 = _Conv(dim_in, 192)
        self.branch7x7_1 = _Conv(dim_in, dim)
        self.branch7x7_2 = _Conv(dim, dim, row[0], padding=row[1])
        self.branch7x7_3 = _Conv(dim, 192, column[0], padding=column[1])
        self.branch7x7dbl_1 = _Conv(dim_in, dim)
        self.branch7x7dbl_2 = _Conv(dim, dim, column[0], padding=column[1])
        self.branch7x7dbl_3 = _Conv(dim, dim, row[0], padding=row[1])
        self.branch7x7dbl_4 = _Conv(dim, dim, column[0], padding=column[1])
        self.branch7x7dbl_5 = _Conv(dim, 192, row[0], padding=row[1])
        self.branch_pool = _Conv(dim_in, 192)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(_mean_pool(x))], 1)


class _BlockD(nn.Module):
    """17 x 17 to 8 x 8."""

    def __init__(self, dim_in: int) -> None:
        super().__init__()
        self.branch3x3_1 = _Conv(dim_in, 192)
        self.branch3x3_2 = _Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1 = _Conv(dim_in, 192)
        self.branch7x7x3_2 = _Conv(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = _Conv(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = _Conv(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat([three, self.branch7x7x3_4(seven), F.max_pool2d(x, 3, stride=2)], 1)


class _BlockE(nn.Module):
    """8 x 8: 1x1, 3x3 in rows beside columns, the same behind another 3x3, pooling.

    Args:
        pools_maximum: as the last block of the FID graph does, where the paper has a mean.
    """

    def __init__(self, dim_in: int, *, pools_maximum: bool) -> None:
        super().__init__()
        self.pools_maximum = pools_maximum
        self.branch1x1 = _Conv(dim_in, 320)
        self.branch3x3_1 = _Conv(dim_in, 384)
        self.branch3x3_2a = _Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = _Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = _Conv(dim_in, 448)
        self.branch3x3dbl_2 = _Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = _Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = _Conv(dim_in, 192)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.pools_maximum else _mean_pool(x)
        branches = (
            self.branch1x1(x),
            self.branch3x3_2a(three),
            self.branch3x3_2b(three),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(pooled),
        )
        return torch.cat(branches, 1)


class FIDInception(nn.Module):
    """Frames to 2048 pooled features. Always in eval mode.

    The classifier `fc` is there for the published file to fit, and unused.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _Conv(64, 80)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3)
        self.Mixed_5b = _BlockA(192, 32)
        self.Mixed_5c = _BlockA(256, 64)
        self.Mixed_5d = _BlockA(288, 64)
        self.Mixed_6a = _BlockB(288)
        self.Mixed_6b = _BlockC(768, 128)
        self.Mixed_6c = _BlockC(768, 160)
        self.Mixed_6d = _BlockC(768, 160)
        self.Mixed_6e = _BlockC(768, 192)
        self.Mixed_7a = _BlockD(768)
        self.Mixed_7b = _BlockE(1280, pools_maximum=False)
        self.Mixed_7c = _BlockE(2048, pools_maximum=True)
        self.fc = nn.Linear(DIM, NUM_CLASSES)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> FIDInception:
        """Stays in eval mode: batch statistics of the frames would make each number another one."""
        return super().train(False)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Pixels in about [-1, 1], 299 x 299."""
        for name, layer in self.named_children():
            if name == "fc":
                break
            x = layer(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = F.max_pool2d(x, 3, stride=2)
        return x.mean(dim=(2, 3))
