"""The report of a run as one HTML file."""

from maskworld.report.frames import VideoRow
from maskworld.report.page import write_report

__all__ = ["VideoRow", "write_report"]
