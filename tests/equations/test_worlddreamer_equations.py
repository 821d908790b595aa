"""One test per numbered equation of WorldDreamer (arXiv 2401.09985), each against slow code."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
)
from maskworld.conditioning.text import SmallTextConfig
from maskworld.guidance import extrapolate
from maskworld.masking import MaskMixture
from maskworld.objectives.masked_cross_entropy import masked_cross_entropy
from maskworld.systems.worlddreamer import WorldDreamer, WorldDreamerConfig
from maskworld.tokenizers.patch import PatchTokenizerConfig
from maskworld.types import Batch, Prompt

VOCAB, STRIDE = 9, 16


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class FixedMask(MaskMixture):
    """Hides every third position."""

    def sample(self, shape: tuple[int, int, int, int], generator: torch.Generator) -> Tensor:
        hidden = torch.arange(shape[0] * shape[1] * shape[2] * shape[3]) % 3 == 0
        return hidden.view(shape)


def system() -> WorldDreamer:
    torch.manual_seed(0)
    backbone = STPTConfig(
        vocab_size=VOCAB, dim=8, num_layers=2, num_heads=2, ffn_dim=12, num_conv_blocks=1
    )
    config = WorldDreamerConfig(
        backbone=backbone,
        tokenizer=PatchTokenizerConfig(patch_size=STRIDE, num_components=4, vocab_size=VOCAB),
        text=SmallTextConfig(num_buckets=64, dim=8, max_words=6, num_heads=2),
        masks=FixedMask(),
        p_drop_prompt=0.0,
        num_frames=3,
    )
    model = WorldDreamer(config)
    model.tokenizer.fit(random_frames(), seeded())
    return model


def random_frames() -> Tensor:
    """N = 3 frames of 32 x 64 pixels, two clips of them."""
    shape = (6, 3, 32, 64)
    return torch.randint(256, shape, generator=seeded(1), dtype=torch.uint8)


def batch() -> Batch:
    return Batch(
        frames=random_frames().view(2, 1, 3, 3, 32, 64),
        actions=torch.randn(2, 3, 2, generator=seeded(2)),
        has_actions=torch.tensor([True, True]),
        captions=["a night", "left"],
        fps=torch.ones(2),
    )


def test_eq_1_tokens_are_codes_of_every_frame_alone_16_times_smaller() -> None:
    """V = F_v(I): N x H x W x 3 pixels to N x H/16 x W/16 codes."""
    model = system()
    frames = batch().frames
    assert frames is not None
    tokens = model.tokenize(frames)
    assert tokens.shape == (2, 1, 3, 32 // STRIDE, 64 // STRIDE)
    assert tokens.min() >= 0
    assert tokens.max() < VOCAB, "the mask code is none of the tokenizer's"
    order = [2, 0, 1]
    assert torch.equal(model.tokenize(frames[:, :, order]), tokens[:, :, order])
    single = [model.tokenizer.encode(f[None] / 127.5 - 1) for f in random_frames().float()]
    assert torch.equal(torch.cat(single).view_as(tokens), tokens)


def test_eq_2_loss_is_minus_log_p_of_masked_given_unmasked_tokens_and_prompt() -> None:
    """L = -log p(masked | unmasked, E_M), here token by token."""
    model, data = system(), batch()
    loss = model.training_loss(data, "video", seeded()).total
    assert data.frames is not None
    tokens = model.tokenize(data.frames)[:, 0]
    hidden = FixedMask().sample((2, 3, 2, 4), seeded())
    prompt = model.embed_prompt(Prompt(data.captions, data.actions, fps=data.fps), 2, 3)
    visible_only = torch.where(hidden, 0, tokens)
    features = model.backbone.features(visible_only, hidden, prompt)
    terms = []
    for b, t, y, x in hidden.nonzero().tolist():
        p = model.backbone.logits(features[b, t, y, x][None])[0].softmax(dim=-1)
        terms.append(-p[tokens[b, t, y, x]].log())
    torch.testing.assert_close(loss, torch.stack(terms).mean())
    # Every condition counts: the prompt and the visible tokens.
    other = replace(data, captions=["day", "right"])
    assert not torch.equal(model.training_loss(other, "video", seeded()).total, loss)
    other = replace(data, actions=-torch.ones(2, 3, 2))
    assert not torch.equal(model.training_loss(other, "video", seeded()).total, loss)


@pytest.mark.parametrize("partition", ["block", "dilated"])
def test_eq_3_patchwise_attention_is_full_attention_masked_to_the_patches(
    partition: Literal["block", "dilated"],
) -> None:
    """E_P = G_s^-1(F_st(G_s(E_P))), s = 2: every patch attends over all N frames of itself."""
    torch.manual_seed(0)
    n, h, w, s = 3, 4, 6, 2
    layer = RegionAttention(8, 2, s, partition).double()
    x = torch.randn(2, n, h, w, 8, generator=seeded(), dtype=torch.float64)
    y, x_ = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    if partition == "block":
        patch = (y // (h // s)) * s + x_ // (w // s)
    else:
        patch = (y % s) * s + x_ % s
    patch = patch.flatten().repeat(n)
    same_patch = patch[:, None] == patch[None]
    assert same_patch.sum(dim=1).unique().tolist() == [n * h * w // s**2], "Nhw / s^2 tokens"
    q, k, v = layer.attention.qkv(x.flatten(1, 3)).chunk(3, dim=-1)
    heads = []
    for i in (slice(0, 4), slice(4, 8)):
        scores = q[..., i] @ k[..., i].transpose(1, 2) / 4**0.5
        heads.append(scores.masked_fill(~same_patch, -torch.inf).softmax(dim=-1) @ v[..., i])
    slow = layer.attention.out(torch.cat(heads, dim=-1)).view_as(x)
    torch.testing.assert_close(layer(x), slow)


def test_eq_4_cross_attention_regards_frames_as_batch() -> None:
    """E_V = F_c(E_V, E_M) with E_M in N x (K + 1) x C_V: the text repeated, one action a frame."""
    torch.manual_seed(0)
    b, n, h, w, k, dim = 2, 3, 2, 4, 5, 8
    layer = PromptCrossAttention(dim, 2).double()
    x, text, actions = (
        torch.randn(*shape, generator=seeded(i), dtype=torch.float64)
        for i, shape in enumerate([(b, n, h, w, dim), (b, k, dim), (b, n, dim)])
    )
    e_m = torch.cat([text[:, None].expand(b, n, k, dim), actions[:, :, None]], dim=2)
    assert e_m.shape == (b, n, k + 1, dim)
    memory = e_m.flatten(0, 1)
    key, value = layer.key_value(memory).chunk(2, dim=-1)
    query = layer.query(x.view(b * n, h * w, dim))
    slow = torch.zeros_like(query)
    for i in (slice(0, 4), slice(4, 8)):
        scores = query[..., i] @ key[..., i].transpose(1, 2) / 4**0.5
        slow[..., i] = scores.softmax(dim=-1) @ value[..., i]
    prompt = PromptEmbedding(text, torch.ones(b, k, dtype=torch.bool), actions)
    torch.testing.assert_close(layer(x, prompt), layer.out(slow).view_as(x))


def test_eq_5_cross_entropy_over_the_codebook_on_masked_tokens_only() -> None:
    """L_ce(T_V, P_STPT(...)): the same as a full head whose visible tokens are ignored."""
    torch.manual_seed(0)
    config = STPTConfig(vocab_size=VOCAB, dim=8, num_layers=1, num_heads=2, ffn_dim=12)
    model = STPT(config)
    assert model.embedding.num_embeddings == VOCAB + 1, "8193 embeddings at full size"
    tokens = torch.randint(VOCAB, (2, 3, 4, 4), generator=seeded())
    hidden = torch.rand(tokens.shape, generator=seeded()) < 0.5
    prompt = PromptEmbedding(
        torch.randn(2, 1, 8), torch.ones(2, 1, dtype=torch.bool), torch.randn(2, 3, 8)
    )
    logits = model(tokens, hidden, prompt)
    loss = masked_cross_entropy(logits, tokens[hidden])
    full = model.logits(model.features(tokens, hidden, prompt).flatten(0, 3))
    assert full.shape[-1] == VOCAB, "the mask code is never predicted"
    targets = torch.where(hidden, tokens, -1).flatten()
    torch.testing.assert_close(loss, F.cross_entropy(full, targets, ignore_index=-1))
    # A perfect and a uniform prediction.
    perfect = 1e4 * F.one_hot(tokens[hidden], VOCAB).float()
    assert masked_cross_entropy(perfect, tokens[hidden]) == 0
    uniform = masked_cross_entropy(torch.zeros_like(perfect), tokens[hidden])
    torch.testing.assert_close(uniform, torch.tensor(float(VOCAB)).log())


@pytest.mark.parametrize("beta", [0.0, 0.5, 3.0, 9.0])
def test_eq_6_guided_logits_are_one_plus_beta_c_minus_beta_u(beta: float) -> None:
    """g = (1 + beta) c - beta u for every masked token, in the formula and in the system."""
    c, u = torch.randn(2, 6, VOCAB, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(extrapolate(u, c, 1 + beta), (1 + beta) * c - beta * u)

    model = system()
    tokens = torch.randint(VOCAB, (2, 3, 2, 4), generator=seeded())
    hidden = FixedMask().sample((2, 3, 2, 4), seeded())
    prompt = Prompt(text=["night", "a car left"], actions=torch.ones(2, 3, 2))
    with torch.no_grad():
        g = model.guided_model(prompt, 2, 3, 1 + beta)(tokens, hidden)
        c = model.backbone(tokens, hidden, model.embed_prompt(prompt, 2, 3))
        u = model.backbone(tokens, hidden, model.embed_prompt(Prompt(), 2, 3))
    assert g.shape == (int(hidden.sum()), VOCAB)
    torch.testing.assert_close(g, (1 + beta) * c - beta * u, atol=1e-4, rtol=1e-4)
