"""What users would pick instead of STPT, at the same number of parameters. Benchmark only.

Every rival has `training_loss(tokens, hidden)` and `generate()`; all see the same prompt of
`NUM_WORDS` text tokens and one action per frame, where their design has a place for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from maskworld.backbones.stpt import STPT, PromptEmbedding, STPTConfig
from maskworld.nn.feedforward import FeedForward
from maskworld.samplers.parallel import ParallelDecoding, decode_parallel

NUM_WORDS = 8
Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Size:
    """What all models share."""

    grid: Grid
    vocab_size: int
    dim: int
    num_layers: int
    num_heads: int
    conv: str
    num_steps: int


class STPTModel(nn.Module):
    """Ours: region attention, 3-D convolution, cross-attention to the prompt."""

    def __init__(self, size: Size, ffn_dim: int) -> None:
        super().__init__()
        self.size = size
        self.stpt = STPT(
            STPTConfig(
                vocab_size=size.vocab_size,
                dim=size.dim,
                num_layers=size.num_layers,
                num_heads=size.num_heads,
                ffn_dim=ffn_dim,
                ffn="gelu",
                conv=size.conv,  # type: ignore[arg-type]
                num_conv_blocks=1,
            )
        )
        t, _, _ = size.grid
        self.text = nn.Parameter(torch.randn(NUM_WORDS, size.dim) * 0.02)
        self.actions = nn.Parameter(torch.randn(t, size.dim) * 0.02)

    def forward(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        b = tokens.shape[0]
        prompt = PromptEmbedding(
            self.text.expand(b, -1, -1),
            torch.ones(b, NUM_WORDS, dtype=torch.bool, device=tokens.device),
            self.actions.expand(b, -1, -1),
        )
        return self.stpt(tokens, hidden, prompt)

    def training_loss(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        return F.cross_entropy(self(tokens, hidden).float(), tokens[hidden])

    def generate(self) -> Tensor:
        return masked_decode(self, (1, *self.size.grid), self.size.num_steps, self.text.device)


def masked_decode(
    model: Callable[[Tensor, Tensor], Tensor],
    shape: tuple[int, ...],
    num_steps: int,
    device: torch.device,
) -> Tensor:
    """Parallel decoding of a wholly hidden clip, the same sampler for every masked model."""
    tokens = torch.zeros(shape, dtype=torch.long, device=device)
    generator = torch.Generator(device=device).manual_seed(0)
    hidden = torch.ones_like(tokens, dtype=torch.bool)
    return decode_parallel(model, tokens, hidden, ParallelDecoding(num_steps), generator).tokens


class Cache:
    """Keys and values of one layer for all positions, filled from the left."""

    def __init__(self, like: Tensor, length: int) -> None:
        self.key, self.value = like.new_empty(2, *like.shape[:2], length, like.shape[3])
        self.length = 0

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        end = self.length + key.shape[2]
        self.key[:, :, self.length : end] = key
        self.value[:, :, self.length : end] = value
        self.length = end
        return self.key[:, :, :end], self.value[:, :, :end]


class Block(nn.Module):
    """A standard pre-norm transformer block."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.ffn_norm = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, ffn_dim)

    def forward(
        self, x: Tensor, is_causal: bool, caches: dict[Block, Cache] | None, length: int
    ) -> Tensor:
        qkv = self.qkv(self.norm(x))
        q, k, v = rearrange(qkv, "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
        if caches is not None:
            if self not in caches:
                caches[self] = Cache(k, length)
            k, v = caches[self].append(k, v)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
        x = x + self.out(rearrange(attended, "b h n d -> b n (h d)"))
        return x + self.ffn(self.ffn_norm(x))


class FullTransformer(nn.Module):
    """Plain full attention over all tokens of the clip, the prompt in front of them."""

    def __init__(self, size: Size, ffn_dim: int) -> None:
        super().__init__()
        self.size = size
        t, h, w = size.grid
        self.embedding = nn.Embedding(size.vocab_size + 1, size.dim)
        self.text = nn.Parameter(torch.randn(NUM_WORDS, size.dim) * 0.02)
        self.actions = nn.Parameter(torch.randn(t, size.dim) * 0.02)
        self.rows = nn.Parameter(torch.randn(h, size.dim) * 0.02)
        self.columns = nn.Parameter(torch.randn(w, size.dim) * 0.02)
        self.num_tokens = t * h * w
        self.blocks = nn.ModuleList(
            Block(size.dim, size.num_heads, ffn_dim) for _ in range(size.num_layers)
        )
        self.norm = nn.LayerNorm(size.dim)
        self.head = nn.Linear(size.dim, size.vocab_size, bias=False)

    def embed(self, codes: Tensor, first: int = 0) -> Tensor:
        """Embeddings of the flat codes `b n` at positions first, first + 1, ..."""
        _, h, w = self.size.grid
        place = torch.arange(first, first + codes.shape[1], device=codes.device)
        positions = self.actions[place // (h * w)] + self.rows[place // w % h]
        return self.embedding(codes) + positions + self.columns[place % w]

    def run(
        self, x: Tensor, is_causal: bool = False, caches: dict[Block, Cache] | None = None
    ) -> Tensor:
        for block in self.blocks:
            x = block(x, is_causal, caches, NUM_WORDS + self.num_tokens)
        return self.norm(x)

    def with_prompt(self, x: Tensor) -> Tensor:
        return torch.cat([self.text.expand(len(x), -1, -1), x], dim=1)

    def forward(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        codes = torch.where(hidden, self.size.vocab_size, tokens).flatten(1)
        x = self.run(self.with_prompt(self.embed(codes)))[:, NUM_WORDS:]
        return self.head(x[hidden.flatten(1)])

    def training_loss(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        return F.cross_entropy(self(tokens, hidden).float(), tokens[hidden])

    def generate(self) -> Tensor:
        return masked_decode(self, (1, *self.size.grid), self.size.num_steps, self.text.device)


class Autoregressive(FullTransformer):
    """The same network with a causal mask: one token at a time, exact key/value cache."""

    def training_loss(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """Next-token loss on all tokens; `hidden` plays no part."""
        targets = tokens.flatten(1)
        start = torch.full_like(targets[:, :1], self.size.vocab_size)
        codes = torch.cat([start, targets[:, :-1]], dim=1)
        x = self.run(self.with_prompt(self.embed(codes)), is_causal=True)[:, NUM_WORDS:]
        return F.cross_entropy(self.head(x).flatten(0, 1).float(), targets.flatten())

    @torch.no_grad()
    def generate(self) -> Tensor:
        """Greedy, with one pass per token over that token alone."""
        caches: dict[Block, Cache] = {}
        code = torch.full((1, 1), self.size.vocab_size, device=self.text.device)
        drawn = []
        for i in range(self.num_tokens):
            x = self.embed(code, first=i)
            if i == 0:
                x = self.with_prompt(x)
            x = self.run(x, is_causal=i == 0, caches=caches)
            code = self.head(x[:, -1:]).argmax(dim=-1)
            drawn.append(code)
        return torch.cat(drawn, dim=1).view(1, *self.size.grid)

    @torch.no_grad()
    def generate_without_cache(self) -> Tensor:
        """The same by whole passes, to prove the cache exact."""
        codes = torch.full((1, 1), self.size.vocab_size, device=self.text.device)
        for _ in range(self.num_tokens):
            x = self.run(self.with_prompt(self.embed(codes)), is_causal=True)
            codes = torch.cat([codes, self.head(x[:, -1:]).argmax(dim=-1)], dim=1)
        return codes[:, 1:].view(1, *self.size.grid)


class FrameByFrameUVit(nn.Module):
    """diffusers' UVit2DModel (aMUSEd), every frame an image of its own, all frames as one batch.

    The kindest reading: frames one after another would only be slower. It knows nothing of time.
    """

    def __init__(self, size: Size, ffn_dim: int, num_layers: int) -> None:
        super().__init__()
        from diffusers import UVit2DModel

        self.size = size
        d = size.dim
        self.uvit = UVit2DModel(
            hidden_size=d,
            cond_embed_dim=d,
            micro_cond_encode_dim=32,
            micro_cond_embed_dim=5 * 32,
            encoder_hidden_size=d,
            vocab_size=size.vocab_size + 1,
            codebook_size=size.vocab_size,
            in_channels=d,
            block_out_channels=d,
            num_res_blocks=1,
            block_num_heads=size.num_heads,
            num_hidden_layers=num_layers,
            num_attention_heads=size.num_heads,
            intermediate_size=ffn_dim,
        )
        t, _, _ = size.grid
        self.text = nn.Parameter(torch.randn(NUM_WORDS, d) * 0.02)
        self.actions = nn.Parameter(torch.randn(t, d) * 0.02)

    def forward(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """`tokens` are b t h w, or one clip as t 1 h w."""
        frames = tokens.numel() // (tokens.shape[-1] * tokens.shape[-2])
        codes = torch.where(hidden, self.size.vocab_size, tokens).view(frames, *tokens.shape[-2:])
        repeats = frames // len(self.actions)
        memory = torch.cat(
            [
                self.text.expand(frames, -1, -1),
                self.actions.repeat(repeats, 1)[:, None],
            ],
            dim=1,
        )
        pooled = self.text.mean(dim=0).expand(frames, -1)
        micro = torch.zeros(frames, 5, device=tokens.device)
        logits = self.uvit(codes, memory, pooled, micro)
        return rearrange(logits, "n k h w -> n h w k")[hidden.view_as(codes)]

    def training_loss(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        return F.cross_entropy(self(tokens, hidden).float(), tokens[hidden])

    def generate(self) -> Tensor:
        t, h, w = self.size.grid
        clip = masked_decode(self, (t, 1, h, w), self.size.num_steps, self.text.device)
        return clip.view(1, t, h, w)


def num_parameters(build: Callable[[], nn.Module]) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build().parameters())


def fit_width(build: Callable[[int], nn.Module], target: int) -> int:
    """The feed-forward width at which `build(width)` has `target` parameters; below 1: none has."""
    at_64, at_128 = (num_parameters(lambda w=w: build(w)) for w in (64, 128))
    return 64 + round((target - at_64) * 64 / (at_128 - at_64))


def build_model(name: str, size: Size) -> nn.Module:
    """A model by the name in the table, its feed-forward width fitted to our parameter count."""
    ours = 4 * size.dim
    target = num_parameters(lambda: STPTModel(size, ours))
    if name == "stpt":
        return STPTModel(size, ours)
    if name == "uvit2d-frames":
        for num_layers in range(size.num_layers, 0, -1):
            width = fit_width(lambda f, n=num_layers: FrameByFrameUVit(size, f, n), target)
            if width >= size.dim:
                return FrameByFrameUVit(size, width, num_layers)
        raise ValueError(f"Expected a dim at which one UVit2D layer fits, found {size.dim}.")
    kind = {"full-attention": FullTransformer, "autoregressive": Autoregressive}[name]
    return kind(size, fit_width(lambda f: kind(size, f), target))


def warm_up(name: str, size: Size) -> None:
    """One clip and one step of a tiny model, so that libraries are loaded before measuring."""
    tiny = Size((2, 2, 4), 16, 16 * size.num_heads, 1, size.num_heads, size.conv, 1)
    models: dict[str, Callable[[], nn.Module]] = {
        "stpt": lambda: STPTModel(tiny, 64),
        "full-attention": lambda: FullTransformer(tiny, 64),
        "autoregressive": lambda: Autoregressive(tiny, 64),
        "uvit2d-frames": lambda: FrameByFrameUVit(tiny, 64, 1),
    }
    model = models[name]()
    with torch.inference_mode():
        clip = model.generate()
    model.training_loss(clip.clone(), torch.ones_like(clip, dtype=torch.bool)).backward()
    if isinstance(model, Autoregressive):
        model = model.double()
        assert torch.equal(model.generate(), model.generate_without_cache()), "an exact cache"


def seconds(run: Callable[[], object], device: torch.device, clock: str) -> float:
    """Time of one call by the wall or by this process's CPU use, the device's queue drained."""
    now = {"wall": time.perf_counter, "cpu": time.process_time}[clock]
    start = now()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return now() - start
