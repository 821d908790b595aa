"""What MaskGWM adds to an image transformer: attention over time, and over cameras.

Reference: MaskGWM, sections 3.1 and 3.4, Eq. 5.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

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
    reads its own frame's text; a network without text reads one learned state instead.

    Reference: MaskGWM, section 3.1 and Eq. 5.
    """

    def __init__(self, dim: int, num_heads: int, has_text: bool, action_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.frame = MLP(256, dim, dim)
        self.modulation = nn.Linear(dim, 6 * dim)
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.cross_query, self.cross_key, self.cross_value, self.cross_out = (
            nn.Linear(dim, dim) for _ in range(4)
        )
        self.no_text = None if has_text else nn.Parameter(torch.zeros(1, 1, dim))
        self.action = nn.Linear(action_dim, 2 * dim) if action_dim else None
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
        hidden: Bool[Tensor, "b t v n"] | None = None,
    ) -> Float[Tensor, "b t v n d"]:
        """`hidden`: True = not seen by other frames' tokens; each token always sees itself."""
        b, t, v, n, _ = x.shape
        parts = self.modulation(F.silu(condition)).chunk(6, dim=-1)

        def at(y: Tensor, number: int) -> Tensor:  # Eq. 5
            shift, scale = (repeat(p, "b t d -> (b v n) t d", v=v, n=n) for p in parts[number:][:2])
            return modulate(plain_norm(y), shift, scale)

        y = rearrange(x, "b t v n d -> (b v n) t d")
        frames = torch.arange(t, device=x.device, dtype=torch.float32)
        h = at(y + self.frame(sinusoids(frames).to(x.dtype)), 0)
        mask = None
        if hidden is not None:
            may = rearrange(~hidden, "b t v n -> (b v n) 1 1 t")
            mask = may | torch.eye(t, dtype=torch.bool, device=x.device)
        said = attend(self.query(h), self.key(h), self.value(h), self.num_heads, mask)
        y = y + self.out(said)
        y = y + self._read(at(y, 2), text, actions, (b, v, n))
        y = y + self.ffn(at(y, 4))
        return rearrange(y, "(b v n) t d -> b t v n d", b=b, v=v)

    def _read(
        self,
        h: Float[Tensor, "bvn t d"],
        text: Float[Tensor, "btv m d"] | None,
        actions: Float[Tensor, "b t a"] | None,
        shape: tuple[int, int, int],
    ) -> Float[Tensor, "bvn t d"]:
        """What each image reads of its frame's text and action."""
        (b, v, _), t = shape, h.shape[1]
        if text is None:
            assert self.no_text is not None
            text = self.no_text.expand(b * t * v, 1, -1)
        key, value = self.cross_key(text), self.cross_value(text)
        if self.action is not None and actions is not None:
            pushed = repeat(self.action(actions), "b t d -> (b t v) 1 d", v=v)
            to_key, to_value = pushed.chunk(2, dim=-1)
            key, value = key + to_key, value + to_value
        query = rearrange(self.cross_query(h), "(b v n) t d -> (b t v) n d", b=b, v=v)
        said = self.cross_out(attend(query, key, value, self.num_heads))
        return rearrange(said, "(b t v) n d -> (b v n) t d", b=b, v=v)


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
