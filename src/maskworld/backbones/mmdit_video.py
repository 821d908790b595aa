"""What MaskGWM adds to an image transformer: attention over time, and over cameras.

Reference: MaskGWM, sections 3.1 and 3.4, Eq. 5.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from maskworld.masking import DroppedTokens
from maskworld.nn.adaln import modulate, sinusoids
from maskworld.nn.attention import attend
from maskworld.nn.feedforward import MLP
from maskworld.nn.norm import plain_norm

ViewAttention = Literal["none", "K", "KW", "KHW"]
EPS = 1e-6


class TemporalBlock(nn.Module):
    """Attention over the frames at one place, then to text and action, then feed-forward.

    Each part adds f_b(f_scale(m_c tau) z + f_shift(m_c tau)) to z, on the normed z as everywhere in
    the network; m_c tau is the frame's time, 0 on given frames. All three outputs start at zero.
    Embedded actions are added to the keys and values of the second attention, where every image
    reads its own frame's text. A network without text has one learned state to read, to which any
    query gives the weight 1: there the state and the action are added as they are.

    Reference: MaskGWM, section 3.1 and Eq. 5.
    """

    def __init__(self, dim: int, num_heads: int, has_text: bool, action_dim: int) -> None:
        super().__init__()
        self.num_heads, self.has_text = num_heads, has_text
        self.frame = MLP(256, dim, dim)
        self.modulation = nn.Linear(dim, (6 if has_text else 4) * dim)
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        if has_text:
            self.cross_query, self.cross_key = (nn.Linear(dim, dim) for _ in range(2))
        else:
            self.no_text = nn.Parameter(torch.zeros(dim))
        self.cross_value, self.cross_out = (nn.Linear(dim, dim) for _ in range(2))
        pushed = (2 if has_text else 1) * dim
        self.action = nn.Linear(action_dim, pushed) if action_dim else None
        self.ffn = MLP(dim, 4 * dim, dim)
        silent = [self.out, self.cross_out, self.ffn.down]
        for linear in [*silent, *([self.action] if self.action is not None else [])]:
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        x: Float[Tensor, "b t v n d"],
        text: Float[Tensor, "btv m d"] | None,
        condition: Float[Tensor, "b t d"],
        actions: Float[Tensor, "b t a"] | None,
        left: DroppedTokens | None = None,
    ) -> Float[Tensor, "b t v n d"]:
        """Args:
        left: which tokens of the frames `x` holds, if a token is to meet those of its own place
            in other frames, where they are left; None: those of its own slot.
        """
        b, t, v, n, _ = x.shape
        parts = self.modulation(F.silu(condition)).flatten(0, 1).unsqueeze(1)
        pairs = parts.chunk(3 if self.has_text else 2, dim=-1)

        def at(y: Tensor, number: int) -> Tensor:  # Eq. 5
            shift, scale = pairs[number].chunk(2, dim=-1)
            return modulate(plain_norm(y), shift, scale)

        frames = torch.arange(t, device=x.device, dtype=torch.float32)
        order = self.frame(sinusoids(frames).to(x.dtype))
        y = x.reshape(b * t, v * n, -1)  # only heads change their order
        h = at((x + order[:, None, None]).reshape(y.shape), 0)
        y = y + self.out(self._attend_over_time(h, (b, t, v), left))
        if self.has_text:
            y = y + self._read(at(y, 1), text, actions, (b, t, v))
        else:
            state = self.no_text.expand(b, t, -1)
            if self.action is not None and actions is not None:
                state = self.cross_value(state) + self.action(actions)
            else:
                state = self.cross_value(state)
            y = y + self.cross_out(state).flatten(0, 1)[:, None]
        y = y + self.ffn(at(y, -1))
        return y.view(x.shape)

    def _attend_over_time(
        self,
        h: Float[Tensor, "bt vn d"],
        shape: tuple[int, int, int],
        left: DroppedTokens | None,
    ) -> Float[Tensor, "bt vn d"]:
        b, t, v = shape
        parts = [layer(h) for layer in (self.query, self.key, self.value)]
        if left is None:
            query, key, value = (rearrange(x, "(b t) m d -> (b m) t d", b=b) for x in parts)
            said = attend(query, key, value, self.num_heads)
            return rearrange(said, "(b m) t d -> (b t) m d", b=b)
        absent = h.new_zeros(b, t, v, left.dropped.shape[-1], h.shape[-1])
        pattern = "(b t) (v n) d -> b t v n d"
        placed = (
            left.scatter(rearrange(part, pattern, b=b, v=v).to(absent), absent) for part in parts
        )
        query, key, value = (rearrange(x, "b t v n d -> (b v n) t d") for x in placed)
        may = repeat(~left.dropped, "b t n -> (b v n) 1 1 t", v=v)
        may = may | torch.eye(t, dtype=torch.bool, device=h.device)  # no empty row in the softmax
        said = attend(query, key, value, self.num_heads, may)
        whole = rearrange(said, "(b v n) t d -> b t v n d", b=b, v=v)
        return rearrange(left.gather(whole), "b t v n d -> (b t) (v n) d")

    def _read(
        self,
        h: Float[Tensor, "bt vn d"],
        text: Float[Tensor, "btv m d"] | None,
        actions: Float[Tensor, "b t a"] | None,
        shape: tuple[int, int, int],
    ) -> Float[Tensor, "bt vn d"]:
        """What each image reads of its frame's text and action."""
        if text is None:
            raise ValueError("Expected text for a network with text_dim, found none.")
        key, value = self.cross_key(text), self.cross_value(text)
        if self.action is not None and actions is not None:
            pushed = repeat(self.action(actions), "b t d -> (b t v) 1 d", v=shape[2])
            to_key, to_value = pushed.chunk(2, dim=-1)
            key, value = key + to_key, value + to_value
        query = rearrange(self.cross_query(h), "bt (v n) d -> (bt v) n d", v=shape[2])
        return self.cross_out(attend(query, key, value, self.num_heads)).reshape(h.shape)


