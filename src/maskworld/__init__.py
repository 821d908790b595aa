"""maskworld: masked world models that train, dream, plan and are scored.

`maskworld.load(path_or_hub_id)` gives a trained system. Importing the package is cheap: torch and
the models are imported when first used.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__version__ = "0.1.0"


def load(path_or_hub_id: str | os.PathLike[str], *, device: str = "cpu") -> nn.Module:
    """A trained system, in eval mode: the folder of a release, or its name on the Hugging Face Hub.

    Args:
        path_or_hub_id: "run/model" or "owner/name".
        device: where its weights go, such as "cuda".

    Raises:
        ValueError: nothing there, a damaged file, or a system that is not known.
    """
    from maskworld.recipes.open import load_system

    return load_system(os.fspath(path_or_hub_id), device=device)
