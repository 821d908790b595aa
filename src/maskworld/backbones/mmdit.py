"""Stable Diffusion 3's transformer, grown to videos of several cameras: MaskGWM's network.

A layer is SD3's joint block over the patches of one frame and its text (two streams, one attention;
computes what diffusers' `SD3Transformer2DModel` computes, `tests/unit/test_backbones_mmdit.py`),
then, for videos, a temporal block over the same place in all frames, then, for several cameras, a
view block over the same image row of all cameras. The last two start silent, so that a network
begins as the image model it was; they read the text and never change it. Every frame has its own
time; given frames have t = 0.

MaskGWM hides tokens between layers, so the pieces of the forward pass (`embed`, `condition`,
`read_text`, `run`, `head`) are public, and `forward` is their plain composition.

Reference: MaskGWM, section 3.1, Eq. 5, and section 7.1; Esser et al. 2024 (SD3).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maskworld.backbones.mmdit_video import TemporalBlock, ViewAttention, ViewBlock
from maskworld.masking import DroppedTokens
from maskworld.nn.adaln import TimeEmbedding, add_gated, modulate
from maskworld.nn.attention import attend
from maskworld.nn.feedforward import MLP
from maskworld.nn.norm import RMSNorm, plain_norm

EPS = 1e-6
"""Of every norm in SD3's releases."""


@dataclass(frozen=True)
class MMDiTConfig:
    """Shape of the network; the defaults are SD3-medium's (2,028 M parameters as an image model)
    with MaskGWM's temporal blocks."""

    in_channels: int = 16
    out_channels: int = 16
    patch_size: int = 2
    num_layers: int = 24
    num_heads: int = 24
    head_dim: int = 64
    """Width = num_heads * head_dim."""
    text_dim: int = 4096
    """Width of the text states. 0: no text stream. Ours."""
    pooled_dim: int = 2048
    """Width of the pooled text. 0: none."""
    qk_norm: bool = False
    """RMS norm of queries and keys (SD3.5; SD3-medium has none)."""
    position_grid: int = 192
    """Patches per side of the table of positions; smaller images take its middle."""
    position_base: int = 64
    """Patches per side that the table counts in (a 1024 x 1024 image)."""
    has_time: bool = True
    """A temporal block after each joint block (MaskGWM). False: the image model."""
    view_attention: ViewAttention = "none"
    """Which tokens a view block joins: the same place in all cameras (K), the same row (KW,
    MaskGWM-mview), all (KHW)."""
    max_views: int = 6
    action_dim: int = 0
    """Width of the embedded actions that temporal blocks add to their keys and values; 0: none."""
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.dim % 4:
            raise ValueError(
                f"Expected a width divisible by 4, found {self.num_heads} heads of "
                f"{self.head_dim}: positions are sines and cosines of rows and columns."
            )
        if self.action_dim and not self.has_time:
            raise ValueError(
                "Expected has_time with actions, found an image model: actions enter temporal "
                "blocks. Set action_dim=0."
            )

    @property
    def dim(self) -> int:
        return self.num_heads * self.head_dim


