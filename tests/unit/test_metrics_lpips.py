"""Claims about maskworld.metrics.lpips."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from video_weights import randomised

from maskworld.metrics.image import FrameMetric
from maskworld.metrics.lpips import LPIPS, load_lpips

LAYERS = ((0, 64), (3, 192), (6, 384), (8, 256), (10, 256))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """AlexNet under torchvision's names with its classifier, and heads that are not negative."""
    folder = tmp_path_factory.mktemp("lpips")
    state = {k: v for k, v in randomised(LPIPS()).items() if k.startswith("features.")}
    torch.save({**state, "classifier.1.weight": torch.zeros(2, 2)}, folder / "alexnet.pth")
    g = torch.Generator().manual_seed(1)
    heads = {
        f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1, generator=g)
        for i, (_, c) in enumerate(LAYERS)
    }
    torch.save(heads, folder / "alex.pth")
    return folder / "alexnet.pth", folder / "alex.pth"


def frames(seed: int, size: int = 70) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, 3, size, size), generator=g, dtype=torch.uint8)


def reference(files: tuple[Path, Path], x: Tensor, y: Tensor) -> Tensor:
    """Eq. 1, frame by frame and layer by layer."""
    net, heads = (torch.load(file, weights_only=True) for file in files)
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
    total = torch.zeros(len(x))
    images = [(z / 127.5 - 1 - shift) / scale for z in (x, y)]
    for i, (place, _) in enumerate(LAYERS):
        if place in (3, 6):
            images = [F.max_pool2d(z, 3, 2) for z in images]
        stride, padding = ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))[i]
        parameters = (net[f"features.{place}.weight"], net[f"features.{place}.bias"])
        images = [F.conv2d(z, *parameters, stride, padding).clamp(min=0) for z in images]
        a, b = (z / (z.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for z in images)
        total += ((a - b) ** 2 * heads[f"lin{i}.model.1.weight"]).sum(1).mean((1, 2))
    return total


def test_distances_are_equation_one_and_zero_for_equal_frames(files: tuple[Path, Path]) -> None:
    lpips = load_lpips(*files)
    x, y = frames(0), frames(1)
    torch.testing.assert_close(lpips(x, y), reference(files, x, y), rtol=1e-4, atol=1e-6)
    assert torch.equal(lpips(x, x), torch.zeros(3))
    near = lpips(x, (x.float() * 0.95).round().to(torch.uint8))
    assert bool((near < lpips(x, y)).all())


def test_it_measures_frames_of_clips_as_psnr_does(files: tuple[Path, Path]) -> None:
    lpips = load_lpips(*files)
    metric = FrameMetric(lpips)
    metric.update(frames(0).view(1, 1, 3, 3, 70, 70), frames(1).view(1, 1, 3, 3, 70, 70))
    expected = lpips(frames(0), frames(1))
    assert metric.compute().per_horizon == pytest.approx(expected.tolist())


def test_without_weights_or_with_small_frames_there_is_no_number(files: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="Expected LPIPS weights"):
        LPIPS()(frames(0), frames(1))
    lpips = load_lpips(*files)
    with pytest.raises(ValueError, match="at least 64x64"):
        lpips(frames(0, 63), frames(1, 63))
    with pytest.raises(ValueError, match="uint8"):
        lpips(frames(0).float(), frames(1).float())
    with pytest.raises(ValueError, match=r"Expected lin0\.model\.1\.weight"):
        load_lpips(files[0], files[0])
