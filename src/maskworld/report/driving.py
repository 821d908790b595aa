"""Drawings of planners: plans in the camera view and from above, candidates, tables of scores.

Everything is inline SVG in the colours of the page; a picture is stored inside. The ego frame is x
forward, y left, in metres; from above, forward is up.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from maskworld.metrics.pdms import PDMScene
from maskworld.metrics.pdms.roads import DRIVABLE_TYPES
from maskworld.report.charts import Number, line_chart
from maskworld.report.labels import REFERENCES, words
from maskworld.report.sections import Section
from maskworld.worlds.drive.cameras import Camera
from maskworld.worlds.drive.ego import LENGTH, REAR_OVERHANG, WIDTH, to_local

SIDE, BEHIND, AHEAD = 30.0, 12.0, 40.0
"""Metres shown from above: to each side, behind, and ahead at least."""
MARGIN = 8.0
"""Metres shown beyond the last waypoint."""
RIBBON = 1.9
"""Width of a plan on the ground, metres: the ego's."""
NEAR = 0.6
"""Metres in front of the lens from which on the ground is drawn."""
LINES = {"plan": "plan", "expert": "expert", "constant velocity": "cv"}
"""Names of plans that are drawn, and their classes in the style sheet."""
TABLE_KEYS = {
    "pdms": "PDMS",
    "nc": "no collision",
    "dac": "drivable area",
    "ttc": "time to collision",
    "comfort": "comfort",
    "ep": "progress",
}
PLANNERS = {"pdm_closed": "PDM-Closed", "model": "ReWorld"}
"""Planners whose name is more than its words."""


@dataclass(frozen=True, eq=False)
class ShownPlan:
    """One moment and what is planned there."""

    title: str
    caption: str
    frame: UInt8[np.ndarray, "h w 3"]
    """What the camera sees now."""
    scene: PDMScene
    plans: Mapping[str, Float[np.ndarray, "l 3"]]
    """Names in `LINES` -> waypoints in the ego frame."""
    candidates: Float[np.ndarray, "n l 3"] = field(default_factory=lambda: np.zeros((0, 8, 3)))
    scores: Float[np.ndarray, " n"] = field(default_factory=lambda: np.zeros(0))
    """Of the candidates, 0 to 1."""
    negative: Float[np.ndarray, "l 3"] | None = None
    camera: Camera = field(default_factory=Camera)


def plan_section(title: str, anchor: str, intro: str, shown: Sequence[ShownPlan]) -> Section:
    """Moments side by side, each in the camera view and from above."""
    figures = "".join(
        f"<figure><figcaption><b>{escape(each.title)}</b><span>{escape(each.caption)}</span>"
        f'</figcaption><div class="views">{camera_view(each)}{birds_eye(each)}</div></figure>'
        for each in shown
    )
    legend = _legend(shown)
    return Section(title, anchor, f'{legend}<div class="plans">{figures}</div>', intro)


