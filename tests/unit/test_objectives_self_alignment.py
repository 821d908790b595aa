"""Claims about maskworld.objectives.self_alignment."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from maskworld.objectives.self_alignment import (
    FeatureProjector,
    feature_distance,
    features_on_latents,
    repa_loss,
    self_flow_loss,
    self_flow_times,
    sra2_loss,
    sra_loss,
    sra_teacher_time,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.double)


def slow_cosines(x: torch.Tensor, y: torch.Tensor) -> list[float]:
    return [
        float(x[b, n] @ y[b, n] / (x[b, n].norm() * y[b, n].norm()))
        for b in range(x.shape[0])
        for n in range(x.shape[1])
    ]


def test_cosine_losses_are_means_of_cosines() -> None:
    x, y = randn(2, 5, 4), randn(2, 5, 4, seed=1)
    mean = sum(slow_cosines(x, y)) / 10
    assert float(self_flow_loss(x, y)) == pytest.approx(1 - mean)
    assert float(sra_loss(x, y, "cosine")) == pytest.approx(1 - mean)
    assert float(repa_loss(x, y)) == pytest.approx(-mean)
    assert float(repa_loss(x, 2 * x)) == pytest.approx(-1)


def test_smooth_l1_is_a_parabola_below_beta_and_a_line_above() -> None:
    y = torch.zeros(1, 1, 1).double()
    assert float(sra_loss(y + 0.02, y)) == pytest.approx(0.5 * 0.02**2 / 0.05)
    assert float(sra_loss(y + 0.30, y)) == pytest.approx(0.30 - 0.025)
    assert float(sra2_loss(y + 0.3, y, "mse")) == pytest.approx(0.09)


@pytest.mark.parametrize("loss", [sra_loss, sra2_loss, self_flow_loss, repa_loss])
def test_only_the_student_learns_and_context_does_not_count(loss) -> None:  # type: ignore[no-untyped-def]
    x, y = randn(2, 5, 4).requires_grad_(), randn(2, 5, 4, seed=1).requires_grad_()
    context = torch.arange(5).expand(2, 5) < 2
    value = loss(x, y, context=context)
    value.backward()
    assert y.grad is None
    assert x.grad is not None
    assert (x.grad != 0).any(-1).tolist() == [[False, False, True, True, True]] * 2
    torch.testing.assert_close(value, loss(x[:, 2:], y[:, 2:]))
    with pytest.raises(ValueError, match="only context"):
        loss(x, y, context=torch.ones(2, 5, dtype=torch.bool))


def test_projectors_have_the_layers_of_their_methods() -> None:
    sra = FeatureProjector(6, 6)
    assert [type(layer) for layer in sra.layers] == [nn.Linear, nn.SiLU, nn.Linear]
    assert [tuple(p.shape) for p in sra.parameters() if p.ndim == 2] == [(12, 6), (6, 12)]
    repa = FeatureProjector(6, 3, hidden_dim=8, num_layers=3)
    assert sum(isinstance(layer, nn.Linear) for layer in repa.layers) == 3
    assert repa(torch.zeros(2, 5, 6)).shape == (2, 5, 3)


def test_a_projector_learns_to_predict_latents() -> None:
    torch.manual_seed(0)
    features = torch.randn(4, 16, 6, generator=generator())
    z0 = (features @ torch.randn(6, 3, generator=generator(1))).tanh()
    projector = FeatureProjector(6, 3)
    optimizer = torch.optim.Adam(projector.parameters(), lr=2e-2)
    start = float(sra2_loss(projector(features), z0).detach())
    for _ in range(300):
        loss = sra2_loss(projector(features), z0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.2 * start


def test_the_sra_teacher_sees_at_most_t_max_less_noise_and_never_below_zero() -> None:
    t = torch.rand(4000, generator=generator(1))
    earlier = sra_teacher_time(t, generator(), t_max=0.2)
    assert (earlier >= 0).all()
    assert (earlier <= t).all()
    assert (t - earlier <= 0.2 + 1e-6).all()
    inner = t > 0.2
    assert float((t - earlier)[inner].mean()) == pytest.approx(0.1, abs=0.005)
    per_token = sra_teacher_time(t[:8, None].expand(8, 3), generator())
    assert torch.equal(per_token, per_token[:, :1].expand(8, 3))
    assert torch.equal(per_token[:, 0], sra_teacher_time(t[:8], generator()))


def test_self_flow_mixes_two_times_and_the_teacher_has_the_cleaner() -> None:
    t, s = torch.tensor([0.9, 0.2]), torch.tensor([0.4, 0.7])
    mixed, clean = self_flow_times(t, s, 4000, generator(), p_mask=0.25)
    assert torch.equal(clean, torch.tensor([0.4, 0.2]))
    for row, (one, other) in enumerate(zip(t, s)):
        assert set(mixed[row].tolist()) == {float(one), float(other)}
        assert float((mixed[row] == other).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert torch.equal(self_flow_times(t, s, 9, generator(), 0.0)[0], t[:, None].expand(2, 9))


def test_encoder_features_follow_the_tokenizers_groups() -> None:
    """17 frames of a causal tokenizer with stride 8: the first alone, then eight and eight."""
    frames = randn(2, 17, 4, 6, 3)
    tokens = features_on_latents(frames, (3, 4, 6)).unflatten(1, (3, 4, 6))
    torch.testing.assert_close(tokens[:, 0], frames[:, 0])
    torch.testing.assert_close(tokens[:, 1], frames[:, 1:9].mean(1))
    torch.testing.assert_close(tokens[:, 2], frames[:, 9:].mean(1))
    torch.testing.assert_close(features_on_latents(frames[:, :3], (3, 4, 6))[:, :24],
                               frames[:, 0].flatten(1, 2))  # fmt: skip
    smooth = torch.ones(2, 3, 8, 12, 3) * torch.arange(3)
    assert torch.allclose(features_on_latents(smooth, (3, 4, 6)), torch.arange(3.0))
    with pytest.raises(ValueError, match="found 16"):
        features_on_latents(frames[:, :16], (3, 4, 6))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="project the student"):
        feature_distance(randn(2, 5, 4), randn(2, 5, 3)[..., :1], "mse")
    with pytest.raises(ValueError, match="t_max"):
        sra_teacher_time(torch.rand(3), generator(), t_max=2.0)
    with pytest.raises(ValueError, match="p_mask"):
        self_flow_times(torch.rand(3), torch.rand(3), 4, generator(), p_mask=0.7)
    with pytest.raises(ValueError, match="one layer"):
        FeatureProjector(4, 4, num_layers=0)


def test_half_precision_features_are_compared_in_float32() -> None:
    x, y = torch.randn(2, 3, 4, generator=generator()).half(), torch.ones(2, 3, 4)
    loss = self_flow_loss(x, y)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, (1 - F.cosine_similarity(x.float(), y, dim=-1)).mean())
