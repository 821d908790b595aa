"""The published aMUSEd VQ-GAN: which tensors it has, and how to load them.

The file is `vqvae/diffusion_pytorch_model.safetensors` of `amused/amused-256` (or -512: the same
VQ). Names and shapes are written out here, so a wrong file is told apart before a network is built.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskworld.nn.weights_io import read_safetensors
from maskworld.tokenizers.pretrained import PretrainedVQ, PretrainedVQConfig

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
_NUM_NAMED = 5

Shapes = dict[str, tuple[int, ...]]


def amused_vq_shapes(config: PretrainedVQConfig | None = None) -> Shapes:
    """Name and shape of every tensor of the published file; 146M of them are parameters."""
    config = config or PretrainedVQConfig()
    widths, latent, blocks = config.widths, config.latent_dim, config.num_res_blocks
    return (
        _conv("encoder.conv_in", config.channels, widths[0], 3)
        | _levels("encoder.down_blocks", widths, blocks, "downsamplers")
        | _middle("encoder.mid_block", widths[-1], config.has_attention)
        | _norm("encoder.conv_norm_out", widths[-1])
        | _conv("encoder.conv_out", widths[-1], latent, 3)
        | _conv("quant_conv", latent, latent, 1)
        | {"quantize.embedding.weight": (config.vocab_size, latent)}
        | _conv("post_quant_conv", latent, latent, 1)
        | _conv("decoder.conv_in", latent, widths[-1], 3)
        | _middle("decoder.mid_block", widths[-1], config.has_attention)
        | _levels("decoder.up_blocks", widths[::-1], blocks + 1, "upsamplers")
        | _norm("decoder.conv_norm_out", widths[0])
        | _conv("decoder.conv_out", widths[0], config.channels, 3)
    )


def load_amused_vq(path: str | Path) -> PretrainedVQ:
    """The published tokenizer from a local file or folder, in the dtype of the file.

    Args:
        path: the safetensors file, the `vqvae` folder, or the pipeline's folder around it. A
            `config.json` beside the weights overrides the published configuration.

    Raises:
        ValueError: nothing there, a damaged file, another model, float16 weights.
    """
    weights_path = _find_weights(Path(path))
    config = _read_config(weights_path.with_name("config.json"))
    tensors = read_safetensors(weights_path)
    _check_tensors(tensors, amused_vq_shapes(config), weights_path)
    dtypes = {value.dtype for value in tensors.values()}
    if torch.float16 in dtypes:
        raise ValueError(
            f"Expected float32 or bfloat16 weights in {weights_path}, found float16, in which this "
            "network overflows to NaN: use the file without the fp16 suffix."
        )
    tokenizer = PretrainedVQ(config)
    tokenizer.model.load_state_dict(tensors, assign=True)
    return tokenizer.requires_grad_(False).eval()


def _conv(name: str, dim_in: int, dim_out: int, size: int) -> Shapes:
    return {f"{name}.weight": (dim_out, dim_in, size, size), f"{name}.bias": (dim_out,)}


def _norm(name: str, dim: int) -> Shapes:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def _resnet(name: str, dim_in: int, dim_out: int) -> Shapes:
    shapes = (
        _norm(f"{name}.norm1", dim_in)
        | _conv(f"{name}.conv1", dim_in, dim_out, 3)
        | _norm(f"{name}.norm2", dim_out)
        | _conv(f"{name}.conv2", dim_out, dim_out, 3)
    )
    return shapes | (
        _conv(f"{name}.conv_shortcut", dim_in, dim_out, 1) if dim_in != dim_out else {}
    )


def _levels(name: str, widths: tuple[int, ...], num_blocks: int, resampler: str) -> Shapes:
    """Residual blocks per resolution; every level but the last ends by changing resolution."""
    shapes: Shapes = {}
    dim = widths[0]
    for level, width in enumerate(widths):
        for block in range(num_blocks):
            shapes |= _resnet(f"{name}.{level}.resnets.{block}", dim, width)
            dim = width
        if level < len(widths) - 1:
            shapes |= _conv(f"{name}.{level}.{resampler}.0.conv", dim, dim, 3)
    return shapes


def _middle(name: str, dim: int, has_attention: bool) -> Shapes:
    shapes = _resnet(f"{name}.resnets.0", dim, dim) | _resnet(f"{name}.resnets.1", dim, dim)
    if has_attention:
        shapes |= _norm(f"{name}.attentions.0.group_norm", dim)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            shapes[f"{name}.attentions.0.{part}.weight"] = (dim, dim)
            shapes[f"{name}.attentions.0.{part}.bias"] = (dim,)
    return shapes


def _find_weights(path: Path) -> Path:
    candidates = [path, path / WEIGHTS_NAME, path / "vqvae" / WEIGHTS_NAME]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ValueError(
        f"Expected the aMUSEd VQ at {path} (a safetensors file, or a folder with {WEIGHTS_NAME} or "
        f"vqvae/{WEIGHTS_NAME}), found none: download the vqvae folder of amused/amused-256."
    )


def _read_config(path: Path) -> PretrainedVQConfig:
    """The published configuration, or that of a `config.json` in diffusers' words."""
    if not path.is_file():
        return PretrainedVQConfig()
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
        if raw["_class_name"] != "VQModel":
            raise ValueError(
                f"Expected the config of a VQModel in {path}, found {raw['_class_name']}: "
                "give the vqvae folder."
            )
        if raw.get("vq_embed_dim") not in (None, raw["latent_channels"]):
            raise ValueError(
                f"Expected vq_embed_dim equal to latent_channels in {path}, found "
                f"{raw['vq_embed_dim']} and {raw['latent_channels']}: this is another VQ."
            )
        kinds = {*raw["down_block_types"], *raw["up_block_types"]}
        if kinds != {"DownEncoderBlock2D", "UpDecoderBlock2D"}:
            raise ValueError(
                f"Expected only DownEncoderBlock2D and UpDecoderBlock2D in {path}, found "
                f"{sorted(kinds)}: this is another VQ."
            )
        return PretrainedVQConfig(
            channels=raw["in_channels"],
            widths=tuple(raw["block_out_channels"]),
            num_res_blocks=raw["layers_per_block"],
            latent_dim=raw["latent_channels"],
            vocab_size=raw["num_vq_embeddings"],
            num_groups=raw["norm_num_groups"],
            has_attention=raw.get("mid_block_add_attention", True),
        )
    except (json.JSONDecodeError, KeyError) as error:
        raise ValueError(
            f"Expected diffusers' VQModel config in {path}, found another or damaged file "
            f"({error!r}): copy it again."
        ) from error


def _check_tensors(tensors: dict[str, Tensor], expected: Shapes, path: Path) -> None:
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    shapes = [
        f"{name} (expected {shape}, found {found[name]})"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    problems = [
        f"{title}: {', '.join(names[:_NUM_NAMED])}"
        + (f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else "")
        for title, names in (("missing", missing), ("unexpected", unexpected), ("shape", shapes))
        if names
    ]
    if problems:
        raise ValueError(
            f"Expected the tensors of the aMUSEd VQ in {path}, found others. "
            f"{'; '.join(problems)}. Give vqvae/{WEIGHTS_NAME} and its config.json."
        )
