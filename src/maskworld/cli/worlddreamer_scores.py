"""What the WorldDreamer quickstart scores and shows."""

from __future__ import annotations

from dataclasses import asdict, replace

import torch
from torch import Tensor

from maskworld.cli.material import Material
from maskworld.cli.quickstart_parts import as_video, frame_rate, side_by_side, spread, steering_rows
from maskworld.evaluation.baselines import TrivialFutures
from maskworld.evaluation.likelihood import score_likelihood
from maskworld.evaluation.prediction import (
    GREEDY,
    Prediction,
    predict,
    reconstruct,
    score_action_sensitivity,
    score_frames,
    score_speed,
    score_tokens,
    slice_batch,
    tokens_of,
)
from maskworld.evaluation.results import Results
from maskworld.evaluation.steering import score_steering
from maskworld.evaluation.stylization import (
    StyleJudge,
    score_generated_styles,
    score_layout,
    style_of,
)
from maskworld.recipes.recipe import WorldDreamerRecipe
from maskworld.report import VideoRow
from maskworld.systems.worlddreamer import WorldDreamer
from maskworld.types import Batch, Prompt, collate

NUM_SAMPLED = 48
"""Held-out clips that are also dreamt in several steps, to be shown and timed."""
NUM_GALLERY = 6
NUM_SHOWN_PAIRS = 4
CLIPS_PER_STYLE = 20
JUDGE_CLIPS = 300
"""Training clips that the style judge is fitted on."""


def evaluate(
    model: WorldDreamer, recipe: WorldDreamerRecipe, material: Material, seed: int
) -> tuple[Results, list[VideoRow]]:
    """All scores of the held-out clips, and the clips to show."""
    model.eval()
    protocol = {
        "recipe": recipe.name,
        "seed": seed,
        "split": material.split,
        **material.description,
        "frames": recipe.system.num_frames,
        "given_frames": recipe.num_context,
        "frame_size": list(recipe.system.frame_size),
        "fps": float(material.held_out.fps[0]) if material.held_out.fps is not None else None,
        "decoding": asdict(recipe.decoding),
        "training_steps": {stage.name: stage.num_steps for stage in recipe.stages},
        "parameters": sum(p.numel() for p in model.parameters()),
        "torch_threads": torch.get_num_threads(),
    }
    results = Results("worlddreamer", protocol)
    if material.held_out.frames is None:
        score_likelihood(results, model, material.train, material.held_out, seed)
        return results, []

    def asked() -> tuple[Results, list[VideoRow]]:
        part, rows = Results(results.system, {}), []
        if material.pairs is not None:
            rows += evaluate_steering(part, model, recipe, material.pairs, seed)
        if material.styles:
            rows += evaluate_styles(part, model, recipe, material, seed)
        return part, rows

    # Two networks of one thread each are faster than one of two at this size.
    rows, (part, more) = side_by_side(
        lambda: evaluate_prediction(results, model, recipe, material, seed), asked
    )
    results.take(part)
    rows += more
    return results, rows


def evaluate_prediction(
    results: Results, model: WorldDreamer, recipe: WorldDreamerRecipe, material: Material, seed: int
) -> list[VideoRow]:
    """Horizon curves, tokens, actions, speed; a gallery of dreams."""
    generator = torch.Generator().manual_seed(seed)
    batch, context = material.held_out, recipe.num_context
    batch = replace(batch, tokens=tokens_of(model, batch)[:, None])
    assert batch.frames is not None
    greedy = predict(model, batch, context, GREEDY, generator, expected=True)
    chosen = spread(len(batch), NUM_SAMPLED)
    sampled = predict(
        model, slice_batch(batch, torch.tensor(chosen)), context, recipe.decoding, generator
    )
    reconstructed = reconstruct(model, batch)
    shown = collate(material.train)
    assert shown.frames is not None
    kinds = [style_of(caption, material.styles) for caption in shown.captions]
    futures = TrivialFutures.fit(shown.frames, context, kinds).predict(
        batch.frames[:, :, :context],
        batch.frames.shape[2] - context,
        [style_of(caption, material.styles) for caption in batch.captions],
    )
    expected, argmax = frames_of(greedy, "expected"), frames_of(greedy)
    groups = material.groups
    score_frames(results, batch, expected, argmax, reconstructed, futures, context, groups, seed)
    score_tokens(results, model, batch, greedy.dream.tokens, context, groups, seed)
    if batch.actions is not None and material.action_names:
        score_action_sensitivity(results, model, batch, context, groups, seed)
    score_speed(results, sampled, len(chosen))
    dreamt = dict(zip(chosen, frames_of(sampled), strict=True))
    return [
        VideoRow(
            name=f"clip {i}",
            panels={
                "real": as_video(batch.frames[i]),
                "reconstructed": as_video(reconstructed[i]),
                "dreamt": as_video(dreamt[i]),
                "dreamt, expected": as_video(expected[i]),
            },
            caption=batch.captions[i],
            num_context=context,
            fps=frame_rate(batch),
        )
        for i in (chosen[k] for k in spread(len(chosen), NUM_GALLERY))
    ]


