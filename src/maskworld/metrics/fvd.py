"""FVD's features: 400 I3D logits per clip, from the user's weights, by the two public routes.

Both routes descend from one TensorFlow graph (tfhub's i3d-kinetics-400), and differ in file, in
resizing and in the epsilon of batch normalisation. Which one was used is part of the protocol.

Reference: Unterthiner et al. 2018, Towards Accurate Generative Models of Video, section 3.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor

from maskworld.metrics.image import check_pixels
from maskworld.metrics.video_features.i3d import (
    MIN_FRAMES,
    NUM_CLASSES,
    SIDE,
    InceptionI3D,
    published_names,
)
from maskworld.metrics.video_features.resize import resize_frames
from maskworld.metrics.video_features.torchscript import is_torchscript
from maskworld.metrics.video_features.weights import Weights, read_weights, sha256_of

INSIDE_PROGRAM = "inside the TorchScript program"


@dataclass(frozen=True)
class I3DBackend:
    """A public way to I3D's logits."""

    name: str
    file: str
    """As published."""
    sha256: str
    """As a public mirror of the file lists it; we have not had the file itself."""
    epsilon: float
    resize: str
    used_by: str


BACKENDS = (
    I3DBackend(
        "i3d-tats",
        "i3d_pretrained_400.pt",
        "55095f049e706479d48e221adcdb145b2b9dc930ba28b081ed72367ffaa32343",
        epsilon=1e-5,
        resize="bilinear",
        used_by="VideoGPT's conversion; TATS, LVDM, Vista, OpenDWM",
    ),
    I3DBackend(
        "i3d-stylegan-v",
        "i3d_torchscript.pt",
        "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
        epsilon=1e-3,  # inferred: TensorFlow's, which that file reproduces to 3e-4
        resize="bilinear",
        used_by="StyleGAN-V",
    ),
)


class FVDFeatures:
    """One vector of 400 logits per clip.

    Args:
        network: clips `b 3 t 224 224` in [-1, 1] to logits; with `resizes=False` pixels of any size
            in 0..255.
        backend: its name, for the protocol.
        weights_sha256: of the file of weights.
        resize: rule of `video_features.resize`.
    """

    metric, companion, dim, min_frames = "fvd", "kvd", NUM_CLASSES, MIN_FRAMES
    is_per_frame = False

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        backend: str,
        weights_sha256: str,
        *,
        resize: str = "bilinear",
        device: torch.device | str = "cpu",
        clips_at_once: int = 4,
    ) -> None:
        self._network, self._device, self._clips_at_once = network, device, clips_at_once
        self.backend, self.weights_sha256, self.resize = backend, weights_sha256, resize

    @torch.no_grad()
    def features(self, clips: Shaped[Tensor, "b t c h w"]) -> Float[Tensor, "b d"]:
        """Logits before the softmax, float32.

        Raises:
            ValueError: pixels that are not uint8 in 0..255, other than 3 channels, or too few
                frames.
        """
        check_clips(clips, self.min_frames)
        if not len(clips):
            return torch.zeros(0, self.dim)
        parts = []
        for part in clips.split(self._clips_at_once):
            b = len(part)
            frames = rearrange(part.to(self._device), "b t c h w -> (b t) c h w")
            if self.resize == INSIDE_PROGRAM:
                x = frames.float()
            else:
                x = resize_frames(frames, (SIDE, SIDE), self.resize) * (2 / 255) - 1
            x = rearrange(x, "(b t) c h w -> b c t h w", b=b).contiguous()
            with exact_convolutions():
                parts.append(self._network(x).float().cpu())
        return torch.cat(parts)


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Convolutions in whole float32 on GPUs that would round to TF32: that is another protocol."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def check_clips(clips: Tensor, min_frames: int) -> None:
    """Raises ValueError unless clips are uint8 in 0..255, `b t 3 h w`, and long enough."""
    check_pixels(clips)
    if clips.ndim != 5 or clips.shape[2] != 3:
        raise ValueError(f"Expected clips b t 3 h w, found shape {tuple(clips.shape)}.")
    if clips.shape[1] < min_frames:
        raise ValueError(
            f"Expected clips of at least {min_frames} frames, found {clips.shape[1]}: the "
            "network's temporal poolings leave nothing of fewer. Score longer clips; repeating "
            "frames would make another metric."
        )
    if len(clips) and int(clips.max()) <= 1:
        raise ValueError(
            "Expected pixels in 0..255, found none above 1: multiply by 255 and round before the "
            "cast to uint8."
        )


def find_backend(name: str) -> I3DBackend:
    """The I3D backend of that name.

    Raises:
        ValueError: no such backend.
    """
    for backend in BACKENDS:
        if backend.name == name:
            return backend
    names = ", ".join(backend.name for backend in BACKENDS)
    raise ValueError(f"Expected an FVD backend among {names}, found {name!r}.")


def load_fvd(
    backend: str,
    weights: Path | str,
    *,
    resize: str | None = None,
    device: torch.device | str = "cpu",
    clips_at_once: int = 4,
    runs_program: bool = False,
) -> FVDFeatures:
    """Features from a file of weights: a state dict, safetensors, or a TorchScript archive.

    Nothing in the file is run, unless `runs_program` says so: then a TorchScript file computes the
    features itself, with its own resizing, as StyleGAN-V does. It can do what any program can.

    Args:
        resize: another rule than the backend's: another protocol.

    Raises:
        ValueError: an unknown backend, weights of another network, or a file that is no program.
    """
    chosen = find_backend(backend)
    if runs_program:
        if resize is not None:
            raise ValueError("Expected no resize rule with a TorchScript program: it has its own.")
        return _program(chosen, Path(weights), device, clips_at_once)
    read = read_weights(weights)
    _warn_of_another_file(chosen, read.path, read.sha256)
    network = InceptionI3D(chosen.epsilon)
    Weights(read.path, read.sha256, published_names(read.tensors)).load_into(network)
    return FVDFeatures(
        network.to(device),
        chosen.name,
        read.sha256,
        resize=resize or chosen.resize,
        device=device,
        clips_at_once=clips_at_once,
    )


def _program(
    backend: I3DBackend, path: Path, device: torch.device | str, clips_at_once: int
) -> FVDFeatures:
    if not path.is_file() or not is_torchscript(path):
        raise ValueError(f"Expected a TorchScript archive at {path}, found none.")
    digest = sha256_of(path)
    _warn_of_another_file(backend, path, digest)
    module = torch.jit.load(str(path), map_location=torch.device(device)).eval()

    def network(x: Tensor) -> Tensor:
        found: Tensor = module(x, rescale=True, resize=True, return_features=True)
        if found.shape != (len(x), NUM_CLASSES):
            raise ValueError(
                f"Expected {NUM_CLASSES} logits per clip from {path}, found shape "
                f"{tuple(found.shape)}: it is another program."
            )
        return found

    return FVDFeatures(
        network,
        f"{backend.name} (program)",
        digest,
        resize=INSIDE_PROGRAM,
        device=device,
        clips_at_once=clips_at_once,
    )


def _warn_of_another_file(backend: I3DBackend, path: Path, digest: str) -> None:
    if digest != backend.sha256:
        warnings.warn(
            f"{path} is not {backend.file} as a public mirror has it (SHA-256 {digest[:12]}, there "
            f"{backend.sha256[:12]}): its numbers are comparable only with those of this very "
            "file.",
            stacklevel=3,
        )
