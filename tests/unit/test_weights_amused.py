import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from maskworld.tokenizers.pretrained import PretrainedVQ, PretrainedVQConfig
from maskworld.weights.amused import WEIGHTS_NAME, amused_vq_shapes, load_amused_vq

SMALL = PretrainedVQConfig(
    widths=(8, 16, 16), num_res_blocks=2, latent_dim=4, vocab_size=32, num_groups=4
)
PUBLISHED_CONFIG = {
    "_class_name": "VQModel",
    "act_fn": "silu",
    "block_out_channels": list(SMALL.widths),
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "out_channels": 3,
    "in_channels": 3,
    "latent_channels": SMALL.latent_dim,
    "layers_per_block": SMALL.num_res_blocks,
    "lookup_from_codebook": True,
    "mid_block_add_attention": False,
    "norm_num_groups": SMALL.num_groups,
    "num_vq_embeddings": SMALL.vocab_size,
    "vq_embed_dim": None,
}


def random_tensors(config: PretrainedVQConfig) -> dict[str, torch.Tensor]:
    """Random weights under the published names and shapes."""
    g = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in amused_vq_shapes(config).items():
        noise = torch.randn(shape, generator=g)
        if name.endswith("bias"):
            tensors[name] = 0.1 * noise
        elif "norm" in name:
            tensors[name] = 1 + 0.1 * noise
        else:
            tensors[name] = noise / math.prod(shape[1:]) ** 0.5
    return tensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pipeline's folder with a small VQ in it."""
    vqvae = tmp_path / "vqvae"
    vqvae.mkdir()
    (vqvae / "config.json").write_text(json.dumps(PUBLISHED_CONFIG))
    save_file(random_tensors(SMALL), vqvae / WEIGHTS_NAME)
    return tmp_path


def frames(n: int = 2) -> torch.Tensor:
    return torch.rand(n, 3, 8, 12, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("has_attention", [False, True])
def test_names_and_shapes_equal_the_full_size_reference(has_attention: bool) -> None:
    config = PretrainedVQConfig(has_attention=has_attention)
    with torch.device("meta"):
        state = PretrainedVQ(config).model.state_dict()
    assert {name: tuple(v.shape) for name, v in state.items()} == amused_vq_shapes(config)


def test_the_published_vq_has_146_million_parameters() -> None:
    assert sum(math.prod(shape) for shape in amused_vq_shapes().values()) == 146_244_675
    assert PretrainedVQConfig().stride == 16


def test_loaded_tokenizer_equals_the_reference_class(folder: Path) -> None:
    from diffusers import VQModel

    reference = VQModel.from_pretrained(folder / "vqvae")
    tokenizer = load_amused_vq(folder)
    unit = (frames() + 1) / 2  # the published model sees [0, 1]
    with torch.no_grad():
        latents = reference.encode(unit).latents
        tokens = reference.quantize(latents)[2][2].view(2, 2, 3)
        decoded = reference.decode(tokens, force_not_quantize=True, shape=(2, 2, 3, 4)).sample
    assert tokens.unique().numel() > 3
    assert torch.equal(tokenizer.encode(frames()), tokens)
    torch.testing.assert_close(tokenizer.decode(tokens), decoded.clip(0, 1) * 2 - 1)
    one_hot = torch.nn.functional.one_hot(tokens, 32).float()
    torch.testing.assert_close(tokenizer.decode_probabilities(one_hot), tokenizer.decode(tokens))


@pytest.mark.parametrize("inner", ["", "vqvae", f"vqvae/{WEIGHTS_NAME}"])
def test_file_vqvae_folder_and_pipeline_folder_all_load(folder: Path, inner: str) -> None:
    tokenizer = load_amused_vq(folder / inner)
    assert (tokenizer.vocab_size, tokenizer.stride) == (32, 4)
    assert not any(p.requires_grad for p in tokenizer.parameters())
    assert tokenizer.parameter_groups() == []


def test_restored_state_gives_identical_tokens(folder: Path) -> None:
    tokenizer, restored = load_amused_vq(folder), PretrainedVQ(SMALL)
    restored.load_state_dict(tokenizer.state_dict())
    assert torch.equal(restored.encode(frames()), tokenizer.encode(frames()))


def test_bfloat16_decodes_near_float32_and_float16_is_refused(folder: Path) -> None:
    tokenizer = load_amused_vq(folder)
    tokens = tokenizer.encode(frames())
    expected = tokenizer.decode(tokens)
    found = tokenizer.to(torch.bfloat16).decode(tokens)
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0)
    with pytest.raises(ValueError, match="overflows to NaN"):
        tokenizer.to(torch.float16).decode(tokens)


def test_missing_unexpected_and_misshapen_tensors_are_named(folder: Path) -> None:
    tensors = random_tensors(SMALL)
    del tensors["quant_conv.bias"]
    tensors["ema.decay"] = torch.zeros(1)
    tensors["post_quant_conv.bias"] = torch.zeros(7)
    save_file(tensors, folder / "vqvae" / WEIGHTS_NAME)
    with pytest.raises(ValueError, match=r"missing: quant_conv\.bias") as error:
        load_amused_vq(folder)
    assert "unexpected: ema.decay" in str(error.value)
    assert "post_quant_conv.bias (expected (4,), found (7,))" in str(error.value)


def test_weights_without_their_config_are_taken_as_the_published_size(folder: Path) -> None:
    (folder / "vqvae" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"encoder.conv_in.weight \(expected \(128, 3, 3, 3\)"):
        load_amused_vq(folder)


def test_float16_files_damaged_files_and_empty_folders_are_refused(folder: Path) -> None:
    weights = folder / "vqvae" / WEIGHTS_NAME
    save_file({k: v.half() for k, v in random_tensors(SMALL).items()}, weights)
    with pytest.raises(ValueError, match="float16"):
        load_amused_vq(folder)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match=WEIGHTS_NAME):
        load_amused_vq(folder)
    with pytest.raises(ValueError, match="found none"):
        load_amused_vq(folder / "elsewhere")


def test_the_config_of_another_model_is_refused(folder: Path) -> None:
    config = PUBLISHED_CONFIG | {"_class_name": "AutoencoderKL"}
    (folder / "vqvae" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="found AutoencoderKL"):
        load_amused_vq(folder)