def evaluate_steering(
    results: Results,
    model: WorldDreamer,
    recipe: WorldDreamerRecipe,
    pairs: tuple[Batch, Batch],
    seed: int,
) -> list[VideoRow]:
    """Left and right from one first frame."""
    generator = torch.Generator().manual_seed(seed)
    context = recipe.num_context
    # The caption tells the turn; without it only the actions can.
    silent = [replace(side, captions=[""] * len(side)) for side in pairs]
    dreams = [
        frames_of(predict(model, side, context, GREEDY, generator, expected=True), "expected")
        for side in silent
    ]
    score_steering(results, *pairs, dreams[0], dreams[1])
    told = "one first frame, two steering commands, no caption given"
    return steering_rows(pairs, dreams, context, NUM_SHOWN_PAIRS, told)


def evaluate_styles(
    results: Results, model: WorldDreamer, recipe: WorldDreamerRecipe, material: Material, seed: int
) -> list[VideoRow]:
    """Text to video, and stylization of held-out clips, judged by a classifier of real clips."""
    generator = torch.Generator().manual_seed(seed)
    held_out, styles = material.held_out, material.styles
    assert held_out.frames is not None
    shown = [material.train[i] for i in spread(len(material.train), JUDGE_CLIPS)]
    judge = StyleJudge.fit(collate(shown), held_out, styles)
    asked = [style for style in styles for _ in range(CLIPS_PER_STYLE)]
    tokens = tokens_of(model, slice_batch(held_out, slice(0, 1))).expand(len(asked), -1, -1, -1)
    hidden = torch.ones(tokens.shape, dtype=torch.bool)
    dreams = [
        model.generate(Prompt(text=words), codes, unknown, recipe.decoding, generator).frames
        for words, codes, unknown in zip(
            [[style] * CLIPS_PER_STYLE for style in styles],
            tokens.split(CLIPS_PER_STYLE),
            hidden.split(CLIPS_PER_STYLE),
            strict=True,
        )
    ]
    dreamt = torch.cat([frames for frames in dreams if frames is not None])
    score_generated_styles(results, judge, dreamt, asked, "text-to-video")
    rows = [
        VideoRow(
            name=f'"{style}"',
            panels={f"dreamt {i}": as_video(dreamt[s * CLIPS_PER_STYLE + i]) for i in range(4)},
            caption="from text alone",
            fps=frame_rate(held_out),
            section="Text to video",
        )
        for s, style in enumerate(styles)
    ]
    source = slice_batch(held_out, torch.tensor(spread(len(held_out), 2 * CLIPS_PER_STYLE)))
    assert source.frames is not None
    wanted = [other_style(c, styles, i) for i, c in enumerate(source.captions)]
    styled = model.stylize(
        Prompt(text=wanted, actions=source.actions, fps=source.fps),
        tokens_of(model, source),
        recipe.decoding,
        generator,
    )
    assert styled.frames is not None
    score_generated_styles(results, judge, styled.frames, wanted, "stylization")
    score_layout(results, styled.frames, source.frames)
    rows += [
        VideoRow(
            name=f'clip {i} to "{wanted[i]}"',
            panels={
                "source": as_video(source.frames[i]),
                "dreamt": as_video(styled.frames[i]),
            },
            caption=source.captions[i],
            fps=frame_rate(held_out),
            section="Stylization",
        )
        for i in spread(len(wanted), 5)
    ]
    return rows


def other_style(caption: str, styles: tuple[str, ...], turn: int) -> str:
    """A style that the caption does not name, another one every turn."""
    others = [style for style in styles if style != style_of(caption, styles)]
    return others[turn % len(others)]


def frames_of(prediction: Prediction, kind: str = "frames") -> Tensor:
    """The drawn frames of a prediction; `kind` "expected" for expected code embeddings."""
    dream = prediction.dream
    frames = dream.expected_frames if kind == "expected" else dream.frames
    if frames is None:
        raise ValueError("Expected frames, found a tokenizer that cannot draw.")
    return frames
