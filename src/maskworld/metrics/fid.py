"""FID's features: 2048 pooled Inception activations per frame, in the four public preprocessings.

One network, one file of weights (pytorch-fid and torch-fidelity publish the same bytes under two
names); what differs is how a frame comes to 299 x 299 and to about [-1, 1].

Reference: Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule, section 3;
Parmar et al. 2022, On Aliased Resizing ("clean").
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from maskworld.metrics.fvd import check_clips, exact_convolutions
from maskworld.metrics.video_features.inception import DIM, SIDE, FIDInception
from maskworld.metrics.video_features.resize import resize_frames
from maskworld.metrics.video_features.weights import read_weights

FILES = (
    "pt_inception-2015-12-05-6726825d.pth",
    "weights-inception-2015-12-05-6726825d.pth",
)
SHA256_PREFIX = "6726825d"
"""The published names carry the first eight digits of the file's SHA-256."""


@dataclass(frozen=True)
class FIDBackend:
    """A public way from a frame to the network."""

    name: str
    resize: str
    is_centred: bool
    """(x - 128) / 128, as in the TensorFlow graph; otherwise 2 x / 255 - 1."""


BACKENDS = (
    FIDBackend("inception-torchmetrics", "bilinear-antialias", is_centred=True),
    FIDBackend("inception-torch-fidelity", "tensorflow1", is_centred=True),
    FIDBackend("inception-pytorch-fid", "bilinear", is_centred=False),
    FIDBackend("inception-clean", "bicubic-antialias", is_centred=True),
)


class FIDFeatures:
    """One vector of 2048 activations per frame."""

    metric, companion, dim, min_frames = "fid", "kid", DIM, 1
    is_per_frame = True

    def __init__(
        self,
        network: nn.Module,
        backend: FIDBackend,
        weights_sha256: str,
        *,
        device: torch.device | str = "cpu",
        frames_at_once: int = 32,
    ) -> None:
        self._network, self._device, self._frames_at_once = network, device, frames_at_once
        self._backend = backend
        self.backend, self.weights_sha256 = backend.name, weights_sha256
        self.resize = backend.resize

    @torch.no_grad()
    def features(self, clips: Shaped[Tensor, "b t c h w"]) -> Float[Tensor, "n d"]:
        """Activations of all frames, clip by clip, float32.

        Raises:
            ValueError: pixels that are not uint8 in 0..255, or other than 3 channels.
        """
        check_clips(clips, self.min_frames)
        if not clips.numel():
            return torch.zeros(0, self.dim)
        parts = []
        for frames in rearrange(clips, "b t c h w -> (b t) c h w").split(self._frames_at_once):
            x = resize_frames(frames.to(self._device), (SIDE, SIDE), self.resize)
            x = (x - 128) / 128 if self._backend.is_centred else x * (2 / 255) - 1
            with exact_convolutions():
                parts.append(self._network(x).float().cpu())
        return torch.cat(parts)


def load_fid(
    backend: str,
    weights: Path | str,
    *,
    device: torch.device | str = "cpu",
    frames_at_once: int = 32,
) -> FIDFeatures:
    """Features from the published file of weights; nothing in it is run.

    Raises:
        ValueError: an unknown backend, or weights of another network (torchvision's classifier).
    """
    chosen = next((one for one in BACKENDS if one.name == backend), None)
    if chosen is None:
        names = ", ".join(one.name for one in BACKENDS)
        raise ValueError(f"Expected an FID backend among {names}, found {backend!r}.")
    read = read_weights(weights)
    if not read.sha256.startswith(SHA256_PREFIX):
        warnings.warn(
            f"{read.path} is not {FILES[0]} (its SHA-256 begins with {read.sha256[:8]}, not "
            f"{SHA256_PREFIX}): its numbers are comparable only with those of this very file.",
            stacklevel=2,
        )
    network = FIDInception()
    read.load_into(network)
    return FIDFeatures(
        network.to(device), chosen, read.sha256, device=device, frames_at_once=frames_at_once
    )
