"""The action tower: a diffusion transformer over a short plan that reads a video network's states.

A layer is: self-attention (AdaLN, RoPE), cross-attention to the states of one video block (no
norm, no gate), SwiGLU feed-forward (AdaLN). The video states are made once; `ActionDiT.project`
makes their keys and values once too, so that an action step touches only the few action tokens.

Shape, widths and the places of norms, gates and the ego's FiLM follow the released DriveLaW
planner, on which ReWorld builds: 131.27 M parameters at the default config (ReWorld says 133 M).
Initialisation is ours, as of the video tower: Xavier; the outputs of cross-attention, ego and
network start at zero.

Reference: ReWorld, section 3.1, Eq. 10.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Complex, Float
from torch import Tensor, nn

from maskworld.nn.adaln import AdaLNSingle, VelocityHead, add_gated, modulate
from maskworld.nn.attention import attend
from maskworld.nn.norm import RMSNorm
from maskworld.nn.rope import rotary_table, rotate
from maskworld.types import FeatureBank


@dataclass(frozen=True)
class ActionDiTConfig:
    """Shape of an action tower; the defaults are DriveLaW's release, unless said."""

    action_dim: int = 3
    """Numbers per token: x, y, heading of a waypoint; or a robot's action (and state)."""
    num_tokens: int = 8
    """Waypoints of a plan (8 at 2 Hz), or steps of a chunk (Mask World Model: 36)."""
    dim: int = 512
    num_heads: int = 16
    num_layers: int = 28
    ffn_dim: int = 512
    """Hidden width of the SwiGLU."""
    video_dim: int = 2048
    """Width of the bank's states. 0: no cross-attention, a planner without a world model."""
    bank_layers: tuple[int, ...] = ()
    """For each layer, which entry of the bank (from 1) it reads; empty: layer b reads entry b.
    `spread_layers` makes one for a video network of another depth."""
    ego_dim: int = 8
    """Numbers of the ego status, command included. 0: no ego."""
    ego_hidden_dim: int = 1024
    """Hidden width of the ego's two MLPs."""
    rope_base_length: float = 8.0
    """Length that the rotary angles divide positions by (Mask World Model: 57)."""
    rope_theta: float = 10000.0
    action_state: Literal["after_residual", "before_residual"] = "after_residual"
    """What Eq. 10 calls the post-cross-attention state: the residual stream after the
    cross-attention was added (our reading), or the cross-attention's own projected output."""

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or self.dim % 2:
            raise ValueError(
                f"Expected an even dim divisible by num_heads, found dim {self.dim} and "
                f"{self.num_heads} heads: use a multiple of {math.lcm(2, self.num_heads)}."
            )
        if self.bank_layers and (
            len(self.bank_layers) != self.num_layers or min(self.bank_layers) < 1
        ):
            raise ValueError(
                f"Expected bank_layers with one entry from 1 per layer ({self.num_layers}), found "
                f"{self.bank_layers}: see spread_layers."
            )


@dataclass(frozen=True)
class ProjectedBank:
    """Keys and values of every layer, made once per plan and read in every action step."""

    keys: tuple[Float[Tensor, "b n d"], ...]
    values: tuple[Float[Tensor, "b n d"], ...]
    attn_mask: Bool[Tensor, "b n"] | None = None
    """True = may be read; None = all."""

    def repeated(self, count: int) -> ProjectedBank:
        """Every sample `count` times in a row: many plans of one moment, projected once."""
        if count == 1:
            return self
        keys, values = (
            tuple(rows.repeat_interleave(count, dim=0) for rows in layers)
            for layers in (self.keys, self.values)
        )
        mask = None if self.attn_mask is None else self.attn_mask.repeat_interleave(count, dim=0)
        return ProjectedBank(keys, values, mask)


@dataclass(frozen=True)
class ActionOutput:
    """A velocity and, for the asked layers (from 1), the two sides of the alignment loss."""

    velocity: Float[Tensor, "b l a"]
    states: dict[int, Float[Tensor, "b l d"]]
    """a_i^(k): action token i after the cross-attention of layer k."""
    readouts: dict[int, Float[Tensor, "b l d"]]
    """r_i^(k): what it read there, before the output projection, heads side by side."""


