"""Claims about maskworld.data.transforms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from maskworld.data.transforms import (
    ColorJitter,
    HorizontalFlip,
    RecolorRegions,
    ResizeCrop,
    _turn_hue,
    apply_transforms,
    mirror_plan,
    swap_left_right,
)
from maskworld.types import Clip, PlanSample


def random_clip(views: int = 1, size: tuple[int, int] = (12, 20)) -> Clip:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 7, (views, 3, *size), generator=generator, dtype=torch.uint8)
    frames = torch.randint(0, 256, (views, 3, 3, *size), generator=generator, dtype=torch.uint8)
    actions = torch.randn(3, 2, generator=generator)
    return Clip(frames=frames, labels=labels, actions=actions, caption="turning left, Right lane")


def assert_equal(a: Clip, b: Clip) -> None:
    for name in ("frames", "labels", "actions"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert a.caption == b.caption


FLIP = HorizontalFlip(1.0, action_names=["speed", "yaw_rate"])


def test_a_flip_mirrors_pixels_labels_the_yaw_rate_and_the_words() -> None:
    clip = random_clip()
    flipped = apply_transforms(clip, [FLIP], seed=0)
    assert clip.frames is not None
    assert clip.labels is not None
    assert clip.actions is not None
    assert flipped.frames is not None
    assert flipped.labels is not None
    assert flipped.actions is not None
    assert torch.equal(flipped.frames[..., 0], clip.frames[..., -1])
    assert torch.equal(flipped.labels[..., 0], clip.labels[..., -1])
    assert torch.equal(flipped.actions, clip.actions * torch.tensor([1.0, -1.0]))
    assert flipped.caption == "turning right, Left lane"
    assert_equal(apply_transforms(flipped, [FLIP], seed=0), clip)


def test_a_flip_mirrors_the_plan_and_gives_the_moment_another_name() -> None:
    trajectory = torch.tensor([[5.0, 1.0, 0.3], [9.0, 3.0, 0.6]])
    plan = PlanSample(
        ego=torch.tensor([8.0, 0.5, -1.0, 2.0]),
        command=0,
        trajectory=trajectory,
        negative=trajectory + 1,
        token="drive/merge/3/20",
    )
    flipped = apply_transforms(replace(random_clip(), plan=plan), [FLIP], seed=0).plan
    assert flipped is not None
    assert torch.equal(flipped.ego, torch.tensor([8.0, -0.5, -1.0, -2.0]))
    assert flipped.command == 2
    assert flipped.trajectory is not None
    assert torch.equal(flipped.trajectory, torch.tensor([[5.0, -1.0, -0.3], [9.0, -3.0, -0.6]]))
    assert flipped.negative is not None
    assert torch.equal(flipped.negative, torch.tensor([[6.0, -2.0, -1.3], [10.0, -4.0, -1.6]]))
    # The mirrored moment is none that a pool of the original knows.
    assert flipped.token != plan.token
    back = mirror_plan(flipped)
    assert (back.command, back.token) == (0, plan.token)
    assert torch.equal(back.ego, plan.ego)
    for command in (1, 3):  # straight on and unknown have no mirror image
        assert mirror_plan(replace(plan, command=command)).command == command


def test_a_flip_exchanges_left_and_right_cameras() -> None:
    clip = random_clip(views=3)
    flip = HorizontalFlip(1.0, ["speed", "yaw_rate"], views=("front", "front_left", "front_right"))
    flipped = apply_transforms(clip, [flip], seed=0)
    assert clip.frames is not None
    assert flipped.frames is not None
    assert torch.equal(flipped.frames, clip.frames[[0, 2, 1]].flip(-1))
    assert_equal(apply_transforms(flipped, [flip], seed=0), clip)


def test_a_flip_that_does_not_know_the_channels_or_views_is_refused() -> None:
    with pytest.raises(ValueError, match="action_names"):
        apply_transforms(random_clip(), [HorizontalFlip(1.0)], seed=0)
    with pytest.raises(ValueError, match="mirror image"):
        apply_transforms(random_clip(views=2), [FLIP], seed=0)
    lopsided = replace(FLIP, views=("front", "left"))
    with pytest.raises(ValueError, match="mirror image"):
        apply_transforms(random_clip(views=2), [lopsided], seed=0)


def test_half_of_the_seeds_flip() -> None:
    clip, flip = random_clip(), replace(FLIP, p=0.5)
    flips = [apply_transforms(clip, [flip], seed=s) is not clip for s in range(200)]
    assert 70 < sum(flips) < 130


def test_words_keep_their_case_and_others_stay() -> None:
    assert swap_left_right("Left, RIGHT; leftover bright") == "Right, LEFT; leftover bright"


@pytest.mark.parametrize("size", [(6, 10), (6, 6), (24, 10), (12, 20), (5, 7)])
@pytest.mark.parametrize("crop", ["center", "random"])
def test_resizing_gives_the_size_and_no_new_class(size: tuple[int, int], crop: str) -> None:
    clip = random_clip()
    resized = apply_transforms(
        clip, [ResizeCrop(size, "random" if crop == "random" else "center")], 3
    )
    assert resized.frames is not None
    assert resized.labels is not None
    assert clip.labels is not None
    assert resized.frames.shape == (1, 3, 3, *size)
    assert resized.labels.shape == (1, 3, *size)
    assert set(resized.labels.unique().tolist()) <= set(clip.labels.unique().tolist())


def test_shrunk_labels_are_the_nearest_pixels_and_never_in_between() -> None:
    rows, columns = torch.meshgrid(torch.arange(12), torch.arange(20), indexing="ij")
    labels = ((rows + columns) % 2 * 6).to(torch.uint8)[None, None]
    clip = Clip(frames=torch.zeros(1, 1, 3, 12, 20, dtype=torch.uint8), labels=labels)
    for size in ((7, 11), (24, 40)):
        resized = apply_transforms(clip, [ResizeCrop(size)], 0).labels
        assert resized is not None
        assert set(resized.unique().tolist()) == {0, 6}


def test_halving_averages_two_by_two_pixels() -> None:
    clip = random_clip()
    resized = apply_transforms(clip, [ResizeCrop((6, 10))], seed=0)
    assert clip.frames is not None
    assert resized.frames is not None
    mean = torch.nn.functional.avg_pool2d(clip.frames[0].float(), 2)
    assert (resized.frames[0].float() - mean).abs().max() <= 0.5


def test_pixels_and_labels_are_cut_alike() -> None:
    """The same map as pixels and as labels stays the same map under a crop that only cuts."""
    labels = torch.arange(12 * 20, dtype=torch.uint8).reshape(1, 1, 12, 20)
    clip = Clip(frames=labels[:, :, None].expand(1, 1, 3, 12, 20).clone(), labels=labels)
    starts = set()
    for seed in range(20):
        cut = apply_transforms(clip, [ResizeCrop((12, 12), "random")], seed)
        assert cut.frames is not None
        assert cut.labels is not None
        assert torch.equal(cut.frames[:, :, 0], cut.labels)
        starts.add(int(cut.labels[0, 0, 0, 0]))
    assert min(starts) >= 0
    assert len(starts) > 4
    middle = apply_transforms(clip, [ResizeCrop((12, 12))], 0).labels
    assert middle is not None
    assert int(middle[0, 0, 0, 0]) == 4


def test_jitter_of_zero_is_identity_and_leaves_labels_alone() -> None:
    clip = random_clip()
    assert_equal(apply_transforms(clip, [ColorJitter(0.0, 0.0, 0.0)], seed=1), clip)
    jittered = apply_transforms(clip, [ColorJitter(0.5, 0.5, 0.5)], seed=1)
    assert jittered.frames is not None
    assert clip.frames is not None
    assert not torch.equal(jittered.frames, clip.frames)
    assert torch.equal(jittered.labels, clip.labels)  # type: ignore[arg-type]


def test_jitter_is_one_draw_per_video_and_one_per_image() -> None:
    frames = torch.full((1, 4, 3, 2, 2), 100, dtype=torch.uint8)
    for is_image, count in ((False, 1), (True, 4)):
        clip = Clip(frames=frames, is_image=is_image)
        jittered = apply_transforms(clip, [ColorJitter(0.5, 0.0, 0.0)], seed=2).frames
        assert jittered is not None
        assert len(set(jittered[0, :, 0, 0, 0].tolist())) == count


def test_hue_turns_as_the_color_circle_does() -> None:
    red = torch.tensor([200, 0, 0], dtype=torch.uint8)
    x = red.view(1, 1, 3, 1, 1).expand(1, 2, 3, 2, 2).float()
    turned = _turn_hue(x, torch.tensor([[1 / 3, 1 / 6]]))
    assert turned[0, 0, :, 0, 0].tolist() == pytest.approx([0, 200, 0], abs=0.1)
    assert turned[0, 1, :, 0, 0].tolist() == pytest.approx([200, 200, 0], abs=0.1)


def test_jitter_of_each_camera_is_its_own_and_of_the_whole_clip() -> None:
    clip = Clip(frames=torch.full((2, 3, 3, 4, 4), 100, dtype=torch.uint8))
    grey = apply_transforms(clip, [ColorJitter(0.3, 0.4, 0.5, 0.1, per_view=True)], seed=2).frames
    assert grey is not None
    assert grey[0, 0, 0, 0, 0] != grey[1, 0, 0, 0, 0]
    assert all(len(view.unique()) == 1 for view in grey)
    red = torch.tensor([200, 30, 30], dtype=torch.uint8).view(1, 1, 3, 1, 1).expand(2, 3, 3, 4, 4)
    hue = ColorJitter(0.0, 0.0, 0.0, 0.1, per_view=True)
    turned = apply_transforms(replace(clip, frames=red), [hue], seed=2).frames
    assert turned is not None
    assert torch.equal(turned, turned[:, :1].expand_as(turned))
    assert not torch.equal(turned[0], turned[1])


def test_recolored_regions_keep_their_shading() -> None:
    frames = torch.zeros((1, 1, 3, 2, 2), dtype=torch.uint8)
    frames[..., 0, :], frames[..., 1, :] = 40, 80
    labels = torch.ones((1, 1, 2, 2), dtype=torch.uint8)
    recolor = RecolorRegions(classes=(1,), p=1.0, strength=1.0)
    painted = recolor(frames, labels, torch.Generator().manual_seed(3)).float()
    assert len(painted[0, 0, :, 0, 0].unique()) == 3  # grey became a colour
    ratio = painted[..., 0, :] / painted[..., 1, :]
    assert torch.allclose(ratio, torch.tensor(0.5), atol=0.1)


def test_tokens_cannot_be_transformed_as_pixels() -> None:
    clip = Clip(tokens=torch.zeros(1, 2, 3, 3, dtype=torch.long))
    for transform in (ResizeCrop((4, 4)), HorizontalFlip(1.0), ColorJitter()):
        with pytest.raises(ValueError, match="needs pixels"):
            apply_transforms(clip, [transform], seed=0)
