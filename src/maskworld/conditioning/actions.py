"""Ego actions to one embedding per frame."""

from __future__ import annotations

import torch
from einops import rearrange
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


class FutureActionEncoder(nn.Module):
    """One embedding per future latent from the actions of the frames that it holds.

    Ours: ReWorld's video reads ego state and command only. Poses are relative to now, the last past
    frame. `null` stands for actions that are not known, as when planning.

    Args:
        frames_per_latent: of a causal video tokenizer (8).
        scale: of each number of an action, as for `ActionEncoder`.
    """

    def __init__(
        self, action_dim: int, dim: int, frames_per_latent: int, scale: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.frames_per_latent = frames_per_latent
        self.per_frame = ActionEncoder(action_dim, dim, action_dim == 2, scale)
        self.merge = nn.Linear(frames_per_latent * dim, dim)
        self.null = nn.Parameter(torch.zeros(dim))

    def forward(
        self, actions: Float[Tensor, "b t a"], fps: Float[Tensor, " b"]
    ) -> Float[Tensor, "b k d"]:
        """Args: actions: row 0 is the step into now, then one row per future frame.

        Raises:
            ValueError: future frames that are no whole number of latents, or NaN.
        """
        if (actions.shape[1] - 1) % self.frames_per_latent:
            raise ValueError(
                f"Expected the step into now and a multiple of {self.frames_per_latent} future "
                f"steps, found {actions.shape[1]} rows of actions."
            )
        if not bool(actions.isfinite().all()):
            raise ValueError(
                "Expected finite actions, found NaN or infinity: remove or interpolate the frames "
                "without an action."
            )
        embedded = self.per_frame(actions, fps)[:, 1:]
        groups = rearrange(embedded, "b (k s) d -> b k (s d)", s=self.frames_per_latent)
        return self.merge(groups)
