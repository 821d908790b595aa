"""An observation whose images are drawn when somebody looks at them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Float, UInt8
from torch import Tensor

from maskworld.types import Observation


class LazyObservation(Observation):
    """`Observation` with `frames` drawn on first access: a policy that acts in chunks pays for
    images only where it plans again.

    `draw` raises once its world has moved on, since it would show another moment.
    """

    def __init__(
        self,
        draw: Callable[[], UInt8[Tensor, "v c h w"]],
        state: Float[Tensor, " s"],
        instruction: str,
    ) -> None:
        # The dataclass's own __init__ would ask for the frames; it is frozen, hence __dict__.
        self.__dict__.update(_draw=draw, state=state, instruction=instruction)

    def __getattr__(self, name: str) -> Any:  # called for attributes that are not there yet
        if name != "frames":
            raise AttributeError(name)
        frames = self.__dict__["_draw"]()
        self.__dict__["frames"] = frames
        return frames

    def __repr__(self) -> str:
        return f"LazyObservation(state={self.state.tolist()}, instruction={self.instruction!r})"
