"""Stand-ins for published weights: random numbers under the published names and shapes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def randomised(network: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """A state dict whose activations neither vanish nor explode."""
    g = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue  # conversions from TensorFlow have none
        if name.endswith("running_var"):
            state[name] = 0.5 + torch.rand(value.shape, generator=g)
        elif name.endswith("bn.weight"):
            state[name] = 1 + 0.1 * torch.randn(value.shape, generator=g)
        elif value.ndim > 1:
            width = value[0].numel()
            state[name] = torch.randn(value.shape, generator=g) * (2 / width) ** 0.5
        else:
            state[name] = 0.1 * torch.randn(value.shape, generator=g)
    return state


def other_naming(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """I3D's tensors in the lower-case naming, below a prefix."""
    branches = {"b0": "branch_0", "b1a": "branch_1.0", "b1b": "branch_1.1"}
    branches |= {"b2a": "branch_2.0", "b2b": "branch_2.1", "b3b": "branch_3.1"}
    renamed = {}
    for name, value in state.items():
        words = name.split(".")
        words = ["conv3d_0c_1x1", *words[1:]] if words[0] == "logits" else words
        words[0] = words[0][0].lower() + words[0][1:]
        words = [branches.get(word, "batch3d" if word == "bn" else word) for word in words]
        renamed[".".join(["net", *words])] = value
    return renamed
