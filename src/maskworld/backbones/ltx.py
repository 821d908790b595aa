"""LTX-Video's video transformer: the network of ReWorld, DriveLaW and Mask World Model.

A block is: self-attention over all tokens with rotary positions, cross-attention to the text
(without norm, gate or modulation), feed-forward. Time reaches the first and the last through a
modulation that all blocks share, plus a table of their own; every token may have its own time, so a
clean context is simply a token at t = 0. Computes what diffusers' `LTXVideoTransformer3DModel`
computes (`tests/unit/test_backbones_ltx.py`), and on request hands out what its blocks say.

Ours: `condition` (ego state, command, actions, views) enters beside the time; every third block
joins views, as in Mask World Model; a text branch is optional.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Complex, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maskworld.nn.adaln import AdaLNSingle, VelocityHead, add_gated, merge_times, modulate
from maskworld.nn.attention import attend
from maskworld.nn.feedforward import MLP
from maskworld.nn.norm import RMSNorm
from maskworld.nn.rope import grid_positions, rotary_table, rotate

__all__ = ["LTXConfig", "LTXDiT", "LTXOutput", "VelocityHead", "grid_positions"]


@dataclass(frozen=True)
class LTXConfig:
    """Shape of an LTX video transformer; the defaults are LTX-Video 2B (1,923.4 M parameters)."""

    in_channels: int = 128
    out_channels: int = 128
    num_layers: int = 28
    num_heads: int = 32
    head_dim: int = 64
    """Width = num_heads * head_dim; text is projected to the same width."""
    caption_channels: int = 4096
    """Width of the text encoder (T5-XXL)."""
    ffn_ratio: int = 4
    norm_eps: float = 1e-6
    """Of the norms before attention and feed-forward; the head's is 1e-6 in every release."""
    qk_norm_eps: float = 1e-5
    """Of the norm of queries and keys, over all heads together."""
    rope_base: tuple[float, float, float] = (20.0, 2048.0, 2048.0)
    """Seconds, rows and columns that count as 1."""
    rope_theta: float = 10000.0
    has_text: bool = True
    """False: no caption projection and no cross-attention. Ours."""
    joint_views_every: int = 3
    """Blocks 1, 4, 7, ... attend over all views together (Mask World Model: 3)."""
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.dim % 2:
            raise ValueError(
                f"Expected an even width, found {self.num_heads} heads of {self.head_dim}: rotary "
                "positions turn pairs of channels."
            )
        if self.num_layers < 1 or self.joint_views_every < 1:
            raise ValueError(
                f"Expected num_layers and joint_views_every >= 1, found {self.num_layers} and "
                f"{self.joint_views_every}."
            )

    @property
    def dim(self) -> int:
        return self.num_heads * self.head_dim


@dataclass(frozen=True)
class LTXOutput:
    """What a forward pass gives."""

    velocity: Float[Tensor, "b n c"] | None
    """None after an early exit."""
    blocks: dict[int, Float[Tensor, "b n d"]]
    """Hidden states after the blocks that were asked for, by 1-based index."""
    time: Float[Tensor, "b g d"]
    """Embedded time and condition per group of n / g tokens: what a `VelocityHead` on `blocks`
    reads."""


class Attention(nn.Module):
    """Attention whose queries and keys are normed over all heads together."""

    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.norm_query = RMSNorm(dim, eps)
        self.norm_key = RMSNorm(dim, eps)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        context: Float[Tensor, "c m d"] | None = None,
        table: Complex[Tensor, "r n pairs"] | None = None,
        attn_mask: Bool[Tensor, "c 1 1 m"] | None = None,
        num_views: int = 1,
    ) -> Float[Tensor, "b n d"]:
        """Attends to `context`, or to itself; `num_views` > 1 joins that many batch entries.

        Each view is turned by `table` before views are joined. A context row without anything
        to attend to contributes only the output's bias.
        """
        source = x if context is None else context
        query, key = self.norm_query(self.query(x)), self.norm_key(self.key(source))
        value = self.value(source)
        if table is not None:
            query, key = rotate(query, table), rotate(key, table)
        if num_views == 1:
            return self.out(attend(query, key, value, self.num_heads, attn_mask))
        query = rearrange(query, "(b v) n d -> b (v n) d", v=num_views)
        if context is None:
            key, value = (rearrange(y, "(b v) n d -> b (v n) d", v=num_views) for y in (key, value))
        joined = attend(query, key, value, self.num_heads, attn_mask)
        return self.out(rearrange(joined, "b (v n) d -> (b v) n d", v=num_views))


