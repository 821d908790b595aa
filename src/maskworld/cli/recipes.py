"""`maskworld recipes [NAME]`: what can be trained."""

from __future__ import annotations

import ast
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro


@dataclass(frozen=True)
class RecipesOptions:
    """List the recipes, or read one: what it trains, on what hardware, with which numbers.

    Examples:
      maskworld recipes
      maskworld recipes worlddreamer-tiny
    """

    name: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[NAME]")] = None
    """The recipe to read; without it all are listed."""


def recipes(options: RecipesOptions) -> None:
    """Prints the list, or one recipe."""
    if options.name is None:
        _print_list()
    else:
        _print_recipe(options.name)


def _print_list() -> None:
    from rich.console import Console
    from rich.table import Table

    from maskworld.recipes import recipe_names

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("recipe", "hardware", "summary"):
        table.add_column(title, overflow="fold")
    for name in recipe_names():
        fields = _literal_fields(_file_of(name))
        table.add_row(name, fields.get("hardware", ""), fields.get("summary", ""))
    # Piped into a file, lines stay whole.
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)
    print(
        "\nRead one: maskworld recipes NAME. Train one: maskworld train NAME --data PATH --out DIR"
    )


def _print_recipe(name: str) -> None:
    from maskworld.recipes import load_recipe

    recipe = load_recipe(name)
    print(ast.get_docstring(ast.parse(_file_of(name).read_text(encoding="utf-8"))))
    print(f"\nfile: {_file_of(name)}\n")
    print("\n".join(readable(recipe)))


def readable(value: Any, name: str = "", indent: int = 0) -> list[str]:
    """A config as indented lines, nested dataclasses under their name."""
    pad = "  " * indent
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        title = f"{pad}{name}: {type(value).__name__}" if name else f"{pad}{type(value).__name__}"
        lines = [title]
        for field in dataclasses.fields(value):
            lines += readable(getattr(value, field.name), field.name, indent + 1)
        return lines
    if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        lines = [f"{pad}{name}:"]
        for item in value:
            lines += readable(item, "-", indent + 1)
        return lines
    return [f"{pad}{name}: {value!r}"]


def _file_of(name: str) -> Path:
    import maskworld.recipes

    return Path(maskworld.recipes.__path__[0]) / f"{name.replace('-', '_')}.py"


def _literal_fields(path: Path) -> dict[str, str]:
    """The texts given to `RECIPE = Recipe(...)`, read without importing (which takes torch)."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            values = {k.arg: k.value for k in node.value.keywords if k.arg}
            return {
                key: value.value
                for key, value in values.items()
                if isinstance(value, ast.Constant) and isinstance(value.value, str)
            }
    return {}