class ViewBlock(nn.Module):
    """Attention over the cameras of one moment, by default within an image row; starts silent.

    Reference: MaskGWM, section 3.4.
    """

    def __init__(self, dim: int, num_heads: int, kind: ViewAttention, max_views: int) -> None:
        super().__init__()
        self.num_heads, self.kind = num_heads, kind
        self.view = nn.Parameter(torch.randn(max_views, 1, dim) * 0.02)
        self.norm, self.ffn_norm = (nn.LayerNorm(dim, eps=EPS) for _ in range(2))
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.ffn = MLP(dim, 4 * dim, dim)
        for linear in (self.out, self.ffn.down):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Float[Tensor, "b t v n d"], rows: int) -> Float[Tensor, "b t v n d"]:
        b, t, v, n, _ = x.shape
        if n % rows:
            raise ValueError(
                f"Expected as many tokens in each of {rows} rows, found {n} per image: hide the "
                "same number in every row."
            )
        h = self.norm(x + self.view[:v])
        joined = {
            "K": ("b t v (r w) d", "(b t r w) v d"),
            "KW": ("b t v (r w) d", "(b t r) (v w) d"),
            "KHW": ("b t v (r w) d", "(b t) (v r w) d"),
        }[self.kind]
        sizes = {"b": b, "t": t, "v": v, "r": rows}
        query, key, value = (
            rearrange(layer(h), f"{joined[0]} -> {joined[1]}", r=rows)
            for layer in (self.query, self.key, self.value)
        )
        said = attend(query, key, value, self.num_heads)
        back = rearrange(said, f"{joined[1]} -> {joined[0]}", **sizes, w=n // rows)
        x = x + self.out(back)
        return x + self.ffn(self.ffn_norm(x))
