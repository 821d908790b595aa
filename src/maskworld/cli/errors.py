"""One place where errors become one clear line on stderr and an exit code.

| what happened                                        | exit code |
|------------------------------------------------------|-----------|
| all well                                             | 0         |
| the machine failed: disk, memory, a missing package  | 1         |
| the user can fix it: arguments, files, settings      | 2         |
| Ctrl-C                                               | 130       |

Anything else is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

DEBUG_FLAG = "--debug"
DEBUG_VARIABLE = "MASKWORLD_DEBUG"
FAILED, MISUSED, INTERRUPTED = 1, 2, 130


def run_reported(action: Callable[[], int | None], *, debug: bool = False) -> int:
    """Runs `action` and returns the exit code; with `debug` errors keep their traceback."""
    if debug:
        return action() or 0
    try:
        with _short_warnings():
            return action() or 0
    except KeyboardInterrupt as error:
        say_error(str(error) or "Stopped by Ctrl-C; no half-written file is left behind.")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left (`maskworld recipes | head`): nobody is there to be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except ValueError as error:
        say_error(str(error))
        return MISUSED
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        say_error(_os_message(error))
        return MISUSED
    except OSError as error:
        say_error(_os_message(error))
        return FAILED
    except FloatingPointError as error:
        say_error(str(error))
        return FAILED
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "maskworld":
            raise
        say_error(f"Expected the package {error.name}, found it not installed. {_install(error)}")
        return FAILED
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        say_error(f"Out of memory: lower --batch-size, the frame size or the length. ({error})")
        return FAILED


def say_error(message: str) -> None:
    """One line on stderr."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)


def nearest(name: str, choices: Iterable[str]) -> str:
    """ " Did you mean ...?" for a name that is none of `choices`, or nothing."""
    matches = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.4)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def _os_message(error: OSError) -> str:
    if error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    return error.strerror or str(error)


def _install(error: ModuleNotFoundError) -> str:
    extras = {"diffusers": "pretrained", "transformers": "pretrained", "wandb": "track"}
    extra = extras.get((error.name or "").split(".")[0])
    what = f"'maskworld[{extra}]'" if extra else error.name
    return f"Install it: pip install {what} (`maskworld doctor` lists all)."


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate" in text


@contextmanager
def _short_warnings() -> Iterator[None]:
    """Warnings as one line, without the line of code that raised them."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before
