"""What MaskGWM's network is told beside latents and times: text, driving signals, the last frame.

Reference: MaskGWM, section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from maskworld.conditioning.actions import integrate_unicycle
from maskworld.conditioning.priors import MIN_TIME
from maskworld.conditioning.sd3_text import SD3TextEncoder
from maskworld.conditioning.signals import Signal, SignalEncoder
from maskworld.conditioning.text import SmallTextEncoder, T5TextEncoder
from maskworld.flow import linear_velocity
from maskworld.types import Prompt

POSE = Signal("pose", 3)
"""x, y, heading."""
POSE_SCALE = (10.0, 4.0, 0.5)
"""What they are divided by: metres, metres, radians. Ours."""


@dataclass(frozen=True)
class Conditions:
    """Embeddings of a prompt."""

    text: Float[Tensor, "b m e"] | None
    pooled: Float[Tensor, "b p"] | None
    actions: Float[Tensor, "b t a"] | None
    """None: no signal is known in any frame."""

    def of(self, rows: Bool[Tensor, " b"]) -> Conditions:
        """Those of some samples."""
        parts = (self.text, self.pooled, self.actions)
        return Conditions(*(None if part is None else part[rows] for part in parts))


def embed_text(
    encoder: SmallTextEncoder | T5TextEncoder | SD3TextEncoder,
    texts: tuple[str, ...] | list[str] | None,
    batch_size: int,
    dropped: Bool[Tensor, " b"] | None,
    like: Tensor,
) -> tuple[Float[Tensor, "b m e"], Float[Tensor, "b p"]]:
    """Text states and pooled text, on the device and in the dtype of `like`; what is absent or
    dropped becomes the empty text. SD3's encoders have a pooled text of their own; of others it is
    the mean of the words."""
    words = list(texts or [""] * batch_size)
    if dropped is not None:
        words = ["" if gone else word for word, gone in zip(words, dropped.tolist())]
    if isinstance(encoder, SD3TextEncoder):
        states, pooled = encoder(words)
        return states.to(like), pooled.to(like)
    states, is_word = encoder(words)
    states, is_word = states.to(like), is_word.to(like)
    text = states * is_word[..., None]
    return text, text.sum(1) / is_word.sum(1, keepdim=True).clamp(min=1)


def embed_signals(
    encoder: SignalEncoder,
    prompt: Prompt,
    dropped: Bool[Tensor, "b s"] | None,
    device: torch.device,
    integrated_at: float | int | None = None,
) -> Float[Tensor, "b t a"] | None:
    """One vector per frame; None where the prompt has no actions.

    Args:
        integrated_at: frames per second at which the pose relative to the first frame is added to
            speed and yaw rate; None: it is not.
    """
    if prompt.actions is None:
        return None
    rows = prompt.actions.to(device)
    if prompt.has_actions is not None:
        absent = ~prompt.has_actions.to(device)
        rows = rows.masked_fill(absent[:, None, None], torch.nan)
    if integrated_at is not None:
        poses = integrate_unicycle(rows, rows.new_full((len(rows),), float(integrated_at)))
        rows = torch.cat([rows, poses / poses.new_tensor(POSE_SCALE)], dim=-1)
        if dropped is not None:  # the pose tells what it was integrated from
            dropped = torch.cat([dropped, dropped.any(dim=1, keepdim=True)], dim=1)
    return encoder(rows, dropped)


def unknown_signals(encoder: SignalEncoder, batch_size: int, num_frames: int) -> Tensor:
    """The vectors of frames of which no signal is known."""
    rows = encoder.null.new_full((batch_size, 1, encoder.width), torch.nan)
    return encoder(rows).expand(-1, num_frames, -1)


def carried_past(
    z: Float[Tensor, "b t v d gh gw"],
    t: Float[Tensor, "b t"],
    num_given: int,
    variance: Float[Tensor, " d"],
) -> tuple[Float[Tensor, "b t v d gh gw"], Float[Tensor, "b t v d gh gw"]]:
    """The given frames with the last one standing still after them (zeros if none is given), and
    the velocity if that were all one knew (ADR 0010)."""
    still = torch.zeros_like(z)
    if num_given:
        still = repeat(z[:, num_given - 1], "b ... -> b t ...", t=z.shape[1]).clone()
        still[:, :num_given] = z[:, :num_given]
    flat, mean = (rearrange(x, "b t v d gh gw -> b (t v gh gw) d") for x in (z, still))
    time = t.clamp(min=MIN_TIME).repeat_interleave(flat.shape[1] // z.shape[1], dim=1)
    known = linear_velocity(flat, time, mean, variance)
    t_, v, gh, gw = z.shape[1], z.shape[2], z.shape[4], z.shape[5]
    pattern = "b (t v gh gw) d -> b t v d gh gw"
    return still, rearrange(known, pattern, t=t_, v=v, gh=gh, gw=gw)
