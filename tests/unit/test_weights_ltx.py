"""Claims about maskworld.weights.ltx."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from maskworld.backbones.ltx import LTXConfig, LTXDiT, grid_positions
from maskworld.weights.ltx import (
    Layout,
    from_published,
    load_ltx,
    load_ltx_into,
    ltx_shapes,
    published_name,
    save_ltx,
    to_published,
)
from maskworld.weights.published import WEIGHTS_NAME

SMALL = LTXConfig(
    in_channels=6, out_channels=6, num_layers=2, num_heads=2, head_dim=16, caption_channels=12
)
DIFFUSERS_CONFIG: dict[str, Any] = {
    "_class_name": "LTXVideoTransformer3DModel",
    "_diffusers_version": "0.32.0.dev0",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 16,
    "attention_out_bias": True,
    "caption_channels": 12,
    "cross_attention_dim": 32,
    "in_channels": 6,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-06,
    "num_attention_heads": 2,
    "num_layers": 2,
    "out_channels": 6,
    "patch_size": 1,
    "patch_size_t": 1,
    "qk_norm": "rms_norm_across_heads",
}
LIGHTRICKS_CONFIG: dict[str, Any] = {
    "_class_name": "Transformer3DModel",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 16,
    "attention_type": "default",
    "caption_channels": 12,
    "cross_attention_dim": 32,
    "in_channels": 6,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-06,
    "num_attention_heads": 2,
    "num_layers": 2,
    "out_channels": 6,
    "qk_norm": "rms_norm",
    "standardization_norm": "rms_norm",
    "positional_embedding_type": "rope",
    "positional_embedding_theta": 10000.0,
    "positional_embedding_max_pos": [20, 2048, 2048],
    "timestep_scale_multiplier": 1000,
}


def random_tensors(layout: Layout, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Random weights under the published names and shapes."""
    g = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=g).to(dtype)
        for name, shape in ltx_shapes(SMALL, layout).items()
    }


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """A pipeline's folder in diffusers' form."""
    folder = tmp_path / "transformer"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(DIFFUSERS_CONFIG))
    save_file(random_tensors("diffusers"), folder / WEIGHTS_NAME)
    return tmp_path


@pytest.fixture
def single_file(tmp_path: Path) -> Path:
    """Lightricks' form: transformer and VAE in one file, the config in its header."""
    path = tmp_path / "ltx-video-2b.safetensors"
    tensors = random_tensors("single_file") | {"vae.decoder.conv_in.conv.bias": torch.zeros(3)}
    save_file(tensors, path, metadata={"config": json.dumps({"transformer": LIGHTRICKS_CONFIG})})
    return path


def answer(model: LTXDiT) -> Tensor:
    g = torch.Generator().manual_seed(1)
    x, text = torch.randn(2, 8, 6, generator=g), torch.randn(2, 3, 12, generator=g)
    with torch.no_grad():
        out = model(x, torch.rand(2, generator=g), positions=grid_positions(2, 2, 2, 8), text=text)
    return out.velocity


# --- names


def test_names_of_the_published_model_are_those_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        theirs = diffusers.LTXVideoTransformer3DModel().state_dict()
    assert ltx_shapes() == {name: tuple(value.shape) for name, value in theirs.items()}


def test_names_of_the_single_file_are_those_that_diffusers_converts() -> None:
    conversion = pytest.importorskip("diffusers.loaders.single_file_utils")
    published = random_tensors("single_file")
    converted = conversion.convert_ltx_transformer_checkpoint_to_diffusers(dict(published))
    assert set(converted) == set(ltx_shapes(SMALL))
    ours, theirs = from_published(published), from_published(converted)
    assert all(torch.equal(ours[name], theirs[name]) for name in LTXDiT(SMALL).state_dict())


