"""What crosses the borders between parts: clips, batches, prompts, losses.

Conventions (ADR 0002): pixels are `b v t c h w` with the view axis always there, uint8 0..255
outside the models; masks are boolean with True = hidden; labels are integer maps; the ego frame is
x forward, y left, heading counter-clockwise, in metres, radians and seconds, at the rear axle.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Clip:
    """One training sample: a window of one episode, or independent images side by side.

    At least one of `frames` (pixels), `tokens` and `latents` (of a tokenizer) is there.
    """

    frames: UInt8[Tensor, "v t c h w"] | None = None
    tokens: Int[Tensor, "v t gh gw"] | None = None
    reference_tokens: Int[Tensor, "v t gh gw"] | None = None
    """Codes of the same clip in another style, for stylization."""
    latents: Float[Tensor, "v tl d gh gw"] | None = None
    """Of a frozen latent tokenizer, encoded once."""
    features: Float[Tensor, "k n w"] | None = None
    """Of a frozen video network: the entries of the clip's `FeatureBank`, made once."""
    labels: UInt8[Tensor, "v f h w"] | None = None
    """Class maps of all frames, or of the future alone where only that is to be predicted."""
    actions: Float[Tensor, "t a"] | None = None
    """Row t is the step *into* frame t; row 0 is the step into the first frame."""
    plan: PlanSample | None = None
    """What a planner is given and asked at the clip's last past frame."""
    control: ControlSample | None = None
    """What a robot's policy is given and asked there."""
    caption: str = ""
    fps: float = 1.0
    """Frames per second of this clip, after its frame stride."""
    is_image: bool = False
    """True: the `t` frames are independent images."""
    source: str = ""
    episode: int = 0
    start: int = 0
    """Index of the first frame within its episode."""


@dataclass(frozen=True)
class PlanSample:
    """A planner's view of one moment. All in the ego frame of that moment (ADR 0002)."""

    ego: Float[Tensor, " e"]
    """vx, vy (m/s), ax, ay (m/s^2)."""
    command: int
    """0 left, 1 straight, 2 right, 3 unknown, from the route, never from the driven future."""
    trajectory: Float[Tensor, "l 3"] | None = None
    """The expert's future waypoints: x, y (m), heading (rad). None: no expert drove here, as in a
    ghost's clip, so a planner must not imitate it."""
    negative: Float[Tensor, "l 3"] | None = None
    """The hard negative (ReWorld, Eq. 15). None: the scene has none."""
    token: str = ""
    """Names the scene, so that pools and scores find it."""


