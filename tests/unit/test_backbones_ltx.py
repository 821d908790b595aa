"""Claims about maskworld.backbones.ltx, nn.rope and nn.adaln."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskworld.backbones.ltx import LTXConfig, LTXDiT, VelocityHead, grid_positions
from maskworld.nn.adaln import merge_times
from maskworld.weights.ltx import from_published, to_published

TINY = LTXConfig(
    in_channels=6, out_channels=6, num_layers=4, num_heads=2, head_dim=16, caption_channels=12
)
SILENT = LTXConfig(
    in_channels=6, out_channels=6, num_layers=4, num_heads=2, head_dim=16, has_text=False
)
GRID = (3, 2, 4)
N = 24


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomised(model: nn.Module, seed: int = 0) -> Any:
    """The model in float64 with every parameter random, so that nothing is silent."""
    g = seeded(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g) / max(p.shape[-1], 1) ** 0.5)
    return model.double()


def inputs(config: LTXConfig = TINY, b: int = 2, seed: int = 1) -> dict[str, Tensor]:
    g = seeded(seed)
    x = torch.randn(b, N, config.in_channels, generator=g, dtype=torch.float64)
    t = torch.rand(b, N, generator=g, dtype=torch.float64)
    given = {"x": x, "t": t, "positions": grid_positions(*GRID, fps=8).double()}
    if config.has_text:
        given["text"] = torch.randn(b, 5, config.caption_channels, generator=g).double()
        mask = torch.ones(b, 5, dtype=torch.bool)
        mask[0, 3:] = False
        given["text_mask"] = mask
    return given


# --- equality with diffusers


@contextmanager
def single_precision_casts_lifted() -> Iterator[None]:
    """Inside, `float32` and `.float()` mean float64: the reference casts rotary tables, sinusoids
    and norms to float32 whatever its weights are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "float32", torch.float64)
        patch.setattr(Tensor, "float", Tensor.double)
        yield


def reference(config: LTXConfig) -> Any:
    diffusers = pytest.importorskip("diffusers")
    return randomised(
        diffusers.LTXVideoTransformer3DModel(
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            num_attention_heads=config.num_heads,
            attention_head_dim=config.head_dim,
            cross_attention_dim=config.dim,
            num_layers=config.num_layers,
            caption_channels=config.caption_channels,
            norm_eps=config.norm_eps,
        )
    ).eval()


def ask_reference(model: Any, given: dict[str, Tensor]) -> Tensor:
    positions = given["positions"].expand(given["x"].shape[0], -1, -1)
    with torch.no_grad():
        return model(
            hidden_states=given["x"],
            encoder_hidden_states=given["text"],
            timestep=given["t"] * 1000,
            encoder_attention_mask=given["text_mask"].double(),
            video_coords=positions,
            return_dict=False,
        )[0]


SHAPES = [
    pytest.param(TINY, id="padded-pairs"),  # 32 % 6 = 2
    pytest.param(
        LTXConfig(
            in_channels=4,
            out_channels=7,
            num_layers=2,
            num_heads=3,
            head_dim=16,
            caption_channels=9,
            norm_eps=1e-5,
        ),
        id="no-padding",  # 48 % 6 = 0
    ),
    pytest.param(
        LTXConfig(
            in_channels=3,
            out_channels=3,
            num_layers=3,
            num_heads=4,
            head_dim=10,
            caption_channels=8,
        ),
        id="two-padded-pairs",  # 40 % 6 = 4
    ),
]


@pytest.mark.parametrize("times", ["per_sample", "per_token"])
@pytest.mark.parametrize("config", SHAPES)
def test_computes_what_diffusers_computes(config: LTXConfig, times: str) -> None:
    theirs, given = reference(config), inputs(config)
    if times == "per_sample":
        given["t"] = given["t"][:, 0]
    ours = LTXDiT(config).double()
    ours.load_state_dict(from_published(theirs.state_dict()))
    with torch.no_grad():
        exact = ours(**given).velocity
    with single_precision_casts_lifted():
        expected = ask_reference(theirs, given)
    assert float(expected.abs().mean()) > 0.1
    assert float((exact - expected).abs().max()) < 1e-9
    # as shipped: its tables are made in single precision, ours follow the inputs' precision
    single = given | {"t": given["t"].float(), "positions": given["positions"].float()}
    with torch.no_grad():
        found = ours(**single).velocity
    assert float((found - ask_reference(theirs, single)).abs().max()) < 1e-6


def test_every_block_says_what_its_counterpart_says() -> None:
    theirs, given, heard = reference(TINY), inputs(), []
    ours = LTXDiT(TINY).double()
    ours.load_state_dict(from_published(theirs.state_dict()))
    for block in theirs.transformer_blocks:
        block.register_forward_hook(lambda module, _, output: heard.append(output))
    with single_precision_casts_lifted():
        ask_reference(theirs, given)
    with torch.no_grad():
        blocks = ours(**given, return_blocks=range(1, 5)).blocks
    assert sorted(blocks) == [1, 2, 3, 4]
    for index, expected in enumerate(heard, start=1):
        assert float((blocks[index] - expected).abs().max()) < 1e-9


def test_diffusers_computes_with_our_weights_what_we_compute() -> None:
    theirs, given = reference(TINY), inputs()
    ours = randomised(LTXDiT(TINY), seed=5)
    theirs.load_state_dict(to_published(ours.state_dict()))
    with single_precision_casts_lifted():
        expected = ask_reference(theirs, given)
    assert float((ours(**given).velocity - expected).detach().abs().max()) < 1e-9


@pytest.mark.parametrize("is_causal", [True, False])
def test_positions_are_those_of_the_public_pipelines(is_causal: bool) -> None:
    """The condition pipeline's coordinates are causal, those of the text pipeline are not."""
    fps, (frames, gh, gw) = 25, GRID
    ours = grid_positions(frames, gh, gw, fps, is_causal=is_causal)
    if is_causal:
        pipelines = pytest.importorskip("diffusers.pipelines.ltx.pipeline_ltx_condition")
        pipeline = pipelines.LTXConditionPipeline
        ids = pipeline._prepare_video_ids(1, frames, gh, gw)
        expected = pipeline._scale_video_ids(ids, frame_index=0).float()
        expected[:, 0] /= fps
        torch.testing.assert_close(ours, expected)
        assert ours[0, 0].unique().tolist() == pytest.approx([0, 1 / 25, 9 / 25])
    else:
        assert ours[0, 0].unique().tolist() == pytest.approx([0, 8 / 25, 16 / 25])
    assert ours[0, 1].unique().tolist() == [0, 32]
    assert ours[0, 2, :5].tolist() == [0, 32, 64, 96, 0]


def test_clips_of_different_rates_get_their_own_seconds() -> None:
    ours = grid_positions(*GRID, fps=torch.tensor([8.0, 10.0]))
    assert ours.shape == (2, 3, N)
    torch.testing.assert_close(ours[1:], grid_positions(*GRID, fps=10))
    with pytest.raises(ValueError, match="fps > 0"):
        grid_positions(*GRID, fps=0)


def test_the_default_is_ltx_video_2b() -> None:
    with torch.device("meta"):
        model = LTXDiT(LTXConfig())
    assert round(sum(p.numel() for p in model.parameters()) / 1e5) == 19_234  # 1,923.4 M


# --- time, condition


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([0.0, 0.0, 0.7, 0.7, 0.7, 0.7], [0.0, 0.7, 0.7]),
        ([0.5] * 6, [0.5]),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.7], [0.0, 0.0, 0.0, 0.0, 0.0, 0.7]),
        ([0.0, 0.0, 0.0, 0.7, 0.7, 0.7], [0.0, 0.7]),
    ],
)
def test_times_merge_to_the_largest_equal_groups(row: list[float], expected: list[float]) -> None:
    assert merge_times(torch.tensor([row])).tolist() == torch.tensor([expected]).tolist()
    both = merge_times(torch.tensor([row, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]]))
    assert both.tolist()[0] == torch.tensor(row).tolist()


def test_times_per_sample_frame_and_token_are_the_same_where_they_agree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, given = randomised(LTXDiT(SILENT)), inputs(SILENT)
    per_frame = torch.rand(2, 3, generator=seeded(3), dtype=torch.float64)
    per_frame[:, 0] = 0.0
    given["t"] = per_frame.repeat_interleave(8, dim=1)
    merged = model(**given)
    assert merged.time.shape[1] == 3
    given["t"] = per_frame
    torch.testing.assert_close(model(**given).velocity, merged.velocity)
    given["t"] = per_frame[:, 1]
    per_sample = model(**given).velocity
    given["t"] = per_frame[:, 1:2].expand(2, N)
    torch.testing.assert_close(model(**given).velocity, per_sample)
    monkeypatch.setattr("maskworld.backbones.ltx.merge_times", lambda t: t)
    given["t"] = per_frame.repeat_interleave(8, dim=1)
    unmerged = model(**given)
    assert unmerged.time.shape[1] == N
    torch.testing.assert_close(unmerged.velocity, merged.velocity)


def test_a_condition_counts_like_an_addition_to_the_embedded_time() -> None:
    model, given = randomised(LTXDiT(SILENT)), inputs(SILENT)
    plain = model(**given)
    per_frame = torch.randn(2, 3, SILENT.dim, generator=seeded(4)).double()
    found = model(**given, condition=per_frame)
    torch.testing.assert_close(found.time, plain.time + per_frame.repeat_interleave(8, dim=1))
    assert not torch.allclose(found.velocity, plain.velocity)
    zero = model(**given, condition=torch.zeros(2, 1, SILENT.dim).double())
    assert torch.equal(zero.velocity, plain.velocity)


