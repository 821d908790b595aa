"""Claims about maskworld.tokenizers.image_vae and image_latents."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from maskworld.interfaces import LatentTokenizer
from maskworld.tokenizers.image_latents import decode_images, encode_images
from maskworld.tokenizers.image_vae import ImageVAE, PretrainedImageVAEConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the published layout, made tiny."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=1.5,
        shift_factor=0.1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    path = tmp_path_factory.mktemp("sd3") / "vae"
    model.save_pretrained(path)
    return path


def clip() -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, 3, 16, 24, generator=g) * 2 - 1


def test_latents_are_shifted_and_scaled_as_sd3_takes_them(folder: Path) -> None:
    import diffusers

    vae = ImageVAE(PretrainedImageVAEConfig.of(folder.parent))
    assert isinstance(vae, LatentTokenizer)
    assert (vae.channels, vae.stride, vae.temporal_stride) == (4, 4, 1)
    theirs = diffusers.AutoencoderKL.from_pretrained(folder)
    with torch.no_grad():
        raw = theirs.encode(clip().flatten(0, 1)).latent_dist.mode()
        expected = ((raw - 0.1) * 1.5).unflatten(0, (2, 3))
        pixels = theirs.decode(raw).sample.clamp(-1, 1).unflatten(0, (2, 3))
    latents = vae.encode(clip())
    torch.testing.assert_close(latents, expected)
    torch.testing.assert_close(vae.decode(latents), pixels, atol=1e-5, rtol=1e-5)


def test_a_frame_knows_nothing_of_another(folder: Path) -> None:
    vae = ImageVAE(PretrainedImageVAEConfig.of(folder, one_by_one=True))
    g = torch.Generator().manual_seed(2)
    frames = torch.randint(0, 256, (1, 2, 3, 3, 16, 24), generator=g, dtype=torch.uint8)
    latents = encode_images(vae, frames)
    assert latents.shape == (1, 2, 3, 4, 4, 6)
    torch.testing.assert_close(encode_images(vae, frames[:, :, 1:2]), latents[:, :, 1:2])
    assert decode_images(vae, latents).shape == frames.shape
    assert not list(vae.parameters())
    assert not vae.state_dict()


def test_another_vae_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"\(16, 8\), found \(4, 4\)"):
        ImageVAE(PretrainedImageVAEConfig(str(folder))).encode(clip())
    with pytest.raises(ValueError, match="the vae folder of a Stable Diffusion 3"):
        ImageVAE(PretrainedImageVAEConfig()).encode(clip())
    with pytest.raises(ValueError, match=r"an AutoencoderKL .* no such folder"):
        PretrainedImageVAEConfig.of(folder / "nowhere")
