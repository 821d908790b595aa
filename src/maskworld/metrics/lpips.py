"""LPIPS of version 0.1 on AlexNet, with weights the user brings: never random ones.

Reference: Zhang et al. 2018, The Unreasonable Effectiveness of Deep Features, Eq. 1.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from maskworld.metrics.image import check_pixels
from maskworld.metrics.video_features.weights import Weights, read_weights

MIN_SIDE = 64
"""Below, AlexNet's stride of 16 leaves next to nothing to compare."""
FRAMES_AT_ONCE = 16
# AlexNet: place in `features`, channels in and out, kernel, stride, padding.
_CONVOLUTIONS = (
    (0, 3, 64, 11, 4, 2),
    (3, 64, 192, 5, 1, 2),
    (6, 192, 384, 3, 1, 1),
    (8, 384, 256, 3, 1, 1),
    (10, 256, 256, 3, 1, 1),
)
_POOLED_BEFORE = (3, 6)
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # as published with LPIPS


class LPIPS(nn.Module):
    """Perceptual distance of frames; build it with `load_lpips`."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleDict(
            {
                str(place): nn.Conv2d(dim_in, dim_out, kernel, stride, padding)
                for place, dim_in, dim_out, kernel, stride, padding in _CONVOLUTIONS
            }
        )
        self.heads = nn.ParameterList(torch.zeros(1, row[2], 1, 1) for row in _CONVOLUTIONS)
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)
        self.weights_sha256 = ""
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(
        self, prediction: Shaped[Tensor, "*b c h w"], target: Shaped[Tensor, "*b c h w"]
    ) -> Float[Tensor, "*b"]:
        """The distance of each frame from its target, lower is nearer; a `FrameMeasure`.

        Raises:
            ValueError: no weights, pixels that are not uint8, other shapes, or frames of fewer than
                64 pixels a side.
        """
        if not self.weights_sha256:
            raise ValueError("Expected LPIPS weights, found none: build it with load_lpips(...).")
        check_pixels(prediction, target)
        if min(prediction.shape[-2:]) < MIN_SIDE:
            raise ValueError(
                f"LPIPS needs frames of at least {MIN_SIDE}x{MIN_SIDE} pixels, found "
                f"{tuple(prediction.shape[-2:])}: leave it out for such frames."
            )
        x, y = (rearrange(z, "... c h w -> (...) c h w") for z in (prediction, target))
        pairs = zip(x.split(FRAMES_AT_ONCE), y.split(FRAMES_AT_ONCE), strict=True)
        parts = [self._distance(a, b) for a, b in pairs]
        return torch.cat(parts).reshape(prediction.shape[:-3])

    def _distance(self, x: Tensor, y: Tensor) -> Float[Tensor, " n"]:
        total = torch.zeros(len(x), device=x.device)
        for a, b, head in zip(self._layers(x), self._layers(y), self.heads, strict=True):
            squared = (_unit_length(a) - _unit_length(b)).square()
            total = total + (head * squared).sum(dim=1).mean(dim=(1, 2))  # Eq. 1
        return total

    def _layers(self, frames: Tensor) -> list[Tensor]:
        x = (frames.float() * (2 / 255) - 1 - self.shift) / self.scale
        outputs = []
        for place, *_ in _CONVOLUTIONS:
            x = F.max_pool2d(x, 3, stride=2) if place in _POOLED_BEFORE else x
            x = F.relu(self.features[str(place)](x))
            outputs.append(x)
        return outputs


def load_lpips(alexnet: Path | str, heads: Path | str) -> LPIPS:
    """LPIPS from two files; nothing in them is run.

    Args:
        alexnet: AlexNet for ImageNet in torchvision's layout (alexnet-owt-7be5be79.pth;
            `classifier.*` is ignored).
        heads: the linear heads of LPIPS 0.1 for AlexNet (`lin0.model.1.weight`, `1 c 1 1`, ...).

    Raises:
        ValueError: a missing or damaged file, missing or misshapen tensors.
    """
    network, linear = read_weights(alexnet), read_weights(heads)
    tensors = {
        name: value for name, value in network.tensors.items() if not name.startswith("classifier.")
    }
    for index in range(len(_CONVOLUTIONS)):
        name = f"lin{index}.model.1.weight"
        if name not in linear.tensors:
            raise ValueError(
                f"Expected {name} in {heads}, found {sorted(linear.tensors)[:5]}: give the linear "
                "heads of LPIPS 0.1 for AlexNet."
            )
        tensors[f"heads.{index}"] = linear.tensors[name]
    lpips = LPIPS()
    Weights(network.path, network.sha256, tensors).load_into(lpips)
    lpips.weights_sha256 = f"{network.sha256}+{linear.sha256}"
    return lpips


def _unit_length(x: Tensor) -> Tensor:
    return x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
