"""One readable file per system and scale. The only place where all names meet."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import nn

    from maskworld.recipes.recipe import Recipe

SYSTEMS = ("worlddreamer", "reworld", "mask_world_model", "maskgwm")
R = TypeVar("R")


def recipe_names() -> list[str]:
    """Every recipe, without importing any."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in modules if name.startswith(SYSTEMS))


def load_recipe(name: str) -> Recipe:
    """The recipe called `name`, e.g. "worlddreamer-tiny".

    Raises:
        ValueError: no such recipe; names the nearest.
    """
    names = recipe_names()
    if name not in names:
        raise ValueError(f"Expected a recipe of {', '.join(names)}, found {name!r}.{near(name)}")
    recipe: Recipe = importlib.import_module(f"maskworld.recipes.{name.replace('-', '_')}").RECIPE
    return recipe


def load_recipe_of(kind: type[R], name: str) -> R:
    """The recipe called `name`, which must be of one system.

    Raises:
        ValueError: no such recipe, or another system's.
    """
    recipe: Any = load_recipe(name)
    if not isinstance(recipe, kind):
        raise ValueError(f"Expected a {kind.__name__}, found {name!r}, a {type(recipe).__name__}.")
    return recipe


def near(name: str) -> str:
    """ " Did you mean ...?" for an unknown recipe, or nothing."""
    matches = difflib.get_close_matches(name, recipe_names(), n=1, cutoff=0.4)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def system_types() -> dict[str, type[nn.Module]]:
    """Every system by the name in its released config."""
    from maskworld.systems.mask_world_model import MaskWorldModel
    from maskworld.systems.maskgwm import MaskGWM
    from maskworld.systems.reworld import ReWorld
    from maskworld.systems.worlddreamer import WorldDreamer

    return {kind.name: kind for kind in (WorldDreamer, ReWorld, MaskWorldModel, MaskGWM)}
