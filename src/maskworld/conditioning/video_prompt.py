"""What a video network is told: text, ego state and command, and what the ego will do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from einops import repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from maskworld.conditioning.actions import FutureActionEncoder
from maskworld.conditioning.ego import EgoEncoder, describe_ego
from maskworld.conditioning.text import SmallTextConfig, T5TextConfig, build_text_encoder
from maskworld.types import Prompt

EGO_SCALE = (10.0, 1.0, 3.0, 3.0)
"""What vx, vy, ax, ay are divided by. Ours."""


@dataclass(frozen=True)
class VideoPrompt:
    """Conditions of the video network."""

    text: Float[Tensor, "b m c"] | None
    text_mask: Bool[Tensor, "b m"] | None
    condition: Float[Tensor, "b k d"] | None
    """Added to the time embedding of each latent frame: ego, command, future actions."""

    def for_views(self, num_views: int) -> VideoPrompt:
        """The condition repeated for every view of a clip; views share their text."""
        if num_views == 1 or self.condition is None:
            return self
        return replace(self, condition=self.condition.repeat_interleave(num_views, dim=0))


class VideoPrompter(nn.Module):
    """Prompts to `VideoPrompt`: c^v of ReWorld, Eq. 2.

    Args:
        text: which encoder; None = no text.
        dim: width of the video network.
        ego: how ego state and command come in: added to the time embedding, in words, or not.
        num_past: past frames of a window.
        frames_per_latent: of the causal tokenizer.
        action_dim: numbers of an action per future frame; 0 = the network is not told them.
        action_scale: what they are divided by.
        fps: frames per second, where a prompt does not say.
    """

    def __init__(
        self,
        text: SmallTextConfig | T5TextConfig | None,
        dim: int,
        *,
        ego: Literal["embedding", "text", "none"] = "embedding",
        num_past: int = 1,
        frames_per_latent: int = 8,
        action_dim: int = 0,
        action_scale: tuple[float, ...] = (),
        fps: float | int = 8,
    ) -> None:
        super().__init__()
        if ego == "text" and text is None:
            raise ValueError('Expected a text encoder with ego "text", found none.')
        self.tells_ego, self.fps, self.num_past = ego == "text", float(fps), num_past
        self.num_past_latents = (num_past - 1) // frames_per_latent + 1
        self.text_encoder = build_text_encoder(text)
        if self.text_encoder is not None:
            self.null_text = nn.Parameter(torch.zeros(self.text_encoder.dim))
        self.ego: EgoEncoder | None = None
        if ego == "embedding":
            self.ego = EgoEncoder(dim=dim, command="learned", scale=EGO_SCALE)
        self.future_actions: FutureActionEncoder | None = None
        if action_dim:
            self.future_actions = FutureActionEncoder(
                action_dim, dim, frames_per_latent, action_scale
            )

    def forward(
        self,
        prompt: Prompt,
        batch_size: int,
        num_latents: int,
        dropped: Bool[Tensor, " b"] | None = None,
        dropped_actions: Bool[Tensor, " b"] | None = None,
    ) -> VideoPrompt:
        """c^v = {text, ego state, command}, and future actions where the model takes them.

        What is absent or dropped becomes a learned null.

        Args:
            prompt: `actions` has one row per frame of the window, past frames included.
            num_latents: latent frames of the window.
        """
        if dropped is None:
            dropped = torch.zeros(batch_size, dtype=torch.bool)
        text, text_mask = self._embed_text(prompt, batch_size, dropped)
        parts: list[Tensor] = []
        if self.ego is not None:
            ego = self.ego.null.expand(batch_size, -1)
            if prompt.plan is not None:
                ego = self.ego(prompt.plan.ego, prompt.plan.command, dropped.to(ego.device))
            parts.append(repeat(ego, "b d -> b k d", k=num_latents))
        if self.future_actions is not None:
            parts.append(self._embed_future(prompt, batch_size, num_latents, dropped_actions))
        return VideoPrompt(text, text_mask, sum(parts[1:], parts[0]) if parts else None)

    def _embed_text(
        self, prompt: Prompt, batch_size: int, dropped: Bool[Tensor, " b"]
    ) -> tuple[Tensor | None, Tensor | None]:
        if self.text_encoder is None:
            return None, None
        words = list(prompt.text or [""] * batch_size)
        if self.tells_ego and prompt.plan is not None:
            told = zip(prompt.plan.ego.tolist(), prompt.plan.command.tolist(), strict=True)
            words = [f"{w} {describe_ego(e, c)}".strip() for w, (e, c) in zip(words, told)]
        text, is_word = self.text_encoder(words)
        null = self.null_text.expand(batch_size, 1, -1)
        text = torch.cat([null, text.to(null)], dim=1)
        is_word = is_word.to(null.device) & ~dropped.to(null.device)[:, None]
        return text, torch.cat([torch.ones_like(is_word[:, :1]), is_word], dim=1)

    def _embed_future(
        self,
        prompt: Prompt,
        batch_size: int,
        num_latents: int,
        dropped: Bool[Tensor, " b"] | None,
    ) -> Float[Tensor, "b k d"]:
        """Zeros for the past, one embedding per future latent."""
        encoder = self.future_actions
        assert encoder is not None
        null = encoder.null.expand(batch_size, num_latents - self.num_past_latents, -1)
        future = null
        if prompt.actions is not None:
            fps = prompt.fps
            if fps is None:
                fps = torch.full((batch_size,), self.fps)
            rows = prompt.actions[:, self.num_past - 1 :].to(null)
            future = encoder(rows, fps.to(null))
            if future.shape[1] != null.shape[1]:
                raise ValueError(
                    f"Expected {null.shape[1] * encoder.frames_per_latent} rows of actions after "
                    f"the {self.num_past} past frames, found {rows.shape[1] - 1}."
                )
            absent = torch.zeros(batch_size, dtype=torch.bool)
            if prompt.has_actions is not None:
                absent = absent | ~prompt.has_actions.cpu()
            if dropped is not None:
                absent = absent | dropped.cpu()
            future = torch.where(absent.to(null.device)[:, None, None], null, future)
        past = future.new_zeros(batch_size, self.num_past_latents, future.shape[-1])
        return torch.cat([past, future], dim=1)
