"""How fast Meta-World is drawn: RGB and label maps of two cameras, against MuJoCo's defaults.

    python benchmarks/metaworld_render.py

CPU seconds of one process, software OpenGL. `default` is `mujoco.Renderer` as the model asks for it
(4x antialiasing, a 4096-pixel shadow map, reflections), twice per view: picture, then segmentation.
`switched off` is the same renderer with those three off, the usual advice. `ours` is
`MetaWorld.render`. The three take turns within every round and ratios are of the rounds' medians,
so that other work on the machine falls on all alike. A pair is one picture with its label map.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import mujoco
import numpy as np

from maskworld.worlds.metaworld import CAMERAS, MetaWorld, find_backend

DEFAULT_SAMPLES, DEFAULT_SHADOWS = 4, 4096  # of Meta-World's basic_scene.xml


def reference(model: mujoco.MjModel, size: int, *, is_tuned: bool) -> mujoco.Renderer:
    """MuJoCo's renderer, with or without what costs most."""
    model.vis.quality.offsamples = 0 if is_tuned else DEFAULT_SAMPLES
    model.vis.quality.shadowsize = 0 if is_tuned else DEFAULT_SHADOWS
    model.vis.global_.offwidth = model.vis.global_.offheight = size
    return mujoco.Renderer(model, size, size)


def draw(renderer: mujoco.Renderer, data: mujoco.MjData, *, is_tuned: bool, labels: bool) -> None:
    for camera in CAMERAS[:2]:
        for is_segmentation in (False, True)[: 1 + labels]:
            if is_segmentation:
                renderer.enable_segmentation_rendering()
            else:
                renderer.disable_segmentation_rendering()
            renderer.update_scene(data, camera)
            if is_tuned:
                renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
                renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
            renderer.render()


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def fresh(world: MetaWorld, *, labels: bool) -> None:
    """Draws again what was drawn already: `render` keeps the views of a moment."""
    world._views = None
    world.render(has_labels=labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=["drawer-open-v3", "pick-place-v3"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 96, 128])
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    if find_backend() == "egl":
        from mujoco.egl import GLContext
    else:
        from mujoco.osmesa import GLContext
    mujoco.gl_context.GLContext = GLContext
    print(f"{find_backend()}, two views; ms are CPU time per moment (both views)")
    print("task, size, what: default ms, switched off ms, ours ms, ours / default, pairs per CPU s")
    for task in arguments.tasks:
        for size in arguments.sizes:
            world = MetaWorld(task, size=(size, size))
            world.reset(seed=0)
            plain, tuned = (reference(world._model, size, is_tuned=t) for t in (False, True))
            for labels in (False, True):
                rows = []
                for _ in range(arguments.rounds):
                    world.step(world.expert_action())
                    data = world._data
                    rows.append(
                        (
                            seconds(lambda: draw(plain, data, is_tuned=False, labels=labels)),  # noqa: B023
                            seconds(lambda: draw(tuned, data, is_tuned=True, labels=labels)),  # noqa: B023
                            seconds(lambda: fresh(world, labels=labels)),  # noqa: B023
                        )
                    )
                default, off, ours = np.median(rows[1:], axis=0) * 1e3
                what = "RGB + labels" if labels else "RGB"
                print(
                    f"{task}, {size}, {what}: {default:.1f}, {off:.1f}, {ours:.1f}, "
                    f"{default / ours:.1f} times faster, {2e3 / ours:.0f}"
                )
            plain.close()
            tuned.close()
            world.close()
        step = np.median([seconds(lambda: world.step(np.zeros(4))) for _ in range(50)])  # noqa: B023
        reset = np.median([seconds(lambda: world.reset(seed=1)) for _ in range(5)])  # noqa: B023
        print(f"{task}: step {step * 1e3:.2f} ms, reset {reset * 1e3:.1f} ms, images not looked at")


if __name__ == "__main__":
    main()
