"""MaskGWM's mask reconstruction: what stands for a dropped token, and the two blocks that guess it.

An encoder saw the tokens that are left. Here a mask token takes each empty place; then one small
transformer block, over a frame's tokens where frames lost the same places, over a place's frames
where each frame lost its own, guesses what was there. Only the dropped places take its guess (the
"masked shortcut"). It runs in training only.

Reference: MaskGWM, section 3.2 and 3.3, Eq. 3 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from maskworld.flow import over_channels
from maskworld.masking import DropKind
from maskworld.nn.adaln import add_gated, modulate
from maskworld.nn.attention import attend
from maskworld.nn.feedforward import MLP
from maskworld.nn.norm import RMSNorm, plain_norm

TokenKind = Literal["mixed", "learned", "noise"]
EPS = 1e-6


@dataclass(frozen=True)
class ReconstructionConfig:
    """What is dropped in training and who guesses it; the paper's value beside each field."""

    ratio: float = 0.25
    """Share of the tokens of every row that is dropped."""
    p_time: float = 0.5
    """Share of samples that lose tokens frame by frame; the others lose the same in all [?]."""
    space_kind: DropKind = "spatial"
    """"spatial_rowwise" where view blocks need rows of one length."""
    time_kind: DropKind = "time_rowwise"
    """"time_random": without rows, the paper's ablation."""
    token: TokenKind = "mixed"
    """Eq. 3; "learned" and "noise" are its ablation."""
    decoder_layers: int = 5
    """Last layers, which see all tokens again (5 in the released module; [?] in the paper)."""
    branch_depth: int = 1
    is_shared: bool = False
    """One block for both kinds of masks (worse in Table 4b)."""
    hides_given: bool = True
    """Whether given frames lose tokens too, as in the released module, whose mask token then holds
    noise that never entered those frames. False: there a dropped token comes back as it was."""


class MaskTokens(nn.Module):
    """m_tau = (1 - tau) f_m(eps) + tau p, and where the token was.

    f_m sees the very noise that made the latents, with a 3 x 3 window that lands on the grid of
    patches; p is learned. "learned" is p alone, "noise" f_m(eps) alone (the paper's ablation).

    Reference: MaskGWM, Eq. 3. The place, through a linear layer, is of the released module.
    """

    def __init__(self, kind: TokenKind, in_channels: int, patch_size: int, dim: int) -> None:
        super().__init__()
        self.kind = kind
        self.from_noise = nn.Conv2d(in_channels, dim, 3, stride=patch_size, padding=1)
        self.learned = nn.Parameter(torch.zeros(dim))
        self.place = nn.Linear(dim, dim)

    def forward(
        self,
        eps: Float[Tensor, "b t v c h w"],
        t: Float[Tensor, "b t"],
        places: Float[Tensor, "n d"],
    ) -> Float[Tensor, "b t v n d"]:
        """A mask token for every place.

        Args:
            places: the positions that the network adds to its patches.
        """
        noise = self.from_noise(eps.flatten(0, 2)).flatten(2).mT
        noise = noise.unflatten(0, eps.shape[:3])
        learned = self.learned.expand_as(noise)
        if self.kind == "mixed":
            tau = over_channels(t, noise)
            token = (1 - tau) * noise + tau * learned  # Eq. 3
        else:
            token = learned if self.kind == "learned" else noise
        return token + self.place(places)


class MaskBranch(nn.Module):
    """F_s and F_t of Eq. 4, each `depth` blocks; shared: one for both kinds (Table 4b).

    The blocks start silent, so that at first a dropped place holds its mask token.
    """

    def __init__(
        self, dim: int, num_heads: int, has_text: bool, depth: int = 1, is_shared: bool = False
    ) -> None:
        super().__init__()
        self.space = nn.ModuleList(BranchBlock(dim, num_heads, has_text) for _ in range(depth))
        self.time = (
            self.space
            if is_shared
            else nn.ModuleList(BranchBlock(dim, num_heads, has_text) for _ in range(depth))
        )

    def forward(
        self,
        x: Float[Tensor, "b t v n d"],
        text: Float[Tensor, "btv m d"] | None,
        condition: Float[Tensor, "b t d"],
        is_time: Bool[Tensor, " b"],
        dropped: Bool[Tensor, "b t n"],
    ) -> Float[Tensor, "b t v n d"]:
        """x where tokens were left, F(x) where they were dropped.

        Args:
            is_time: which samples lost tokens frame by frame; they go through F_t, others F_s.
        """
        guessed = torch.empty_like(x)
        for rows, blocks, over_time in ((~is_time, self.space, False), (is_time, self.time, True)):
            if not bool(rows.any()):
                continue
            y, words = x[rows], None
            if text is not None:
                words = text.unflatten(0, (len(x), -1))[rows].flatten(0, 1)
            for block in blocks:
                y = block(y, words, condition[rows], over_time)
            guessed[rows] = y
        return torch.where(dropped[:, :, None, :, None], guessed, x)


class BranchBlock(nn.Module):
    """Self-attention along one axis, cross-attention to the text, feed-forward; adaLN by time."""

    def __init__(self, dim: int, num_heads: int, has_text: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.modulation = nn.Linear(dim, 6 * dim)
        self.table = nn.Parameter(torch.randn(6, dim) / dim**0.5)
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_query, self.norm_key = (RMSNorm(dim // num_heads, EPS) for _ in range(2))
        self.cross: nn.ModuleList | None = None
        silent = [self.out]
        if has_text:
            self.cross = nn.ModuleList(nn.Linear(dim, dim) for _ in range(4))
            silent.append(self.cross[3])  # type: ignore[arg-type]
        self.ffn = MLP(dim, 4 * dim, dim)
        for linear in (*silent, self.ffn.down):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        x: Float[Tensor, "b t v n d"],
        text: Float[Tensor, "btv m d"] | None,
        condition: Float[Tensor, "b t d"],
        over_time: bool,
    ) -> Float[Tensor, "b t v n d"]:
        b, t, v = x.shape[:3]
        parts = self.table + self.modulation(F.silu(condition)).unflatten(-1, (6, -1))
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (
            repeat(part, "b t d -> (b t v) 1 d", v=v) for part in parts.unbind(2)
        )
        y = x.flatten(0, 2)
        h = modulate(plain_norm(y), shift, scale)
        heads = [layer(h) for layer in (self.query, self.key, self.value)]
        for i, norm in enumerate((self.norm_query, self.norm_key)):
            heads[i] = norm(heads[i].unflatten(-1, (self.num_heads, -1))).flatten(-2)
        if over_time:
            pattern = "(b t v) n d -> (b v n) t d"
            heads = [rearrange(part, pattern, b=b, t=t) for part in heads]
            said = attend(heads[0], heads[1], heads[2], self.num_heads)
            said = rearrange(said, "(b v n) t d -> (b t v) n d", b=b, v=v)
        else:
            said = attend(heads[0], heads[1], heads[2], self.num_heads)
        y = add_gated(y, self.out(said), gate)
        if self.cross is not None and text is not None:
            to_query, to_key, to_value, out = self.cross
            y = y + out(attend(to_query(y), to_key(text), to_value(text), self.num_heads))
        y = add_gated(y, self.ffn(modulate(plain_norm(y), ffn_shift, ffn_scale)), ffn_gate)
        return y.unflatten(0, (b, t, v))
