"""Claims about Meta-World: labels, seeds, what a policy may see, drawing, perturbations."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import mujoco
import numpy as np
import pytest
from metaworld_gl import needs_gl

from maskworld.types import Observation
from maskworld.worlds.metaworld import (
    CAMERAS,
    CLASSES,
    PERTURBATIONS,
    TASKS,
    MetaWorld,
    MissingGL,
    SimulatorError,
    find_backend,
    parse_perturbation,
    rendering,
    software_gl,
)
from maskworld.worlds.metaworld.labels import body_class, geom_classes, site_classes
from maskworld.worlds.metaworld.rendering import RENDERERS, visible_geoms

TASK = "drawer-open-v3"
SIZE = (48, 64)
ACTIONS = np.random.default_rng(0).uniform(-1, 1, (12, 4)).astype(np.float32)
SCENE = """
<mujoco><worldbody>
  <geom name="floor" type="plane" size="1 1 1"/>
  <site name="goal" pos="0 0 1"/>
  <body name="base"><geom name="arm" size=".1"/>
    <body name="right_hand"><geom name="wrist" size=".1"/>
      <body name="hand"><joint/><geom name="palm" size=".1"/><site name="tip"/>
        <body name="leftpad"><geom name="pad" size=".1"/></body></body></body></body>
  <body name="tablelink"><geom name="top" size=".1"/></body>
  <body name="RetainingWall"><geom name="rim" size=".1"/></body>
  <body name="mocap" mocap="true"><geom name="ghost" size=".1"/></body>
  <body name="box"><geom name="case" size=".1"/><site name="hole"/>
    <body name="handle_link"><joint/><geom name="lever" size=".1"/><site name="dot"/>
      <body name="knob"><geom name="knob" size=".1"/></body></body></body>
