"""Parts of the MaskGWM quickstart's report beside its dreams and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from maskworld.evaluation.long_horizon import VERDICT_STATISTICS, LongHorizon
from maskworld.evaluation.results import Results
from maskworld.report.labels import words
from maskworld.report.sections import Section


def long_section(found: LongHorizon, results: Results) -> Section:
    """What became of the long dreams and of the trivial futures."""
    told = results.protocol["long_horizon"]
    ratios, tolerance = found.ratios, told["tolerance"]
    rows = []
    for who, verdict in found.verdicts.items():
        numbers = [f"{ratios[name][who]:.2f}" for name in ratios]
        rows.append([words(who), *numbers, str(verdict)])
    low, high = (found.intervals[VERDICT_STATISTICS[0]][i] for i in (0, 1))
    lasting = told["frames"] - told["given_frames"]
    intro = (
        f"Dreamt over real, in the last {told['judged_last_frames']} of {lasting} dreamt frames: "
        "mean absolute difference between frames, luminance deviation, sharpness. A dream lives "
        f"where the first two are within {tolerance:.0%} of 1; {told['drives_within_tolerance']} "
        f"of {len(found.by_drive['frame_change'])} single drives do. 95 % interval of the dream's "
        f"first: {low:.2f} to {high:.2f}."
    )
    if told["anchored_channels"]:
        intro += (
            f" Each round gives the first {told['anchored_channels']} channels of its latents mean "
            "and deviation of the first frame: luminance deviation is held up from outside."
        )
    head = ["", *(words(name) for name in ratios), "verdict"]
    return Section("Long dreams: alive?", "long", table(head, rows), intro)


def rig_section(results: Results) -> Section:
    """Whether the cameras of a dream show one world."""
    metrics = results.to_dict()["metrics"]
    error, relative = metrics["overlap/error"], metrics["overlap/relative_error"]
    rows = [
        ["dreams", f"{error['model']:.2f}", f"{relative['model']:.3f}"],
        ["real clips", f"{error['real']:.2f}", f"{relative['real']:.3f}"],
        ["the other camera's last given frame", f"{error['stale']:.2f}", ""],
        ["the other camera of another world's dream", f"{error['shuffled']:.2f}", "1"],
    ]
    share = results.protocol["overlap"]["share_of_pixels"][0]
    intro = (
        f"The cameras share {share:.0%} of their pictures. There they are compared pixel by pixel "
        "(grey levels): below the horizon on the road plane, above it far away. What stands near "
        "the car is misplaced by this in real clips too."
    )
    head = ["", "error", "over that of shuffled dreams"]
    return Section("Two cameras, one world?", "cameras", table(head, rows), intro)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column names the rows; the first row is ours."""
    top = "".join(f'<th scope="col" class="number">{escape(cell)}</th>' for cell in head[1:])
    body = "".join(
        f'<tr{" class=ours" if i == 0 else ""}><th scope="row">{escape(row[0])}</th>'
        + "".join(f'<td class="number">{escape(cell)}</td>' for cell in row[1:])
        + "</tr>"
        for i, row in enumerate(rows)
    )
    return (
        f'<div class="scroll"><table class="metrics"><thead><tr><th scope="col">{escape(head[0])}'
        f"</th>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )
