"""Claims about maskworld.backbones.stpt."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maskworld.backbones.stpt import (
    STPT,
    PromptCrossAttention,
    PromptEmbedding,
    RegionAttention,
    STPTConfig,
    STPTLayer,
    fold_prompt,
    from_regions,
    last_visible,
    modulate,
    to_regions,
)

PartitionName = Literal["block", "dilated"]
TINY = STPTConfig(
    vocab_size=11, dim=8, num_layers=2, num_heads=2, ffn_dim=12, num_conv_blocks=1, max_side=16
)
FAST = STPTConfig(dim=1280, num_layers=36, num_heads=20, ffn="gelu", ffn_dim=5120, conv="depthwise")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_prompt(b: int, t: int, k: int = 3, dim: int = 8, seed: int = 1) -> PromptEmbedding:
    g = seeded(seed)
    mask = torch.ones(b, k, dtype=torch.bool)
    mask[0, -1] = False
    text = torch.randn(b, k, dim, generator=g, dtype=torch.float64)
    return PromptEmbedding(text, mask, torch.randn(b, t, dim, generator=g, dtype=torch.float64))


def random_tokens(shape: tuple[int, ...], p_hidden: float = 0.5) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(TINY.vocab_size, shape, generator=seeded(2))
    return tokens, torch.rand(shape, generator=seeded(3)) < p_hidden


def build(config: STPTConfig) -> STPT:
    torch.manual_seed(0)
    model = STPT(config).double()
    for p in model.parameters():  # zero-started weights would hide mistakes
        if not p.any():
            torch.nn.init.normal_(p, std=0.3)
    return model


def region_of(y: int, x: int, h: int, w: int, s: int, partition: str) -> tuple[int, int]:
    """Which region a cell belongs to, by definition; h and w already padded."""
    return (y * s // h, x * s // w) if partition == "block" else (y % s, x % s)


@pytest.mark.parametrize("partition", ["block", "dilated"])
@pytest.mark.parametrize(
    ("t", "h", "w", "s"),
    [(3, 4, 6, 2), (2, 6, 6, 3), (2, 5, 7, 2), (1, 3, 4, 2), (2, 1, 5, 4), (2, 4, 4, 1)],
)
def test_region_attention_equals_masked_full_attention(
    t: int, h: int, w: int, s: int, partition: PartitionName
) -> None:
    torch.manual_seed(0)
    layer = RegionAttention(8, 2, s, partition).double()
    x = torch.randn(2, t, h, w, 8, generator=seeded(), dtype=torch.float64)
    height, width = h + -h % s, w + -w % s
    cells = list(itertools.product(range(t), range(h), range(w)))
    region = [region_of(y, x_, height, width, s, partition) for _, y, x_ in cells]
    allowed = torch.tensor([[a == b for b in region] for a in region])
    slow = layer.attention(x.flatten(1, 3), allowed).view_as(x)
    torch.testing.assert_close(layer(x), slow)


def test_padding_of_odd_grids_gives_finite_gradients() -> None:
    layer = RegionAttention(8, 2, 4, "block").double()
    x = torch.randn(1, 2, 1, 5, 8, generator=seeded(), dtype=torch.float64, requires_grad=True)
    layer(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("partition", ["block", "dilated"])
def test_regions_round_trip(partition: PartitionName) -> None:
    x = torch.arange(2 * 3 * 4 * 6 * 5).view(2, 3, 4, 6, 5).double()
    regions = to_regions(x, 2, partition)
    assert regions.shape == (2 * 4, 3 * 2 * 3, 5)
    assert torch.equal(from_regions(regions, (2, 3, 4, 6), 2, partition), x)


def test_block_regions_are_contiguous_and_dilated_ones_are_strided() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4, 1)
    assert to_regions(x, 2, "block")[0, :, 0].tolist() == [0, 1, 4, 5]
    assert to_regions(x, 2, "dilated")[0, :, 0].tolist() == [0, 2, 8, 10]


def test_alternate_partition_lets_every_token_reach_every_other_in_two_layers() -> None:
    # Two cells share the block of one and the dilation class of the other, in both grids of 4.
    for partition, reaches_all in (("block", False), ("alternate", True), ("full", True)):
        model = build(replace(TINY, conv="none", num_conv_blocks=0, partition=partition))
        embedded = torch.randn(1, 2, 4, 4, 8, dtype=torch.float64, requires_grad=True)
        x: Tensor = embedded
        for layer in model.layers:
            x = layer(x, random_prompt(1, 2))
        (gradient,) = torch.autograd.grad(x[0, 1, 3, 3].sum(), embedded)
        assert bool((gradient.abs().sum(dim=-1) > 0).all()) is reaches_all, partition


def test_text_keys_computed_once_equal_those_repeated_for_every_frame() -> None:
    torch.manual_seed(0)
    layer = PromptCrossAttention(8, 2).double()
    x = torch.randn(2, 3, 2, 4, 8, generator=seeded(), dtype=torch.float64)
    prompt = random_prompt(2, 3)
    slow = torch.empty_like(x)
    for b, t in itertools.product(range(2), range(3)):
        words = prompt.text[b][prompt.text_mask[b]]
        memory = torch.cat([words, prompt.actions[b, t][None]])  # E_M of this frame
        key, value = layer.key_value(memory).chunk(2, dim=-1)
        query = layer.query(x[b, t].flatten(0, 1))
        heads = []
        for q, k, v in zip(query.chunk(2, -1), key.chunk(2, -1), value.chunk(2, -1)):
            heads.append((q @ k.T / 4**0.5).softmax(dim=-1) @ v)
        slow[b, t] = layer.out(torch.cat(heads, dim=-1)).view(2, 4, 8)
    torch.testing.assert_close(layer(x, prompt), slow)


def test_masked_words_do_not_matter() -> None:
    model = build(TINY)
    tokens, hidden = random_tokens((2, 3, 4, 4))
    prompt = random_prompt(2, 3)
    noise = torch.where(prompt.text_mask[..., None], prompt.text, 100.0)
    changed = PromptEmbedding(noise, prompt.text_mask, prompt.actions)
    torch.testing.assert_close(model(tokens, hidden, prompt), model(tokens, hidden, changed))
    seen = PromptEmbedding(noise, torch.ones_like(prompt.text_mask), prompt.actions)
    assert not torch.allclose(model(tokens, hidden, prompt), model(tokens, hidden, seen))


def test_head_on_hidden_positions_equals_the_full_head_gathered() -> None:
    for config in (TINY, replace(TINY, tie_head=True, downsample=True)):
        model = build(config)
        tokens, hidden = random_tokens((2, 3, 4, 6))
        prompt = random_prompt(2, 3)
        logits = model(tokens, hidden, prompt)
        assert logits.shape == (int(hidden.sum()), TINY.vocab_size), "the mask code is no class"
        full = model.logits(model.features(tokens, hidden, prompt).flatten(0, 3))
        torch.testing.assert_close(logits, full.view(2, 3, 4, 6, -1)[hidden])


VARIANTS = [
    TINY,
    replace(TINY, carry_forward=True, position="learned", action_modulation=True),
    replace(TINY, conv="separable", partition="alternate", tie_head=True, carry_forward=True),
    replace(TINY, conv="depthwise", partition="dilated", ffn="gelu", downsample=True),
]


@pytest.mark.parametrize("config", VARIANTS)
@pytest.mark.parametrize("is_image", [False, True])
def test_codes_at_hidden_positions_change_no_logit(config: STPTConfig, is_image: bool) -> None:
    model = build(config)
    tokens, hidden = random_tokens((2, 4, 4, 6))
    hidden[:, 0, 0] = True  # some places are hidden from the first frame on
    other = torch.randint(TINY.vocab_size, tokens.shape, generator=seeded(7))
    prompt = random_prompt(2, 4)
    swapped = torch.where(hidden, other, tokens)
    assert torch.equal(
        model(tokens, hidden, prompt, is_image), model(swapped, hidden, prompt, is_image)
    )
    visible = torch.where(hidden, tokens, other)
    assert not torch.allclose(
        model(tokens, hidden, prompt, is_image), model(visible, hidden, prompt, is_image)
    )


@pytest.mark.parametrize("attention", ["block_diagonal", "identity"])
@pytest.mark.parametrize("config", VARIANTS)
def test_images_do_not_see_each_other(
    config: STPTConfig, attention: Literal["block_diagonal", "identity"]
) -> None:
    model = build(replace(config, image_attention=attention))
    tokens, hidden = random_tokens((1, 3, 4, 4))
    hidden[0, :, 0, 0] = True
    prompt = random_prompt(1, 3)
    before = torch.zeros(1, 3, 4, 4, TINY.vocab_size, dtype=torch.float64)
    after = before.clone()
    before[hidden] = model(tokens, hidden, prompt, is_image=True)
    tokens[0, 1] = (tokens[0, 1] + 1) % TINY.vocab_size
    after[hidden] = model(tokens, hidden, prompt, is_image=True)
    assert torch.equal(before[0, [0, 2]], after[0, [0, 2]])
    assert not torch.allclose(before[0, 1], after[0, 1])
    as_video = model(tokens, hidden, prompt)
    assert not torch.allclose(after[hidden], as_video), "a video's frames do see each other"


def test_folding_images_equals_block_diagonal_attention() -> None:
    # Without the 3-D convolution the only path between frames is the attention.
    model = build(replace(TINY, conv="none"))
    tokens, hidden = random_tokens((2, 3, 4, 4))
    prompt = random_prompt(2, 3)
    folded = model(tokens, hidden, prompt, is_image=True)

    frame = torch.arange(3).repeat_interleave(4)  # of each token of a region, t h w flattened
    same_image = frame[:, None] == frame[None]
    for layer in model.layers:
        attention = layer.attention.attention
        plain = type(attention).forward
        attention.forward = lambda x, _=None, a=attention, f=plain: f(a, x, same_image)
    torch.testing.assert_close(folded, model(tokens, hidden, prompt))


def test_conv_of_a_single_frame_is_the_2d_conv_of_its_centre_slice() -> None:
    layer = build(TINY).layers[0]
    x = torch.randn(2, 1, 4, 5, 8, dtype=torch.float64)
    weight = layer.conv.conv.weight[:, :, 1]
    slow = F.conv2d(x[:, 0].permute(0, 3, 1, 2), weight, layer.conv.conv.bias, padding=1)
    torch.testing.assert_close(layer.conv(x)[:, 0], slow.permute(0, 2, 3, 1))


def test_identity_attention_passes_every_token_its_own_value() -> None:
    layer = RegionAttention(8, 2, 2, "block").double()
    x = torch.randn(2, 3, 4, 4, 8, dtype=torch.float64)
    attention = layer.attention
    expected = attention.out(F.linear(x, attention.qkv.weight[16:]))
    torch.testing.assert_close(layer(x, identity=True), expected)
    # The same through attention itself, with a diagonal mask.
    diagonal = torch.eye(48, dtype=torch.bool)
    masked = attention(x.flatten(1, 3), diagonal).view_as(x)
    torch.testing.assert_close(layer(x, identity=True), masked)


def test_identity_attention_is_for_images_only() -> None:
    tokens, hidden = random_tokens((1, 3, 4, 4))
    prompt = random_prompt(1, 3)
    models = [build(replace(TINY, image_attention=a)) for a in ("block_diagonal", "identity")]
    video = [m(tokens, hidden, prompt) for m in models]
    image = [m(tokens, hidden, prompt, is_image=True) for m in models]
    assert torch.equal(*video)
    assert not torch.allclose(*image)


@pytest.mark.parametrize("attention", ["block_diagonal", "identity"])
def test_every_image_may_have_its_own_text(
    attention: Literal["block_diagonal", "identity"],
) -> None:
    model = build(replace(TINY, image_attention=attention))
    tokens, hidden = random_tokens((2, 3, 4, 4))
    shared = random_prompt(2, 3)
    each = fold_prompt(shared, 3)
    per_image = PromptEmbedding(each.text, each.text_mask, shared.actions)
    assert per_image.text.shape[0] == 6
    torch.testing.assert_close(
        model(tokens, hidden, shared, is_image=True),
        model(tokens, hidden, per_image, is_image=True),
    )


def test_last_visible_equals_a_loop_over_frames() -> None:
    tokens, hidden = random_tokens((3, 5, 4, 6))
    token, age = last_visible(tokens, hidden)
    for b, t, y, x in itertools.product(range(3), range(5), range(4), range(6)):
        seen = [f for f in range(t + 1) if not hidden[b, f, y, x]]
        expected = (int(tokens[b, seen[-1], y, x]), t - seen[-1]) if seen else (0, -1)
        assert (int(token[b, t, y, x]), int(age[b, t, y, x])) == expected


def test_carry_tells_a_hidden_token_what_was_last_seen_in_its_place() -> None:
    model = build(replace(TINY, carry_forward=True))
    tokens = torch.randint(TINY.vocab_size, (1, 3, 2, 2), generator=seeded())
    hidden = torch.ones_like(tokens, dtype=torch.bool)
    hidden[:, 0] = False
    x = model.embed(tokens, hidden)
    mask_code = model.embedding.weight[TINY.vocab_size]
    expected = mask_code + model.embedding(tokens[:, 0]) + model.age.weight[2]
    torch.testing.assert_close(x[:, 2], expected)
    torch.testing.assert_close(x[:, 0], model.embedding(tokens[:, 0]))


def test_action_modulation_starts_as_identity_and_scales_every_sublayer_but_cross() -> None:
    torch.manual_seed(0)
    layer = STPTLayer(replace(TINY, action_modulation=True), 0).double()
    x = torch.randn(1, 2, 4, 4, 8, dtype=torch.float64)
    prompt, other = random_prompt(1, 2), random_prompt(1, 2, seed=5)
    same_cross = PromptEmbedding(prompt.text, prompt.text_mask, other.actions)
    layer.cross.out.weight.data.zero_()  # leave modulation as the actions' only way in
    assert torch.equal(layer(x, prompt), layer(x, same_cross))
    for part in range(6):
        layer.modulation.weight.data.zero_()
        layer.modulation.weight.data[8 * part : 8 * part + 8].normal_()
        assert not torch.allclose(layer(x, prompt), layer(x, same_cross)), part
    assert torch.equal(modulate(x, None, None), x)


def test_actions_of_a_frame_act_through_cross_attention_on_that_frame() -> None:
    layer = PromptCrossAttention(8, 2).double()
    x = torch.randn(1, 3, 2, 2, 8, dtype=torch.float64)
    prompt = random_prompt(1, 3)
    actions = prompt.actions.clone()
    actions[:, 1] += 1
    moved = layer(x, PromptEmbedding(prompt.text, prompt.text_mask, actions)) - layer(x, prompt)
    assert (moved.flatten(2).abs().amax(dim=2)[0] > 1e-6).tolist() == [False, True, False]


def test_gradient_checkpointing_changes_no_gradient() -> None:
    tokens, hidden = random_tokens((1, 2, 4, 4))
    gradients = []
    for flag in (False, True):
        model = build(replace(TINY, gradient_checkpointing=flag)).train()
        prompt = random_prompt(1, 2)
        prompt.text.requires_grad_()
        model(tokens, hidden, prompt).logsumexp(dim=-1).sum().backward()
        gradients.append([prompt.text.grad, *(p.grad for p in model.parameters())])
    for one, two in zip(*gradients):
        torch.testing.assert_close(one, two)


def test_skip_carries_full_resolution_over_the_downsampled_transformer() -> None:
    model = build(replace(TINY, downsample=True))
    tokens, hidden = random_tokens((1, 2, 4, 6))
    model.up.weight.data.zero_()
    model.up.bias.data.zero_()
    x = model.embedding_norm(model.embed(tokens, hidden))
    for block in [*model.down_blocks, *model.up_blocks]:
        x = block(x.flatten(0, 1)).view_as(x)
    torch.testing.assert_close(model.features(tokens, hidden, random_prompt(1, 2)), x)


@pytest.mark.parametrize("config", VARIANTS)
def test_gradient_reaches_every_parameter(config: STPTConfig) -> None:
    model = build(config)
    tokens, hidden = random_tokens((2, 4, 4, 6))
    model(tokens, hidden, random_prompt(2, 4)).logsumexp(dim=-1).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_grids_that_do_not_fit_are_refused() -> None:
    tokens, hidden = random_tokens((1, 2, 3, 4))
    with pytest.raises(ValueError, match="even token grid"):
        build(replace(TINY, downsample=True))(tokens, hidden, random_prompt(1, 2))
    small = build(replace(TINY, position="learned", max_side=3))
    with pytest.raises(ValueError, match="max_side"):
        small(tokens, hidden, random_prompt(1, 2))
    with pytest.raises(ValueError, match="divisible by num_heads"):
        STPTConfig(dim=10, num_heads=4)


def num_parameters(config: STPTConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in STPT(config).parameters())


def test_paper_and_fast_configs_have_one_billion_parameters() -> None:
    paper, fast = num_parameters(STPTConfig()), num_parameters(FAST)
    print(f"paper: {paper:,} parameters; fast: {fast:,}")
    assert paper == 1_066_199_040
    assert fast == 1_047_007_232


def test_parameter_count_of_the_paper_config_is_what_its_parts_add_up_to() -> None:
    d, ffn, vocab = 1024, 2816, 8192
    layer = (27 * d * d + d) + 4 * d * d + 4 * d * d + 3 * d * ffn + 4 * 2 * d
    block = (9 * d + d) + 2 * d + 2 * 4 * d * d + 5 * d
    rest = (vocab + 1) * d + 2 * d + 2 * d + (d * d + d) + vocab * d + vocab
    assert num_parameters(STPTConfig()) == 22 * layer + 6 * block + rest


@pytest.mark.slow
@pytest.mark.parametrize("config", [STPTConfig(), FAST], ids=["paper", "fast"])
def test_two_layers_at_full_width_take_a_training_step(config: STPTConfig) -> None:
    torch.manual_seed(0)
    config = replace(config, num_layers=2, num_conv_blocks=1)
    model = STPT(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    tokens = torch.randint(config.vocab_size, (1, 2, 4, 4), generator=seeded())
    hidden = torch.rand(tokens.shape, generator=seeded()) < 0.6
    prompt = PromptEmbedding(
        torch.randn(1, 3, config.dim),
        torch.ones(1, 3, dtype=torch.bool),
        torch.randn(1, 2, config.dim),
    )
    losses = []
    for _ in range(2):
        loss = F.cross_entropy(model(tokens, hidden, prompt), tokens[hidden])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
