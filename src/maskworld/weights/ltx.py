"""Published LTX-Video transformers: what their tensors are called, and how to load them.

Two layouts hold the same tensors under different names: the `transformer` folder in diffusers' form
(one safetensors file, or shards with an index), and Lightricks' single file, which also holds the
VAE. Only names differ from ours: no tensor is transposed, split or scaled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from maskworld.backbones.ltx import LTXConfig, LTXDiT
from maskworld.data.storage import atomic_path
from maskworld.nn.weights_io import read_safetensors, state_tensors
from maskworld.weights.published import Published, check_tensors, find_weights

WHAT = Published(
    "LTX-Video transformer",
    "download the transformer folder of Lightricks/LTX-Video or its ltx-video-2b file",
)
SINGLE_FILE_PREFIX = "model.diffusion_model."
_NUM_NAMED = 5

Layout = Literal["diffusers", "single_file"]
Shapes = dict[str, tuple[int, ...]]

_OUTER = {
    "proj_in": "proj_in",
    "adaln.time.up": "time_embed.emb.timestep_embedder.linear_1",
    "adaln.time.down": "time_embed.emb.timestep_embedder.linear_2",
    "adaln.project": "time_embed.linear",
    "caption.up": "caption_projection.linear_1",
    "caption.down": "caption_projection.linear_2",
    "head.table": "scale_shift_table",
    "head.project": "proj_out",
}
_IN_BLOCK = {
    "table": "scale_shift_table",
    "ffn.up": "ff.net.0.proj",
    "ffn.down": "ff.net.2",
} | {
    f"{ours}.{part}": f"{theirs}.{their_part}"
    for ours, theirs in (("attention", "attn1"), ("cross_attention", "attn2"))
    for part, their_part in (
        ("query", "to_q"),
        ("key", "to_k"),
        ("value", "to_v"),
        ("out", "to_out.0"),
        ("norm_query", "norm_q"),
        ("norm_key", "norm_k"),
    )
}
_SINGLE_FILE = {  # diffusers' word -> Lightricks' word
    "proj_in": "patchify_proj",
    "time_embed": "adaln_single",
    "norm_q": "q_norm",
    "norm_k": "k_norm",
}
_CONFIG_FIELDS = {  # ours -> the published config's
    "in_channels": "in_channels",
    "out_channels": "out_channels",
    "num_layers": "num_layers",
    "num_heads": "num_attention_heads",
    "head_dim": "attention_head_dim",
    "caption_channels": "caption_channels",
    "norm_eps": "norm_eps",
    "rope_base": "positional_embedding_max_pos",
    "rope_theta": "positional_embedding_theta",
}
_FIXED: dict[str, tuple[object, ...]] = {
    "patch_size": (1,),
    "patch_size_t": (1,),
    "activation_fn": ("gelu-approximate",),
    "qk_norm": ("rms_norm_across_heads", "rms_norm"),
    "standardization_norm": ("rms_norm",),
    "norm_elementwise_affine": (False,),
    "attention_bias": (True,),
    "attention_out_bias": (True,),
    "positional_embedding_type": ("rope",),
    "rope_type": ("interleaved",),
    "timestep_scale_multiplier": (1000,),
}
"""What our network cannot vary, checked where a config names it."""


def published_name(name: str, layout: Layout = "diffusers") -> str:
    """The published name of one of our tensors.

    Raises:
        ValueError: not a tensor of an `LTXDiT`.
    """
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    inner, table = (match[2], _IN_BLOCK) if match else (name, _OUTER)
    stem, suffix = _split(inner)
    if stem not in table:
        raise ValueError(f"Expected the name of a tensor of an LTXDiT, found {name!r}.")
    published = f"transformer_blocks.{match[1]}." if match else ""
    published += table[stem] + suffix
    if layout == "diffusers":
        return published
    words = [_SINGLE_FILE.get(word, word) for word in published.split(".")]
    return SINGLE_FILE_PREFIX + ".".join(words)


def to_published(tensors: Mapping[str, Tensor], layout: Layout = "diffusers") -> dict[str, Tensor]:
    """Our tensors under their published names."""
    return {published_name(name, layout): value for name, value in tensors.items()}


def from_published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published tensors, of either layout, under our names; a single file's VAE is left out.

    Raises:
        ValueError: names that belong to no LTX-Video transformer.
    """
    layout: Layout = "diffusers"
    if any(name.startswith(SINGLE_FILE_PREFIX) for name in tensors):
        layout = "single_file"
    names = {published_name(name, layout): name for name in _own_names(_num_layers(tensors))}
    own, strange = {}, []
    for name, value in tensors.items():
        if name in names:
            own[names[name]] = value
        elif layout == "diffusers" or not name.startswith("vae."):
            strange.append(name)
    if strange:
        raise ValueError(
            f"Expected only tensors of an LTX-Video transformer, found {len(strange)} others "
            f"({', '.join(strange[:_NUM_NAMED])}): is this another model?"
        )
    return own


