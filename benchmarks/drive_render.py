"""How fast the driving world is: frames, worlds and clips per CPU second, beside naive drawing.

    python benchmarks/drive_render.py

CPU seconds of one process, best of several rounds (other work on the machine only slows it).
The naive renderer places objects one by one and projects, lights and draws their polygons one by
one in numpy, over the same ground and sky at the same supersampling: what a first version looks
like, not the best a loop could do. The ratio comes from one run on one scene.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import cv2
import numpy as np

from maskworld.preparation.collect import collect_clips
from maskworld.worlds.drive import SCENARIOS, Scene, record_scene
from maskworld.worlds.drive.cameras import camera_rig, rays
from maskworld.worlds.drive.classes import BUILDING, VEGETATION, VEHICLE
from maskworld.worlds.drive.render import _draw_ground, _draw_sky
from maskworld.worlds.drive.shading import Viewpoint


def best_seconds(work: Callable[[], object], rounds: int) -> float:
    """The least CPU time of `work` over `rounds`."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def draw_naively(scene: Scene, step: int, size: tuple[int, int]) -> np.ndarray:
    """One object after the other: placed, projected and lit by itself, behind and far left out."""
    stage, camera, pose = scene.stage, camera_rig(1)[0], scene.poses[step]
    beam, look = rays(camera, size), scene.appearance("summer")
    picture = np.empty((*beam.size, 3), np.uint8)
    labels = np.empty(size, np.uint8)
    strip = stage._look(look.style, look.seed)[1]
    _draw_sky(picture, labels, strip, beam, float(pose[2]))
    _draw_ground(picture, labels, stage.surroundings.raster, look, camera, size, pose)
    view = Viewpoint.of(camera, pose, beam)
    objects: list[tuple[float, np.ndarray, np.ndarray, int]] = []

    def add(corners: np.ndarray, tint: np.ndarray, label: int) -> None:
        middle = corners.mean(axis=(0, 1))
        distance = float(np.linalg.norm(middle - view.position))
        if view.to_camera(middle)[2] > 0 and distance < 110:
            objects.append((distance, corners, tint, label))

    for quads, places, label in (
        (stage.fleet.quads, scene.agents[step][:, :3], VEHICLE),
        (stage.surroundings.buildings.quads, None, BUILDING),
    ):
        for owner in range(int(quads.owner.max()) + 1):
            rows = quads.owner == owner
            corners = quads.corners[rows]
            if places is not None:
                x, y, heading = places[owner]
                c, s = np.cos(heading), np.sin(heading)
                turn = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
                corners = corners @ turn + (x, y, 0.0)
            add(corners, quads.tint[rows], label)
    trees = stage.surroundings.trees
    for base, height, radius, hue in zip(trees.base, trees.height, trees.radius, trees.hue):
        side = np.array([-np.sin(view.heading), np.cos(view.heading)]) * radius
        parts = []
        for low, high in ((0.0, 0.4), (0.3, 1.0), (0.5, 0.9)):
            foot, top = low * height, high * height
            left, right = base - side, base + side
            parts.append([(*left, foot), (*right, foot), (*right, top), (*left, top)])
        add(np.array(parts), np.tile(look.foliage[hue], (3, 1)), VEGETATION)
    for distance, corners, tint, label in sorted(objects, key=lambda item: -item[0]):
        clear = np.exp(-look.fog_density * distance)
        for quad, colour in zip(corners, tint):
            seen = view.to_camera(quad)
            if seen[:, 2].min() < 0.3:
                continue
            normal = np.cross(quad[1] - quad[0], quad[3] - quad[0])
            if label != VEGETATION and normal @ (view.position - quad[0]) <= 0:
                continue
            shade = colour * look.ground_light * clear + look.fog_colour * (1 - clear)
            pixels = np.round(np.clip(view.to_samples(seen), -1e4, 1e4)).astype(np.int32)
            cv2.fillConvexPoly(picture, pixels, shade.tolist())
            cv2.fillConvexPoly(labels, pixels // 2, label)
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--frames", type=int, default=20)
    arguments = parser.parse_args()
    rounds, frames = arguments.rounds, arguments.frames
    cv2.setNumThreads(1)
    scenes = [record_scene(scenario, 0, num_steps=40) for scenario in SCENARIOS]
    for size in ((64, 96), (96, 160), (192, 320)):
        seconds = []
        for scene in scenes:

            def film(scene: Scene = scene, size: tuple[int, int] = size) -> None:
                for step in range(frames):
                    scene.render(scene.poses[step], step, size=size)

            film()
            seconds.append(best_seconds(film, rounds) / frames)
        naive = best_seconds(lambda: draw_naively(scenes[2], 10, size), 3)  # noqa: B023
        print(
            f"{size[1]}x{size[0]}: {1 / np.mean(seconds):.0f} frames per CPU second, RGB + labels "
            f"(worst scenario {1 / np.max(seconds):.0f}); naive {1 / naive:.0f} on the "
            f"intersection: {naive / seconds[2]:.1f} times slower"
        )
    for scenario in SCENARIOS:
        cost = best_seconds(lambda: record_scene(scenario, 1, num_steps=120), 3)  # noqa: B023
        print(f"{scenario}: a world with 12 s of traffic in {cost:.2f} CPU seconds")
    cost = best_seconds(lambda: collect_clips(range(5), 15), 1)
    print(f"96x64 clips of 9 frames, 15 per world: {75 / cost:.1f} per CPU second, worlds included")


if __name__ == "__main__":
    main()
