import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange

from maskworld.interfaces import LatentTokenizer
from maskworld.nn.config_io import config_from_json, config_to_json
from maskworld.tokenizers.published_vae import WEIGHTS_NAME, read_vae_config
from maskworld.tokenizers.video_vae import KIND, PretrainedVideoVAEConfig, VideoVAE

V090: dict[str, Any] = {
    "latent_channels": 8,
    "block_out_channels": (8, 8, 8, 8),
    "decoder_block_out_channels": (8, 8, 8, 8),
    "layers_per_block": (1,) * 5,
    "decoder_layers_per_block": (1,) * 5,
    "scaling_factor": 0.7,
}
"""The published v0.9, made tiny."""
V091: dict[str, Any] = V090 | {
    "timestep_conditioning": True,
    "decoder_inject_noise": (True, True, True, True, False),
}
V095: dict[str, Any] = {
    "latent_channels": 8,
    "block_out_channels": (8, 16, 32, 32, 32),
    "down_block_types": ("LTXVideo095DownBlock3D",) * 4,
    "decoder_block_out_channels": (8, 16, 32),
    "layers_per_block": (1,) * 5,
    "decoder_layers_per_block": (1,) * 4,
    "spatio_temporal_scaling": (True,) * 4,
    "decoder_spatio_temporal_scaling": (True,) * 3,
    "decoder_inject_noise": (False,) * 4,
    "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
    "upsample_residual": (True,) * 3,
    "upsample_factor": (2,) * 3,
    "timestep_conditioning": True,
    "spatial_compression_ratio": 32,
    "temporal_compression_ratio": 8,
}
"""The published v0.9.5, made tiny."""
VERSIONS = {"0.9.0": V090, "0.9.1": V091, "0.9.5": V095}

Saved = Callable[[str], Path]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Folders with random weights of a version, in the published layout."""
    from diffusers import AutoencoderKLLTXVideo

    root = tmp_path_factory.mktemp("vae")

    def save(version: str) -> Path:
        folder = root / version
        if not folder.exists():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = AutoencoderKLLTXVideo(**VERSIONS[version])
                model.latents_mean.normal_()
                model.latents_std.uniform_(0.5, 2.0)
                for name, parameter in model.named_parameters():
                    if "per_channel_scale" in name:  # starts at zero: no noise to see
                        torch.nn.init.ones_(parameter)
            model.save_pretrained(folder)
        return folder

    return save


def reference(folder: Path) -> Any:
    from diffusers import AutoencoderKLLTXVideo

    return AutoencoderKLLTXVideo.from_pretrained(folder, use_safetensors=True).eval()


def clips(n: int = 2, t: int = 9, size: int = 64) -> torch.Tensor:
    return torch.rand(n, t, 3, size, size, generator=generator(1)) * 2 - 1


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vae(folder: Path, **changes: Any) -> VideoVAE:
    return VideoVAE(PretrainedVideoVAEConfig.of(folder, **changes))


def raw_latents(model: Any, latents: torch.Tensor) -> torch.Tensor:
    """diffusers' latents `n d tl gh gw` of our normalised ones."""
    z = rearrange(latents, "n tl d gh gw -> n d tl gh gw")
    mean, std = (b[None, :, None, None, None] for b in (model.latents_mean, model.latents_std))
    return z * std / model.config.scaling_factor + mean


@pytest.mark.parametrize("version", list(VERSIONS))
def test_every_version_loads_and_makes_a_round_trip_of_shapes(saved: Saved, version: str) -> None:
    tokenizer = vae(saved(version))
    assert isinstance(tokenizer, LatentTokenizer)
    sizes = (tokenizer.channels, tokenizer.stride, tokenizer.temporal_stride)
    assert sizes == (8, 32, 8)
    config = tokenizer.config
    assert sizes == (config.channels, config.stride, config.temporal_stride)
    latents = tokenizer.encode(clips(t=17))
    assert latents.shape == (2, 3, 8, 2, 2)
    assert tokenizer.decode(latents).shape == (2, 17, 3, 64, 64)
    assert tokenizer.encode(clips(t=1)).shape == (2, 1, 8, 2, 2)


