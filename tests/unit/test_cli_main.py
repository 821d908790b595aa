"""The command line before any work is done: help, verbs, recipes, doctor, exit codes."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from metaworld_gl import needs_gl

from maskworld.cli import doctor as doctor_file
from maskworld.cli.errors import nearest, run_reported
from maskworld.cli.main import VERBS, main
from maskworld.recipes import recipe_names
from maskworld.worlds.metaworld import software_gl

HEAVY = ("torch", "numpy", "av", "cv2", "matplotlib")


def test_help_of_every_verb_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from maskworld.cli.main import VERBS, main\n"
        "import maskworld\n"
        "lines = [[], ['--help'], ['--version'], ['recipes']]\n"
        "lines += [[v.name, '--help'] for v in VERBS if v.name in sys.argv[1:]]\n"
        "for line in lines: assert main(line) == 0, line\n"
        f"found = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "assert not found, found\n"
    )
    names = [verb.name for verb in VERBS if _is_there(verb.name)]
    done = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for verb in VERBS:
        assert verb.summary in done.stdout


def _is_there(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(f"maskworld.cli.{name}") is not None


def test_no_arguments_print_help_and_version_is_that_of_the_package(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import maskworld

    assert main([]) == 0
    assert "usage: maskworld VERB" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert maskworld.__version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["recipes", "worlddreamer-tinny"], "Did you mean 'worlddreamer-tiny'?"),
        (["recipes", "--nme"], "--nme"),
        (["train"], "recipe"),
    ],
)
def test_a_wrong_word_exits_with_2_and_names_the_nearest(
    line: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert "Traceback" not in printed.err
    assert not printed.out


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("Expected a,\n  found b."), 2, "error: Expected a, found b."),
        (OSError(errno.ENOSPC, "No space left", "x.mp4"), 1, "error: No space left: x.mp4"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 2, "Permission denied: x"),
        (KeyboardInterrupt(), 130, "Ctrl-C"),
        (FloatingPointError("Expected a finite loss"), 1, "finite loss"),
        (ModuleNotFoundError("No module", name="transformers"), 1, "maskworld[pretrained]"),
        (RuntimeError("CUDA out of memory. Tried"), 1, "--batch-size"),
    ],
)
def test_each_error_is_one_line_with_its_exit_code(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    assert run_reported(fail) == code
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1
    with pytest.raises(type(error)):
        run_reported(fail, debug=True)


def test_an_error_of_ours_keeps_its_traceback() -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run_reported(fail)


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(ValueError, match="recipe"):
        main(["recipes", "nothing", "--debug"])


def test_nearest_is_silent_about_what_resembles_nothing() -> None:
    assert nearest("xyzzy", ["train", "generate"]) == ""


def test_recipes_lists_all_and_reads_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    for name in recipe_names():
        assert name in listed
    assert main(["recipes", "worlddreamer-tiny"]) == 0
    shown = capsys.readouterr().out
    assert "What differs from the paper" in shown
    assert "learning_rate: 0.003" in shown


def test_doctor_finds_a_healthy_machine_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "one training step" in shown
    assert "problem" not in shown


def test_doctor_finds_a_folder_that_cannot_be_written() -> None:
    (finding,) = doctor_file.check_folder(Path("/proc/runs"))
    assert str(finding).startswith("problem  cannot write to /proc")


def test_doctor_says_what_the_robot_world_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_file, "ROBOT", ("numpy", "no_such_package"))

    def nothing() -> str:
        raise software_gl.MissingGL(f"found none: {software_gl.INSTALL}.")

    monkeypatch.setattr(software_gl, "find_backend", nothing)
    packages, drawing = map(str, doctor_file.check_robot_world())
    assert "no_such_package not installed -> pip install 'maskworld[robot]'" in packages
    assert "cannot be drawn: found none -> install Mesa's software renderer: `apt-get" in drawing
    assert packages.startswith("missing")  # not a problem: the rest can be used


@needs_gl
def test_doctor_draws_where_there_is_opengl() -> None:
    _, drawing = map(str, doctor_file.check_robot_world())
    assert drawing.startswith("ok")
    assert "OpenGL through" in drawing


def test_doctor_names_a_missing_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor_file, "REQUIRED", ("numpy", "no_such_package"))
    assert main(["doctor"]) == 1
    assert "problem  packages no_such_package not installed" in capsys.readouterr().out
