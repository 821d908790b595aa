"""Claims about I3D, its weights and maskworld.metrics.fvd. One clip costs I3D about a second."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from video_weights import other_naming, randomised

from maskworld.metrics.fvd import BACKENDS, INSIDE_PROGRAM, FVDFeatures, load_fvd
from maskworld.metrics.video_features.i3d import InceptionI3D, published_names, same_padding
from maskworld.metrics.video_features.resize import RULES, resize_frames
from maskworld.metrics.video_features.torchscript import read_torchscript
from maskworld.metrics.video_features.weights import read_weights

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is not i3d_:UserWarning", "ignore:`torch.jit:DeprecationWarning"
)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return randomised(InceptionI3D(1e-5))


def clips(count: int = 1, frames: int = 9, size: tuple[int, int] = (30, 40)) -> Tensor:
    g = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (count, frames, 3, *size), generator=g, dtype=torch.uint8)


# Output channels of all convolutions in the order of the published file.
WIDTHS = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


def reference(state: dict[str, Tensor], x: Tensor, epsilon: float) -> Tensor:
    """I3D once more, written from the state dict alone: explicit padding, no modules."""

    def pad(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        for axis, (k, s) in enumerate(zip(kernel, stride), start=2):
            n = x.shape[axis]
            total = max(k - s, 0) if n % s == 0 else max(k - n % s, 0)
            for count, front in ((total // 2, True), (total - total // 2, False)):
                shape = list(x.shape)
                shape[axis] = count
                zeros = x.new_zeros(shape)
                x = torch.cat([zeros, x] if front else [x, zeros], axis)
        return x

    def unit(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.conv3d.weight"]
        x = F.conv3d(pad(x, weight.shape[2:], (stride,) * 3), weight, stride=stride)
        mean, variance, scale, shift = (
            state[f"{name}.bn.{part}"].view(-1, 1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (scale * (x - mean) / (variance + epsilon).sqrt() + shift).clamp(min=0)

    def pool(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        return F.max_pool3d(pad(x, kernel, stride), kernel, stride)

    x = pool(unit(x, "Conv3d_1a_7x7", 2), (1, 3, 3), (1, 2, 2))
    x = unit(unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3")
    x = pool(x, (1, 3, 3), (1, 2, 2))
    for name in WIDTHS:
        if name == "Mixed_4b":
            x = pool(x, (3, 3, 3), (2, 2, 2))
        if name == "Mixed_5b":
            x = pool(x, (2, 2, 2), (2, 2, 2))
        branches = (
            unit(x, f"{name}.b0"),
            unit(unit(x, f"{name}.b1a"), f"{name}.b1b"),
            unit(unit(x, f"{name}.b2a"), f"{name}.b2b"),
            unit(pool(x, (3, 3, 3), (1, 1, 1)), f"{name}.b3b"),
        )
        x = torch.cat(branches, 1)
    x = F.avg_pool3d(x, (2, 7, 7), 1)
    logits = F.conv3d(x, state["logits.conv3d.weight"], state["logits.conv3d.bias"])
    return logits[..., 0, 0].mean(2)


def test_names_and_shapes_are_those_of_the_published_file(state: dict[str, Tensor]) -> None:
    """12 697 264 parameters: in float32, with running statistics, the file's 51 MB."""
    found = {name: value.shape[0] for name, value in state.items() if name.endswith("3d.weight")}
    expected = {"Conv3d_1a_7x7": 64, "Conv3d_2b_1x1": 64, "Conv3d_2c_3x3": 192, "logits": 400}
    for block, widths in WIDTHS.items():
        branches = zip(("b0", "b1a", "b1b", "b2a", "b2b", "b3b"), widths, strict=True)
        expected |= {f"{block}.{branch}": width for branch, width in branches}
    assert found == {f"{name}.conv3d.weight": width for name, width in expected.items()}
    assert state["Conv3d_1a_7x7.conv3d.weight"].shape == (64, 3, 7, 7, 7)
    assert state["Mixed_5b.b2b.conv3d.weight"].shape == (128, 32, 3, 3, 3)
    assert state["logits.conv3d.bias"].shape == (400,)
    assert sum(p.numel() for p in InceptionI3D(1e-5).parameters()) == 12_697_264


