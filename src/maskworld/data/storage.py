"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FULL_DISK = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def atomic_path(final: Path | str, *, what: str | None = None) -> Iterator[Path]:
    """Yields a temporary path beside `final`, renamed to `final` once the block has succeeded.

    The caller creates a file or a folder at the yielded path (its suffix is that of `final`, so
    writers that look at it work). On any exception, Ctrl-C included, the temporary path is removed
    and whatever stood at `final` stays as it was. Missing parent folders are made (and stay).

    Args:
        what: what is being written, for the message of a full disk ("the checkpoint of step 100").

    Raises:
        OSError: the disk is full; says what was being written and how much is free.
        ValueError: the block ended without writing anything.
    """
    final = Path(os.path.abspath(final))
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.stem}.tmp-{secrets.token_hex(4)}{final.suffix}")
    try:
        yield temporary
        if not temporary.exists():
            raise ValueError(
                f"Expected {what or 'something'} at {temporary}, found nothing: "
                "write to the path that atomic_path yields."
            )
        _flush(temporary)
        _replace(temporary, final)
    except BaseException as error:
        remove(temporary)
        if is_full_disk(error):
            raise full_disk_error(final, what) from error
        raise


def is_full_disk(error: BaseException) -> bool:
    """Whether `error` says that no space is left (some libraries only say so in words)."""
    if isinstance(error, OSError) and error.errno in _FULL_DISK:
        return True
    return isinstance(error, Exception) and "no space left on device" in str(error).lower()


def full_disk_error(path: Path, what: str | None = None) -> OSError:
    """The error of a full disk: what was being written, where, and how much is free."""
    folder = next(p for p in (path, *path.parents) if p.is_dir())
    free = shutil.disk_usage(folder).free / 2**20
    message = (
        f"No space left while writing {what or 'a file'} to {path}: {free:.1f} MiB free on the "
        "disk of that folder. Nothing partial was kept; free some space or write elsewhere."
    )
    return OSError(errno.ENOSPC, message)


def remove(path: Path) -> None:
    """Removes a file or a whole folder; a missing one is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Writes `text` (UTF-8) atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Writes `value` as indented JSON atomically. NaN is refused: JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _flush(path: Path) -> None:
    """Asks the disk to hold `path` before its name says that it is complete."""
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _replace(temporary: Path, final: Path) -> None:
    """Renames over `final`. A folder cannot replace a folder in one step: the old one steps aside
    under a hidden name, and comes back if the rename fails."""
    if not (final.is_dir() and not final.is_symlink()):
        os.replace(temporary, final)
        return
    aside = final.with_name(f".{final.name}.old-{secrets.token_hex(4)}")
    os.rename(final, aside)
    try:
        os.rename(temporary, final)
    except BaseException:
        os.rename(aside, final)
        raise
    shutil.rmtree(aside)
