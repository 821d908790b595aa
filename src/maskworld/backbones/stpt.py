"""The Spatial Temporal Patchwise Transformer (WorldDreamer, section 3.2, Fig. 3).

A layer is: 3-D convolution, self-attention inside spatial regions over all frames (Eq. 3),
cross-attention to the prompt with frames as batch (Eq. 4), feed-forward. Regions have equal size,
so they fold into the batch axis and run on ordinary attention, exactly. Around the layers stands
the skeleton of simple diffusion's U-ViT: residual 2-D conv blocks before and after, optionally at
twice the resolution with a skip over the transformer.

What the paper leaves open (width, depth, heads, norm, position encoding, feed-forward) follows
aMUSEd, its likely base (ADR 0004). Options that only small models need are off by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maskworld.nn.attention import SelfAttention, attend
from maskworld.nn.convolution import ConvKind, grid_conv
from maskworld.nn.feedforward import FeedForward, GatedFeedForward

Partition = Literal["block", "dilated", "alternate", "full"]


@dataclass(frozen=True)
class STPTConfig:
    """Shape of an STPT. Values in brackets come from aMUSEd where the paper gives none."""

    vocab_size: int = 8192
    """Codes of the tokenizer (paper: 8192); the embedding has one more, the mask code."""
    dim: int = 1024
    """[aMUSEd 1024]"""
    num_layers: int = 22
    """[aMUSEd 22]"""
    num_heads: int = 16
    """[aMUSEd 16]"""
    ffn_dim: int = 2816
    """[aMUSEd 2816]"""
    ffn: Literal["geglu", "gelu"] = "geglu"
    partition_stride: int = 2
    """s: the grid is cut into s x s regions (paper: 2)."""
    partition: Partition = "block"
    """block: contiguous regions (our reading); dilated: every s-th token; alternate: the two in
    turn, so that every token can reach every other; full: no regions."""
    conv: ConvKind = "dense"
    """The 3-D convolution: dense 3 x 3 x 3 brings the paper's size to 1B."""
    num_conv_blocks: int = 3
    """Residual 2-D blocks before and after the layers [aMUSEd 3]."""
    downsample: bool = False
    """Halves the grid inside the skeleton [aMUSEd-256 no, aMUSEd-512 yes]."""
    image_attention: Literal["block_diagonal", "identity"] = "block_diagonal"
    """For images: attend within each image, or the paper's literal diagonal (ADR 0004)."""
    position: Literal["none", "learned"] = "none"
    """Learned embeddings of row, column and frame; "none" leaves it to the convolutions."""
    max_frames: int = 64
    max_side: int = 64
    """Largest grid side that learned positions cover."""
    action_modulation: bool = False
    """AdaLN: the frame's action scales and shifts every sublayer. Off in the paper."""
    carry_forward: bool = False
    """A hidden token also gets the embedding of the last visible one at its place. Off in the
    paper."""
    reference: bool = False
    """A hidden token can also get the embedding of a reference's token at its place: the clip in
    another style. Off in the paper."""
    tie_head: bool = False
    """Output weights = embedding weights. Off in the paper."""
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise ValueError(
                f"Expected dim divisible by num_heads, found dim {self.dim} and "
                f"{self.num_heads} heads: use a multiple of {self.num_heads}."
            )


@dataclass(frozen=True)
class PromptEmbedding:
    """The multimodal prompt E_M of Eq. 4, stored once instead of once per frame."""

    text: Float[Tensor, "n k d"]
    """Text tokens, the same for every frame; at least the learned null token. n is b, or b t for
    image sets where every image has its own text."""
    text_mask: Bool[Tensor, "n k"]
    """True = a real token that may be attended to."""
    actions: Float[Tensor, "b t d"]
    """One token per frame, a learned null token where there is no action."""


def to_regions(
    x: Shaped[Tensor, "b t h w d"], stride: int, partition: Literal["block", "dilated"]
) -> Shaped[Tensor, "regions n d"]:
    """G_s of Eq. 3: cut a grid into stride x stride regions of all frames, flattened.

    Reference: WorldDreamer, Eq. 3.
    """
    if partition == "block":
        return rearrange(x, "b t (p h) (q w) d -> (b p q) (t h w) d", p=stride, q=stride)
    return rearrange(x, "b t (h p) (w q) d -> (b p q) (t h w) d", p=stride, q=stride)