class MMDiT(nn.Module):
    """Velocities of the latents of a video of several views."""

    positions: Tensor

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        self.config = config
        dim, patch = config.dim, config.patch_size
        self.patch_in = nn.Conv2d(config.in_channels, dim, patch, stride=patch)
        table = sincos_table(config.position_grid, dim, config.position_base)
        self.register_buffer("positions", table[None])
        self.time = TimeEmbedding(dim)
        self.pooled = _PooledText(config.pooled_dim, dim) if config.pooled_dim else None
        self.text_in = nn.Linear(config.text_dim, dim) if config.text_dim else None
        self.layers = nn.ModuleList(
            MMDiTLayer(config, is_last=i == config.num_layers - 1) for i in range(config.num_layers)
        )
        self.out_modulation = nn.Linear(dim, 2 * dim)
        self.proj_out = nn.Linear(dim, patch * patch * config.out_channels)

    def forward(
        self,
        z: Float[Tensor, "b t v c h w"],
        t: Float[Tensor, "b t"],
        text: Float[Tensor, "b m e"] | None = None,
        pooled: Float[Tensor, "b p"] | None = None,
        actions: Float[Tensor, "b t a"] | None = None,
    ) -> Float[Tensor, "b t v o h w"]:
        """Velocity of `z` at the frames' times `t` in [0, 1].

        Args:
            text, pooled: of the text encoders; required exactly where the config has their widths.
            actions: embedded, one per frame; None = none known.

        Raises:
            ValueError: sides that are no multiple of the patch or beyond the table of positions;
                text or actions that do not fit the config; more views than the config's.
        """
        grid = self.check(z, text, pooled, actions)
        condition = self.condition(t, pooled)
        states = self.read_text(text, z.shape[1] * z.shape[2])
        x, _ = self.run(self.embed(z), states, condition, actions, rows=grid[0])
        return self.head(x, condition, grid)

    def embed(self, z: Float[Tensor, "b t v c h w"]) -> Float[Tensor, "b t v n d"]:
        """Patches in raster order, their place already in them: tokens can be dropped now."""
        patches = self.patch_in(z.flatten(0, 2))
        x = patches.flatten(2).mT + self.places(*patches.shape[-2:]).to(patches.dtype)
        return x.unflatten(0, z.shape[:3])

    def places(self, gh: int, gw: int) -> Float[Tensor, "n d"]:
        """Positions of a grid of patches: the middle of the table."""
        size = self.config.position_grid
        table = self.positions.view(size, size, -1)
        top, left = (size - gh) // 2, (size - gw) // 2
        return table[top : top + gh, left : left + gw].flatten(0, 1)

    def condition(
        self, t: Float[Tensor, "b t"], pooled: Float[Tensor, "b p"] | None = None
    ) -> Float[Tensor, "b t d"]:
        """Embedded time of every frame, and the pooled text."""
        embedded = self.time(t)
        if self.pooled is not None and pooled is not None:
            embedded = embedded + self.pooled(pooled)[:, None]
        return embedded

    def read_text(
        self, text: Float[Tensor, "b m e"] | None, num_images: int
    ) -> Float[Tensor, "bf m d"] | None:
        """The text stream, once per image of every sample; None without text."""
        if self.text_in is None or text is None:
            return None
        return self.text_in(text).repeat_interleave(num_images, dim=0)

    def run(
        self,
        x: Float[Tensor, "b t v n d"],
        text: Float[Tensor, "btv m d"] | None,
        condition: Float[Tensor, "b t d"],
        actions: Float[Tensor, "b t a"] | None = None,
        *,
        rows: int,
        layers: Iterable[int] | None = None,
        left: DroppedTokens | None = None,
    ) -> tuple[Float[Tensor, "b t v n d"], Float[Tensor, "btv m d"] | None]:
        """Some layers (from 1; all by default), and the text as they leave it.

        Args:
            x: tokens row by row, as many in each of `rows` image rows; may be a part of all.
            left: which tokens `x` holds, if temporal attention is to join equal places instead of
                equal slots (MaskGWM's masked baseline).
        """
        chosen = range(1, self.config.num_layers + 1) if layers is None else layers
        for index in chosen:
            arguments = (x, text, condition, actions, rows, left)
            layer = self.layers[index - 1]
            if self.config.gradient_checkpointing and torch.is_grad_enabled():
                x, text = checkpoint(layer, *arguments, use_reentrant=False)
            else:
                x, text = layer(*arguments)
        return x, text

    def head(
        self,
        x: Float[Tensor, "b t v n d"],
        condition: Float[Tensor, "b t d"],
        grid: tuple[int, int],
    ) -> Float[Tensor, "b t v o h w"]:
        """Velocity of all tokens of a grid of patches."""
        b, v = len(x), x.shape[2]
        scale, shift = self.out_modulation(F.silu(condition)).chunk(2, dim=-1)
        flat = rearrange(x, "b t v n d -> (b t) (v n) d")
        scale, shift = (rearrange(y, "b t d -> (b t) 1 d") for y in (scale, shift))
        out = self.proj_out(modulate(plain_norm(flat), shift, scale))
        return rearrange(
            out,
            "(b t) (v gh gw) (p q c) -> b t v c (gh p) (gw q)",
            b=b,
            v=v,
            gh=grid[0],
            gw=grid[1],
            p=self.config.patch_size,
            q=self.config.patch_size,
        )

    def check(
        self,
        z: Float[Tensor, "b t v c h w"],
        text: Float[Tensor, "b m e"] | None,
        pooled: Float[Tensor, "b p"] | None,
        actions: Float[Tensor, "s r a"] | None,
    ) -> tuple[int, int]:
        """The grid of patches, if everything fits; errors as in `forward`."""
        config, (h, w) = self.config, z.shape[-2:]
        patch, largest = config.patch_size, config.patch_size * config.position_grid
        if h % patch or w % patch or max(h, w) > largest:
            raise ValueError(
                f"Expected latents with sides of multiples of {patch} up to {largest}, found "
                f"{h} x {w}: cut or scale the frames, or set position_grid."
            )
        for name, value, width in (
            ("text", text, config.text_dim),
            ("pooled", pooled, config.pooled_dim),
        ):
            if (value is not None) != bool(width):
                raise ValueError(
                    f"Expected {name} exactly where the config has its width, found width {width} "
                    f"and {'no ' if value is None else ''}{name}: give the states of an empty "
                    f"prompt for none, or set {name}_dim."
                )
        if actions is not None and not config.action_dim:
            raise ValueError("Expected no actions for a network without action_dim, found some.")
        if actions is not None and actions.shape[:2] != z.shape[:2]:
            raise ValueError(
                f"Expected actions of {len(z)} samples and {z.shape[1]} frames, found "
                f"{len(actions)} and {actions.shape[1]}: give one row per frame, the first "
                "included, NaN where nothing is known."
            )
        if z.shape[2] > 1 and (config.view_attention == "none" or z.shape[2] > config.max_views):
            raise ValueError(
                f"Expected at most {config.max_views} views and view_attention to join them, found "
                f"{z.shape[2]} views and view_attention {config.view_attention!r}."
            )
        return h // patch, w // patch


