"""What a run of `maskworld train maskgwm-...` starts from: a config that fits the recipe or the
model, the options and the data."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from maskworld.cli.adapt import actions_of
from maskworld.cli.maskgwm_data import (
    Recordings,
    check_rates,
    choose_cameras,
    open_recordings,
    read_cameras,
)
from maskworld.cli.maskgwm_signals import (
    are_unnamed,
    column_places,
    fitted_signals,
    source_columns,
)
from maskworld.cli.stage_choice import refuse_beside_init, tokenizer_asked_for
from maskworld.cli.train import TrainOptions
from maskworld.conditioning.sd3_text import SD3TextConfig
from maskworld.conditioning.signals import Signal
from maskworld.recipes.open import drives_of, load_maskgwm
from maskworld.recipes.recipe import MaskGWMRecipe
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.maskgwm import MaskGWM, MaskGWMConfig


@dataclass(frozen=True)
class Plan:
    """What a run starts from."""

    config: MaskGWMConfig
    initial: MaskGWM | None
    sampling: FlowSampling
    cameras: list[str]


def plan_run(options: TrainOptions, recipe: MaskGWMRecipe) -> tuple[list[Recordings], Plan]:
    """What the recipe or the model, the options and the data ask for."""
    if options.init is None:
        initial, sampling, base = None, recipe.sampling, _with_published(options, recipe)
        known: list[str] = []
    else:
        refuse_beside_init(options, ("tokenizer", "video_weights"))
        release = load_maskgwm(options.init)
        initial, sampling, base = release.system, release.decoding, release.system.config
        known = read_cameras(options.init, base.num_views)
    # a model of one camera may be trained on with those that the recipe has
    grows = initial is not None and base.num_views == 1 < recipe.system.num_views
    num_views = recipe.system.num_views if grows or initial is None else base.num_views
    cameras = choose_cameras(options.data, num_views, options.cameras, [] if grows else known)
    recordings = open_recordings(options.data, cameras)
    config = replace(base, **_asked(options, base.max_given))
    config = _with_cameras(config, recipe, cameras, is_new=initial is None)
    config = _with_signals(config, recipe, recordings, is_new=initial is None)
    grew = config.num_views > 1 == base.num_views
    masks = None if grew else config.reconstruction  # view blocks need rows of one length
    masks = masks or recipe.system.reconstruction
    config = replace(config, reconstruction=None if options.no_reconstruction else masks)
    for each in recordings:
        check_rates(each, config.fps)
    return recordings, Plan(config, initial, sampling, cameras)


def _asked(options: TrainOptions, max_given: int) -> dict[str, Any]:
    """Fields of the config that the user sets."""
    asked: dict[str, Any] = {"frame_size": options.frame_size, "fps": options.fps}
    asked = {name: value for name, value in asked.items() if value is not None}
    lengths = sorted(set(options.num_frames))
    if not lengths:
        return asked
    if lengths[0] <= max_given:
        raise ValueError(
            f"Expected --num-frames above {max_given}, as up to so many frames are given, found "
            f"{lengths[0]}."
        )
    several = tuple(lengths) if len(lengths) > 1 else ()
    return asked | {"num_frames": lengths[-1], "clip_lengths": several}


def _with_published(options: TrainOptions, recipe: MaskGWMRecipe) -> MaskGWMConfig:
    """The recipe's config with the published parts that it stands on: the VAE, and the text
    encoders where --tokenizer is the folder of a whole release."""
    config = recipe.system
    tokenizer = tokenizer_asked_for(
        options, config.tokenizer, recipe.name, "maskgwm-long-paper or maskgwm-mview-paper"
    )
    text, folder = config.text, options.tokenizer
    if isinstance(text, SD3TextConfig) and folder is not None:
        if (folder / "text_encoder").is_dir():
            text = replace(text, path=str(folder))
        else:
            print(
                f"text encoders: {text.path} (give --tokenizer the folder of a whole release to "
                "take its own)",
                file=sys.stderr,
            )
    return replace(config, tokenizer=tokenizer, text=text)


def _with_cameras(
    config: MaskGWMConfig, recipe: MaskGWMRecipe, cameras: Sequence[str], *, is_new: bool
) -> MaskGWMConfig:
    """One camera needs no view blocks; several need those of the recipe."""
    network, count = config.network, len(cameras)
    wanted = recipe.system.network.view_attention
    if count == 1 and is_new:
        network = replace(network, view_attention="none")
    elif count > 1 and network.view_attention == "none":
        if wanted == "none":
            raise ValueError(
                f"Expected one camera for {recipe.name}, which joins none, found "
                f"{', '.join(cameras)}: name one with --cameras, or take a recipe with several."
            )
        network = replace(network, view_attention=wanted, max_views=recipe.system.network.max_views)
    if count > network.max_views:
        if not is_new:
            raise ValueError(
                f"Expected at most {network.max_views} cameras, as the model of --init can join, "
                f"found {count}: name fewer with --cameras."
            )
        network = replace(network, max_views=count)
    return replace(config, network=network, num_views=count)


def _with_signals(
    config: MaskGWMConfig,
    recipe: MaskGWMRecipe,
    recordings: Sequence[Recordings],
    *,
    is_new: bool,
) -> MaskGWMConfig:
    """The signals of the model; of a new one, or one without, those that the data tell: the
    recipe's where they are told, else one per column of the actions, none without actions."""
    if config.signals and not is_new:
        return config
    signals = _signals_told(recipe.system.signals, recordings)
    width = recipe.system.network.action_dim if signals else 0
    network = replace(config.network, action_dim=width)
    return replace(
        config,
        signals=signals,
        network=network,
        modulates_by_actions=recipe.system.modulates_by_actions and bool(signals),
        integrates_actions=recipe.system.integrates_actions and signals == recipe.system.signals,
    )


def _signals_told(
    wanted: tuple[Signal, ...], recordings: Sequence[Recordings]
) -> tuple[Signal, ...]:
    told = [each for each in recordings if drives_of_any(each) or source_columns(each.source)]
    if not told or not wanted:
        return ()
    strange = [each for each in told if not _tells(each, wanted)]
    if not strange:
        return wanted
    columns = {tuple(source_columns(each.source) or ()) for each in told}
    if len(columns) > 1:
        raise ValueError(
            "Expected actions of one layout in all --data, found "
            + "; ".join(f"{', '.join(source_columns(e.source) or ())} in {e.path}" for e in told)
            + ": bring them to one, or train one model for each."
        )
    names = next(iter(columns))
    rows = [rows for each in told if len(rows := actions_of(each.source, unknown=True))]
    if not rows:
        return ()
    found = fitted_signals(names, np.concatenate(rows))
    listed = ", ".join(signal.name for signal in found)
    print(f"signals: {listed} (the recipe's are not in the data)", file=sys.stderr)
    return found


def drives_of_any(each: Recordings) -> bool:
    """Whether recordings say where the car was."""
    return not isinstance(each.source, list) and drives_of(each.source) is not None


def _tells(each: Recordings, wanted: tuple[Signal, ...]) -> bool:
    """Whether the signals can be read from the recordings' columns, or computed from poses."""
    columns = source_columns(each.source)
    places = None if columns is None else column_places(columns, wanted)
    if places is not None and None not in places:
        return True
    return drives_of_any(each) and not are_unnamed(columns or ["speed"])
