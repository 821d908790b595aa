"""Claims about maskworld.backbones.action_dit."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from maskworld.backbones.action_dit import ActionDiT, ActionDiTConfig, spread_layers
from maskworld.types import FeatureBank

TINY = ActionDiTConfig(
    num_tokens=5, dim=16, num_heads=2, num_layers=3, ffn_dim=16, video_dim=12, ego_dim=6,
    ego_hidden_dim=8,
)  # fmt: skip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def awake(config: ActionDiTConfig = TINY) -> ActionDiT:
    """A double-precision model none of whose weights is zero."""
    torch.manual_seed(0)
    model = ActionDiT(config).double()
    draw = generator(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw, dtype=torch.double))
    return model


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.double)


def bank_of(num_entries: int = 3, num_tokens: int = 7, seed: int = 1) -> FeatureBank:
    return FeatureBank(tuple(randn(2, num_tokens, 12, seed=seed + i) for i in range(num_entries)))


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return randn(2, 5, 3), torch.tensor([0.3, 0.8], dtype=torch.double), randn(2, 6, seed=5)


def slow_velocity(
    model: ActionDiT, a: torch.Tensor, t: torch.Tensor, bank: FeatureBank, ego: torch.Tensor
) -> torch.Tensor:
    """The same network written head by head and token by token, from the published description."""
    config = model.config
    dim, heads = config.dim, config.num_heads
    width = dim // heads

    def rms(x: torch.Tensor, weight: torch.Tensor | float = 1.0, eps: float = 1e-6) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight

    def turn(x: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], dim // 2, 2).contiguous())
        power = torch.linspace(0, 1, dim // 2)
        place = 2 * torch.arange(x.shape[1]) / config.rope_base_length - 1
        angle = place[:, None] * (math.pi / 2) * config.rope_theta**power
        turned = pairs * torch.polar(torch.ones_like(angle), angle)
        return torch.view_as_real(turned).flatten(-2)

    def attention(layer, x, memory, rotary):  # type: ignore[no-untyped-def]
        q = rms(layer.to_q(x), layer.norm_q.weight, 1e-5)
        k = rms(layer.to_k(memory), layer.norm_k.weight, 1e-5)
        q, k = (turn(q), turn(k)) if rotary else (q, k)
        v = layer.to_v(memory)
        parts = []
        for head in range(heads):
            at = slice(head * width, (head + 1) * width)
            weights = (q[..., at] @ k[..., at].transpose(1, 2) / width**0.5).softmax(-1)
            parts.append(weights @ v[..., at])
        return layer.out(torch.cat(parts, -1))

    angles = (1000 * t)[:, None] * 10000.0 ** -(torch.arange(128, dtype=torch.double) / 128)
    embed = model.time.time
    time = embed.down(F.silu(embed.up(torch.cat([angles.cos(), angles.sin()], -1))))
    modulation = model.time.project(F.silu(time))
    modulation = modulation + model.ego.film_down(F.silu(model.ego.film_up(model.ego.embed(ego))))
    x = model.proj_in(a)
    for block, memory in zip(model.blocks, bank.states):
        part = (block.table.flatten() + modulation).reshape(len(a), 1, 6, dim)
        h = rms(x) * (1 + part[:, :, 1]) + part[:, :, 0]
        x = x + part[:, :, 2] * attention(block.attention, h, h, True)
        x = x + attention(block.cross, x, memory, False)
        h = rms(x) * (1 + part[:, :, 4]) + part[:, :, 3]
        gate, value = block.ffn.up(h).chunk(2, -1)
        x = x + part[:, :, 5] * block.ffn.down(gate * gate.sigmoid() * value)
    head = model.head.table[None] + time[:, None]
    x = F.layer_norm(x, (dim,), eps=1e-6) * (1 + head[:, 1:]) + head[:, :1]
    return model.head.project(x)


def test_the_network_is_the_published_one_written_slowly() -> None:
    model, bank = awake(), bank_of()
    a, t, ego = inputs()
    expected = slow_velocity(model, a, t, bank, ego)
    torch.testing.assert_close(model(a, t, bank, ego).velocity, expected, atol=1e-5, rtol=1e-5)


def test_the_full_size_has_the_parameters_of_the_release() -> None:
    """The released config, term by term; the paper says 133 M."""
    with torch.device("meta"):
        model = ActionDiT(ActionDiTConfig())
    blocks = 28 * (
        4 * (512 * 512 + 512) + 2 * 512  # self-attention, norms of q and k
        + 2 * (512 * 512 + 512) + 2 * (2048 * 512 + 512) + 2 * 512  # cross-attention
        + (512 * 1024 + 1024) + (512 * 512 + 512) + 6 * 512  # SwiGLU, AdaLN table
    )  # fmt: skip
    time = (256 * 512 + 512) + (512 * 512 + 512) + (512 * 3072 + 3072)
    ego = (8 * 1024 + 1024) + 2 * 1024 + (1024 * 512 + 512)
    film = (512 * 1024 + 1024) + (1024 * 3072 + 3072)
    ends = (3 * 512 + 512) + (512 * 3 + 3) + 2 * 512
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == blocks + time + ego + film + ends
    assert round(count / 1e6, 2) == 131.27
    assert round(blocks / 1e6, 2) == 125.08


def test_a_projected_bank_gives_what_the_bank_gives() -> None:
    model, bank = awake(), bank_of()
    a, t, ego = inputs()
    masked = FeatureBank(bank.states, torch.arange(7).expand(2, 7) < torch.tensor([[7], [3]]))
    for given in (bank, masked):
        cached = model.project(given)
        plain = model(a, t, given, ego, (1, 3))
        quick = model(a, t, cached, ego, (1, 3))
        assert torch.equal(plain.velocity, quick.velocity)
        assert torch.equal(plain.readouts[3], quick.readouts[3])


def test_a_repeated_projection_is_the_projection_of_a_repeated_bank() -> None:
    model = awake()
    mask = torch.arange(7).expand(2, 7) < torch.tensor([[7], [3]])
    bank = FeatureBank(bank_of().states, mask)
    a, t, ego = (x.repeat_interleave(3, dim=0) for x in inputs())
    quick = model(a, t, model.project(bank).repeated(3), ego).velocity
    torch.testing.assert_close(quick, model(a, t, bank.repeated(3), ego).velocity)


def test_hidden_bank_tokens_change_nothing() -> None:
    model, bank = awake(), bank_of()
    a, t, ego = inputs()
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[:, 4:] = False
    short = FeatureBank(tuple(state[:, :4] for state in bank.states))
    hidden = model(a, t, FeatureBank(bank.states, mask), ego).velocity
    torch.testing.assert_close(hidden, model(a, t, short, ego).velocity)
    assert not torch.allclose(hidden, model(a, t, bank, ego).velocity)


def test_states_and_readouts_are_those_of_equation_10() -> None:
    model, bank = awake(), bank_of()
    a, t, ego = inputs()
    out = model(a, t, bank, ego, (1, 2))
    assert set(out.states) == set(out.readouts) == {1, 2}
    kept: dict[str, torch.Tensor] = {}
    block = model.blocks[1]
    block.cross.out.register_forward_hook(lambda m, i, o: kept.update(readout=i[0], written=o))
    block.cross.to_q.register_forward_hook(lambda m, i, o: kept.update(before=i[0]))
    again = model(a, t, bank, ego, (2,))
    assert torch.equal(again.readouts[2], kept["readout"])
    torch.testing.assert_close(again.states[2], kept["before"] + kept["written"])
    assert torch.equal(out.states[2], again.states[2])
    other = awake(replace(TINY, action_state="before_residual"))
    torch.testing.assert_close(other(a, t, bank, ego, (2,)).states[2], kept["written"])


def test_a_readout_is_a_convex_mix_of_values_per_head() -> None:
    """With values that are one everywhere, every attention weight sums to one."""
    model, bank = awake(), bank_of()
    a, t, ego = inputs()
    cached = model.project(bank)
    ones = replace(cached, values=tuple(torch.ones_like(v) for v in cached.values))
    readout = model(a, t, ones, ego, (2,)).readouts[2]
    torch.testing.assert_close(readout, torch.ones_like(readout))


def test_a_time_per_token_equals_a_time_per_sample_when_equal() -> None:
    model, bank = awake(), bank_of()
    a, t, ego = inputs()
    per_token = t[:, None].expand(2, 5).clone()
    plain = model(a, t, bank, ego).velocity
    torch.testing.assert_close(model(a, per_token, bank, ego).velocity, plain)
    per_token[:, 0] = 0.0
    assert not torch.allclose(model(a, per_token, bank, ego).velocity, plain)


def test_ego_reaches_every_sample_alone_and_starts_without_effect() -> None:
    model, bank = awake(), bank_of()
    a, t, ego = inputs()
    other = ego.clone()
    other[1] += 1
    moved = model(a, t, bank, ego).velocity - model(a, t, bank, other).velocity
    assert not moved[0].any()
    assert (moved[1].abs() > 0).all()
    fresh = ActionDiT(TINY).double()
    torch.nn.init.normal_(fresh.head.project.weight)
    assert torch.equal(fresh(a, t, bank, ego).velocity, fresh(a, t, bank, other).velocity)


def test_a_fresh_model_predicts_zero_and_awakes_to_the_bank() -> None:
    """Three steps wake it up: the output's layer, the cross-attention's, what it reads."""
    torch.manual_seed(0)
    model, bank = ActionDiT(TINY).double(), bank_of()
    a, t, ego = inputs()
    assert not model(a, t, bank, ego).velocity.any()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        (model(a, t, bank, ego).velocity - a).square().mean().backward()
        optimizer.step()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_tokens_are_ordered() -> None:
    model, bank = awake(), bank_of()
    a, t, ego = inputs()
    turned = model(a.flip(1), t, bank, ego).velocity.flip(1)
    assert not torch.allclose(turned, model(a, t, bank, ego).velocity)


def test_gradient_reaches_every_parameter_and_every_state_of_the_bank() -> None:
    model, bank = awake(), bank_of()
    a, t, ego = inputs()
    for state in bank.states:
        state.requires_grad_()
    model(a, t, bank, ego).velocity.square().sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    assert all(state.grad is not None and state.grad.any() for state in bank.states)


def test_layer_b_reads_entry_b_unless_told_otherwise() -> None:
    bank = bank_of(6)
    model = awake(replace(TINY, bank_layers=(2, 4, 6)))
    a, t, ego = inputs()
    same = awake()(a, t, FeatureBank(bank.states[1::2]), ego).velocity
    assert torch.equal(model(a, t, bank, ego).velocity, same)
    for state in bank.states:
        state.requires_grad_()
    model(a, t, bank, ego).velocity.sum().backward()
    assert [state.grad is not None for state in bank.states] == [False, True] * 3


def test_layers_spread_evenly_and_end_at_the_last_entry() -> None:
    assert spread_layers(28, 28) == tuple(range(1, 29))
    assert spread_layers(3, 6) == (2, 4, 6)
    assert spread_layers(4, 2) == (1, 1, 2, 2)
    assert spread_layers(3, 8) == (3, 6, 8)
    with pytest.raises(ValueError, match="at least 1"):
        spread_layers(3, 0)


def test_without_a_bank_the_planner_reads_no_world() -> None:
    a, t, ego = inputs()
    model = awake()
    blind = awake(replace(TINY, video_dim=0))
    assert not any("cross" in name for name, _ in blind.named_parameters())
    shared = {k: v for k, v in model.state_dict().items() if "cross" not in k}
    blind.load_state_dict(shared)
    assert torch.equal(model(a, t, None, ego).velocity, blind(a, t, None, ego).velocity)
    with pytest.raises(ValueError, match="reads nothing"):
        model(a, t, None, ego, (1,))
    with pytest.raises(ValueError, match="video_dim is 0"):
        blind(a, t, bank_of(), ego)


def test_chunks_of_robot_actions_need_no_ego() -> None:
    config = replace(TINY, action_dim=15, num_tokens=9, ego_dim=0, rope_base_length=57.0)
    out = awake(config)(randn(2, 9, 15), torch.rand(2, 9).double(), bank_of())
    assert out.velocity.shape == (2, 9, 15)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_near_full_precision(autocast: bool) -> None:
    model, bank = awake().float(), bank_of()
    bank = FeatureBank(tuple(state.float() for state in bank.states))
    a, t, ego = (x.float() for x in inputs())
    exact = model(a, t, bank, ego).velocity
    if autocast:
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(a, t, bank, ego, (2,))
    else:
        bank = FeatureBank(tuple(state.bfloat16() for state in bank.states))
        rough = model.bfloat16()(a.bfloat16(), t, bank, ego.bfloat16(), (2,))
        assert rough.states[2].dtype == torch.bfloat16
    assert rough.velocity.dtype == torch.bfloat16
    error = (rough.velocity - exact).abs().max() / exact.abs().max()
    assert error < 0.05


def test_what_does_not_fit_is_refused() -> None:
    model, bank = awake(), bank_of()
    a, t, ego = inputs()
    with pytest.raises(ValueError, match="5 tokens"):
        model(a[:, :4], t, bank, ego)
    with pytest.raises(ValueError, match="6 ego numbers, found 0"):
        model(a, t, bank)
    with pytest.raises(ValueError, match="3 entries, one per layer, found 2"):
        model(a, t, FeatureBank(bank.states[:2]), ego)
    with pytest.raises(ValueError, match="from 1 to 3"):
        model(a, t, bank, ego, (0,))
    with pytest.raises(ValueError, match="0 tokens"):
        model(a, t, FeatureBank(tuple(s[:, :0] for s in bank.states)), ego)
    with pytest.raises(ValueError, match="readable"):
        model(a, t, FeatureBank(bank.states, torch.arange(2)[:, None].expand(2, 7) > 0), ego)
    with pytest.raises(ValueError, match="entry 5"):
        awake(replace(TINY, bank_layers=(1, 2, 5)))(a, t, bank, ego)
    with pytest.raises(ValueError, match="one entry"):
        replace(TINY, bank_layers=(1, 2))
    with pytest.raises(ValueError, match="divisible"):
        replace(TINY, num_heads=3)
