"""Parts of a report beside its videos and numbers: what one system shows and others do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from maskworld.data.storage import write_text
from maskworld.report.charts import Number
from maskworld.report.frames import VideoRow
from maskworld.report.page import MAX_VIDEO_BYTES, render_report


@dataclass(frozen=True)
class Section:
    """A part of the page, ready as HTML."""

    title: str
    anchor: str
    html: str
    intro: str = ""

    def render(self) -> str:
        """The section's HTML."""
        intro = f"<p>{escape(self.intro)}</p>" if self.intro else ""
        return (
            f'<section id="{self.anchor}"><h2>{escape(self.title)}</h2>{intro}{self.html}</section>'
        )


def write_sectioned_report(
    path: Path | str,
    *,
    sections: Sequence[Section],
    title: str,
    summary: str,
    results: Mapping[str, Any],
    videos: Sequence[VideoRow],
    curves: Mapping[str, Sequence[tuple[Number, Number]]],
    notes: Sequence[str],
    style: str = "",
) -> None:
    """Writes `write_report`'s page with `sections` between the videos and the numbers, whole or not
    at all.

    Args:
        style: CSS of the sections.
    """
    page = render_report(
        title=title,
        results=results,
        videos=videos,
        curves=curves,
        notes=notes,
        summary=summary,
        max_video_bytes=MAX_VIDEO_BYTES,
    )
    content = "".join(section.render() for section in sections)
    first = "horizons" if '<section id="horizons">' in page else "numbers"
    before, mark, after = page.partition(f'<section id="{first}">')
    if style:
        before = before.replace("</head>", f"<style>{style}</style></head>", 1)
    write_text(path, f"{before}{content}{mark}{after}")


def read_style(name: str) -> str:
    """A style sheet that lies beside the page's."""
    return resources.files("maskworld.report").joinpath(name).read_text(encoding="utf-8")
