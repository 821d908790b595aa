"""LPIPS on VGG-16, with weights the user brings: never random ones.

Reference: Zhang et al., The Unreasonable Effectiveness of Deep Features, arXiv 1801.03924, Eq. 1;
Simonyan & Zisserman, arXiv 1409.1556 (configuration D).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from maskworld.nn.weights_io import load_state_tensors, read_safetensors

# VGG-16: the convolutions between two max-poolings; names are their places in `features`.
_STAGES: tuple[tuple[tuple[int, int, int], ...], ...] = (
    ((0, 3, 64), (2, 64, 64)),
    ((5, 64, 128), (7, 128, 128)),
    ((10, 128, 256), (12, 256, 256), (14, 256, 256)),
    ((17, 256, 512), (19, 512, 512), (21, 512, 512)),
    ((24, 512, 512), (26, 512, 512), (28, 512, 512)),
)


class PerceptualLoss(nn.Module):
    """Mean LPIPS distance. Its weights are frozen; build it with `load_perceptual`."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleDict(
            {
                str(place): nn.Conv2d(dim_in, dim_out, 3, padding=1)
                for stage in _STAGES
                for place, dim_in, dim_out in stage
            }
        )
        self.heads = nn.ParameterList(torch.zeros(1, stage[-1][2], 1, 1) for stage in _STAGES)
        # ImageNet statistics for pixels in [-1, 1], as published with LPIPS
        shift, scale = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
        self.register_buffer("shift", torch.tensor(shift).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(scale).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("is_loaded", torch.zeros((), dtype=torch.bool))
        self.requires_grad_(False)

    def forward(
        self, reconstruction: Float[Tensor, "n 3 h w"], frames: Float[Tensor, "n 3 h w"]
    ) -> Float[Tensor, ""]:
        """Mean over frames; pixels in [-1, 1], at least 16 on each side.

        Raises:
            ValueError: no weights were loaded.
        """
        if not self.is_loaded:
            raise ValueError(
                "Expected LPIPS weights, found none: build this loss with "
                "load_perceptual(vgg_path, heads_path) or leave the perceptual term out."
            )
        ours, theirs = self._activations(reconstruction), self._activations(frames)
        distance = torch.zeros((), device=frames.device)
        for a, b, head in zip(ours, theirs, self.heads, strict=True):
            squared = (_unit_length(a) - _unit_length(b)).square()
            distance = distance + (head * squared).sum(1).mean()
        return distance

    def _activations(self, frames: Tensor) -> list[Tensor]:
        x = (frames - self.shift) / self.scale
        outputs = []
        for index, stage in enumerate(_STAGES):
            x = F.max_pool2d(x, 2) if index else x
            for place, _, _ in stage:
                x = F.relu(self.features[str(place)](x))
            outputs.append(x)
        return outputs


def load_perceptual(vgg_path: str | Path, heads_path: str | Path) -> PerceptualLoss:
    """LPIPS from two safetensors files.

    Args:
        vgg_path: VGG-16 for ImageNet with keys `features.{i}.weight|bias` (torchvision's layout;
            `classifier.*` is ignored).
        heads_path: LPIPS version 0.1 for VGG with keys `lin{k}.model.1.weight`, `1 c 1 1`.

    Raises:
        ValueError: a missing file, another format, missing or misshapen tensors.
    """
    vgg, heads = _read(Path(vgg_path)), _read(Path(heads_path))
    tensors = {name: value for name, value in vgg.items() if not name.startswith("classifier.")}
    for index in range(len(_STAGES)):
        name = f"lin{index}.model.1.weight"
        if name not in heads:
            raise ValueError(
                f"Expected {name} in {heads_path}, found {sorted(heads)[:5]}: "
                "use the linear heads of LPIPS 0.1 for VGG."
            )
        tensors[f"heads.{index}"] = heads[name]
    loss = PerceptualLoss()
    tensors["is_loaded"] = torch.ones((), dtype=torch.bool)
    load_state_tensors(loss, tensors, origin=f"{vgg_path} and {heads_path}")
    return loss.requires_grad_(False)


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix in {".pth", ".pt", ".ckpt", ".bin"}:
        raise ValueError(
            f"Expected a safetensors file, found {path}, which may hold code (pickle): convert a "
            "file you trust with safetensors.torch.save_file(torch.load(path, weights_only=True), "
            f"'{path.with_suffix('.safetensors').name}')."
        )
    return read_safetensors(path)


def _unit_length(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