def from_regions(
    x: Float[Tensor, "regions n d"],
    shape: tuple[int, int, int, int],
    stride: int,
    partition: Literal["block", "dilated"],
) -> Float[Tensor, "b t h w d"]:
    """The inverse of `to_regions` for a grid of `shape` (b, t, h, w)."""
    b, t, h, w = shape
    sizes = {"b": b, "t": t, "h": h // stride, "w": w // stride, "p": stride, "q": stride}
    if partition == "block":
        return rearrange(x, "(b p q) (t h w) d -> b t (p h) (q w) d", **sizes)
    return rearrange(x, "(b p q) (t h w) d -> b t (h p) (w q) d", **sizes)


class RegionAttention(nn.Module):
    """Self-attention within spatial regions over all frames (Eq. 3)."""

    def __init__(
        self, dim: int, num_heads: int, stride: int, partition: Literal["block", "dilated"]
    ) -> None:
        super().__init__()
        self.attention = SelfAttention(dim, num_heads)
        self.stride = stride
        self.partition: Literal["block", "dilated"] = partition

    def forward(
        self, x: Float[Tensor, "b t h w d"], identity: bool = False
    ) -> Float[Tensor, "b t h w d"]:
        """`identity` replaces the attention weights by a diagonal matrix."""
        if identity:
            return self.attention.value_only(rearrange(x, "b t h w d -> b (t h w) d")).view_as(x)
        b, t, h, w, _ = x.shape
        pad_h, pad_w = -h % self.stride, -w % self.stride
        attn_mask = None
        if pad_h or pad_w:
            x = F.pad(x, (0, 0, 0, pad_w, 0, pad_h))
            attn_mask = self._real_keys(x.shape[:4], h, w, x.device)
        regions = to_regions(x, self.stride, self.partition)
        out = self.attention(regions, attn_mask)
        out = from_regions(out, (b, t, h + pad_h, w + pad_w), self.stride, self.partition)
        return out[:, :, :h, :w]

    def _real_keys(
        self, shape: tuple[int, ...], h: int, w: int, device: torch.device
    ) -> Bool[Tensor, "regions 1 1 n"]:
        """Padding may not be attended to; a region of padding alone attends to itself."""
        real = torch.zeros(*shape, 1, dtype=torch.bool, device=device)
        real[:, :, :h, :w] = True
        keys = to_regions(real, self.stride, self.partition)[..., 0]
        keys = keys | ~keys.any(dim=1, keepdim=True)
        return keys[:, None, None, :]


class PromptCrossAttention(nn.Module):
    """Cross-attention to the prompt, regarding the frame number as batch size (Eq. 4).

    Keys and values of the text are computed once and repeated, as the text is the same for every
    frame.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(
        self, x: Float[Tensor, "b t h w d"], prompt: PromptEmbedding
    ) -> Float[Tensor, "b t h w d"]:
        b, t, h, w, _ = x.shape
        k = prompt.text.shape[1]
        text = repeat(self.key_value(prompt.text), "b k d -> (b t) k d", t=t)
        action = rearrange(self.key_value(prompt.actions), "b t d -> (b t) 1 d")
        key, value = torch.cat([text, action], dim=1).chunk(2, dim=-1)
        attn_mask = None
        if k > 1:  # the null token alone is never padding
            attn_mask = F.pad(prompt.text_mask, (0, 1), value=True)
            attn_mask = repeat(attn_mask, "b k -> (b t) 1 1 k", t=t)
        query = self.query(rearrange(x, "b t h w d -> (b t) (h w) d"))
        out = self.out(attend(query, key, value, self.num_heads, attn_mask))
        return out.view(b, t, h, w, -1)


class STPTLayer(nn.Module):
    """Convolution, region attention, cross-attention, feed-forward; each a pre-norm residual."""

    def __init__(self, config: STPTConfig, index: int) -> None:
        super().__init__()
        dim = config.dim
        partition: Literal["block", "dilated"]
        if config.partition == "alternate":
            partition = "block" if index % 2 == 0 else "dilated"
        else:
            partition = "dilated" if config.partition == "dilated" else "block"
        stride = 1 if config.partition == "full" else config.partition_stride
        self.conv_norm = nn.LayerNorm(dim) if config.conv != "none" else None
        self.conv = grid_conv(config.conv, dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = RegionAttention(dim, config.num_heads, stride, partition)
        self.cross_norm = nn.LayerNorm(dim)
        self.cross = PromptCrossAttention(dim, config.num_heads)
        self.ffn_norm = nn.LayerNorm(dim)
        self.ffn = (
            GatedFeedForward(dim, config.ffn_dim)
            if config.ffn == "geglu"
            else FeedForward(dim, config.ffn_dim)
        )
        self.modulation = nn.Linear(dim, 6 * dim) if config.action_modulation else None
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(
        self, x: Float[Tensor, "b t h w d"], prompt: PromptEmbedding, identity: bool = False
    ) -> Float[Tensor, "b t h w d"]:
        scales: list[Tensor | None] = [None] * 6
        if self.modulation is not None:
            modulation = self.modulation(F.silu(prompt.actions))
            scales = list(rearrange(modulation, "b t d -> b t 1 1 d").chunk(6, dim=-1))
        if self.conv is not None and self.conv_norm is not None:
            x = x + self.conv(modulate(self.conv_norm(x), scales[0], scales[1]))
        x = x + self.attention(modulate(self.attention_norm(x), scales[2], scales[3]), identity)
        x = x + self.cross(self.cross_norm(x), prompt)
        return x + self.ffn(modulate(self.ffn_norm(x), scales[4], scales[5]))


def modulate(
    x: Float[Tensor, "b t h w d"], scale: Tensor | None, shift: Tensor | None
) -> Float[Tensor, "b t h w d"]:
    """AdaLN's x (1 + scale) + shift; None = identity."""
    if scale is None or shift is None:
        return x
    return x * (1 + scale) + shift


class ConvBlock(nn.Module):
    """A residual 2-D block per frame: depthwise 3 x 3, norm, two pointwise layers."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, 4 * dim)

    def forward(self, x: Float[Tensor, "n h w d"]) -> Float[Tensor, "n h w d"]:
        y = rearrange(self.depthwise(rearrange(x, "n h w d -> n d h w")), "n d h w -> n h w d")
        return x + self.ffn(self.norm(y))


def last_visible(
    tokens: Int[Tensor, "b t h w"], hidden: Bool[Tensor, "b t h w"]
) -> tuple[Int[Tensor, "b t h w"], Int[Tensor, "b t h w"]]:
    """The last visible token at or before each position, and how many frames ago it was seen.

    Age -1 marks positions that have seen none; their token is 0.
    """
    frame = torch.arange(tokens.shape[1], device=tokens.device).view(1, -1, 1, 1)
    seen = torch.where(hidden, -1, frame).cummax(dim=1).values
    token = tokens.gather(1, seen.clamp(min=0))
    return torch.where(seen < 0, 0, token), torch.where(seen < 0, -1, frame - seen)


class STPT(nn.Module):
    """Masked tokens and a prompt to logits on the hidden positions."""

    def __init__(self, config: STPTConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        # Section 3.2: a learnable codebook of vocab_size + 1 entries; the last is the mask.
        self.embedding = nn.Embedding(config.vocab_size + 1, dim)
        nn.init.normal_(self.embedding.weight, std=0.02)
        if config.position == "learned":
            self.rows = nn.Embedding(config.max_side, dim)
            self.columns = nn.Embedding(config.max_side, dim)
            self.frames = nn.Embedding(config.max_frames, dim)
            for table in (self.rows, self.columns, self.frames):
                nn.init.normal_(table.weight, std=0.02)
        if config.carry_forward:
            self.age = nn.Embedding(config.max_frames, dim)
            nn.init.normal_(self.age.weight, std=0.02)
        if config.reference:
            self.reference = nn.Parameter(torch.randn(dim) * 0.02)
        self.embedding_norm = nn.LayerNorm(dim)
        self.down_blocks = nn.ModuleList(ConvBlock(dim) for _ in range(config.num_conv_blocks))
        self.down = nn.Conv2d(dim, dim, 2, stride=2) if config.downsample else None
        self.layers = nn.ModuleList(STPTLayer(config, i) for i in range(config.num_layers))
        self.up = nn.ConvTranspose2d(dim, dim, 2, stride=2) if config.downsample else None
        self.up_blocks = nn.ModuleList(ConvBlock(dim) for _ in range(config.num_conv_blocks))
        self.norm = nn.LayerNorm(dim)
        self.project = nn.Linear(dim, dim)
        # The mask code is never predicted: vocab_size classes.
        self.head_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.head = None if config.tie_head else nn.Linear(dim, config.vocab_size, bias=False)

    def forward(
        self,
        tokens: Int[Tensor, "b t h w"],
        hidden: Bool[Tensor, "b t h w"],
        prompt: PromptEmbedding,
        is_image: bool = False,
        reference: Int[Tensor, "b t h w"] | None = None,
    ) -> Float[Tensor, "m k"]:
        """Logits of the m hidden positions, in the order of `tokens[hidden]`.

        With `is_image` the frames are independent images that do not see each other. The codes at
        hidden positions are ignored. `reference` is read at hidden positions only.

        Reference: WorldDreamer, Eq. 3-5.
        """
        if reference is not None and not self.config.reference:
            raise ValueError(
                "Expected a model with STPTConfig(reference=True) to read a reference, found one "
                "without: stylize by keeping tokens instead."
            )
        if is_image:  # in both attention modes: convolution and carry must not mix images either
            prompt = fold_prompt(prompt, tokens.shape[1])
            tokens, hidden = (rearrange(x, "b t h w -> (b t) 1 h w") for x in (tokens, hidden))
        features = self.features(tokens, hidden, prompt, is_image, reference)
        return self.logits(features[hidden])

    def features(
        self,
        tokens: Int[Tensor, "b t h w"],
        hidden: Bool[Tensor, "b t h w"],
        prompt: PromptEmbedding,
        identity: bool = False,
        reference: Int[Tensor, "b t h w"] | None = None,
    ) -> Float[Tensor, "b t h w d"]:
        """The last features, before the head."""
        b = tokens.shape[0]
        identity = identity and self.config.image_attention == "identity"
        x = self.embedding_norm(self.embed(tokens, hidden, reference))
        x = rearrange(x, "b t h w d -> (b t) h w d")
        for block in self.down_blocks:
            x = block(x)
        skip = x
        if self.down is not None:
            x = rearrange(self.down(rearrange(x, "n h w d -> n d h w")), "n d h w -> n h w d")
        x = rearrange(x, "(b t) h w d -> b t h w d", b=b)
        for layer in self.layers:
            if self.config.gradient_checkpointing and self.training:
                x = checkpoint(layer, x, prompt, identity, use_reentrant=False)
            else:
                x = layer(x, prompt, identity)
        x = rearrange(x, "b t h w d -> (b t) h w d")
        if self.up is not None:
            x = skip + rearrange(self.up(rearrange(x, "n h w d -> n d h w")), "n d h w -> n h w d")
        for block in self.up_blocks:
            x = block(x)
        return rearrange(x, "(b t) h w d -> b t h w d", b=b)

    def embed(
        self,
        tokens: Int[Tensor, "b t h w"],
        hidden: Bool[Tensor, "b t h w"],
        reference: Int[Tensor, "b t h w"] | None = None,
    ) -> Float[Tensor, "b t h w d"]:
        """Code embeddings, the mask code on hidden positions; carry, reference and positions if
        configured."""
        config = self.config
        _, t, h, w = tokens.shape
        if config.downsample and (h % 2 or w % 2):
            raise ValueError(
                f"Expected an even token grid with downsample=True, found {h} x {w}: "
                "change the frame size or set downsample=False."
            )
        x = self.embedding(torch.where(hidden, config.vocab_size, tokens))
        if config.carry_forward:
            token, age = last_visible(tokens, hidden)
            carried = (hidden & (age >= 0)).unsqueeze(-1)
            carry = self.embedding(token) + self.age(age.clamp(0, config.max_frames - 1))
            x = x + carry * carried
        if reference is not None:
            x = x + (self.embedding(reference) + self.reference) * hidden.unsqueeze(-1)
        if config.position == "learned":
            if t > config.max_frames or max(h, w) > config.max_side:
                raise ValueError(
                    f"Expected at most {config.max_frames} frames and sides up to "
                    f"{config.max_side} tokens, found {t} x {h} x {w}: raise max_frames or "
                    "max_side, or use position='none'."
                )
            x = x + self.rows.weight[:h, None] + self.columns.weight[:w]
            x = x + self.frames.weight[:t, None, None]
        return x

    def logits(self, features: Float[Tensor, "m d"]) -> Float[Tensor, "m k"]:
        """The head, computed only where it is needed."""
        x = F.gelu(self.project(self.norm(features)))
        if self.head is not None:
            return self.head(x) + self.head_bias
        return F.linear(x, self.embedding.weight[:-1], self.head_bias)


def fold_prompt(prompt: PromptEmbedding, num_frames: int) -> PromptEmbedding:
    """The prompt of `b` image sets for their `b t` single images.

    Text of batch size b is shared by the set; text of batch size b t is one prompt per image.
    """
    text, text_mask = prompt.text, prompt.text_mask
    if text.shape[0] == prompt.actions.shape[0] and num_frames > 1:
        text = repeat(text, "b k d -> (b t) k d", t=num_frames)
        text_mask = repeat(text_mask, "b k -> (b t) k", t=num_frames)
    return PromptEmbedding(text, text_mask, rearrange(prompt.actions, "b t d -> (b t) 1 d"))