def ltx_shapes(config: LTXConfig | None = None, layout: Layout = "diffusers") -> Shapes:
    """Name and shape of every published tensor of the transformer."""
    with torch.device("meta"):
        state = LTXDiT(config or LTXConfig()).state_dict()
    return {published_name(name, layout): tuple(value.shape) for name, value in state.items()}


def load_ltx(path: str | Path, config: LTXConfig | None = None) -> LTXDiT:
    """The published transformer from local files, in the dtype of the files, in eval mode.

    Args:
        path: the `transformer` folder, the pipeline's folder around it, or one safetensors file of
            either layout.
        config: overrides what `config.json` or the single file's metadata say; without any of
            these, LTX-Video 2B.

    Raises:
        ValueError: nothing there, a damaged file, another model, another shape.
    """
    files = find_weights(path, WHAT)
    with torch.device("meta"):
        model = LTXDiT(config or _read_config(files[0]) or LTXConfig())
    tensors = _read_tensors(files)
    check_tensors(model, tensors, files[0], WHAT)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def load_ltx_into(model: LTXDiT, path: str | Path) -> None:
    """Copies published weights into a network that exists, which keeps its dtype and device.

    Raises:
        ValueError: as `load_ltx`; also a config beside the weights that contradicts the model's
            where shapes do not tell (heads, rotary base, eps).
    """
    files = find_weights(path, WHAT)
    config = _read_config(files[0])
    differing = [
        f"{name} (expected {getattr(model.config, name)}, found {getattr(config, name)})"
        for name in _CONFIG_FIELDS
        if config is not None and getattr(config, name) != getattr(model.config, name)
    ]
    if differing:
        raise ValueError(
            f"Expected weights of this network in {files[0]}, found others: "
            f"{', '.join(differing)}. Build the network with the file's values."
        )
    tensors = _read_tensors(files)
    check_tensors(model, tensors, files[0], WHAT)
    model.load_state_dict(tensors)


def save_ltx(model: LTXDiT, path: str | Path, layout: Layout = "diffusers") -> None:
    """Writes the network's tensors to one file under their published names."""
    from safetensors.torch import save_file

    tensors = to_published(state_tensors(model), layout)
    with atomic_path(path, what="the weights of a video transformer") as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)


def _split(name: str) -> tuple[str, str]:
    for suffix in (".weight", ".bias"):
        if name.endswith(suffix):
            return name.removesuffix(suffix), suffix
    return name, ""


def _own_names(num_layers: int) -> list[str]:
    """Names of all tensors that an `LTXDiT` of that depth may have."""
    stems = [*_OUTER, *(f"blocks.{i}.{stem}" for i in range(num_layers) for stem in _IN_BLOCK)]
    names = []
    for stem in stems:
        if stem.endswith("table"):
            names.append(stem)
        else:
            names += [f"{stem}.weight"] + ([] if ".norm_" in stem else [f"{stem}.bias"])
    return names


def _num_layers(tensors: Mapping[str, Tensor]) -> int:
    found = (re.search(r"transformer_blocks\.(\d+)\.", name) for name in tensors)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _read_tensors(files: list[Path]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= read_safetensors(file)
    return from_published(tensors)


def _read_config(weights: Path) -> LTXConfig | None:
    """What `config.json` beside the weights, or the metadata inside, say of the network."""
    beside = weights.with_name("config.json")
    try:
        if beside.is_file():
            raw = json.loads(beside.read_text())
            if raw.get("_class_name") != "LTXVideoTransformer3DModel":
                raise ValueError(
                    f"Expected the config of an LTXVideoTransformer3DModel in {beside}, found "
                    f"{raw.get('_class_name')}: give the transformer folder."
                )
        else:
            raw = _read_metadata(weights)
            if raw is None:
                return None
        return _parse_config(raw, weights)
    except (json.JSONDecodeError, KeyError, AttributeError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"Expected the config of an LTX-Video transformer with {weights}, found another or a "
            f"damaged one ({error!r}): copy it again."
        ) from error


def _read_metadata(weights: Path) -> dict[str, Any] | None:
    """Lightricks' single files carry their config in the header of the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"Expected a whole safetensors file at {weights}, found a damaged one ({error}): "
            "copy or download it again."
        ) from error
    return json.loads(metadata["config"])["transformer"] if "config" in metadata else None


def _parse_config(raw: dict[str, Any], origin: Path) -> LTXConfig:
    wrong = {
        key: raw[key] for key, allowed in _FIXED.items() if raw.get(key, allowed[0]) not in allowed
    }
    if wrong:
        raise ValueError(
            f"Expected a network with {', '.join(f'{k} {_FIXED[k][0]}' for k in wrong)} in "
            f"{origin}, found {wrong}: this is another LTX model."
        )
    values = {ours: raw[theirs] for ours, theirs in _CONFIG_FIELDS.items() if theirs in raw}
    if "rope_base" in values:
        values["rope_base"] = tuple(float(value) for value in values["rope_base"])
    config = LTXConfig(**values)
    if raw.get("cross_attention_dim", config.dim) != config.dim:
        raise ValueError(
            f"Expected cross_attention_dim equal to the width {config.dim} in {origin}, found "
            f"{raw['cross_attention_dim']}: this is another LTX model."
        )
    return config
