"""Claims about maskworld.backbones.mmdit and weights.sd3."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from maskworld.backbones.mmdit import MMDiT, MMDiTConfig
from maskworld.backbones.mmdit_video import ViewBlock
from maskworld.masking import drop_tokens
from maskworld.nn.attention import attend
from maskworld.weights.sd3 import load_published, load_sd3_into, to_published

IMAGE = MMDiTConfig(
    in_channels=4,
    out_channels=4,
    num_layers=3,
    num_heads=2,
    head_dim=8,
    text_dim=12,
    pooled_dim=10,
    position_grid=12,
    position_base=8,
    has_time=False,
)
VIDEO = replace(IMAGE, has_time=True, view_attention="KW", action_dim=6)
SILENT = replace(VIDEO, text_dim=0, pooled_dim=0)


def randomised(model: nn.Module, seed: int = 0) -> Any:
    """In float64, every parameter random, so that nothing is silent."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g) / max(p.shape[-1], 1) ** 0.5)
    return model.double()


def inputs(config: MMDiTConfig, t: int = 3, v: int = 2, seed: int = 1) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    given = {"z": normal(2, t, v, config.in_channels, 8, 12)}
    given["t"] = torch.rand(2, t, generator=g, dtype=torch.float64)
    if config.text_dim:
        given["text"] = normal(2, 5, config.text_dim)
    if config.pooled_dim:
        given["pooled"] = normal(2, config.pooled_dim)
    if config.action_dim:
        given["actions"] = normal(2, t, config.action_dim)
    return given


