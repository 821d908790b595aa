"""Ego actions to one embedding per frame."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


def integrate_unicycle(
    actions: Float[Tensor, "b t 2"], fps: Float[Tensor, " b"]
) -> Float[Tensor, "b t 3"]:
    """Pose (x, y, heading) at each frame relative to frame 0, from (speed, yaw rate).

    Row t of `actions` is held over the step into frame t; metres and radians, x forward, y left.
    The heading of a step's middle carries its motion.
    """
    dt = (1.0 / fps)[:, None]
    turn = actions[..., 1] * dt
    distance = actions[..., 0] * dt
    turn = torch.cat([torch.zeros_like(turn[:, :1]), turn[:, 1:]], dim=1)
    distance = torch.cat([torch.zeros_like(distance[:, :1]), distance[:, 1:]], dim=1)
    heading = turn.cumsum(dim=1)
    middle = heading - 0.5 * turn
    x = (distance * middle.cos()).cumsum(dim=1)
    y = (distance * middle.sin()).cumsum(dim=1)
    return torch.stack([x, y, heading], dim=-1)


class ActionEncoder(nn.Module):
    """An MLP from the action of a frame to its token (WorldDreamer, section 3.2).

    Args:
        action_dim: numbers per frame; the paper has two, yaw and velocity.
        dim: width of the token.
        integrate: also feed the pose relative to frame 0. Only for (speed, yaw rate) actions; off
            in the paper.
        scale: what each number is divided by, so that inputs are near one.
    """

    def __init__(
        self, action_dim: int, dim: int, integrate: bool, scale: tuple[float, ...]
    ) -> None:
        super().__init__()
        if integrate and action_dim != 2:
            raise ValueError(
                f"Expected 2 action numbers (speed, yaw rate) to integrate, found {action_dim}: "
                "set integrate_actions=False."
            )
        if len(scale) != action_dim:
            raise ValueError(
                f"Expected {action_dim} action scales, found {len(scale)}: give one per number."
            )
        self.integrate = integrate
        self.scale: Tensor
        scale = (*scale, 10.0, 4.0, 0.5) if integrate else scale
        self.register_buffer("scale", torch.tensor(scale), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(len(scale), dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(
        self, actions: Float[Tensor, "b t a"], fps: Float[Tensor, " b"]
    ) -> Float[Tensor, "b t d"]:
        features = actions
        if self.integrate:
            features = torch.cat([actions, integrate_unicycle(actions, fps)], dim=-1)
        return self.mlp(features / self.scale)