@pytest.mark.parametrize(
    ("ours", "diffusers", "single_file"),
    [
        ("proj_in.weight", "proj_in.weight", "patchify_proj.weight"),
        ("adaln.project.bias", "time_embed.linear.bias", "adaln_single.linear.bias"),
        (
            "adaln.time.up.weight",
            "time_embed.emb.timestep_embedder.linear_1.weight",
            "adaln_single.emb.timestep_embedder.linear_1.weight",
        ),
        (
            "blocks.7.attention.norm_query.weight",
            "transformer_blocks.7.attn1.norm_q.weight",
            "transformer_blocks.7.attn1.q_norm.weight",
        ),
        (
            "blocks.27.cross_attention.out.bias",
            "transformer_blocks.27.attn2.to_out.0.bias",
            "transformer_blocks.27.attn2.to_out.0.bias",
        ),
        (
            "blocks.0.table",
            "transformer_blocks.0.scale_shift_table",
            "transformer_blocks.0.scale_shift_table",
        ),
        ("head.table", "scale_shift_table", "scale_shift_table"),
    ],
)
def test_names_translate_as_published(ours: str, diffusers: str, single_file: str) -> None:
    assert published_name(ours) == diffusers
    assert published_name(ours, "single_file") == f"model.diffusion_model.{single_file}"


@pytest.mark.parametrize("layout", ["diffusers", "single_file"])
def test_names_there_and_back_lose_nothing(layout: Layout) -> None:
    state = LTXDiT(SMALL).state_dict()
    back = from_published(to_published(state, layout))
    assert list(back) == list(state)
    assert all(back[name] is state[name] for name in state)


def test_a_name_of_another_network_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found 'blocks\.0\.moe\.weight'"):
        published_name("blocks.0.moe.weight")
    with pytest.raises(ValueError, match=r"1 others \(transformer_blocks\.0\.moe\.weight\)"):
        from_published(
            random_tensors("diffusers") | {"transformer_blocks.0.moe.weight": torch.ones(1)}
        )


# --- loading


def test_folder_and_pipeline_load_alike(pipeline: Path) -> None:
    published = random_tensors("diffusers")
    for path in (pipeline, pipeline / "transformer", pipeline / "transformer" / WEIGHTS_NAME):
        model = load_ltx(path)
        assert model.config == SMALL
        assert not model.training
        for name, value in model.state_dict().items():
            assert torch.equal(value, published[published_name(name)])
        assert torch.isfinite(answer(model)).all()


def test_the_single_file_holds_the_same_network(single_file: Path, pipeline: Path) -> None:
    model = load_ltx(single_file)
    assert model.config == SMALL
    published = random_tensors("single_file")
    for name, value in model.state_dict().items():
        assert torch.equal(value, published[published_name(name, "single_file")])


def test_a_loaded_network_computes_what_diffusers_loads(pipeline: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.LTXVideoTransformer3DModel.from_pretrained(pipeline / "transformer")
    model = load_ltx(pipeline)
    g = torch.Generator().manual_seed(1)
    x, text = torch.randn(2, 8, 6, generator=g), torch.randn(2, 3, 12, generator=g)
    t = torch.rand(2, generator=g)
    with torch.no_grad():
        expected = theirs(
            hidden_states=x,
            encoder_hidden_states=text,
            timestep=t * 1000,
            encoder_attention_mask=torch.ones(2, 3),
            video_coords=grid_positions(2, 2, 2, 8).expand(2, -1, -1),
            return_dict=False,
        )[0]
    found = answer(model)
    assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())


def test_what_we_save_diffusers_loads(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    model = LTXDiT(SMALL)
    save_ltx(model, tmp_path / WEIGHTS_NAME)
    (tmp_path / "config.json").write_text(json.dumps(DIFFUSERS_CONFIG))
    theirs = diffusers.LTXVideoTransformer3DModel.from_pretrained(tmp_path)
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, to_published(model.state_dict())[name])


