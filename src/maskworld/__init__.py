"""maskworld: masked world models that train, dream, plan and are scored.

`maskworld.load(path_or_hub_id)` gives a trained system. Importing the package is cheap: torch and
the models are imported when first used.
"""

from __future__ import annotations

__version__ = "0.1.0"