def spread_layers(num_layers: int, num_entries: int) -> tuple[int, ...]:
    """Entries (from 1) of a bank of `num_entries` for `num_layers` layers, evenly, last to last.

    Equal depths give layer b entry b. The rule is ours: the papers have equal depths.
    """
    if num_layers < 1 or num_entries < 1:
        raise ValueError(f"Expected counts of at least 1, found {num_layers} and {num_entries}.")
    return tuple(-(-layer * num_entries // num_layers) for layer in range(1, num_layers + 1))


class ActionDiT(nn.Module):
    """Predicts the velocity of a noisy plan from its tokens, the time, the ego and a feature bank.

    Reference: ReWorld, section 3.1 (planning branch).
    """

    def __init__(self, config: ActionDiTConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.proj_in = nn.Linear(config.action_dim, dim)
        self.time = AdaLNSingle(dim)
        self.ego = _EgoModulation(config) if config.ego_dim else None
        self.blocks = nn.ModuleList(_ActionBlock(config) for _ in range(config.num_layers))
        self.head = VelocityHead(dim, config.action_dim)
        self._initialize()

    def project(self, bank: FeatureBank) -> ProjectedBank:
        """Keys and values of every layer; `forward` with these equals `forward` with `bank`.

        Raises:
            ValueError: a bank of another depth or width, without tokens, or with a sample all of
                whose tokens are hidden.
        """
        self._check_bank(bank)
        projected = [
            cast(_ActionBlock, block).read_keys(bank.states[entry])
            for block, entry in zip(self.blocks, self._entries())
        ]
        keys, values = zip(*projected)
        return ProjectedBank(keys, values, bank.attn_mask)

    def forward(
        self,
        a: Float[Tensor, "b l a"],
        t: Float[Tensor, " b"] | Float[Tensor, "b l"],
        bank: FeatureBank | ProjectedBank | None,
        ego: Float[Tensor, "b e"] | None = None,
        readout_layers: Sequence[int] = (),
    ) -> ActionOutput:
        """Velocity of the noisy plan `a` at time `t`.

        Args:
            t: one time per sample or per token, in [0, 1]; a clean token, such as a known state,
                has 0.
            bank: states of a video network, or their projection, which k plans of a moment in a
                row may share: then it has 1 / k of the rows. None leaves the cross-attention out,
                for a planner without a world model.
            ego: status and command; required exactly if the config has an `ego_dim`.
            readout_layers: layers (from 1) whose states and readouts to return.

        Raises:
            ValueError: shapes, bank, ego or layers that do not fit the config.
        """
        self._check_inputs(a, bank, ego, readout_layers)
        if isinstance(bank, FeatureBank):
            bank = self.project(bank)
        modulation, time = self.time(t[:, None] if t.ndim == 1 else t)
        if self.ego is not None:
            modulation = modulation + self.ego(ego)[:, None]
        rope = self._rotary_table(a.device)
        x = self.proj_in(a)
        states: dict[int, Tensor] = {}
        readouts: dict[int, Tensor] = {}
        for layer, block in enumerate(self.blocks, start=1):
            memory = None if bank is None else (bank.keys[layer - 1], bank.values[layer - 1])
            mask = None if bank is None else bank.attn_mask
            x, state, readout = block(x, modulation, rope, memory, mask)
            if layer in readout_layers:
                states[layer], readouts[layer] = state, readout
        return ActionOutput(self.head(x, time), states, readouts)

    def _rotary_table(self, device: torch.device) -> Complex[Tensor, "1 l pairs"]:
        config = self.config
        places = torch.arange(config.num_tokens, device=device, dtype=torch.float32)
        return rotary_table(
            places[None, None], config.dim, (config.rope_base_length,), config.rope_theta
        )

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for linear in (self.time.time.up, self.time.time.down, self.time.project):
            nn.init.normal_(linear.weight, std=0.02)
        silent = [self.head.project, *([] if self.ego is None else [self.ego.film_down])]
        for block in self.blocks:
            cross = cast(_ActionBlock, block).cross
            silent += [] if cross is None else [cross.out]
        for linear in silent:
            nn.init.zeros_(linear.weight)

    def _entries(self) -> list[int]:
        """Which entry of the bank, from 0, each layer reads."""
        if self.config.bank_layers:
            return [entry - 1 for entry in self.config.bank_layers]
        return list(range(self.config.num_layers))

    def _check_bank(self, bank: FeatureBank) -> None:
        config = self.config
        if config.video_dim == 0:
            raise ValueError(
                "Expected no bank, as video_dim is 0 and this planner has no cross-attention, "
                f"found one of {len(bank.states)} entries: pass bank=None or set video_dim."
            )
        entries = self._entries()
        if config.bank_layers and max(entries) >= len(bank.states):
            raise ValueError(
                f"Expected a bank with entry {max(entries) + 1}, which bank_layers names, found "
                f"{len(bank.states)} entries: see spread_layers."
            )
        if not config.bank_layers and len(bank.states) != config.num_layers:
            raise ValueError(
                f"Expected a bank of {config.num_layers} entries, one per layer, found "
                f"{len(bank.states)}: set bank_layers, for example with spread_layers."
            )
        for entry in entries:
            tokens, width = bank.states[entry].shape[1:]
            if tokens == 0 or width != config.video_dim:
                raise ValueError(
                    f"Expected states of at least one token and width {config.video_dim}, found "
                    f"{tokens} tokens of width {width} in entry {entry + 1}: set video_dim, or "
                    "pass bank=None for a planner without a world model."
                )
        if bank.attn_mask is not None and not bool(bank.attn_mask.any(dim=-1).all()):
            raise ValueError(
                "Expected at least one readable token per sample in the bank's attn_mask, found a "
                "sample without: True means may be read."
            )

    def _check_inputs(
        self,
        a: Tensor,
        bank: FeatureBank | ProjectedBank | None,
        ego: Tensor | None,
        readout_layers: Sequence[int],
    ) -> None:
        config = self.config
        if a.shape[1:] != (config.num_tokens, config.action_dim):
            raise ValueError(
                f"Expected plans of {config.num_tokens} tokens with {config.action_dim} numbers, "
                f"found {tuple(a.shape[1:])}: set num_tokens and action_dim."
            )
        found = 0 if ego is None else ego.shape[-1]
        if found != config.ego_dim:
            raise ValueError(
                f"Expected {config.ego_dim} ego numbers, found {found}: pass the ego status with "
                "its command, or set ego_dim."
            )
        wrong = [layer for layer in readout_layers if not 1 <= layer <= config.num_layers]
        if wrong:
            raise ValueError(
                f"Expected readout layers from 1 to {config.num_layers}, found {wrong}."
            )
        if readout_layers and bank is None:
            raise ValueError(
                f"Expected a bank for the readouts of layers {list(readout_layers)}, found none: "
                "a planner without a world model reads nothing."
            )
        if isinstance(bank, ProjectedBank) and len(bank.keys) != config.num_layers:
            raise ValueError(
                f"Expected keys of {config.num_layers} layers, found {len(bank.keys)}: project the "
                "bank with the same model."
            )
        if isinstance(bank, ProjectedBank) and len(a) % len(bank.keys[0]):
            raise ValueError(
                f"Expected a whole number of plans per moment, found {len(a)} plans and "
                f"{len(bank.keys[0])} moments in the bank."
            )


class _ActionBlock(nn.Module):
    def __init__(self, config: ActionDiTConfig) -> None:
        super().__init__()
        dim = config.dim
        self.before_residual = config.action_state == "before_residual"
        self.table = nn.Parameter(torch.randn(6, dim) / dim**0.5)
        self.attention = _Attention(dim, dim, config.num_heads)
        self.cross = (
            _Attention(dim, config.video_dim, config.num_heads) if config.video_dim else None
        )
        self.ffn = _SwiGLU(dim, config.ffn_dim)

    def read_keys(self, states: Float[Tensor, "b n m"]) -> tuple[Tensor, Tensor]:
        """Keys and values of a bank's states."""
        if self.cross is None:
            raise ValueError("Expected a model with cross-attention, found video_dim 0.")
        return self.cross.project(states)

    def forward(
        self,
        x: Float[Tensor, "b l d"],
        modulation: Float[Tensor, "b g 6 d"],
        rope: Complex[Tensor, "1 l pairs"],
        memory: tuple[Tensor, Tensor] | None,
        attn_mask: Bool[Tensor, "m n"] | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The next states, then a_i and r_i of Eq. 10 (None without memory)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.table + modulation).unbind(dim=2)
        h = modulate(self._norm(x), shift1, scale1)
        mixed = self.attention.read(h, *self.attention.project(h, rope), rope)
        x = add_gated(x, self.attention.out(mixed), gate1)
        state = readout = None
        if memory is not None and self.cross is not None:
            mask = None if attn_mask is None else attn_mask[:, None, None]
            readout = self.cross.read(x, *memory, attn_mask=mask)  # Eq. 10
            update = self.cross.out(readout)
            x = x + update
            state = update if self.before_residual else x
        h = modulate(self._norm(x), shift2, scale2)
        return add_gated(x, self.ffn(h), gate2), state, readout

    def _norm(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        return F.rms_norm(x, x.shape[-1:], eps=1e-6)


class _Attention(nn.Module):
    """Attention in two halves, so that keys and values can be kept; RMSNorm of q and k over all
    heads together."""

    def __init__(self, dim: int, memory_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(memory_dim, dim)
        self.to_v = nn.Linear(memory_dim, dim)
        self.norm_q = RMSNorm(dim, eps=1e-5)
        self.norm_k = RMSNorm(dim, eps=1e-5)
        self.out = nn.Linear(dim, dim)

    def project(
        self, memory: Float[Tensor, "b n m"], rope: Complex[Tensor, "1 n pairs"] | None = None
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n d"]]:
        """Keys and values."""
        key = self.norm_k(self.to_k(memory))
        return key if rope is None else rotate(key, rope), self.to_v(memory)

    def read(
        self,
        x: Float[Tensor, "b l d"],
        key: Float[Tensor, "m n d"],
        value: Float[Tensor, "m n d"],
        rope: Complex[Tensor, "1 l pairs"] | None = None,
        attn_mask: Bool[Tensor, "m 1 1 n"] | None = None,
    ) -> Float[Tensor, "b l d"]:
        """The attended values, heads side by side, before the output projection.

        Rows of `x` may share keys: row i reads those of row i // (rows of x / rows of keys).
        """
        query = self.norm_q(self.to_q(x))
        query = query if rope is None else rotate(query, rope)
        if len(query) == len(key):
            return attend(query, key, value, self.num_heads, attn_mask)
        shared = rearrange(query, "(b k) l d -> b (k l) d", b=len(key))
        found = attend(shared, key, value, self.num_heads, attn_mask)
        return rearrange(found, "b (k l) d -> (b k) l d", l=x.shape[1])


class _SwiGLU(nn.Module):
    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, 2 * hidden_dim)
        self.down = nn.Linear(hidden_dim, dim)

    def forward(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


class _EgoModulation(nn.Module):
    """Ego status to an embedding, then to what every layer adds to its six AdaLN parts."""

    def __init__(self, config: ActionDiTConfig) -> None:
        super().__init__()
        hidden, dim = config.ego_hidden_dim, config.dim
        self.embed = nn.Sequential(
            nn.Linear(config.ego_dim, hidden),
            nn.GELU(),
            nn.LayerNorm(hidden),
            nn.Linear(hidden, dim),
        )
        self.film_up = nn.Linear(dim, hidden)
        self.film_down = nn.Linear(hidden, 6 * dim)

    def forward(self, ego: Float[Tensor, "b e"]) -> Float[Tensor, "b 6 d"]:
        return self.film_down(F.silu(self.film_up(self.embed(ego)))).unflatten(-1, (6, -1))