def test_shards_load_like_one_file(pipeline: Path) -> None:
    whole = load_ltx(pipeline).state_dict()
    folder = pipeline / "transformer"
    tensors = load_file(folder / WEIGHTS_NAME)
    (folder / WEIGHTS_NAME).unlink()
    names = sorted(tensors)
    places = {}
    for shard, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"diffusion_pytorch_model-{shard:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        places |= dict.fromkeys(part, file)
    index = folder / f"{WEIGHTS_NAME}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    found = load_ltx(pipeline).state_dict()
    assert all(torch.equal(found[name], value) for name, value in whole.items())
    index.write_text("{")
    with pytest.raises(ValueError, match="weight_map"):
        load_ltx(pipeline)


def test_weights_keep_the_dtype_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_file(random_tensors("single_file", torch.bfloat16), path)
    assert {p.dtype for p in load_ltx(path, SMALL).parameters()} == {torch.bfloat16}
    model = LTXDiT(SMALL)
    load_ltx_into(model, path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_weights_enter_a_network_that_exists(pipeline: Path) -> None:
    model = LTXDiT(SMALL)
    load_ltx_into(model, pipeline)
    torch.testing.assert_close(answer(model), answer(load_ltx(pipeline)))


# --- what is refused


def test_a_path_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found none: download the transformer"):
        load_ltx(tmp_path)


def test_a_file_of_another_size_is_refused_by_name_and_shape(pipeline: Path) -> None:
    (pipeline / "transformer" / "config.json").unlink()
    for config, complaint in (
        (replace(SMALL, num_layers=3), r"missing: blocks\.2\.table"),
        (replace(SMALL, num_layers=1), r"unexpected: blocks\.1\."),
        (replace(SMALL, caption_channels=20), r"caption\.up\.weight \(expected \(32, 20\), found"),
        (replace(SMALL, has_text=False), r"unexpected: .*cross_attention"),
    ):
        with pytest.raises(ValueError, match=complaint):
            load_ltx(pipeline, config)
        model = LTXDiT(config)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(ValueError, match=complaint):
            load_ltx_into(model, pipeline)
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_without_a_config_the_published_model_is_expected(pipeline: Path) -> None:
    (pipeline / "transformer" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"missing: blocks\.2\.table"):
        load_ltx(pipeline)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"_class_name": "LTX2VideoTransformer3DModel"}, "found LTX2VideoTransformer3DModel"),
        ({"patch_size": 2}, "patch_size 1 in"),
        ({"qk_norm": None}, "qk_norm rms_norm_across_heads"),
        ({"cross_attention_dim": 64}, "equal to the width 32"),
        ({"num_layers": "two"}, "damaged one"),
    ],
)
def test_a_config_of_another_network_is_refused(
    pipeline: Path, change: dict[str, Any], complaint: str
) -> None:
    config = pipeline / "transformer" / "config.json"
    config.write_text(json.dumps(DIFFUSERS_CONFIG | change))
    with pytest.raises(ValueError, match=complaint):
        load_ltx(pipeline)
    config.write_text("{")
    with pytest.raises(ValueError, match="damaged one"):
        load_ltx(pipeline)


def test_a_single_file_of_another_rotary_form_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    config = {"transformer": LIGHTRICKS_CONFIG | {"rope_type": "split"}}
    save_file(random_tensors("single_file"), path, metadata={"config": json.dumps(config)})
    with pytest.raises(ValueError, match="rope_type interleaved"):
        load_ltx(path)


def test_heads_that_shapes_do_not_tell_must_agree(pipeline: Path) -> None:
    """Two heads of 16 and four of 8 have the same tensors and compute different things."""
    with pytest.raises(ValueError, match=r"num_heads \(expected 4, found 2\)"):
        load_ltx_into(LTXDiT(replace(SMALL, num_heads=4, head_dim=8)), pipeline)


def test_a_damaged_file_is_refused(pipeline: Path) -> None:
    weights = pipeline / "transformer" / WEIGHTS_NAME
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        load_ltx(pipeline)