@dataclass(frozen=True)
class PlanBatch:
    """Plan samples side by side. Rows without a trajectory or a negative hold zeros."""

    ego: Float[Tensor, "b e"]
    command: Int[Tensor, " b"]
    trajectory: Float[Tensor, "b l 3"] | None = None
    has_trajectory: Bool[Tensor, " b"] | None = None
    negative: Float[Tensor, "b l 3"] | None = None
    has_negative: Bool[Tensor, " b"] | None = None
    tokens: list[str] = field(default_factory=list)

    def to(self, device: torch.device | str) -> PlanBatch:
        """Moves every tensor to `device`."""
        return _moved(self, device)

    def rows(self, chosen: Bool[Tensor, " b"]) -> PlanBatch:
        """The samples that `chosen` names."""
        kept: dict[str, Any] = {
            f.name: value[chosen]
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        tokens = [token for token, is_kept in zip(self.tokens, chosen.tolist()) if is_kept]
        return replace(self, **kept, tokens=tokens)


@dataclass(frozen=True)
class ControlSample:
    """A robot policy's view of one moment, in the data's units.

    Action i leads from the state before it to row i of `states`.
    """

    state: Float[Tensor, " s"]
    """Proprioception now."""
    actions: Float[Tensor, "l a"]
    """The demonstrated chunk that starts now."""
    states: Float[Tensor, "l s"]
    """Proprioception after each action."""
    is_real: Bool[Tensor, " l"]
    """False past the episode's end, where rows repeat the last real one."""


@dataclass(frozen=True)
class ControlBatch:
    """Control samples side by side; a running policy knows the state alone."""

    state: Float[Tensor, "b s"]
    actions: Float[Tensor, "b l a"] | None = None
    states: Float[Tensor, "b l z"] | None = None
    is_real: Bool[Tensor, "b l"] | None = None

    def to(self, device: torch.device | str) -> ControlBatch:
        """Moves every tensor to `device`."""
        return _moved(self, device)


@dataclass(frozen=True)
class Observation:
    """What a robot senses at one moment of an episode."""

    frames: UInt8[Tensor, "v c h w"]
    """One image per camera, in the order of the training data."""
    state: Float[Tensor, " s"]
    """Proprioception, in the data's units."""
    instruction: str = ""


@dataclass(frozen=True)
class FeatureBank:
    """Hidden states of a video network, one entry per layer of the action network that reads it.

    Made in the first denoising step and reused by all action steps (ReWorld, section 3.1).
    """

    states: tuple[Float[Tensor, "b n d"], ...]
    attn_mask: Bool[Tensor, "b n"] | None = None
    """True = may be read; None = all."""

    def detach(self) -> FeatureBank:
        """The same states without their graph."""
        return FeatureBank(tuple(state.detach() for state in self.states), self.attn_mask)

    def repeated(self, count: int) -> FeatureBank:
        """Every sample `count` times in a row."""
        if count == 1:
            return self
        mask = None if self.attn_mask is None else self.attn_mask.repeat_interleave(count, dim=0)
        return FeatureBank(
            tuple(state.repeat_interleave(count, dim=0) for state in self.states), mask
        )


@dataclass(frozen=True)
class Batch:
    """Clips of one shape, all videos or all images."""

    frames: UInt8[Tensor, "b v t c h w"] | None = None
    tokens: Int[Tensor, "b v t gh gw"] | None = None
    reference_tokens: Int[Tensor, "b v t gh gw"] | None = None
    latents: Float[Tensor, "b v tl d gh gw"] | None = None
    features: Float[Tensor, "b k n w"] | None = None
    labels: UInt8[Tensor, "b v f h w"] | None = None
    actions: Float[Tensor, "b t a"] | None = None
    has_actions: Bool[Tensor, " b"] | None = None
    """Which rows of `actions` are real; the others are zeros."""
    plan: PlanBatch | None = None
    control: ControlBatch | None = None
    captions: list[str] = field(default_factory=list)
    fps: Float[Tensor, " b"] | None = None
    is_image: bool = False

    def __len__(self) -> int:
        for value in (self.frames, self.tokens, self.latents):
            if value is not None:
                return value.shape[0]
        raise ValueError("A batch needs frames, tokens or latents, this one has none of them.")

    def to(self, device: torch.device | str) -> Batch:
        """Moves every tensor to `device`."""
        moved = _moved(self, device)
        plan = None if self.plan is None else self.plan.to(device)
        control = None if self.control is None else self.control.to(device)
        return replace(moved, plan=plan, control=control)


def _moved(holder: Any, device: torch.device | str) -> Any:
    moved: dict[str, Any] = {
        f.name: value.to(device, non_blocking=True)
        for f in fields(holder)
        if isinstance(value := getattr(holder, f.name), Tensor)
    }
    return replace(holder, **moved)


def collate(clips: list[Clip]) -> Batch:
    """Stacks clips into a batch. Clips without actions get zeros and `has_actions` False.

    Raises:
        ValueError: clips of different shapes, or images mixed with videos.
    """
    if len({clip.is_image for clip in clips}) > 1:
        raise ValueError(
            "Expected a batch of only videos or only images, found both: "
            "mix them with MixtureSampler, which draws one source per batch."
        )

    def stack(name: str) -> Tensor | None:
        values = [getattr(clip, name) for clip in clips]
        if any(value is None for value in values):
            return None
        shapes = {tuple(value.shape) for value in values}
        if len(shapes) > 1:
            raise ValueError(
                f"Expected {name} of one shape in a batch, found {sorted(shapes)}: "
                "resize and crop the clips to one size and length."
            )
        return torch.stack(values)

    present = [clip.actions for clip in clips if clip.actions is not None]
    actions = has_actions = None
    if present:
        zeros = torch.zeros_like(present[0])
        actions = torch.stack([zeros if c.actions is None else c.actions for c in clips])
        has_actions = torch.tensor([c.actions is not None for c in clips])
    return Batch(
        frames=stack("frames"),
        tokens=stack("tokens"),
        reference_tokens=stack("reference_tokens"),
        latents=stack("latents"),
        features=stack("features"),
        labels=stack("labels"),
        actions=actions,
        has_actions=has_actions,
        plan=_collate_plans([clip.plan for clip in clips]),
        control=_collate_controls([clip.control for clip in clips]),
        captions=[clip.caption for clip in clips],
        fps=torch.tensor([clip.fps for clip in clips]),
        is_image=clips[0].is_image,
    )


def _collate_plans(plans: list[PlanSample | None]) -> PlanBatch | None:
    """None unless every clip has a plan sample."""
    found = [plan for plan in plans if plan is not None]
    if not found or len(found) < len(plans):
        return None

    def stack(name: str) -> tuple[Tensor | None, Tensor | None]:
        values = [getattr(plan, name) for plan in found]
        present = [value for value in values if value is not None]
        if not present:
            return None, None
        if len({tuple(value.shape) for value in present}) > 1:
            raise ValueError(
                f"Expected every {name} of one length in a batch, found "
                f"{sorted({len(value) for value in present})} waypoints: resample the plans."
            )
        zeros = torch.zeros_like(present[0])
        rows = torch.stack([zeros if value is None else value for value in values])
        return rows, torch.tensor([value is not None for value in values])

    trajectory, has_trajectory = stack("trajectory")
    negative, has_negative = stack("negative")
    return PlanBatch(
        ego=torch.stack([plan.ego for plan in found]),
        command=torch.tensor([plan.command for plan in found]),
        trajectory=trajectory,
        has_trajectory=has_trajectory,
        negative=negative,
        has_negative=has_negative,
        tokens=[plan.token for plan in found],
    )


def _collate_controls(controls: list[ControlSample | None]) -> ControlBatch | None:
    """None unless every clip has a control sample."""
    found = [control for control in controls if control is not None]
    if not found or len(found) < len(controls):
        return None
    stacked: dict[str, Tensor] = {}
    for name in ("state", "actions", "states", "is_real"):
        values = [getattr(control, name) for control in found]
        if len(shapes := {tuple(value.shape) for value in values}) > 1:
            raise ValueError(
                f"Expected {name} of one shape in a batch, found {sorted(shapes)}: train on data "
                "of one robot with one length of chunk."
            )
        stacked[name] = torch.stack(values)
    return ControlBatch(**stacked)


@dataclass(frozen=True)
class Prompt:
    """What the user asks for. Both parts may be empty (WorldDreamer, section 3.2)."""

    text: list[str] | None = None
    actions: Float[Tensor, "b t a"] | None = None
    has_actions: Bool[Tensor, " b"] | None = None
    fps: Float[Tensor, " b"] | None = None
    plan: PlanBatch | None = None
    """Ego state and command; a planner's prompt."""


@dataclass(frozen=True)
class EgoState:
    """The ego vehicle at one moment, world frame: x, y in metres (y left), heading in radians
    counter-clockwise, speed in m/s, acceleration in m/s^2, yaw rate in rad/s."""

    x: float
    y: float
    heading: float
    speed: float
    acceleration: float = 0.0
    yaw_rate: float = 0.0


@dataclass(frozen=True)
class LossOutput:
    """A scalar to minimise and the named terms it is made of (detached, for the log)."""

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
