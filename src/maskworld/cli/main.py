"""`maskworld VERB ...`: finds the verb's file, reads its options, runs it.

Nothing heavy is imported before the arguments are parsed: every verb's file has its options as a
frozen dataclass, and imports torch inside the function that does the work.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import cleandoc
from typing import Any, get_type_hints

from maskworld import __version__
from maskworld.cli.errors import DEBUG_FLAG, DEBUG_VARIABLE, nearest, run_reported


@dataclass(frozen=True)
class Verb:
    """One verb: `cli/NAME.py` holds a function NAME(options), or main(argv) if `has_own_parser`."""

    name: str
    summary: str
    has_own_parser: bool = False


VERBS = (
    Verb("quickstart", "Record or read clips, train a small model, dream, score; see a report."),
    Verb("data", "Collect, import, curate, check and look at training data.", True),
    Verb("train", "Train a recipe on your videos, images, datasets or tokens."),
    Verb("generate", "Dream a video from text, an image, actions or parts of a video."),
    Verb("plan", "Plan the next 4 s of a drive from past frames, and see the dream behind it."),
    Verb("evaluate", "Score a model on held-out data, beside trivial baselines."),
    Verb("serve", "Serve a robot's policy over a websocket."),
    Verb("score", "Score plans that are already there, without a model.", True),
    Verb("recipes", "List the recipes, or read one."),
    Verb("doctor", "Check this machine: what works, what is missing, what to do."),
)

EXAMPLES = "\n\nExamples:\n"
HELP = """\
usage: maskworld VERB [options]

Masked world models: train on video, dream its future, see and score the dream.

verbs:
{verbs}

options:
  -h, --help    this text; `maskworld VERB --help` for one verb
  --version     print the version
  --debug       show the whole traceback of an error (or set MASKWORLD_DEBUG=1)

start here:
  maskworld doctor
  maskworld quickstart --out first            # minutes on a laptop, then open first/report.html
  maskworld train worlddreamer-tiny --data my_videos/ --out run
  maskworld generate run/model --image street.png --num-frames 16 --out dream.mp4
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code (see cli/errors.py)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = DEBUG_FLAG in arguments or os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")
    arguments = [argument for argument in arguments if argument != DEBUG_FLAG]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        width = max(len(verb.name) for verb in VERBS)
        verbs = "\n".join(f"  {verb.name:<{width}}  {verb.summary}" for verb in VERBS)
        print(HELP.format(verbs=verbs), end="")
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"maskworld {__version__}")
        return 0
    return run_reported(lambda: _run_verb(arguments[0], arguments[1:]), debug=debug)


def _run_verb(name: str, arguments: list[str]) -> int | None:
    found = [verb for verb in VERBS if verb.name == name]
    if not found:
        names = [verb.name for verb in VERBS]
        raise ValueError(
            f"Expected a verb of {', '.join(names)}, found {name!r}.{nearest(name, names)}"
        )
    module = importlib.import_module(f"maskworld.cli.{name}")
    if found[0].has_own_parser:
        return module.main(arguments)
    return _run_with_options(getattr(module, name), arguments)


def _run_with_options(function: Callable[[Any], int | None], arguments: list[str]) -> int | None:
    """Parses the dataclass that annotates `options`. Its docstring is the help, of which the part
    after "Examples:" is shown last, line by line."""
    import tyro

    if {"-h", "--help"} & set(arguments):
        arguments = ["--help"]  # tyro leaves out of its help what was already given
    examples = ""
    name = function.__name__
    try:
        options_type = get_type_hints(function)["options"]
        text, _, examples = cleandoc(options_type.__doc__ or "").partition(EXAMPLES)
        options = tyro.cli(
            options_type,
            prog=f"maskworld {name}",
            description=text,
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except SystemExit as stop:  # tyro has printed its help, or what was wrong with the arguments
        if stop.code == 0 and examples:  # here, because tyro would join the lines
            print("examples:\n" + examples.strip("\n"))
        return stop.code if isinstance(stop.code, int) else 1
    return function(options)