def project(
    points: Float[np.ndarray, "n 3"], camera: Camera, size: tuple[int, int]
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
    """Where points of the ego frame (x forward, y left, z up) lie in a picture.

    Args:
        size: height and width, pixels.

    Returns:
        Columns and rows, 0 at the picture's left and upper edge; and the depth along the optical
        axis, metres. Points with a depth of 0 or less are not in the picture.
    """
    height, width = size
    x = points[:, 0] - camera.forward
    y = points[:, 1] - camera.left
    z = points[:, 2] - camera.height
    forward = np.cos(camera.yaw) * x + np.sin(camera.yaw) * y
    left = -np.sin(camera.yaw) * x + np.cos(camera.yaw) * y
    c, s = np.cos(camera.pitch), np.sin(camera.pitch)
    depth = c * forward + s * z
    down = s * forward - c * z
    focal = width / 2 / np.tan(camera.fov / 2)
    safe = np.where(depth > 0, depth, 1.0)
    pixels = np.stack([width / 2 - focal * left / safe, height / 2 + focal * down / safe], axis=1)
    return pixels, depth


def camera_view(shown: ShownPlan) -> str:
    """The camera's picture with the plan as a ribbon on the road, and the other plans as lines."""
    height, width = shown.frame.shape[:2]
    size = (height, width)
    parts = [
        f'<image href="{_data_uri(shown.frame)}" width="{width}" height="{height}" '
        'preserveAspectRatio="none"/>'
    ]
    for plan, score in zip(shown.candidates, shown.scores, strict=True):
        line = _ground_line(_smooth(plan), shown.camera, size, 0.0)
        parts.append(_path(line, "candidate", f"stroke:{score_colour(float(score))}"))
    for name, plan in shown.plans.items():
        path, kind = _smooth(plan), LINES[name]
        if kind == "plan":
            sides = [
                _ground_line(path, shown.camera, size, side * RIBBON / 2) for side in (1.0, -1.0)
            ]
            outline = np.concatenate([sides[0], sides[1][::-1]])
            if len(outline) > 2:
                parts.append(f'<path class="ribbon" d="{_commands(outline)}Z"/>')
        parts.append(_path(_ground_line(path, shown.camera, size, 0.0), kind))
    if shown.negative is not None:
        line = _ground_line(_smooth(shown.negative), shown.camera, size, 0.0)
        parts.append(_path(line, "negative"))
    return _svg("camera", (0, 0, width, height), "The camera's view with the plans", parts)


def birds_eye(shown: ShownPlan) -> str:
    """Road, traffic and plans from above; thin lines ahead of a car are its next 4 seconds."""
    state = shown.scene.ego
    origin = np.array([state.x, state.y, state.heading])
    drawn = [*shown.plans.values(), *shown.candidates]
    ahead = max([AHEAD, *(float(plan[:, 0].max()) + MARGIN for plan in drawn)])
    box = (-SIDE, -ahead, 2 * SIDE, ahead + BEHIND)
    road = [p for p in shown.scene.polygons if p.type in DRIVABLE_TYPES]
    lanes = [p for p in shown.scene.polygons if p.type not in DRIVABLE_TYPES]
    parts = []
    for polygons, kind in ((road, "road"), (lanes, "lane")):
        for polygon in polygons:
            local = _to_ego(polygon.xy, origin)
            if _touches(local, ahead):
                parts.append(f'<path class="{kind}" d="{_commands(_above(local))}Z"/>')
    for agent in shown.scene.agents:
        states = agent.states[:41][np.isfinite(agent.states[:41]).all(axis=1)]
        if len(states):
            local = to_local(states[:, :3], origin)
            parts.append(_path(_above(local[:, :2]), "track"))
            parts.append(_car(local[0], agent.length, agent.width, "agent"))
    for plan, score in zip(shown.candidates, shown.scores, strict=True):
        path = _above(_smooth(plan)[:, :2])
        parts.append(_path(path, "candidate", f"stroke:{score_colour(float(score))}"))
    middle = np.array([LENGTH / 2 - REAR_OVERHANG, 0.0, 0.0])
    parts.append(_car(middle, LENGTH, WIDTH, "ego"))
    for name, plan in shown.plans.items():
        parts.append(_path(_above(_smooth(plan)[:, :2]), LINES[name]))
        if LINES[name] != "cv":
            parts += [
                f'<circle class="{LINES[name]}" cx="{-y:.2f}" cy="{-x:.2f}" r="0.55"/>'
                for x, y, _ in plan
            ]
    if shown.negative is not None:
        parts.append(_path(_above(_smooth(shown.negative)[:, :2]), "negative"))
    return _svg("above", box, "Seen from above: road, traffic and plans", parts)


def score_colour(score: float) -> str:
    """Red for 0, through amber, to green for 1; readable on light and dark."""
    return f"hsl({round(125 * min(max(score, 0.0), 1.0))} 65% 45%)"


def planner_table(
    scores: Mapping[str, Mapping[str, float]],
    displacement: Mapping[str, tuple[float, float]],
    metrics: Mapping[str, Any],
) -> str:
    """One line per planner: PDM score, its parts in per cent, displacement in metres.

    Args:
        scores: planner -> one of `TABLE_KEYS` -> mean over the scenes.
        metrics: of metrics.json, for the model's interval and its gains.
    """
    known = ("model", *(name for name in scores if name in ("pdm_closed", *REFERENCES)))
    rivals = sorted(
        (name for name in scores if name not in known), key=lambda name: -scores[name]["pdms"]
    )
    titles = (*TABLE_KEYS.values(), "ADE, m", "FDE, m", "our gain in PDMS")
    head = "".join(f'<th scope="col" class="number">{text}</th>' for text in titles)
    lines = []
    for name in ("model", *rivals, *known[1:]):
        cells = "".join(
            f'<td class="number">{100 * scores[name][key]:.1f}</td>' for key in TABLE_KEYS
        )
        ade, fde = displacement[name]
        gain = metrics.get(f"pdms_gain/{name}")
        against = "–"
        if gain is not None:
            low, high = gain["interval"]
            against = f"{100 * gain['model']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        lines.append(
            f"<tr{' class=ours' if name == 'model' else ''}>"
            f'<th scope="row">{escape(PLANNERS.get(name, words(name)))}</th>{cells}'
            f'<td class="number">{ade:.2f}</td><td class="number">{fde:.2f}</td>'
            f'<td class="number">{against.replace("-", "−")}</td></tr>'
        )
    return (
        f'<div class="scroll"><table><thead><tr><th scope="col">Planner</th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def gamma_charts(by_measure: Mapping[str, tuple[str, Mapping[float, float]]]) -> str:
    """A chart per measure over gamma.

    Args:
        by_measure: title -> unit, gamma -> value.
    """
    charts = []
    for title, (unit, values) in by_measure.items():
        chart = line_chart(
            f"{title} at each gamma",
            {"": [(gamma, round(value, 2)) for gamma, value in sorted(values.items())]},
            x_label="gamma of self-guidance (1 = unguided)",
            y_label=unit,
            whole_steps=True,
        )
        charts.append(f"<figure><figcaption><b>{escape(title)}</b></figcaption>{chart}</figure>")
    return f'<div class="charts">{"".join(charts)}</div>'


def _smooth(plan: Float[np.ndarray, "l 3"]) -> Float[np.ndarray, "m 3"]:
    """The way from the ego through the waypoints with their headings, as a dense line."""
    points = np.concatenate([np.zeros((1, 3)), plan])
    u = np.linspace(0, 1, 9)[:, None]
    pieces = []
    for a, b in pairwise(points):
        reach = np.hypot(*(b - a)[:2])
        out = reach * np.array([np.cos(a[2]), np.sin(a[2])])
        into = reach * np.array([np.cos(b[2]), np.sin(b[2])])
        xy = (  # cubic Hermite
            (2 * u**3 - 3 * u**2 + 1) * a[:2]
            + (u**3 - 2 * u**2 + u) * out
            + (3 * u**2 - 2 * u**3) * b[:2]
            + (u**3 - u**2) * into
        )
        pieces.append(np.concatenate([xy, a[2] + u * (b[2] - a[2])], axis=1))
    return np.concatenate(pieces)


def _ground_line(
    path: Float[np.ndarray, "m 3"], camera: Camera, size: tuple[int, int], aside: float
) -> Float[np.ndarray, "k 2"]:
    """A path on the ground, `aside` metres to its left, in pixels; what the camera cannot see is
    left out."""
    normal = np.stack([-np.sin(path[:, 2]), np.cos(path[:, 2])], axis=1)
    ground = np.concatenate([path[:, :2] + aside * normal, np.zeros((len(path), 1))], axis=1)
    pixels, depth = project(ground, camera, size)
    return pixels[depth > NEAR]


def _to_ego(
    points: Float[np.ndarray, "n 2"], origin: Float[np.ndarray, " 3"]
) -> Float[np.ndarray, "n 2"]:
    return to_local(np.column_stack([points, np.zeros(len(points))]), origin)[:, :2]


def _above(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """Ego frame to the picture from above: forward up, left to the left."""
    return -points[:, ::-1]


def _touches(local: Float[np.ndarray, "n 2"], ahead: float) -> bool:
    low, high = local.min(axis=0), local.max(axis=0)
    return bool(high[0] > -BEHIND and low[0] < ahead and high[1] > -SIDE and low[1] < SIDE)


def _car(pose: Float[np.ndarray, " 3"], length: float, width: float, kind: str) -> str:
    """A box around a centre."""
    x, y, heading = pose
    return (
        f'<rect class="{kind}" x="{-length / 2:.2f}" y="{-width / 2:.2f}" width="{length:.2f}" '
        f'height="{width:.2f}" rx="0.5" '
        f'transform="translate({-y:.2f} {-x:.2f}) rotate({-90 - np.degrees(heading):.1f})"/>'
    )


def _commands(points: Float[np.ndarray, "n 2"]) -> str:
    return "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in points)


def _path(points: Float[np.ndarray, "n 2"], kind: str, style: str = "") -> str:
    if len(points) < 2:
        return ""
    styled = f' style="{style}"' if style else ""
    return f'<path class="line {kind}"{styled} d="{_commands(points)}"/>'


def _svg(kind: str, box: tuple[Number, ...], description: str, parts: Sequence[str]) -> str:
    view = " ".join(f"{value:g}" for value in box)
    return (
        f'<svg class="{kind}" viewBox="{view}" role="img" aria-label="{escape(description)}">'
        f"{''.join(parts)}</svg>"
    )


def _data_uri(frame: UInt8[np.ndarray, "h w 3"]) -> str:
    import cv2

    done, encoded = cv2.imencode(".png", np.ascontiguousarray(frame[..., ::-1]))
    if not done:
        raise ValueError("Expected OpenCV to write PNG, it did not: reinstall opencv.")
    return "data:image/png;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def _legend(shown: Sequence[ShownPlan]) -> str:
    names = list(dict.fromkeys(name for each in shown for name in each.plans))
    keys = [f'<span class="key {LINES[name]}">{escape(name)}</span>' for name in names]
    if any(each.negative is not None for each in shown):
        keys.append('<span class="key negative">chosen negative</span>')
    if any(len(each.scores) for each in shown):
        stops = ", ".join(score_colour(i / 4) for i in range(5))
        keys.append(
            "<span>candidates: PDMS 0 "
            f'<i style="background:linear-gradient(90deg, {stops})"></i> 1</span>'
        )
    return f'<p class="legend">{"".join(keys)}</p>'