</worldbody></mujoco>
"""


@pytest.fixture(scope="module")
def world() -> Iterator[MetaWorld]:
    made = MetaWorld(TASK, size=SIZE, ends_on_success=False)
    yield made
    made.close()


def played(world: MetaWorld, seed: int, perturbations: tuple[str, ...] = ()) -> np.ndarray:
    """Physics after each of the same actions."""
    world.reset(
        seed=seed, options={"perturbations": [parse_perturbation(p) for p in perturbations]}
    )
    states = []
    for action in ACTIONS:
        world.step(action)
        states.append(world.physics_state())
    return np.stack(states)


def test_classes_come_from_exact_body_names_and_joints() -> None:
    model = mujoco.MjModel.from_xml_string(SCENE)
    found = {model.geom(i).name: CLASSES[c] for i, c in enumerate(geom_classes(model))}
    assert found == {
        "floor": "background",
        "arm": "robot",
        "wrist": "robot",  # the body "right_hand" belongs to the arm
        "palm": "gripper",
        "pad": "gripper",
        "top": "table",
        "rim": "table",
        "ghost": "background",
        "case": "fixture",
        "lever": "object",  # "handle_link" is no hand
        "knob": "object",
    }
    marks = {model.site(i).name: CLASSES[c] for i, c in enumerate(site_classes(model))}
    assert marks == {"goal": "goal", "tip": "gripper", "hole": "goal", "dot": "object"}


def test_every_task_of_metaworld_has_its_own_sentence() -> None:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    assert set(TASKS) == set(ALL_V3_ENVIRONMENTS)
    assert len(set(TASKS.values())) == 50
    with pytest.raises(ValueError, match="drawer-open-v3"):
        MetaWorld("draw-open")


def test_a_seed_fixes_the_state_whatever_was_played_before(world: MetaWorld) -> None:
    first = played(world, 5)
    played(world, 6)
    again, other = played(world, 5), played(MetaWorld(TASK), 5)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, other)


def test_training_and_evaluation_share_no_state() -> None:
    worlds = {split: MetaWorld(TASK, split=split) for split in ("train", "eval")}
    places = {
        split: {tuple(_drawer(world, seed)) for seed in range(20)}
        for split, world in worlds.items()
    }
    assert len(places["train"]) == len(places["eval"]) == 20
    assert not places["train"] & places["eval"]


def _drawer(world: MetaWorld, seed: int) -> np.ndarray:
    world.reset(seed=seed)
    return world._model.body("drawer").pos.copy()


def test_a_policy_sees_hand_and_gripper_and_nothing_of_the_object(world: MetaWorld) -> None:
    states = []
    for seed in (0, 1):  # other drawers, the same start of the hand
        observation, info = world.reset(seed=seed)
        public = {name for name in vars(observation) if not name.startswith("_")}
        assert isinstance(observation, Observation)
        assert public == {"state", "instruction"}
        assert set(info) == {"success", "has_succeeded", "num_steps"}
        hand = world._data.body("hand").xpos
        np.testing.assert_allclose(observation.state[:3], hand, atol=1e-6)
        assert observation.state.shape == (4,)
        states.append(observation.state.numpy())
    assert np.abs(_drawer(world, 0) - _drawer(world, 1)).max() > 1e-3
    np.testing.assert_array_equal(*states)


def test_an_episode_ends_at_its_limit_and_at_success() -> None:
    limited = MetaWorld(TASK, max_steps=3)
    limited.reset(seed=0)
    ends = [limited.step(ACTIONS[0])[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]
    with pytest.raises(ValueError, match="reset"):
        limited.step(ACTIONS[0])


@pytest.mark.parametrize("task", ["button-press-topdown-v3", TASK, "window-open-v3"])
def test_the_scripted_expert_succeeds(task: str) -> None:
    world = MetaWorld(task, max_steps=150)
    world.reset(seed=3)
    is_over = False
    while not is_over:
        _, _, terminated, truncated, info = world.step(world.expert_action())
        is_over = terminated or truncated
    assert info["success"]
    assert terminated


@pytest.mark.slow  # 50 models are compiled
def test_all_tasks_start_from_their_seed_and_run() -> None:
    for task in TASKS:
        world = MetaWorld(task)
        runs = []
        for _ in range(2):
            world.reset(seed=1)
            for _ in range(4):
                world.step(world.expert_action())
            runs.append(world.physics_state())
            played(world, 2)
        np.testing.assert_array_equal(*runs, err_msg=task)


def test_bad_actions_and_unstable_physics_are_named(world: MetaWorld) -> None:
    world.reset(seed=0)
    with pytest.raises(ValueError, match="four finite numbers"):
        world.step(np.array([0, 0, np.nan, 0]))
    world._data.qvel[:] = 1e12
    with pytest.raises(SimulatorError, match="seed 0"):
        world.step(ACTIONS[0])


def test_missing_gl_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software_gl, "_has_egl", lambda: False)
    monkeypatch.setattr(software_gl, "_has_osmesa", lambda: False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    find = find_backend.__wrapped__
    with pytest.raises(MissingGL, match="apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri"):
        find()
    monkeypatch.setattr(software_gl, "_has_osmesa", lambda: True)
    assert find() == "osmesa"
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    with pytest.raises(ValueError, match="off-screen"):
        find()


@needs_gl
def test_images_are_drawn_only_when_looked_at(
    world: MetaWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    draw = rendering.SceneRenderer.draw

    def counted(self: object, data: object, camera: str, **options: object) -> object:
        drawn.append(camera)
        return draw(self, data, camera, **options)

    monkeypatch.setattr(rendering.SceneRenderer, "draw", counted)
    past, _ = world.reset(seed=0)
    now = world.step(ACTIONS[0])[0]
    assert drawn == []
    assert now.frames.shape == (2, 3, *SIZE)
    assert now.frames is now.frames
    assert drawn == list(CAMERAS[:2])
    with pytest.raises(ValueError, match="before the next step"):
        _ = past.frames


@needs_gl
def test_pictures_and_labels_are_those_of_mujocos_own_renderer(
    world: MetaWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference draws everything, in two scenes; ours leaves out what a camera cannot see."""
    if find_backend() == "egl":
        from mujoco.egl import GLContext
    else:
        from mujoco.osmesa import GLContext
    monkeypatch.setattr(mujoco.gl_context, "GLContext", GLContext)
    played(world, 2)
    frames, labels = world.render()
    model, data = world._model, world._data
    hidden = [
        int((~visible_geoms(model, data, model.camera(c).id, SIZE)).sum()) for c in world.cameras
    ]
    assert max(hidden) > 0
    RENDERERS.close(model)
    classes = {
        mujoco.mjtObj.mjOBJ_GEOM: geom_classes(model),
        mujoco.mjtObj.mjOBJ_SITE: site_classes(model),
    }
    with mujoco.Renderer(model, *SIZE) as reference:
        for view, camera in enumerate(world.cameras):
            reference.disable_segmentation_rendering()
            reference.update_scene(data, camera)
            for flag in ("SHADOW", "REFLECTION"):
                reference.scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 0
            picture = reference.render()
            reference.enable_segmentation_rendering()
            codes = reference.render()
            if camera == "corner4":  # mounted head down
                picture, codes = picture[::-1, ::-1], codes[::-1, ::-1]
            expected = np.zeros(SIZE, np.uint8)
            for kind, values in classes.items():
                expected[codes[..., 1] == kind] = values[codes[codes[..., 1] == kind, 0]]
            assert labels is not None
            np.testing.assert_array_equal(labels[view], expected)
            np.testing.assert_array_equal(frames[view], picture.transpose(2, 0, 1))


