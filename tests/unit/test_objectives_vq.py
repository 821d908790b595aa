from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from maskworld.objectives.adversarial import (
    AdversarialConfig,
    AdversarialLoss,
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
)
from maskworld.objectives.perceptual import PerceptualLoss, load_perceptual
from maskworld.objectives.vq import (
    TokenizerObjective,
    TokenizerObjectiveConfig,
    charbonnier,
    edge_loss,
)

VGG_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
VGG_WIDTHS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def frames(seed: int = 0, size: int = 32) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=generator(seed)) * 2 - 1


def small_adversary(start_step: int = 0) -> AdversarialLoss:
    torch.manual_seed(0)
    return AdversarialLoss(AdversarialConfig(width=8, num_layers=2, start_step=start_step))


def test_charbonnier_is_l1_away_from_zero_and_zero_at_zero() -> None:
    a, b = frames(0), frames(1)
    torch.testing.assert_close(charbonnier(a, b), F.l1_loss(a, b), atol=2e-3, rtol=0)
    assert charbonnier(a, a).abs() < 1e-6
    moved = a.clone().requires_grad_()
    charbonnier(moved, a).backward()
    assert moved.grad is not None
    assert torch.isfinite(moved.grad).all()


def test_edge_loss_ignores_a_constant_and_sees_a_block_border() -> None:
    a = frames()
    torch.testing.assert_close(edge_loss(a + 0.5, a), torch.tensor(0.0), atol=1e-6, rtol=0)
    border = a.clone()
    border[..., 16:] += 1  # 31 differences per row, one of them wrong by 1, on one of two axes
    torch.testing.assert_close(edge_loss(border, a), torch.tensor(0.5 / 31), atol=1e-6, rtol=0)


def test_hinge_losses_have_their_closed_form() -> None:
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0])
    assert hinge_discriminator_loss(real, fake) == 0.5 * (0.5 + 1.0)
    assert hinge_generator_loss(fake) == 1.0


def test_generator_term_trains_the_reconstruction_and_not_the_discriminator() -> None:
    adversary = small_adversary()
    reconstruction = frames(1).requires_grad_()
    likeness = (reconstruction - frames()).square().mean()
    generator_term, _ = adversary(reconstruction, frames(), likeness)
    generator_term.backward()
    assert reconstruction.grad is not None
    assert reconstruction.grad.abs().sum() > 0
    assert all(p.grad is None for p in adversary.parameters())


def test_discriminator_term_trains_the_discriminator_and_not_the_reconstruction() -> None:
    adversary = small_adversary()
    reconstruction = frames(1).requires_grad_()
    likeness = (reconstruction - frames()).square().mean()
    _, discriminator_term = adversary(reconstruction, frames(), likeness)
    discriminator_term.backward()
    assert reconstruction.grad is None
    # the very last bias shifts real and fake alike, so that its gradient may cancel
    reached = [p.grad is not None and p.grad.abs().sum() > 0 for p in adversary.parameters()]
    assert all(reached[:-1])


def test_the_sum_of_both_terms_gives_each_network_its_own_gradient() -> None:
    reconstruction = frames(1).requires_grad_()
    adversary = small_adversary()
    likeness = (reconstruction - frames()).square().mean()
    sum(adversary(reconstruction, frames(), likeness)).backward()
    both = [p.grad.clone() for p in adversary.parameters() if p.grad is not None]
    alone = small_adversary()
    with torch.no_grad():
        detached = reconstruction.clone()
    hinge_discriminator_loss(
        alone.discriminator(frames()), alone.discriminator(detached)
    ).backward()
    for found, expected in zip(both, alone.parameters(), strict=True):
        torch.testing.assert_close(found, expected.grad)


