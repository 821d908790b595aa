"""Which of ReWorld's stages a run of `maskworld train` goes through, with the user's settings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch

from maskworld.cli.stage_choice import asked_stages, kind_of, rows_asked_for, split_tokenizer
from maskworld.cli.train import TrainOptions
from maskworld.cli.training import with_settings
from maskworld.recipes.recipe import ReWorldRecipe
from maskworld.systems.reworld import ReWorldConfig
from maskworld.tokenizers.video_frames import check_clip_shape
from maskworld.training.config import Stage, shortened

STANDARD = "standard"
"""The stage of Eq. 5."""


def choose_stages(options: TrainOptions, recipe: ReWorldRecipe) -> list[Stage]:
    """The recipe's stages that the user asks for, in the recipe's order, all by default.

    "video" names all rows of the video's curriculum. "standard" (Eq. 5) is no row of a recipe: it
    stands alone, with the settings of the video's last row. So does "action" without a world model.
    The tokenizer's stage is left out with --init.

    Raises:
        ValueError: unknown names, both ways of asking, or a stage whose forerunners nobody trains.
    """
    tokenizer, rows = split_tokenizer(options, recipe.stages)
    asked = asked_stages(options, recipe.name, rows, [STANDARD])
    if STANDARD in asked:
        if len(asked) > 1:
            raise ValueError(
                f"Expected stage {STANDARD} alone, found {' '.join(asked)}: it trains video and "
                "actions at once, in place of the stages."
            )
        video = [stage for stage in rows if kind_of(stage) == "video"][-1]
        return [*tokenizer, replace(video, name=STANDARD)]
    if options.no_world_model:
        if asked not in ([], ["action"]):
            raise ValueError(
                f"Expected stage action alone with --no-world-model, found {' '.join(asked)}."
            )
        return [*tokenizer, *(stage for stage in rows if stage.name == "action")]
    return [*tokenizer, *rows_asked_for(options, rows)]


def stages_with_settings(
    options: TrainOptions, stages: Sequence[Stage], config: ReWorldConfig
) -> list[Stage]:
    """The stages with the user's settings; their windows suit the tokenizer."""
    if options.tokenizer_steps is not None and all(s.name != "tokenizer" for s in stages):
        warnings.warn("--tokenizer-steps has no effect: no tokenizer is trained", stacklevel=2)
    found = []
    for stage in stages:
        if stage.name == "tokenizer":
            found.append(shortened(stage, options.tokenizer_steps))
            continue
        found.append(with_settings(options, stage))
    for stage in found:
        _check_window(config, stage.num_frames, stage.frame_size)
    return found


def _check_window(
    config: ReWorldConfig, num_frames: int | None, size: tuple[int, int] | None
) -> None:
    """Raises ValueError for windows that the tokenizer cannot encode."""
    tokenizer = config.tokenizer
    height, width = size or config.frame_size
    nearest_size = [
        max(tokenizer.stride, round(side / tokenizer.stride) * tokenizer.stride)
        for side in (height, width)
    ]
    if [height, width] != nearest_size:
        raise ValueError(
            f"Expected a frame size in multiples of {tokenizer.stride}, found {height} {width}: "
            f"pass --frame-size {nearest_size[0]} {nearest_size[1]}."
        )
    frames = torch.empty(1, num_frames or config.num_frames, 3, height, width, device="meta")
    check_clip_shape(frames, 3, tokenizer.stride, tokenizer.temporal_stride)