@needs_gl
@pytest.mark.parametrize("name", [kind.name for kind in PERTURBATIONS])
def test_a_perturbation_changes_the_look_and_not_the_physics(world: MetaWorld, name: str) -> None:
    clean_states = played(world, 4)
    clean = world.render()
    np.testing.assert_array_equal(played(world, 4, (name,)), clean_states)
    changed = world.render()
    assert np.abs(changed.frames.astype(int) - clean.frames).mean() > 0.5
    assert changed.labels is not None
    differs = changed.labels != clean.labels
    if name == "distractors":  # they are background, and hide what is behind
        assert differs.any()
        assert (changed.labels[differs] == CLASSES.index("background")).all()
    elif name != "camera-shift":
        assert not differs.any()
    played(world, 4, (name,))
    np.testing.assert_array_equal(world.render().frames, changed.frames)
    for harmless in ((), (f"{name}=0",)):
        played(world, 4, harmless)
        np.testing.assert_array_equal(world.render().frames, clean.frames)


@needs_gl
def test_all_cameras_are_shifted_from_the_first_frame_on(world: MetaWorld) -> None:
    world.reset(seed=4)
    clean = world.render().frames.astype(int)
    world.reset(seed=4, options={"perturbations": [parse_perturbation("camera-shift")]})
    changed = np.abs(world.render().frames - clean).mean(axis=(1, 2, 3))
    assert changed.min() > 1


@needs_gl
def test_perturbations_draw_the_same_alone_and_together(world: MetaWorld) -> None:
    played(world, 4, ("distractors",))
    alone = list(world._look.ornaments)
    played(world, 4, ("light=0.5", "distractors", "camera-shift"))
    assert world._look.ornaments == alone
    played(world, 5, ("distractors",))
    assert world._look.ornaments != alone


def test_unknown_perturbations_and_levels_are_named() -> None:
    assert parse_perturbation("table-texture=0.5").level == 0.5
    with pytest.raises(ValueError, match="Did you mean 'light'"):
        parse_perturbation("lights")
    for bad in ("light=-1", "light=much", "light=nan"):
        with pytest.raises(ValueError, match="level"):
            parse_perturbation(bad)


OSMESA = """
import numpy as np
from maskworld.worlds.metaworld import MetaWorld
worlds = [MetaWorld(t, size=(48, 64)) for t in ("drawer-open-v3", "window-open-v3")]
maps = []
for _ in range(2):
    for world in worlds:  # takes turns with one context
        world.reset(seed=0)
        maps.append(world.render().labels)
worlds[0].close()
maps.append(worlds[1].render().labels)
np.testing.assert_array_equal(maps[0], maps[2])
np.testing.assert_array_equal(maps[1], maps[3])
np.testing.assert_array_equal(maps[1], maps[4])
print([int((m == 3).sum()) for m in maps[:2]])
"""


@pytest.mark.slow  # starts a process: PyOpenGL binds one backend per process
@needs_gl
@pytest.mark.skipif(not software_gl._has_osmesa(), reason="libosmesa6 is not installed")
def test_osmesa_draws_the_same_labels_as_egl_from_several_worlds() -> None:
    printed = subprocess.run(
        [sys.executable, "-c", OSMESA],
        env=os.environ | {"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "osmesa"},
        capture_output=True,
        text=True,
        check=True,
    )
    counts = []
    for task in ("drawer-open-v3", "window-open-v3"):
        world = MetaWorld(task, size=SIZE)
        world.reset(seed=0)
        labels = world.render().labels
        world.close()
        assert labels is not None
        counts.append(int((labels == CLASSES.index("object")).sum()))
    assert printed.stdout.strip() == str(counts)
    assert body_class(world._model, 0) == 0
