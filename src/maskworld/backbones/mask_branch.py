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
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskworld.flow import over_channels
from maskworld.masking import DropKind, DroppedTokens, gather_tokens, scatter_tokens
from maskworld.nn.adaln import add_gated, modulate
from maskworld.nn.attention import attend
from maskworld.nn.feedforward import MLP
from maskworld.nn.norm import RMSNorm, plain_norm

TokenKind = Literal["mixed", "learned", "noise", "latent"]
TimeAttention = Literal["slots", "places"]
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
    time_attention: TimeAttention = "slots"
    """What temporal attention joins while tokens are dropped. slots: the s-th tokens that are left
    (the paper's shifted attention, dense); places: equal places, with an attention mask (its
    baselines: with "time_random" plain random masks, with "time_rowwise" rows without shift)."""
    token: TokenKind = "mixed"
    """Eq. 3; "learned" (p) and "noise" (f_m(eps)) are its ablation; "latent" puts the embedded
    noisy latent itself into the empty place, as the contrastive rival does."""
    token_times: tuple[float, float] = (0.0, 1.0)
    """Only samples of these times lose tokens; the paper's ablation has "learned" in [0.5, 1] and
    "noise" in [0, 0.5]. Others take the plain pass [?]."""
    decoder_layers: int = 5
    """Last layers, which see all tokens again (5 in the released module; [?] in the paper)."""
    branch_depth: int = 1
    """0: no F, a dropped place keeps its mask token."""
    is_shared: bool = False
    """One block for both kinds of masks (worse in Table 4b)."""
    hides_given: bool = True
    """Whether given frames lose tokens too, as in the released module, whose mask token then holds
    noise that never entered those frames. False: there a dropped token comes back as it was."""

    def __post_init__(self) -> None:
        low, high = self.token_times
        if not (0 <= low < high <= 1 and 0 <= self.p_time <= 1 and self.branch_depth >= 0):
            raise ValueError(
                "Expected token_times (low, high) with 0 <= low < high <= 1, p_time in [0, 1] and "
                f"branch_depth >= 0, found {self.token_times}, {self.p_time} and "
                f"{self.branch_depth}."
            )

    def check(self, num_layers: int, joins_rows: bool) -> None:
        """Whether a network can be trained like this.

        Args:
            joins_rows: its view blocks join rows, which must then all have one length.

        Raises:
            ValueError: a decoder of none or all of its layers; masks that leave rows of different
                lengths.
        """
        if not 0 < self.decoder_layers < num_layers:
            raise ValueError(
                f"Expected 1 to {num_layers - 1} decoder layers, found {self.decoder_layers}."
            )
        kinds = (self.space_kind, self.time_kind)
        if joins_rows and not all(kind.endswith("rowwise") for kind in kinds):
            raise ValueError(
                f"Expected masks by rows where view blocks join rows (KW), found {kinds}: set "
                'space_kind "spatial_rowwise" and time_kind "time_rowwise".'
            )


class MaskTokens(nn.Module):
    """m_tau = (1 - tau) f_m(eps) + tau p, and where the token was.

    f_m sees the very noise that made the latents, with a 3 x 3 window that lands on the grid of
    patches; p is learned. "learned" is p alone, "noise" f_m(eps) alone (the paper's ablation).

    Reference: MaskGWM, Eq. 3. The place, through a linear layer, is of the released module.
    """

    def __init__(self, kind: TokenKind, in_channels: int, patch_size: int, dim: int) -> None:
        super().__init__()
        if kind == "latent":
            raise ValueError('Expected a token of its own, found "latent", which needs no module.')
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

    The blocks start silent, so that at first a dropped place holds its mask token; with depth 0 it
    always does.
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
        tokens: DroppedTokens,
    ) -> Float[Tensor, "b t v n d"]:
        """x where tokens were left, F(x) where they were dropped.

        Args:
            is_time: which samples lost tokens frame by frame; they go through F_t, others F_s.
        """
        gone = tokens.gone
        if not gone.shape[-1] or not self.space:
            return x
        guessed = gather_tokens(x, gone)
        for rows, blocks, over_time in ((~is_time, self.space, False), (is_time, self.time, True)):
            if not bool(rows.any()):
                continue
            y, words = x[rows], None
            if text is not None:
                words = text.unflatten(0, (len(x), -1))[rows].flatten(0, 1)
            for index, block in enumerate(blocks):
                asked = gone[rows] if index == len(blocks) - 1 else None
                y = block(y, words, condition[rows], over_time, asked)
            guessed[rows] = y
        return scatter_tokens(guessed, gone, x)


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
        asked: Int[Tensor, "b t k"] | None = None,
    ) -> Float[Tensor, "b t v k d"]:
        """All tokens, or those that are asked for: all are attended to, and the rest is done for
        the asked alone."""
        b, t, v, n, _ = x.shape
        parts = self.table + self.modulation(F.silu(condition)).unflatten(-1, (6, -1))
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = parts.flatten(0, 1).split(1, dim=1)
        y = x.reshape(b * t, v * n, -1)
        h = modulate(plain_norm(y), shift, scale)
        query, key, value = (layer(h) for layer in (self.query, self.key, self.value))
        query, key = (
            norm(part.unflatten(-1, (self.num_heads, -1))).flatten(-2)
            for norm, part in ((self.norm_query, query), (self.norm_key, key))
        )
        if over_time:
            query, key, value = (
                rearrange(p, "(b t) m d -> (b m) t d", b=b) for p in (query, key, value)
            )
            said = attend(query, key, value, self.num_heads)
            said = rearrange(said, "(b m) t d -> b t m d", b=b)
        else:
            query, key, value = (p.unflatten(1, (v, n)).flatten(0, 1) for p in (query, key, value))
            said = attend(query, key, value, self.num_heads)
        said = said.reshape(x.shape)
        if asked is not None:
            x, said = gather_tokens(x, asked), gather_tokens(said, asked)
        y = x.reshape(b * t, -1, x.shape[-1])
        y = add_gated(y, self.out(said.reshape(y.shape)), gate)
        if self.cross is not None and text is not None:
            to_query, to_key, to_value, out = self.cross
            query = to_query(y).reshape(b * t * v, -1, y.shape[-1])
            read = attend(query, to_key(text), to_value(text), self.num_heads)
            y = y + out(read).reshape(y.shape)
        y = add_gated(y, self.ffn(modulate(plain_norm(y), ffn_shift, ffn_scale)), ffn_gate)
        return y.view(x.shape)