@contextmanager
def single_precision_casts_lifted() -> Iterator[None]:
    """Inside, `float32` and `.float()` mean float64, which the reference casts sinusoids to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "float32", torch.float64)
        patch.setattr(Tensor, "float", Tensor.double)
        yield


def reference(config: MMDiTConfig) -> Any:
    diffusers = pytest.importorskip("diffusers")
    return randomised(
        diffusers.SD3Transformer2DModel(
            sample_size=config.position_base * config.patch_size,
            patch_size=config.patch_size,
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            num_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            attention_head_dim=config.head_dim,
            joint_attention_dim=config.text_dim,
            caption_projection_dim=config.dim,
            pooled_projection_dim=config.pooled_dim,
            pos_embed_max_size=config.position_grid,
            qk_norm="rms_norm" if config.qk_norm else None,
        )
    ).eval()


@pytest.mark.parametrize("qk_norm", [False, True])
def test_an_image_model_computes_what_diffusers_computes(qk_norm: bool) -> None:
    config = replace(IMAGE, qk_norm=qk_norm)
    theirs, given = reference(config), inputs(config, t=1, v=1)
    ours = MMDiT(config).double()
    torch.testing.assert_close(  # the table itself, before it is loaded
        ours.positions.float(), theirs.pos_embed.pos_embed.float(), atol=1e-6, rtol=0
    )
    load_published(ours, theirs.state_dict())

    def ask(t: Tensor) -> Tensor:
        with torch.no_grad():
            return theirs(
                hidden_states=given["z"][:, 0, 0],
                encoder_hidden_states=given["text"],
                pooled_projections=given["pooled"],
                timestep=t[:, 0] * 1000,
                return_dict=False,
            )[0]

    with torch.no_grad():
        exact = ours(**given)[:, 0, 0]
    with single_precision_casts_lifted():
        expected = ask(given["t"])
    assert float(expected.abs().mean()) > 0.1
    assert float((exact - expected).abs().max()) < 1e-9
    single = given | {"t": given["t"].float()}  # as shipped
    with torch.no_grad():
        found = ours(**single)[:, 0, 0]
    assert float((found - ask(single["t"])).abs().max()) < 1e-6


def test_diffusers_computes_with_our_weights_what_we_compute() -> None:
    theirs, given = reference(IMAGE), inputs(IMAGE, t=1, v=1)
    ours = randomised(MMDiT(IMAGE), seed=5)
    theirs.load_state_dict(to_published(ours.state_dict()))
    with single_precision_casts_lifted(), torch.no_grad():
        expected = theirs(
            hidden_states=given["z"][:, 0, 0],
            encoder_hidden_states=given["text"],
            pooled_projections=given["pooled"],
            timestep=given["t"][:, 0] * 1000,
            return_dict=False,
        )[0]
    assert float((ours(**given)[:, 0, 0] - expected).detach().abs().max()) < 1e-9


def test_the_default_is_sd3_medium() -> None:
    with torch.device("meta"):
        model = MMDiT(replace(MMDiTConfig(), has_time=False))
    assert sum(p.numel() for p in model.parameters()) == 2_028_328_000


def test_a_new_video_network_is_the_image_model_frame_by_frame(tmp_path: Path) -> None:
    image, given = randomised(MMDiT(IMAGE)), inputs(VIDEO)
    save_file(
        {k: v.contiguous() for k, v in to_published(image.state_dict()).items()},
        tmp_path / "diffusion_pytorch_model.safetensors",
    )
    video = MMDiT(VIDEO).double()
    load_sd3_into(video, tmp_path)
    alone = [
        image(
            given["z"][:, i : i + 1, v : v + 1],
            given["t"][:, i : i + 1],
            given["text"],
            given["pooled"],
        )
        for i in range(3)
        for v in range(2)
    ]
    expected = torch.cat(alone, dim=1).unflatten(1, (3, 2))[:, :, :, 0]
    torch.testing.assert_close(video(**given), expected)
    with pytest.raises(ValueError, match=r"SD3 transformer.*missing: text_in"):
        load_published(video, {"pos_embed.proj.bias": torch.zeros(16)} | without_text(image))


def without_text(model: MMDiT) -> dict[str, Tensor]:
    named = to_published(model.state_dict())
    return {name: value for name, value in named.items() if "context_embedder" not in name}


@pytest.mark.parametrize("config", [VIDEO, SILENT], ids=["text", "no-text"])
def test_every_input_of_a_video_counts(config: MMDiTConfig) -> None:
    model, given = randomised(MMDiT(config)), inputs(config)
    plain = model(**given)
    for name, value in given.items():
        changed = value.clone()
        changed[:, 0] = changed[:, 0] * 0.5 + 0.1  # the first frame, word or channel
        found = model(**given | {name: changed})
        assert (found - plain).abs().amax(dim=(0, 2, 3, 4, 5)).min() > 1e-6, name  # in every frame


@pytest.mark.parametrize("kind", ["K", "KW", "KHW"])
def test_a_view_block_is_full_attention_restricted_to_its_places(kind: Any) -> None:
    """On 2 rows of 3 tokens that were left of a row of 4, too: only the counts matter."""
    block = randomised(ViewBlock(16, 2, kind, 3))
    for width in (4, 3):
        n = 2 * width
        g = torch.Generator().manual_seed(0)
        x = torch.randn(1, 2, 3, n, 16, generator=g).double()
        h = block.norm(x + block.view)
        query, key, value = (
            layer(h).flatten(2, 3).flatten(0, 1) for layer in (block.query, block.key, block.value)
        )
        place = torch.arange(n).repeat(3) // {"K": 1, "KW": width, "KHW": n}[kind]
        mask = place[:, None] == place[None]
        said = attend(query, key, value, 2, mask).unflatten(0, (1, 2)).unflatten(2, (3, n))
        y = x + block.out(said)
        torch.testing.assert_close(block(x, rows=2), y + block.ffn(block.ffn_norm(y)))
        with pytest.raises(ValueError, match="each of 5 rows"):
            block(x, rows=5)


def test_masked_temporal_attention_joins_the_frames_that_have_a_place() -> None:
    """The baseline without shift, against attention over only those frames, place by place."""
    model, given = randomised(MMDiT(SILENT)), inputs(SILENT)
    block = model.layers[0].temporal
    tokens = drop_tokens("time_random", (2, 3, 4, 6), 0.5, torch.Generator().manual_seed(0))
    x = tokens.gather(model.embed(given["z"]))
    h = torch.randn(6, 2 * 12, 16, generator=torch.Generator().manual_seed(1)).double()
    said = block._attend_over_time(h, (2, 3, 2), tokens)
    heads = [
        layer(h).unflatten(0, (2, 3)).unflatten(2, (2, 12))
        for layer in (block.query, block.key, block.value)
    ]
    for b, v, place in itertools.product(range(2), range(2), range(24)):
        frames = [t for t in range(3) if not bool(tokens.dropped[b, t, place])]
        if not frames:
            continue
        slots = [int((tokens.kept[b, t] == place).nonzero()) for t in frames]
        query, key, value = (part[b, frames, v, slots][None] for part in heads)
        expected = attend(query, key, value, SILENT.num_heads)[0]
        found = said.unflatten(0, (2, 3)).unflatten(2, (2, 12))[b, frames, v, slots]
        torch.testing.assert_close(found, expected)
    condition = model.condition(given["t"])
    masked = block(x, None, condition, None, tokens)
    assert not torch.allclose(masked, block(x, None, condition, None))


def test_masked_and_packed_attention_agree_where_all_frames_lost_the_same() -> None:
    model, given = randomised(MMDiT(SILENT)), inputs(SILENT)
    tokens = drop_tokens("spatial", (2, 3, 4, 6), 0.5, torch.Generator().manual_seed(0))
    x, condition = tokens.gather(model.embed(given["z"])), model.condition(given["t"])
    block = model.layers[0].temporal
    packed = block(x, None, condition, given["actions"])
    torch.testing.assert_close(block(x, None, condition, given["actions"], tokens), packed)


def test_what_does_not_fit_is_refused() -> None:
    model, given = MMDiT(VIDEO), {k: v.float() for k, v in inputs(VIDEO).items()}
    with pytest.raises(ValueError, match="multiples of 2 up to 24"):
        model(**given | {"z": given["z"][..., :7]})
    with pytest.raises(ValueError, match="text exactly where"):
        model(given["z"], given["t"], None, given["pooled"])
    with pytest.raises(ValueError, match="at most 6 views"):
        model(**given | {"z": given["z"].repeat(1, 1, 4, 1, 1, 1)})
    with pytest.raises(ValueError, match="no actions"):
        MMDiT(replace(VIDEO, action_dim=0))(**given)
    with pytest.raises(ValueError, match="has_time with actions"):
        replace(VIDEO, has_time=False)
