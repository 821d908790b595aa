"""What the flow systems' `maskworld train` asks of its options: which stages, which tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

from maskworld.cli.errors import nearest
from maskworld.cli.train import TrainOptions
from maskworld.tokenizers.latent import (
    LatentConfig,
    PretrainedImageVAEConfig,
    PretrainedVideoVAEConfig,
)
from maskworld.training.config import Stage


def kind_of(stage: Stage) -> str:
    """The stage that a row of a curriculum belongs to: "video" of "video-2"."""
    return stage.name.split("-")[0]


def split_tokenizer(
    options: TrainOptions, stages: Sequence[Stage]
) -> tuple[list[Stage], list[Stage]]:
    """The tokenizer's own stage, which is left out with --init, and the other rows."""
    rows = [stage for stage in stages if stage.name != "tokenizer"]
    return [s for s in stages if s.name == "tokenizer" and options.init is None], rows


def asked_stages(
    options: TrainOptions, recipe: str, rows: Sequence[Stage], others: Sequence[str] = ()
) -> list[str]:
    """The names that the user gives.

    Args:
        others: names that are no row of the recipe.

    Raises:
        ValueError: an unknown name, or both ways of asking.
    """
    names = list(
        dict.fromkeys([*(kind_of(s) for s in rows), *(stage.name for stage in rows), *others])
    )
    asked = [*options.stages, *([options.start_at] if options.start_at else [])]
    for name in asked:
        if name not in names:
            raise ValueError(
                f"Expected a stage of {', '.join(names)} for {recipe}, found {name!r}."
                f"{nearest(name, names)}"
            )
    if options.stages and options.start_at:
        raise ValueError("Expected --stages or --start-at, found both: --stages says it all.")
    return asked


def rows_asked_for(options: TrainOptions, rows: Sequence[Stage]) -> list[Stage]:
    """The rows of known names, in the recipe's order; all by default.

    Raises:
        ValueError: a stage whose forerunners nobody trains.
    """
    chosen = list(rows)
    if options.stages:
        chosen = [s for s in rows if s.name in options.stages or kind_of(s) in options.stages]
    elif options.start_at:
        start = next(i for i, s in enumerate(rows) if options.start_at in (s.name, kind_of(s)))
        chosen = list(rows[start:])
    missing = [row.name for row in rows[: rows.index(chosen[-1])] if row not in chosen]
    if missing and options.init is None:
        raise ValueError(
            f"Expected a trained model to begin stage {chosen[0].name} with, as {missing[0]} is "
            "not trained in this run: pass --init RUN/model, or train that stage too."
        )
    return chosen


def tokenizer_asked_for(
    options: TrainOptions, config: LatentConfig, recipe: str, published: str
) -> LatentConfig:
    """The tokenizer's config; a published VAE is that of --tokenizer.

    Args:
        published: the recipe of this system that stands on one.

    Raises:
        ValueError: no --tokenizer where it is needed, or one where the model trains its own.
    """
    if isinstance(config, PretrainedVideoVAEConfig):
        if options.tokenizer is None:
            raise ValueError(
                f"Expected --tokenizer with the published video VAE for {recipe}: the `vae` "
                "folder of Lightricks/LTX-Video."
            )
        return PretrainedVideoVAEConfig.of(options.tokenizer)
    if isinstance(config, PretrainedImageVAEConfig):
        if options.tokenizer is None:
            raise ValueError(
                f"Expected --tokenizer with the published image VAE for {recipe}: the `vae` folder "
                "of stabilityai/stable-diffusion-3-medium-diffusers."
            )
        return PretrainedImageVAEConfig.of(options.tokenizer)
    if options.tokenizer is not None:
        raise ValueError(
            f"Expected no --tokenizer for {recipe}, which trains its own: leave it out, or "
            f"take {published}."
        )
    return config


def refuse_beside_init(options: TrainOptions, names: Sequence[str]) -> None:
    """Raises ValueError where one of these options is given with --init."""
    unread = [name for name in names if getattr(options, name) is not None]
    if unread:
        raise ValueError(
            f"Expected no --{unread[0].replace('_', '-')} with --init, whose model has its own: "
            "leave one of them out."
        )