def test_the_logits_are_those_of_a_second_writing(state: dict[str, Tensor], tmp_path: Path) -> None:
    """25 x 33 pixels come to 224 x 224 without antialiasing, in [-1, 1]; 10 frames leave two
    unlike time steps in the last pooling."""
    save_file(other_naming(state), tmp_path / "i3d.safetensors")
    clip = clips(frames=10, size=(25, 33))
    x = F.interpolate(clip[0].float(), (224, 224), mode="bilinear", align_corners=False)
    x = (2 * x / 255 - 1).transpose(0, 1)[None]
    features = load_fvd("i3d-stylegan-v", tmp_path / "i3d.safetensors")
    found = features.features(clip)
    torch.testing.assert_close(found, reference(state, x, 1e-3), rtol=1e-3, atol=1e-4)
    assert features.backend == "i3d-stylegan-v"
    assert len(features.weights_sha256) == 64


def test_both_namings_fill_the_same_tensors_and_backends_differ_in_epsilon(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "a.pt")
    save_file(other_naming(state), tmp_path / "b.safetensors")
    for file in ("a.pt", "b.safetensors"):
        found = published_names(read_weights(tmp_path / file).tensors)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], value) for name, value in state.items())
    for backend in BACKENDS:
        epsilons = {m.eps for m in InceptionI3D(backend.epsilon).modules() if hasattr(m, "eps")}
        assert epsilons == {{"i3d-tats": 1e-5, "i3d-stylegan-v": 1e-3}[backend.name]}


def test_padding_is_that_of_tensorflow() -> None:
    """ceil(n / s) outputs, the odd zero behind."""
    for n in range(5, 20):
        for k, s in ((7, 2), (3, 2), (3, 1), (2, 2), (1, 1)):
            front, behind = same_padding((n,), (k,), (s,))
            assert (n + front + behind - k) // s + 1 == -(-n // s)
            assert behind - front in (0, 1)
    assert same_padding((10, 9), (3, 7), (2, 2)) == [3, 3, 0, 1]


def test_weights_that_do_not_fit_are_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({k: v for k, v in state.items() if "Mixed_3b.b0" not in k}, path)
    with pytest.raises(ValueError, match=r"missing: Mixed_3b\.b0\.conv3d\.weight"):
        load_fvd("i3d-tats", path)
    save_file({**state, "logits.conv3d.weight": torch.zeros(600, 1024, 1, 1, 1)}, path)
    with pytest.raises(ValueError, match=r"logits\.conv3d\.weight \(expected \(400, 1024"):
        load_fvd("i3d-tats", path)
    with pytest.raises(ValueError, match="i3d-tats, i3d-stylegan-v, found 'i3d'"):
        load_fvd("i3d", path)
    with pytest.raises(ValueError, match="found none"):
        load_fvd("i3d-tats", tmp_path / "nowhere.pt")
    save_file(state, path)
    with pytest.warns(UserWarning, match="comparable only with those of this very file"):
        load_fvd("i3d-tats", path)


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('a file of weights ran code')",)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    for content in ({"state_dict": Trap()}, Trap()):
        path = tmp_path / "trap.pt"
        torch.save(content, path)
        with pytest.raises(ValueError, match="without running it"):
            read_weights(path)
        path.write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(ValueError, match="without running it"):
            read_weights(path)


def test_an_empty_file_of_weights_is_said_to_be_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "empty.pt"
    path.touch()
    with pytest.raises(ValueError, match="found what cannot be read"):
        read_weights(path)


