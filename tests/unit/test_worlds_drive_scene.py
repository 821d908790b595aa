"""Claims about recorded worlds and their pictures."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from maskworld.worlds.drive import (
    CLASSES,
    SCENARIOS,
    STYLES,
    Scene,
    counterfactual_actions,
    record_scene,
    rollout_poses,
)

SIZE = (48, 72)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return record_scene("intersection", 3, num_steps=30)


def test_a_scene_is_the_same_bit_for_bit_when_recorded_again(scene: Scene) -> None:
    again = record_scene("intersection", 3, num_steps=30)
    assert np.array_equal(scene.agents, again.agents)
    assert np.array_equal(scene.poses, again.poses)
    for one, two in zip(
        scene.render(scene.poses[20], 20, style="dusk", size=SIZE),
        again.render(again.poses[20], 20, style="dusk", size=SIZE),
    ):
        assert np.array_equal(one, two)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_shows_road_sky_and_green(scenario: str) -> None:
    scene = record_scene(scenario, 1, num_steps=5)
    rgb, labels = scene.render(scene.poses[4], 4, size=SIZE)
    assert rgb.shape == (1, *SIZE, 3)
    assert labels.shape == (1, *SIZE)
    assert labels.max() < len(CLASSES)
    for name in ("sky", "ground", "road", "marking", "vegetation"):
        assert (labels == CLASSES.index(name)).any(), name


def test_a_left_turn_moves_the_far_field_to_the_right(scene: Scene) -> None:
    before = scene.poses[0]
    after = before + np.array((0.0, 0.0, 0.1))
    one, two = (scene.render(p, 0, size=(64, 96))[0][0] for p in (before, after))
    # The rows around the horizon, where distant things are.
    strips = [cv2.cvtColor(v[22:34], cv2.COLOR_RGB2GRAY).astype(np.float32) for v in (one, two)]
    scores = {}
    for shift in range(-12, 13):
        moved = np.roll(strips[1], -shift, axis=1)[:, 12:-12]
        scores[shift] = float(np.corrcoef(strips[0][:, 12:-12].ravel(), moved.ravel())[0, 1])
    # 48 pixels of focal length times 0.1 rad.
    assert max(scores, key=scores.__getitem__) in (4, 5, 6)


def test_left_and_right_futures_share_the_first_frame_and_then_part(scene: Scene) -> None:
    left, right = counterfactual_actions(scene, 5, 4, fps=5.0)
    paths = [rollout_poses(scene.poses[5], a[1:], 5.0) for a in (left, right)]
    first = [scene.render(p[0], 5, size=SIZE)[0] for p in paths]
    last = [scene.render(p[-1], 11, size=SIZE)[0].astype(int) for p in paths]
    assert np.array_equal(*first)
    assert np.abs(last[0] - last[1]).mean() > 10
    assert paths[0][-1, 1] != paths[1][-1, 1]


def test_styles_differ_in_colour_but_not_in_what_is_there(scene: Scene) -> None:
    shots = {style: scene.render(scene.poses[8], 8, style=style, size=SIZE) for style in STYLES}
    means = np.stack([rgb.reshape(-1, 3).mean(axis=0) for rgb, _ in shots.values()])
    gaps = np.linalg.norm(means[:, None] - means[None], axis=-1)
    assert gaps[~np.eye(len(STYLES), dtype=bool)].min() > 12
    reference = shots["summer"][1]
    for _, labels in shots.values():
        assert (labels == reference).mean() > 0.99


def test_an_unknown_scenario_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'roundabout'"):
        record_scene("rondabout", 0)
