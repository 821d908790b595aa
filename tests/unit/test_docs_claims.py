"""The documentation names only what exists: links, files, names in files, commands, options."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import re
import shlex
from functools import lru_cache
from pathlib import Path

import pytest

from maskworld.cli.main import main

ROOT = Path(__file__).parents[2]
OTHER_PAGES = ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *(ROOT / name for name in OTHER_PAGES)])
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
each_page = pytest.mark.parametrize("page", PAGES, ids=IDS)


def fences(page: Path, language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(page.read_text()) if kind == language]


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@each_page
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@each_page
def test_every_source_file_and_name_in_it_exists(page: Path) -> None:
    for file, names in re.findall(
        r"`((?:\w+/)+\w+\.py)(?:: ([\w.]+))?`", FENCE.sub("", page.read_text())
    ):
        found = next((r for r in (ROOT, ROOT / "src/maskworld") if (r / file).is_file()), None)
        assert found is not None, file
        text = (found / file).read_text()
        for name in filter(None, names.split(".")):
            assert re.search(rf"\b(def|class) {name}\b|^{name}\b", text, re.MULTILINE), (file, name)


@lru_cache(maxsize=64)
def help_of(words: tuple[str, ...]) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main([*words, "--help"]) == 0, words
    return printed.getvalue()


@each_page
def test_every_command_has_the_options_it_is_shown_with(page: Path) -> None:
    for block in fences(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if not (found := re.search(r"(?:^|/|-m )maskworld (\w.*)", line)):
                continue
            words = shlex.split(re.sub(r"[\[\]]", "", found[1]), comments=True)
            depth = 1
            if words[0] == "data":
                depth = 3 if words[1] in ("collect", "import") else 2
            text = help_of(tuple(words[:depth]))
            for word in words[depth:]:
                assert not word.startswith("--") or f"{word} " in text, (line, word)


@pytest.mark.parametrize("file", ["README.md", "docs/driving_world.md", "examples"])
def test_every_import_shown_works(file: str) -> None:
    path = ROOT / file
    codes = (
        [p.read_text() for p in sorted(path.glob("*.py"))]
        if path.is_dir()
        else fences(path, "python")
    )
    assert codes
    for code in codes:
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                assert all(hasattr(module, name.name) for name in node.names), node.module
