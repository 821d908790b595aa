"""Published Stable Diffusion 3 transformers: what their tensors are called, and how to load them.

The layout is the `transformer` folder in diffusers' form (one safetensors file, or shards with an
index). Only names differ from ours: no tensor is transposed, split or scaled. What MaskGWM adds,
temporal and view blocks, is in no such file and stays as it is: silent, in a new network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from maskworld.backbones.mmdit import MMDiT
from maskworld.nn.weights_io import read_safetensors
from maskworld.weights.published import Published, check_tensors, find_weights

WHAT = Published(
    "SD3 transformer",
    "download the transformer folder of stabilityai/stable-diffusion-3-medium-diffusers",
)
_OUTER = {
    "positions": "pos_embed.pos_embed",
    "patch_in": "pos_embed.proj",
    "time.up": "time_text_embed.timestep_embedder.linear_1",
    "time.down": "time_text_embed.timestep_embedder.linear_2",
    "pooled.up": "time_text_embed.text_embedder.linear_1",
    "pooled.down": "time_text_embed.text_embedder.linear_2",
    "text_in": "context_embedder",
    "out_modulation": "norm_out.linear",
    "proj_out": "proj_out",
}
_IN_LAYER = {
    "image.modulation": "norm1.linear",
    "image.query": "attn.to_q",
    "image.key": "attn.to_k",
    "image.value": "attn.to_v",
    "image.norm_query": "attn.norm_q",
    "image.norm_key": "attn.norm_k",
    "image.out": "attn.to_out.0",
    "image.ffn.up": "ff.net.0.proj",
    "image.ffn.down": "ff.net.2",
    "text.modulation": "norm1_context.linear",
    "text.query": "attn.add_q_proj",
    "text.key": "attn.add_k_proj",
    "text.value": "attn.add_v_proj",
    "text.norm_query": "attn.norm_added_q",
    "text.norm_key": "attn.norm_added_k",
    "text.out": "attn.to_add_out",
    "text.ffn.up": "ff_context.net.0.proj",
    "text.ffn.down": "ff_context.net.2",
}


def published_name(name: str) -> str | None:
    """The published name of one of an `MMDiT`'s tensors; None for what MaskGWM adds."""
    match = re.fullmatch(r"layers\.(\d+)\.(\w+)\.(.+)", name)
    if match and match[2] != "joint":
        return None
    inner, table = (match[3], _IN_LAYER) if match else (name, _OUTER)
    stem, suffix = re.fullmatch(r"(.+?)(\.weight|\.bias)?", inner).groups()  # type: ignore[union-attr]
    if stem not in table:
        raise ValueError(f"Expected the name of a tensor of an MMDiT, found {name!r}.")
    before = f"transformer_blocks.{match[1]}." if match else ""
    return before + table[stem] + (suffix or "")


def to_published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors of the image model under their published names."""
    named = {name: published_name(name) for name in tensors}
    return {theirs: tensors[ours] for ours, theirs in named.items() if theirs is not None}


def load_sd3_into(model: MMDiT, path: str | Path) -> None:
    """Copies the published image model into a network, which keeps its dtype and device.

    Args:
        path: the `transformer` folder, the pipeline's folder around it, or a safetensors file.

    Raises:
        ValueError: nothing there, a damaged file, another model, another shape.
    """
    files = find_weights(path, WHAT)
    found: dict[str, Tensor] = {}
    for file in files:
        found |= read_safetensors(file)
    load_published(model, found, files[0])


def load_published(
    model: MMDiT, tensors: Mapping[str, Tensor], origin: Path = Path("memory")
) -> None:
    """Copies tensors under published names into a network.

    Raises:
        ValueError: as `load_sd3_into`.
    """
    own = {name: published_name(name) for name in model.state_dict()}
    back = {theirs: ours for ours, theirs in own.items() if theirs is not None}
    renamed = {back.get(name, name): value for name, value in tensors.items()}
    added = {name: value for name, value in model.state_dict().items() if own[name] is None}
    check_tensors(model, renamed | added, origin, WHAT)
    model.load_state_dict(renamed | added)
