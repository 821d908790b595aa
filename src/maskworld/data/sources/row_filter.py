"""Leaving out rows of web data by their watermark and NSFW scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

WATERMARK_COLUMNS = ("pwatermark", "p_watermark", "watermark", "watermark_score")
NSFW_COLUMNS = ("punsafe", "p_unsafe", "pnsfw", "p_nsfw", "nsfw", "nsfw_score")

Verdict = Literal["kept", "unscored", "watermark", "nsfw"]


@dataclass(frozen=True)
class RowFilter:
    """Thresholds on the probabilities that LAION gives with its rows.

    The first column found under one of the names counts, whatever its case; words, as in LAION's
    older column NSFW ("UNLIKELY"), are no probability. Rows without any score are kept and counted
    as unscored unless `keep_unscored` is False.

    Reference: WorldDreamer, section 4.1 (50 % and 45 %).
    """

    max_watermark: float | None = 0.5
    max_nsfw: float | None = 0.45
    keep_unscored: bool = True
    watermark_columns: tuple[str, ...] = WATERMARK_COLUMNS
    nsfw_columns: tuple[str, ...] = NSFW_COLUMNS

    def verdict(self, row: Mapping[str, Any]) -> Verdict:
        """ "watermark" or "nsfw" for a row to drop; "unscored" if a wanted score is missing."""
        lower = {key.lower(): value for key, value in row.items()}
        watermark = _score(lower, self.watermark_columns)
        nsfw = _score(lower, self.nsfw_columns)
        if _is_above(watermark, self.max_watermark):
            return "watermark"
        if _is_above(nsfw, self.max_nsfw):
            return "nsfw"
        wanted = ((watermark, self.max_watermark), (nsfw, self.max_nsfw))
        is_missing = any(score is None and limit is not None for score, limit in wanted)
        return "unscored" if is_missing else "kept"

    def keeps(self, verdict: Verdict) -> bool:
        return verdict == "kept" or (verdict == "unscored" and self.keep_unscored)


KEEP_ALL = RowFilter(max_watermark=None, max_nsfw=None)


def _is_above(score: float | None, limit: float | None) -> bool:
    return score is not None and limit is not None and score > limit


def _score(row: Mapping[str, Any], columns: tuple[str, ...]) -> float | None:
    for name in columns:
        value = row.get(name.lower())
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    return None
