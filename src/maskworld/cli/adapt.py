"""A recipe's config adapted to the data that the user brings: its codes, actions and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from maskworld.data.sources.tokens import TokenSource
from maskworld.recipes.open import Source
from maskworld.systems.worlddreamer import WorldDreamerConfig
from maskworld.tokenizers.patch import PatchTokenizerConfig
from maskworld.tokenizers.token_grid import TokenGridConfig

DRIVE_WORDS = ("speed", "yaw")


def fit_config(
    config: WorldDreamerConfig, sources: Sequence[Source | list[str]], fps: float | None = None
) -> WorldDreamerConfig:
    """The recipe's config with the codes and the actions that the data has.

    Args:
        fps: frames per second to use for tokens instead of the data's.

    Raises:
        ValueError: data that one model cannot learn from together.
    """
    tokens = [source for source in sources if isinstance(source, TokenSource)]
    if tokens:
        layouts = {(source.grid, source.vocab_size) for source in tokens}
        if len(tokens) < len(sources) or len(layouts) > 1:
            raise ValueError(
                "Expected only tokens of one tokenizer or only pixels as --data, found "
                f"{len(tokens)} of {len(sources)} with tokens, of {len(layouts)} layouts: "
                "train one model for each."
            )
        first = tokens[0]
        config = replace(
            config,
            tokenizer=TokenGridConfig(vocab_size=first.vocab_size, name=first.name),
            backbone=replace(config.backbone, vocab_size=first.vocab_size),
            frame_size=first.grid,
            fps=fps or first.fps,
        )
    return _with_actions(config, sources)


def _with_actions(
    config: WorldDreamerConfig, sources: Sequence[Source | list[str]]
) -> WorldDreamerConfig:
    """Speed and yaw rate are taken as the recipe takes them; other actions are divided by their
    standard deviations; without any in the data the model has no actions."""
    found = [(source, rows) for source in sources if len(rows := actions_of(source))]
    widths = {rows.shape[1] for _, rows in found}
    if len(widths) > 1:
        raise ValueError(
            f"Expected actions of one width in all --data, found {sorted(widths)} numbers per "
            "frame: bring them to one layout, or train one model for each."
        )
    if not widths:
        return replace(config, action_dim=0, action_scale=(), integrate_actions=False)
    width = widths.pop()
    if width == 2 == config.action_dim and all(_is_driving(source) for source, _ in found):
        return config
    spread = np.concatenate([rows for _, rows in found]).std(axis=0)
    scale = tuple(float(s) if s > 1e-6 else 1.0 for s in spread)
    return replace(config, action_dim=width, action_scale=scale, integrate_actions=False)


def actions_of(
    source: Source | list[str], num_episodes: int = 32, *, unknown: bool = False
) -> np.ndarray:
    """Actions of some episodes, all in rows; no row where there are none.

    Args:
        unknown: NaN may stand for what is not known.

    Raises:
        ValueError: NaN or infinity.
    """
    if isinstance(source, list):
        return np.zeros((0, 0))
    numbers = np.linspace(0, len(source) - 1, min(num_episodes, len(source))).astype(int)
    rows = [actions for i in numbers if (actions := source.episode(int(i)).actions) is not None]
    if any(not (np.isfinite(part) | (np.isnan(part) & unknown)).all() for part in rows):
        raise ValueError(
            f"Expected finite actions in {source.name}, found NaN or infinity: mend or drop the "
            "recordings without actions."
        )
    return np.concatenate(rows) if rows else np.zeros((0, 0))


def _is_driving(source: Source | list[str]) -> bool:
    """Two columns are speed (m/s) and yaw rate (rad/s) if they are called so, or nothing."""
    names = getattr(source, "action_names", None) or ["action_0", "action_1"]
    unnamed = names == ["action_0", "action_1"]
    return unnamed or all(word in name.lower() for word, name in zip(DRIVE_WORDS, names))


def check_fits(config: WorldDreamerConfig, sources: Sequence[Source | list[str]]) -> None:
    """Raises ValueError where data does not suit a trained model."""
    for source in sources:
        width = actions_of(source).shape[1]
        if width not in (0, config.action_dim):
            raise ValueError(
                f"Expected actions of {config.action_dim} numbers, as the model of --init has, "
                f"found {width}: drop the actions or train a new model."
            )
        if isinstance(source, TokenSource) != isinstance(config.tokenizer, TokenGridConfig):
            raise ValueError("Expected tokens for a model of tokens, and pixels for one of pixels.")


def check_frame_size(config: WorldDreamerConfig) -> None:
    """Raises ValueError for frames that do not divide into tokens, or a window of one frame."""
    stride = token_stride(config)
    if config.num_frames < 2:
        raise ValueError(f"Expected windows of at least 2 frames, found {config.num_frames}.")
    if any(side < stride or side % stride for side in config.frame_size):
        nearest = tuple(max(stride, round(side / stride) * stride) for side in config.frame_size)
        raise ValueError(
            f"Expected a frame size in multiples of {stride}, found {config.frame_size}: pass "
            f"--frame-size {nearest[0]} {nearest[1]}."
        )


def token_stride(config: WorldDreamerConfig) -> int:
    """Pixels per side of a token."""
    tokenizer = config.tokenizer
    if isinstance(tokenizer, TokenGridConfig):
        return 1
    return tokenizer.patch_size if isinstance(tokenizer, PatchTokenizerConfig) else tokenizer.stride
