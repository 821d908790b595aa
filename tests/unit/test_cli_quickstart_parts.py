"""What the quickstarts share."""

from __future__ import annotations

from threading import Event
from types import SimpleNamespace

import pytest
import torch

from maskworld.cli import robot_scores
from maskworld.cli.quickstart_parts import side_by_side
from maskworld.cli.robot_scores import RobotPolicies, try_policies
from maskworld.recipes import load_recipe_of
from maskworld.recipes.recipe import MaskWorldModelRecipe


def test_both_sides_run_and_the_threads_come_back() -> None:
    before, told = torch.get_num_threads(), Event()
    left, right = side_by_side(lambda: told.wait(10), lambda: told.set() or 7)
    assert (left, right) == (True, 7)
    assert torch.get_num_threads() == before


def test_a_failure_of_the_first_tells_the_second_to_stop() -> None:
    failed, stopped = Event(), []

    def first() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        side_by_side(first, lambda: stopped.append(failed.wait(10)), failed.set)
    assert stopped == [True]


def test_policies_are_tried_until_told_to_stop(tmp_path, monkeypatch) -> None:
    recipe, seen = load_recipe_of(MaskWorldModelRecipe, "mask-world-model-tiny"), []

    def evaluate(makers, config, world, folder, *, on_result, **_):
        for done in range(1, 6):
            seen.append((folder.name, sorted(makers)))
            on_result(SimpleNamespace(), done, 5)

    monkeypatch.setattr(robot_scores, "evaluate_manipulation", evaluate)
    policies = RobotPolicies({"blind": object, "no_world_model": object}, {})
    with pytest.raises(InterruptedError, match="are kept"):
        try_policies(policies, recipe, tmp_path, 1, should_stop=lambda: len(seen) == 7)
    assert [each for each, _ in seen] == ["clean"] * 5 + ["perturbed"] * 2
    assert seen[-1][1] == ["no_world_model"]  # the blind one sees no light