def test_a_condition_per_frame_meets_a_time_per_sample() -> None:
    model, given = randomised(LTXDiT(SILENT)), inputs(SILENT)
    per_frame = torch.randn(2, 3, SILENT.dim, generator=seeded(4)).double()
    given["t"] = given["t"][:, 0]
    fast = model(**given, condition=per_frame).velocity
    given["t"] = given["t"][:, None].expand(2, N)
    slow = model(**given, condition=per_frame.repeat_interleave(8, dim=1)).velocity
    torch.testing.assert_close(fast, slow)


def test_groups_that_do_not_fit_the_tokens_are_refused() -> None:
    model, given = LTXDiT(SILENT).double(), inputs(SILENT)
    given["t"] = given["t"][:, :5]
    with pytest.raises(ValueError, match="per latent frame or per token"):
        model(**given)
    given["t"] = given["t"][:, :3]
    with pytest.raises(ValueError, match="per latent frame or per token"):
        model(**given, condition=torch.zeros(2, 5, SILENT.dim).double())


def test_conditions_and_times_in_groups_of_unlike_size_meet() -> None:
    """Times in 2 groups, conditions in 3: modulated in 6."""
    model, given = randomised(LTXDiT(SILENT)), inputs(SILENT)
    times = torch.rand(2, 2, generator=seeded(3), dtype=torch.float64)
    conditions = torch.randn(2, 3, SILENT.dim, generator=seeded(4)).double()
    found = model(**given | {"t": times}, condition=conditions)
    assert found.time.shape[1] == 6
    given["t"] = times.repeat_interleave(12, dim=1)
    expected = model(**given, condition=conditions.repeat_interleave(8, dim=1)).velocity
    torch.testing.assert_close(found.velocity, expected)


# --- text


def test_masked_text_is_not_read_and_views_share_the_text_of_their_scene() -> None:
    model, given = randomised(LTXDiT(TINY)), inputs()
    plain = model(**given).velocity
    changed = given["text"].clone()
    changed[0, 3:] = 100.0
    torch.testing.assert_close(model(**given | {"text": changed}).velocity, plain)
    changed[1, 3:] = 100.0
    assert not torch.allclose(model(**given | {"text": changed}).velocity[1], plain[1])


def test_a_row_of_masked_text_reads_nothing_and_stays_finite() -> None:
    model, given = randomised(LTXDiT(TINY)), inputs()
    given["text_mask"] = torch.zeros(2, 5, dtype=torch.bool)
    one = model(**given).velocity
    two = model(**given | {"text": given["text"] + 3}).velocity
    assert torch.isfinite(one).all()
    torch.testing.assert_close(one, two)


def test_text_where_there_is_no_branch_for_it_is_refused_and_the_reverse() -> None:
    with pytest.raises(ValueError, match="has_text False and text"):
        LTXDiT(SILENT).double()(**inputs(TINY))
    with pytest.raises(ValueError, match="has_text True and no text"):
        LTXDiT(TINY).double()(**inputs(SILENT))


def test_without_text_there_are_no_text_parameters() -> None:
    names = [name for name, _ in LTXDiT(SILENT).named_parameters()]
    assert not [name for name in names if "cross" in name or "caption" in name]


# --- views


def test_two_views_meet_only_in_every_third_block_from_the_first() -> None:
    """A change of one view's token reaches the other through blocks 1, 4, ... alone."""
    model, given = randomised(LTXDiT(SILENT)), inputs(SILENT, b=2)
    for index, block in enumerate(model.blocks, start=1):
        assert block.joins_views == (index in (1, 4))
    changed = given | {"x": given["x"].clone()}
    changed["x"][0] += 1
    x, z = (model(**g, num_views=2, last_block=1, return_blocks=[1]) for g in (given, changed))
    assert not torch.allclose(x.blocks[1][1], z.blocks[1][1])
    x, z = (model(**g) for g in (given, changed))
    assert torch.equal(x.velocity[1], z.velocity[1])
    block = model.blocks[1]
    table = torch.ones(1, N, SILENT.dim // 2, dtype=torch.complex128)
    hidden = torch.randn(2, 2, N, SILENT.dim, generator=seeded(2)).double()
    hidden[1, 1] = hidden[0, 1]
    modulation = torch.randn(2, 1, 6, SILENT.dim, generator=seeded(3)).double()
    one, two = (block(h, modulation, table, None, None, 2) for h in hidden)
    assert torch.equal(one[1], two[1])


def test_joined_attention_equals_attention_over_the_concatenated_views() -> None:
    config = LTXConfig(
        in_channels=6, out_channels=6, num_layers=1, num_heads=2, head_dim=16, caption_channels=12
    )
    model, given = randomised(LTXDiT(config)), inputs(config, b=4)
    scene_text = {"text": given["text"][:2], "text_mask": given["text_mask"][:2]}
    joined = model(**given | scene_text, num_views=2).velocity
    long = {
        "x": given["x"].reshape(2, 2 * N, -1),
        "t": given["t"].reshape(2, 2 * N),
        "positions": given["positions"].repeat(1, 1, 2),
    }
    expected = model(**long, **scene_text).velocity
    torch.testing.assert_close(joined, expected.reshape(4, N, -1))


def test_views_that_do_not_divide_the_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="scenes of 2 views"):
        LTXDiT(SILENT).double()(**inputs(SILENT, b=3), num_views=2)
    with pytest.raises(ValueError, match="one text per scene"):
        LTXDiT(TINY).double()(**inputs(TINY, b=2), num_views=2)