def test_one_optimizer_teaches_the_discriminator_to_tell_real_from_fake() -> None:
    adversary = small_adversary()
    fake = nn.Parameter(torch.zeros(2, 3, 32, 32))
    optimizer = torch.optim.Adam([*adversary.parameters()], lr=2e-3)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        reconstruction = fake + 0
        terms = adversary(reconstruction, frames(), (reconstruction - 1).square().mean())
        terms[1].backward()
        optimizer.step()
        losses.append(float(terms[1].detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_adaptive_weight_equalises_the_two_gradients() -> None:
    reconstruction = frames(1).requires_grad_()
    likeness, other = (reconstruction - frames()).square().mean(), 37 * reconstruction.sin().mean()
    weight = adaptive_weight(likeness, other, reconstruction)
    (a,) = torch.autograd.grad(likeness, reconstruction, retain_graph=True)
    (b,) = torch.autograd.grad(weight * other, reconstruction)
    torch.testing.assert_close(a.norm(), b.norm(), rtol=1e-3, atol=0)


def test_the_adversary_waits_for_its_start_and_remembers_it() -> None:
    adversary = small_adversary(start_step=2)
    reconstruction = frames(1).requires_grad_()
    terms = [adversary(reconstruction, frames(), (reconstruction**2).mean())[1] for _ in range(3)]
    assert [float(term.detach()) > 0 for term in terms] == [False, False, True]
    restored = small_adversary(start_step=2)
    restored.load_state_dict(adversary.state_dict())
    assert restored(reconstruction, frames(), (reconstruction**2).mean())[1] > 0


def test_objective_names_and_weighs_its_terms() -> None:
    objective = TokenizerObjective(TokenizerObjectiveConfig(l1=0.0, l2=2.0, edge=3.0))
    terms = objective(frames(1), frames())
    assert set(terms) == {"l2", "edge"}
    torch.testing.assert_close(terms["l2"], 2 * F.mse_loss(frames(1), frames()))
    assert objective.parameter_groups() == []


def test_objective_with_an_adversary_also_works_in_evaluation() -> None:
    objective = TokenizerObjective(adversarial=small_adversary())
    with torch.no_grad():
        terms = objective.eval()(frames(1), frames())
    assert {"adversarial", "discriminator"} <= set(terms)
    assert objective.adversarial is not None
    assert int(objective.adversarial.num_steps) == 0
    (group,) = objective.parameter_groups()
    assert len(group["params"]) == len(list(objective.adversarial.parameters()))


def test_objective_without_terms_is_refused() -> None:
    with pytest.raises(ValueError, match="weight above 0"):
        TokenizerObjective(TokenizerObjectiveConfig(l1=0.0, l2=0.0, edge=0.0))(frames(), frames())


@pytest.fixture(scope="module")
def lpips_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Random weights in the published layout."""
    folder, g = tmp_path_factory.mktemp("lpips"), generator(3)
    vgg = {"classifier.0.bias": torch.zeros(4)}
    for place, dim_in, dim_out in zip(VGG_PLACES, VGG_WIDTHS[:-1], VGG_WIDTHS[1:], strict=True):
        weight = torch.randn(dim_out, dim_in, 3, 3, generator=g) * (2 / (9 * dim_in)) ** 0.5
        vgg[f"features.{place}.weight"] = weight
        vgg[f"features.{place}.bias"] = 0.1 * torch.randn(dim_out, generator=g)
    heads = {
        f"lin{i}.model.1.weight": torch.rand(1, dim, 1, 1, generator=g)
        for i, dim in enumerate((64, 128, 256, 512, 512))
    }
    save_file(vgg, folder / "vgg16.safetensors")
    save_file(heads, folder / "lpips_vgg.safetensors")
    return folder / "vgg16.safetensors", folder / "lpips_vgg.safetensors"


def slow_lpips(vgg: dict[str, torch.Tensor], heads: dict[str, torch.Tensor]) -> torch.Tensor:
    """LPIPS written out as torchvision's VGG-16 list of layers."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    taps = (3, 8, 15, 22, 29)
    outputs = []
    for x in (frames(1), frames()):
        x = (x - shift[:, None, None]) / scale[:, None, None]
        taken = []
        for layer in range(30):
            if layer in (4, 9, 16, 23):
                x = F.max_pool2d(x, 2)
            elif layer in VGG_PLACES:
                x = F.conv2d(
                    x, vgg[f"features.{layer}.weight"], vgg[f"features.{layer}.bias"], padding=1
                )
            else:
                x = x.relu()
            if layer in taps:
                taken.append(x / (x.norm(dim=1, keepdim=True) + 1e-10))
        outputs.append(taken)
    total = torch.zeros(2)
    for index, (a, b) in enumerate(zip(*outputs, strict=True)):
        head = heads[f"lin{index}.model.1.weight"].flatten()
        total += torch.einsum("c,nchw->nhw", head, (a - b) ** 2).mean((1, 2))
    return total.mean()


def test_perceptual_loss_equals_lpips_written_out(lpips_files: tuple[Path, Path]) -> None:
    from safetensors.torch import load_file

    loss = load_perceptual(*lpips_files)
    expected = slow_lpips(load_file(lpips_files[0]), load_file(lpips_files[1]))
    torch.testing.assert_close(loss(frames(1), frames()), expected, rtol=1e-4, atol=0)
    assert loss(frames(), frames()) == 0


def test_perceptual_gradient_reaches_only_the_reconstruction(
    lpips_files: tuple[Path, Path],
) -> None:
    objective = TokenizerObjective(perceptual=load_perceptual(*lpips_files))
    reconstruction = frames(1).requires_grad_()
    objective(reconstruction, frames())["perceptual"].backward()
    assert reconstruction.grad is not None
    assert reconstruction.grad.abs().sum() > 0
    assert all(p.grad is None for p in objective.parameters())
    assert objective.parameter_groups() == []


def test_perceptual_loss_without_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="load_perceptual"):
        PerceptualLoss()(frames(1), frames())


def test_perceptual_files_of_another_kind_are_refused(
    lpips_files: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="pickle"):
        load_perceptual(tmp_path / "vgg16.pth", lpips_files[1])
    with pytest.raises(ValueError, match=r"lin0\.model\.1\.weight"):
        load_perceptual(lpips_files[0], lpips_files[0])
    with pytest.raises(ValueError, match="found none"):
        load_perceptual(tmp_path / "absent.safetensors", lpips_files[1])