class MMDiTLayer(nn.Module):
    """A joint block, and the temporal and view blocks after it."""

    def __init__(self, config: MMDiTConfig, is_last: bool) -> None:
        super().__init__()
        self.joint = JointBlock(config, updates_text=not is_last)
        dim, heads, kind = config.dim, config.num_heads, config.view_attention
        self.temporal = (
            TemporalBlock(dim, heads, config.text_dim > 0, config.action_dim)
            if config.has_time
            else None
        )
        self.views = ViewBlock(dim, heads, kind, config.max_views) if kind != "none" else None

    def forward(
        self,
        x: Float[Tensor, "b t v n d"],
        text: Float[Tensor, "btv m d"] | None,
        condition: Float[Tensor, "b t d"],
        actions: Float[Tensor, "b t a"] | None,
        rows: int,
        left: DroppedTokens | None = None,
    ) -> tuple[Float[Tensor, "b t v n d"], Float[Tensor, "btv m d"] | None]:
        b, t, v, _, _ = x.shape
        read = text
        per_image = repeat(condition, "b t d -> (b t v) 1 d", v=v)
        flat, text = self.joint(x.flatten(0, 2), text, per_image)
        x = flat.unflatten(0, (b, t, v))
        if self.temporal is not None:
            x = self.temporal(x, read if text is None else text, condition, actions, left)
        if self.views is not None:
            x = self.views(x, rows)
        return x, text


class JointBlock(nn.Module):
    """SD3's block: image and text with weights of their own and one attention over both."""

    def __init__(self, config: MMDiTConfig, updates_text: bool) -> None:
        super().__init__()
        self.image = _Stream(config, is_updated=True)
        self.text = _Stream(config, is_updated=updates_text) if config.text_dim else None
        self.num_heads = config.num_heads

    def forward(
        self,
        x: Float[Tensor, "f n d"],
        text: Float[Tensor, "f m d"] | None,
        condition: Float[Tensor, "f 1 d"],
    ) -> tuple[Float[Tensor, "f n d"], Float[Tensor, "f m d"] | None]:
        """Both streams; the last block of a network hands the text back as it came."""
        n, image = x.shape[1], self.image.read(x, condition)
        if self.text is None or text is None:
            said = attend(*image.heads, self.num_heads)
            return self.image.write(x, said, image.rest), text
        words = self.text.read(text, condition)
        query, key, value = (torch.cat(pair, dim=1) for pair in zip(image.heads, words.heads))
        if not self.text.is_updated:
            query = query[:, :n]
        said = attend(query, key, value, self.num_heads)
        x = self.image.write(x, said[:, :n], image.rest)
        if self.text.is_updated:
            text = self.text.write(text, said[:, n:], words.rest)
        return x, text


