"""Marks tests that draw Meta-World: skipped without off-screen OpenGL, but never in CI."""

from __future__ import annotations

import os

import pytest

from maskworld.worlds.metaworld import MissingGL, find_backend


def _why_not() -> str:
    """Empty where the tests must run: CI sets MASKWORLD_REQUIRE_GL, and fails without OpenGL."""
    if os.environ.get("MASKWORLD_REQUIRE_GL"):
        return ""
    try:
        find_backend()
    except MissingGL as error:
        return str(error)
    return ""


needs_gl = pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "-")