class LTXBlock(nn.Module):
    """One layer of the transformer."""

    def __init__(self, config: LTXConfig, joins_views: bool) -> None:
        super().__init__()
        dim = config.dim
        self.eps = config.norm_eps
        self.joins_views = joins_views
        self.table = nn.Parameter(torch.randn(6, dim) / dim**0.5)
        self.attention = Attention(dim, config.num_heads, config.qk_norm_eps)
        self.cross_attention = (
            Attention(dim, config.num_heads, config.qk_norm_eps) if config.has_text else None
        )
        self.ffn = MLP(dim, config.ffn_ratio * dim, dim)

    def forward(
        self,
        x: Float[Tensor, "bv n d"],
        modulation: Float[Tensor, "bv g 6 d"],
        table: Complex[Tensor, "r n pairs"],
        text: Float[Tensor, "b m d"] | None,
        text_mask: Bool[Tensor, "b 1 1 m"] | None,
        num_views: int,
    ) -> Float[Tensor, "bv n d"]:
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (self.table + modulation).unbind(2)
        update = self.attention(
            modulate(self._norm(x), shift, scale),
            table=table,
            num_views=num_views if self.joins_views else 1,
        )
        x = add_gated(x, update, gate)
        if self.cross_attention is not None:
            x = x + self.cross_attention(x, text, attn_mask=text_mask, num_views=num_views)
        return add_gated(x, self.ffn(modulate(self._norm(x), ffn_shift, ffn_scale)), ffn_gate)

    def _norm(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return F.rms_norm(x, x.shape[-1:], eps=self.eps)


class LTXDiT(nn.Module):
    """A velocity network over latent tokens. Knows no grid: positions say where tokens are."""

    def __init__(self, config: LTXConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = config.gradient_checkpointing
        self.proj_in = nn.Linear(config.in_channels, config.dim)
        self.adaln = AdaLNSingle(config.dim)
        self.caption = (
            MLP(config.caption_channels, config.dim, config.dim) if config.has_text else None
        )
        self.blocks = nn.ModuleList(
            LTXBlock(config, joins_views=index % config.joint_views_every == 0)
            for index in range(config.num_layers)
        )
        self.head = VelocityHead(config.dim, config.out_channels)
        self._initialize()

    def forward(
        self,
        x: Float[Tensor, "bv n c"],
        t: Float[Tensor, " bv"] | Float[Tensor, "bv g"],
        *,
        positions: Float[Tensor, "r 3 n"],
        text: Float[Tensor, "b m e"] | None = None,
        text_mask: Bool[Tensor, "b m"] | None = None,
        condition: Float[Tensor, "bv k d"] | None = None,
        num_views: int = 1,
        return_blocks: Sequence[int] = (),
        last_block: int | None = None,
    ) -> LTXOutput:
        """Velocities of the tokens `x` at the times `t`.

        Args:
            x: latent tokens in any order that `positions` and `t` follow; with several views the
                views of a scene are neighbours in the batch, bv = b * num_views.
            t: in [0, 1], per sample, per group of n / g consecutive tokens (a latent frame), or per
                token (g = n). Tokens that share a time share its embedding, however it is given;
                finding them out per token costs a wait for the accelerator.
            positions: seconds, rows and columns (`nn.rope.grid_positions`); r is bv or 1.
            text: encoder states, one row per scene; views share it.
            text_mask: True = a real text token.
            condition: added to the embedded time: per sample, group or token as `t`.
            return_blocks: 1-based indices of blocks whose hidden states are wanted.
            last_block: stop after this block, without a velocity.

        Raises:
            ValueError: text where there is no text branch or the reverse, block indices out of
                range, times or conditions in groups that do not fit the tokens.
        """
        self._check(x, text, num_views, return_blocks, last_block)
        t = t[:, None] if t.ndim == 1 else t
        if t.shape[1] == x.shape[1] and not torch.compiler.is_compiling():
            t = merge_times(t)
        modulation, embedded = self.adaln(t, condition)
        table = rotary_table(
            positions, self.config.dim, self.config.rope_base, self.config.rope_theta
        )
        if self.caption is not None:
            text = self.caption(text)
        mask = None if text_mask is None else text_mask[:, None, None, :]
        hidden, kept = self.proj_in(x), {}
        for index, block in enumerate(self.blocks[:last_block], start=1):
            arguments = (hidden, modulation, table, text, mask, num_views)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(block, *arguments, use_reentrant=False)
            else:
                hidden = block(*arguments)
            if index in return_blocks:
                kept[index] = hidden
        velocity = self.head(hidden, embedded) if last_block is None else None
        return LTXOutput(velocity=velocity, blocks=kept, time=embedded)

    def _check(
        self,
        x: Tensor,
        text: Tensor | None,
        num_views: int,
        return_blocks: Sequence[int],
        last_block: int | None,
    ) -> None:
        if (text is not None) != self.config.has_text:
            raise ValueError(
                f"Expected text exactly where has_text is set, found has_text "
                f"{self.config.has_text} and {'no ' if text is None else ''}text: pass the "
                "encoder's states (those of the empty prompt for none), or change has_text."
            )
        num_scenes = x.shape[0] // num_views
        if x.shape[0] % num_views or (text is not None and text.shape[0] != num_scenes):
            raise ValueError(
                f"Expected scenes of {num_views} views and one text per scene, found a batch of "
                f"{x.shape[0]}{'' if text is None else f' and {text.shape[0]} texts'}."
            )
        depth = self.config.num_layers if last_block is None else last_block
        if not 1 <= depth <= self.config.num_layers or any(
            not 1 <= index <= depth for index in return_blocks
        ):
            raise ValueError(
                f"Expected blocks from 1 to {min(depth, self.config.num_layers)}, found "
                f"return_blocks {tuple(return_blocks)} and last_block {last_block}: "
                f"the network has {self.config.num_layers}."
            )

    def _initialize(self) -> None:
        """As PixArt-alpha: Xavier, small time embedding, silent cross-attention and head."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for linear in (self.adaln.time.up, self.adaln.time.down, self.adaln.project):
            nn.init.normal_(linear.weight, std=0.02)
        for block in self.blocks:
            assert isinstance(block, LTXBlock)
            if block.cross_attention is not None:
                nn.init.zeros_(block.cross_attention.out.weight)
        nn.init.zeros_(self.head.project.weight)