class _Read(NamedTuple):
    heads: tuple[Tensor, Tensor, Tensor]
    """Query, key, value."""
    rest: tuple[Tensor, ...]
    """What `_Stream.write` needs of the modulation."""


class _Stream(nn.Module):
    """One side of a joint block: modulation, heads, output, feed-forward."""

    def __init__(self, config: MMDiTConfig, is_updated: bool) -> None:
        super().__init__()
        dim, self.is_updated = config.dim, is_updated
        self.num_heads = config.num_heads
        self.modulation = nn.Linear(dim, (6 if is_updated else 2) * dim)
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.norm_query = RMSNorm(config.head_dim, EPS) if config.qk_norm else None
        self.norm_key = RMSNorm(config.head_dim, EPS) if config.qk_norm else None
        self.out = nn.Linear(dim, dim) if is_updated else None
        self.ffn = MLP(dim, 4 * dim, dim) if is_updated else None

    def read(self, x: Float[Tensor, "f n d"], condition: Float[Tensor, "f 1 d"]) -> _Read:
        """What the stream brings to the attention."""
        parts = self.modulation(F.silu(condition)).chunk(6 if self.is_updated else 2, dim=-1)
        # SD3's releases order a stream that ends here (scale, shift), all others (shift, scale)
        shift, scale = parts[:2] if self.is_updated else parts[1::-1]
        h = modulate(plain_norm(x), shift, scale)
        query, key = self.query(h), self.key(h)
        if self.norm_query is not None and self.norm_key is not None:
            query, key = (
                norm(y.unflatten(-1, (self.num_heads, -1))).flatten(-2)
                for norm, y in ((self.norm_query, query), (self.norm_key, key))
            )
        return _Read((query, key, self.value(h)), parts[2:])

    def write(
        self, x: Float[Tensor, "f n d"], said: Float[Tensor, "f n d"], rest: tuple[Tensor, ...]
    ) -> Float[Tensor, "f n d"]:
        """Adds what the attention said, then the feed-forward."""
        gate, ffn_shift, ffn_scale, ffn_gate = rest
        x = add_gated(x, cast(nn.Linear, self.out)(said), gate)
        return add_gated(
            x, cast(MLP, self.ffn)(modulate(plain_norm(x), ffn_shift, ffn_scale)), ffn_gate
        )


class _PooledText(nn.Module):
    """The pooled text to the width of the time embedding."""

    def __init__(self, pooled_dim: int, dim: int) -> None:
        super().__init__()
        self.up = nn.Linear(pooled_dim, dim)
        self.down = nn.Linear(dim, dim)

    def forward(self, pooled: Float[Tensor, "b p"]) -> Float[Tensor, "b d"]:
        return self.down(F.silu(self.up(pooled)))


def sincos_table(size: int, dim: int, base: int) -> Float[Tensor, "n d"]:
    """Positions of a `size` x `size` grid that spans `base` units: half of the channels sines and
    cosines of the column, half of the row, of frequencies from 1 down to 1 / 10000.

    Reference: SD3; Vaswani et al. 2017.
    """
    steps = torch.arange(dim // 4, dtype=torch.float64)
    frequencies = 10000 ** (-steps / (dim / 4))
    places = (torch.arange(size, dtype=torch.float32) / (size / base)).double()
    angles = places[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1).float()
    column = repeat(waves, "x d -> (y x) d", y=size)
    row = repeat(waves, "y d -> (y x) d", x=size)
    return torch.cat([column, row], dim=-1)
