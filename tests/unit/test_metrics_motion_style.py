import pytest
import torch
from torch.nn import functional as F

from maskworld.metrics import (
    StyleClassifier,
    horizontal_shift,
    layout_agreement,
    layout_rank,
    nearer_to_own_future,
    structure_map,
    style_features,
    turned_right_way,
)
from maskworld.metrics.motion import _correlations


def landscape(b: int, h: int = 40, w: int = 96, seed: int = 0) -> torch.Tensor:
    """Smooth random hills under a bright sky, dark ground: strong rows, weak columns."""
    generator = torch.Generator().manual_seed(seed)
    texture = F.interpolate(torch.rand(b, 3, 8, 24, generator=generator), (h, w), mode="bicubic")
    rows = torch.linspace(1, 0, h)[:, None]
    return (255 * (0.3 * texture + 0.6 * rows)).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("moved", [-9, -3, 0, 1, 3, 12])
def test_shift_of_a_translated_scene_is_its_translation_positive_to_the_right(moved):
    wide = landscape(4, w=130)
    before, after = wide[..., 17:113], wide[..., 17 - moved : 113 - moved]
    shift = horizontal_shift(before, after)
    torch.testing.assert_close(shift, torch.full((4,), float(moved)), atol=0.2, rtol=0)


def test_correlations_equal_a_loop_over_shifts():
    generator = torch.Generator().manual_seed(0)
    x, y = (100 + torch.randn(3, 5, 20, generator=generator).double() for _ in range(2))
    slow = []
    for d in range(-6, 7):
        a, b = x[..., max(0, -d) : 20 - max(0, d)], y[..., max(0, d) : 20 - max(0, -d)]
        a, b = (part - part.mean(-1, keepdim=True) for part in (a, b))
        slow.append((a * b).sum((1, 2)) / (a.square().sum((1, 2)) * b.square().sum((1, 2))).sqrt())
    torch.testing.assert_close(_correlations(x, y, 6), torch.stack(slow, 1))


def test_half_pixel_shifts_are_found():
    wide = landscape(4, w=240).float()
    left = F.avg_pool2d(wide[..., 20:212], (1, 2)).to(torch.uint8)
    right = F.avg_pool2d(wide[..., 15:207], (1, 2)).to(torch.uint8)
    torch.testing.assert_close(
        horizontal_shift(left, right), torch.full((4,), 2.5), atol=0.2, rtol=0
    )


def test_shift_ignores_brightness_and_contrast():
    wide = landscape(3, w=120)
    before = wide[..., 10:106]
    after = (wide[..., 5:101].float() * 0.5 + 60).to(torch.uint8)
    torch.testing.assert_close(
        horizontal_shift(before, after), torch.full((3,), 5.0), atol=0.3, rtol=0
    )


def test_shift_survives_a_foggy_dream_under_a_strong_sky():
    """Texture faded to a third, rows as before: squared error would look for blank sky."""
    generator = torch.Generator().manual_seed(0)
    texture = F.interpolate(
        torch.randn(8, 1, 6, 30, generator=generator), (40, 130), mode="bicubic"
    )
    fading = torch.linspace(2, 0, 130)  # less to see on the right
    rows = torch.linspace(220, 60, 40)[:, None]

    def frame(start: int, contrast: float) -> torch.Tensor:
        pixels = rows + contrast * (10 * fading * texture)[..., start : start + 96]
        return pixels.clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1)

    shift = horizontal_shift(frame(17, 1.0), frame(9, 0.33))
    torch.testing.assert_close(shift, torch.full((8,), 8.0), atol=1.0, rtol=0)


def test_only_the_far_field_band_is_looked_at():
    wide = landscape(2, h=40, w=130)
    before, after = wide[..., 17:113].clone(), wide[..., 11:107].clone()
    after[..., 24:, :] = before[..., 24:, :]  # the near field stands still
    torch.testing.assert_close(
        horizontal_shift(before, after, band=(0.3, 0.55)), torch.full((2,), 6.0), atol=0.2, rtol=0
    )


def test_scenes_without_horizontal_structure_have_not_moved():
    flat = torch.full((2, 3, 40, 60), 90, dtype=torch.uint8)
    stripes = torch.arange(40, dtype=torch.uint8)[:, None].expand(2, 3, 40, 60).contiguous()
    assert horizontal_shift(flat, flat).tolist() == [0, 0]
    assert horizontal_shift(stripes, stripes).tolist() == [0, 0]