@pytest.mark.parametrize("version", list(VERSIONS))
@torch.no_grad()
def test_latents_equal_those_of_diffusers_normalised_per_channel(
    saved: Saved, version: str
) -> None:
    tokenizer, model = vae(saved(version)), reference(saved(version))
    expected = model.encode(rearrange(clips(), "n t c h w -> n c t h w")).latent_dist
    found = raw_latents(model, tokenizer.encode(clips()))
    torch.testing.assert_close(found, expected.mode(), atol=1e-5, rtol=1e-5)
    found = raw_latents(model, tokenizer.encode(clips(), generator(3)))
    torch.testing.assert_close(found, expected.sample(generator(3)), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, expected.mode(), atol=1e-3)


@torch.no_grad()
def test_decoding_equals_diffusers_without_a_time(saved: Saved) -> None:
    tokenizer, model = vae(saved("0.9.0")), reference(saved("0.9.0"))
    latents = torch.randn(2, 2, 8, 2, 2, generator=generator(2))
    expected = model.decode(raw_latents(model, latents)).sample.clamp(-1, 1)
    found = rearrange(tokenizer.decode(latents), "n t c h w -> n c t h w")
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_decoding_equals_diffusers_with_a_time_and_noise(saved: Saved) -> None:
    tokenizer, model = vae(saved("0.9.5")), reference(saved("0.9.5"))
    latents = torch.randn(2, 2, 8, 2, 2, generator=generator(2))
    z = raw_latents(model, latents)
    z = 0.975 * z + 0.025 * torch.randn(z.shape, generator=generator(4))
    expected = model.decode(z, torch.full((2,), 0.05)).sample.clamp(-1, 1)
    found = rearrange(tokenizer.decode(latents, generator(4)), "n t c h w -> n c t h w")
    torch.testing.assert_close(found, expected)
    clean = vae(saved("0.9.5"), decode_timestep=0.0, decode_noise=0.0).decode(latents)
    assert not torch.allclose(clean, tokenizer.decode(latents), atol=1e-4)


@pytest.mark.parametrize("version", list(VERSIONS))
def test_decoding_is_a_function_of_latents_and_generator(saved: Saved, version: str) -> None:
    tokenizer = vae(saved(version))
    latents = torch.randn(1, 2, 8, 2, 2, generator=generator(2))
    state = torch.get_rng_state()
    first = tokenizer.decode(latents)
    torch.rand(7)  # moves the global generator, which must not matter
    assert torch.equal(tokenizer.decode(latents), first)
    torch.set_rng_state(state)
    tokenizer.decode(latents, generator(5))
    assert torch.equal(torch.get_rng_state(), state)
    is_noisy = version != "0.9.0"
    assert torch.equal(tokenizer.decode(latents, generator(5)), first) != is_noisy


@pytest.mark.parametrize("version", list(VERSIONS))
def test_one_by_one_equals_the_batch(saved: Saved, version: str) -> None:
    whole, single = vae(saved(version)), vae(saved(version), one_by_one=True)
    latents = whole.encode(clips(3))
    torch.testing.assert_close(single.encode(clips(3)), latents, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        single.decode(latents, generator(1)),
        whole.decode(latents, generator(1)),
        atol=1e-4,
        rtol=1e-4,
    )


@torch.no_grad()
def test_tiles_equal_those_of_diffusers_and_differ_from_whole_frames(saved: Saved) -> None:
    tokenizer, model = vae(saved("0.9.0"), tile_size=64, tile_overlap=32), reference(saved("0.9.0"))
    model.enable_tiling(64, 64, None, 32, 32)
    frames = clips(1, size=128)
    expected = model.encode(rearrange(frames, "n t c h w -> n c t h w")).latent_dist.mode()
    latents = tokenizer.encode(frames)
    torch.testing.assert_close(raw_latents(model, latents), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(latents, vae(saved("0.9.0")).encode(frames), atol=1e-4)
    assert tokenizer.decode(latents).shape == frames.shape


def test_it_is_frozen_but_gradients_pass_to_the_latents(saved: Saved) -> None:
    tokenizer = vae(saved("0.9.5"))
    latents = torch.randn(1, 1, 8, 2, 2, generator=generator(), requires_grad=True)
    tokenizer.decode(latents).sum().backward()
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in tokenizer.model.parameters())
    assert tokenizer.parameter_groups() == []
    assert not tokenizer.train().model.training
    with pytest.raises(ValueError, match="skip the tokenizer stage"):
        tokenizer.reconstruction_loss(clips(), generator())


