"""Claims about maskworld.systems.worlddreamer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from maskworld.backbones.stpt import STPTConfig
from maskworld.conditioning.text import SmallTextConfig
from maskworld.masking import MaskMixture
from maskworld.samplers.parallel import ParallelDecoding, decode_parallel
from maskworld.systems.worlddreamer import (
    TASKS,
    WorldDreamer,
    WorldDreamerConfig,
    region_of_pixels,
    task_mask,
)
from maskworld.tokenizers.patch import PatchTokenizerConfig
from maskworld.tokenizers.token_grid import TokenGridConfig
from maskworld.types import Batch, Clip, Prompt, collate

BACKBONE = STPTConfig(
    vocab_size=13,
    dim=16,
    num_layers=2,
    num_heads=2,
    ffn_dim=24,
    conv="depthwise",
    num_conv_blocks=1,
)
TEXT = SmallTextConfig(num_buckets=64, dim=8, max_words=6, num_heads=2)
TINY = WorldDreamerConfig(
    backbone=BACKBONE,
    tokenizer=TokenGridConfig(vocab_size=13),
    text=TEXT,
    num_frames=4,
    p_drop_prompt=0.0,
)
SMALL_OPTIONS = replace(
    TINY,
    backbone=replace(
        BACKBONE, carry_forward=True, action_modulation=True, position="learned", tie_head=True
    ),
    integrate_actions=True,
)
PIXELS = PatchTokenizerConfig(patch_size=4, num_components=4, vocab_size=13, decoder="conv")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(config: WorldDreamerConfig = TINY) -> WorldDreamer:
    torch.manual_seed(0)
    model = WorldDreamer(config)
    for p in model.parameters():  # zero-started weights would hide mistakes
        if not p.any():
            torch.nn.init.normal_(p, std=0.3)
    return model


def random_tokens(b: int, t: int, h: int = 3, w: int = 4) -> Tensor:
    return torch.randint(13, (b, t, h, w), generator=seeded(1))


def batch_of(b: int = 2, t: int = 4, is_image: bool = False) -> Batch:
    tokens = random_tokens(b, t)
    actions = torch.randn(b, t, 2, generator=seeded(2))
    return collate(
        [
            Clip(
                tokens=tokens[i, None],
                actions=None if is_image else actions[i],
                caption=f"clip {i} at night",
                is_image=is_image,
            )
            for i in range(b)
        ]
    )


def logits_of(model: WorldDreamer, prompt: Prompt, tokens: Tensor, hidden: Tensor) -> Tensor:
    embedded = model.embed_prompt(prompt, *tokens.shape[:2])
    return model.backbone(tokens, hidden, embedded)


# ------------------------------------------------------------------------------- conditioning


@pytest.mark.parametrize("config", [TINY, SMALL_OPTIONS])
def test_an_empty_prompt_equals_a_dropped_one(config: WorldDreamerConfig) -> None:
    model = build(config)
    tokens = random_tokens(2, 4)
    hidden = torch.rand(tokens.shape, generator=seeded()) < 0.6
    prompt = Prompt(text=["a night", "left"], actions=torch.ones(2, 4, 2))
    everyone, no_one = torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)

    def run(prompt: Prompt, *drops: Tensor) -> Tensor:
        return model.backbone(tokens, hidden, model.embed_prompt(prompt, 2, 4, *drops))

    empty = run(Prompt())
    for other in (
        run(prompt, everyone, everyone),
        run(Prompt(text=["", ""], actions=torch.ones(2, 4, 2), has_actions=no_one)),
        run(Prompt(text=[""])),
        run(Prompt(text=["night"]), everyone, no_one),
    ):
        torch.testing.assert_close(other, empty)
    full = run(prompt, no_one, no_one)
    for other in (empty, run(prompt, everyone, no_one), run(prompt, no_one, everyone)):
        assert not torch.allclose(other, full)


def test_dropping_one_sample_leaves_the_others_alone() -> None:
    model = build()
    tokens, hidden = random_tokens(2, 4), torch.ones(2, 4, 3, 4, dtype=torch.bool)
    prompt = Prompt(text=["a night", "left"], actions=torch.ones(2, 4, 2))
    first = torch.tensor([True, False])
    dropped = model.embed_prompt(prompt, 2, 4, first, first)
    a, b = model.backbone(tokens, hidden, dropped).chunk(2)
    empty, _ = logits_of(model, Prompt(), tokens, hidden).chunk(2)
    _, full = logits_of(model, prompt, tokens, hidden).chunk(2)
    torch.testing.assert_close(a, empty)
    torch.testing.assert_close(b, full)


def test_one_text_serves_the_whole_batch() -> None:
    model = build()
    tokens, hidden = random_tokens(3, 4), torch.ones(3, 4, 3, 4, dtype=torch.bool)
    one, three = (Prompt(text=["night"] * n) for n in (1, 3))
    torch.testing.assert_close(
        logits_of(model, one, tokens, hidden), logits_of(model, three, tokens, hidden)
    )


def test_prompts_of_another_batch_do_not_pad_into_each_other() -> None:
    model = build()
    tokens, hidden = random_tokens(2, 4), torch.ones(2, 4, 3, 4, dtype=torch.bool)
    short = logits_of(model, Prompt(text=["night", "left"]), tokens, hidden).chunk(2)[0]
    long = logits_of(model, Prompt(text=["night", "a long way left"]), tokens, hidden).chunk(2)[0]
    torch.testing.assert_close(short, long)


@pytest.mark.parametrize(
    ("prompt", "match"),
    [
        (Prompt(text=["one", "two", "three"]), "one per sample"),
        (Prompt(actions=torch.ones(2, 3, 2)), "one action per frame"),
        (Prompt(actions=torch.ones(2, 4, 5)), "one action per frame"),
        (Prompt(actions=torch.full((2, 4, 2), torch.nan)), "NaN"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(prompt: Prompt, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build().embed_prompt(prompt, 2, 4)


def test_system_without_text_and_actions_ignores_both() -> None:
    model = build(replace(TINY, text=None, action_dim=0, action_scale=()))
    tokens, hidden = random_tokens(2, 4), torch.ones(2, 4, 3, 4, dtype=torch.bool)
    prompt = Prompt(text=["night"], actions=torch.ones(2, 4, 2))
    torch.testing.assert_close(
        logits_of(model, prompt, tokens, hidden), logits_of(model, Prompt(), tokens, hidden)
    )
    assert model.training_loss(batch_of(), "video", seeded()).total.isfinite()


def test_vocabularies_must_agree() -> None:
    with pytest.raises(ValueError, match="vocab_size"):
        replace(TINY, tokenizer=TokenGridConfig(vocab_size=14))


# ----------------------------------------------------------------------------------- training


def test_loss_of_an_untrained_model_is_near_uniform() -> None:
    torch.manual_seed(0)
    loss = WorldDreamer(TINY).training_loss(batch_of(8), "video", seeded()).total
    assert float(loss.detach()) == pytest.approx(math.log(13), abs=0.3)


def test_loss_is_seeded_and_its_terms_are_detached() -> None:
    model = build(replace(TINY, p_drop_prompt=0.5))
    one, two, other = (model.training_loss(batch_of(), "video", seeded(s)) for s in (0, 0, 1))
    assert torch.equal(one.total, two.total)
    assert not torch.equal(one.total, other.total)
    assert one.total.requires_grad
    assert set(one.terms) == {"cross_entropy", "accuracy"}
    assert not any(term.requires_grad for term in one.terms.values())


def test_dropped_prompts_train_as_empty_ones() -> None:
    model = build(replace(TINY, p_drop_prompt=1.0))
    batch = batch_of()
    bare = Batch(tokens=batch.tokens)
    torch.testing.assert_close(
        model.training_loss(batch, "video", seeded()).total,
        model.training_loss(bare, "video", seeded()).total,
    )


def test_clips_without_actions_train_beside_those_with() -> None:
    clips = [
        Clip(tokens=random_tokens(1, 4), actions=torch.ones(4, 2), caption="x"),
        Clip(tokens=random_tokens(1, 4), caption=""),
    ]
    assert build().training_loss(collate(clips), "video", seeded()).total.isfinite()


def test_views_are_dreamt_one_by_one() -> None:
    model = build(replace(TINY, masks=MaskMixture(tube=0.0, full=1.0)))
    batch = batch_of(2)
    assert batch.tokens is not None
    views = replace(batch, tokens=torch.cat([batch.tokens, batch.tokens], dim=1))
    torch.testing.assert_close(
        model.training_loss(views, "video", seeded()).total,
        model.training_loss(batch, "video", seeded()).total,
    )


@pytest.mark.parametrize("attention", ["block_diagonal", "identity"])
@pytest.mark.parametrize("config", [TINY, SMALL_OPTIONS])
def test_image_sets_train_with_one_caption_per_line(
    config: WorldDreamerConfig, attention: Any
) -> None:
    backbone = replace(config.backbone, image_attention=attention)
    model = build(replace(config, backbone=backbone, masks=MaskMixture(tube=0.0, full=1.0)))
    tokens = random_tokens(1, 3)
    loss = [
        model.training_loss(
            collate([Clip(tokens=tokens, caption=caption, is_image=True)]), "images", seeded()
        ).total
        for caption in ("night", "night\nnight\nnight", "night\nday\nnight")
    ]
    torch.testing.assert_close(loss[0], loss[1])
    assert not torch.equal(loss[0], loss[2])
    alone = [
        model.training_loss(
            collate([Clip(tokens=tokens[:, i : i + 1], caption="night", is_image=True)]),
            "images",
            seeded(),
        ).total
        for i in range(3)
    ]
    torch.testing.assert_close(loss[0], torch.stack(alone).mean())


def test_image_masks_differ_between_the_images_of_a_set() -> None:
    model = build()
    seen = []
    forward = model.backbone.forward
    model.backbone.forward = lambda *args, **kw: (seen.append(args[1]), forward(*args, **kw))[1]
    model.training_loss(batch_of(2, 4, is_image=True), "images", seeded())
    model.training_loss(batch_of(2, 4), "video", seeded())
    images, video = seen
    assert not torch.equal(images, images[:, :1].expand_as(images))
    assert torch.equal(video, video[:, :1].expand_as(video))


def test_tokens_of_narrow_integers_train_too() -> None:
    batch = batch_of()
    assert batch.tokens is not None
    narrow = replace(batch, tokens=batch.tokens.short())
    model = build()
    assert torch.equal(
        model.training_loss(narrow, "video", seeded()).total,
        model.training_loss(batch, "video", seeded()).total,
    )


def fitted(config: WorldDreamerConfig = TINY) -> WorldDreamer:
    model = build(replace(config, tokenizer=PIXELS))
    frames = torch.randint(256, (6, 3, 12, 16), generator=seeded(3), dtype=torch.uint8)
    model.tokenizer.fit(frames, seeded())
    return model


def pixel_batch() -> Batch:
    frames = torch.randint(256, (2, 1, 4, 3, 12, 16), generator=seeded(3), dtype=torch.uint8)
    actions = torch.randn(2, 4, 2, generator=seeded(2))
    return collate(
        [Clip(frames=f, actions=a, caption="night drive") for f, a in zip(frames, actions)]
    )


def reached(model: WorldDreamer, stage: str) -> set[str]:
    model.zero_grad(set_to_none=True)
    model.training_loss(pixel_batch(), stage, seeded()).total.backward()
    return {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize("config", [TINY, SMALL_OPTIONS])
def test_gradient_reaches_exactly_the_parameters_of_the_stage(config: WorldDreamerConfig) -> None:
    # Tubes alone never show a hidden token its past, so they would not train the carry.
    config = replace(config, masks=MaskMixture(first_frame=1.0))
    model = fitted(config)
    names = {id(p): n for n, p in model.named_parameters()}
    tokenizer = {n for n in names.values() if n.startswith("tokenizer.")}
    for stage in ("tokenizer", "video"):
        groups = model.parameter_groups(stage)
        grouped = [names[id(p)] for group in groups for p in group["params"]]
        assert len(grouped) == len(set(grouped)), "each parameter once"
        expected = tokenizer if stage == "tokenizer" else set(names.values()) - tokenizer
        assert set(grouped) == expected
    unused = {"null_action"}  # trained by dropped actions only
    assert reached(model, "video") == set(names.values()) - tokenizer - unused
    dropped = fitted(replace(config, p_drop_actions=1.0))
    assert "null_action" in reached(dropped, "video")
    assert not {n for n in reached(dropped, "video") if n.startswith("action_encoder")}
    assert reached(model, "tokenizer") <= tokenizer
    assert reached(model, "tokenizer")


def test_vectors_have_no_weight_decay() -> None:
    matrices, vectors = build().parameter_groups("video")
    assert "weight_decay" not in matrices
    assert vectors["weight_decay"] == 0
    assert min(p.ndim for p in matrices["params"]) == 2
    assert max(p.ndim for p in vectors["params"]) == 1


def test_tokenizer_stage_needs_frames() -> None:
    with pytest.raises(ValueError, match="frames"):
        build().training_loss(batch_of(), "tokenizer", seeded())
    with pytest.raises(ValueError, match="neither"):
        build().training_loss(Batch(), "video", seeded())


def test_a_tiny_system_overfits_one_batch() -> None:
    torch.manual_seed(0)
    config = replace(TINY, masks=MaskMixture(first_frame=1.0, full=1.0))
    model = WorldDreamer(config)
    optimizer = torch.optim.AdamW(model.parameter_groups("video"), lr=2e-2)
    generator, losses = seeded(), []
    for _ in range(60):
        loss = model.training_loss(batch_of(2), "video", generator).total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 2.2, "ln 13 = 2.56 at the start"
    assert sum(losses[-5:]) / 5 < 0.4


# --------------------------------------------------------------------------------- generation


@pytest.mark.parametrize("config", [TINY, SMALL_OPTIONS])
def test_guided_model_is_eq_6_of_two_separate_passes(config: WorldDreamerConfig) -> None:
    model = build(config)
    tokens = random_tokens(2, 4)
    hidden = torch.rand(tokens.shape, generator=seeded()) < 0.6
    prompt = Prompt(text=["night", "day left"], actions=torch.ones(2, 4, 2))
    with torch.no_grad():
        c = logits_of(model, prompt, tokens, hidden)
        u = logits_of(model, Prompt(), tokens, hidden)
        assert not torch.allclose(c, u)
        assert torch.equal(model.guided_model(prompt, 2, 4, 1.0)(tokens, hidden), c)
        two = model.guided_model(prompt, 2, 4, 2.0)(tokens, hidden)
        torch.testing.assert_close(two, 2 * c - u)
        zero = model.guided_model(prompt, 2, 4, 0.0)(tokens, hidden)
        torch.testing.assert_close(zero, u)


def test_generate_with_scale_one_equals_decoding_without_guidance() -> None:
    model = build()
    tokens, hidden = random_tokens(2, 4), torch.ones(2, 4, 3, 4, dtype=torch.bool)
    hidden[:, 0] = False
    prompt, decoding = Prompt(text=["night"]), ParallelDecoding(num_steps=3)
    plain = decode_parallel(
        lambda x, m: logits_of(model, prompt, x, m), tokens, hidden, decoding, seeded()
    )
    dream = model.generate(prompt, tokens, hidden, decoding, seeded())
    assert torch.equal(dream.tokens, plain.tokens)
    guided = replace(decoding, guidance_scale=8.0)
    assert not torch.equal(
        model.generate(prompt, tokens, hidden, guided, seeded()).tokens, plain.tokens
    )


def test_given_tokens_are_never_changed_by_any_task() -> None:
    model = build()
    tokens = random_tokens(2, 4)
    region = torch.zeros(1, 1, 3, 4, dtype=torch.bool)
    region[..., 1:, :2] = True
    for task in TASKS:
        hidden = task_mask(task, (2, 4, 3, 4), seeded(), region=region)
        for scope in ("tube", "frame", "clip"):
            decoding = ParallelDecoding(num_steps=3, scope=scope, guidance_scale=2.0)
            out = model.generate(Prompt(text=["night"]), tokens, hidden, decoding, seeded()).tokens
            assert torch.equal(out[~hidden], tokens[~hidden]), task


def test_what_each_task_hides() -> None:
    shape = (2, 4, 6, 8)
    frames = {
        "text-to-video": [1, 1, 1, 1],
        "image-to-video": [0, 1, 1, 1],
        "action-to-video": [0, 1, 1, 1],
        "interpolation": [0, 1, 1, 0],
    }
    for task, expected in frames.items():
        hidden = task_mask(task, shape, seeded())
        assert hidden.flatten(2).all(-1).long().tolist() == [expected] * 2
        assert hidden.flatten(2).any(-1).long().tolist() == [expected] * 2
    region = torch.rand(1, 4, 6, 8, generator=seeded()) < 0.3
    inpainting = task_mask("inpainting", shape, seeded(), region=region)
    assert torch.equal(inpainting, region.expand(shape))
    style = task_mask("stylization", shape, seeded(), keep=0.25)
    assert torch.equal(style, style[:, :1].expand(shape))
    assert (~style[:, 0]).flatten(1).sum(1).tolist() == [12, 12], "a quarter of 48"
    with pytest.raises(ValueError, match="region"):
        task_mask("inpainting", shape, seeded())


def test_stylizing_the_papers_way_keeps_a_quarter() -> None:
    model = build()
    tokens = random_tokens(2, 4, 6, 8)
    decoding = ParallelDecoding(num_steps=2)
    seen: list[tuple[Tensor, Tensor]] = []
    generate = model.generate

    def recorded(prompt: Prompt, given: Tensor, hidden: Tensor, *rest: Any) -> Any:
        dream = generate(prompt, given, hidden, *rest)
        assert torch.equal(dream.tokens[~hidden], given[~hidden])
        seen.append((given, hidden))
        return dream

    model.generate = recorded  # type: ignore[method-assign, assignment]
    prompt = Prompt(text=["autumn"])
    once = model.stylize(prompt, tokens, decoding, seeded(), keep=0.25)
    ((_, first),) = seen
    assert (~first).flatten(1).sum(1).tolist() == [48, 48], "a quarter of 4 x 48"
    assert torch.equal(once.tokens[~first], tokens[~first])


def test_a_reference_is_read_at_hidden_positions_only_and_by_models_made_for_it() -> None:
    config = TINY
    plain = WorldDreamer(config)
    tokens, other = random_tokens(1, 2, 4, 4), random_tokens(1, 2, 4, 4).flip(1)
    with pytest.raises(ValueError, match="reference=True"):
        plain.stylize(Prompt(text=["night"]), tokens, ParallelDecoding(num_steps=1), seeded())
    model = WorldDreamer(replace(config, backbone=replace(config.backbone, reference=True))).eval()
    prompt = model.embed_prompt(Prompt(text=["night"]), 1, 2)
    hidden = torch.zeros_like(tokens, dtype=torch.bool)
    hidden[:, 1, :2] = True
    with torch.no_grad():
        one, two = (model.backbone(tokens, hidden, prompt, reference=r) for r in (tokens, other))
        assert not torch.equal(one, two)
        seen = torch.where(hidden, tokens, other)
        assert torch.equal(one, model.backbone(tokens, hidden, prompt, reference=seen))


def test_training_on_style_pairs_reads_the_reference() -> None:
    config = TINY
    model = WorldDreamer(replace(config, backbone=replace(config.backbone, reference=True)))
    tokens = random_tokens(2, 2, 4, 4)[:, None]
    batch = Batch(tokens=tokens, captions=["night", "day"], fps=torch.full((2,), 5.0))
    losses = [
        model.training_loss(replace(batch, reference_tokens=r), "world", seeded()).total
        for r in (tokens, tokens.flip(2))
    ]
    assert losses[0] != losses[1]
    losses[0].backward()
    assert model.backbone.reference.grad.abs().sum() > 0


def test_region_of_pixels_is_every_token_it_touches() -> None:
    mask = torch.zeros(1, 2, 8, 12, dtype=torch.bool)
    mask[0, 1, 3:5, 8] = True
    region = region_of_pixels(mask, 4)
    assert region.nonzero().tolist() == [[0, 1, 0, 2], [0, 1, 1, 2]]


def test_dream_of_a_tokenizer_that_draws_has_frames_and_expected_frames() -> None:
    model = fitted()
    tokens = model.tokenize(pixel_batch().frames)[:, 0]
    hidden = torch.ones_like(tokens, dtype=torch.bool)
    hidden[:, 0] = False
    dream = model.generate(Prompt(), tokens, hidden, ParallelDecoding(num_steps=2), seeded(), True)
    assert dream.frames is not None
    assert dream.expected_frames is not None
    assert dream.frames.shape == dream.expected_frames.shape == (2, 1, 4, 3, 12, 16)
    assert torch.equal(dream.frames, model.draw(dream.tokens))


def test_tokens_without_a_decoder_make_no_frames() -> None:
    hidden = torch.ones(1, 4, 3, 4, dtype=torch.bool)
    dream = build().generate(Prompt(), random_tokens(1, 4), hidden, ParallelDecoding(), seeded())
    assert dream.frames is None


def test_extending_keeps_the_context_and_hands_each_window_its_actions() -> None:
    model = build()
    context = random_tokens(2, 2)
    actions = torch.arange(11.0).view(1, 11, 1).expand(2, 11, 2)
    rows: list[list[float]] = []
    embed = model.embed_prompt
    model.embed_prompt = lambda p, *a: (rows.append(p.actions[0, :, 0].tolist()), embed(p, *a))[1]
    decoding = ParallelDecoding(num_steps=2)
    video = model.extend(
        Prompt(text=["night"], actions=actions), context, 11, decoding, seeded(), overlap=1
    )
    assert video.shape == (2, 11, 3, 4)
    assert torch.equal(video[:, :2], context)
    assert rows == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9], [9, 10, 10, 10]]


def test_extending_is_seeded_and_equals_windows_by_hand() -> None:
    model = build()
    context, decoding = random_tokens(1, 1), ParallelDecoding(num_steps=2)
    video = model.extend(Prompt(), context, 6, decoding, seeded())
    generator = seeded()
    hidden = torch.ones(1, 4, 3, 4, dtype=torch.bool)
    hidden[:, 0] = False
    tokens = torch.zeros(1, 4, 3, 4, dtype=torch.long)
    tokens[:, :1] = context
    first = model.generate(Prompt(), tokens, hidden, decoding, generator).tokens
    hidden[:, 1] = False
    tokens[:, :2] = first[:, 2:]
    second = model.generate(Prompt(), tokens, hidden, decoding, generator).tokens
    assert torch.equal(video, torch.cat([first, second[:, 2:]], dim=1))


def test_extending_with_too_few_actions_or_no_overlap_is_refused() -> None:
    model = build()
    few = Prompt(actions=torch.ones(1, 5, 2))
    with pytest.raises(ValueError, match="one action per frame"):
        model.extend(few, random_tokens(1, 1), 6, ParallelDecoding(), seeded())
    with pytest.raises(ValueError, match="overlap"):
        model.extend(Prompt(), random_tokens(1, 1), 6, ParallelDecoding(), seeded(), overlap=0)


def test_paper_system_is_about_a_billion_parameters() -> None:
    with torch.device("meta"):
        model = WorldDreamer(WorldDreamerConfig())
    named = model.named_parameters()
    count = sum(p.numel() for name, p in named if not name.startswith("tokenizer."))
    print(f"paper system: {count:,} parameters without T5 and VQGAN")
    # STPT + T5 projection + null text and action + action MLP.
    d = 1024
    assert count == 1_066_199_040 + (2048 * d + d) + 2 * d + (2 * d + d) + (d * d + d)
