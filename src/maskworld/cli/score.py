"""`maskworld score ...`: score what is already there, plans or videos, without a model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any

import tyro

from maskworld.cli.errors import nearest

EXAMPLES = "\n\nExamples:\n"
HELP = """\
usage: maskworld score WHAT [options]

Score what is already there: no model is loaded and nothing is trained.

what:
{commands}

`maskworld score WHAT --help` for one of them.

examples:
  maskworld score pdms scene.json --out result.json
  maskworld score pdms scenes/*.json
"""


@dataclass(frozen=True)
class ScorePdms:
    """Score the plans of scenes by NAVSIM v1's PDM score: collisions, drivable area, progress, time
    to collision, comfort (docs/pdms.md describes the files). One scene: a table of its plans.
    Several: means over scenes, plans of one name together.

    Examples:
      maskworld score pdms scene.json
      maskworld score pdms scene.json --out result.json
      maskworld score pdms scenes/*.json --out results.json
    """

    scenes: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="SCENE.json")]
    """Scene files with plans."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="RESULT.json")] = None
    """Where to write all results, simulated states included; an earlier file is replaced."""
    pool: bool = False
    """Compare progress among all plans of a scene and the reference, as hard negatives are mined,
    instead of with the reference alone."""
    skip_bad: bool = False
    """Leave out scenes that cannot be scored, and list them, instead of stopping."""


@dataclass(frozen=True)
class Command:
    """A word of the command line, and what it means."""

    word: str
    options: type
    summary: str


COMMANDS = (Command("pdms", ScorePdms, "plans, by NAVSIM v1's PDM score"),)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one `maskworld score` command line; returns its exit code.

    Raises:
        ValueError: an unknown word, or what the user's files make impossible.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        width = max(len(command.word) for command in COMMANDS)
        lines = "\n".join(f"  {c.word:<{width}}  {c.summary}" for c in COMMANDS)
        print(HELP.format(commands=lines), end="")
        return 0
    words = [command.word for command in COMMANDS]
    if arguments[0] not in words:
        raise ValueError(
            f"Expected one of {', '.join(words)}, found {arguments[0]!r}."
            f"{nearest(arguments[0], words)} See `maskworld score --help`."
        )
    command = COMMANDS[words.index(arguments[0])]
    text, _, examples = cleandoc(command.options.__doc__ or "").partition(EXAMPLES)
    try:
        options: Any = tyro.cli(
            command.options,
            prog=f"maskworld score {command.word}",
            description=text,
            args=arguments[1:],
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except SystemExit as stop:  # tyro has printed its help, or what was wrong
        if stop.code == 0 and examples:
            print(f"examples:\n{examples.rstrip()}")
        return stop.code if isinstance(stop.code, int) else 1
    from maskworld.cli.score_commands import run_command

    return run_command(options)