def test_weights_stay_in_the_users_folder_and_move_with_the_module(saved: Saved) -> None:
    holder = torch.nn.ModuleDict({"tokenizer": vae(saved("0.9.0"))})
    assert holder.state_dict() == {}
    assert list(holder.parameters()) == []
    tokenizer = holder.to(torch.bfloat16)["tokenizer"]
    assert tokenizer.model.dtype == torch.bfloat16
    latents = tokenizer.encode(clips())
    assert latents.dtype == torch.float32
    assert tokenizer.decode(latents).dtype == torch.float32


def test_the_pipelines_folder_and_sharded_weights_load(saved: Saved, tmp_path: Path) -> None:
    expected = vae(saved("0.9.0")).encode(clips())
    reference(saved("0.9.0")).save_pretrained(tmp_path / "vae", max_shard_size="100KB")
    assert len(list((tmp_path / "vae").glob("*.safetensors"))) > 1
    assert torch.equal(vae(tmp_path).encode(clips()), expected)


def test_half_precision_files_stay_half(saved: Saved, tmp_path: Path) -> None:
    reference(saved("0.9.0")).to(torch.bfloat16).save_pretrained(tmp_path)
    assert vae(tmp_path).model.dtype == torch.bfloat16


def test_config_survives_json() -> None:
    config = PretrainedVideoVAEConfig("models/ltx", decode_noise=0.0, tile_size=256)
    assert config_from_json(PretrainedVideoVAEConfig, config_to_json(config)) == config


def test_strides_follow_a_config_that_does_not_say_them(tmp_path: Path) -> None:
    values = {"_class_name": "AutoencoderKLLTXVideo", "spatio_temporal_scaling": [True, True]}
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = PretrainedVideoVAEConfig.of(tmp_path)
    assert (config.channels, config.stride, config.temporal_stride) == (128, 16, 4)


def test_wrong_clips_latents_and_tiles_are_refused(saved: Saved) -> None:
    tokenizer = vae(saved("0.9.0"))
    with pytest.raises(ValueError, match="9 frames needed"):
        tokenizer.encode(clips(t=8))
    with pytest.raises(ValueError, match="stride 32, found 48x48"):
        tokenizer.encode(clips(size=48))
    with pytest.raises(ValueError, match="n tl 8 gh gw"):
        tokenizer.decode(torch.zeros(1, 2, 4, 2, 2))
    with pytest.raises(ValueError, match="multiples of the stride 32, found 80 and 64"):
        _ = vae(saved("0.9.0"), tile_size=80).model


def test_missing_diffusers_says_how_to_install_it(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved("0.9.0")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"pip install 'maskworld\[pretrained\]'"):
        _ = vae(folder).model


def test_folders_of_something_else_are_refused(saved: Saved, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found no such folder"):
        _ = vae(tmp_path / "nothing").model
    with pytest.raises(ValueError, match=r"found no config\.json"):
        _ = vae(tmp_path).model
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    with pytest.raises(ValueError, match="found the config of AutoencoderKL:"):
        _ = vae(tmp_path).model
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="damaged file"):
        _ = vae(tmp_path).model
    shutil.copy(saved("0.9.0") / "config.json", tmp_path)
    with pytest.raises(ValueError, match=f"Expected {WEIGHTS_NAME} in .*, found none"):
        _ = vae(tmp_path).model
    (tmp_path / "diffusion_pytorch_model.bin").touch()
    with pytest.raises(ValueError, match=r"found diffusion_pytorch_model\.bin, which could run"):
        _ = vae(tmp_path).model
    assert read_vae_config(tmp_path, KIND)[0] == tmp_path


def test_damaged_and_foreign_weights_are_refused(saved: Saved, tmp_path: Path) -> None:
    shutil.copy(saved("0.9.0") / "config.json", tmp_path)
    shutil.copy(saved("0.9.5") / WEIGHTS_NAME, tmp_path)
    with pytest.raises(ValueError, match="missing: "):
        _ = vae(tmp_path).model
    (tmp_path / WEIGHTS_NAME).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged one"):
        _ = vae(tmp_path).model