# --- blocks


def test_an_early_exit_gives_the_same_blocks_and_no_velocity() -> None:
    model, given = randomised(LTXDiT(TINY)), inputs()
    whole = model(**given, return_blocks=(2, 4))
    early = model(**given, return_blocks=(2,), last_block=2)
    assert sorted(whole.blocks) == [2, 4]
    assert early.velocity is None
    assert torch.equal(early.blocks[2], whole.blocks[2])
    torch.testing.assert_close(model.head(whole.blocks[4], whole.time), whole.velocity)


@pytest.mark.parametrize(("wanted", "last"), [((0,), None), ((5,), None), ((3,), 2), ((), 9)])
def test_blocks_out_of_range_are_refused(wanted: tuple[int, ...], last: int | None) -> None:
    with pytest.raises(ValueError, match="the network has 4"):
        LTXDiT(TINY).double()(**inputs(), return_blocks=wanted, last_block=last)


def test_checkpointing_changes_no_gradient_and_blocks_stay_differentiable() -> None:
    gradients = []
    for is_on in (False, True):
        model, given = randomised(LTXDiT(TINY)), inputs()
        model.gradient_checkpointing = is_on
        out = model(**given, return_blocks=(2,))
        (out.velocity.square().mean() + out.blocks[2].square().mean()).backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(g is not None for g in gradients[0])
    for one, two in zip(*gradients):
        torch.testing.assert_close(one, two)


def test_a_fresh_network_says_velocity_zero_and_its_head_learns_first() -> None:
    model, given = LTXDiT(SILENT).double(), inputs(SILENT)
    out = model(**given).velocity
    assert torch.equal(out, torch.zeros_like(out))
    (out - 1).square().mean().backward()
    assert float(model.head.project.weight.grad.abs().max()) > 0


def test_an_extra_head_reads_a_block_and_the_embedded_time() -> None:
    model, given = LTXDiT(SILENT).double(), inputs(SILENT)
    out = model(**given, return_blocks=(2,))
    silent = VelocityHead(SILENT.dim, 6).double()
    assert torch.equal(silent(out.blocks[2], out.time), torch.zeros(2, N, 6).double())
    loud = VelocityHead(SILENT.dim, 6, is_zero_init=False).double()
    one, two = (loud(out.blocks[2], time) for time in (out.time, out.time + 1))
    assert not torch.allclose(one, two)


def test_order_of_tokens_does_not_matter_when_positions_and_times_follow() -> None:
    model, given = randomised(LTXDiT(TINY)), inputs()
    order = torch.randperm(N, generator=seeded(2))
    shuffled = given | {
        "x": given["x"][:, order],
        "t": given["t"][:, order],
        "positions": given["positions"][:, :, order],
    }
    torch.testing.assert_close(model(**shuffled).velocity, model(**given).velocity[:, order])


def test_half_precision_stays_close_and_keeps_its_dtype() -> None:
    model, given = randomised(LTXDiT(TINY)), inputs()
    expected = model(**given).velocity
    half = {
        name: value.bfloat16() if name in ("x", "text") else value for name, value in given.items()
    }
    half["t"] = given["t"].float()
    found = model.bfloat16()(**half).velocity
    assert found.dtype == torch.bfloat16
    error = (found - expected).detach().abs().mean()
    assert float(error) < 0.03 * float(expected.detach().abs().mean())


@pytest.mark.filterwarnings("error:Mismatch dtype")
def test_mixed_precision_training_stays_close_and_reaches_every_parameter() -> None:
    model, given = randomised(LTXDiT(TINY)).float(), inputs()
    given = {k: v.float() if v.is_floating_point() else v for k, v in given.items()}
    expected = model(**given).velocity.detach()
    with torch.autocast("cpu", torch.bfloat16):
        found = model(**given).velocity
    found.float().square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    error = (found - expected).detach().abs().mean()
    assert float(error) < 0.03 * float(expected.abs().mean())