class Program(nn.Module):
    """The shape of StyleGAN-V's file: flags in, logits out; it scales by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4))
        self.head = nn.Linear(4, 400)
        self.register_buffer("strided", torch.arange(6).half().view(2, 3).T)

    def forward(
        self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
    ) -> Tensor:
        if rescale:
            x = x * 2 / 255 - 1
        logits = self.head(self.net(x).mean([2, 3, 4]))
        return logits if return_features else logits.softmax(1)


@pytest.fixture
def program(tmp_path: Path) -> tuple[Program, Path]:
    torch.manual_seed(0)
    module = Program().eval()
    path = tmp_path / "i3d_torchscript.pt"
    torch.jit.script(module).save(str(path))
    return module, path


def test_tensors_of_a_torchscript_file_are_read_without_running_it(
    program: tuple[Program, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, path = program
    monkeypatch.setattr(torch.jit, "load", None)
    found, expected = read_torchscript(path), module.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value)
        assert found[name].dtype == value.dtype
    assert read_weights(path).tensors.keys() == expected.keys()
    damaged = tmp_path / "damaged.pt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(damaged, "w") as new:
        for name in old.namelist():
            if not name.endswith("data/0"):
                new.writestr(name, old.read(name))
    with pytest.raises(ValueError, match=r"damaged\.pt"):
        read_torchscript(damaged)
    with zipfile.ZipFile(damaged, "w") as new:
        new.writestr("a/data.pkl", pickle.dumps(Trap(), protocol=2))
        new.writestr("a/constants.pkl", b"")
    with pytest.raises(ValueError, match=r"no names|none: it was frozen"):
        read_torchscript(damaged)


def test_a_program_runs_only_when_the_user_says_so(
    program: tuple[Program, Path], tmp_path: Path
) -> None:
    module, path = program
    with pytest.raises(ValueError, match="missing: Conv3d_1a_7x7"):
        load_fvd("i3d-stylegan-v", path)
    features = load_fvd("i3d-stylegan-v", path, runs_program=True)
    found = features.features(clips(3))
    expected = module(clips(3).transpose(1, 2).float(), return_features=True)
    torch.testing.assert_close(found, expected)
    assert (features.backend, features.resize) == ("i3d-stylegan-v (program)", INSIDE_PROGRAM)
    with pytest.raises(ValueError, match="no resize rule"):
        load_fvd("i3d-stylegan-v", path, runs_program=True, resize="bilinear")
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="TorchScript archive"):
        load_fvd("i3d-stylegan-v", tmp_path / "a.safetensors", runs_program=True)


def test_wrong_clips_are_refused_with_the_reason() -> None:
    features = FVDFeatures(lambda x: x.mean((2, 3, 4)), "i3d-tats", "")
    with pytest.raises(ValueError, match="at least 9 frames, found 8"):
        features.features(clips(frames=8))
    with pytest.raises(ValueError, match="uint8"):
        features.features(clips().float() / 255)
    with pytest.raises(ValueError, match="none above 1"):
        features.features(clips() // 255)
    with pytest.raises(ValueError, match="b t 3 h w"):
        features.features(clips()[:, :, :1])
    assert features.features(clips()[:0]).shape == (0, 400)


def test_resize_rules_are_what_they_are_called() -> None:
    """TensorFlow 1 samples at i * old / new; antialiasing is Pillow's; the crop keeps squares."""
    from PIL import Image

    frames = clips(frames=2, size=(20, 36))[0]
    found = resize_frames(frames, (10, 24), "tensorflow1")
    assert torch.equal(found[..., 0], frames[..., ::2, 0].float())
    assert torch.equal(found[0, 0, 3, ::2], frames[0, 0, 6, ::3].float())
    between = (frames[0, 0, 6, 1].float() + frames[0, 0, 6, 2].float()) / 2
    assert float(found[0, 0, 3, 1]) == pytest.approx(float(between))
    for rule, kind in (
        ("bilinear-antialias", Image.BILINEAR),
        ("bicubic-antialias", Image.BICUBIC),
    ):
        image = Image.fromarray(frames[0, 1].float().numpy())
        expected = torch.from_numpy(np.array(image.resize((13, 11), kind)))
        ours = resize_frames(frames, (11, 13), rule)[0, 1]
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-2)
    wide = torch.zeros(1, 3, 20, 40, dtype=torch.uint8)
    wide[..., 10:30] = 200
    assert float(resize_frames(wide, (10, 10), "bilinear-crop").min()) == 200
    assert float(resize_frames(wide, (10, 10), "bilinear").min()) == 0
    for rule in RULES:
        assert resize_frames(frames, (20, 36), rule).equal(frames.float()), rule
    with pytest.raises(ValueError, match="resize rule among"):
        resize_frames(frames, (10, 10), "lanczos")


def test_names_of_neither_kind_stay_to_be_complained_about() -> None:
    found = published_names(
        {"backbone.Conv3d_1a_7x7.bn.bias": torch.zeros(1), "other": torch.ones(1)}
    )
    assert set(found) == {"Conv3d_1a_7x7.bn.bias", "other"}
