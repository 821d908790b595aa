"""Claims about the FID graph and maskworld.metrics.fid."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from video_weights import randomised

from maskworld.metrics.fid import BACKENDS, SHA256_PREFIX, FIDFeatures, load_fid
from maskworld.metrics.video_features.inception import FIDInception
from maskworld.metrics.video_features.resize import resize_frames

pytestmark = pytest.mark.filterwarnings("ignore:.*is not pt_inception:UserWarning")


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return randomised(FIDInception())


@pytest.fixture(scope="module")
def weights(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fid") / "pt_inception.pth"
    torch.save(state, path)
    return path


def reference(s: dict[str, Tensor], x: Tensor) -> Tensor:
    """The graph once more from the state dict alone, its poolings written out."""

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = s[f"{name}.conv.weight"]
        # Only stride 1 outside the stem pads, by half the kernel.
        is_stem = name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_4a_3x3") or stride == 2
        pad = (0, 0) if is_stem else (weight.shape[2] // 2, weight.shape[3] // 2)
        x = F.conv2d(x, weight, stride=stride, padding=pad)
        parts = (s[f"{name}.bn.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.relu(F.batch_norm(x, *parts, eps=1e-3))

    def chain(x: Tensor, block: str, *names: str) -> Tensor:
        for name in names:
            x = conv(x, f"{block}.{name}")
        return x

    def mean(x: Tensor) -> Tensor:
        ones = torch.ones_like(x[:, :1])
        return F.avg_pool2d(x, 3, 1, 1) / F.avg_pool2d(ones, 3, 1, 1)  # the padding does not count

    x = conv(conv(conv(x, "Conv2d_1a_3x3", 2), "Conv2d_2a_3x3"), "Conv2d_2b_3x3")
    x = F.max_pool2d(x, 3, 2)
    x = F.max_pool2d(conv(conv(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3"), 3, 2)
    double = ("branch3x3dbl_1", "branch3x3dbl_2")
    for b in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        five = chain(x, b, "branch5x5_1", "branch5x5_2")
        three = chain(x, b, *double, "branch3x3dbl_3")
        x = torch.cat([chain(x, b, "branch1x1"), five, three, chain(mean(x), b, "branch_pool")], 1)
    three = conv(x, "Mixed_6a.branch3x3", 2)
    twice = conv(chain(x, "Mixed_6a", *double), "Mixed_6a.branch3x3dbl_3", 2)
    x = torch.cat([three, twice, F.max_pool2d(x, 3, 2)], 1)
    for b in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        once = chain(x, b, *(f"branch7x7_{i}" for i in (1, 2, 3)))
        twice = chain(x, b, *(f"branch7x7dbl_{i}" for i in range(1, 6)))
        x = torch.cat([chain(x, b, "branch1x1"), once, twice, chain(mean(x), b, "branch_pool")], 1)
    three = conv(chain(x, "Mixed_7a", "branch3x3_1"), "Mixed_7a.branch3x3_2", 2)
    seven = chain(x, "Mixed_7a", *(f"branch7x7x3_{i}" for i in (1, 2, 3)))
    x = torch.cat([three, conv(seven, "Mixed_7a.branch7x7x3_4", 2), F.max_pool2d(x, 3, 2)], 1)
    for b in ("Mixed_7b", "Mixed_7c"):
        three, twice = chain(x, b, "branch3x3_1"), chain(x, b, *double)
        pooled = F.max_pool2d(x, 3, 1, 1) if b == "Mixed_7c" else mean(x)
        parts = [chain(x, b, "branch1x1")]
        parts += [chain(three, b, f"branch3x3_2{i}") for i in "ab"]
        parts += [chain(twice, b, f"branch3x3dbl_3{i}") for i in "ab"]
        x = torch.cat([*parts, chain(pooled, b, "branch_pool")], 1)
    return x.mean((2, 3))


def test_activations_are_those_of_a_second_writing(state: dict[str, Tensor]) -> None:
    network = FIDInception()
    network.load_state_dict(state, strict=False)
    x = torch.rand(1, 3, 299, 299, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(network(x), reference(state, x), rtol=1e-3, atol=1e-4)


def test_names_and_shapes_are_those_of_the_published_file(state: dict[str, Tensor]) -> None:
    """1008 classes, 2048 features, and no auxiliary classifier: not torchvision's network."""
    assert state["fc.weight"].shape == (1008, 2048)
    assert state["Mixed_6b.branch7x7dbl_4.conv.weight"].shape == (128, 128, 7, 1)
    assert state["Mixed_6b.branch7x7_2.conv.weight"].shape == (128, 128, 1, 7)
    assert state["Mixed_7c.branch3x3dbl_1.bn.running_mean"].shape == (448,)
    assert not [name for name in state if name.startswith("AuxLogits")]
    assert len([name for name in state if name.endswith("conv.weight")]) == 94
    assert sum(p.numel() for p in FIDInception().parameters()) == 23_850_960


def test_every_backend_brings_frames_to_the_network_its_own_way() -> None:
    seen: list[Tensor] = []

    class Recorder(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return torch.zeros(len(x), 2048)

    g = torch.Generator().manual_seed(0)
    clips = torch.randint(0, 256, (2, 3, 3, 40, 50), generator=g, dtype=torch.uint8)
    for backend in BACKENDS:
        found = FIDFeatures(Recorder(), backend, "", frames_at_once=4).features(clips)
        assert found.shape == (6, 2048)  # a vector per frame
        x = torch.cat([seen.pop(0), seen.pop(0)])
        resized = resize_frames(clips.flatten(0, 1), (299, 299), backend.resize)
        low, high = (-1, 127 / 128) if backend.is_centred else (-1, 1)
        expected = low + resized / 255 * (high - low)
        torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)
    assert len({backend.resize for backend in BACKENDS}) == 4


def test_another_network_or_file_is_noticed(
    state: dict[str, Tensor], weights: Path, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match=f"not {SHA256_PREFIX}"):
        load_fid("inception-clean", weights)
    classifier = {**state, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    torch.save(classifier, tmp_path / "inception_v3.pth")
    with pytest.raises(ValueError, match=r"fc\.weight \(expected \(1008, 2048\)"):
        load_fid("inception-clean", tmp_path / "inception_v3.pth")
    with pytest.raises(ValueError, match="FID backend among inception-torchmetrics"):
        load_fid("inception", weights)