def test_shift_refuses_bad_bands_and_reaches():
    frames = landscape(1)
    with pytest.raises(ValueError, match="band"):
        horizontal_shift(frames, frames, band=(0.5, 0.5))
    with pytest.raises(ValueError, match="max_shift"):
        horizontal_shift(frames, frames, max_shift=90)
    with pytest.raises(ValueError, match="uint8"):
        horizontal_shift(frames.float(), frames.float())


def test_a_left_turn_must_move_the_far_field_right_by_the_minimum():
    shift = torch.tensor([3.0, 2.9, -5.0, -3.0, 4.0])
    yaw_rate = torch.tensor([0.4, 0.4, 0.4, -0.4, -0.4])
    assert turned_right_way(shift, yaw_rate).tolist() == [True, False, False, True, False]
    with pytest.raises(ValueError, match="yaw rate of 0"):
        turned_right_way(shift, torch.zeros(5))


def test_a_dream_is_nearest_to_the_future_it_equals_and_a_tie_counts_as_no():
    own, other = (
        landscape(6, seed=1).view(2, 1, 3, 3, 40, 96),
        landscape(6, seed=2).view(2, 1, 3, 3, 40, 96),
    )
    assert nearer_to_own_future(own, own, other).all()
    assert not nearer_to_own_future(other, own, other).any()
    assert not nearer_to_own_future(own, other, other).any()
    mixed = own.clone()
    mixed[0, :, 1] = other[0, :, 1]
    assert nearer_to_own_future(mixed, own, other).tolist() == [
        [True, False, True],
        [True, True, True],
    ]


TINTS = {"autumn": (1.1, 0.8, 0.45), "night": (0.25, 0.3, 0.5), "summer": (0.7, 1.1, 0.7)}


def tinted_clips(n: int, seed: int) -> tuple[torch.Tensor, list[str]]:
    names = [list(TINTS)[i % 3] for i in range(n)]
    frames = landscape(2 * n, seed=seed).view(n, 1, 2, 3, 40, 96).float()
    tints = torch.tensor([TINTS[name] for name in names]).view(n, 1, 1, 3, 1, 1)
    return (frames * tints).clamp(0, 255).to(torch.uint8), names


def test_the_style_classifier_knows_held_out_clips_and_chance_on_shuffled_names():
    frames, names = tinted_clips(30, seed=0)
    held_out, expected = tinted_clips(60, seed=1)
    classifier = StyleClassifier.fit(style_features(frames), names)
    predicted = classifier.predict(style_features(held_out))
    assert sum(p == e for p, e in zip(predicted, expected)) >= 57
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0)).tolist()
    confused = StyleClassifier.fit(style_features(frames), [names[i] for i in order])
    right = sum(p == e for p, e in zip(confused.predict(style_features(held_out)), expected))
    assert right < 40


def test_the_style_fit_has_one_answer_and_its_probabilities_sum_to_one():
    features, names = style_features(tinted_clips(12, seed=0)[0]), tinted_clips(12, seed=0)[1]
    first, second = (StyleClassifier.fit(features, names) for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    torch.testing.assert_close(first.probabilities(features).sum(-1), torch.ones(12))


def test_the_style_fit_needs_two_styles_and_a_name_per_clip():
    features = style_features(tinted_clips(3, seed=0)[0])
    for names in (["a"] * 3, ["a", "b"]):
        with pytest.raises(ValueError, match="one style per clip"):
            StyleClassifier.fit(features, names)


def test_layout_survives_a_change_of_colours_and_contrast_but_not_of_scene():
    scenes = landscape(8)
    recoloured = (255 - scenes[:, [2, 0, 1]].float() * 0.6).to(torch.uint8)
    agreement = layout_agreement(recoloured, scenes)
    assert (agreement.diagonal() > 0.9).all()
    assert (layout_rank(recoloured, scenes) == 1).all()
    unrelated = layout_rank(landscape(8, seed=5), scenes)
    assert 0.2 < unrelated.mean() < 0.8


def test_edges_of_either_direction_are_structure():
    upright = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    upright[..., 8:] = 200
    level = upright.transpose(2, 3).contiguous()
    torch.testing.assert_close(structure_map(upright).transpose(1, 2), structure_map(level))
    assert structure_map(level).abs().max() > 0.1


def test_structure_maps_are_normalised_and_flat_frames_have_none():
    maps = structure_map(landscape(3))
    torch.testing.assert_close(maps.square().sum((1, 2)), torch.ones(3))
    torch.testing.assert_close(maps.sum((1, 2)), torch.zeros(3), atol=1e-3, rtol=0)
    assert not structure_map(torch.full((1, 3, 16, 16), 7, dtype=torch.uint8)).any()
    with pytest.raises(ValueError, match="at least 2 clips"):
        layout_rank(landscape(1), landscape(1))
